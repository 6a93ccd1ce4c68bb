"""``pragreg keys``: who may ask a server of this home."""

from __future__ import annotations

import click

from cli.aliases import writing
from cli.options import home_option, json_option
from cli.output import plain, say, write_json, write_line, write_records
from cli.versions import reading
from registry.settings import Home


@click.group()
def keys() -> None:
    """Make, list and revoke the API keys of `pragreg serve`."""


@keys.command(short_help="Make a key.")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    show_default="ask, search and documents",
    help="What it is good for: ask, search, documents or metrics; ask:CORPUS (search:, documents:) for one corpus "
    "alone. May be given many times.",
)
@home_option
@json_option
def create(home: Home, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make an API key called NAME and print its secret, alone on standard output.

    It is shown this once: the catalog keeps only a hash of it. As soon as there is a key, every request needs one.
    """
    from registry.catalog.api_keys import DEFAULT_SCOPES, create_key

    with writing(home) as session:
        key, secret = create_key(session, name, scopes or DEFAULT_SCOPES)
    if as_json:
        write_json(plain(key) | {"secret": secret})
    else:
        write_line(secret)
    say(f"the key {name} is good for {', '.join(key.scopes)}; keep it now, it is shown this once")


@keys.command("list")
@home_option
@json_option
def list_them(home: Home, as_json: bool) -> None:
    """List the keys with what they are good for, the revoked ones too; secrets are not kept, so none is shown."""
    from registry.catalog.api_keys import list_keys

    with reading(home) as session:
        found = list_keys(session)
    write_records(found, ("name", "prefix", "scopes", "created_at", "last_used_at", "revoked_at"), as_json=as_json)


@keys.command(short_help="Revoke a key.")
@click.argument("name")
@home_option
def revoke(home: Home, name: str) -> None:
    """Revoke the key called NAME, or whose secret begins with NAME (as `keys list` shows it), for good."""
    from registry.catalog.api_keys import revoke_key

    with writing(home) as session:
        key = revoke_key(session, name)
    say(f"the key {key.name} ({key.prefix}...) is revoked")
