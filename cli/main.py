"""The command ``pragreg``: it assembles the commands and is the only place where errors become messages.

A command's module is imported when it is called, and commands import the pipeline when they run, so that help and
completion answer at once.
"""

from __future__ import annotations

import difflib
import errno
import gc
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import FrameType

import click

from cli.output import say, show_error
from registry.errors import Interrupted, PragregError, StorageError
from registry.masking import masked

PROGRAM = "pragreg"
COMPLETION_VARIABLE = "_PRAGREG_COMPLETE"
BROKEN_PIPE = 141
"""What a shell shows for a program that SIGPIPE ended."""

COMMANDS = {
    "init": "cli.init:init",
    "plan": "cli.plan:plan",
    "warmup": "cli.warmup:warmup",
    "build": "cli.build:build",
    "query": "cli.query:query",
    "search": "cli.search:search",
    "serve": "cli.serve:serve",
    "evaluate": "cli.evaluate:evaluate",
    "export": "cli.export:export",
    "merge": "cli.merge:merge",
    "versions": "cli.versions:versions",
    "show": "cli.versions:show",
    "diff": "cli.versions:diff",
    "alias": "cli.aliases:alias",
    "rollback": "cli.aliases:rollback",
    "pin": "cli.aliases:pin",
    "unpin": "cli.aliases:unpin",
    "info": "cli.info:info",
    "documents": "cli.listing:documents",
    "adapters": "cli.adapters:adapters",
    "corpora": "cli.listing:corpora",
    "builds": "cli.listing:builds",
    "queries": "cli.listing:queries",
    "evaluations": "cli.listing:evaluations",
    "report": "cli.report:report",
    "sql": "cli.sql:sql",
    "verify": "cli.verify:verify",
    "repair": "cli.repair:repair",
    "gc": "cli.gc:gc",
    "backup": "cli.backup:backup",
    "restore": "cli.backup:restore",
    "push": "cli.push:push",
    "pull": "cli.pull:pull",
    "status": "cli.remotes:status",
    "remotes": "cli.remotes:remotes",
    "keys": "cli.keys:keys",
    "catalog": "cli.catalog:catalog",
    "db": "cli.db:db",
    "completion": "cli.completion:completion",
}
"""Every command and where it is defined, in the order of the help."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def __init__(self, *, lazy: Mapping[str, str], **settings: object) -> None:
        """Take ``module:attribute`` by name of the command."""
        super().__init__(**settings)  # type: ignore[arg-type]
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in their order."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; click itself suggests only names of commands that are imported."""
        name = args[0]
        if name not in self._lazy and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self._lazy)
            ctx.fail(f"there is no command {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(
    name=PROGRAM,
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="pragreg", prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.option(
    "--traceback",
    is_flag=True,
    envvar="PRAGREG_TRACEBACK",
    show_envvar=True,
    help="Show where in the program an error arose.",
)
def root(traceback: bool) -> None:
    """Parametric memory for a language model: every document a small adapter, kept in a registry.

    Begin with `pragreg init`, then `pragreg build SOURCE...`, then `pragreg query QUESTION`.
    """


def main() -> None:
    """Run the command line of this process and exit with its status."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup has SIGHUP ignored, and it stays so.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    _open_missing_streams()
    # Threads that spin while they wait make a busy machine several times slower; it must be said before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Commands hold many small records at once: looking through them for cycles as often as Python does took a tenth
    # of the time of a pull of 10,000 documents.
    gc.set_threshold(50_000, 50, 50)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    status = run(sys.argv[1:])
    # The interpreter looks for cycles among all that is alive once more when it ends: with torch that takes a second.
    gc.freeze()
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; errors are shown on standard error."""
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    context: click.Context | None = None
    try:
        with root.make_context(PROGRAM, list(arguments)) as context:
            root.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail(Interrupted("stopped; what was finished is kept"))
    except click.ClickException as error:
        return _fail_usage(error)
    except SystemExit:
        raise
    except BaseException as error:  # a panic in an extension that is written in Rust is no Exception
        if context is not None and context.params.get("traceback"):
            say(masked(traceback.format_exc()).rstrip())
        return _fail(error)


def _fail(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno in (*_FULL, *_REFUSED):
        error = _storage_error(error)
    if isinstance(error, PragregError):
        show_error(error)
        return error.exit_code
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    say(f"error: this is a bug in pragreg, please report it: {masked(what)}")
    say("try: the same command as `pragreg --traceback ...`, and add what it prints to the report")
    return 1


def _fail_usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        say(error.message)
        return error.exit_code
    say(f"error: {error.format_message()}")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        say(f"try: {error.ctx.command_path} --help")
    return error.exit_code


def _storage_error(error: OSError) -> StorageError:
    if error.errno in _FULL:
        where = f": {error.filename} cannot be written" if error.filename else ""
        return StorageError(f"the disk is full{where}", hint="make room, then try again")
    what = error.filename or "a file"
    return StorageError(f"access to {what} is refused: {error.strerror}", hint="check who may write there")


def _stop(number: int, _frame: FrameType | None) -> None:
    # A second signal ends the program at once.
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted(f"stopped by {signal.Signals(number).name}; what was finished is kept")


def _open_missing_streams() -> None:
    """Open nothing in place of standard streams that were closed, so that no file of the registry gets their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _forget_output() -> None:
    """Let Python flush the rest into nothing at exit, instead of failing once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
