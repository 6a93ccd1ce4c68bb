import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from registry.base_model import ModelFiles, load_tokenizer
from registry.generation.text import AnswerText, Stripped
from tests.model_fixtures import tiny_tokenizer

FOREIGN = "Grüße, 你好 𝄞 — 👩‍👩‍👧 ﬁn\u0301 \ufffd Привет\n\t  ende "
PIECES = ("▁", "▁mill", "▁", " ", "s", "▁▁", "stop", "ing", "ü", "你", ".", "▁.", "<", "0x", "\n", "'s")


def sentence_piece(*, strips: bool = True, decoder: Any = None) -> Any:
    """A tokenizer that decodes as Llama 2's does, with tokens for bytes."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(PIECES)]
    tokenizer = Tokenizer(models.BPE({piece: n for n, piece in enumerate(vocabulary)}, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoder or decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strips else [])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def words(decoder: Any) -> Any:
    """A tokenizer with a decoder that is none of the usual ones."""
    pieces = ["[UNK]", "mill", "##s", "▁the", "river</w>", "runs", "▁", ",", "##ed", "you", "##你", "don", "'t"]
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[UNK]")


def byte_level() -> Any:
    """The tiny models' tokenizer with tokens that users added: for text, with a letter of its alphabet, special."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(" a word of its own "), AddedToken("é"), AddedToken("Ġ")])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level in a sequence": lambda: PreTrainedTokenizerFast(
        tokenizer_object=_with_decoder(tiny_tokenizer(), decoders.Sequence([decoders.ByteLevel()])), eos_token="<|pad|>"
    ),
    "sentence piece": sentence_piece,
    "sentence piece that keeps the first space": lambda: sentence_piece(strips=False),
    "metaspace": lambda: words(decoders.Metaspace()),
    "word pieces": lambda: words(decoders.WordPiece()),
    "words with ends": lambda: words(decoders.BPEDecoder("</w>")),
    "no decoder": lambda: words(None),
}


def _with_decoder(tokenizer: Any, decoder: Any) -> Tokenizer:
    tokenizer.backend_tokenizer.decoder = decoder
    return tokenizer.backend_tokenizer


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def tiny() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def llama() -> Any:
    return sentence_piece()


