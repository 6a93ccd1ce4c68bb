import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import InputError, StorageError, UsageError
from registry.evaluation.folder import ANSWERS_FILE, SETTINGS_FILE, EvaluationFolder
from registry.evaluation.results import Judged, Settings, Way
from tests.evaluation.invented import SETTINGS, answers, judged, scores

RAG, PRAG = Way("rag", 3), Way("prag", 3, "first:0.8")
GIVEN = [*answers(RAG, [1.0, 0.25]), *answers(PRAG, [0.0, 1.0])]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with the four answers of ``GIVEN``."""
    EvaluationFolder.open(tmp_path / "run", SETTINGS).add(GIVEN)
    return tmp_path / "run"


def test_what_is_added_comes_back(filled: Path) -> None:
    found = EvaluationFolder.read(filled)
    assert found.path == filled
    assert found.settings == SETTINGS
    assert found.answers == GIVEN


def test_any_text_comes_back(tmp_path: Path) -> None:
    odd = judged(
        RAG,
        1,
        scores(1 / 3),
        question='line\nend,\u2028 "quotes", 手册 and 🙂',
        answer="\x00\x85 tab\t",
        right=("a\r\nb", ""),
        type="|",
    )
    EvaluationFolder.open(tmp_path, SETTINGS).add([odd])
    assert EvaluationFolder.read(tmp_path).answers == [odd]


def test_an_opened_folder_goes_on_where_it_was(filled: Path) -> None:
    again = EvaluationFolder.open(filled, SETTINGS)
    assert again.answers == GIVEN
    more = judged(PRAG, 3, scores(0.5))
    again.add([more])
    again.add([])
    assert again.answers == [*GIVEN, more]
    assert EvaluationFolder.read(filled).answers == [*GIVEN, more]


def test_a_new_folder_is_made_with_its_parents_and_holds_no_answers(tmp_path: Path) -> None:
    assert EvaluationFolder.open(tmp_path / "runs" / "first", SETTINGS).answers == []
    assert EvaluationFolder.read(tmp_path / "runs" / "first").answers == []


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_half_written_answer_is_dropped_and_can_be_asked_again(filled: Path, kept: int) -> None:
    file = filled / ANSWERS_FILE
    whole = file.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    cut = whole[: last + kept] if kept >= 0 else whole[:kept]
    file.write_bytes(cut)
    assert EvaluationFolder.read(filled).answers == GIVEN[:3]
    assert file.read_bytes() == cut, "reading changes nothing"
    again = EvaluationFolder.open(filled, SETTINGS)
    assert again.answers == GIVEN[:3]
    again.add(GIVEN[3:])
    assert file.read_bytes() == whole


def test_a_first_answer_cut_off_leaves_none(filled: Path) -> None:
    (filled / ANSWERS_FILE).write_bytes(b'{"way": {"mo')
    assert EvaluationFolder.open(filled, SETTINGS).answers == []
    assert (filled / ANSWERS_FILE).read_bytes() == b""


_WRITER = """
import os, sys
from pathlib import Path
from registry.evaluation.folder import EvaluationFolder
from registry.evaluation.results import Way
from tests.evaluation.invented import SETTINGS, answers
folder = EvaluationFolder.open(Path(sys.argv[1]), SETTINGS)
for one in answers(Way("rag", 3), [1.0, 0.25]):
    folder.add([one])
