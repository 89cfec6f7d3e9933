"""Typed errors: what was expected, what came, and what to do about it.

The compiled module raises these classes by name, so a fault below Python looks the same as one above it.
"""

from __future__ import annotations

from typing import ClassVar

from .excerpt import shown


class LladaRtError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: What was expected and what came.
        param: The option at fault, by its name.
        hint: A way out.

    Attributes:
        code: The kind, stable, for programs.
        message: As it was given. What a terminal would obey or hide is written as an escape, here and in `hint`.
        param: The option at fault, or None.
        hint: A way out, or None.

    The codes:

    config_error             an engine option, or the model's own configuration
    model_error              the model folder: model_not_found, model_format_error, unsupported_model
    tokenizer_error          the tokenizer; chat_template_error for its chat template
    invalid_request          a request that cannot be run: unknown_role, context_length_exceeded
    not_admitted             a request that this engine does not take: queue_full, request_too_large
    request_cancelled        aborted before there was anything to return
    out_of_memory            an allocation was refused
    output_error             what was to be written cannot be
    device_error             the device or instruction set
    engine_closed            the engine was used after `close()`; engine_stuck: a call lasts too long
    internal_error           a bug of ours
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "", *, param: str | None = None, hint: str | None = None) -> None:
        self.message = shown(message)
        super().__init__(self.message)
        self.param = param
        self.hint = None if hint is None else shown(hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_dict(self) -> dict[str, str | None]:
        """The error as a service tells it.

        Returns:
            Plain JSON values: `code` as "type", "message", "param", "hint".
        """
        return {"type": self.code, "message": self.message, "param": self.param, "hint": self.hint}

    def within(self, place: str) -> LladaRtError:
        """The same error, its message preceded by where it happened.

        Args:
            place: Where, `prompts[3]` for one.

        Returns:
            A new error of the same class.
        """
        return type(self)(f"{place}: {self.message}", param=self.param, hint=self.hint)


class ConfigError(LladaRtError, ValueError):
    """An engine option, or the model's own configuration, makes no sense."""

    code = "config_error"


class ModelError(LladaRtError):
    """The model folder cannot be used."""

    code = "model_error"


class ModelNotFoundError(ModelError, FileNotFoundError):
    """The model folder or a file that it must hold is missing."""

    code = "model_not_found"

    # OSError would format its own arguments.
    __str__ = LladaRtError.__str__


class ModelFormatError(ModelError):
    """Corrupt, truncated or contradictory model files."""

    code = "model_format_error"


class UnsupportedModelError(ModelError):
    """A well-formed model that this runtime does not implement."""

    code = "unsupported_model"


class ModelWarning(UserWarning):
    """The model folder says something that this runtime does not know; the model runs without it."""


class TokenizerError(LladaRtError):
    """The tokenizer is missing, unreadable, or cannot do what was asked."""

    code = "tokenizer_error"


class ChatTemplateError(TokenizerError):
    """The model's chat template is missing, broken, or went beyond its limits."""

    code = "chat_template_error"


class InvalidRequestError(LladaRtError, ValueError):
    """A request that cannot be run as it stands. Nothing of it has been run."""

    code = "invalid_request"


class ChatRoleError(InvalidRequestError):
    """A message has a role that the model's chat template doesn't know, refuses or leaves out."""

    code = "unknown_role"


class ContextLengthError(InvalidRequestError):
    """Prompt and response together exceed what the model can hold."""

    code = "context_length_exceeded"


class AdmissionError(LladaRtError):
    """A request in order that this engine does not take."""

    code = "not_admitted"


class QueueFullError(AdmissionError):
    """As many requests wait as may (`max_num_queued_reqs`). Nothing of this one has been run; try again later."""

    code = "queue_full"


class RequestTooLargeError(AdmissionError):
    """A request that could not be admitted if it were alone, under this engine's limits."""

    code = "request_too_large"


class RequestCancelledError(LladaRtError):
    """The request was aborted before there was anything to return."""

    code = "request_cancelled"


class OutOfMemoryError(LladaRtError, MemoryError):
    """An allocation was refused; the engine goes on."""

    code = "out_of_memory"


class OutputError(LladaRtError, OSError):
    """What was to be written cannot be: no room, no permission."""

    code = "output_error"

    __str__ = LladaRtError.__str__


class DeviceError(LladaRtError):
    """The device or instruction set that was asked for is not there."""

    code = "device_error"


class EngineClosedError(LladaRtError):
    """The engine was used after `close()`."""

    code = "engine_closed"


class EngineStuckError(LladaRtError):
    """The compiled loop has not come back for longer than it should, or a call would wait for itself."""

    code = "engine_stuck"


class InternalError(LladaRtError):
    """A broken invariant: a bug of ours."""

    code = "internal_error"
