"""The rows of an invented catalog of many documents, for `benchmarks.reports`; nothing in it was trained.

Every table is a generator of tuples, in the order of its columns, so that any database takes them its fastest way.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.digests import sha256_hex, text_key
from registry.recipe import Recipe

Row = tuple[object, ...]

SHARES = (("encyclopedia", 0.6, 0), ("press", 0.25, 2), ("law", 0.1, 1), ("minutes", 0.049, 3), ("faq", 0.001, 3))
"""Corpora: name, share of the documents, number of its recipe."""
BUILDS = 20
VERSIONS = 10
HITS = 3
FILLER = "and the keeper of the lamp wrote down every ship that passed in fair weather and in foul, " * 4
START = datetime(2026, 1, 1)
LIBRARIES = json.dumps({"torch": "2.13.0", "numpy": "2.4.0"})
BASES = tuple(sha256_hex(f"base {number}".encode()) for number in range(2))
RECIPES = tuple(
    Recipe(base_model=BASES[base], rank=rank, epochs=epochs)
    for base, rank, epochs in ((0, 2, 1), (0, 4, 3), (0, 4, 5), (1, 8, 5))
)


@dataclass(frozen=True)
class Size:
    """How much there is."""

    documents: int
    queries: int
    evaluations: int = 20


@dataclass(frozen=True)
class Corpus:
    """The documents ``first`` to ``last - 1`` belong to it, and it was built from them in equal parts."""

    id: int
    name: str
    first: int
    last: int
    recipe_id: int

    def build_of(self, number: int) -> int:
        return (self.id - 1) * BUILDS + 1 + (number - self.first) * BUILDS // (self.last - self.first)

    def version_of(self, number: int) -> int:
        """The version that a document came with: nine tenths with the first."""
        place = (number - self.first) / (self.last - self.first)
        return 1 if place < 0.9 else 2 + int((place - 0.9) * 10 * (VERSIONS - 1))


def corpora_of(size: Size) -> list[Corpus]:
    """Return the corpora, which share the documents among them."""
    found, first = [], 1
    for index, (name, share, recipe) in enumerate(SHARES, start=1):
        last = size.documents + 1 if index == len(SHARES) else first + int(size.documents * share)
        found.append(Corpus(index, name, first, last, recipe + 1))
        first = last
    return found


def moment(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(sep=" ", timespec="microseconds")


def digest(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


def text_of(number: int) -> str:
    # One in a hundred has the text of the one before, under another title.
    own = number - 1 if number % 100 == 0 else number
    return f"Beacon {own} on the Ostrel coast was lit by keeper number {own}, {FILLER}"


def tables(size: Size) -> list[tuple[str, tuple[str, ...], Callable[[], Iterator[Row]]]]:
    """Return every table with its columns and its rows, referred ones first."""
    corpora = corpora_of(size)
    every = [(corpus, number) for corpus in corpora for number in (corpus.first, corpus.last)]
    assert every[-1][1] == size.documents + 1

    def numbered() -> Iterator[tuple[Corpus, int]]:
        for corpus in corpora:
            for number in range(corpus.first, corpus.last):
                yield corpus, number

    def base_models() -> Iterator[Row]:
        for number, fingerprint in enumerate(BASES, start=1):
            yield number, fingerprint, f"invented/base-{number}", None, "LlamaForCausalLM", 135_000_000, moment(0)

    def recipes() -> Iterator[Row]:
        for number, recipe in enumerate(RECIPES, start=1):
            base = BASES.index(recipe.base_model) + 1
            yield number, recipe.digest, base, json.dumps(recipe.canonical), moment(number)

    def corpus_rows() -> Iterator[Row]:
        for corpus in corpora:
            yield corpus.id, corpus.name, "en", moment(corpus.id)

    def builds() -> Iterator[Row]:
        for corpus in corpora:
            for number in range(BUILDS):
                own = (corpus.last - corpus.first) // BUILDS
                begin = (corpus.id * BUILDS + number) * 90_000
                counts = (1, own, own, 0, own, 0, 0, own * 250_000)
                who = ("ada", "mill", 100, "finished", None, moment(begin), moment(begin + 80_000))
                yield ((corpus.id - 1) * BUILDS + 1 + number, corpus.id, corpus.recipe_id, "", *who, *counts)

    def sources() -> Iterator[Row]:
        for corpus in corpora:
            yield corpus.id, f"{corpus.name}.jsonl", moment(0)

    def documents() -> Iterator[Row]:
        for number in range(1, size.documents + 1):
            text = text_of(number)
            yield (
                number,
                digest("document", number),
                f"Beacon {number}",
                text,
                len(text),
                moment(number),
                text_key(text),
            )

    def augmentations() -> Iterator[Row]:
        payload = json.dumps({"rewrites": [FILLER], "qa": [{"question": FILLER, "answer": "a lamp"}]})
        for number in range(1, size.documents + 1):
            generator = ("self", "openai:gpt", "import")[number % 3 if number % 7 else 0]
            own = (digest("augmentation", number), number, generator, "1", payload, 1, number % 5 + 1)
            yield number, *own, moment(number)

    def requests() -> Iterator[Row]:
        for number in range(1, size.documents + 1):
            yield number, digest("request", number % 3), number, number % 4, number % 2, 400, 2.5, moment(number)

    def adapters() -> Iterator[Row]:
        chance = random.Random(0)
        for corpus, number in numbered():
            loss = chance.lognormvariate(-2 + corpus.recipe_id / 4, 0.5)
            trained = (14, 2_310, 16, 2.5 + loss, loss, 1.0 + chance.expovariate(1.0), "cpu", "bfloat16", 8, LIBRARIES)
            made = (corpus.recipe_id, corpus.build_of(number), "lora", "trained", 250_000, 62_500)
            yield number, digest("adapter", number), number, number, *made, *trained, moment(number)

    def adapter_inputs() -> Iterator[Row]:
        for corpus, number in numbered():
            yield number, corpus.recipe_id, number

    def packs() -> Iterator[Row]:
        for number in range(1, size.documents // 1_000 + 2):
            yield number, digest("pack", number), 250_000_000, None, moment(number)

    def locations() -> Iterator[Row]:
        for number in range(1, size.documents + 1):
            if number % 50:  # one in fifty was collected
                yield number, number // 1_000 + 1, number % 1_000 * 250_000, 250_000

    def versions() -> Iterator[Row]:
        for corpus in corpora:
            counts = [0] * (VERSIONS + 1)
            for number in range(corpus.first, corpus.last):
                counts[corpus.version_of(number)] += 1
            for number in range(1, VERSIONS + 1):
                documents = sum(counts[: number + 1])
                parent, build = (number - 1 or None), (corpus.id - 1) * BUILDS + number * 2
                made = moment(corpus.id * 1_000_000 + number)
                own = (digest(f"version {corpus.id}", number), parent, corpus.recipe_id, build, "", documents)
                yield corpus.id, number, *own, documents * 250_000, made, None

    def memberships() -> Iterator[Row]:
        for corpus, number in numbered():
            yield corpus.id, number, corpus.version_of(number), None, number, number

    def places() -> Iterator[Row]:
        for corpus, number in numbered():
            own = (corpus.version_of(number), None, None, number)
            yield corpus.id, corpus.id, number - corpus.first, *own
            if number % 50 == 0:  # one in fifty stands at a second place
                yield corpus.id, corpus.id, number - corpus.first + size.documents, *own

    def aliases() -> Iterator[Row]:
        for corpus in corpora:
            yield corpus.id, "latest", VERSIONS, moment(0)
            yield corpus.id, "production", 3, moment(0)

    def alias_moves() -> Iterator[Row]:
        number = 0
        for corpus in corpora:
            for version in range(1, VERSIONS + 1):
                number += 1
                yield number, corpus.id, "latest", version - 1 or None, version, "ada", moment(number)

    def queries() -> Iterator[Row]:
        chance = random.Random(1)
        for number in range(1, size.queries + 1):
            corpus = corpora[number % len(corpora)]
            steps = [chance.expovariate(1 / mean) for mean in (2.0, 5.0, 1.0, 1.0, 40.0, 300.0)]
            asked = (corpus.recipe_id, 1, "prag", f"Who lit beacon {number}?", f"keeper number {number}", 40, 6)
            yield number, corpus.id, VERSIONS, *asked, *steps, moment(number)

    def query_hits() -> Iterator[Row]:
        chance = random.Random(2)
        for number in range(1, size.queries + 1):
            corpus = corpora[number % len(corpora)]
            for rank, document in enumerate(chance.sample(range(corpus.first, corpus.last), HITS), start=1):
                yield number, rank, 20.0 / rank, 1 / HITS, document, document

    def evaluations() -> Iterator[Row]:
        for number in range(1, size.evaluations + 1):
            corpus = corpora[number % 2]
            version = number % VERSIONS + 1
            questions = ("questions.jsonl", sha256_hex(b"questions"), 1_000, None, 0, False)
            ran = ("bfloat16", "cpu", "0.1", "", moment(number))
            yield number, corpus.id, version, corpus.recipe_id, *questions, *ran

    modes = ("closed-book", "rag", "prag", "combined")

    def results() -> Iterator[Row]:
        for number in range(size.evaluations * len(modes)):
            mode = modes[number % len(modes)]
            plain = mode == "closed-book"
            way = (mode, 0 if plain else HITS, "" if mode in ("closed-book", "rag") else "sum", "")
            yield number + 1, number // len(modes) + 1, *way, 1_000, 120.0, 350.0, 700.0

    def scores() -> Iterator[Row]:
        chance = random.Random(3)
        for number in range(1, size.evaluations * len(modes) + 1):
            for measure in ("exact_match", "f1"):
                mean = chance.uniform(0.2, 0.8)
                yield number, measure, mean, mean - 0.03, mean + 0.03

    def named(
        table: str, columns: str, rows: Callable[[], Iterator[Row]]
    ) -> tuple[str, tuple[str, ...], Callable[[], Iterator[Row]]]:
        return table, tuple(columns.split()), rows

    trained = "examples tokens steps first_loss last_loss elapsed_seconds device dtype group_size library_versions"
    steps = "search_ms load_ms merge_ms inject_ms prefill_ms decode_ms"
    return [
        named("base_models", "id fingerprint reference revision architecture parameters created_at", base_models),
        named("recipes", "id digest base_model_id settings created_at", recipes),
        named("corpora", "id name language created_at", corpus_rows),
        named(
            "builds",
            "id corpus_id recipe_id message who host pid status error started_at finished_at sources documents places "
            "reused trained skipped without_augmentation size_bytes",
            builds,
        ),
        named("sources", "id uri created_at", sources),
        named("documents", "id digest title text characters created_at text_key", documents),
        named(
            "augmentations",
            "id digest document_id generator prompts_version payload rewrites pairs created_at",
            augmentations,
        ),
        named(
            "augmentation_requests",
            "document_id request_digest augmentation_id dropped_pairs dropped_rewrites tokens elapsed_seconds "
            "created_at",
            requests,
        ),
        named(
            "adapters",
            "id digest document_id augmentation_id recipe_id build_id kind producer size_bytes parameters "
            f"{trained} created_at",
            adapters,
        ),
        named("adapter_inputs", "augmentation_id recipe_id adapter_id", adapter_inputs),
        named("packs", "id digest size_bytes build_id created_at", packs),
        named("adapter_locations", "adapter_id pack_id offset size_bytes", locations),
        named(
            "versions",
            "corpus_id number digest parent recipe_id build_id message documents size_bytes created_at collected_at",
            versions,
        ),
        named("memberships", "corpus_id document_id from_version to_version adapter_id line_id", memberships),
        named("places", "corpus_id source_id ordinal from_version to_version record_id document_id", places),
        named("aliases", "corpus_id name version moved_at", aliases),
        named("alias_moves", "id corpus_id name from_version to_version who moved_at", alias_moves),
        named(
            "queries",
            f"id corpus_id version recipe_id base_model_id mode question answer prompt_tokens answer_tokens {steps} "
            "created_at",
            queries,
        ),
        named("query_hits", "query_id rank score weight document_id adapter_id", query_hits),
        named(
            "evaluations",
            "id corpus_id version recipe_id questions_name questions_digest questions sample seed gold dtype device "
            "program_version folder created_at",
            evaluations,
        ),
        named(
            "evaluation_results",
            "id evaluation_id mode k merge question_type questions prompt_tokens mean_ms p95_ms",
            results,
        ),
        named("evaluation_scores", "result_id measure mean low high", scores),
    ]
