"""A server under load: `python -m benchmarks.serve [--seconds 300] [--clients 64] [--rough] [--tiny]`.

A home is built of invented documents: two versions that answer the same questions differently. `pragreg query` answers
all of them; then a real `pragreg serve` is asked over loopback by clients with a connection each, half of the requests
streamed, and every answer is compared with the command line's. `--rough` repeats it while an alias moves between the
versions every 2 seconds, another corpus is built, and clients read slowly, vanish and send garbage; each answer must
then be wholly that of the version that it names, and name one that the alias did. Last, one client asks with adapters
and with three passages in turn. Exit status 1: something was wrong, and it says what.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.machine import header
from benchmarks.serve_clients import (
    TIMEOUT,
    Aliases,
    Asked,
    Load,
    Names,
    all_names,
    ask,
    fixed_names,
    moving_names,
    percentiles,
)
from benchmarks.serve_home import (
    ALIAS,
    CORPUS,
    MODES,
    VERSIONS,
    Answers,
    Bench,
    answers_of_the_command_line,
    pragreg,
    prepare,
)
from benchmarks.serve_process import Sample, Server, serving
from benchmarks.serve_trouble import Trouble

SHOWN_MISTAKES = 5
SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Period:
    """What came of a time under load."""

    load: Load
    seconds: float
    samples: list[Sample]
    trouble: Trouble | None

    @property
    def asked(self) -> list[Asked]:
        return self.load.asked

    @property
    def answered(self) -> list[Asked]:
        return [one for one in self.load.asked if not one.error]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wrong = run(folder, options)
    for line in wrong[:SHOWN_MISTAKES]:
        print(f"\nwrong: {line}")
    if wrong:
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="of each time under load (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=20, help="seconds before it (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=64, help="who ask at once (default: %(default)s)")
    parser.add_argument("--rough", action="store_true", help="repeat it with disturbances")
    parser.add_argument("--tiny", action="store_true", help="a tiny random model instead of the default one")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the default model")
    parser.add_argument("--documents", type=int, default=16, help="of each version (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=16, help="of an answer (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="answers in progress (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=20, help="questions of prag against rag (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where homes are kept for the next run (default: a temporary one)")
    return parser.parse_args()


def run(folder: Path, options: argparse.Namespace) -> list[str]:
    """Do everything, print the tables; return what was wrong."""
    bench = prepare(
        folder,
        is_tiny=options.tiny,
        dtype=options.dtype,
        documents=options.documents,
        max_tokens=options.max_tokens,
    )
    expected = answers_of_the_command_line(bench, MODES, min(8, options.batch_size))
    print(header("aiohttp", "fastapi", "uvicorn"))
    print(_setting(bench, expected, options), end="\n\n")
    wrong: list[str] = []
    batch = ("--batch-size", str(options.batch_size), "--queue", str(4 * options.clients))
    with serving(bench.home, folder / "serve.log", *batch) as server:
        pragreg("alias", "set", VERSIONS[0], ALIAS, home=bench.home)
        load = Load(server.url, bench, expected, Aliases(VERSIONS[0]))
        asyncio.run(load.run(options.clients, options.warm_up, all_names))
        periods = {"calm": period(server, bench, expected, options, fixed_names)}
        if options.rough:
            periods["rough"] = period(server, bench, expected, options, moving_names, is_rough=True)
        table({name: dict(_figures(one)) for name, one in periods.items()})
        for one in (load, *(found.load for found in periods.values())):
            wrong += [*(f"{asked.model}: {asked.error}" for asked in one.asked if asked.error), *one.mistakes]
        wrong += [line for one in periods.values() if one.trouble for line in one.trouble.wrong]
        against_texts(server, bench, options.turns)
        wrong += list(_left_over(server, bench))
    return wrong


def period(
    server: Server,
    bench: Bench,
    expected: Answers,
    options: argparse.Namespace,
    names: Names,
    *,
    is_rough: bool = False,
) -> Period:
    """Let the clients ask for the given time, with or without disturbances."""
    aliases = Aliases(VERSIONS[0])
    load = Load(server.url, bench, expected, aliases)
    trouble = Trouble(server, bench, aliases) if is_rough else None

    async def both() -> None:
        watching = asyncio.create_task(server.watch(options.seconds))
        disturbing = [trouble.run(options.seconds)] if trouble else []
        await asyncio.gather(load.run(options.clients, options.seconds, names), *disturbing)
        await watching

    first = len(server.samples)
    asyncio.run(both())
    began = min(one.started for one in load.asked)
    return Period(load, max(one.ended for one in load.asked) - began, server.samples[first:], trouble)


def _setting(bench: Bench, expected: Answers, options: argparse.Namespace) -> str:
    one, other = ([expected[version, "prag", question].text for question in bench.questions] for version in VERSIONS)
    differing = sum(mine != yours for mine, yours in zip(one, other, strict=True))
    model = "a tiny random model" if options.tiny else f"SmolLM2-135M in {options.dtype}"
    return (
        f"- {model}, {options.documents} documents in each of two versions, {len(bench.questions)} questions, of which "
        f"{differing} are answered differently; at most {options.max_tokens} tokens an answer\n"
        f"- {options.clients} clients on loopback, kept alive, half streamed; batch of {options.batch_size}"
    )


def _figures(period: Period) -> Iterator[tuple[str, str]]:
    good, asked, seconds = period.answered, period.asked, period.seconds
    compared = [line for line in period.load.mistakes if "the command line" in line]
    yield "seconds", f"{seconds:.0f}"
    yield "requests, of these streamed", f"{len(asked):,}, {sum(one.is_streamed for one in asked):,}"
    yield "errors", f"{len(asked) - len(good)}"
    yield "answers equal to `pragreg query`", f"{len(good) - len(compared):,} of {len(good):,}"
    yield "other mistakes (version, documents)", f"{len(period.load.mistakes) - len(compared)}"
    yield "answers a second", f"{len(good) / seconds:.1f}"
    yield "tokens a second", f"{sum(one.tokens for one in good) / seconds:.0f}"
    first = [one.first_seconds for one in good if one.first_seconds is not None]
    yield "first token, streamed: p50 / p90 / p99", percentiles(first)
    yield "whole answer: p50 / p90 / p99", percentiles([one.seconds for one in good])
    yield from _memory(period.samples)
    trouble = period.trouble
    if trouble is not None:
        yield "alias moves", f"{trouble.aliases.moves}"
        for name, count in trouble.counts.items():
            yield name, f"{count}"
        yield "disturbances gone wrong", f"{len(trouble.wrong)}"


def _memory(samples: list[Sample]) -> Iterator[tuple[str, str]]:
    width = max(1, len(samples) // 20)

    def at(share: float, name: str) -> float:
        middle = round(share * (len(samples) - 1))
        near = samples[max(0, middle - width) : middle + width + 1]
        return statistics.median(getattr(one, name) for one in near)

    begin, half, end = (at(share, "rss") / 1e6 for share in (0, 0.5, 1))
    growth = f"{end - begin:+.1f} MB, in the second half {end - half:+.1f} MB"
    yield "server's memory: beginning, middle, end", f"{begin:,.0f} / {half:,.0f} / {end:,.0f} MB ({growth})"
    for name in ("files", "threads"):
        yield f"its {name}: beginning, end", f"{at(0, name):.0f} / {at(1, name):.0f}"


def table(columns: dict[str, dict[str, str]]) -> None:
    """Print figures by name, a column for each time under load."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in names:
        print(f"| {name} | {' | '.join(column.get(name, '') for column in columns.values())} |")


