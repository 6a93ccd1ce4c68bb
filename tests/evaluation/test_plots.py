import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.evaluation.plots import MODE_COLOURS, f1_against_latency, f1_by_mode
from registry.evaluation.results import Evaluation, Way
from tests.evaluation.invented import MERGE, REALISTIC_WAYS, answers, evaluation, realistic

Plot = Callable[[Evaluation], dict[str, bytes]]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
SVG = "{http://www.w3.org/2000/svg}"

both = pytest.mark.parametrize("plot", [f1_by_mode, f1_against_latency])


@pytest.fixture(scope="module")
def full() -> Evaluation:
    """An evaluation of every mode with 1 and 3 documents."""
    return realistic(40)


def texts(svg: bytes) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@both
def test_png_and_svg_with_every_way_and_the_title_as_text(plot: Plot, full: Evaluation) -> None:
    pictures = plot(full)
    assert set(pictures) == {"png", "svg"}
    assert pictures["png"].startswith(PNG_MAGIC)
    shown = texts(pictures["svg"])
    assert {way.label for way in REALISTIC_WAYS} <= set(shown)
    title = " ".join(shown)
    assert "handbook@v3" in title
    assert "40 questions of squad100.questions.jsonl" in title


@both
def test_a_mode_has_its_colour_everywhere(plot: Plot, full: Evaluation) -> None:
    svg = plot(full)["svg"].decode()
    assert all(colour in svg for colour in MODE_COLOURS.values())
    assert len(set(MODE_COLOURS.values())) == len(MODE_COLOURS)
    only = plot(evaluation(answers(Way("prag", 3, MERGE), [0.0, 1.0])))["svg"].decode()
    assert [colour for colour in MODE_COLOURS.values() if colour in only] == [MODE_COLOURS["prag"]]


@both
def test_the_same_results_give_the_same_bytes(plot: Plot, full: Evaluation) -> None:
    first, second = plot(full), plot(full)
    assert first == second
    assert b"<dc:date>" not in first["svg"]


_IN_ANOTHER_PROCESS = """
import sys
from registry.evaluation.plots import f1_by_mode
from registry.evaluation.results import Way
from tests.evaluation.invented import answers, evaluation
sys.stdout.buffer.write(f1_by_mode(evaluation(answers(Way("rag", 3), [0.0, 1.0])))["svg"])
assert "matplotlib.pyplot" not in sys.modules
"""


def test_another_process_with_other_habits_gives_the_same_svg(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("svg.hashsalt: other\nfont.size: 30\nsvg.fonttype: path\n")
    done = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")},
        capture_output=True,
        check=True,
    )
    assert done.stdout == f1_by_mode(evaluation(answers(Way("rag", 3), [0.0, 1.0])))["svg"]


def test_matplotlib_is_imported_only_to_draw() -> None:
    script = "import sys, registry.evaluation.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True)


@both
def test_settings_of_matplotlib_stay_as_they_were(plot: Plot, full: Evaluation) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        plot(full)
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.fonttype"]) == (30, "path")


@both
def test_nothing_but_zeros_can_be_drawn(plot: Plot) -> None:
    idle = [replace(one, milliseconds={}) for one in answers(Way("closed-book"), [0.0, 0.0])]
    assert plot(evaluation(idle))["png"].startswith(PNG_MAGIC)


@both
def test_an_interval_beside_its_mean_can_be_drawn(plot: Plot, full: Evaluation) -> None:
    # A percentile interval may leave its own mean out by a rounding error.
    result = full.results[0]
    f1 = replace(result.scores["f1"], low=0.3, mean=0.2, high=0.1)
    odd = replace(full, results=(replace(result, scores={**result.scores, "f1": f1}),))
    assert plot(odd)["png"].startswith(PNG_MAGIC)


@both
def test_no_answers_have_no_picture(plot: Plot) -> None:
    assert plot(evaluation([])) == {}


@both
def test_names_are_text_and_cut_to_fit(plot: Plot, full: Evaluation) -> None:
    name = "手册 $x_1$ & <b> " + "long " * 30 + "end.jsonl"
    named = replace(full, settings=replace(full.settings, questions_name=name))
    shown = " ".join(texts(plot(named)["svg"]))
    assert "手册 $x_1$ & <b> long" in shown
    assert "…" in shown
    assert "end.jsonl" in shown
    assert name not in shown


@both
def test_ways_that_differ_in_their_merge_alone_say_it(plot: Plot) -> None:
    ways = [Way("prag", 3, "first:0.8"), Way("prag", 3, "uniform")]
    shown = texts(plot(evaluation([one for way in ways for one in answers(way, [0.0, 1.0])]))["svg"])
    assert {"prag, k = 3, first:0.8", "prag, k = 3, uniform"} <= set(shown)


@both
def test_an_unknown_mode_and_many_numbers_of_documents_can_be_drawn(plot: Plot) -> None:
    ways = [Way("new-mode", k) for k in range(1, 12)]
    shown = texts(plot(evaluation([one for way in ways for one in answers(way, [0.5])]))["svg"])
    assert {way.label for way in ways} <= set(shown)


def test_bars_of_a_mode_stand_together_in_the_order_of_k(full: Evaluation) -> None:
    shown = [text for text in texts(f1_by_mode(full)["svg"]) if text in {way.label for way in REALISTIC_WAYS}]
    assert shown == [
        *("closed-book", "task-only", "wrong-document, k = 1", "wrong-document, k = 3"),
        *("rag, k = 1", "rag, k = 3", "prag, k = 1", "prag, k = 3", "combined, k = 1", "combined, k = 3"),
    ]
