"""Asking from Python."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import registry
from registry.base_model import load as load_model
from registry.catalog.listing import list_queries
from registry.errors import NotFoundError, UsageError
from registry.generation.batcher import Batcher
from registry.pipeline import base_models, python_api
from registry.pipeline.opened import opened
from registry.pipeline.python_api import OpenCorpus, OpenRegistry
from registry.pipeline.query import Asking, open_asker
from registry.records import MODES, Mode
from registry.settings import Home
from tests.pipeline.handbook import QUESTIONS


def recorded(home: Home) -> int:
    """How many questions the catalog has."""
    with opened(home) as inside, inside.catalog.read() as session:
        return len(list_queries(session, limit=1000))


@pytest.fixture
def home(handbook_home: Home) -> Iterator[OpenRegistry]:
    with registry.open(handbook_home, device="cpu") as home:
        yield home


@pytest.fixture
def handbook(home: OpenRegistry) -> OpenCorpus:
    return home.corpus("handbook@production")


class TestAsking:
    @pytest.mark.parametrize("mode", MODES)
    def test_answers_as_the_command_line_does(self, handbook_home: Home, handbook: OpenCorpus, mode: Mode) -> None:
        asking = Asking(mode=mode, k=2, max_new_tokens=12, log=False)
        with open_asker(handbook_home, "handbook@production", device="cpu") as asker:
            wanted = list(asker.ask(QUESTIONS, asking))
        one_by_one = [handbook.ask(one, mode=mode, k=2, max_new_tokens=12, log=False) for one in QUESTIONS]
        together = handbook.ask_many(iter(QUESTIONS), mode=mode, k=2, max_new_tokens=12, log=False)
        for answers in (one_by_one, together):
            assert [replace(answer, milliseconds={}) for answer in answers] == [
                replace(answer, milliseconds={}) for answer in wanted
            ]

    def test_learned_answers(self, handbook: OpenCorpus) -> None:
        answers = handbook.ask_many(QUESTIONS, batch_size=2, log=False)
        assert [answer.answer for answer in answers] == ["Ilse Varnholt", "Doctor Marsh", "the observatory"]
        assert answers[0].version == "handbook@v1"
        assert handbook.ask(QUESTIONS[0], mode="closed-book", log=False).answer != "Ilse Varnholt"

    def test_by_default_asks_as_the_command_line_does(self, handbook_home: Home, handbook: OpenCorpus) -> None:
        with open_asker(handbook_home, "handbook", device="cpu") as asker:
            (wanted,) = asker.ask(["Who keeps the salt jar?"], Asking(log=False))
        answer = handbook.ask("Who keeps the salt jar?", log=False)
        assert replace(answer, milliseconds={}) == replace(wanted, milliseconds={})

    def test_streams_the_answer(self, handbook: OpenCorpus) -> None:
        pieces: list[str] = []
        answer = handbook.ask(QUESTIONS[0], stream=pieces.append, log=False)
        assert len(pieces) > 1
        assert "".join(pieces) == answer.answer == "Ilse Varnholt"

    def test_a_stream_that_fails_leaves_the_model_ready(self, handbook: OpenCorpus) -> None:
        def fail(_piece: str) -> None:
            raise OSError("the screen is gone")

        with pytest.raises(OSError, match="the screen is gone"):
            handbook.ask(QUESTIONS[0], stream=fail, log=False)
        assert handbook.ask(QUESTIONS[0], log=False).answer == "Ilse Varnholt"

    def test_a_stream_that_asks_is_refused(self, handbook: OpenCorpus) -> None:
        with pytest.raises(UsageError, match="while another is being answered"):
            handbook.ask(QUESTIONS[0], stream=lambda _piece: handbook.ask(QUESTIONS[1], log=False), log=False)
        assert handbook.ask(QUESTIONS[1], log=False).answer == "Doctor Marsh"

    def test_a_stream_may_search(self, handbook: OpenCorpus) -> None:
        found: list[str] = []
        handbook.ask(
            QUESTIONS[0], stream=lambda _piece: found.append(handbook.search("tea")[0].document.title), log=False
        )
        assert set(found) == {"Tea"}

    def test_is_recorded_unless_told_otherwise(self, handbook_home: Home, handbook: OpenCorpus) -> None:
        before = recorded(handbook_home)
        handbook.ask(QUESTIONS[0], max_new_tokens=1, log=False)
        handbook.ask_many(QUESTIONS, max_new_tokens=1, log=False)
        assert recorded(handbook_home) == before
        handbook.ask(QUESTIONS[0], max_new_tokens=1)
        handbook.ask_many(QUESTIONS, max_new_tokens=1)
        assert recorded(handbook_home) == before + 4

    def test_nothing_needs_no_model(self, handbook_home: Home) -> None:
        with registry.open(handbook_home, device="no such device") as home:
            assert home.corpus("handbook").ask_many([]) == []
            with pytest.raises(UsageError, match="no such device"):
                home.corpus("handbook").ask(QUESTIONS[0])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"question": "  "}, "is empty"),
            ({"question": "\ud800"}, "not UTF-8"),
            ({"mode": "magic"}, "no mode 'magic'"),
            ({"k": 0}, "0 documents"),
            ({"k": 33}, "33 documents"),
            ({"merge": "glue"}, "glue"),
            ({"max_new_tokens": 0}, "new tokens"),
            ({"max_new_tokens": 5000}, "takes 512 tokens"),
        ],
    )
    def test_refuses_what_cannot_be_asked(
        self, handbook: OpenCorpus, arguments: dict[str, object], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            handbook.ask(**({"question": "Who?", "log": False} | arguments))  # type: ignore[arg-type]
        question = arguments.pop("question", "Who?")
        with pytest.raises(UsageError, match=message):
            handbook.ask_many(["Who signs?", question], **({"log": False} | arguments))  # type: ignore[arg-type]

    def test_corpora_share_their_base_model(self, home: OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = []

        def load(*arguments: Any, **options: Any) -> Any:
            loaded.append(load_model(*arguments, **options))
            return loaded[-1]

        monkeypatch.setattr(base_models, "load", load)
        for corpus in ("handbook", "tea", "handbook@production"):
            assert home.corpus(corpus).ask("Where is tea served?", log=False).answer == "the observatory"
        assert len(loaded) == 1
        home.close()
        model = weakref.ref(loaded.pop().model)
        gc.collect()
        assert model() is None

    def test_a_version_that_is_let_go_of_leaves_the_shared_model(
        self, home: OpenRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = []
        monkeypatch.setattr(python_api, "KEPT_VERSIONS", 1)
        monkeypatch.setattr(Batcher, "close", lambda batcher: left.append(id(batcher)))
        home.corpus("tea").ask("Where is tea served?", log=False)
        gc.collect()
        assert not left
        home.corpus("handbook")
        gc.collect()
        assert len(left) == 1

    def test_many_questions_are_not_one_text(self, handbook: OpenCorpus) -> None:
        with pytest.raises(UsageError, match="takes a list") as caught:
            handbook.ask_many("Who?")
        assert caught.value.hint == "ask one question with ask()"

    def test_threads_share_what_is_open(self, home: OpenRegistry) -> None:
        answers: dict[str, str] = {}

        def ask(reference: str, question: str) -> None:
            corpus = home.corpus(reference)
            for _ in range(3):
                answers[question] = corpus.ask(question, log=False).answer
                corpus.search(question)

        asked = [("handbook", question) for question in QUESTIONS] + [("tea", "Where is tea served at four o'clock?")]
        threads = [threading.Thread(target=ask, args=one) for one in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(map(answers.get, (question for _, question in asked))) == [
            "Ilse Varnholt",
            "Doctor Marsh",
            "the observatory",
            "the observatory",
        ]


class TestMerged:
    def test_answers_are_those_of_the_documents(self, handbook: OpenCorpus) -> None:
        before = handbook.ask_many(QUESTIONS, log=False)
        bare = handbook.ask_many(QUESTIONS, mode="closed-book", log=False)
        for answer in before:
            with handbook.merged(answer.hits[:1]) as merged:
                assert merged.hits[0].document == answer.hits[0].document
                assert merged.weights == (1.0,)
                again = merged.ask(answer.question, log=False)
                assert again.answer == answer.answer
                assert (again.mode, again.version, again.weights) == ("prag", "handbook@v1", (1.0,))
                assert merged.ask_many([answer.question] * 3, log=False)[2].answer == answer.answer
        assert [one.answer for one in handbook.ask_many(QUESTIONS, log=False)] == [one.answer for one in before]
        closed = handbook.ask_many(QUESTIONS, mode="closed-book", log=False)
        assert [one.answer for one in closed] == [one.answer for one in bare]

    def test_a_question_is_merged_as_it_is_asked(self, handbook: OpenCorpus) -> None:
        asked = handbook.ask("Who keeps the keys or serves tea?", k=2, merge="0.75,0.25", log=False)
        with handbook.merged("Who keeps the keys or serves tea?", k=2, merge="0.75,0.25") as merged:
            answer = merged.ask(asked.question, log=False)
        assert merged.weights == asked.weights == (0.75, 0.25)
        assert replace(answer, milliseconds={}) == replace(asked, milliseconds={})

    def test_documents_are_named_as_for_adapters(self, handbook: OpenCorpus) -> None:
        hit = handbook.search("tea")[0]
        for named in (hit, hit.document, hit.document.digest[:12]):
            with handbook.merged([named]) as merged:
                assert merged.hits[0].document == hit.document
                assert merged.ask("Where is tea served?", log=False).answer == "the observatory"

    def test_streams_and_records(self, handbook_home: Home, handbook: OpenCorpus) -> None:
        pieces: list[str] = []
        before = recorded(handbook_home)
        with handbook.merged("keys") as merged:
            answer = merged.ask("Who keeps the keys?", stream=pieces.append)
            assert recorded(handbook_home) == before + 1
        assert "".join(pieces) == answer.answer == "Doctor Marsh"

    def test_the_weights_come_back_after_an_error(self, handbook: OpenCorpus) -> None:
        def fail(_piece: str) -> None:
            raise OSError("the screen is gone")

        bare = handbook.ask("Who keeps the keys?", mode="closed-book", log=False).answer
        with handbook.merged("keys") as merged:
            with pytest.raises(OSError, match="screen"):
                merged.ask("Who keeps the keys?", stream=fail, log=False)
            assert merged.ask("Who keeps the keys?", log=False).answer == "Doctor Marsh"
        with pytest.raises(ZeroDivisionError), handbook.merged("keys"):
            _ = 1 / 0
        assert handbook.ask("Who keeps the keys?", mode="closed-book", log=False).answer == bare

    def test_nothing_else_asks_the_model_meanwhile(self, home: OpenRegistry, handbook: OpenCorpus) -> None:
        answers: list[str] = []
        thread = threading.Thread(
            target=lambda: answers.append(home.corpus("tea").ask("Where is tea served?", log=False).answer)
        )
        with handbook.merged("keys") as merged:
            for asking in (lambda: home.corpus("tea").ask("Who?"), lambda: handbook.merged("tea").__enter__()):
                with pytest.raises(UsageError, match="a merge is in the model's weights"):
                    asking()
            assert handbook.search("tea")
            thread.start()
            thread.join(0.1)
            assert not answers
            assert merged.ask("Who keeps the keys?", log=False).answer == "Doctor Marsh"
        thread.join()
        assert answers == ["the observatory"]
        with pytest.raises(UsageError, match="has ended"):
            merged.ask("Who keeps the keys?")

    def test_what_cannot_be_merged_is_refused(self, home: OpenRegistry, handbook: OpenCorpus) -> None:
        elsewhere = handbook.search("keys")[0]
        with pytest.raises(NotFoundError, match="nothing is merged"):
            handbook.merged("xyzzy").__enter__()
        with pytest.raises(NotFoundError, match="is not in tea@v1"):
            home.corpus("tea").merged([elsewhere]).__enter__()
        with pytest.raises(UsageError, match="0 documents"):
            handbook.merged([]).__enter__()
        with handbook.merged("keys") as merged:
            with pytest.raises(UsageError, match="is empty"):
                merged.ask(" ")
            with pytest.raises(UsageError, match="takes a list"):
                merged.ask_many("Who?")
            with pytest.raises(UsageError, match="512"):
                merged.ask("Who?", max_new_tokens=5000)
