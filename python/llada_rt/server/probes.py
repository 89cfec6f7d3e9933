"""What operators ask: is it alive, is it ready, does it move, what is it, what has it done."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ..errors import EngineStuckError
from .errors import DrainingError, ModelNameError
from .metrics import CONTENT_TYPE
from .protocol import Json
from .replies import answer
from .service import Service


def health(service: Service) -> Response:
    """200 as long as the engine may answer: a server that says 503 here is to be started anew."""
    service.check_live()
    return answer({"status": "ok"})


def ready(service: Service) -> Response:
    """200 while requests are welcome."""
    if service.is_draining:
        raise DrainingError("the server is about to stop and takes no more requests")
    progress = service.check_progress()
    _check_moves(progress)
    return answer({"status": "ready"})


def progress(service: Service) -> Response:
    """Whether steps are made while there is work."""
    facts = service.check_progress()
    _check_moves(facts)
    return answer({"status": "idle" if facts["seconds_since_step"] is None else "ok"} | facts)


def _check_moves(facts: dict[str, Any]) -> None:
    if facts["stuck"]:
        raise EngineStuckError(f"no step for {facts['seconds_since_step']:.0f} s, and requests wait")


def version(service: Service, facts: Json) -> Response:
    return answer(facts | {"system_fingerprint": service.fingerprint})


def metrics(service: Service) -> Response:
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def models(service: Service) -> Response:
    return answer({"object": "list", "data": [_model(service, name) for name in service.names]})


def model(service: Service, name: str) -> Response:
    if name not in service.names:
        raise ModelNameError(f"model: expected {' or '.join(service.names)}, got one that is not served")
    return answer(_model(service, name))


def _model(service: Service, name: str) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "llada-rt",
        "max_model_len": service.core.max_length,
        "default_params": service.core.default_params.to_dict(),
    }
