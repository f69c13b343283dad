"""The seal of a folder: a manifest that says what every file in it was when it was written.

In: a folder, and the facts (JSON) to store with it. Out: the facts again, or ``Damaged`` with the
name of what is wrong. One flipped byte, a cut file, a missing file, all of them in the manifest
too, are found before anything is used. Only JSON is read: nothing in a folder can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.runtime import atomic_files as files

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 64 * 2**20  # bytes: a hostile manifest must not fill the memory
FORMAT = 1
_LITTER = ("Thumbs.db", "desktop.ini")  # what file managers leave; like names with a dot, harmless


class Damaged(UserError):
    """A folder that is not what was written."""


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a finished folder and push everything in it to the disk.

    The manifest is ``{"sha256": digest, "manifest": {facts..., "files": {name: [bytes, sha256]}}}``
    where ``digest`` is of the inner JSON with sorted keys and no spaces.

    Args:
      folder: holds the finished files; none is written to afterwards.
      facts: JSON-able, without the key "files"; ``read`` hands it back.

    Raises:
      OSError: the disk is full, or the like.
      UserError: the manifest would be larger than ``MANIFEST_LIMIT``.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb+") as file:  # "+": Windows flushes only what may be written
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    inner = {"format": FORMAT, **facts, "files": files}
    text = json.dumps({"sha256": _digest(inner), "manifest": inner}, indent=1)
    if len(text) > MANIFEST_LIMIT:
        raise UserError(f"{MANIFEST} has {len(text)} bytes, the limit is {MANIFEST_LIMIT}")
    with open(folder / MANIFEST, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_folder(path)


def read(folder: Path) -> dict[str, Any]:
    """The facts of a sealed folder; the manifest is checked, the other files are not yet.

    Args:
      folder: a folder that ``seal`` finished.

    Returns:
      The facts, with "format" and "files".

    Raises:
      Damaged: the manifest is absent, too large, not JSON, or not what was written.
      UserError: a later gptjax wrote it.
    """
    try:
        text = files.read_small(folder / MANIFEST, MANIFEST_LIMIT)
    except OSError as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error.strerror})") from error
    try:
        outer = json.loads(text)
        inner, said = outer["manifest"], outer["sha256"]
        found = _digest(inner)
    # RecursionError: [[[[... is JSON too.
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is no manifest ({len(text)} bytes, cut or changed)") from error
    if found != said:
        raise Damaged(f"{MANIFEST} has checksum {found[:8]}, {str(said)[:8]} was written")
    if not isinstance(inner, dict) or not _well_formed(inner.get("files")):
        raise Damaged(f"{MANIFEST} lists no files")
    if inner.get("format") != FORMAT:
        raise UserError(
            f"{folder} has format {inner.get('format')!r:.40}, this gptjax reads {FORMAT}: update "
            "it"
        )
    return inner


def verify(folder: Path, files: dict[str, list], parts: Iterable[str]) -> None:
    """Compare the files under some sub-folders with what was written.

    Args:
      folder: the sealed folder.
      files: ``read(folder)["files"]``: name -> [bytes, sha256].
      parts: sub-folders that are about to be read.

    Raises:
      Damaged: names the first file that is missing, cut, changed, foreign or outside the folder.
    """
    root, parts = folder.resolve(), tuple(f"{part}/" for part in parts)
    for name, (size, said) in files.items():
        if not name.startswith(parts):
            continue
        try:
            path = (folder / name).resolve()
            # ".." and links that lead out of the folder end here; so do pipes and devices.
            if not path.is_relative_to(root):
                raise Damaged(f"{name} leads out of the folder")
            if not path.is_file():
                raise Damaged(f"{name} is missing")
            with open(path, "rb") as file:
                has = os.fstat(file.fileno()).st_size
                if has != size:
                    raise Damaged(f"{name} has {has} bytes, {size} were written")
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error
        if found != said:
            raise Damaged(f"{name} has checksum {found[:8]}, {said[:8]} was written")
    # A file that nobody wrote might change how the others are read.
    for path in sorted(path for part in parts for path in (folder / part).rglob("*")):
        name = path.relative_to(folder).as_posix()
        seen = not path.is_dir() and name not in files
        if seen and not path.name.startswith(".") and path.name not in _LITTER:
            raise Damaged(f"{name} was not written with it")


def sync_folder(folder: Path) -> None:
    """Make new and renamed entries of a folder survive a power cut (Windows has no such call)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse it for folders; a kill is survived without it
    finally:
        os.close(handle)


def _well_formed(files: Any) -> bool:
    """Whether it is {name: [bytes, sha256]}, with names that a file can have."""
    return isinstance(files, dict) and all(
        isinstance(entry, list)
        and [type(part) for part in entry] == [int, str]
        and name.isprintable()
        for name, entry in files.items()
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