def told(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], str, int]:
    """The pieces, the text, and how many tokens were taken."""
    pieces: list[str] = []
    answer = AnswerText(tokenizer, stop, pieces.append)
    taken = next((number for number, token in enumerate(tokens, start=1) if answer.add(token)), len(tokens))
    return pieces, answer.finish(), taken


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the stop string that is complete first, of several the longest; letter by letter."""
    for end in range(len(text) + 1):
        if complete := [one for one in stop if text[:end].endswith(one)]:
            return text[: end - max(map(len, complete))]
    return text


def is_whole(tokenizer: Any, tokens: Sequence[int]) -> bool:
    """Whether byte tokens (``<0xE4>``) among these are characters; with those that are not, libraries differ."""
    names = tokenizer.convert_ids_to_tokens(list(tokens))
    return "<0x" not in "".join(map(str, names)) or "\ufffd" not in decoded(tokenizer, tokens)


def pieces_of(tokenizer: Any, randomness: random.Random) -> list[int]:
    """Random tokens, some of them of texts with all kinds of characters, whole and cut."""
    tokens: list[int] = []
    for _ in range(randomness.randrange(1, 7)):
        start, size = randomness.randrange(len(FOREIGN)), randomness.randrange(1, 12)
        tokens += randomness.choice(
            (
                [randomness.randrange(len(tokenizer))],
                tokenizer(FOREIGN, add_special_tokens=False)["input_ids"][start : start + size],
                tokenizer(FOREIGN[start : start + size], add_special_tokens=False)["input_ids"],
                tokenizer("you the mills " * size, add_special_tokens=False)["input_ids"][:size],
            )
        )
    return tokens


class TestTextIsWhatTheTokenizerDecodes:
    def test_of_random_tokens(self, tokenizer: Any) -> None:
        randomness = random.Random(11)
        compared = 0
        for _ in range(300):
            tokens = pieces_of(tokenizer, randomness)
            pieces, text, _ = told(tokenizer, tokens)
            assert "".join(pieces) == text
            if is_whole(tokenizer, tokens):
                assert text == decoded(tokenizer, tokens), tokenizer.convert_ids_to_tokens(tokens)
                compared += 1
        assert compared > 50

    def test_of_every_token_alone_and_after_another(self, tokenizer: Any) -> None:
        for token in range(len(tokenizer)):
            for tokens in ([token], [len(tokenizer) - 1, token], [token, token]):
                if is_whole(tokenizer, tokens):
                    assert told(tokenizer, tokens)[1] == decoded(tokenizer, tokens)

    def test_of_tokens_that_only_the_model_has(self, tokenizer: Any) -> None:
        assert told(tokenizer, [5, len(tokenizer) + 40, 6])[1] == decoded(tokenizer, [5, 6])

    def test_of_random_tokens_of_the_default_model(self, smollm2_files: ModelFiles) -> None:
        tokenizer, randomness = load_tokenizer(smollm2_files), random.Random(3)
        for _ in range(300):
            tokens = pieces_of(tokenizer, randomness)
            pieces, text, _ = told(tokenizer, tokens)
            assert "".join(pieces) == text == decoded(tokenizer, tokens)
        every = list(range(len(tokenizer)))
        randomness.shuffle(every)
        assert told(tokenizer, every)[1] == decoded(tokenizer, every)


class TestPieces:
    def test_are_told_with_the_token_that_ends_them(self, tiny: Any) -> None:
        tokens = tiny("The mill stands on the river Ense")["input_ids"]
        pieces, _, _ = told(tiny, tokens)
        assert pieces == [tiny.decode([token]) for token in tokens]

    @pytest.mark.parametrize("character", ["ü", "你", "𝄞", "\u0301"])
    def test_are_whole_characters(self, tiny: Any, llama: Any, character: str) -> None:
        for tokenizer in (tiny, llama):
            pieces, text, _ = told(tokenizer, tokenizer(f"x{character}x", add_special_tokens=False)["input_ids"])
            assert text == f"x{character}x"
            assert character in pieces

    def test_of_characters_that_never_end_come_with_the_next_letter_or_the_end(self, tiny: Any) -> None:
        first, second, _ = (tiny.convert_tokens_to_ids(one) for one in "ä½ł")  # the bytes of a Chinese letter
        letter = tiny("a")["input_ids"][0]
        assert told(tiny, [first, second, letter])[0] == ["\ufffda"]
        assert told(tiny, [first, second])[0] == ["\ufffd"]
        assert told(tiny, [first] * 5)[0] == ["\ufffd"] * 5

    def test_hold_no_special_tokens(self, tiny: Any) -> None:
        tokens = [1, *tiny("mill")["input_ids"], 2, 3]
        pieces, text, _ = told(tiny, tokens)
        assert "".join(pieces) == text == "mill"
        assert all(pieces)

    def test_are_not_needed(self, tiny: Any) -> None:
        answer = AnswerText(tiny, (), None)
        for token in tiny("The mill")["input_ids"]:
            assert not answer.add(token)
        assert answer.finish() == "The mill"

    def test_a_text_without_tokens_is_empty(self, tokenizer: Any) -> None:
        assert told(tokenizer, []) == ([], "", 0)

    def test_finishing_twice_tells_nothing_twice(self, tiny: Any) -> None:
        pieces: list[str] = []
        answer = AnswerText(tiny, ("river Ense",), pieces.append)
        for token in tiny("on the river")["input_ids"]:
            answer.add(token)
        assert answer.finish() == answer.finish() == "".join(pieces) == "on the river"


class TestSpacesAtTheBeginning:
    def test_of_byte_level_tokens_stay(self, tiny: Any) -> None:
        assert told(tiny, tiny(" the mill")["input_ids"])[1] == " the mill"

    def test_one_of_a_sentence_piece_goes_and_others_stay(self, llama: Any) -> None:
        ids = llama.convert_tokens_to_ids
        assert told(llama, [ids("▁mill"), ids("▁mill")])[0] == ["mill", " mill"]
        assert told(llama, [ids("▁"), ids("▁mill")])[0] == [" mill"]
        assert told(llama, [ids("▁▁"), ids("s")])[0] == [" ", "s"]
        assert told(llama, [1, ids("▁mill")])[1] == "mill"  # a special token is not the beginning
        assert told(llama, [ids("s"), ids("▁mill")])[1] == "s mill"

    def test_bytes_of_a_sentence_piece_stay_characters_where_worse_follows(self, llama: Any) -> None:
        tokens = llama.convert_tokens_to_ids(["<0xC3>", "<0xBC>", "<0xE4>", "s"])
        assert told(llama, tokens)[0] == ["ü", "\ufffds"]  # the first is told before the second is known


class TestStopStrings:
    def test_across_tokens_at_every_place(self, tiny: Any) -> None:
        text = "The mill stands on the river Ense, between the old bridge and the salt market."
        tokens = tiny(text)["input_ids"]
        for start in range(len(text)):
            for length in (1, 2, 5, 9):
                stop = text[start : start + length]
                pieces, before, taken = told(tiny, tokens, [stop])
                assert "".join(pieces) == before == text[: text.index(stop)]
                end = len(before) + len(stop)
                assert len(tiny.decode(tokens[: taken - 1])) < end <= len(tiny.decode(tokens[:taken]))

    def test_of_random_texts(self, tokenizer: Any) -> None:
        randomness = random.Random(23)
        stopped = 0
        for _ in range(400):
            tokens = [token for token in pieces_of(tokenizer, randomness) for _ in range(randomness.choice((1, 1, 3)))]
            _, text, _ = told(tokenizer, tokens)
            stop = [_part(text, randomness) for _ in range(randomness.randrange(1, 5))]
            pieces, before, taken = told(tokenizer, tokens, stop)
            assert "".join(pieces) == before == cut(text, stop)
            stopped += taken < len(tokens)
        assert stopped > 50

    @pytest.mark.parametrize(
        ("text", "stop", "before"),
        [
            ("aaab", ["aab"], "a"),
            ("ababac", ["abac"], "ab"),
            ("abcd", ["abcd", "bc"], "a"),
            ("abcd", ["cd", "bcd"], "a"),
            ("abcd", ["a"], ""),
            ("abcd", ["x", "abcde"], "abcd"),
            ("a\n\nb", ["\n\n"], "a"),
            ("a ab aba abaX", ["abaX"], "a ab aba "),
            ("one two", ["one two three"], "one two"),
        ],
    )
    def test_that_overlap(self, tiny: Any, text: str, stop: list[str], before: str) -> None:
        letters = [tiny(letter)["input_ids"][0] for letter in text]
        for tokens in (letters, tiny(text)["input_ids"]):
            pieces, found, _ = told(tiny, tokens, stop)
            assert "".join(pieces) == found == before

    def test_hold_back_only_what_may_be_their_beginning(self, tiny: Any) -> None:
        pieces: list[str] = []
        answer = AnswerText(tiny, ["###", "end."], pieces.append)
        shown = []
        for letter in "a ## b en":
            answer.add(tiny(letter)["input_ids"][0])
            shown.append("".join(pieces))
        assert shown == ["a", "a ", "a ", "a ", "a ## ", "a ## b", "a ## b ", "a ## b ", "a ## b "]
        assert answer.finish() == "a ## b en"

    def test_within_a_token_end_the_text_before_them(self, tiny: Any) -> None:
        tokens = tiny("The river")["input_ids"]
        assert told(tiny, tokens, ["riv"])[1] == "The "

    def test_nothing_comes_after_one(self, tiny: Any) -> None:
        pieces: list[str] = []
        answer = AnswerText(tiny, ["mill"], pieces.append)
        tokens = tiny("The mill stands on the river")["input_ids"]
        stopped = [answer.add(token) for token in tokens]
        assert stopped == sorted(stopped)
        assert stopped[-1]
        assert answer.finish() == "".join(pieces) == "The "

    def test_that_are_complete_only_at_the_end(self, tiny: Any) -> None:
        half = tiny.convert_tokens_to_ids("ä")
        pieces, text, _ = told(tiny, [*tiny("mill")["input_ids"], half], ["l\ufffd"])
        assert "".join(pieces) == text == "mil"


def test_white_space_around_a_text_is_not_told() -> None:
    randomness = random.Random(5)
    for _ in range(300):
        text = "".join(randomness.choice(("a", "b c", " ", "\n", "\u3000", "\t ")) for _ in range(8))
        pieces: list[str] = []
        told_to = Stripped(pieces.append)
        rest = text
        while rest:
            size = randomness.randrange(1, 4)
            told_to(rest[:size])
            rest = rest[size:]
        assert "".join(pieces) == text.strip()
        assert all(pieces)
    pieces = []
    told_to = Stripped(pieces.append)
    for piece in (" ", " a", " ", "b ", " c", " "):
        told_to(piece)
    assert pieces == ["a", " b", "  c"]


def _part(text: str, randomness: random.Random) -> str:
    if not text or randomness.random() < 0.3:
        return randomness.choice(("xyzzy", " ", "  ", "e", "er", "\ufffd"))
    start = randomness.randrange(len(text))
    return text[start : start + randomness.randrange(1, 9)]


def test_a_token_costs_the_same_at_any_length(tokenizer: Any) -> None:
    """The tokens that are worst: of a character that never ends, and of a stop string that is never complete."""
    stop = ("a" * 100_000 + "b",)
    token = tokenizer.convert_tokens_to_ids("ä") or 7
    answer = AnswerText(tokenizer, stop, None)
    times = []
    for _ in range(8):
        started = time.process_time()
        for _ in range(1000):
            answer.add(token)
        times.append(time.process_time() - started)
    assert min(times[-3:]) < 3 * max(min(times[:3]), 0.001)


def test_a_long_stop_string_costs_nothing_until_its_letters_come(tiny: Any) -> None:
    letter = tiny("a")["input_ids"][0]
    stop = ["a" * 20_000 + "b"] * 16
    started = time.process_time()
    answer = AnswerText(tiny, stop, None)
    first = time.process_time() - started
    assert first < 0.1
    for _ in range(2000):
        answer.add(letter)
    assert time.process_time() - started < 2
    assert answer.finish() == "a" * 2000
