"""How answers and hits are shown, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cli.output import excerpt, one_line, write_fields, write_line, write_table
from registry.records import Answer, Hit

PASSAGE_CHARACTERS = 160
HIT_COLUMNS = ("rank", "score", "title", "passage", "digest")
STEPS = ("search", "load", "merge", "inject", "prefill", "decode")


def hit_record(hit: Hit) -> dict[str, Any]:
    """Return a hit as it stands in JSON: ``digest`` is its document's."""
    return {
        "rank": hit.rank,
        "score": hit.score,
        "title": hit.document.title,
        "digest": hit.document.digest,
        "adapter_digest": hit.adapter_digest,
    }


def answer_record(answer: Answer) -> dict[str, Any]:
    """Return an answer as it stands in JSON; ``version_digest`` identifies what was asked."""
    return {
        "question": answer.question,
        "answer": answer.answer,
        "mode": answer.mode,
        "version": answer.version,
        "version_digest": answer.version_digest,
        "recipe_digest": answer.recipe_digest,
        "base_model": answer.base_model,
        "hits": [hit_record(hit) for hit in answer.hits],
        "weights": list(answer.weights),
        "common_weight": answer.common_weight,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "milliseconds": answer.milliseconds,
    }


def write_hits(hits: Sequence[Hit]) -> None:
    """Write a table of hits with the start of each passage."""
    rows = [
        (hit.rank, hit.score, hit.document.title, excerpt(hit.document.text, PASSAGE_CHARACTERS), hit.document.digest)
        for hit in hits
    ]
    write_table(rows, HIT_COLUMNS)


def write_explanation(answer: Answer) -> None:
    """Write what gave an answer: hits with adapters and weights, version, recipe, base model, milliseconds a step."""
    if answer.hits:
        write_line()
        # Only modes that merge adapters weigh them.
        weights = answer.weights or (None,) * len(answer.hits)
        rows: list[tuple[object, ...]] = [
            (hit.rank, hit.score, weight, hit.document.title, hit.document.digest, hit.adapter_digest)
            for hit, weight in zip(answer.hits, weights, strict=True)
        ]
        if answer.common_weight:
            rows.append((None, None, answer.common_weight, "the common part", None, None))
        write_table(rows, ("rank", "score", "weight", "title", "digest", "adapter_digest"))
    elif answer.mode != "closed-book":
        write_line()
        write_line("no document has a word of the question")
    write_line()
    write_fields(
        {
            "mode": answer.mode,
            "version": f"{answer.version} sha256:{answer.version_digest}",
            "recipe": answer.recipe_digest,
            "base_model": answer.base_model,
            "tokens": f"{answer.prompt_tokens} in the prompt, {answer.answer_tokens} in the answer",
            "milliseconds": milliseconds_text(answer.milliseconds),
        }
    )
    write_line()


def write_answer(answer: Answer, *, explain: bool) -> None:
    """Write an answer in one line, and what gave it."""
    write_line(one_line(answer.answer))
    if explain:
        write_explanation(answer)


def milliseconds_text(steps: dict[str, float]) -> str:
    """Return the time of each step, in the order in which they happen."""
    known = [step for step in STEPS if step in steps]
    return ", ".join(f"{step} {steps[step]:.1f}" for step in known + [step for step in steps if step not in known])
