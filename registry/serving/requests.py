"""Bodies of requests, as OpenAI's interface has them; what cannot be done here is not in them.

What is accepted and has no effect says so. Everything else is refused by its name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from registry.generation.requests import MOST_STOPS
from registry.merging.methods import DEFAULT_MERGE
from registry.pipeline.query import DEFAULT_HITS
from registry.pipeline.search import MAX_HITS
from registry.records import Mode
from registry.serving.names import LONGEST_NAME

MOST_CHOICES = 8
MOST_MESSAGES = 1000
LONGEST_STOP = 200

NOT_SUPPORTED = frozenset(
    {"best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "modalities", "presence_penalty"}
    | {"response_format", "service_tier", "store", "suffix", "tool_choice", "tools", "top_logprobs"}
)
"""Parameters that are taken only where they ask for nothing, since clients send them so."""


def _truth(value: Any) -> Any:
    """Let nothing but true and false pass: in Python, 0 equals False."""
    if value is not None and not isinstance(value, bool):
        raise ValueError("Input should be a valid boolean")
    return value


No = Annotated[Literal[False], BeforeValidator(_truth)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Any text but NUL characters, which no database stores and no model was taught."""
Question = Annotated[str, Field(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]
"""Text that is not all white space."""
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00]*$")]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP, pattern=r"^[^\x00]*$")]
Ignored = Annotated[str | None, Field(max_length=1000, description="Accepted, without effect.")]


class Body(BaseModel):
    """A body that a client sends: nothing is converted, and nothing unknown is passed over."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, given: Any) -> Any:
        """Take 1.0 for 1: JSON knows one kind of number."""
        if not isinstance(given, dict):
            return given
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in given.items()
        }


class TextPart(Body):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: Text


class QuestionPart(Body):
    """A part of a user's message."""

    type: Literal["text"]
    text: Question


class SystemMessage(Body):
    """What the model is told about its task."""

    role: Literal["system", "developer"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]


class UserMessage(Body):
    """What the user says; the last message of a conversation is the question."""

    role: Literal["user"]
    content: Question | Annotated[list[QuestionPart], Field(min_length=1)]


class AssistantMessage(Body):
    """What was answered before, as it was received."""

    role: Literal["assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


AnyMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Body):
    """What a stream has besides text."""

    include_usage: bool | None = Field(default=None, description="Send a last chunk with the numbers of tokens.")
    include_obfuscation: No | None = None


class PlainText(Body):
    """The only form of an answer."""

    type: Literal["text"]


class PragregOptions(Body):
    """How documents are found and used for this request; see `pragreg query`."""

    k: int = Field(default=DEFAULT_HITS, ge=1, le=MAX_HITS, description="How many documents are retrieved.")
    mode: Mode | None = Field(
        default=None,
        description="prag: the documents' adapters; rag: their texts in the prompt; combined: both; closed-book: "
        "neither. Not given: what the model's name ends in, else prag.",
    )
    merge: Name = Field(default=DEFAULT_MERGE, description="How the documents' adapters are merged.")


class Asks(Body):
    """What requests for chats and for completions have in common."""

    model: Name = Field(description="CORPUS, CORPUS@ALIAS or CORPUS@v3, each also with +MODE at its end.")
    max_tokens: int | None = Field(default=None, ge=1, description="The longest answer, in tokens.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0, where it is not given.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES, description="How many answers.")
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: Ignored = None
    pragreg: PragregOptions | None = None


class ChatRequest(Asks):
    """A conversation whose last message is the question."""

    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: int | None = Field(default=None, ge=1, description="The longest answer, in tokens.")
    response_format: PlainText | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: No | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Accepted, without effect.")
    store: No | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None


class CompletionRequest(Asks):
    """A text to go on with; documents are looked up by it."""

    prompt: Question | Annotated[list[Question], Field(min_length=1, max_length=1)]
    suffix: None = None
    echo: No | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: None = None


class SearchRequest(Body):
    """A question whose documents are wanted, without an answer."""

    model: Name = Field(description="CORPUS, CORPUS@ALIAS or CORPUS@v3.")
    question: Question
    k: int = Field(default=5, ge=1, le=MAX_HITS, description="How many documents, at most.")
    remember: bool = Field(default=False, description="Keep what is found, for another engine to answer out of.")
    merge: Name = Field(default=DEFAULT_MERGE, description="How that engine will merge the documents' adapters.")
