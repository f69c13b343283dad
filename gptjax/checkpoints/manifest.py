"""The manifest of a folder: what every file in it was when it was written.

In: a folder, and JSON-able facts. Out: the facts again, or ``Damaged`` with the name of what is
wrong, before anything is used. Only JSON is read: nothing in a folder can run code.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.runtime.atomic_files import parse_json, read_small, write_whole

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 64 * 2**20  # bytes: a hostile manifest must not fill the memory
FORMAT = 1
_LITTER = ("Thumbs.db", "desktop.ini")  # what file managers leave; like names with a dot, harmless


class Damaged(UserError):
    """A folder that is not what was written."""


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a finished folder and push everything in it to the disk.

    It is ``{"sha256": digest, "manifest": {**facts, "files": {name: [bytes, sha256]}}}``, where
    ``digest`` is of the inner JSON with sorted keys and no spaces. No file may change afterwards.
    UserError where it would be larger than ``MANIFEST_LIMIT``.
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
    write_whole(folder / MANIFEST, text.encode("ascii"))
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_folder(path)


def read(folder: Path) -> dict[str, Any]:
    """The facts of a sealed folder, with "format" and "files"; these are not checked yet.

    Raises:
      Damaged: the manifest is absent, too large, not JSON, or not what was written.
      UserError: a later gptjax wrote it.
    """
    try:
        text = read_small(folder / MANIFEST, MANIFEST_LIMIT)
        outer = parse_json(text)
        inner, said = outer["manifest"], outer["sha256"]
        found = _digest(inner)
    except OSError as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is no manifest ({len(text)} bytes, cut or changed)") from error
    if found != said:
        raise Damaged(f"{MANIFEST} has checksum {found[:8]}, {str(said)[:8]} was written")
    if not isinstance(inner, dict) or not _well_formed(inner.get("files")):
        raise Damaged(f"{MANIFEST} lists no files")
    if (found := inner.get("format")) != FORMAT:
        raise UserError(f"{folder} has format {found!r:.40}, this gptjax reads {FORMAT}: update it")
    return inner


def verify(folder: Path, files: dict[str, list], parts: Iterable[str]) -> None:
    """Compare the files in the sub-folders ``parts`` with {name: [bytes, sha256]} of the manifest.

    Raises:
      Damaged: names the first file that is missing, cut, changed, foreign or outside the folder.
    """
    root, parts = folder.resolve(), tuple(f"{part}/" for part in parts)
    asked = {name: entry for name, entry in files.items() if name.startswith(parts)}
    for name, (size, said) in asked.items():
        try:
            path = (folder / name).resolve()
            # ".." and links that lead out of the folder end here; so do pipes and devices.
            if not path.is_relative_to(root):
                raise Damaged(f"{name} leads out of the folder")
            if not path.is_file():
                raise Damaged(f"{name} is missing")
            if (has := path.stat().st_size) != size:
                raise Damaged(f"{name} has {has} bytes, {size} were written")
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error
        if found != said:
            raise Damaged(f"{name} has checksum {found[:8]}, {said[:8]} was written")
    # A file that nobody wrote might change how the others are read.
    try:
        there = sorted(path for part in parts for path in (folder / part).rglob("*"))
    except OSError as error:  # a trainer may be deleting it: whoever asked looks again
        raise Damaged(f"{folder.name} cannot be listed ({error.strerror})") from error
    for path in there:
        name = path.relative_to(folder).as_posix()
        harmless = path.name.startswith(".") or path.name in _LITTER or path.is_dir()
        if name not in files and not harmless:
            raise Damaged(f"{name} was not written with it")


def sync_folder(folder: Path) -> None:
    """Make new and renamed entries of a folder survive a power cut (Windows has no such call)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # as on some network file systems: a kill is survived anyway
        os.fsync(handle)
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
