import json
import re
from dataclasses import replace
from itertools import chain

import pytest

from registry.evaluation.intervals import Estimate
from registry.evaluation.report import amount, escaped, figure, labels, markdown, p_value, ratio, results_lines, table
from registry.evaluation.results import Evaluation, Judged, Way, compare_ways
from tests.evaluation.invented import MERGE, REALISTIC_WAYS, SETTINGS, answers, evaluation, judged, realistic, scores

CLOSED, TASK, RAG = Way("closed-book"), Way("task-only"), Way("rag", 3)
WRONG, PRAG = Way("wrong-document", 3, MERGE), Way("prag", 3, MERGE)


@pytest.fixture(scope="module")
def full() -> Evaluation:
    """An evaluation that has something for every part of the page."""
    return realistic(60)


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table, its header first; a cell may hold an escaped pipe."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(line) for line in cells}) == 1, "a row has another number of cells than its header"
    return [cells[0], *cells[2:]]


def test_the_page_has_every_part(full: Evaluation) -> None:
    page = markdown(full)
    assert page.startswith("# squad100.questions.jsonl on handbook@v3\n")
    assert list(sections(page))[1:] == [
        "Ways of answering",
        "Is it knowledge?",
        "Retrieval",
        "By type of question",
        "Paired comparisons",
        "Latency",
    ]
    assert page.endswith("|\n")
    assert "\n\n\n" not in page


def test_the_heading_says_what_was_asked_of_what() -> None:
    head = markdown(evaluation(answers(RAG, [1.0, 0.0])))
    assert "- Version: handbook@v3 (sha256 111111111111)" in head
    assert "- Asked: 2 questions, all of the file" in head
    assert "- Documents: retrieved by the index" in head
    drawn = replace(SETTINGS, sample=1, seed=7, gold=True)
    head = markdown(evaluation(answers(RAG, [1.0]), settings=drawn))
    assert "- Asked: 1 question, drawn by chance, seed 7" in head
    assert "- Documents: gold (each question's own)" in head


def test_the_ways_have_their_figures() -> None:
    page = markdown(evaluation([*answers(CLOSED, [0.0, 0.0]), *answers(PRAG, [1.0, 1.0])]))
    table = rows(sections(page)["Ways of answering"])
    assert table[1] == [
        *("closed-book", "–", "–", ".000", ".000 (.000 to .000)", ".000", ".000", ".000 (.000 to .000)"),
        *(".101", ".101", "25"),
    ]
    assert table[2] == [
        *("prag", "3", "first:0.8", "1.000", "1.000 (1.000 to 1.000)", "1.000", "1.000", "1.000 (1.000 to 1.000)"),
        *(".105", ".105", "25"),
    ]


def test_the_tables_are_whole(full: Evaluation) -> None:
    found = {name: rows(part) for name, part in sections(markdown(full)).items() if "|" in part}
    assert len(found["Ways of answering"]) == 1 + len(REALISTIC_WAYS)
    assert len(found["By type of question"]) == 1 + 2 * len(REALISTIC_WAYS)
    assert len(found["Paired comparisons"]) == 1 + len(full.comparisons)
    assert {"recall@5", "hit@1", "nDCG@10"} < {row[0] for row in found["Retrieval"]}
    assert found["Latency"][0] == ["way", "search", "prefill", "decode", "total"]
    assert found["Latency"][1][1] == ".000 / .000"
    assert all(re.fullmatch(r"[\d,.]+ / [\d,.]+", cell) for row in found["Latency"][1:] for cell in row[1:])
    first = found["Paired comparisons"][1]
    assert first[:3] == ["task-only", "closed-book", "60"]
    assert re.fullmatch(r"-?\.\d{3} \(-?\.\d{3} to -?\.\d{3}\)", first[3])


def test_a_step_that_a_way_does_not_have_is_a_dash() -> None:
    page = markdown(evaluation([*answers(CLOSED, [1.0]), *answers(PRAG, [1.0])]))
    assert rows(sections(page)["Latency"]) == [
        ["way", "search", "decode", "merge", "total"],
        ["closed-book", "1.00 / 1.00", "100 / 100", "–", "101 / 101"],
        ["prag, k = 3", "1.00 / 1.00", "100 / 100", "4.00 / 4.00", "105 / 105"],
    ]


def test_parts_without_anything_to_tell_are_left_out() -> None:
    page = markdown(evaluation(answers(RAG, [1.0])))
    assert list(sections(page))[1:] == ["Ways of answering", "Latency"]
    retrieval = {"recall@5": Estimate(0.5, 0.4, 0.6, 12)}
    page = markdown(evaluation([], retrieval=retrieval))
    assert list(sections(page))[1:] == ["Retrieval"]
    assert "12 questions whose documents are known." in page
    assert rows(page)[1:] == [["recall@5", ".500 (.400 to .600)"]]


def verdict(*given: list[Judged]) -> str:
    page = markdown(evaluation(list(chain.from_iterable(given))))
    (line,) = [line for line in page.splitlines() if line.startswith("- **prag")]
    return line


GOOD, BAD, HALF = [1.0] * 20, [0.0] * 20, [1.0, 0.0] * 10


def test_better_than_every_control_counts_as_knowledge() -> None:
    assert verdict(answers(CLOSED, BAD), answers(TASK, BAD), answers(WRONG, BAD), answers(PRAG, GOOD)) == (
        "- **prag, k = 3** counts as knowledge: F1 over closed-book 1.000 (1.000 to 1.000); over wrong-document, k = 3 "
        "1.000 (1.000 to 1.000); over task-only 1.000 (1.000 to 1.000)."
    )


