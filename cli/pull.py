"""``pragreg pull``: the versions of a repository on the Hub into the registry."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import click

from cli.options import home_option, json_option
from cli.output import FULL_LIST, counted, say, write_fields, write_json
from cli.progress import progress_bars
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.pull.request import PullReport

_STATES = {
    "equal": "nothing new",
    "ahead": "nothing new; there are versions here that the repository has not",
    "rebased": "yours are on top of theirs",
}


@click.command(short_help="Bring a corpus from the Hugging Face Hub.")
@click.argument("repository", metavar="NAMESPACE/NAME[@TAG|@vN|@COMMIT]")
@click.option("--as", "corpus", metavar="CORPUS", help="Another name for the corpus here than it has there.")
@click.option("--lazy", is_flag=True, help="Leave the adapters there, and fetch each when it is asked for.")
@click.option("--rebase", is_flag=True, help="Where both sides have versions of their own, put yours on top of theirs.")
@click.option(
    "--base-model",
    metavar="REF",
    show_default="the home's",
    help="Where the base model lies: a Hub id (OWNER/NAME, or OWNER/NAME@REVISION), a folder or a .gguf file.",
)
@click.option(
    "--require-signature",
    metavar="KEY",
    help="Take only what this key signed: a name under [trust] in pragreg.toml, an ssh-ed25519 line, or its file.",
)
@click.argument("more_texts", metavar="", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--texts",
    metavar="SOURCE...",
    multiple=True,
    help="Fill in texts that the repository withholds, from sources such as `pragreg build` takes.",
)
@click.option(
    "--words",
    type=click.IntRange(1),
    metavar="N",
    default=100,
    show_default=True,
    help="About how many words a passage of --texts has: as the corpus was built.",
)
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N", default=4, show_default=True, help="Files fetched at once."
)
@home_option
@json_option
def pull(
    home: Home,
    repository: str,
    more_texts: tuple[str, ...],
    corpus: str | None,
    lazy: bool,
    rebase: bool,
    base_model: str | None,
    require_signature: str | None,
    texts: tuple[str, ...],
    words: int,
    jobs: int,
    as_json: bool,
) -> None:
    """Bring a corpus that `pragreg push` published into the registry, as if it had been built here.

    Only what is new is fetched, every byte is checked before it is used, and after an interruption the same command
    goes on where it was. The base model is your own; it must be the very one that the adapters were trained for.
    """
    if more_texts and not texts:
        raise click.UsageError(f"there is one repository to pull, and {more_texts[0]!r} is one too many")
    from registry.documents import ReadOptions
    from registry.pipeline.pull.request import PullRequest
    from registry.pipeline.pull.run import pull as run

    request = PullRequest(
        repository=repository,
        corpus=corpus,
        is_lazy=lazy,
        rebase=rebase,
        base_model=base_model,
        required_key=require_signature,
        texts=(*texts, *more_texts),
        read=ReadOptions(words=words),
        jobs=jobs,
    )
    with progress_bars() as progress:
        done = run(home, request, progress)
    if as_json:
        write_json(done)
    else:
        _show(done)


def _show(done: PullReport) -> None:
    fields: dict[str, object] = {"repository": f"{done.repository} at {done.commit[:12]}"}
    fields["version"] = done.version + (f" ({_STATES[done.outcome]})" if done.outcome in _STATES else "")
    if done.versions:
        some = [done.versions[0], *(["..."] if len(done.versions) > 2 else []), *done.versions[1:][-1:]]
        fields["new_versions"] = f"{len(done.versions)}: {', '.join(some)}"
    fields |= {"documents": done.documents, "texts": _texts(done)}
    if done.remote_adapters:
        fields["adapters"] = f"{done.remote_adapters} stay in the repository until they are asked for"
    if done.outcome in ("pulled", "rebased"):
        fields |= {"packs": f"{done.packs_fetched} fetched, {done.packs_reused} here already"}
        fields |= {"fetched_bytes": done.fetched_bytes}
    if done.publisher is not None:
        fields["signed_by"] = done.publisher
    write_fields(fields | {"elapsed_seconds": done.elapsed_seconds})
    for digest in done.conflicts[:FULL_LIST]:
        say(f"yours stays in place of theirs: pragreg documents show {digest[:12]}")
    if len(done.conflicts) > FULL_LIST:
        say(f"yours stays in place of {len(done.conflicts) - FULL_LIST} more; --json lists all")
    if done.withheld:
        say(
            f"{counted(done.withheld, 'document')} cannot be found by any question; bring their texts: "
            f"pragreg pull {done.repository} --texts SOURCE"
        )
    else:
        say(f"ask it: pragreg query QUESTION --corpus {quote(done.corpus)}")


def _texts(done: PullReport) -> str:
    filled = f", {done.filled} filled in now" if done.filled else ""
    if not done.withheld:
        return f"all here{filled}"
    return f"{done.withheld} of {done.documents} withheld{filled}"
