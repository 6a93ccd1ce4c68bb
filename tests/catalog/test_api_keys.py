"""API keys: only a hash is kept, revoked ones are good for nothing, and scopes narrow what they are good for."""

from __future__ import annotations

import re
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from registry.catalog.api_keys import (
    DEFAULT_SCOPES,
    SCOPES,
    ApiKey,
    allows,
    any_keys,
    create_key,
    find_key,
    is_touch_due,
    list_keys,
    revoke_key,
    touch_key,
)
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.models import ApiKeyRow, utc_now
from registry.digests import sha256_hex
from registry.errors import NotFoundError, UsageError


def make(catalog: Catalog, name: str, *scopes: str) -> tuple[ApiKey, str]:
    with catalog.write() as session:
        return create_key(session, name, scopes or DEFAULT_SCOPES)


def find(catalog: Catalog, secret: str) -> ApiKey | None:
    with catalog.read() as session:
        return find_key(session, secret)


def test_a_key_is_found_by_its_secret_alone(any_catalog: Catalog) -> None:
    key, secret = make(any_catalog, "chat")
    other, _ = make(any_catalog, "other")
    assert re.fullmatch(r"pragreg-[A-Za-z0-9_-]{43}", secret)
    assert (key.prefix, key.scopes) == (secret[:16], ("ask", "documents", "search"))
    assert (key.revoked_at, key.last_used_at) == (None, None)
    assert find(any_catalog, secret) == key != other
    changed = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for wrong in (
        "",
        "chat",
        key.prefix,
        secret[:-1],
        secret + "A",
        changed,
        "pragreg-" + "\0" * 43,
        "\ud800",
        "é" * 51,
    ):
        assert find(any_catalog, wrong) is None, wrong


def test_the_secret_is_not_kept(any_catalog: Catalog) -> None:
    _, secret = make(any_catalog, "chat")
    with any_catalog.read() as session:
        (row,) = session.execute(text("SELECT * FROM api_keys")).mappings().all()
        assert session.scalar(select(ApiKeyRow.digest)) == sha256_hex(secret.encode())
    assert secret[16:] not in repr(dict(row))


def test_no_two_secrets_are_alike(any_catalog: Catalog) -> None:
    assert len({make(any_catalog, f"client-{number}")[1][8:12] for number in range(20)}) > 15


def test_names(any_catalog: Catalog) -> None:
    make(any_catalog, "ada@mill.example")
    with pytest.raises(UsageError, match=r"there is a key 'ada@mill\.example' already") as caught:
        make(any_catalog, "ada@mill.example")
    assert caught.value.hint is not None
    assert "pragreg keys revoke ada@mill.example" in caught.value.hint
    for name in ("", "-x", "a b", "a\0b", "pragreg-mine", "x" * 65, "ü"):
        with pytest.raises(UsageError, match="cannot be the name of a key"):
            make(any_catalog, name)
    with any_catalog.write() as session:
        revoke_key(session, "ada@mill.example")
    key, _ = make(any_catalog, "ada@mill.example")
    with any_catalog.read() as session:
        first, second = list_keys(session)
    assert first.revoked_at is not None
    assert second == key


def test_scopes(any_catalog: Catalog) -> None:
    key, _ = make(any_catalog, "narrow", "search", "ask:handbook", "ask:handbook")
    assert key.scopes == ("ask:handbook", "search")
    assert allows(key, "ask", "handbook")
    assert allows(key, "search", "handbook")
    assert allows(key, "search")
    assert not allows(key, "ask", "hand")
    assert not allows(key, "ask"), "what belongs to no corpus alone"
    assert not allows(key, "metrics")
    assert not allows(key, "documents", "handbook")
    everything, _ = make(any_catalog, "everything", *SCOPES)
    assert all(allows(everything, scope, corpus) for scope in SCOPES for corpus in (None, "handbook"))
    for wrong in ("", "answer", "ask:", "ask:a b", ":handbook", "metrics:handbook", "ask:handbook:v3", "Ask"):
        with pytest.raises(UsageError, match="there is no scope") as caught:
            make(any_catalog, "wrong", "ask", wrong)
        assert "documents" in str(caught.value.hint)
    with pytest.raises(UsageError, match="good for nothing"), any_catalog.write() as session:
        create_key(session, "empty", ())


@pytest.mark.parametrize("given", ["name", "prefix", "secret"])
def test_a_revoked_key_is_good_for_nothing(any_catalog: Catalog, given: str) -> None:
    key, secret = make(any_catalog, "chat")
    kept, kept_secret = make(any_catalog, "kept")
    with any_catalog.write() as session:
        revoked = revoke_key(session, {"name": "chat", "prefix": key.prefix, "secret": secret}[given])
    assert revoked.key_id == key.key_id
    assert revoked.revoked_at is not None
    assert not allows(revoked, "ask")
    assert find(any_catalog, secret) is None
    assert find(any_catalog, kept_secret) == kept
    for again in ("chat", secret, "nobody", "", "a\0b"):
        with pytest.raises(NotFoundError, match="no key") as caught, any_catalog.write() as session:
            revoke_key(session, again)
        assert secret not in caught.value.message


def test_a_key_that_was_revoked_leaves_the_server_closed(any_catalog: Catalog) -> None:
    with any_catalog.read() as session:
        assert not any_keys(session)
    make(any_catalog, "chat")
    with any_catalog.write() as session:
        assert any_keys(session)
        revoke_key(session, "chat")
        assert any_keys(session)


def test_the_last_use_is_kept_to_the_minute(any_catalog: Catalog) -> None:
    key, secret = make(any_catalog, "chat")
    assert is_touch_due(key)
    with any_catalog.write() as session:
        touch_key(session, key.key_id)
    used = find(any_catalog, secret)
    assert used is not None
    assert used.last_used_at is not None
    assert timedelta(0) <= utc_now() - used.last_used_at < timedelta(seconds=30)
    assert not is_touch_due(used)
    with any_catalog.write() as session:
        touch_key(session, key.key_id)
    assert find(any_catalog, secret) == used, "not yet again"
    before = utc_now() - timedelta(seconds=61)
    with any_catalog.write() as session:
        session.execute(update(ApiKeyRow).values(last_used_at=before))
    stale = find(any_catalog, secret)
    assert stale is not None
    assert is_touch_due(stale)
    with any_catalog.write() as session:
        touch_key(session, key.key_id)
    touched = find(any_catalog, secret)
    assert touched is not None
    assert touched.last_used_at is not None
    assert touched.last_used_at > before


def test_two_who_want_one_name(any_url: str) -> None:
    made: list[str] = []
    begin = threading.Barrier(2)

    def create() -> None:
        with open_catalog(any_url) as catalog:
            begin.wait()
            try:
                made.append(make(catalog, "chat")[0].name)
            except UsageError as error:
                made.append(error.message)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["chat", "there is a key 'chat' already"]
