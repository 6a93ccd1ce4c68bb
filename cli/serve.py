"""``pragreg serve``: answers over HTTP."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import click

from cli.options import complete_corpus, device_option, dtype_option, home_option
from cli.output import FULL_LIST, say
from cli.progress import progress_bars
from registry.serving.settings import ServeSettings
from registry.settings import Home


@click.command(short_help="Answer over HTTP, as OpenAI's interface does.")
@click.argument("corpora", nargs=-1, metavar="[CORPUS...]", shell_complete=complete_corpus)
@click.option("--host", metavar="ADDRESS", default=ServeSettings.host, show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=ServeSettings.port,
    show_default=True,
    help="The port; 0 takes one that is free.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1024),
    metavar="N",
    default=ServeSettings.rows,
    show_default=True,
    help="Answers computed at once.",
)
@click.option(
    "--queue",
    type=click.IntRange(0),
    metavar="N",
    default=ServeSettings.queue,
    show_default=True,
    help="Answers that may wait; more are refused with 429 and Retry-After.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    metavar="N",
    default=ServeSettings.max_tokens,
    show_default=True,
    help="The longest answer that may be asked for, in tokens.",
)
@click.option(
    "--context",
    type=click.IntRange(16),
    metavar="N",
    default=ServeSettings.context,
    show_default=True,
    help="Tokens of a prompt and its answer together; memory is kept for so many in every row.",
)
@click.option(
    "--timeout",
    type=click.IntRange(1, 86_400),
    metavar="SECONDS",
    default=int(ServeSettings.timeout_seconds),
    show_default=True,
    help="The longest time for a request.",
)
@click.option(
    "--drain",
    type=click.IntRange(0, 86_400),
    metavar="SECONDS",
    default=int(ServeSettings.drain_seconds),
    show_default=True,
    help="How long running answers are waited for when the server is told to stop.",
)
@click.option(
    "--max-request-bytes",
    type=click.IntRange(1),
    metavar="N",
    default=ServeSettings.max_request_bytes,
    show_default=True,
    help="The largest body of a request.",
)
@click.option(
    "--cache-bytes",
    type=click.IntRange(0),
    metavar="N",
    default=ServeSettings.cache_bytes,
    show_default=True,
    help="Adapters kept on the device, and as many again in memory.",
)
@click.option("--insecure", is_flag=True, help="Listen at an address that other machines reach, without any key.")
@click.option("--log-questions", is_flag=True, help="Record questions and answers in the catalog.")
@home_option
@device_option
@dtype_option("the model computes")
def serve(
    home: Home,
    corpora: tuple[str, ...],
    host: str,
    port: int,
    batch_size: int,
    queue: int,
    max_tokens: int,
    context: int,
    timeout: int,
    drain: int,
    max_request_bytes: int,
    cache_bytes: int,
    insecure: bool,
    log_questions: bool,
    device: str,
    dtype: str | None,
) -> None:
    """Answer questions over HTTP, as OpenAI's interface does, until Ctrl-C or SIGTERM.

    Served are all corpora with the base model of CORPUS (give several for several base models, none where there is one
    alone), each also by alias and version: handbook, handbook@production, handbook@v3+combined.
    """
    settings = ServeSettings(
        corpora=corpora,
        host=host,
        port=port,
        rows=batch_size,
        queue=queue,
        max_tokens=max_tokens,
        context=context,
        timeout_seconds=timeout,
        drain_seconds=drain,
        max_request_bytes=max_request_bytes,
        cache_bytes=cache_bytes,
        device=device,
        dtype=dtype or "auto",
        insecure=insecure,
        log_questions=log_questions,
    )
    _run(home, settings)


def _run(home: Home, settings: ServeSettings) -> None:
    from registry.serving.run import ready

    with ExitStack() as stack:
        with progress_bars() as progress:
            server = stack.enter_context(ready(home, settings, progress))
        # What is loaded by now stays to the end: looking through all of it for garbage, again and again and once more
        # at the end, takes 0.3 s each time.
        gc.collect()
        gc.freeze()
        # The engine's thread gives Python away at every operation; to have it back after half a millisecond instead of
        # five makes 32 streams a third faster.
        sys.setswitchinterval(0.0005)
        server.run(partial(_say_ready, server.url, server.models, server.needs_key))


def _say_ready(url: str, models: Sequence[str], needs_key: bool) -> None:
    shown = ", ".join(models[:FULL_LIST]) + (f" and {len(models) - FULL_LIST} more" if len(models) > FULL_LIST else "")
    say(f"serving {shown}")
    say(f"at {url} ({'with an API key: pragreg keys create NAME' if needs_key else 'no key is needed'}); Ctrl-C stops")
    key = ' -H "Authorization: Bearer $PRAGREG_API_KEY"' if needs_key else ""
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "..."}}]}}'
    say(f"try: curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'")
