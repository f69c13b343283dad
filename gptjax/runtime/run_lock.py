"""One training per work folder: a lock that a dead process cannot keep.

In: a work folder. Out: a context in which no other process trains there, or a refusal that names
the holder. The operating system lets go of the lock when the process ends, however it ends. On a
file system without locks the file's text is believed instead.
"""

import contextlib
import dataclasses
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from gptjax.errors import UserError
from gptjax.runtime.atomic_files import read_json

NAME = "run.lock"
_LABEL_LIMIT = 4096  # bytes
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of the file system


@dataclasses.dataclass(frozen=True)
class Held:
    """A lock that is held, and the file that it is on: (device, inode)."""

    path: Path
    file: tuple[int, int]

    @property
    def is_there(self) -> bool:
        """Whether the folder is still the one that was locked: not renamed, removed or remade."""
        return _file(self.path) == self.file


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[Held]:
    """Hold a work folder, made if it is absent, for the length of a ``with``.

    Raises:
      UserError: another run holds it (its process, host and start are named), or it can't be made.
    """
    path = Path(workdir) / NAME
    started = datetime.now(UTC).isoformat(timespec="seconds")
    us = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never through a link, which might lead to any file, nor into a pipe.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ValueError(f"{NAME} is no regular file")
        held = filelock.FileLock(path, mode=0o644, fallback_to_soft=False)
        label = _holder(path)  # before it is ours: taking it empties the file
        held.acquire(blocking=False)
    except filelock.Timeout as error:
        raise _refusal(path, _holder(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, too
        if getattr(error, "errno", None) not in _NO_LOCKS:
            why = getattr(error, "strerror", None) or error
            line = f"cannot write to {path.parent} ({why}); choose another --workdir"
            raise UserError(line) from error
        _claim(path, label, us)
    ours = Held(path, _file(path))
    try:
        _write(path, json.dumps(us))
        yield ours
    finally:
        if ours.is_there:
            _write(path, "")
        held.release()


def _claim(path: Path, holder: dict[str, Any], us: dict[str, Any]) -> None:
    """Take a folder whose file system has no locks, unless the file names a living holder."""
    if _may_live(holder, us):
        raise _refusal(path, holder, f", or, if it surely is dead, delete {path}")
    _write(path, json.dumps(us))
    time.sleep(0.2)  # of two that start at the same instant the later writer wins
    if (holder := _holder(path)) != us:
        raise _refusal(path, holder)


def _refusal(path: Path, holder: dict[str, Any], else_: str = "") -> UserError:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('started')}"
    return UserError(
        f"{path.parent} is in use by {who}: wait for it, stop it, or name another --workdir{else_}"
    )


def _may_live(holder: dict[str, Any], us: dict[str, Any]) -> bool:
    """Whether a holder that the file names may still run; of another host nobody here can tell."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if holder.get("host") != us["host"] or os.name == "nt":  # os.kill(pid, 0) kills on Windows
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's process: it lives
    return True


def _file(path: Path) -> tuple[int, int]:
    """Which file a path leads to; (0, 0) where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _holder(path: Path) -> dict[str, Any]:
    """What the holder wrote; {} when nothing readable is there (it has only just started)."""
    holder = read_json(path, _LABEL_LIMIT)
    return holder if isinstance(holder, dict) else {}


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its label
        flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(path, flags), "w", encoding="ascii") as file:
            file.write(text)