file = (folder.path / "answers.jsonl").open("ab")
file.write(b'{"way": {"mode": "rag", "k"')
file.flush()
os.kill(os.getpid(), 9)
"""


def test_the_answers_of_a_killed_writer_are_kept(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", _WRITER, tmp_path / "run"], cwd=repository, check=False)
    assert done.returncode == -9
    folder = EvaluationFolder.open(tmp_path / "run", SETTINGS)
    assert folder.answers == answers(RAG, [1.0, 0.25])
    folder.add(answers(PRAG, [1.0]))
    assert len(EvaluationFolder.read(tmp_path / "run").answers) == 3


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(SETTINGS, version="handbook@v4"), "version handbook@v3 instead of handbook@v4"),
        (replace(SETTINGS, gold=True), "gold False instead of True"),
        (replace(SETTINGS, sample=50, seed=7), "sample None instead of 50, seed 0 instead of 7"),
    ],
)
def test_another_evaluation_is_refused_with_what_differs(filled: Path, other: Settings, said: str) -> None:
    before = (filled / SETTINGS_FILE).read_bytes()
    with pytest.raises(UsageError) as raised:
        EvaluationFolder.open(filled, other)
    assert raised.value.message == f"{filled} holds another evaluation: its {said}"
    assert raised.value.hint
    assert (filled / SETTINGS_FILE).read_bytes() == before


def test_answers_without_settings_are_not_written_over(filled: Path) -> None:
    (filled / SETTINGS_FILE).unlink()
    with pytest.raises(UsageError, match=r"no evaluation\.json"):
        EvaluationFolder.open(filled, SETTINGS)
    assert (filled / ANSWERS_FILE).stat().st_size


def _without(name: str) -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        values = json.loads(line)
        del values[name]
        return json.dumps(values).encode()

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"",
        lambda line: b"[]",
        lambda line: line[:30],
        lambda line: b"\xff" + line,
        lambda line: line.replace(b'"f1"', b'"f2"'),
        _without("way"),
        _without("answer"),
    ],
)
def test_a_damaged_line_is_named(filled: Path, damage: Callable[[bytes], bytes]) -> None:
    file = filled / ANSWERS_FILE
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], damage(lines[1]), *lines[2:], b""]))
    for read in (EvaluationFolder.read, lambda path: EvaluationFolder.open(path, SETTINGS)):
        with pytest.raises(InputError) as raised:
            read(filled)
        assert raised.value.message.startswith(f"{file}:2: not an answer of an evaluation")
        assert raised.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format": 2}', '{"format": 1}', '{"format": 1, "device": "cpu", "unknown": 1}'],
)
def test_damaged_settings_are_named(filled: Path, text: str) -> None:
    (filled / SETTINGS_FILE).write_text(text)
    with pytest.raises(InputError, match=r"evaluation\.json is not of an evaluation"):
        EvaluationFolder.read(filled)


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"holds no evaluation: there is no evaluation\.json") as raised:
            EvaluationFolder.read(path)
        assert raised.value.hint


def test_other_files_are_written_whole(filled: Path) -> None:
    folder = EvaluationFolder.read(filled)
    folder.write("report.md", "an older and longer one")
    assert folder.write("report.md", "# é\n").read_bytes() == "# é\n".encode()
    assert folder.write("f1.png", b"\x89PNG").read_bytes() == b"\x89PNG"
    assert {path.name for path in filled.iterdir()} == {SETTINGS_FILE, ANSWERS_FILE, "report.md", "f1.png"}


def test_a_full_disk_is_told_and_what_was_answered_is_kept(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    folder = EvaluationFolder.open(tmp_path / "run", SETTINGS)
    first, rest = GIVEN[:1], [*GIVEN[1:]] * 20
    folder.add(first)
    with largest_file(4096), pytest.raises(StorageError, match="cannot be written") as raised:
        folder.add(rest)
    assert raised.value.hint
    assert folder.answers == first
    again = EvaluationFolder.open(tmp_path / "run", SETTINGS)
    assert again.answers == [*first, *rest][: len(again.answers)]
    _ask_the_rest(again, [*first, *rest])
    assert EvaluationFolder.read(tmp_path / "run").answers == [*first, *rest]


def _ask_the_rest(folder: EvaluationFolder, every: list[Judged]) -> None:
    folder.add(every[len(folder.answers) :])


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        EvaluationFolder.open(tmp_path / "run", SETTINGS)
