"""UTF-8 text files: what is read, and what is refused.

In: a path. Out: the text, without a byte-order mark, its lines ending in a bare new line.
"""

import os
import stat
from pathlib import Path

from gptjax.errors import UserError


def read_text(name: str) -> str:
    """Read a file; UserError: missing, a folder, unreadable, empty, binary, not in UTF-8."""
    path = expand(name)
    try:
        mode = path.stat().st_mode
        data = path.read_bytes() if stat.S_ISREG(mode) else b""
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name!r}: check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name!r} cannot be read: {reason}") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UserError(f"{name!r} is {what}: give the path of a UTF-8 text file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name!r} is UTF-16 (or UTF-32), not UTF-8: save it again as UTF-8")
    if (nul := data.find(b"\0")) >= 0:
        raise UserError(
            f"{name!r} looks binary, not like UTF-8 text: byte {nul} is NUL; give a plain text"
        )
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


def expand(name: str) -> Path:
    """The path a user wrote, its ``~`` replaced."""
    return Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
