"""Errors as clients are told them: {"error": {"message", "type", "param", "code"}} and a status, always."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

from ..errors import (
    AdmissionError,
    ChatTemplateError,
    EngineClosedError,
    EngineStuckError,
    InternalError,
    InvalidRequestError,
    LladaRtError,
    OutOfMemoryError,
    QueueFullError,
    RequestCancelledError,
    TokenizerError,
)
from ..log import logger

RETRY_AFTER_S = 1


class ServiceError(LladaRtError):
    """What a server says of itself, or of a request that never came to the engine."""

    code = "service_error"
    status: ClassVar[int] = 500


class UnsupportedParameterError(ServiceError, InvalidRequestError):
    """A field that other servers know and this one does not, with a value that asks for something."""

    code = "unsupported_parameter"
    status = 400


class UnknownParameterError(ServiceError, InvalidRequestError):
    """A field that nobody knows."""

    code = "unknown_parameter"
    status = 400


class MalformedBodyError(ServiceError, InvalidRequestError):
    """The body is no JSON object that can be read."""

    code = "invalid_json"
    status = 400


class AuthenticationError(ServiceError):
    """No API key, or one that is not this server's."""

    code = "invalid_api_key"
    status = 401


class NotFoundError(ServiceError):
    """There is nothing at this path."""

    code = "not_found"
    status = 404


class ModelNameError(ServiceError):
    """The request names a model that is not served."""

    code = "model_not_found"
    status = 404


class MethodError(ServiceError):
    """The path is there, and does not take this method."""

    code = "method_not_allowed"
    status = 405


class BodyTimeoutError(ServiceError):
    """The body did not come in time."""

    code = "body_timeout"
    status = 408


class BodyTooLargeError(ServiceError):
    """The body is larger than may be."""

    code = "payload_too_large"
    status = 413


class MediaTypeError(ServiceError):
    """The body is not JSON by its own account, or is compressed."""

    code = "unsupported_media_type"
    status = 415


class HeadersTooLargeError(ServiceError):
    """Line and headers are larger than may be."""

    code = "headers_too_large"
    status = 431


class TooManyRequestsError(ServiceError):
    """As many requests are open as may."""

    code = "too_many_requests"
    status = 429


class DrainingError(ServiceError):
    """The server is about to stop."""

    code = "draining"
    status = 503


class DeadlineError(ServiceError):
    """The request's time was over before its first step."""

    code = "deadline_exceeded"
    status = 504


# By kind, most particular first. What is left is a fault of ours: 500.
_STATUS: tuple[tuple[type[LladaRtError], int], ...] = (
    (QueueFullError, 429),
    (AdmissionError, 400),
    (InvalidRequestError, 400),
    (ChatTemplateError, 400),
    (TokenizerError, 400),
    (RequestCancelledError, 503),
    (EngineClosedError, 503),
    (EngineStuckError, 503),
    (OutOfMemoryError, 503),
)
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
STATUSES = (400, 401, 404, 405, 408, 413, 415, 429, 431, 500, 503, 504)


def status_of(error: LladaRtError) -> int:
    if isinstance(error, ServiceError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def body_of(error: LladaRtError) -> dict[str, Any]:
    """What the client is told. A hint is part of the message, as in Python."""
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def headers_of(error: LladaRtError) -> dict[str, str]:
    """What may be tried again says when; who must bring a key is told how."""
    status = status_of(error)
    if status in (429, 503):
        return {"retry-after": str(RETRY_AFTER_S)}
    return {"www-authenticate": "Bearer"} if status == 401 else {}


def internal(error: BaseException) -> InternalError:
    """A fault of ours as clients are told it. Its kind and place are logged; its words may be a prompt's."""
    report = secrets.token_hex(6)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "unknown" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    logger.error("report %s: unexpected %s at %s", report, type(error).__name__, place)
    return InternalError(f"the server has failed; its log says more under report {report}")
