"""The paths of the server, each with what answers it. FastAPI reads and describes; all else stands in our files."""

from __future__ import annotations

import functools
import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..errors import InvalidRequestError, LladaRtError
from ..runtime.runner import build_info
from . import chat, completions, infill, probes, responses, texts
from .bodies import StrictRoute, error_of
from .errors import STATUSES, MethodError, NotFoundError, body_of, headers_of, internal, status_of
from .gate import PROBES, Gate
from .keys import Keys
from .protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EditRequest,
    ErrorAnswer,
    GeneratedAnswer,
    InfillRequest,
    ModelFacts,
    ModelsAnswer,
    ResponsesAnswer,
    ResponsesRequest,
    ScoreAnswer,
    ScoreRequest,
    TemplateAnswer,
    TemplateRequest,
    TextAnswer,
    TokenizeRequest,
    TokensAnswer,
)
from .service import Service
from .sse import ClientGoneError

PAGE = Path(__file__).parent / "page"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FAULTS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorAnswer, "description": "An error, in OpenAI's form."} for status in STATUSES},
    # FastAPI would describe its own form of a fault in the body, which is never sent.
    422: {"model": ErrorAnswer, "description": "Never sent: what a body gets wrong is 400."},
}
_ANSWERS: dict[str, Any] = {"response_model": None, "response_class": JSONResponse}


def make_app(service: Service, keys: Keys) -> ASGIApp:
    """The application behind its gate."""
    settings = service.settings
    app = FastAPI(
        title="llada-rt",
        version=__version__,
        description="Masked diffusion language models behind OpenAI's words, and what only diffusion has.",
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url=None,
        redoc_url=None,
        root_path_in_servers=False,
        redirect_slashes=False,
    )
    app.router.route_class = StrictRoute
    _add_faults(app, service)
    _add_probes(app, service)
    _add_openai(app, service)
    _add_more(app, service)
    open_paths = {*PROBES, *(["/metrics"] if settings.metrics_open else [])}
    if settings.page:
        open_paths |= _add_page(app)
    paths = {str(route.path) for route in app.routes if hasattr(route, "path")}
    gate: ASGIApp = Gate(app, service, keys, paths=paths, open_paths=open_paths)
    if settings.cors_origins:
        gate = CORSMiddleware(
            gate,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
            expose_headers=["x-request-id", "x-ignored-params", "retry-after"],
        )
    return gate


class _Silence(Response):
    """Nobody is there to be answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


def _add_faults(app: FastAPI, service: Service) -> None:
    @app.exception_handler(LladaRtError)
    async def refuse(request: Request, error: LladaRtError) -> Response:
        service.metrics.tell_rejected(error.code)
        return JSONResponse(body_of(error), status_of(error), headers_of(error))

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> Response:
        return await refuse(request, error_of(error))

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            answered = await refuse(request, MethodError("the path does not take this method"))
            answered.headers["allow"] = (error.headers or {}).get("Allow", "")
            return answered
        if error.status_code == 404:
            return await refuse(request, NotFoundError("there is nothing at this path"))
        return await refuse(request, InvalidRequestError("the request cannot be read"))

    @app.exception_handler(ClientGoneError)
    async def leave(request: Request, error: ClientGoneError) -> Response:
        return _Silence()

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return await refuse(request, internal(error))


def _add_probes(app: FastAPI, service: Service) -> None:
    facts = {"version": __version__, "build": build_info()}

    @app.get("/health", responses=_FAULTS, summary="Is it alive?")
    async def health() -> Response:
        return probes.health(service)

    @app.get("/ready", responses=_FAULTS, summary="Are requests welcome?")
    async def ready() -> Response:
        return probes.ready(service)

    @app.get("/health/progress", responses=_FAULTS, summary="Are steps made while there is work?")
    async def progress() -> Response:
        return probes.progress(service)

    @app.get("/version", responses=_FAULTS)
    async def version() -> Response:
        return probes.version(service, facts)

    @app.get("/metrics", responses=_FAULTS, summary="For Prometheus.")
    async def metrics() -> Response:
        return probes.metrics(service)


def _add_openai(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", responses=_FAULTS | {200: {"model": ModelsAnswer}}, **_ANSWERS)
    async def list_models() -> Response:
        return probes.models(service)

    @app.get("/v1/models/{name:path}", responses=_FAULTS | {200: {"model": ModelFacts}}, **_ANSWERS)
    async def one_model(name: str) -> Response:
        return probes.model(service, name)

    @app.post("/v1/completions", responses=_FAULTS | {200: {"model": GeneratedAnswer}}, **_ANSWERS)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await completions.complete(service, body, request)

    @app.post("/v1/chat/completions", responses=_FAULTS | {200: {"model": GeneratedAnswer}}, **_ANSWERS)
    async def converse(body: ChatRequest, request: Request) -> Response:
        return await chat.chat(service, body, request)

    @app.post("/v1/responses", responses=_FAULTS | {200: {"model": ResponsesAnswer}}, **_ANSWERS)
    async def respond(body: ResponsesRequest, request: Request) -> Response:
        return await responses.respond(service, body, request)


def _add_more(app: FastAPI, service: Service) -> None:
    @app.post("/v1/infill", responses=_FAULTS | {200: {"model": GeneratedAnswer}}, **_ANSWERS)
    async def fill(body: InfillRequest, request: Request) -> Response:
        return await infill.infill(service, body, request)

    @app.post("/v1/edit", responses=_FAULTS | {200: {"model": GeneratedAnswer}}, **_ANSWERS)
    async def edit(body: EditRequest, request: Request) -> Response:
        return await infill.edit(service, body, request)

    @app.post("/v1/score", responses=_FAULTS | {200: {"model": ScoreAnswer}}, **_ANSWERS)
    async def score(body: ScoreRequest, request: Request) -> Response:
        return await texts.score(service, body, request)

    @app.post("/tokenize", responses=_FAULTS | {200: {"model": TokensAnswer}}, **_ANSWERS)
    async def tokenize(body: TokenizeRequest) -> Response:
        return await texts.tokenize(service, body)

    @app.post("/detokenize", responses=_FAULTS | {200: {"model": TextAnswer}}, **_ANSWERS)
    async def detokenize(body: DetokenizeRequest) -> Response:
        return await texts.detokenize(service, body)

    @app.post("/apply_template", responses=_FAULTS | {200: {"model": TemplateAnswer}}, **_ANSWERS)
    async def apply_template(body: TemplateRequest) -> Response:
        return await texts.apply_template(service, body)


def _add_page(app: FastAPI) -> set[str]:
    """The files of the page, read once; nothing of a path comes near the file system."""
    files = {f"/page/{path.name}": path for path in sorted(PAGE.iterdir()) if path.suffix in (".html", ".js", ".css")}
    files["/"] = PAGE / "index.html"

    async def show(data: bytes, kind: str) -> Response:
        return Response(data, media_type=kind, headers={"content-security-policy": CSP, "cache-control": "no-cache"})

    for path, file in files.items():
        kind = mimetypes.types_map[file.suffix]
        app.add_api_route(
            path, functools.partial(show, file.read_bytes(), kind), include_in_schema=False, response_model=None
        )
    return set(files)
