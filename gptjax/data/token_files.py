"""A text as files of its tokens, for texts that are larger than memory: opened, verified, written.

A folder has shards, plain little-endian uint16 or uint32 ids, and ``tokens.json``: tokenizer, sums,
whose tokens they are. That is written last: where it stands all is there. What fills it is
``gptjax/prepare.py``. In: a folder. Out: a ``Prepared``, of whose tokens little is in memory.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from gptjax.data import tokenizers
from gptjax.data.dataset import Encoded
from gptjax.data.text_file import expand
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.runtime.atomic_files import PART, naming, read_json, write_whole
from gptjax.runtime.pace import Busy

CONTENTS, FORMAT, UNFINISHED = "tokens.json", 1, f"prepare{PART}"
MOST_CONTENTS = 2**26  # bytes of a tokens.json
SPLITS, DTYPES = ("train", "val"), ("uint16", "uint32")
SHARD_BYTES = 2**30
SPARE_BYTES = 2**24  # left free on the disk
_READ_BYTES = 2**22  # at a time, of a shard that is verified
_OURS = re.compile(rf"(train|val)-\d{{5,}}\.bin|({re.escape(CONTENTS)}.*|prepare){re.escape(PART)}")


class Tokens:
    """Ids of all shards of a split, read as one int32 array (N,) of which little is in memory.

    A slice is another such view, and nothing is read before numpy asks; integer arrays as an index
    give an array of their shape. UserError: an id that the vocabulary of size V does not have.
    """

    dtype = np.dtype(np.int32)

    def __init__(
        self, shards: Sequence[np.ndarray], V: int, begin: int = 0, end: int | None = None
    ):
        self._shards, self._V = shards, V
        self._ends = np.cumsum([len(shard) for shard in shards])
        self._begin, self._end = begin, int(self._ends[-1]) if end is None else end

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, at: slice | np.ndarray) -> "Tokens | np.ndarray":
        if isinstance(at, slice):
            begin, end, _ = at.indices(len(self))
            begin += self._begin
            return Tokens(self._shards, self._V, begin, max(begin, end + self._begin))
        place_N = np.reshape(at, -1) + self._begin
        shard_N = np.searchsorted(self._ends, place_N, side="right").astype(np.uint16)
        by_shard = np.argsort(shard_N, kind="stable")  # of 16 bits: by radix, several times quicker
        counts = np.bincount(shard_N)
        ends = np.cumsum(counts)
        ids_N = np.empty(len(place_N), self.dtype)
        for shard in np.flatnonzero(counts):
            here = by_shard[ends[shard] - counts[shard] : ends[shard]]
            begin = self._ends[shard] - len(self._shards[shard])
            ids_N[here] = self._shards[shard][place_N[here] - begin]
        return self._known(ids_N).reshape(np.shape(at))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        parts = [np.zeros(0, self.dtype)]
        for end, shard in zip(self._ends.tolist(), self._shards, strict=True):
            begin = end - len(shard)
            parts.append(shard[max(self._begin - begin, 0) : max(self._end - begin, 0)])
        return self._known(np.concatenate(parts, dtype=self.dtype)).astype(dtype or self.dtype)

    def _known(self, ids_N: np.ndarray) -> np.ndarray:
        if len(ids_N) and (wrong := int(ids_N.view(np.uint32).max())) >= self._V:
            raise UserError(
                f"the token files hold the id {wrong}, and their vocabulary ends at {self._V - 1}: "
                "they are damaged; see python -m gptjax.prepare --verify, or prepare the text again"
            )
        return ids_N


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a folder of tokens holds: whose they are, the tokenizer, the splits."""

    name: str  # of the text's file
    sha256: str  # of the text, as read and normalised, in UTF-8
    tokenizer: Tokenizer
    min_count: int
    vocab_size: int  # that was asked for
    dtype: str
    splits: Mapping[str, Encoded]
    shards: Mapping[str, str]  # name -> sha256


def open_folder(name: str) -> Prepared:
    """Open what ``write`` wrote; UserError where it is none, or a shard has another size.

    The sums of the shards are for ``verify`` to compare: of a large text that takes minutes.
    """
    folder = expand(name)
    if not (folder / CONTENTS).is_file():
        raise UserError(
            f"{name!r} is a folder without {CONTENTS}: give the path of a UTF-8 text file, or of a "
            "folder that python -m gptjax.prepare has finished"
        )
    try:
        return _understand(folder, read_json(folder / CONTENTS, MOST_CONTENTS))
    except (UserError, LookupError, TypeError, ValueError, OSError) as error:
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__} {error}"
        raise UserError(
            f"the token files in {name!r} cannot be used ({why}): delete the folder and prepare "
            "the text again"
        ) from error


