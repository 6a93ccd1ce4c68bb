from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine, inspect, make_url, text

from registry.catalog import describe, schema
from registry.catalog.dialect import parse_url
from registry.catalog.engine import open_catalog
from registry.catalog.models import Base
from registry.catalog.revisions import known_revisions, migrations_path
from registry.errors import HomeError, StorageError, UsageError
from registry.settings import create_home

ROOT = Path(__file__).parents[2]


def execute(url: str, *statements: str) -> None:
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def table_names(url: str) -> set[str]:
    engine = create_engine(parse_url(url))
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def run_python(code: str, *, path: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), **arguments}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=path, check=False
    )


def test_every_migration_goes_up_and_down(any_empty_url: str) -> None:
    assert schema.current(any_empty_url) is None
    for migration in schema.history():
        schema.upgrade(any_empty_url, migration.revision)
        assert schema.current(any_empty_url) == migration.revision
    assert schema.check(any_empty_url) == []
    assert table_names(any_empty_url) == {*Base.metadata.tables, "alembic_version"}
    for migration in reversed(schema.history()):
        schema.downgrade(any_empty_url, migration.parent or "base")
        assert schema.current(any_empty_url) == migration.parent
    assert table_names(any_empty_url) == {"alembic_version"}
    schema.upgrade(any_empty_url)
    open_catalog(any_empty_url).close()


def test_upgrade_twice_changes_nothing(any_url: str) -> None:
    schema.upgrade(any_url)
    assert schema.current(any_url) == schema.head()


def test_revisions_are_named_like_their_files() -> None:
    history = schema.history()
    assert [migration.revision for migration in history] == known_revisions()
    assert schema.head() == history[-1].revision
    assert history[0].parent is None
    assert all(migration.message for migration in history)


def test_check_tells_every_kind_of_difference(any_url: str) -> None:
    execute(
        any_url,
        "DROP INDEX ix_memberships_adapter_id",
        "ALTER TABLE packs ADD COLUMN colour TEXT",
        "CREATE TABLE stray (id INTEGER)",
    )
    found = schema.check(any_url)
    assert len(found) == 3
    assert any("ix_memberships_adapter_id" in line for line in found)
    assert any("colour" in line for line in found)
    assert any("stray" in line for line in found)


@pytest.mark.postgres
def test_check_tells_missing_check_constraints(empty_postgres_url: str) -> None:
    schema.upgrade(empty_postgres_url)
    execute(empty_postgres_url, "ALTER TABLE packs DROP CONSTRAINT ck_packs_not_empty")
    assert schema.check(empty_postgres_url) == ["add check: ck_packs_not_empty"]


def test_a_database_without_a_catalog_is_refused(any_empty_url: str) -> None:
    with pytest.raises(HomeError, match="no catalog") as caught:
        open_catalog(any_empty_url)
    assert caught.value.hint == "pragreg db upgrade"
    with pytest.raises(HomeError, match="no catalog"):
        schema.check(any_empty_url)
    file = any_empty_url.removeprefix("sqlite:///")
    assert not Path(file).exists(), "looking created a file"


def test_a_newer_catalog_is_refused(any_url: str) -> None:
    execute(any_url, "UPDATE alembic_version SET version_num = '9999_tomorrow'")
    for use in (open_catalog, schema.upgrade, lambda url: schema.downgrade(url, "base")):
        with pytest.raises(HomeError, match="9999_tomorrow") as caught:
            use(any_url)
        assert "upgrade pragreg" in str(caught.value.hint)


def test_check_is_for_catalogs_of_this_schema(any_url: str) -> None:
    execute(any_url, "UPDATE alembic_version SET version_num = '9999_from_the_future'")
    with pytest.raises(HomeError, match="does not know yet"):
        schema.check(any_url)


def test_the_database_of_another_program_is_refused(any_url: str) -> None:
    execute(any_url, "UPDATE alembic_version SET version_num = '1f2e3d4c5b6a'")
    for use in (open_catalog, schema.upgrade, schema.check):
        with pytest.raises(HomeError, match="belongs to another program"):
            use(any_url)


def test_a_database_with_tables_of_these_names_is_refused(any_empty_url: str) -> None:
    execute(any_empty_url, "CREATE TABLE documents (id INTEGER)")
    with pytest.raises(HomeError, match="tables called as those of one: documents") as caught:
        schema.upgrade(any_empty_url)
    assert "a database of its own" in str(caught.value.hint)
    assert table_names(any_empty_url) == {"documents"}


@pytest.mark.postgres
def test_a_database_that_lacks_most_characters_is_refused(empty_postgres_url: str) -> None:
    url = make_url(empty_postgres_url)
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        options = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(text(f"CREATE DATABASE {url.database}_latin {options}"))
        try:
            with pytest.raises(HomeError, match="keeps text as LATIN1") as caught:
                schema.upgrade(url.set(database=f"{url.database}_latin").render_as_string(hide_password=False))
        finally:
            connection.execute(text(f"DROP DATABASE {url.database}_latin WITH (FORCE)"))
    server.dispose()
    assert "createdb --encoding=UTF8" in str(caught.value.hint)


