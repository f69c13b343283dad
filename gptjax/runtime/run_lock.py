"""One run per work folder: a lock that a dead process cannot keep.

In: a work folder. Out: a context in which no other process trains there, or a refusal that names
the holder. The operating system holds the lock and lets go of it when the process ends, however it
ends; where a file system has no locks, the file itself is the lock and its holder is looked up.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from gptjax.errors import UserError

NAME = "run.lock"
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_BYTE = 2**30  # Windows forbids reading what is locked: lock a byte far behind the text


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Hold a work folder, made if it is absent, for the length of a ``with``.

    Args:
      workdir: the run's folder.

    Yields:
      Nothing.

    Raises:
      UserError: another run holds it (process id, host and start are named), or it can't be
        written to.
    """
    path = Path(workdir) / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never through a link, which might lead to any file, nor into a pipe.
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ValueError(f"{NAME} is no regular file")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        line = f"cannot write to {path.parent} ({why}); choose another --workdir"
        raise UserError(line) from error
    us = {"pid": os.getpid(), "host": socket.gethostname()}
    us["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        try:
            _os_lock(handle)
        except OSError as error:
            if error.errno in _TAKEN:
                raise _refusal(path, _holder(handle)) from error
            # A file system without locks: believe what the file says.
            _claim(handle, path, us)
        _write(handle, json.dumps(us))
        try:
            yield
        finally:
            # Emptied, not deleted: a second run may have the same file open and wait for its lock.
            _write(handle, "")
    finally:
        os.close(handle)


def _claim(handle: int, path: Path, us: dict) -> None:
    if _may_live(holder := _holder(handle), us):
        raise _refusal(path, holder, f", or, if it surely is dead, delete {path}")
    _write(handle, json.dumps(us))
    time.sleep(0.2)  # of two that start at the same instant the later writer wins
    if (holder := _holder(handle)) != us:
        raise _refusal(path, holder)


def _refusal(path: Path, holder: dict, else_: str = "") -> UserError:
    who = (
        f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('started')}"
        if holder
        else "another process"
    )
    return UserError(
        f"{path.parent} is in use by {who}: wait for it, stop it, or name another --workdir{else_}"
    )


def _may_live(holder: dict, us: dict) -> bool:
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


def _holder(handle: int) -> dict:
    """What the holder wrote; {} when nothing readable is there (it has only just started)."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        holder = json.loads(os.read(handle, 4096))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _write(handle: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its label
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text.encode("ascii"))


if sys.platform == "win32":
    import msvcrt

    def _os_lock(handle: int) -> None:
        """Lock at once or raise OSError."""
        os.lseek(handle, _BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _os_lock(handle: int) -> None:
        """Lock at once or raise OSError."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
