"""Writing a file whole or not at all, the one way every door does it."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

PART = ".part"  # how the name of a file being written ends


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or none.

    Raises:
      OSError: the folder cannot be made or written.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=PART)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the bytes
        os.chmod(part, 0o644)  # mkstemp's file is the owner's alone; a cache may be shared
        os.replace(part, path)
    except BaseException as error:
        if part:
            Path(part).unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk names no file
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def read_small(path: Path, limit: int) -> bytes:
    """Read a file of somebody else's: no pipe to wait for, no device without an end.

    Raises:
      OSError: absent, no regular file, or more than ``limit`` bytes.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(None, "no regular file", str(path))
        if facts.st_size > limit:
            raise OSError(None, f"{facts.st_size} bytes, more than the allowed {limit}", str(path))
        return file.read(limit)


def clean(folder: Path) -> None:
    """Delete what ``write_whole`` left in a folder when it was killed; no one else may write."""
    for part in folder.glob(f"*.json*{PART}"):
        with contextlib.suppress(OSError):
            part.unlink()
