"""UTF-8 text files: what is read, and what is refused.

In: a path. Out: the text, without a byte-order mark, its lines ending in a bare new line.
"""

import os
import stat
from pathlib import Path

from gptjax.errors import UserError
from gptjax.runtime import devices

_BLOCK_BYTES = 2**20  # read at a time: what is no text is seen in the first of them
_COPIES = 10  # of a text, in bytes: it, its characters, their ids


def read_text(name: str) -> str:
    """Read a file; UserError: missing, a folder, unreadable, empty, binary, not in UTF-8."""
    path = expand(name)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            data = _read(name, path, status.st_size)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name!r}: check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name!r} cannot be read: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise UserError(f"{name!r} is {what}: give the path of a UTF-8 text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name!r} is not UTF-8: byte {error.start} of {len(data)} is "
            f"0x{data[error.start]:02x}; save it again as UTF-8"
        ) from error
    if not text.strip():
        raise UserError(f"{name!r} is empty ({len(data)} bytes): give a file with a text in it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(name: str, path: Path, size: int) -> bytearray:
    """A file's bytes; UserError where they cannot be a text, or are more than memory can take."""
    data = bytearray()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if not data and block.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError(
                    f"{name!r} is UTF-16 (or UTF-32), not UTF-8: save it again as UTF-8"
                )
            if (nul := block.find(b"\0")) >= 0:
                raise UserError(
                    f"{name!r} looks binary, not like UTF-8 text: byte {len(data) + nul} is NUL; "
                    "give a plain text"
                )
            if not data and (free := devices.free_memory()) and size * _COPIES > free:
                raise UserError(
                    f"{name!r} has {size / 1e9:.1f} GB, and a text takes {_COPIES} times its size "
                    f"in memory, of which {free / 1e9:.1f} GB are free: give a part of it"
                )
            data += block
    return data


def expand(name: str) -> Path:
    """The path a user wrote, its ``~`` replaced."""
    return Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
