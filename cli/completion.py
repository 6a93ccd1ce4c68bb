"""``pragreg completion``: the script that lets a shell complete commands, options and corpora."""

from __future__ import annotations

import click

from cli.output import write_line

PLACES = {
    "bash": 'eval "$(pragreg completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(pragreg completion zsh)" in ~/.zshrc',
    "fish": "pragreg completion fish | source in ~/.config/fish/config.fish",
}


@click.command(
    short_help="Print the completion script of a shell.",
    epilog="\b\nPut one of these where your shell starts:\n" + "\n".join(f"  {it}" for it in PLACES.values()),
)
@click.argument("shell", type=click.Choice(list(PLACES)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL."""
    from click.shell_completion import get_completion_class

    root = context.find_root()
    program = str(root.info_name)
    found = get_completion_class(shell)
    assert found is not None
    write_line(found(root.command, {}, program, f"_{program}_COMPLETE".upper()).source())
