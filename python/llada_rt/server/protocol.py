"""What bodies hold: requests as they are read, answers as the OpenAPI document tells them.

A request's own fields stand here. Beside them each takes the options of SamplingParams, by their own names and by the
aliases, which nobody writes twice: they arrive as further fields, SamplingParams checks them (decoding.py), and the
schema of each request is completed from its fields.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ..params import SamplingParams

Text = str
Json = dict[str, Any]
Item = TypeVar("Item")
# The first fault of a list is told, and the others, which may be a million, are not looked for.
List = Annotated[list[Item], Field(fail_fast=True)]
StreamMode = Literal["append", "denoise"]


@cache
def option_schemas() -> dict[str, Json]:
    """The options of SamplingParams as properties of a JSON schema, aliases too."""
    hints = get_type_hints(SamplingParams)
    properties: dict[str, Json] = {}
    for spec in dataclasses.fields(SamplingParams):
        schema = TypeAdapter(hints[spec.name]).json_schema() | getattr(spec.metadata["check"], "bounds", {})
        if "anyOf" in schema and "minimum" in schema:  # an optional number: its bounds are those of the number
            bounds = {key: schema.pop(key) for key in ("minimum", "maximum")}
            schema["anyOf"] = [part | bounds if part.get("type") == "integer" else part for part in schema["anyOf"]]
        if spec.name == "stop":
            schema = {"anyOf": [{"type": "string"}, schema]}
        properties[spec.name] = schema | {"description": spec.metadata["help"]}
        for alias in spec.metadata["aliases"]:
            properties[alias] = schema | {"description": f"Another name of {spec.name}."}
    return properties


def _with_options(schema: Json, model: type[BaseModel]) -> None:
    """A field of the request hides an option of its name: `logprobs` of a conversation is a flag."""
    schema["properties"] = dict(schema.get("properties", {}))
    for name, option in option_schemas().items():
        schema["properties"].setdefault(name, option)
    schema["additionalProperties"] = True


class Body(BaseModel):
    """A request whose fields are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Decoded(BaseModel):
    """A request that is decoded: it takes the options of SamplingParams too."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra=_with_options)

    model: Text | None = Field(None, description="A name of the model that is served.")

    @property
    def options(self) -> Json:
        """All that are no fields of the request."""
        return self.model_extra or {}


class StreamOptions(Body):
    include_usage: bool | None = Field(None, description="End with a chunk that has no choices and the usage.")
    include_obfuscation: bool | None = Field(None, description="Only false: chunks are not padded.")


class Streamed(Decoded):
    stream: bool | None = Field(None, description="Answer by server-sent events.")
    stream_options: StreamOptions | None = None
    stream_mode: StreamMode | None = Field(
        None,
        description="append: text that never changes. denoise: also each step's positions, tokens, confidences.",
    )

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def mode(self) -> StreamMode:
        return self.stream_mode or "append"


class ChatRequest(Streamed):
    messages: List[Json] = Field(description="The conversation: role and content of each; the last one is answered.")
    chat_template_kwargs: Json | None = Field(None, description="Values that the chat template may ask for.")
    logprobs: bool | None = Field(None, description="Tell each token's log-probability.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="So many alternatives beside each token.")
    response_format: Json | None = Field(
        None, description="text, json_schema, or {type: regex, regex} and {type: choice, choice}."
    )


class CompletionRequest(Streamed):
    prompt: Text | List[int] | List[Text] | List[List[int]] = Field(description="A text or token ids, or several.")
    suffix: Text | None = Field(None, description="A text that comes after what is written.")
    echo: bool | None = Field(None, description="Begin the text with the prompt.")
    logprobs: int | None = Field(None, ge=0, le=20, description="So many alternatives beside each token's own.")
    response_format: Json | None = None


class Span(Body):
    """A stretch of a text, in characters (Unicode code points), and what may stand there."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    length: int | List[int] | None = Field(
        None, description="Tokens to write, or [least, most]; by default as many as the stretch has."
    )
    regex: Text | None = None
    choice: List[Text] | None = None


