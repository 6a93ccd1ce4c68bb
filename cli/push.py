"""``pragreg push``: a corpus' versions into a repository on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.build import parse_size
from cli.options import complete_corpus, home_option, json_option, path_option
from cli.output import counted, say, size_text, write_fields, write_json
from cli.progress import progress_bars
from registry.errors import UsageError
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.push.peft import PeftPushReport
    from registry.pipeline.push.request import PushReport, Sent

DEFAULT_KEY = "~/.ssh/id_ed25519"


@click.command(
    short_help="Publish a corpus on the Hugging Face Hub.",
    epilog="The token is the one that `hf auth login` keeps, or HF_TOKEN; HF_ENDPOINT names another Hub.",
)
@click.argument("repository", metavar="NAMESPACE/NAME")
@click.option(
    "--corpus",
    "reference",
    metavar="REF",
    shell_complete=complete_corpus,
    show_default="the one that was pushed there before, else default, else the only one there is",
    help="Which corpus: NAME for all its versions, NAME@REF for those up to that one, which becomes the latest there.",
)
@click.option("--private", is_flag=True, help="Make the repository a private one, if it has to be made.")
@click.option("-m", "--message", metavar="TEXT", help="The message of the commit.")
@click.option(
    "--no-text", is_flag=True, help="Publish adapters and digests, but no documents, augmentations or their titles."
)
@click.option("--tag", metavar="NAME", help="Another tag for the commit; one that is there moves.")
@click.option("--dry-run", is_flag=True, help="Say what would travel; nothing is sent or made.")
@click.option(
    "--pack-size",
    metavar="SIZE",
    show_default="what the repository was begun with, else the home's",
    help="How large the files of adapters are to be, as 256MB.",
)
@click.option("--license", "licence", metavar="ID", help="The licence for the model card, as mit or cc-by-4.0.")
@click.option("--card", "replace_card", is_flag=True, help="Replace a README.md that was edited by hand.")
@click.option("--sign", "is_signed", is_flag=True, help="Sign the manifest with an Ed25519 SSH key.")
@path_option("--key", f"The key to sign with; by default {DEFAULT_KEY}.")
@click.option("--rebase", is_flag=True, help="Where both sides have new versions, first replay ours on theirs.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["pragreg", "peft"]),
    default="pragreg",
    show_default=True,
    help="pragreg: whole versions. peft: folders that PEFT loads, of the --adapter or --folder given.",
)
@click.option("--adapter", "adapters", metavar="DIGEST", multiple=True, help="With peft: an adapter; may be repeated.")
@path_option("--folder", "With peft: a folder that `pragreg merge` or `pragreg export` wrote.")
@home_option
@json_option
def push(home: Home, repository: str, form: str, as_json: bool, **options: Any) -> None:
    """Bring NAMESPACE/NAME up to date with a corpus; the repository is made if it does not exist.

    Only what it lacks is sent, and all of it becomes visible in one commit. Every version gets a tag: v1, v2 and so
    on. What others pushed meanwhile is never overwritten.
    """
    if form == "peft":
        _push_peft(home, repository, as_json, options)
        return
    if options["adapters"] or options["folder"]:
        raise UsageError("--adapter and --folder are for --format peft", hint="add --format peft")
    from registry.pipeline.push.request import PushRequest
    from registry.pipeline.push.run import push as run

    size = options["pack_size"]
    request = PushRequest(
        repository=repository,
        reference=options["reference"],
        private=options["private"],
        message=options["message"],
        has_text=not options["no_text"],
        tag=options["tag"],
        dry_run=options["dry_run"],
        pack_size_bytes=None if size is None else parse_size(size),
        licence=options["licence"],
        key_file=_key(options),
        passphrase=_passphrase,
        replace_card=options["replace_card"],
        rebase=options["rebase"],
    )
    with progress_bars() as progress:
        done = run(home, request, progress)
    if as_json:
        write_json(done)
    else:
        write_fields(_fields(done))
    _say_rest(done, was_private=options["private"])


def _key(options: dict[str, Any]) -> Path | None:
    key: Path | None = options["key"]
    if key is not None and not options["is_signed"]:
        raise UsageError("--key is for --sign", hint="add --sign")
    if not options["is_signed"]:
        return None
    return (key or Path(DEFAULT_KEY)).expanduser()


def _passphrase() -> str:
    return str(click.prompt("passphrase of the key", hide_input=True, err=True))


def _fields(done: PushReport) -> dict[str, Any]:
    sent = done.sent
    would = "would be " if done.dry_run else ""
    fields: dict[str, Any] = {"repository": done.url, "corpus": done.corpus}
    if done.state == "behind":
        return fields | {"pushed": f"nothing: {done.repository} has {counted(done.behind, 'version')} more"}
    if not done.versions:
        fields["pushed"] = "nothing new" if done.commit_id is None else f"v{done.latest} is the latest now"
    else:
        names = [f"v{number}" for number in done.versions]
        fields[f"{would}pushed"] = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        fields["adapters"] = _adapters(sent)
        fields["packs_bytes"] = sent.packs_bytes
        fields["records"] = sent.records if sent.records_bytes is None else _with_size(sent.records, sent.records_bytes)
        fields["shards"] = sent.shards if sent.shards_bytes is None else _with_size(sent.shards, sent.shards_bytes)
    fields["latest"] = f"v{done.latest}"
    if done.commit_id is not None:
        fields["commit"] = done.commit_id
    if done.tags:
        fields["tags"] = list(done.tags)
    if done.created:
        fields["new repository"] = "would be made" if done.dry_run else "made"
    if done.is_signed:
        fields["signed"] = True
    return fields | {"elapsed_seconds": done.elapsed_seconds}


def _adapters(sent: Sent) -> str:
    told = [f"{counted(sent.whole_packs, 'pack')} as of this home"] if sent.whole_packs else []
    told += [f"{counted(sent.composed_packs, 'pack')} made for it"] if sent.composed_packs else []
    there = f"; {sent.reused} more are there already" if sent.reused else ""
    return f"{sent.adapters}{' in ' if told else ''}{' and '.join(told)}{there}"


def _with_size(count: int, size_bytes: int) -> str:
    return f"{count}, {size_text(size_bytes)}"


def _say_rest(done: PushReport, *, was_private: bool) -> None:
    if done.state == "behind":
        say(f"try: pragreg pull {done.repository}")
    if not done.has_text and done.versions:
        say("no texts are published: whoever pulls it can search only with the same documents from elsewhere")
    if done.card == "kept":
        say("README.md was edited by hand, and stays as it is; --card replaces it")
    if done.dropped_signature:
        say("the manifest was signed before and is not any more; --sign signs it")
    if was_private and not done.created:
        say(f"{done.repository} was there already, so --private changes nothing: see its settings at {done.url}")


def _push_peft(home: Home, repository: str, as_json: bool, options: dict[str, Any]) -> None:
    from registry.pipeline.push.peft import push_peft
    from registry.pipeline.push.peft_folders import PeftPushRequest

    for name in ("rebase", "is_signed", "replace_card"):
        if options[name]:
            shown = {"is_signed": "sign", "replace_card": "card"}.get(name, name)
            raise UsageError(f"--{shown} is not for --format peft", hint="leave it out")
    request = PeftPushRequest(
        repository=repository,
        adapters=options["adapters"],
        folder=options["folder"],
        reference=options["reference"],
        private=options["private"],
        message=options["message"],
        tag=options["tag"],
        licence=options["licence"],
        has_text=not options["no_text"],
        dry_run=options["dry_run"],
    )
    with progress_bars() as progress:
        done: PeftPushReport = push_peft(home, request, progress)
    if as_json:
        write_json(done)
    else:
        write_fields(done)
