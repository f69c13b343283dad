"""Files written whole or not at all, and files of other people read without harm."""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PART = ".part"  # how the name of a file being written ends


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or none; OSError if it can't be."""
    with naming(path), contextlib.ExitStack() as clean:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=PART)
        clean.callback(Path(part).unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the bytes
        os.chmod(part, 0o644)  # mkstemp's file is the owner's alone; a cache may be shared
        os.replace(part, path)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A ``with`` that gives a folder to fill; it takes its name, ``path``, if nothing goes wrong.

    Until then nobody sees it. ``path`` must not be there, or be an empty folder; OSError.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}", suffix=PART))
    try:
        yield part
        os.chmod(part, 0o755)  # mkdtemp's is the owner's alone
        with naming(path):
            if path.is_dir():
                path.rmdir()
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A ``with`` around work on a file, whose OSErrors name it: a full disk's do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def read_small(path: Path, limit: int) -> bytes:
    """Read a stranger's file; OSError if it is absent, a pipe, or has over ``limit`` bytes."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(None, "no regular file", str(path))
        if facts.st_size > limit:
            raise OSError(None, f"{facts.st_size} bytes, more than the allowed {limit}", str(path))
        return file.read(limit)


def parse_json(data: bytes) -> Any:
    """JSON from anybody; ValueError where it is none, or nested too deep."""
    try:
        return json.loads(data)
    except RecursionError as error:  # [[[[... is JSON too
        raise ValueError("nested too deep") from error


def reason(error: Exception) -> str:
    """What went wrong, without the path that an OSError's own text repeats."""
    return isinstance(error, OSError) and error.strerror or str(error)


def read_json(path: Path, limit: int) -> Any:
    """What a JSON file holds; None where it is absent, too large, no file or not JSON."""
    try:
        return parse_json(read_small(path, limit))
    except (OSError, ValueError):
        return None


def clean(folder: Path) -> None:
    """Delete what a killed ``write_whole`` left in a folder; nobody else may be writing there."""
    for part in folder.glob(f"*.json*{PART}"):
        with contextlib.suppress(OSError):
            part.unlink()
