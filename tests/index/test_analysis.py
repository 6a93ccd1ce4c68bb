from __future__ import annotations

import pytest

from registry.index.analysis import STOP_WORDS, analyser_of


def terms(language: str, text: str) -> list[str]:
    analyser = analyser_of(language)
    return analyser.tantivy.analyze(analyser.prepare(text))


def test_english_is_stemmed_without_stop_words_possessives_and_accents() -> None:
    assert terms("en", "The keeper's lanterns were BURNING at Café Orléans") == [
        "keeper", "lantern", "were", "burn", "cafe", "orlean",
    ]  # fmt: skip
    assert terms("en", "Veli’s and VELI'S") == ["veli", "veli"]
    assert terms("en", STOP_WORDS) == []
    assert len(STOP_WORDS.split()) == 33


@pytest.mark.parametrize("code", ["en", "EN", "en-GB", "en_US"])
def test_regions_share_a_language(code: str) -> None:
    assert analyser_of(code).language == "en"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("de", "Häuser und Straßen", ["haus", "und", "strass"]),
        ("fr", "les lumières brûlées", ["le", "lumi", "brul"]),
        ("ru", "красные дома", ["красн", "дом"]),
        ("pl", "Żółte łodzie", ["żółte", "łodzie"]),
        ("", "Any Words", ["any", "words"]),
        ("xx", "Any Words", ["any", "words"]),
        ("hi", "हिन्दी भाषा", ["हिन्दी", "भाषा"]),
    ],
)
def test_other_languages(language: str, text: str, expected: list[str]) -> None:
    assert terms(language, text) == expected


@pytest.mark.parametrize("language", ["ja", "zh", "en"])
def test_text_without_spaces_becomes_pairs_and_characters(language: str) -> None:
    assert terms(language, "東京塔") == ["東京", "京塔", "東", "京", "塔"]
    assert terms(language, "Kino映画200年") == ["kino", "映画", "映", "画", "200", "年"]
    assert analyser_of(language).question_terms("東京塔 映") == ["東京", "京塔", "映"]


def test_scripts_without_spaces() -> None:
    assert terms("ko", "물은 차다") == ["물은", "물", "은", "차다", "차", "다"]
    assert terms("ja", "ｶﾞｽ灯") == ["ガス", "ス灯", "ガ", "ス", "灯"]
    assert terms("th", "ทะเล")[:3] == ["ทะ", "ะเ", "เล"]


def test_compatibility_forms_are_unified() -> None:
    assert terms("en", "ﬁlter ＡＢＣ") == terms("en", "filter ABC")


def test_question_words_are_left_out_unless_alone() -> None:
    analyser = analyser_of("en")
    assert analyser.question_terms("Who did the lamp of Who belong to?") == ["lamp", "belong"]
    assert analyser.question_terms("Who?") == ["who"]
    assert analyser.question_terms("to be or not to be") == []
    assert analyser_of("de").question_terms("who did") == ["who", "did"]


def test_any_text_is_analysed() -> None:
    analyser = analyser_of("en")
    assert analyser.question_terms('c++ OR ("') == ["c"]
    assert analyser.question_terms("") == []
    assert analyser.question_terms("\0lamp\0 😀 \ud800oil") == ["lamp", "oil"]
    assert analyser.question_terms("lamp " * 5000 + "x" * 1000) == ["lamp"]
