"""Asking: what an answer is made of, in every mode, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from sqlalchemy import text
from transformers import AutoModelForCausalLM

from registry.catalog.documents import fill_documents
from registry.catalog.listing import list_queries
from registry.catalog.members import members
from registry.documents import ReadOptions
from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.generation.runners.choosing import make_runner
from registry.merging.common import mean_adapter
from registry.merging.export import export_adapter
from registry.pipeline import common_part
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.common_part import COMMON_FOLDER
from registry.pipeline.export import export
from registry.pipeline.opened import opened
from registry.pipeline.query import Asker, Asking, open_asker
from registry.pipeline.recipes import RecipeRequest
from registry.pipeline.search import search
from registry.progress import Silent
from registry.records import MODES, Answer, Match, Mode
from registry.settings import Home, create_home
from registry.store.layout import read_layout
from tests.pipeline.conftest import write_sample

QUESTIONS = ["Who grinds blue barley?", "What does the ferry of Tarn carry?", "c++ OR (", "Which bell?"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Home:
    from registry.catalog import schema

    folder = tmp_path_factory.mktemp("built")
    sample = write_sample(folder / "sample")
    home = create_home(folder / "home")
    schema.upgrade(home.catalog_url)
    settings = {"epochs": 8, "rank": 2, "learning_rate": 1e-2}
    request = BuildRequest(
        sources=(str(sample.documents),),
        read=ReadOptions(),
        recipe=RecipeRequest(base_model=str(tiny_model_path), dtype="float32", settings=settings),
        augmenter=f"import:{sample.augmentations}",
        device="cpu",
        workers=1,
    )
    build(home, request, Silent())
    return home


@pytest.fixture
def asker(built: Home) -> Iterator[Asker]:
    with open_asker(built, "default", device="cpu") as asker:
        yield asker


def test_an_answer_says_what_it_was_made_of(built: Home, asker: Asker) -> None:
    (answer,) = asker.ask(QUESTIONS[:1], Asking(k=2))
    assert answer.version == "default@v1"
    assert answer.hits[0].document.title == "The Mill"
    assert len(answer.weights) == len(answer.hits)
    assert list(answer.milliseconds) == ["search", "load", "merge", "inject", "prefill", "decode"]
    assert all(milliseconds > 0 for milliseconds in answer.milliseconds.values())
    with opened(built) as registry:
        data = registry.adapters(hit.adapter_digest for hit in answer.hits)
        assert len(data) == len(answer.hits)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_answers_as_one_by_one(asker: Asker, mode: Mode) -> None:
    asking = Asking(mode=mode, k=2, max_new_tokens=8, log=False)
    together = list(asker.ask(QUESTIONS, asking))
    alone = [answer for question in QUESTIONS for answer in asker.ask([question], asking)]
    assert [answer.answer for answer in together] == [answer.answer for answer in alone]
    assert [answer.question for answer in together] == QUESTIONS
    passages = mode in ("rag", "combined")
    assert all((answer.prompt_tokens > 40) == (passages and bool(answer.hits)) for answer in together)


def test_adapters_change_answers_and_leave_no_trace(asker: Asker) -> None:
    bare = [answer.answer for answer in asker.ask(QUESTIONS, Asking(mode="closed-book", log=False))]
    adapted = [answer.answer for answer in asker.ask(QUESTIONS, Asking(log=False))]
    assert bare != adapted
    assert bare == [answer.answer for answer in asker.ask(QUESTIONS, Asking(mode="closed-book", log=False))]
    assert adapted == [answer.answer for answer in asker.ask(QUESTIONS, Asking(log=False))]


def test_more_documents_than_before_get_more_room(asker: Asker) -> None:
    one = [answer.answer for answer in asker.ask(QUESTIONS[:1], Asking(k=1, log=False))]
    assert len(next(iter(asker.ask(["the of Tarn bell mill ferry"], Asking(k=5, log=False)))).hits) >= 3
    assert one == [answer.answer for answer in asker.ask(QUESTIONS[:1], Asking(k=1, log=False))]


def test_questions_are_logged_unless_told_otherwise(built: Home, asker: Asker) -> None:
    def logged() -> int:
        with opened(built) as registry, registry.catalog.read() as session:
            return len(list(list_queries(session, limit=1000)))

    before = logged()
    list(asker.ask(QUESTIONS, Asking(log=False)))
    assert logged() == before
    list(asker.ask(QUESTIONS, Asking()))
    assert logged() == before + len(QUESTIONS)


def test_impossible_questions_are_refused(asker: Asker) -> None:
    for question, asking in (("  ", Asking()), ("fine", Asking(k=0)), ("fine", Asking(merge="heavy"))):
        with pytest.raises(UsageError):
            list(asker.ask([question], asking))
    with pytest.raises(UsageError):
        Asking(mode="psychic")  # type: ignore[arg-type]


def test_a_question_that_is_too_long_is_named(asker: Asker) -> None:
    with pytest.raises(UsageError, match=r"the prompt for the question 'bell bell .*\.\.\.' has") as refused:
        list(asker.ask(["fine", "bell " * 600], Asking(log=False)))
    assert "-k" not in str(refused.value.hint)
    with pytest.raises(UsageError) as refused:
        list(asker.ask(["mill"], Asking(mode="rag", max_new_tokens=500, log=False)))
    assert "fewer passages with -k" in str(refused.value.hint)


@pytest.mark.parametrize("merge", ["softmax", "uniform+common+orthogonal+cap:1.2"])
def test_the_model_computes_what_peft_does(built: Home, asker: Asker, tmp_path: Path, merge: str) -> None:
    """The logits after a question's prompt, against PEFT's merge of what `export` writes of the answer's adapters."""
    prepared = asker.prepare("the mill ferry lamp", Asking(k=3, merge=merge, log=False))
    request, hits = prepared.request, prepared.hits
    assert len(hits) == 3
    room = {"rows": 1, "context": 256, "cache_bytes": 0, "most_terms": 4}
    runner = make_runner(asker.loaded, asker.layout, asker.recipe.scale, **room)
    for entry, term in enumerate(request.terms):
        runner.put(entry, term.body)
    runner.inject(0, range(len(request.terms)), [term.factor for term in request.terms])
    ours, ids = runner.prefill([0], [request.ids]).clone(), torch.tensor([request.ids])
    export(built, [hit.adapter_digest for hit in hits], tmp_path)
    folders = [tmp_path / f"adapter-{hit.adapter_digest[:12]}" for hit in hits]
    weights = list(prepared.coefficients.hits)
    if prepared.coefficients.common:
        layout = read_layout((folders[0] / "adapter_model.safetensors").read_bytes())
        folders.append(tmp_path / "common")
        data = layout.serialise(asker.common())
        export_adapter(data, folders[-1], recipe=asker.recipe, base_model=asker.base_model)
        weights.append(prepared.coefficients.common)
    assert len(weights) == 3 + ("common" in merge)
    base = AutoModelForCausalLM.from_pretrained(asker.base_model.reference, dtype=torch.float32)
    with torch.inference_mode():
        bare = base(input_ids=ids).logits[:, -1]
    names = [f"adapter_{number}" for number in range(len(folders))]
    model = PeftModel.from_pretrained(base, str(folders[0]), adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    model.base_model.add_weighted_adapter(names, weights, "merged", combination_type="cat")
    model.set_adapter("merged")
    with torch.inference_mode():
        theirs = model(input_ids=ids).logits[:, -1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (theirs - bare).abs().max() > 1e-2


def test_the_common_part_is_made_once_and_again_where_damaged(built: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(merge: str) -> list[Answer]:
        with open_asker(built, "default", device="cpu") as asker:
            return list(asker.ask(QUESTIONS, Asking(k=3, merge=merge, max_new_tokens=8, log=False)))

    fresh = answers("uniform+common+cap")
    (file,) = (built.path / COMMON_FOLDER).iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + b"\0\0\0\1")
    again = answers("uniform+common+cap")
    assert file.read_bytes() == whole
    monkeypatch.setattr(common_part, "mean_adapter", lambda *_: pytest.fail("the common part was made again"))
    remembered = answers("uniform+common+cap")
    for answer, *others in zip(fresh, again, remembered, strict=True):
        assert all(replace(one, milliseconds=answer.milliseconds) == answer for one in others)
        assert (answer.common_weight == 0) == (len(answer.hits) < 2)
        assert len(answer.weights) == len(answer.hits)
    assert all(answer.common_weight == 0 for answer in answers("uniform+cap"))


def test_a_method_with_the_common_part_gets_room_for_it(asker: Asker) -> None:
    asked = ["the of Tarn bell mill ferry"]
    plain = next(iter(asker.ask(asked, Asking(k=3, merge="1,1,1", log=False))))
    (answer,) = asker.ask(asked, Asking(k=3, merge="uniform+common+orthogonal", log=False))
    assert len(answer.hits) == 3
    assert all([*answer.weights, answer.common_weight])
    assert list(answer.milliseconds) == list(plain.milliseconds)
    assert next(iter(asker.ask(asked, Asking(k=3, merge="1,1,1", log=False)))).answer == plain.answer


def test_the_common_part_is_the_mean_of_the_version(built: Home, asker: Asker) -> None:
    with opened(built) as registry, registry.catalog.read() as session:
        digests = [adapter for _, adapter in members(session, asker.version)]
        data = registry.adapters(digests)
        layout = read_layout(data[digests[0]])
        assert mean_adapter(layout, [layout.body(data[digest]) for digest in digests]).body == asker.common()


def test_an_index_that_turns_out_damaged_is_made_anew(built: Home) -> None:
    _, before = search(built, "default", QUESTIONS[0], 2)
    with open_asker(built, "default", device="cpu") as asker:
        folder = built.index_folder(asker.version)
        damage(folder)
        (answer,) = asker.ask(QUESTIONS[:1], Asking(k=2, log=False))
    assert answer.hits == before
    damage(folder)
    assert search(built, "default", QUESTIONS[0], 2)[1] == before
    with open_asker(built, "default", device="cpu") as asker:
        damage(folder)
        assert next(iter(asker.ask(QUESTIONS[:1], Asking(k=2, log=False)))).hits == before


def damage(index: Path) -> None:
    """Change bytes of an index in place, of a size that stays, as a failing disk does."""
    for path in index.glob("*.idx"):
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.write(bytes(byte ^ 0xFF for byte in content[: len(content) // 2]))


def test_a_corpus_that_is_not_there_is_refused(built: Home) -> None:
    with pytest.raises(NotFoundError, match="nowhere"), open_asker(built, "nowhere", device="cpu"):
        pass


def test_damaged_bytes_are_not_answered_from(built: Home) -> None:
    (pack,) = Path(built.packs_url).rglob("*.safetensors")
    whole = pack.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 3 :: 1000] = bytes(byte ^ 1 for byte in damaged[len(damaged) // 3 :: 1000])
    try:
        pack.write_bytes(damaged)
        with open_asker(built, "default", device="cpu") as asker, pytest.raises(IntegrityError):
            list(asker.ask(["the mill ferry lamp bell well gate kite"], Asking(k=7, log=False)))
    finally:
        pack.write_bytes(whole)


def test_without_texts_nothing_is_found_and_no_passage_shown(built: Home) -> None:
    with open_asker(built, "default", device="cpu") as asker:
        (found,) = asker.retrieve(QUESTIONS[:1], 1)
    gold = [[Match(found[0].document.digest, 1.0)]]
    with opened(built) as registry, registry.catalog.write() as session:
        whole = [document for document, _ in members(session, registry.version("default"))]
        session.execute(text("UPDATE documents SET title = '', text = '', characters = 0, withheld = true"))
    try:
        with open_asker(built, "default", device="cpu") as asker:
            for mode in ("prag", "rag"):
                with pytest.raises(NotFoundError, match="their texts are not here"):
                    list(asker.ask(QUESTIONS[:1], Asking(mode=mode, k=1, log=False)))
            (answer,) = asker.ask(QUESTIONS[:1], Asking(mode="prag", k=1, log=False), gold=gold)
            assert answer.hits[0].adapter_digest == found[0].adapter_digest
            with pytest.raises(NotFoundError, match="withheld: its text is not here to be shown"):
                list(asker.ask(QUESTIONS[:1], Asking(mode="rag", k=1, log=False), gold=gold))
            assert len(list(asker.ask(QUESTIONS[:1], Asking(mode="closed-book", log=False)))) == 1
    finally:
        with opened(built) as registry, registry.catalog.write() as session:
            assert fill_documents(session, whole) == len(whole)
    assert search(built, "default", QUESTIONS[0], 1)[1] == found
