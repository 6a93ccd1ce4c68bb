from __future__ import annotations

import pytest
import torch

from registry.augmentation.completion import Completer, Row, encode_after
from registry.base_model import LoadedModel

BEGINNING = "The lighthouse of Quarrel Point was built by Ottoline Marsh.\n"
TEXTS = ["Question:", "Where is the mill? The mill", "Every spring the ferry", "A"]


def rows(model: LoadedModel, **settings: float) -> tuple[list[Row], tuple[int, ...]]:
    beginning, encoded = encode_after(model.tokenizer, BEGINNING, TEXTS)
    seeded = [Row(tuple(ids), 12, seed=number, **settings) for number, ids in enumerate(encoded)]  # type: ignore[arg-type]
    return seeded, beginning


def test_a_batch_says_what_each_row_says_alone(tiny_model: LoadedModel) -> None:
    asked, beginning = rows(tiny_model)
    together = Completer(tiny_model, 8).complete(asked, beginning)
    for row, completion in zip(asked, together, strict=True):
        ids = torch.tensor([[*beginning, *row.ids]])
        whole = tiny_model.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=3
        )
        said = tiny_model.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert completion.text == said
        assert 0 < completion.tokens <= 12
        assert completion.elapsed_seconds > 0


def test_sampling_depends_on_the_seed_and_not_on_the_batch(tiny_model: LoadedModel) -> None:
    asked, beginning = rows(tiny_model, temperature=1.0)
    together = [one.text for one in Completer(tiny_model, 8).complete(asked, beginning)]
    reversed_pairs = Completer(tiny_model, 2).complete(asked[::-1], beginning)
    assert [one.text for one in reversed_pairs][::-1] == together
    other_seed = Row(asked[0].ids, 12, temperature=1.0, seed=99)
    [again, other] = Completer(tiny_model, 8).complete([asked[0], other_seed], beginning)
    assert again.text == together[0]
    assert other.text != again.text


def test_a_row_ends_with_its_stop(tiny_model: LoadedModel) -> None:
    asked, beginning = rows(tiny_model)
    [whole] = Completer(tiny_model, 1).complete(asked[:1], beginning)
    stop = whole.text[2]
    [cut] = Completer(tiny_model, 1).complete([Row(asked[0].ids, 12, stop=stop)], beginning)
    assert cut.text == whole.text[: whole.text.index(stop) + 1]
    assert cut.tokens < whole.tokens


@pytest.mark.parametrize("family", ["gemma2", "qwen3"])
def test_other_families_are_completed(family_path, family: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from registry.base_model import load, locate

    model = load(locate(str(family_path(family)), models_path=tmp_path), device="cpu", dtype="float32")
    asked, beginning = rows(model)
    together = [one.text for one in Completer(model, 8).complete(asked, beginning)]
    alone = [Completer(model, 1).complete([row], beginning)[0].text for row in asked]
    assert together == alone


def test_nothing_is_completed_of_nothing(tiny_model: LoadedModel) -> None:
    assert Completer(tiny_model, 4).complete([]) == []


def test_texts_are_encoded_as_they_follow(tiny_model: LoadedModel) -> None:
    beginning, encoded = encode_after(tiny_model.tokenizer, BEGINNING, TEXTS)
    for text, ids in zip(TEXTS, encoded, strict=True):
        assert tiny_model.tokenizer.decode([*beginning, *ids]) == BEGINNING + text


def test_rows_that_are_alike_are_computed_once_and_differ_by_seed(tiny_model: LoadedModel) -> None:
    asked, beginning = rows(tiny_model, temperature=1.0)
    [ids, other] = asked[0].ids, asked[1].ids
    mixed = [Row(ids, 12, temperature=1.0, seed=1), Row(other, 12), Row(ids, 12, temperature=1.0, seed=2)]
    together = [one.text for one in Completer(tiny_model, 8).complete(mixed, beginning)]
    assert together == [Completer(tiny_model, 8).complete([row], beginning)[0].text for row in mixed]
    assert together[0] != together[2]
