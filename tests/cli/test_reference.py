from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.main import root
from cli.merge import METHODS
from cli.reference import reference
from registry.pipeline import search

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_reference_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == reference(), "run: python -m cli.reference > docs/cli.md"


def test_every_option_is_explained() -> None:
    with click.Context(root) as context:
        commands = [root.get_command(context, name) for name in root.list_commands(context)]
    for command in commands:
        assert command is not None
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for each in inner:
            assert each.help, each.name
            for parameter in each.params:
                assert not isinstance(parameter, click.Option) or parameter.help, f"{each.name} {parameter.name}"


def test_what_is_written_twice_to_spare_an_import_is_the_same() -> None:
    from registry.merging import offline
    from registry.pipeline import query

    assert options.MAX_HITS == search.MAX_HITS
    assert offline.METHODS == METHODS
    defaults = {name.name: name.default for name in root.get_command(click.Context(root), "query").params}  # type: ignore[union-attr]
    assert defaults["k"] == query.DEFAULT_HITS
    assert defaults["max_tokens"] == query.DEFAULT_NEW_TOKENS
    assert defaults["batch_size"] == query.DEFAULT_BATCH_SIZE
