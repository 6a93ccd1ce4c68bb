"""The views that outside tools may rely on: their columns, types, units and meaning, the same on both databases.

What they are made of is in the migrations. A test compares this with the databases, and ``docs/sql.md`` with this:
``python -m registry.catalog.views`` prints its part.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["text", "integer", "number", "boolean", "moment"]


class Column(NamedTuple):
    """A column of a view or of a report; ``meaning`` names the unit where the name does not."""

    name: str
    kind: Kind
    meaning: str


class View(NamedTuple):
    """A view: what one row is, and its columns."""

    row: str
    columns: tuple[Column, ...]


_CORPUS = Column("corpus", "text", "name of the corpus")
_REFERENCE = Column("reference", "text", "the version as people name it, `corpus@v3`")
_DOCUMENT = Column("document_digest", "text", "sha256 of title and text; joins `v_documents`")
_TITLE = Column("title", "text", "title of the document")
_ADAPTER = Column("adapter_digest", "text", "sha256 of the adapter's bytes; joins `v_adapters`")
_AUGMENTATION = Column("augmentation_digest", "text", "sha256 of the augmentation; joins `v_augmentations`")
_RECIPE = Column("recipe_digest", "text", "sha256 of the recipe; joins `v_recipes`")
_PACK = Column("pack_digest", "text", "sha256 of the pack; joins `v_packs`")
_MODEL = Column("base_model", "text", "the base model as it was named: Hub id, path or alias")
_FINGERPRINT = Column("base_model_fingerprint", "text", "sha256 over all that decides the base model's outputs")
_CREATED = Column("created_at", "moment", "when it was recorded, in UTC")
_DEVICE = Column("device", "text", "what computed: cpu, cuda and the like")
_DTYPE = Column("dtype", "text", "numbers of the base model's computation")


def _build(meaning: str = "number of the build that made it; joins `v_builds`; null: none did") -> Column:
    return Column("build", "integer", meaning)


def _version(meaning: str = "number of the version") -> Column:
    return Column("version", "integer", meaning)


VIEWS = {
    "v_corpora": View(
        "a corpus, as `latest` names it",
        (
            _CORPUS,
            Column("language", "text", "how its text is analysed by the index, ISO 639-1"),
            _version("number of the version that `latest` names; null: none yet"),
            _REFERENCE,
            Column("documents", "integer", "documents of that version"),
            Column("size_bytes", "integer", "bytes of the adapters of that version"),
            _RECIPE,
            Column("versions", "integer", "number of its versions"),
            _CREATED,
        ),
    ),
    "v_versions": View(
        "a version of a corpus",
        (
            _CORPUS,
            _version(),
            _REFERENCE,
            Column("version_digest", "text", "sha256 over recipe, documents and adapters"),
            Column("parent", "integer", "number of the version it was made from; null: none"),
            Column("message", "text", "what its maker said of it"),
            Column("aliases", "text", "names of the aliases that name it, by name, with a comma between; null: none"),
            Column("is_latest", "boolean", "whether `latest` names it"),
            Column("pinned", "boolean", "whether it is pinned"),
            Column("documents", "integer", "documents in it"),
            Column("size_bytes", "integer", "bytes of its adapters"),
            _RECIPE,
            _MODEL,
            _FINGERPRINT,
            _build(),
            _CREATED,
            Column("collected_at", "moment", "when `pragreg gc` took adapters of it away; null: it can be queried"),
        ),
    ),
    "v_members": View(
        "a document of the version that `latest` names, with its adapter",
        (
            _CORPUS,
            _version("number of the version that `latest` names"),
            _REFERENCE,
            _DOCUMENT,
            _ADAPTER,
            Column("recipe_digest", "text", "sha256 of the version's recipe; joins `v_recipes`"),
            Column("since_version", "integer", "first version in which the document has that adapter"),
        ),
    ),
    "v_places": View(
        "a place at which a document stands, in the version that `latest` names",
        (
            _CORPUS,
            _version("number of the version that `latest` names"),
            Column("source_uri", "text", "the file or address that was read"),
            Column("ordinal", "integer", "number of the passage in its source, from 0"),
            Column("record_id", "text", "identifier that the source itself gives the record; null: none"),
            _DOCUMENT,
        ),
    ),
    "v_documents": View(
        "a document, in whatever versions it is",
        (
            _DOCUMENT,
            _TITLE,
            Column("text", "text", "the passage"),
            Column("characters", "integer", "length of the text in Unicode code points"),
            Column("withheld", "boolean", "whether title and text are not here (empty, then), only their digest"),
            _CREATED,
        ),
    ),
    "v_adapters": View(
        "an adapter, and how it was trained",
        (
            _ADAPTER,
            _DOCUMENT,
            _TITLE,
            _AUGMENTATION,
            Column("recipe_digest", "text", "sha256 of the recipe that first gave it; joins `v_recipes`"),
            _MODEL,
            _FINGERPRINT,
            _build(),
            Column("kind", "text", "`lora`"),
            Column(
                "producer",
                "text",
                "`trained`: by gradient descent on this adapter alone; `imported`: made elsewhere, and `forgotten` if "
                "it need not be kept",
            ),
            Column("size_bytes", "integer", "bytes of the adapter"),
            Column("parameters", "integer", "numbers in it"),
            Column("examples", "integer", "training examples"),
            Column("tokens", "integer", "tokens passed through the model, all epochs together"),
            Column("steps", "integer", "optimiser steps"),
            Column("first_loss", "number", "nats a token at the first step"),
            Column("last_loss", "number", "nats a token at the last step"),
            Column("elapsed_seconds", "number", "its share of its group's training time, seconds"),
            _DEVICE,
            _DTYPE,
            Column("group_size", "integer", "adapters trained in the same pass"),
            Column("located", "boolean", "whether its bytes are in a pack"),
            Column("pack_digest", "text", "sha256 of the newest pack that holds it; joins `v_packs`; null: none does"),
            _CREATED,
        ),
    ),
    "v_recipes": View(
        "a recipe, with the settings that people compare",
        (
            _RECIPE,
            _MODEL,
            _FINGERPRINT,
            Column("rank", "integer", "rank of the adapters"),
            Column("alpha", "number", "scale of the adapters, times the rank"),
            Column("epochs", "integer", "how often each example is trained on"),
            Column("learning_rate", "number", "first step size"),
            Column("examples_per_step", "integer", "examples an optimiser step"),
            Column("max_tokens", "integer", "tokens at which an example is cut"),
            Column("augmenter", "text", "who writes rewrites and pairs"),
            Column("pairs", "integer", "question-answer pairs asked for, a document"),
            Column("rewrites", "integer", "rewrites asked for, a document"),
            Column("layout", "text", "layout of prompts: `chat` or `paper`"),
            Column("loss", "text", "tokens that count: `answer` or `all`"),
            _DTYPE,
            Column("adapter_dtype", "text", "numbers of the stored adapter"),
            Column("task_adapter_digest", "text", "sha256 of the warm-up that documents start from; null: none"),
            Column("settings", "text", "all settings, as JSON"),
            _CREATED,
        ),
    ),
    "v_augmentations": View(
        "an augmentation of a document, with the requests that got it taken together",
        (
            _AUGMENTATION,
            _DOCUMENT,
            Column("generator", "text", "who wrote it: a model, an endpoint's model, or an import"),
            Column("prompts_version", "text", "version of the prompts"),
            Column("rewrites", "integer", "rewrites in it"),
            Column("pairs", "integer", "question-answer pairs in it"),
            Column("requests", "integer", "requests that got it"),
            Column("dropped_rewrites", "integer", "rewrites that failed the grounding check"),
            Column("dropped_pairs", "integer", "pairs that failed it"),
            Column("tokens", "integer", "tokens generated"),
            Column("elapsed_seconds", "number", "time of generation, seconds"),
            _CREATED,
        ),
    ),
    "v_packs": View(
        "a pack, as the catalog knows it",
        (
            _PACK,
            Column("size_bytes", "integer", "bytes of the file"),
            _build("number of the build that wrote it; joins `v_builds`; null: none did"),
            Column("adapters", "integer", "adapters of documents that lie in it"),
            Column("adapters_bytes", "integer", "bytes of these"),
            _CREATED,
        ),
    ),
    "v_builds": View(
        "a run of `pragreg build`",
        (
            _build("number of the build"),
            _CORPUS,
            _RECIPE,
            Column("status", "text", "`running`, `finished`, `failed` or `interrupted`"),
            Column("message", "text", "what its maker said of it"),
            _version("number of the first version that it made; null: none"),
            Column("who", "text", "user name"),
            Column("host", "text", "machine"),
            Column("error", "text", "why it failed; null: it did not"),
            Column("sources", "integer", "sources read"),
            Column("documents", "integer", "distinct documents in them"),
            Column("places", "integer", "places of these"),
            Column("reused", "integer", "adapters that were there already"),
            Column("trained", "integer", "adapters made"),
            Column("skipped", "integer", "invalid inputs left out"),
            Column("without_augmentation", "integer", "documents encoded from their own text only"),
            Column("size_bytes", "integer", "bytes of adapters written"),
            Column("elapsed_seconds", "number", "from start to end, seconds, to the millisecond; null: it runs"),
            Column("started_at", "moment", "when it began, in UTC"),
            Column("finished_at", "moment", "when it ended, in UTC; null: it runs"),
        ),
    ),
    "v_queries": View(
        "an answered question",
        (
            Column("query", "integer", "number of the query"),
            Column("corpus", "text", "name of the corpus; null: none was asked"),
            _version("number of the version; null: none was asked"),
            _REFERENCE,
            _RECIPE,
            _MODEL,
            _FINGERPRINT,
            Column("mode", "text", "`prag`, `combined`, `rag` or `closed-book`"),
            Column("question", "text", "as it was asked"),
            Column("answer", "text", "as it was given"),
            Column("prompt_tokens", "integer", "tokens of the prompt"),
            Column("answer_tokens", "integer", "tokens of the answer"),
            Column("search_ms", "number", "milliseconds; null where the mode has no such step"),
            Column("load_ms", "number", "milliseconds of loading adapters, or null"),
            Column("merge_ms", "number", "milliseconds of merging, or null"),
            Column("inject_ms", "number", "milliseconds of putting the adapter into the model, or null"),
            Column("prefill_ms", "number", "milliseconds of reading the prompt, or null"),
            Column("decode_ms", "number", "milliseconds of writing the answer, or null"),
            Column("total_ms", "number", "milliseconds of all steps together"),
            _CREATED,
        ),
    ),
    "v_query_hits": View(
        "a document that was retrieved for a question",
        (
            Column("query", "integer", "number of the query; joins `v_queries`"),
            Column("rank", "integer", "from 1, best first"),
            Column("score", "number", "BM25"),
            Column("weight", "number", "weight of its adapter in the merge; null where none was merged"),
            _DOCUMENT,
            _TITLE,
            _ADAPTER,
        ),
    ),
    "v_evaluations": View(
        "one measure of one way of answering in an evaluation",
        (
            Column("evaluation", "integer", "number of the evaluation"),
            _CORPUS,
            _version(),
            _REFERENCE,
            _RECIPE,
            Column("questions_name", "text", "name of the file of questions"),
            Column("questions_digest", "text", "sha256 of that file"),
            Column("sample", "integer", "so many questions were to be drawn; null: all were asked"),
            Column("seed", "integer", "of the sample and of the intervals"),
            Column("gold", "boolean", "whether each question got its own documents instead of the index's"),
            _DTYPE,
            _DEVICE,
            Column("program_version", "text", "version of pragreg"),
            Column("mode", "text", "way of answering; `retrieval` measures the index alone"),
            Column("k", "integer", "documents a question; 0 where the mode takes none"),
            Column("merge", "text", "how adapters were merged; empty where none was"),
            Column("question_type", "text", "as the question file calls it; empty: all questions"),
            Column("questions", "integer", "questions of that type that were asked"),
            Column("mean_prompt_tokens", "number", "mean tokens of a prompt"),
            Column("mean_ms", "number", "milliseconds a question, mean"),
            Column("p95_ms", "number", "milliseconds a question, 95th percentile"),
            Column("measure", "text", "`exact_match`, `f1`, `recall_at_10` and the like"),
            Column("mean", "number", "mean of the measure, from 0 to 1"),
            Column("low", "number", "lower bound of its interval of 95 %"),
            Column("high", "number", "upper bound of it"),
            _CREATED,
        ),
    ),
    "v_aliases": View(
        "an alias, as it stands",
        (
            _CORPUS,
            Column("alias", "text", "its name, such as `latest`"),
            _version("number of the version that it names"),
            _REFERENCE,
            Column("version_digest", "text", "sha256 of that version"),
            Column("moved_at", "moment", "when it was moved there, in UTC"),
        ),
    ),
    "v_alias_moves": View(
        "a move of an alias",
        (
            Column("move", "integer", "number of the move; later moves have higher ones"),
            _CORPUS,
            Column("alias", "text", "name of the alias"),
            Column("from_version", "integer", "number of the version that it named before; null: it was new"),
            Column("to_version", "integer", "number of the version that it names since; null: it was removed"),
            Column("who", "text", "user name"),
            Column("moved_at", "moment", "when, in UTC"),
        ),
    ),
    "v_remotes": View(
        "a repository on the Hub that a corpus was pushed to or pulled from",
        (
            _CORPUS,
            Column("endpoint", "text", "address of the Hub"),
            Column("repository", "text", "`NAMESPACE/NAME`"),
            Column("commit_id", "text", "the commit that was seen last"),
            Column("is_lazy", "boolean", "whether adapters are left there until they are asked for"),
            Column("adapters", "integer", "adapters of documents that are known to lie in it"),
            Column("adapters_bytes", "integer", "bytes of these"),
            Column("pushed_at", "moment", "when it was pushed to last, in UTC; null: never"),
            Column("pulled_at", "moment", "when it was pulled from last, in UTC; null: never"),
        ),
    ),
}
"""Every view by its name."""


def views_markdown() -> str:
    """Return a section of Markdown for each view."""
    sections = []
    for name, view in VIEWS.items():
        rows = [f"| {column.name} | {column.kind} | {column.meaning} |" for column in view.columns]
        sections.append("\n".join([f"### {name}", "", f"A row is {view.row}.", "", *_HEAD, *rows, ""]))
    return "\n".join(sections)


_HEAD = ("| column | type | meaning |", "|---|---|---|")


if __name__ == "__main__":
    print(views_markdown(), end="")
