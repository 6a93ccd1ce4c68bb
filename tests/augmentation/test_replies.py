from __future__ import annotations

import pytest

from registry.augmentation.replies import read_listed, read_reply

WHOLE = '{"rewrites": ["R"], "qa": [{"question": "Q?", "answer": "A", "full_answer": "F"}]}'


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        f"Sure! Here it is:\n```json\n{WHOLE}\n```\nAnything else?",
        f'<think>{{"qa": [{{"question": "no?", "answer": "no"}}]}}</think>{WHOLE}',
        '{"data": ' + WHOLE + "}",
        f"[{WHOLE}]",
        '{"rewrite": "R", "questions": [{"question": "Q?", "answer": "A", "full_answer": "F"}]}',
    ],
)
def test_json_is_found_wherever_it_is(text: str) -> None:
    reply = read_reply(text)
    assert (reply.rewrites, reply.pairs) == (["R"], [("Q?", "A", "F")])


def test_what_is_whole_in_a_truncated_object_is_taken() -> None:
    reply = read_reply('{"qa": [{"question": "Q?", "answer": 12}, {"question": "R?", "answer": "B"}, {"question": "S')
    assert reply.pairs == [("Q?", "12", None), ("R?", "B", None)]


@pytest.mark.parametrize(
    "text", ["", "I cannot help with that.", "{", "[[[", '{"qa": 3, "rewrites": {"a": 1}}', "null"]
)
def test_garbage_holds_nothing(text: str) -> None:
    reply = read_reply(text)
    assert (reply.rewrites, reply.pairs) == ([], [])


def test_lines_are_read() -> None:
    text = "Question: Who?\nAnswer: Adela\n\n**Question 2:** When?\n**Answer 2:** 1843\nQuestion: Why?"
    assert read_listed(text) == [("Who?", "Adela", None), ("When?", "1843", None)]
    assert read_reply(text).pairs == read_listed(text)
