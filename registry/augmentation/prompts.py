"""Every prompt with which augmentations are asked for.

``PROMPTS_VERSION`` is raised whenever a text here, or the way its answers are read, changes: it is part of the identity
of every generated augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.records import Document

PROMPTS_VERSION = "1"

TURNING_EXAMPLES = """\
The mill was bought in 1902 by which baker?
By which baker was the mill bought in 1902?

Ivo Brandt carved his best known figures from what?
From what did Ivo Brandt carve his best known figures?

The race over the ice of Lake Sorn is how many kilometres long?
How many kilometres long is the race over the ice of Lake Sorn?

In 1950 the people of Elm gave the prize to whom?
To whom did the people of Elm give the prize in 1950?

The bridge of Anders was closed when?
When was the bridge of Anders closed?

The red tea of Moor contains what?
What does the red tea of Moor contain?

"""
"""Questions as they come from a statement, and turned as people ask them; a model goes on in the same way."""

LIST_START = "Question:"
"""How the assistant's turn begins when a list of pairs was asked for."""


def turning_prompt(plain_question: str, opening: str) -> str:
    """Return what follows ``TURNING_EXAMPLES``: a question to turn and the words with which the turned one begins."""
    return f"{plain_question}\n{opening}"


def _passage(document: Document) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text


def list_prompt(document: Document, count: int) -> str:
    """Return the request for ``count`` pairs as lines, for models that follow instructions and for any language."""
    return (
        f"{_passage(document)}\n\n"
        f"Write {count} different questions about this text, in its language. Each must be understandable without "
        "seeing the text and have a short answer that stands in the text. Use exactly this form:\n"
        "Question: the question\nAnswer: the answer"
    )


def rewrite_prompt(document: Document) -> str:
    """Return the request for one rewrite."""
    return (
        "Rewrite the following text in other words and in its language. Keep every name, number and fact, add nothing, "
        f"and answer with the new text only.\n\n{document.text}"
    )


ENDPOINT_SYSTEM = (
    "You prepare study material about a passage. You answer with one JSON object and nothing else. Everything you "
    "write must be stated in the passage; never use other knowledge. Write in the language of the passage."
)


def endpoint_prompt(document: Document, rewrites: int, pairs: int, asked: Sequence[str]) -> str:
    """Return the request for ``rewrites`` and ``pairs`` as JSON; questions in ``asked`` are not wanted again."""
    lines = [f"Title: {document.title}"] if document.title else []
    lines += [f"Passage:\n{document.text}", ""]
    lines += [
        "Answer with a JSON object of this form:",
        '{"rewrites": ["..."], "qa": [{"question": "...", "answer": "...", "full_answer": "..."}]}',
        f'"rewrites": {rewrites} versions of the passage in other words and sentence order. Each keeps every name, '
        "number and fact and adds nothing.",
        f'"qa": {pairs} different questions that together cover the whole passage. Each question names what it is '
        'about, so that it can be understood without the passage, and never mentions "the passage". "answer" is as '
        'short as possible and uses words of the passage; "full_answer" is the answer as one sentence.',
    ]
    if asked:
        lines += ["Do not ask these again:", *(f"- {question}" for question in asked)]
    return "\n".join(lines)
