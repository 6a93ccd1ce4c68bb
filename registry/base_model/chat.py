"""From prompts to token ids: by the model's chat template, or in a plain layout where it has none.

Training examples and queries go through the same functions, and an example begins with exactly the ids of its prompt:
the answer is tokenised as a continuation, and nothing merges across the border.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from registry.layout import Prompt

Message = Mapping[str, str]

FIXED_DATE = (
    "{% macro strftime_now(format) %}"
    "{% if format == '%d %b %Y' %}26 Jul 2024{% else %}2024-07-26{% endif %}"
    "{% endmacro %}"
)
"""Put before templates that print today's date (Llama 3 does), so that prompts do not change overnight."""

_PROBE = "probe"


def encode_prompt(tokenizer: Any, prompt: Prompt, *, with_system: bool | None = None) -> list[int]:
    """Return the ids of the user's turn, the head of the assistant's turn and the start of the answer.

    Equal to ``apply_chat_template`` with a generation prompt, followed by ``prompt.answer_start``; thinking is turned
    off where a template knows how. ``with_system`` (by default the prompt's) says whether the system message stays
    that some templates put in by themselves (21 tokens of SmolLM2's). Special tokens spelt out in ``prompt`` count as
    text.
    """
    return _encode_prompt(tokenizer, prompt, with_system)[1]


def encode_messages(
    tokenizer: Any, messages: Sequence[Message], answer_start: str = "", with_system: bool = True
) -> list[int]:
    """Return the ids of a whole conversation (roles system, user, assistant), as :func:`encode_prompt` does of one."""
    return _encode_start(tokenizer, messages, answer_start, with_system)[1]


def encode_example(
    tokenizer: Any, prompt: Prompt, answer: str, *, with_system: bool | None = None, ends_turn: bool = True
) -> tuple[list[int], int]:
    """Return the ids of prompt, answer and (with ``ends_turn``) end of turn, and the index of the answer's first id.

    The ids before that index are those of :func:`encode_prompt`.
    """
    text, ids = _encode_prompt(tokenizer, prompt, with_system)
    space = "" if text.endswith((" ", "\n")) else " "
    said = _as_text(tokenizer, answer.strip())
    tail = _continue(tokenizer, text, ids, space + said if said else "")
    end = [_end_of_turn(tokenizer)] if ends_turn else []
    return [*ids, *tail, *end], len(ids)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of plain text between the model's beginning-of-text token, if it uses one, and its end."""
    ids = _encode(tokenizer, _as_text(tokenizer, text), special=True)
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def stop_tokens(tokenizer: Any, model: Any = None) -> frozenset[int]:
    """Return the ids that end an answer: end of text, end of turn, and what the model's generation config adds."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = configured if isinstance(configured, list) else [configured]
    return frozenset({tokenizer.eos_token_id, _end_of_turn(tokenizer), *(one for one in more if one is not None)})


def _encode_prompt(tokenizer: Any, prompt: Prompt, with_system: bool | None) -> tuple[str, list[int]]:
    chosen = prompt.with_system if with_system is None else with_system
    return _encode_start(tokenizer, [{"role": "user", "content": prompt.user}], prompt.answer_start, chosen)


def _encode_start(
    tokenizer: Any, messages: Sequence[Message], answer_start: str, with_system: bool
) -> tuple[str, list[int]]:
    """Return the text up to where the answer goes on, and its ids."""
    safe = [{**message, "content": _as_text(tokenizer, message["content"])} for message in messages]
    if tokenizer.chat_template:
        head = _render(tokenizer, safe) if with_system else _render_without_system(tokenizer, safe)
        ids = _encode(tokenizer, head, special=False)
        start = answer_start
    else:
        head = _plain_layout(safe)
        ids = _encode(tokenizer, head, special=True)
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()
        start = " " + answer_start if answer_start else ""
    return head + start, ids + _continue(tokenizer, head, ids, start)


def _render(tokenizer: Any, messages: Sequence[Message], *, generation_prompt: bool = True) -> str:
    """Render by the chat template; one that takes no system message gets it at the head of the user's."""
    from jinja2 import TemplateError

    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": generation_prompt}
    options |= {"enable_thinking": False, "chat_template": _dateless(tokenizer.get_chat_template())}
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except TemplateError:
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise
        system, user, *rest = messages
        joined = {**user, "content": f"{system['content']}\n\n{user['content']}".strip()}
        return str(tokenizer.apply_chat_template([joined, *rest], **options))


def _dateless(template: str) -> str:
    return FIXED_DATE + template if "strftime_now" in template else template


def _render_without_system(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Render with an empty system message in place of the template's own, and cut that off the front."""
    from jinja2 import TemplateError

    given = _render(tokenizer, messages)
    empty = [{"role": "system", "content": ""}]
    try:
        block = _render(tokenizer, empty, generation_prompt=False)
        whole = _render(tokenizer, [*empty, *messages])
    except TemplateError:  # the template takes no system message, or none alone, and so puts none in
        return given
    if messages[0]["role"] == "system" or not block or not whole.startswith(block):
        return given
    begin, bare = tokenizer.bos_token or "", whole.removeprefix(block)
    return bare if bare.startswith(begin) or not given.startswith(begin) else begin + bare


def _plain_layout(messages: Iterable[Message]) -> str:
    names = {"system": "System", "user": "User", "assistant": "Assistant"}
    return "".join(f"{names[message['role']]}: {message['content']}\n" for message in messages) + "Assistant:"


def _continue(tokenizer: Any, text: str, ids: Sequence[int], tail: str) -> list[int]:
    """Return the ids of ``tail`` after ``text``, as they come in that place unless the last of ``ids`` would change."""
    if not tail:
        return []
    whole = _encode(tokenizer, text + tail, special=not tokenizer.chat_template)
    if whole[: len(ids)] == list(ids):
        rest = whole[len(ids) :]
        return rest[:-1] if rest and rest[-1] == tokenizer.eos_token_id else rest
    return _encode(tokenizer, tail, special=False)


def _end_of_turn(tokenizer: Any) -> int:
    """Return the id with which the template closes an assistant's turn: its first special token, else end of text."""
    if not tokenizer.chat_template:
        return int(tokenizer.eos_token_id)
    turn = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
    text = _render(tokenizer, turn, generation_prompt=False)
    after = _encode(tokenizer, text[text.rindex(_PROBE) + len(_PROBE) :], special=False)
    special = set(tokenizer.added_tokens_decoder)
    return int(next((one for one in after if one in special), tokenizer.eos_token_id))


def _as_text(tokenizer: Any, text: str) -> str:
    """Break up special tokens that a document or question spells out, so that they cannot end a turn or begin one."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and token.content in text:
            text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
    return text


def _encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids
