from __future__ import annotations

import random

import pytest

from registry.documents import cut_passages
from registry.errors import UsageError

ENGLISH = "The lamp of Orrinsay was lit in 1832. Dr. Vell kept it for 31 years, at 4.5 crowns a week! Was it enough? "
CHINESE = "白沙镇的灯塔建于一八三二年。守塔人名叫林远，他在那里住了三十一年！每天晚上他都点灯。"
JAPANESE = "オリンゼイの灯台は１８３２年に建てられた。「灯を消すな」と彼は言った。島には四十人が住んでいる。"
THAI = "ประภาคารแห่งนี้สร้างขึ้นเมื่อนานมาแล้ว ผู้เฝ้าประภาคารอาศัยอยู่ที่นั่นสามสิบเอ็ดปี "
KHMER = "ប៉មភ្លើងនេះត្រូវបានសាងសង់តាំងពីយូរមកហើយ។ អ្នកយាមរស់នៅទីនោះ។ "


def without_space(text: str) -> str:
    return "".join(text.split())


def test_a_text_of_at_most_five_quarters_of_the_limit_stays_whole() -> None:
    text = " ".join(f"Word{number}." for number in range(125))
    assert cut_passages(f"  {text}\n", 100, "en") == [text]
    assert len(cut_passages(f"{text} More.", 100, "en")) == 2


def test_white_space_gives_no_passage() -> None:
    assert cut_passages("", 100, "en") == []
    assert cut_passages(" \n\t\n" * 500, 10, "en") == []


def test_passages_end_where_sentences_end_and_are_balanced() -> None:
    passages = cut_passages(ENGLISH * 20, 100, "en")
    lengths = [len(passage.split()) for passage in passages]
    assert all(passage.endswith((".", "!", "?")) for passage in passages)
    assert sum(lengths) == len((ENGLISH * 20).split())
    assert max(lengths) <= 125
    assert min(lengths) >= 80


def test_abbreviations_and_decimals_end_no_sentence() -> None:
    passages = cut_passages(ENGLISH * 20, 10, "en")
    assert not any(passage.startswith(("Vell", "5 crowns")) for passage in passages)


def test_a_little_over_the_limit_is_halved_and_not_left_with_a_stub() -> None:
    text = " ".join(f"Ship number {number} sailed to the island again." for number in range(17))
    lengths = [len(passage.split()) for passage in cut_passages(text, 100, "en")]
    assert lengths in ([64, 72], [72, 64])


def test_a_paragraph_end_is_preferred_to_a_sentence_end() -> None:
    sentence = "One two three four five six seven eight nine ten. "
    text = (sentence * 9).strip() + "\n\n" + (sentence * 8).strip()
    first, second = cut_passages(text, 100, "en")
    assert len(first.split()) == 90
    assert len(second.split()) == 80
    uneven = (sentence * 10).strip() + "\n\n" + (sentence * 7).strip()
    assert len(cut_passages(uneven, 100, "en")[0].split()) == 100
    assert len(cut_passages(uneven.replace("\n\n", " "), 100, "en")[0].split()) < 100


def test_a_long_sentence_is_cut_between_words() -> None:
    words = [f"word{number}" for number in range(437)]
    passages = cut_passages(" ".join(words), 100, "en")
    assert " ".join(passages).split() == words
    assert {len(passage.split()) for passage in passages} <= {87, 88}


def test_a_long_list_without_full_stops_is_cut_at_line_ends() -> None:
    lines = [f"- harbour dues of berth {number} are owed" for number in range(60)]
    passages = cut_passages("\n".join(lines), 50, "en")
    assert "\n".join(passages).split("\n") == lines


def test_a_word_is_never_cut_however_long() -> None:
    blob = "x" * 5000
    assert cut_passages(f"{blob} is an address. " * 3, 1, "en") == [blob, "is", "an", "address."] * 3


def test_white_space_of_all_kinds_is_kept() -> None:
    text = "They had plan B\u00a0. Dr.\u202fVell had plan C\u2009.\u3000And plan D\u2028. " * 20
    passages = cut_passages(text, 20, "en")
    assert len(passages) > 10
    assert without_space("".join(passages)) == without_space(text)
    assert not any("Dr." in passage[-4:] for passage in passages)


def test_a_full_stop_inside_a_word_parts_nothing() -> None:
    text = "See orrinsay.example/Lamp.Keepers?Old!New for more. " * 40
    words = {word for passage in cut_passages(text, 20, "en") for word in passage.split()}
    assert words == set(text.split())


@pytest.mark.parametrize(
    ("language", "text", "characters_a_word"),
    [("zh", CHINESE, 2), ("ja", JAPANESE, 2), ("th", THAI, 5), ("km", KHMER, 5), ("en", CHINESE, 2), ("en", THAI, 5)],
)
def test_scripts_without_spaces_are_counted_in_characters(language: str, text: str, characters_a_word: int) -> None:
    text *= 60
    passages = cut_passages(text, 50, language)
    assert without_space("".join(passages)) == without_space(text)
    lengths = [len(without_space(passage)) for passage in passages]
    assert max(lengths) <= 1.25 * 50 * characters_a_word
    assert min(lengths) >= 0.5 * 50 * characters_a_word


def test_chinese_is_cut_at_sentence_ends() -> None:
    assert all(passage[-1] in "。！" for passage in cut_passages(CHINESE * 60, 50, "zh"))


def test_chinese_without_any_punctuation_is_cut_into_equal_parts() -> None:
    passages = cut_passages("灯" * 10_000, 100, "en")
    assert "".join(passages) == "灯" * 10_000
    assert {len(passage) for passage in passages} == {200}


def test_a_cut_between_characters_keeps_marks_and_closing_brackets() -> None:
    text = "「灯塔」、" * 400
    assert not any(passage[0] in "」、" for passage in cut_passages(text, 20, "ja"))
    marks = "เกี่" * 800
    assert not any(passage[0] in "ี่" or passage[-1] == "เ" for passage in cut_passages(marks, 20, "th"))


def test_foreign_words_in_chinese_are_not_cut() -> None:
    passages = cut_passages("灯塔Orrinsay的Lighthouse" * 200, 10, "zh")
    joined = " ".join(passages)
    assert joined.count("Orrinsay") == joined.count("Lighthouse") == 200


def test_nothing_is_lost_whatever_the_text() -> None:
    chance = random.Random(20)
    parts = [
        "a ",
        "word",
        ". ",
        "! ",
        "\n",
        "\n\n",
        "\t",
        "(",
        '"',
        "Dr. ",
        "3.5 ",
        "é",
        "e\u0301",
        "灯",
        "。",
        "ก",
        "ี่",
    ]
    parts += ["한국 ", "\u2028", "\u00a0", "\u3000", "😀", "\ufeff", "example.org/A.B ", "’", "。」", "Mr", "\x85"]
    for _ in range(1000):
        text = "".join(chance.choices(parts, k=chance.randrange(1, 120)))
        words = chance.choice([1, 2, 3, 7, 20])
        passages = cut_passages(text, words, chance.choice(["en", "zh", "th", "de", "xx"]))
        assert without_space("".join(passages)) == without_space(text)
        assert all(passage and passage == passage.strip() for passage in passages)
        if words == 20:  # long enough for any run of marks: passages are not cut again
            assert [again for passage in passages for again in cut_passages(passage, words, "en")] == passages


def test_words_between_spaces_survive_whole() -> None:
    chance = random.Random(21)
    for _ in range(100):
        words = ["".join(chance.choices("abcÀé.,!?'\"()-", k=chance.randrange(1, 12))) for _ in range(300)]
        text = " ".join(words)
        passages = cut_passages(text, 15, "en")
        assert " ".join(passages).split() == text.split()
        assert max(len(passage.split()) for passage in passages) <= 18


def test_passages_need_a_word() -> None:
    with pytest.raises(UsageError):
        cut_passages("text", 0, "en")
