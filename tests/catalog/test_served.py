"""What a server is told that it may offer."""

from __future__ import annotations

from sqlalchemy import update

from registry.catalog.aliases import set_alias
from registry.catalog.models import VersionRow, utc_now
from registry.catalog.served import OfferedCorpus, offered_corpora
from tests.catalog.workshop import BASE_MODEL, Workshop, placed


def offered(workshop: Workshop, most: int) -> list[OfferedCorpus]:
    with workshop.catalog.read() as session:
        return offered_corpora(session, most)


def test_the_newest_versions_and_those_with_an_alias_are_offered(workshop: Workshop) -> None:
    assert offered(workshop, 2) == []
    versions = [workshop.build([placed(number)])[0] for number in range(1, 6)]
    other, _ = workshop.build([placed(9)], corpus="almanac")
    with workshop.catalog.write() as session:
        set_alias(session, versions[0], "production")
    almanac, handbook = offered(workshop, 2)
    assert [each.version for each in almanac.versions] == [other]
    assert [each.version for each in handbook.versions] == [versions[4], versions[3], versions[0]]
    assert {each.base_model for each in handbook.versions} == {BASE_MODEL.fingerprint}
    assert handbook.aliases == {"latest": 5, "production": 1}


def test_what_was_collected_is_not_offered(workshop: Workshop) -> None:
    versions = [workshop.build([placed(number)])[0] for number in range(1, 4)]
    with workshop.catalog.write() as session:
        session.execute(update(VersionRow).where(VersionRow.number == 2).values(collected_at=utc_now()))
    (corpus,) = offered(workshop, 2)
    assert [each.version for each in corpus.versions] == [versions[2], versions[0]]
    with workshop.catalog.write() as session:
        session.execute(update(VersionRow).values(collected_at=utc_now()))
    assert offered(workshop, 2) == []
