"""Files in the safetensors format, beside the library's, and refused where they are not sound."""

import json
import math
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gptjax.errors import UserError
from gptjax.interop import safetensors_files as files
from gptjax.interop.gpt2 import Tensor

RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.normal(0, 1, (3, 5)).astype(np.float32),
    "b": RNG.normal(0, 1, 7).astype(np.float32),
    "c": np.float32([[[2.5]]]),
}


def raw(path, entries, data=b"", length=None):
    """A file of a header and bytes, sound or not."""
    head = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    length = len(head) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + head + data)
    return path


def test_what_it_writes_the_library_reads(tmp_path):
    path, told = tmp_path / "x.safetensors", []
    tensors = [Tensor(name, a.shape, lambda a=a: a) for name, a in ARRAYS.items()]
    files.write(path, tensors, lambda *done: told.append(done))
    found = load_file(path)
    assert found.keys() == ARRAYS.keys()
    assert all(found[name].tobytes() == a.tobytes() for name, a in ARRAYS.items())
    with safe_open(path, "np") as held:
        assert held.metadata() == {"format": "pt"}
    assert told[0][0] == 0 and told[-1] == (92, 92)
    begin = {stored.begin % 8 for stored in files.header(path).values()}
    assert begin <= {0, 4}  # numbers of 4 bytes, after a header of whole words


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_the_library_writes_is_read(tmp_path, dtype):
    arrays = {name: a.astype(dtype) for name, a in ARRAYS.items()}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "np"})
    found = files.find(tmp_path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        read = found[name].read()
        assert read.dtype == np.float32 and read.shape == array.shape
        np.testing.assert_array_equal(read, array.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    exact = np.float32([1.5, -2.0, 0.0, 3.140625, np.inf, 2.0**-126])
    halves = (exact.view(np.uint32) >> 16).astype("<u2")
    entry = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}
    raw(tmp_path / "model.safetensors", {"x": entry}, halves.tobytes())
    read = files.find(tmp_path)["x"].read()
    np.testing.assert_array_equal(read, exact.reshape(2, 3))
    assert read.dtype == np.float32


def sharded(folder, weight_map=None):
    """Two shards and their index; ``weight_map`` changes what it says."""
    places = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    for name, file in places.items():
        save_file({name: ARRAYS[name]}, folder / file)
    said = {"metadata": {"total_size": 88}, "weight_map": places | (weight_map or {})}
    (folder / files.INDEX).write_text(json.dumps(said), encoding="utf-8")


def test_shards_are_read_as_one(tmp_path):
    sharded(tmp_path)
    found = files.find(tmp_path)
    assert found.keys() == {"a", "b"} and len({stored.path for stored in found.values()}) == 2
    assert all(np.array_equal(found[name].read(), ARRAYS[name]) for name in found)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BYTES = b"12345678"
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE = {
    "empty": (b"", b"", 0, "no JSON|Expecting"),
    "a length over the end": ({}, b"", 2**62, "its header ends after"),
    "a header too long": ({"a": entry()}, bytes(2**23), 2**23 + 1, "more than"),
    "no JSON": (b"\x80\x04K", b"", None, "utf-8|Expecting"),
    "nested": (DEEP, b"", None, "nested too deep"),
    "a list": ([], b"", None, "no JSON object"),
    "an entry that is a number": ({"a": 3}, b"", None, "entry of a has no dtype"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, BYTES, None, "entry of a has no"),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, BYTES, None, "entry of a has no"),
    "offsets that are text": ({"a": entry(offsets="08")}, BYTES, None, "entry of a has no"),
    "a shape below 0": ({"a": entry(shape=[-2])}, BYTES, None, "entry of a has no"),
    "a shape of truth": ({"a": entry(shape=[True, 2])}, BYTES, None, "entry of a has no"),
    "a shape that overflows": ({"a": entry(shape=[2**40] * 3)}, BYTES, None, "its shape"),
    "a huge number": ({"a": entry(shape=[2**64])}, BYTES, None, "entry of a has no"),
    "too many axes": ({"a": entry(shape=[1] * 9)}, BYTES, None, "entry of a has no"),
    "an unknown dtype": ({"a": entry("PICKLE")}, BYTES, None, "dtype 'PICKLE'"),
    "a dtype that is a list": ({"a": entry(["F32"])}, BYTES, None, r"dtype \['F32'\]"),
    "bytes that are not its shape's": ({"a": entry(shape=[3])}, BYTES, None, "8 bytes, its shape"),
    "end before begin": ({"a": entry(shape=[], offsets=(8, 4))}, BYTES, None, "-4 bytes"),
    "cut": ({"a": entry()}, BYTES[:5], None, "end at byte .* the file at"),
    "bytes that nobody has": ({"a": entry()}, BYTES + b"payload", None, "end at byte"),
    "one over another": ({"a": entry(), "b": entry()}, BYTES, None, "b begins at byte"),
    "a hole": ({"a": entry(offsets=(4, 12))}, BYTES + b"0000", None, "a begins at byte"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path, name):
    entries, data, length, words = HOSTILE[name]
    path = raw(tmp_path / "model.safetensors", entries, data, length)
    with pytest.raises(UserError, match=words) as error:
        files.header(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_any_byte_that_is_changed_or_lacking_is_refused_or_another_value(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = [Tensor(name, a.shape, lambda a=a: a) for name, a in ARRAYS.items()]
    files.write(path, tensors, lambda *_: None)
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(4), 0
    for _ in range(300):
        broken, at = bytearray(whole), rng.integers(len(whole))
        broken[at] ^= 1 << rng.integers(8)
        path.write_bytes(broken if rng.random() < 0.7 else whole[:at])
        try:
            found = files.header(path)
            assert all(stored.n_bytes < 10**4 for stored in found.values())
        except UserError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3, "x.bin", "a\n"]
)
def test_an_index_that_leaves_the_folder_is_refused(tmp_path, name):
    sharded(tmp_path, {"a": name})
    with pytest.raises(UserError, match="which is no file of its folder"):
        files.find(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "model-2-of-2.safetensors"}, "lacks a, which"),
        ({"c": "model-2-of-2.safetensors"}, "lacks c, which"),
        ({"a": "model-3-of-2.safetensors"}, "No such file"),
    ],
)
def test_an_index_and_its_shards_must_agree(tmp_path, weight_map, words):
    sharded(tmp_path, weight_map)
    with pytest.raises(UserError, match=words):
        files.find(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    sharded(tmp_path)
    save_file({n: ARRAYS[n] for n in "ab"}, tmp_path / "model-2-of-2.safetensors")
    with pytest.raises(UserError, match="holds a, and model.safetensors.index.json says"):
        files.find(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(tmp_path, content):
    (tmp_path / files.INDEX).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="model.safetensors.index.json"):
        files.find(tmp_path)


@pytest.mark.parametrize("name", files.OTHERS)
def test_a_pickle_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match="can run programs: .*save_pretrained") as error:
        files.find(tmp_path)
    assert name in str(error.value)


def test_an_empty_folder_and_a_pipe_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no model.safetensors"):
        files.find(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="no regular file"):
            files.find(tmp_path)


def test_a_file_that_shrinks_after_its_header_was_read_is_an_error(tmp_path):
    path = raw(tmp_path / "model.safetensors", {"a": entry()}, BYTES)
    stored = files.header(path)["a"]
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(OSError, match="became shorter"):
        stored.read()
    assert math.prod(stored.shape) == 2
