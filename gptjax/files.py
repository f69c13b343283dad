"""Writing a file whole or not at all, the one way every door does it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or none.

    Raises:
      OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the bytes
        os.chmod(part, 0o644)  # mkstemp's file is the owner's alone; a cache may be shared
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
