"""``backup``, ``restore`` and ``catalog copy`` as they are typed, and what their messages say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from registry.catalog import schema
from registry.catalog.builds import begin_build
from registry.catalog.engine import open_catalog
from registry.settings import Home, create_home, open_home
from registry.upkeep.processes import is_alive
from tests.cli.conftest import Run
from tests.upkeep.press import held, pressing


@pytest.fixture
def pressed(home: Home) -> Home:
    """A registry with two versions of a corpus in real packs."""
    with pressing(home) as press:
        press.build(range(4))
        press.build(range(1, 6))
    return home


def test_back_up_and_restore(run: Run, pressed: Home) -> None:
    made = run("backup", "saved", "--home", pressed.path)
    assert (made.status, made.err) == (0, "")

    assert [line.split()[0] for line in made.out.splitlines()][:3] == ["folder", "catalog", "versions"]
    assert Path("saved/catalog.sqlite").is_file()
    again = run("backup", "saved", "--home", pressed.path, "--json", "--check", "--prune")
    assert again.status == 0
    (report,) = again.rows
    assert (report["versions"], report["copied"], report["present"], report["pruned"]) == (2, 0, report["packs"], 0)
    assert report["faults"] == []
    assert report["folder"] == str(Path("saved").absolute())
    back = run("restore", "saved", "--home", "new")
    assert (back.status, back.err) == (0, "")
    assert held(open_home(Path("new").absolute())) == held(pressed)
    assert run("corpora", "list", "--home", "new", "--json").rows[0]["name"] == "handbook"


def test_restore_without_a_home_makes_the_usual_one(run: Run, pressed: Home) -> None:
    run("backup", "saved", "--home", pressed.path)
    found = run("restore", "saved", "--packs", "elsewhere", "--catalog", "sqlite:///there.sqlite", "--json")
    assert found.status == 0
    (report,) = found.rows
    assert report["home"] == str(Path(".pragreg").absolute())
    assert report["copied"] == report["packs"] == len(list(Path("elsewhere").rglob("*.safetensors")))
    assert Path("there.sqlite").is_file()
    refused = run("restore", "saved")
    assert refused.status == 3
    assert "is not empty" in refused.err


def test_damaged_packs_end_with_status_7_and_are_named(run: Run, pressed: Home) -> None:
    path = sorted(Path(pressed.packs_url).rglob("*.safetensors"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x00")
    made = run("backup", "saved", "--home", pressed.path, "--json")
    assert made.status == 7
    assert made.rows[0]["faults"][0]["digest"] == path.name[:64]
    assert f"pack {path.name[:64]}, 10.3 kB: the pack {path.name[:12]} is damaged" in made.err
    assert "error: 1 pack of the registry could not be backed up; all the rest is" in made.err
    assert "try: pragreg repair" in made.err
    back = run("restore", "saved", "--home", "new")
    assert back.status == 7
    assert "1 pack of the backup could not be restored" in back.err
    path.write_bytes(whole)
    assert run("backup", "saved", "--home", pressed.path).status == 0


def test_wrong_folders(run: Run, pressed: Home) -> None:
    found = run("backup", pressed.path, "--home", pressed.path)
    assert (found.status, found.out) == (2, "")
    assert "is a registry home" in found.err
    found = run("restore", "nowhere", "--home", "new")
    assert (found.status, found.out) == (5, "")
    assert "there is no backup in" in found.err
    assert not Path("new").exists()


def test_copy_the_catalog_to_a_file(run: Run, pressed: Home) -> None:
    found = run("catalog", "copy", "home", "copy of it.sqlite", "--home", pressed.path)
    assert found.status == 0
    heading, *lines = found.out.splitlines()
    assert heading.split("\t") == ["table", "rows", "digest", "elapsed"]
    rows = {line.split("\t")[0]: int(line.split("\t")[1]) for line in lines}
    assert (rows["versions"], rows["documents"], rows["queries"]) == (2, 6, 0)
    assert "their sha256 agree" in found.err
    assert f"to use it, name it in {pressed.settings_path}" in found.err
    assert schema.check(f"sqlite:///{Path('copy of it.sqlite').absolute()}") == []
    again = run("catalog", "copy", "copy of it.sqlite", "sqlite:///third.sqlite", "--json")
    assert again.status == 0
    (report,) = again.rows
    assert {table["table"]: table["rows"] for table in report["tables"]} == rows
    assert Path("third.sqlite").is_file()


@pytest.mark.postgres
def test_move_a_registry_to_postgresql_and_back(run: Run, pressed: Home, empty_postgres_url: str) -> None:
    before = held(pressed)
    settings = pressed.settings_path.read_text()
    found = run("catalog", "copy", "home", empty_postgres_url, "--switch", "--home", pressed.path)
    assert found.status == 0
    assert "names the new catalog now" in found.err
    moved = open_home(pressed.path)
    assert moved.catalog_url == empty_postgres_url
    assert held(moved) == before
    assert moved.settings_path.stat().st_mode & 0o777 == 0o600
    assert run("info", "--home", pressed.path).status == 0
    back = run("catalog", "copy", "home", "sqlite:///back.sqlite", "--switch", "--home", pressed.path)
    assert back.status == 0
    assert held(open_home(pressed.path)) == before
    expected = settings.replace("sqlite:///catalog.sqlite", f"sqlite:///{Path('back.sqlite').absolute()}")
    assert pressed.settings_path.read_text() == expected


@pytest.mark.postgres
def test_a_registry_is_made_on_postgresql(run: Run, empty_postgres_url: str) -> None:
    assert empty_postgres_url.startswith("postgresql+psycopg://")
    assert run("init", "--home", "shared", "--catalog", empty_postgres_url).status == 0
    home = open_home(Path("shared").absolute())
    with pressing(home) as press:
        press.build(range(3))
    assert run("corpora", "list", "--home", "shared", "--json").rows[0]["documents"] == 3
    assert run("backup", "saved", "--home", "shared").status == 0
    assert json.loads(Path("saved/backup.json").read_text())["catalog"].startswith("postgresql://pragreg@127.0.0.1")


def test_copy_refuses(run: Run, pressed: Home, home: Home) -> None:
    found = run("catalog", "copy", "home", "x.sqlite")
    assert (found.status, found.out) == (3, "")
    assert "`home` names no catalog" in found.err
    found = run("catalog", "copy", "x.sqlite", "y.sqlite", "--switch", "--home", pressed.path)
    assert found.status == 2
    assert "pragreg catalog copy home TO --switch" in found.err
    found = run("catalog", "copy", "home", "home", "--home", pressed.path)
    assert found.status == 3
    assert "is not empty" in found.err
    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        recipe = session.connection().exec_driver_sql("SELECT digest FROM recipes").scalar_one()
        begin_build(session, "late", recipe_digest=recipe, who="ada", host="mill", pid=1, is_alive=is_alive)
    settings = pressed.settings_path.read_text()
    found = run("catalog", "copy", "home", "z.sqlite", "--switch", "--home", pressed.path)
    assert found.status == 10
    assert "corpus 'late' is being built" in found.err
    assert pressed.settings_path.read_text() == settings


def test_switching_keeps_the_other_settings(tmp_path: Path, run: Run) -> None:
    home = create_home(tmp_path / "home", packs_url="packs-here")
    schema.upgrade(home.catalog_url)
    text = home.settings_path.read_text() + "\n[other]\nkept = true\n"
    home.settings_path.write_text(text)
    home.settings_path.chmod(0o640)
    assert run("catalog", "copy", "home", "new.sqlite", "--switch", "--home", home.path).status == 0
    assert "kept = true" in home.settings_path.read_text()
    assert open_home(home.path).packs_url == home.packs_url
    assert home.settings_path.stat().st_mode & 0o777 == 0o640
    assert not list(home.path.glob("*.partial"))
    shutil.rmtree(home.path)
