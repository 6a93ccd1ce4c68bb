"""Open a source as plain bytes: compressed or not, seekable or not, with its first bytes looked at."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, BinaryIO, cast

from registry.documents.failures import failure_reason
from registry.documents.formats import is_gzip_name
from registry.documents.invalid import InvalidInput
from registry.documents.source_file import SourceFile
from registry.documents.spool import Spool
from registry.errors import PragregError

HEAD_BYTES = 64 * 1024
_BUFFER_BYTES = 256 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF8_HINT = "turn it into UTF-8, such as with: iconv -t UTF-8; or leave it out with --skip-invalid"


class _Replayed(io.RawIOBase):
    """A stream whose first bytes were read already, so that pipes can be looked at and still be read whole."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_plain(source: SourceFile) -> Iterator[tuple[bytes, BinaryIO]]:
    """Open a source and yield its first bytes (up to 64 KiB) and a stream of all its bytes, both decompressed.

    Raises:
        InvalidInput: it cannot be opened or read, is empty, or is a binary file.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(source.opener())
            stream = _decompressed(raw, source, stack)
            head = _read_up_to(stream, HEAD_BYTES)
        except PragregError:  # InvalidInput, and Interrupted by a signal
            raise
        except Exception as error:  # file systems raise their client libraries' own errors, whatever those are
            raise InvalidInput(source.uri, None, failure_reason(error)) from error
        if not head:
            raise InvalidInput(source.uri, None, "is empty")
        if head.startswith(_UTF16_MARKS):
            raise InvalidInput(source.uri, None, "is UTF-16, not UTF-8", hint=_UTF8_HINT)
        if b"\0" in head and not _is_utf8(head):
            raise InvalidInput(source.uri, None, "is a binary file, not text")
        yield head, _buffered(head, stream)


def _decompressed(raw: IO[bytes], source: SourceFile, stack: ExitStack) -> IO[bytes]:
    magic = _read_up_to(raw, len(_GZIP_MAGIC))
    stream = _buffered(magic, raw)
    if magic == _GZIP_MAGIC:
        return cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
    if magic and is_gzip_name(source.uri):
        raise InvalidInput(source.uri, None, "is named as gzip but is not compressed", hint="rename it without .gz")
    return stream


def _buffered(head: bytes, rest: IO[bytes]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Replayed(head, rest), _BUFFER_BYTES))


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character that the head cuts is no error
    except UnicodeDecodeError:
        return False
    return True


def _read_up_to(stream: IO[bytes], size: int) -> bytes:
    """Read ``size`` bytes, fewer only at the end: a pipe gives what it has at the moment."""
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def numbered_lines(stream: BinaryIO, source: SourceFile) -> Iterator[tuple[int, bytes]]:
    """Yield every line with its number from 1, line end included; a byte order mark is taken off the first.

    Raises:
        InvalidInput: reading failed (a truncated gzip file, a lost connection); names the line that was not read.
    """
    number = 0
    try:
        for number, line in enumerate(stream, 1):
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except PragregError:
        raise
    except Exception as error:
        raise InvalidInput(source.uri, number + 1, f"{failure_reason(error)}; nothing after it was read") from error


def decode_line(source: SourceFile, number: int, line: bytes) -> str:
    """Return a line as text.

    Raises:
        InvalidInput: it is not UTF-8 or holds a NUL byte.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(source, number, error) from error
    if "\0" in text:
        raise InvalidInput(source.uri, number, "holds a NUL byte, so it is not text")
    return text


def not_utf8(source: SourceFile, number: int, error: UnicodeError) -> InvalidInput:
    """Return the error for a line that is not UTF-8."""
    where = f" (byte {error.start + 1} of the line)" if isinstance(error, UnicodeDecodeError) else ""
    return InvalidInput(source.uri, number, f"is not UTF-8{where}", hint=_UTF8_HINT)


@contextmanager
def open_checked_text(stream: BinaryIO, source: SourceFile) -> Iterator[io.TextIOWrapper]:
    """Yield the whole of a stream as text, known to be UTF-8 to its end before the first character is used.

    What is larger than 4 MiB waits in a temporary file, so memory is bounded. Line ends become ``\\n``.

    Raises:
        InvalidInput: a line cannot be read, is not UTF-8 or holds a NUL byte.
        StorageError: the temporary file cannot be written.
    """
    with Spool(source.uri) as spool:
        for number, line in numbered_lines(stream, source):
            decode_line(source, number, line)
            spool.write(line)
        spool.file.seek(0)
        with io.TextIOWrapper(cast(BinaryIO, spool.file), encoding="utf-8") as text:
            yield text
