"""Files of tensors in the safetensors format: 8 bytes of length, a JSON header, the raw numbers.

In: a stranger's folder, or tensors. Out: what each tensor is and where it lies, read one by one as
float32; a file that others read. Nothing in such a file is ever executed, as a pickle's content is,
and no byte of a tensor is read before the header has been checked against the file's size.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptjax.errors import UserError
from gptjax.interop.gpt2 import Tensor
from gptjax.runtime.atomic_files import naming, parse_json, read_small, reason

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OTHERS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
HEADER_LIMIT, INDEX_LIMIT = 2**23, 2**23  # bytes; those of GPT-2's largest have 60,000
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
SIZES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
READ = ("F32", "F16", "BF16")
_FILE = re.compile(r"\w[\w.-]{0,200}\.safetensors", re.ASCII)


class Stored(NamedTuple):
    """A tensor in a file: where its bytes begin, of which kind and shape it is."""

    path: Path
    begin: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.shape) * SIZES[self.dtype]

    def read(self) -> np.ndarray:
        """The tensor as float32; OSError where the file has become shorter."""
        dtype = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        with open(self.path, "rb") as file:
            found = np.fromfile(file, dtype, math.prod(self.shape), offset=self.begin)
        if found.size < math.prod(self.shape):
            raise OSError(None, "became shorter while it was read", str(self.path))
        if self.dtype == "BF16":  # the upper half of a float32
            found = (found.astype(np.uint32) << 16).view(np.float32)
        return found.astype(np.float32, copy=False).reshape(self.shape)


def find(folder: Path) -> dict[str, Stored]:
    """The tensors of a model's folder, in one file or sharded; UserError says what is wrong."""
    if (folder / SINGLE).exists():
        return header(folder / SINGLE)
    if not (folder / INDEX).exists():
        raise _none(folder)
    try:
        said = parse_json(read_small(folder / INDEX, INDEX_LIMIT))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / INDEX} cannot be read: {error}") from error
    places = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{folder / INDEX} has no weight_map that says which tensor is where")
    for name in places.values():
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise UserError(f"{folder / INDEX} names {name!r:.80}, which is no file of its folder")
    found: dict[str, Stored] = {}
    for name in sorted(set(places.values())):
        held = header(folder / name)
        for tensor in held:
            if places.get(tensor) != name:
                said = f"says {places[tensor]}" if tensor in places else "does not know it"
                raise UserError(f"{name} holds {tensor:.80}, and {INDEX} {said}")
        found |= held
    if missing := [tensor for tensor in places if tensor not in found]:
        where = places[missing[0]]
        raise UserError(f"{where} lacks {missing[0]:.80}, which {INDEX} says it holds")
    return found


def _none(folder: Path) -> UserError:
    """Why a folder without safetensors is refused: files of other formats may execute anything."""
    there = [name for name in OTHERS if (folder / name).exists()]
    if not there:
        return UserError(f"{folder} has no {SINGLE}, nor {INDEX}: name the folder of a model")
    where = f"{str(folder)!r}"
    return UserError(
        f"{folder / there[0]} is not read, for such a file can run programs: let transformers save "
        f'it anew, python -c "from transformers import AutoModelForCausalLM as M; '
        f'M.from_pretrained({where}).save_pretrained({where})"'
    )


def header(path: Path) -> dict[str, Stored]:
    """The tensors of one file, of which the header is read, and each byte is one tensor's."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("it is no regular file")
            length = int.from_bytes(file.read(8), "little")
            if facts.st_size < 8 or length > facts.st_size - 8:
                raise ValueError(f"its header ends after {length:,} bytes, the file before: cut?")
            if length > HEADER_LIMIT:
                most = f"more than {HEADER_LIMIT:,}"
                raise ValueError(f"its header has {length:,} bytes, {most}")
            said = parse_json(file.read(length))
        if not isinstance(said, dict):
            raise ValueError("its header is no JSON object")
        said.pop("__metadata__", None)
        found = {name: _stored(path, 8 + length, name, entry) for name, entry in said.items()}
        _require_whole(found, 8 + length, facts.st_size)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {reason(error)}") from error
    return found


def _stored(path: Path, first: int, name: str, entry: Any) -> Stored:
    """One entry of a header, checked by itself; ValueError."""
    shown = f"{name:.80}"
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        is_list = isinstance(shape, list) and len(shape) <= 8
    except (KeyError, TypeError, ValueError):
        is_list = False
    if not is_list or not all(type(n) is int and 0 <= n < 2**48 for n in [*shape, begin, end]):
        raise ValueError(f"the entry of {shown} has no dtype, shape and data_offsets")
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ValueError(f"{shown} has the dtype {dtype!r:.40}, which is unknown")
    stored = Stored(path, first + begin, dtype, tuple(shape))
    if end - begin != stored.n_bytes:
        raise ValueError(f"{shown} has {end - begin:,} bytes, its shape {stored.n_bytes:,}")
    return stored


def _require_whole(found: dict[str, Stored], first: int, size: int) -> None:
    """Tensors lie end to end and fill the file: none is over another, and nothing is hidden."""
    by_place = sorted(found.items(), key=lambda item: (item[1].begin, item[1].n_bytes))
    for name, stored in by_place:
        if stored.begin != first:
            raise ValueError(f"{name:.80} begins at byte {stored.begin:,}, not at {first:,}")
        first += stored.n_bytes
    if first != size:
        raise ValueError(f"its tensors end at byte {first:,}, the file at {size:,}: cut?")


def write(path: Path, tensors: Iterable[Tensor], told: Callable[[float, float], None]) -> None:
    """Write float32 tensors, one after the other; ``told`` hears (done, total) bytes."""
    tensors, entries, end = list(tensors), {}, 0
    # transformers reads no file that does not say which library's order its numbers have.
    entries["__metadata__"] = {"format": "pt"}
    for name, shape, _ in tensors:
        begin, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": (begin, end)}
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that the numbers lie at a multiple of their size
    done = 0
    with naming(path), open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, _, make in tensors:
            told(done, end)
            array = np.ascontiguousarray(make(), "<f4")
            done += file.write(array.data)
        file.flush()
        os.fsync(file.fileno())
    told(done, end)
