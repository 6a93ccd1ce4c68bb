"""The reference of the command line, written from the commands: ``python -m cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from cli.main import PROGRAM, root
from cli.output import write_line
from registry import errors
from registry.errors import PragregError

HEAD = """\
# The command line

This file is written by `python -m cli.reference > docs/cli.md`; a test compares it with the commands.

Data goes to standard output and everything else to standard error. With `--json` lists are one JSON object a line, with
whole digests and plain numbers; whatever has an identity shows it as `digest`. Tables are aligned on a terminal and
separated by tabs elsewhere. A digest may be given by its beginning. `pragreg completion SHELL` lets a shell complete
commands, options and corpora.
"""


def reference() -> str:
    """Return the reference as Markdown."""
    sections = [HEAD, *_exit_codes(), *_command(root, None)]
    with click.Context(root, info_name=PROGRAM) as context:
        for name in root.list_commands(context):
            command = root.get_command(context, name)
            assert command is not None
            sections += _command(command, context)
    return "\n".join(line.rstrip() for section in sections for line in section.splitlines()) + "\n"


def _exit_codes() -> list[str]:
    classes = [found for found in vars(errors).values() if inspect.isclass(found) and issubclass(found, PragregError)]
    rows = [
        (0, "everything was done"),
        (1, "a bug in pragreg; `--traceback` shows where"),
        *((found.exit_code, _sentence(found)) for found in classes if found is not PragregError),
        (141, "the reader of the output went away, as in `pragreg documents list | head -1`"),
    ]
    table = ["| status | what happened |", "|---|---|", *(f"| {code} | {_cell(text)} |" for code, text in sorted(rows))]
    return ["\n## Exit status\n\n", "\n".join(table)]


def _sentence(found: type[PragregError]) -> str:
    first = inspect.cleandoc(found.__doc__ or "").splitlines()[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _command(command: click.Command, parent: click.Context | None) -> list[str]:
    """Return the sections of a command and its subcommands."""
    name = PROGRAM if parent is None else command.name
    context = click.Context(command, parent=parent, info_name=name)
    lines = [
        f"\n## {context.command_path}\n",
        _usage(command, context),
        "",
        _prose(command.help),
        *_options(command, context),
    ]
    if command.epilog:
        lines.append("\n" + _prose(command.epilog))
    sections = ["\n".join(lines)]
    if isinstance(command, click.Group) and parent is not None:
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            sections += _command(child, context)
    return sections


def _usage(command: click.Command, context: click.Context) -> str:
    return f"    {context.command_path} {' '.join(command.collect_usage_pieces(context))}"


def _prose(text: str | None) -> str:
    return inspect.cleandoc((text or "").replace("\b\n", ""))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [
        record
        for parameter in command.params
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)) is not None
    ]
    if records:
        yield "\n| option | |\n|---|---|"
    for option, text in records:
        yield f"| `{_cell(option)}` | {_cell(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("  [", " [")


if __name__ == "__main__":
    write_line(reference().removesuffix("\n"))