@pytest.mark.postgres
def test_an_option_that_the_driver_does_not_know(empty_postgres_url: str) -> None:
    with pytest.raises(HomeError, match='invalid connection option "nonsense"'):
        schema.upgrade(f"{empty_postgres_url}?nonsense=1")


def test_an_older_catalog_is_refused_until_it_is_upgraded(tmp_path: Path) -> None:
    """A program with one migration more stands beside the catalog of this one."""
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    schema.upgrade(url)
    shutil.copytree(migrations_path(), tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "9000_later.py").write_text(
        'import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = "9000_later", '
        f"{schema.head()!r}\ndef upgrade():\n    op.create_table('later', sa.Column('id', sa.Integer))\n"
    )
    code = (
        "import os; from registry.catalog import schema; from registry.catalog.engine import open_catalog\n"
        "from registry.errors import HomeError\n"
        "try: open_catalog(os.environ['URL'])\n"
        "except HomeError as error: print(error, '|', error.hint)\n"
        "schema.upgrade(os.environ['URL']); open_catalog(os.environ['URL']).close(); print('opened')"
    )
    done = run_python(code, path=tmp_path, URL=url)
    assert done.returncode == 0, done.stderr
    refused, opened = done.stdout.splitlines()
    assert schema.head() in refused
    assert "needs 9000_later | pragreg db upgrade" in refused
    assert opened == "opened"


def test_an_unknown_revision_is_a_usage_error(any_url: str) -> None:
    with pytest.raises(UsageError, match="0815_never"):
        schema.upgrade(any_url, "0815_never")
    assert schema.current(any_url) == schema.head()


def test_a_failed_migration_leaves_nothing(tmp_path: Path) -> None:
    """The tables of the migration before it are gone as well: all or nothing."""
    shutil.copytree(migrations_path(), tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "9000_wrong.py").write_text(
        'from alembic import op\nrevision, down_revision = "9000_wrong", '
        f"{schema.head()!r}\ndef upgrade():\n    op.execute('CREATE TABLE wrong (')\n"
    )
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    code = "import os; from registry.catalog import schema; schema.upgrade(os.environ['URL'])"
    done = run_python(code, path=tmp_path, URL=url)
    assert done.returncode == 1
    assert table_names(url) == set()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        schema.upgrade(f"sqlite:///{tmp_path / 'nowhere' / 'catalog.sqlite'}")


@pytest.mark.parametrize("folder", ["50% off", "what?", "a%20b", "grün #1"])
def test_homes_may_have_any_name(tmp_path: Path, folder: str) -> None:
    home = create_home(tmp_path / folder)
    schema.upgrade(home.catalog_url)
    with open_catalog(home.catalog_url) as catalog:
        assert catalog.safe_url == f"sqlite:///{home.path / 'catalog.sqlite'}"
        with open_catalog(catalog.url):
            pass
    assert (home.path / "catalog.sqlite").is_file()
    assert home.catalog_url.endswith(f"{quote(folder)}/catalog.sqlite")


def test_developers_may_use_alembic_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    schema.upgrade(url)
    alembic = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini")]

    def run(*arguments: str) -> str:
        return subprocess.run([*alembic, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True).stdout

    assert schema.head() in run("-x", f"url={url}", "current")
    printed = run("-x", "url=postgresql://nobody@localhost/none", "upgrade", "head", "--sql")
    assert 'COLLATE "C"' in printed
    assert table_names(url) == {*Base.metadata.tables, "alembic_version"}


def test_every_name_fits_every_database() -> None:
    for table in Base.metadata.tables.values():
        for item in (*table.constraints, *table.indexes):
            assert item.name is not None
            assert len(str(item.name)) <= 63


def test_the_schema_is_documented() -> None:
    page = describe.schema_markdown()
    assert (ROOT / "docs" / "catalog.md").read_text(encoding="utf-8") == page, (
        "write it anew: python -m registry.catalog.describe > docs/catalog.md"
    )
    assert all(table.comment for table in Base.metadata.tables.values())


def test_opening_a_catalog_is_light() -> None:
    """Search and reports answer at once, so neither torch nor alembic may come along."""
    code = (
        "import sys, registry.catalog, registry.catalog.listing, registry.catalog.versions\n"
        "print({'torch', 'transformers', 'alembic'} & sys.modules.keys())"
    )
    assert run_python(code, path=ROOT).stdout.strip() == "set()"


def test_settings_with_a_password_are_private(tmp_path: Path) -> None:
    home = create_home(tmp_path / "home", catalog_url="postgresql+psycopg://maud:secret@db.example/catalog")
    assert home.settings_path.stat().st_mode & 0o777 == 0o600
