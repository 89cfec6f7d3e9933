"""/v1/score, /tokenize, /detokenize, /apply_template: what is asked about texts that are there."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidRequestError
from .chat import head_of, prompt_of
from .errors import DeadlineError
from .protocol import DetokenizeRequest, ScoreRequest, TemplateRequest, TokenizeRequest
from .replies import answer, unless_gone
from .service import Service


async def score(service: Service, body: ScoreRequest, request: Request) -> Response:
    model = service.check_model(body.model)
    if body.mc_num > service.settings.max_draws:
        raise InvalidRequestError(
            f"mc_num: expected at most {service.settings.max_draws} draws, got {body.mc_num}", param="mc_num"
        )
    work = service.score(body.prompt, body.answer, mc_num=body.mc_num, seed=body.seed, cfg_scale=body.cfg_scale)
    try:
        output = await unless_gone(request, work)
    except TimeoutError:
        limit = service.settings.request_timeout
        raise DeadlineError(f"the score was not done in {limit:g} s (request_timeout)") from None
    return answer(head_of("score-", "score", model, service) | output.to_dict())


async def tokenize(service: Service, body: TokenizeRequest) -> Response:
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("expected one of prompt and messages", param="prompt")
    core = service.core
    prompt: Any = body.prompt
    if body.messages is not None:
        prompt = prompt_of(body.messages, body.chat_template_kwargs)
    elif body.chat_template_kwargs is not None:
        raise InvalidRequestError("chat_template_kwargs: expected messages beside it", param="chat_template_kwargs")

    def work() -> tuple[list[int], list[str] | None]:
        ids = core.encode(prompt, split_special_tokens=body.split_special_tokens, add_beginning=body.add_special_tokens)
        if not body.return_token_strs or core.tokenizer is None:
            return ids, None
        return ids, [core.tokenizer.token_text(token) for token in ids]

    tokens, texts = await service.beside(work)
    told = {"tokens": tokens, "count": len(tokens), "max_model_len": core.max_length}
    return answer(told | ({"token_strs": texts} if texts is not None else {}))


async def detokenize(service: Service, body: DetokenizeRequest) -> Response:
    service.check_model(body.model)
    text = await service.beside(lambda: service.core.decode(body.tokens, skip_special_tokens=body.skip_special_tokens))
    return answer({"prompt": text})


async def apply_template(service: Service, body: TemplateRequest) -> Response:
    service.check_model(body.model)
    prompt = prompt_of(body.messages, body.chat_template_kwargs)

    def work() -> tuple[str, list[int]]:
        text = service.core.render_chat(prompt["messages"], chat_template_kwargs=body.chat_template_kwargs)
        return text, service.core.encode(prompt)

    text, tokens = await service.beside(work)
    return answer({"prompt": text, "tokens": tokens})