def _understand(folder: Path, said: Any) -> Prepared:
    """Read a ``tokens.json``, whoever wrote it, and map the shards that it names."""
    if said["format"] != FORMAT or said["dtype"] not in DTYPES:
        raise UserError("another version wrote them")
    tok, sha256, dtype = tokenizers.from_json(said["tokenizer"]), said["sha256"], said["dtype"]
    splits, shards = {}, {}
    for split in SPLITS:
        arrays, characters = [], said["splits"][split]["characters"]
        n_bytes = said["splits"][split].get("bytes", 0)  # older ones do not say
        for number, (n, digest) in enumerate(said["splits"][split]["shards"]):
            path = folder / f"{split}-{number:05}.bin"
            wanted = n * np.dtype(dtype).itemsize
            if not path.is_file() or path.stat().st_size != wanted:
                raise UserError(f"{path.name} has not the {wanted!r:.20} bytes that it had")
            arrays.append(np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r"))
            shards[path.name] = digest
        splits[split] = Encoded(Tokens(arrays, tok.vocab_size), characters, n_bytes)
    counts = [said["min_count"], said.get("vocab_size", 0)]
    counts += [n for text in splits.values() for n in (text.characters, text.n_bytes)]
    if not re.fullmatch("[0-9a-f]{64}", sha256) or any(type(n) is not int for n in counts):
        raise TypeError(CONTENTS)
    return Prepared(str(said["name"]), sha256, tok, *counts[:2], dtype, splits, shards)


def verify(name: str, busy: Busy = None) -> Prepared:
    """Open a folder and compare every shard's sum; ``busy`` is told of bytes. UserError: damage."""
    found, done = open_folder(name), 0
    paths = {expand(name) / shard: digest for shard, digest in found.shards.items()}
    total = sum(path.stat().st_size for path in paths)
    for path, digest in paths.items():
        with open(path, "rb") as file:
            seen = hashlib.sha256()
            while block := file.read(_READ_BYTES):
                seen.update(block)
                done += len(block)
                if busy:
                    busy(done, total)
        if seen.hexdigest() != digest:
            raise UserError(
                f"{path} is damaged (its sha256 is not the one in {CONTENTS}): delete the folder "
                "and prepare the text again"
            )
    return found


def has_contents(folder: Path) -> bool:
    """Whether a folder is complete; what a killed ``Writer`` left in one that is not is deleted.

    UserError: there are other files in it.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if CONTENTS in names:
        return True
    others = [name for name in names if not (UNFINISHED in names and _OURS.fullmatch(name))]
    if others or (folder.exists() and not folder.is_dir()):
        why = f"holds {others[0]!r}" if others else "is no folder"
        raise UserError(f"{str(folder)!r} {why}: name a new or an empty folder as --out")
    for name in names:
        (folder / name).unlink()
    return False


class Writer:
    """A folder that is being filled, in a ``with``: on an error all is deleted again.

    ``write`` appends ids to a split; ``finish`` writes ``tokens.json``.
    """

    def __init__(self, folder: Path, said: Mapping[str, Any], n_tokens: int):
        """``said``: what ``tokens.json`` holds beside splits, "dtype" in it; UserError: no room."""
        self._folder, self._said = folder, {"format": FORMAT, **said}
        self._dtype = np.dtype(said["dtype"]).newbyteorder("<")
        self._shards: dict[str, list[list[Any]]] = {split: [] for split in SPLITS}  # tokens, sum
        self._files: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        need, free = n_tokens * self._dtype.itemsize, shutil.disk_usage(folder).free
        if need + SPARE_BYTES > free:
            raise UserError(
                f"the tokens take {need / 1e9:.3f} GB, and {free / 1e9:.3f} GB are free in "
                f"{str(folder)!r}: make room, or name a folder on another disk"
            )
        if (size := len(json.dumps(self._said))) > MOST_CONTENTS // 2:  # the rest: the shards'
            raise UserError(
                f"the vocabulary takes {size / 1e6:.0f} MB, more than can be read again: "
                "leave rare words out with a larger --min_count"
            )

    def __enter__(self) -> Self:
        (self._folder / UNFINISHED).touch()
        return self

    def write(self, split: str, ids_N: np.ndarray) -> None:
        """Append ids of the folder's dtype; a shard that is full is closed, and another begun."""
        most = SHARD_BYTES // self._dtype.itemsize
        while len(ids_N):
            if split not in self._files:
                self._shards[split].append([0, hashlib.sha256()])
                self._files[split] = open(self._path(split), "wb")  # noqa: SIM115
            shard = self._shards[split][-1]
            part, ids_N = np.split(ids_N, [most - shard[0]])
            data = part.astype(self._dtype, copy=False).tobytes()
            with naming(self._path(split)):
                self._files[split].write(data)
            shard[0] += len(part)
            shard[1].update(data)
            if shard[0] == most:
                self._close(split)

    def finish(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Write what the folder holds, when all else is on the disk.

        ``sizes``: of the text of each split, characters and bytes.
        """
        splits = {}
        for split, shards in self._shards.items():
            if split in self._files:
                self._close(split)
            listed = [[n, digest.hexdigest()] for n, digest in shards]
            characters, n_bytes = sizes[split]
            splits[split] = {"characters": characters, "bytes": n_bytes, "shards": listed}
        write_whole(self._folder / CONTENTS, json.dumps(self._said | {"splits": splits}).encode())

    def _path(self, split: str) -> Path:
        return self._folder / f"{split}-{len(self._shards[split]) - 1:05}.bin"

    def _close(self, split: str) -> None:
        with naming(self._path(split)), self._files.pop(split) as file:
            file.flush()
            os.fsync(file.fileno())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # of a full disk: it has been told
                file.close()
        if kind:
            has_contents(self._folder)
        (self._folder / UNFINISHED).unlink(missing_ok=True)
