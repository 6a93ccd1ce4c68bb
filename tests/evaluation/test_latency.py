import pytest

from registry.evaluation.latency import Latency, step_latencies


def test_mean_and_p95_of_every_step_and_of_all_together() -> None:
    answers = [{"search": 1.0, "decode": float(decode)} for decode in range(101)]
    latencies = step_latencies(answers)
    assert list(latencies) == ["search", "decode", "total"]
    assert latencies["search"] == Latency(1.0, 1.0)
    assert latencies["decode"] == Latency(50.0, pytest.approx(95.0))
    assert latencies["total"] == Latency(51.0, pytest.approx(96.0))


def test_an_answer_without_a_step_spent_no_time_on_it() -> None:
    latencies = step_latencies([{"merge": 4.0, "decode": 6.0}, {"decode": 8.0}, {}])
    assert latencies["merge"].mean_ms == pytest.approx(4 / 3)
    assert latencies["decode"].mean_ms == pytest.approx(14 / 3)
    assert latencies["total"].mean_ms == pytest.approx(6.0)
    assert latencies["total"].p95_ms == pytest.approx(9.8)


def test_no_answers_and_a_step_called_total_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        step_latencies([])
    with pytest.raises(ValueError, match="'total'"):
        step_latencies([{"total": 1.0}])
