"""``pragreg plan``: what a build would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    corpus_option,
    device_option,
    json_option,
    optional_home_option,
    read_options,
    reading_options,
    recipe_options,
    recipe_request,
)
from cli.output import describe, say_skipped, write_fields, write_json
from cli.progress import progress_bars
from registry.errors import UsageError
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.plan import Cluster, Plan


@click.command(
    short_help="Count what a build would take; nothing is trained.",
    epilog="operations = 4 x parameters x tokens: the forward pass and the gradient of activations of a frozen base, "
    "with all parameters that multiply a token (the head's too, tied or not) and every epoch's tokens. operations "
    "needed leaves out what a recipe spares: blocks below the first adapted one run once and not once an epoch, and "
    "have no backward pass; the head runs only where the loss counts.\n\n"
    "expected time = operations needed / (rate x efficiency), for encoding alone; where a build of the same recipe ran "
    "on this machine, its tokens a second are taken instead. Writing augmentations takes time of its own.",
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@optional_home_option
@corpus_option
@recipe_options
@reading_options
@device_option
@click.option(
    "--rate",
    type=float,
    metavar="TFLOPS",
    show_default="measured here",
    help="Plan for other devices on paper: one's rate of matrix products, in 10^12 operations a second.",
)
@click.option("--devices", type=int, metavar="N", show_default="1", help="With --rate: how many devices.")
@click.option(
    "--price", type=float, metavar="DOLLARS", help="With --rate: what an hour of one device costs, for the sum."
)
@json_option
def plan(home: Home | None, sources: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Count the documents, examples, tokens and operations of a build of the SOURCEs, its time, memory and disk.

    Takes the options of `pragreg build` that decide them. Nothing is trained, and the registry stays as it is;
    without one the default recipe counts. Documents that have adapters under the recipe cost nothing. The base model
    is fetched or converted if it is not there yet, since its tokenizer counts. Where augmentations are yet to be
    written (by self or openai), the figures are about what comes if all that is asked for comes.
    """
    recipe, read = recipe_request(options), read_options(options)
    from registry.pipeline.build import BuildRequest
    from registry.pipeline.plan import plan as run

    request = BuildRequest(
        sources=sources,
        corpus=options["corpus"],
        read=read,
        recipe=recipe,
        augmenter=options["augmenter"],
        skip_invalid=options["skip_invalid"],
        device=options["device"],
    )
    cluster = _cluster(options)
    with progress_bars() as progress:
        found = run(home, request, progress, cluster=cluster)
    if as_json:
        write_json(found)
    else:
        _show(found)


def _cluster(options: dict[str, Any]) -> Cluster | None:
    from registry.pipeline.plan import Cluster

    if options["rate"] is not None:
        return Cluster(options["rate"], 1 if options["devices"] is None else options["devices"], options["price"])
    for name in ("devices", "price"):
        if options[name] is not None:
            raise UsageError(f"--{name} is of devices on paper, and --rate is missing", hint="add --rate TFLOPS")
    return None


def _show(found: Plan) -> None:
    say_skipped(found.skipped)
    about = "about " if found.estimated else ""

    def counted(name: str) -> str:
        return about + describe(name, getattr(found, name))

    fields: dict[str, object] = {
        "documents": found.documents,
        "reused": found.reused,
        "to_encode": found.to_encode,
        "skipped": len(found.skipped),
        "examples": counted("examples"),
        "tokens": counted("tokens"),
        "operations": counted("operations"),
    }
    if found.operations_needed != found.operations:
        fields["operations_needed"] = counted("operations_needed")
    if found.estimated:
        fields["still_to_write"] = (
            f"augmentations for {found.to_augment} by {found.augmenter}, up to about {found.generated_tokens} tokens, "
            "whose time is not in the expected time"
        )
    fields["adapters_bytes"] = found.adapter_bytes
    fields |= _time_fields(found)
    fields |= {
        "memory": f"about {describe('_bytes', found.memory_bytes)}{_whose(found)}",
        "disk": f"about {describe('_bytes', found.disk_bytes)}, and {describe('_bytes', found.peak_disk_bytes)} "
        "while packs are combined",
    }
    write_fields(fields)


def _whose(found: Plan) -> str:
    if found.devices is not None:
        return f" a device, {found.group_size} documents at a time"
    workers = "1 worker" if found.workers == 1 else f"{found.workers} workers"
    return f" for {workers}, {found.group_size} documents at a time each"


def _time_fields(found: Plan) -> dict[str, object]:
    time = describe("_seconds", found.expected_time_seconds)
    rate = describe("_gflops", found.rate_gflops)
    share = f"{found.efficiency:.0%} of the rate"
    if found.time_from == "nothing to encode":
        return {"expected_time": "nothing to encode"}
    if found.devices is not None:
        fields: dict[str, object] = {
            "rate": f"{rate} a device, as given",
            "expected_time": f"about {time} on {found.devices} devices, at {share}",
            "device_hours": found.device_hours,
        }
        return fields if found.dollars is None else fields | {"dollars": f"{found.dollars:.2f}"}
    source = "at the speed of the last build here" if found.time_from == "earlier builds" else f"at {share}"
    return {
        "rate": f"{rate}, {found.dtype} matrix products measured here on {found.device}",
        "expected_time": f"about {time}, {source}",
    }