def against_texts(server: Server, bench: Bench, turns: int) -> None:
    """Ask with adapters and with three passages in turn, one question at a time, streamed; print medians."""
    asked: dict[str, list[Asked]] = {"prag": [], "rag": []}

    async def both() -> None:
        async with aiohttp.ClientSession(server.url, timeout=TIMEOUT) as session:
            for turn in range(turns + 1):
                question = bench.questions[turn % len(bench.questions)]
                for mode, found in asked.items():
                    model = f"{CORPUS}@v1+{mode}"
                    found.append(
                        await ask(session, model, mode, question, max_tokens=bench.max_tokens, is_streamed=True)
                    )

    asyncio.run(both())
    medians = {mode: _medians(found[1:]) for mode, found in asked.items()}
    ratio = [theirs / ours for ours, theirs in zip(medians["prag"], medians["rag"], strict=True)]
    print(f"\n| one client, {turns} questions, medians | prompt tokens | answer tokens | first token | answer |")
    print("|---|---:|---:|---:|---:|")
    for mode, (prompt, tokens, first, whole) in medians.items():
        print(f"| {mode} | {prompt:.0f} | {tokens:.0f} | {first * 1000:.0f} ms | {whole * 1000:.0f} ms |")
    print(f"| rag / prag | {ratio[0]:.2f} | {ratio[1]:.2f} | {ratio[2]:.2f} | {ratio[3]:.2f} |")


def _medians(asked: Sequence[Asked]) -> tuple[float, float, float, float]:
    good = [one for one in asked if not one.error and one.first_seconds is not None]
    if not good:
        raise SystemExit(f"nothing was answered: {Counter(one.error for one in asked).most_common(1)}")
    columns = (
        [float(one.prompt_tokens) for one in good],
        [float(one.tokens) for one in good],
        [one.first_seconds or 0.0 for one in good],
        [one.seconds for one in good],
    )
    prompt, tokens, first, whole = map(statistics.median, columns)
    return prompt, tokens, first, whole


def _left_over(server: Server, bench: Bench) -> Iterator[str]:
    """Yield what is wrong with a server after all of it: rows that were not freed, its log, its end."""
    time.sleep(SETTLE_SECONDS)
    numbers = server.metrics()
    for name in ("pragreg_rows_running", "pragreg_queue_length", "pragreg_log_dropped_total"):
        if numbers[name]:
            yield f"{name} is {numbers[name]:.0f} when nobody asks"
    log = server.log()
    status, seconds = server.end()
    print(f"\n- started in {server.start_seconds:.1f} s, ended in {seconds:.1f} s with status {status}")
    if status:
        yield f"pragreg serve ended with {status}: {log[-500:]}"
    if "Traceback" in log:
        yield f"a traceback in the log: {log[log.index('Traceback') :][:1500]}"
    if any(question in log for question in bench.questions):
        yield "the log holds questions"


if __name__ == "__main__":
    main()