def test_the_order_of_the_ways_does_not_matter() -> None:
    there = verdict(answers(WRONG, HALF), answers(PRAG, GOOD))
    back = verdict(answers(PRAG, GOOD), answers(WRONG, HALF))
    assert " counts as knowledge: F1 over wrong-document, k = 3 .500 (" in there
    assert there == back


@pytest.mark.parametrize("control", [CLOSED, TASK, WRONG])
def test_one_control_that_is_as_good_decides(control: Way) -> None:
    given = [answers(way, GOOD if way == control else BAD) for way in (CLOSED, TASK, WRONG)]
    line = verdict(*given, answers(PRAG, GOOD))
    assert f"does not count as knowledge, because of {control.label}: F1 over closed-book " in line
    assert f"over {control.label} .000 (.000 to .000)" in line


def test_a_lead_within_its_interval_is_not_knowledge() -> None:
    line = verdict(answers(CLOSED, [0.0, 1.0, 0.0]), answers(PRAG, [1.0, 0.0, 1.0]))
    assert "does not count as knowledge, because of closed-book: F1 over closed-book .333 (-" in line


def test_controls_that_were_not_measured_are_named() -> None:
    assert verdict(answers(CLOSED, BAD), answers(PRAG, GOOD)).endswith(" Not measured here: wrong-document, task-only.")
    assert verdict(answers(RAG, BAD), answers(PRAG, GOOD)) == (
        "- **prag, k = 3**: cannot be told, for no control was measured beside it. "
        "Not measured here: closed-book, wrong-document, task-only."
    )


def test_the_wrong_documents_are_as_many_and_merged_alike() -> None:
    others = [Way("wrong-document", 1, MERGE), Way("wrong-document", 3, "uniform")]
    line = verdict(answers(CLOSED, BAD), *(answers(way, GOOD) for way in others), answers(PRAG, GOOD))
    assert " counts as knowledge: F1 over closed-book 1.000" in line
    assert line.endswith(" Not measured here: wrong-document, task-only.")


def test_every_prag_way_has_its_sentence(full: Evaluation) -> None:
    part = sections(markdown(full))["Is it knowledge?"]
    assert re.findall(r"^- \*\*(.*?)\*\*", part, flags=re.MULTILINE) == ["prag, k = 1", "prag, k = 3"]


def test_what_markdown_acts_on_is_escaped() -> None:
    settings = replace(SETTINGS, questions_name="a|b\n# c.jsonl", version="hand|book@v1")
    given = [judged(Way("rag", 3), number, scores(1.0), type=name) for number, name in enumerate(["x|y", "<b>"], 1)]
    page = markdown(evaluation(given, settings=settings))
    assert page.startswith("# a\\|b # c.jsonl on hand\\|book@v1\n")
    assert [row[0] for row in rows(sections(page)["By type of question"])[1:]] == ["\\<b>", "x\\|y"]


def test_ways_that_differ_in_their_merge_alone_say_it() -> None:
    other = replace(PRAG, merge="ties:0.5")
    assert labels([PRAG, other, CLOSED, PRAG]) == {
        PRAG: "prag, k = 3, first:0.8",
        other: "prag, k = 3, ties:0.5",
        CLOSED: "closed-book",
    }


def test_lines_are_plain_values(full: Evaluation) -> None:
    lines = results_lines(full)
    assert json.loads(json.dumps(lines, allow_nan=False)) == lines
    kinds = [line["kind"] for line in lines]
    assert kinds == ["retrieval"] + ["result"] * len(full.results) + ["comparison"] * len(full.comparisons)
    assert lines[0]["measures"]["recall@5"]["count"] == 60
    result = next(line for line in lines if line.get("mode") == "prag")
    assert (result["k"], result["merge"], result["question_type"], result["questions"]) == (1, MERGE, "", 60)
    assert set(result["scores"]["f1"]) == {"mean", "low", "high", "count"}
    assert set(result["latencies"]["total"]) == {"mean_ms", "p95_ms"}
    comparison = lines[-1]
    assert comparison["first"] == {"mode": "combined", "k": 3, "merge": MERGE}
    assert set(comparison["measures"]["f1"]) == {"measure", "difference", "ratio", "p_value"}


def test_lines_have_no_retrieval_where_there_is_none() -> None:
    given = [*answers(CLOSED, [0.0]), *answers(RAG, [1.0])]
    lines = results_lines(evaluation(given))
    assert [line["kind"] for line in lines] == ["result", "result", "comparison"]
    assert lines[-1]["measures"]["f1"]["ratio"] is None
    assert compare_ways(given, seed=0)[0].measures["f1"].ratio is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, ".000"), (0.1234, ".123"), (-0.0454, "-.045"), (-0.0001, ".000"), (0.9996, "1.000"), (1, "1.000")],
)
def test_shares(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, ".000"),
        (0.3916, ".392"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (12.34, "12.3"),
        (99.96, "100"),
        (508.4, "508"),
        (1234.5, "1,234"),
    ],
)
def test_amounts_have_three_digits(value: float, text: str) -> None:
    assert amount(value) == text


def test_small_p_values_and_missing_ratios() -> None:
    assert [p_value(value) for value in (1.0, 0.0314, 0.0001)] == ["1.000", ".031", "< .001"]
    assert ratio(None) == "–"
    assert ratio(Estimate(4.068, 3.0, 12.0, 9)) == "4.07 (3.00 to 12.0)"


def test_escaping_keeps_a_cell_one_cell() -> None:
    assert escaped("a\\|b \x1b[31m*c*\r\n`d`") == "a\\\\\\|b \\[31m\\*c\\* \\`d\\`"
    assert escaped("first_name 手册 é") == "first_name 手册 é"
    assert table(["a", "b"], [[escaped("x|y"), 1]]).splitlines()[-1] == "| x\\|y | 1 |"
