"""``pragreg merge``: several adapters into one, or into the base model."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import device_option, home_option, json_option, path_option, reference_option
from cli.output import say, write_json, write_line
from cli.progress import progress_bars
from registry.errors import UsageError
from registry.settings import Home

METHODS = (
    "cat",
    "linear",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
)


@click.command(short_help="Merge adapters into one, or into the base model.")
@click.argument("what", nargs=-1, required=True, metavar="REF|DOCUMENT|ADAPTER...")
@path_option("--out", "The folder to write.", required=True)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="cat",
    show_default=True,
    help="cat is the exact sum; the others are PEFT's, and keep the rank or lower it.",
)
@click.option("--into-base", is_flag=True, help="Write the whole base model with the adapters merged into it.")
@click.option("--weights", metavar="A,B,...", show_default="1 each", help="A number for each adapter.")
@click.option(
    "--density", type=float, metavar="SHARE", help="The share of entries that ties, dare and prune methods keep."
)
@click.option(
    "--svd-rank",
    type=click.IntRange(1),
    metavar="N",
    show_default="the adapters'",
    help="The rank that svd methods end with.",
)
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Decides what dare methods drop.")
@home_option
@reference_option
@device_option
@json_option
def merge(
    home: Home,
    what: tuple[str, ...],
    out: Path,
    method: str,
    into_base: bool,
    weights: str | None,
    density: float | None,
    svd_rank: int | None,
    seed: int,
    reference: str,
    device: str,
    as_json: bool,
) -> None:
    """Merge adapters into one PEFT folder that `PeftModel.from_pretrained` loads.

    REF takes every adapter of a version; DOCUMENT and ADAPTER are digests or their beginnings.
    """
    parsed = parse_numbers(weights) if weights is not None else ()
    # Only now what takes seconds: the pipeline brings torch.
    from registry.merging.offline import MergeSettings
    from registry.pipeline.export import MergeRequest
    from registry.pipeline.export import merge as run

    settings = MergeSettings(method=method, density=density, svd_rank=svd_rank, seed=seed)  # type: ignore[arg-type]
    request = MergeRequest(what, reference, out, settings, parsed, into_base, device)
    with progress_bars() as progress:
        merged = run(home, request, progress)
    if as_json:
        write_json({"folder": merged.folder, "method": method, "adapters": merged.digests, "into_base": into_base})
    else:
        count = len(merged.digests)
        say(f"merged {count} adapter{'s' if count > 1 else ''} by {method}")
        write_line(str(merged.folder))


def parse_numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list with commas.

    Raises:
        UsageError: something in it is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--weights {text!r} is not a list of numbers", hint="such as --weights 0.7,0.3") from error
