"""What the server tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from registry.generation.requests import Generated
from registry.records import Answer

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


@dataclass(frozen=True)
class Pulled:
    """A number that is looked up when it is asked for."""

    name: str
    help: str
    value: Callable[[], float]
    is_counter: bool = False


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self, pulled: tuple[Pulled, ...]) -> None:
        """Begin at 0."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as many lines again, which say when each began
        self._registry = CollectorRegistry()
        self._registry.register(_Pulls(pulled))
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "pragreg_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self._prompt_tokens = Counter("pragreg_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self._answer_tokens = Counter("pragreg_answer_tokens", "Tokens of answers.", registry=self._registry)
        self._queue = self._histogram("queue", "Seconds that an answer waited for its row.")
        self._search = self._histogram("search", "Seconds to find a question's documents.")
        self._prefill = self._histogram("prefill", "Seconds for the passes of a prompt, its share of them.")
        self._first = self._histogram(
            "first_token", "Seconds from the engine's taking of a request to its first token."
        )
        self._answer = self._histogram("answer", "Seconds until an answer is complete, waiting included.")

    def requested(self, path: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()

    def prompted(self, tokens: int) -> None:
        """Count the tokens of a prompt."""
        self._prompt_tokens.inc(tokens)

    def answered(self, answer: Answer, generated: Generated) -> None:
        """Count an answer."""
        self._answer_tokens.inc(len(generated.tokens))
        if "search" in answer.milliseconds:
            self._search.observe(answer.milliseconds["search"] / 1000)
        self._queue.observe(generated.waiting_ms / 1000)
        self._prefill.observe(generated.prefill_ms / 1000)
        self._first.observe(generated.first_token_ms / 1000)
        self._answer.observe(generated.elapsed_ms / 1000)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return all numbers in the form that the client takes, with its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"pragreg_{name}_seconds", text, buckets=_SECONDS, registry=self._registry)


class _Pulls(Collector):
    def __init__(self, pulled: tuple[Pulled, ...]) -> None:
        self._pulled = pulled

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers as they are now."""
        for each in self._pulled:
            family = CounterMetricFamily if each.is_counter else GaugeMetricFamily
            yield family(each.name, each.help, value=each.value())