class InfillRequest(Streamed):
    segments: List[Any] | None = Field(
        None,
        description='Fixed text, lists of token ids, and holes: a number of tokens or {"hole": n or [least, most], '
        '"regex", "choice"}.',
    )
    open_end: bool | None = Field(None, description="gen_length positions follow the segments.")
    suffix: Text | List[int] | None = Field(None, description="In place of segments: gen_length positions before it.")
    pinned: Json | None = Field(None, description="In place of segments: tokens of the response by their positions.")
    prompt: Text | List[int] | None = None
    messages: List[Json] | None = Field(None, description="A conversation, in place of a prompt.")
    chat_template_kwargs: Json | None = None
    logprobs: int | None = Field(None, ge=0, le=20)


class EditRequest(Streamed):
    text: Text = Field(description="The text of which stretches are written anew.")
    spans: List[Span] = Field(min_length=1, description="In order, none overlapping.")
    prompt: Text | None = Field(None, description="A text before it that is kept out of the answer.")
    messages: List[Json] | None = Field(None, description="A conversation, in place of a prompt.")
    chat_template_kwargs: Json | None = None
    logprobs: int | None = Field(None, ge=0, le=20)


class ResponsesRequest(Decoded):
    input: Text | List[Json] = Field(description="A text, or a conversation.")
    instructions: Text | None = Field(None, description="A system message before it.")
    max_output_tokens: int | None = Field(None, ge=1, description="Another name of gen_length.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: Json | None = Field(None, description='{"format": ...} as response_format of a chat.')
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: List[Text] | None = Field(None, description='Only "message.output_text.logprobs".')
    chat_template_kwargs: Json | None = None
    metadata: Json | None = None


class ScoreRequest(Body):
    model: Text | None = None
    prompt: Text | List[int]
    answer: Text | List[int]
    mc_num: int = Field(128, ge=1, description="Draws; more of them, a smaller standard error.")
    seed: int = Field(0, ge=0, le=2**63 - 1)
    cfg_scale: float = Field(0.0, ge=0, le=1e6)


class TokenizeRequest(Body):
    model: Text | None = None
    prompt: Text | None = None
    messages: List[Json] | None = None
    chat_template_kwargs: Json | None = None
    add_special_tokens: bool = Field(True, description="Begin a text as a prompt of it begins (BOS).")
    split_special_tokens: bool | None = Field(None, description="As the option of the same name.")
    return_token_strs: bool = False


class DetokenizeRequest(Body):
    model: Text | None = None
    tokens: List[int]
    skip_special_tokens: bool = True


class TemplateRequest(Body):
    model: Text | None = None
    messages: List[Json]
    chat_template_kwargs: Json | None = None


# ---------------------------------------------------------------- answers


class ErrorFacts(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    error: ErrorFacts


class UsageFacts(BaseModel):
    """Padding never counts. cached_tokens: tokens of the prompt whose keys and values an earlier request left."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class Answer(BaseModel):
    """What all answers have; each has more, which docs/serving.md shows."""

    model_config = ConfigDict(extra="allow")
    object: str


class GeneratedAnswer(Answer):
    id: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: UsageFacts


class ResponsesAnswer(Answer):
    id: str
    created_at: int
    model: str
    status: str
    output: list[dict[str, Any]]


class ScoreAnswer(Answer):
    id: str
    model: str
    log_likelihood: float
    standard_error: float | None
    num_samples: int


class TokensAnswer(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class TextAnswer(BaseModel):
    prompt: str


class TemplateAnswer(BaseModel):
    prompt: str
    tokens: list[int]


class ModelFacts(Answer):
    id: str
    created: int
    owned_by: str
    max_model_len: int


class ModelsAnswer(Answer):
    data: list[ModelFacts]
