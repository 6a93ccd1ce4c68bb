"""Errors of the drivers and of the disk become errors of this project, here and nowhere else."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from registry.errors import BusyError, HomeError, InputError, PragregError, StorageError
from registry.masking import masked

_BUSY = "another process has been writing to the catalog {name} for too long"
_BUSY_HINT = "run the command again when the other one is done; `pragreg builds list` shows what is running"
_FULL_HINT = "make room, then run the command again: what was finished is kept"
_CORRUPT_HINT = "restore the file from a backup; `sqlite3 FILE .recover` reads what can still be read"
_PATH_HINT = "check that its folder is there and that you may read and write it"
_URL_HINT = "mend the url in pragreg.toml, [catalog]"
_SERVER_HINT = "check the url in pragreg.toml, [catalog], and that the server runs"

# https://www.sqlite.org/rescode.html; the low byte of an extended code is the primary code.
_SQLITE_FAILURES: dict[int, tuple[type[PragregError], str, str]] = {
    sqlite3.SQLITE_BUSY: (BusyError, _BUSY, _BUSY_HINT),
    sqlite3.SQLITE_LOCKED: (BusyError, _BUSY, _BUSY_HINT),
    sqlite3.SQLITE_FULL: (StorageError, "the disk is full: the catalog {name} cannot grow", _FULL_HINT),
    sqlite3.SQLITE_IOERR: (StorageError, "the disk failed under the catalog {name}: {reason}", _PATH_HINT),
    sqlite3.SQLITE_READONLY: (StorageError, "the catalog {name} cannot be written", _PATH_HINT),
    sqlite3.SQLITE_PERM: (StorageError, "the catalog {name} may not be opened", _PATH_HINT),
    sqlite3.SQLITE_CANTOPEN: (StorageError, "the catalog {name} cannot be opened", _PATH_HINT),
    sqlite3.SQLITE_CORRUPT: (StorageError, "the catalog {name} is damaged: {reason}", _CORRUPT_HINT),
    sqlite3.SQLITE_NOTADB: (StorageError, "the catalog {name} is not an SQLite file, or is damaged", _CORRUPT_HINT),
}

# By class, or by whole code: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATE_FAILURES: dict[str, tuple[type[PragregError], str, str]] = {
    "40001": (BusyError, _BUSY, _BUSY_HINT),
    "40P01": (BusyError, "two processes waited for each other in the catalog {name}", _BUSY_HINT),
    "55P03": (BusyError, _BUSY, _BUSY_HINT),
    "53100": (StorageError, "the disk is full: the catalog {name} cannot grow", _FULL_HINT),
    "53": (StorageError, "the server of the catalog {name} has no room: {reason}", _SERVER_HINT),
    "57": (StorageError, "the server of the catalog {name} went away: {reason}", _SERVER_HINT),
    "58": (StorageError, "the server of the catalog {name} failed: {reason}", _SERVER_HINT),
    "08": (StorageError, "the connection to the catalog {name} is lost: {reason}", _SERVER_HINT),
    "25006": (StorageError, "the catalog {name} cannot be written: {reason}", _SERVER_HINT),
    "42501": (StorageError, "the catalog {name} may not be used so: {reason}", _SERVER_HINT),
    "XX001": (StorageError, "the catalog {name} is damaged: {reason}", _SERVER_HINT),
    "22": (InputError, "the catalog {name} cannot hold a value: {reason}", "take it out of the input"),
}


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn errors of the drivers that are no fault of this program into its own; ``name`` is the masked URL.

    Raises:
        BusyError: another process holds a lock for too long.
        StorageError: the database cannot be reached, read or written, or its disk is full.
        HomeError: the url has an option that the driver does not know.
        InputError: a value cannot be stored (half a surrogate pair; PostgreSQL takes no NUL character either).
    """
    try:
        yield
    except UnicodeEncodeError as error:
        kind, message, hint = _SQLSTATE_FAILURES["22"]
        raise kind(message.format(name=name, reason=f"{error.object!r} is not UTF-8"), hint=hint) from error
    except Exception as error:
        # A statement's error comes wrapped; that of a connection's first PRAGMAs, or of a COPY, comes as it is.
        cause = error.orig if isinstance(error, DBAPIError) else error
        failure = _sqlite_failure(cause) or _postgresql_failure(error, cause)
        if failure is None:
            raise
        kind, message, hint = failure
        raise kind(message.format(name=name, reason=reason_of(cause)), hint=hint) from error


def _sqlite_failure(error: BaseException | None) -> tuple[type[PragregError], str, str] | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else _SQLITE_FAILURES.get(code & 0xFF)


def _postgresql_failure(error: Exception, cause: BaseException | None) -> tuple[type[PragregError], str, str] | None:
    if cause is None or not type(cause).__module__.startswith("psycopg"):
        return None
    state = getattr(cause, "sqlstate", None)
    if state is None:
        # No code of the server's: psycopg itself failed, at connecting or at adapting a value.
        if type(cause).__name__ == "DataError":
            return _SQLSTATE_FAILURES["22"]
        if str(cause).startswith(("invalid connection option", "bad value for")):
            return (HomeError, "the catalog's url cannot be used: {reason}", _URL_HINT)
        if getattr(error, "connection_invalidated", False):
            return _SQLSTATE_FAILURES["08"]
        if type(cause).__name__ in ("OperationalError", "ConnectionTimeout"):
            return (StorageError, "the catalog {name} cannot be reached: {reason}", _SERVER_HINT)
        return None
    return _SQLSTATE_FAILURES.get(state) or _SQLSTATE_FAILURES.get(state[:2])


def reason_of(cause: BaseException | None) -> str:
    """Return the first line of what a driver says, without passwords."""
    lines = str(cause).strip().splitlines()
    return masked(re.sub(r"\s+", " ", lines[0] if lines else type(cause).__name__))
