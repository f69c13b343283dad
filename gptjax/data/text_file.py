"""UTF-8 text files: what is read, and what is refused.

In: a path. Out: the text, without a byte-order mark, its lines ending in a bare new line; whole, or
some of it at a time.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gptjax.errors import UserError
from gptjax.runtime import devices

_BLOCK_BYTES = 2**20  # read at a time: what is no text is seen in the first of them
_COPIES = 10  # of a text, in bytes: it, its characters, their ids


def read_text(name: str) -> str:
    """Read a file; UserError: missing, a folder, unreadable, empty, binary, not in UTF-8."""
    with _open(name) as (file, size):
        data = bytearray()
        for block in _checked(name, file):
            if not data and (free := devices.free_memory()) and size * _COPIES > free:
                raise UserError(
                    f"{name!r} has {size / 1e9:.1f} GB, and a text takes {_COPIES} times its size "
                    f"in memory, of which {free / 1e9:.1f} GB are free: give a part of it, or "
                    "learn from the tokens that python -m gptjax.prepare makes of it"
                )
            data += block
    text = _decode(name, data, 0, len(data))
    if not text.strip():
        raise _empty(name, len(data))
    return text


def stream_text(name: str, at_space: bool = False) -> Iterator[tuple[str, float]]:
    """``read_text`` in pieces, and which share of the file has been read with each.

    ``at_space``: a piece ends with a space or a new line, however far that is. UserError as
    ``read_text``, where the piece that it is about begins.
    """
    is_empty, begin, rest = True, 0, bytearray()
    with _open(name) as (file, size):
        for block in _checked(name, file):
            rest += block
            end = max(rest.rfind(b"\n"), rest.rfind(b" ")) + 1 if at_space else _whole(rest)
            if end:
                text = _decode(name, rest[:end], begin, size)
                is_empty = is_empty and not text.strip()
                begin += end
                del rest[:end]
                yield text, begin / max(size, begin)
    text = _decode(name, rest, begin, size)
    if is_empty and not text.strip():
        raise _empty(name, begin + len(rest))
    yield text, 1.0


@contextlib.contextmanager
def _open(name: str) -> Iterator[tuple[BinaryIO, int]]:
    """A ``with`` around a file and its size, bytes; UserError where it cannot be read."""
    path = expand(name)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise UserError(f"{name!r} is {what}: give the path of a UTF-8 text file")
        with open(path, "rb") as file:
            yield file, status.st_size
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name!r}: check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name!r} cannot be read: {reason}") from error


def _checked(name: str, file: BinaryIO) -> Iterator[bytes]:
    """A file's bytes, a block at a time; UserError where they cannot be a text."""
    begin = 0
    while block := file.read(_BLOCK_BYTES):
        if not begin and block.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{name!r} is UTF-16 (or UTF-32), not UTF-8: save it again as UTF-8")
        if (nul := block.find(b"\0")) >= 0:
            raise UserError(
                f"{name!r} looks binary, not like UTF-8 text: byte {begin + nul} is NUL; "
                "give a plain text"
            )
        yield block
        begin += len(block)


def _whole(data: bytearray) -> int:
    """Where to cut so that no character and no CRLF goes over the cut: before the last of them."""
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] & 0xC0 != 0x80:  # it begins a character
            end = len(data) - back
            return end - (data[end - 1 : end] == b"\r")
    return len(data)  # no UTF-8: decoding says so


def _decode(name: str, data: bytearray, begin: int, size: int) -> str:
    """The text of bytes that begin at ``begin`` in a file of ``size``."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name!r} is not UTF-8: byte {begin + error.start} of {size} is "
            f"0x{data[error.start]:02x}; save it again as UTF-8"
        ) from error
    if not begin:
        text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _empty(name: str, size: int) -> UserError:
    return UserError(f"{name!r} is empty ({size} bytes): give a file with a text in it")


def expand(name: str) -> Path:
    """The path a user wrote, its ``~`` replaced."""
    return Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
