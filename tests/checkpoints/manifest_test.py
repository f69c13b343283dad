"""Whatever happens to a checkpoint's files, it is noticed or makes no difference."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.checkpoints import manifest, store
from gptjax.config.schema import CheckpointConfig
from gptjax.errors import UserError

TREE = {"a": {"kernel": np.arange(77, dtype=np.float32)}, "b": np.float16([[1, -0.0, 3]])}
STATE = {"params": TREE, "rest": {"count": np.int32(5), "mu": TREE}}
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)
META = {"config": {"name": "a run"}, "tokenizer": {"chars": "\n abcé"}, "val_nats": 1.5}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sound")
    with store.Checkpoints(workdir, CheckpointConfig()) as checkpoints:
        checkpoints.save(6, STATE, META)
    return workdir


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound / "checkpoints", tmp_path / "checkpoints") / "step_6"


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def noticed(workdir, folder) -> bool:
    """Whether a restore is refused in one line; what it lets through must equal what was saved."""
    try:
        restored = store.restore(workdir, "last", ABSTRACT)
    except UserError as error:
        assert "damaged" in str(error) and "\n" not in str(error)
        return True
    assert (restored.step, restored.meta) == (6, META)
    for a, b in zip(jax.tree.leaves(restored.tree), jax.tree.leaves(STATE), strict=True):
        assert np.asarray(a).dtype == b.dtype and np.asarray(a).tobytes() == b.tobytes()
    return False


def test_flipped_bytes_in_any_file_are_noticed_or_harmless(folder, tmp_path):
    rng = random.Random(1)
    assert not noticed(tmp_path, folder)
    seen = dict.fromkeys(("arrays", "manifest"), 0)
    for path in files_in(folder):
        sound = path.read_bytes()
        for at in rng.sample(range(len(sound)), min(len(sound), 12)):
            cut = bytearray(sound)
            cut[at] ^= 1 << rng.randrange(8)
            path.write_bytes(cut)
            found = noticed(tmp_path, folder)
            # In the manifest, white space may change; in what orbax wrote, nothing.
            assert found or path.name == "manifest.json"
            seen["manifest" if path.name == "manifest.json" else "arrays"] += found
        path.write_bytes(sound)
    assert seen["arrays"] >= 60 and seen["manifest"] >= 6
    assert not noticed(tmp_path, folder)


def test_cut_and_lengthened_files_are_noticed(folder, tmp_path):
    rng = random.Random(2)
    for path in files_in(folder):
        sound = path.read_bytes()
        for damaged in (sound[: rng.randrange(len(sound))], sound[:-1], b"", sound + b"\0"):
            path.write_bytes(damaged)
            assert noticed(tmp_path, folder), (path.name, len(damaged), len(sound))
        path.write_bytes(sound)


def test_missing_files_and_folders_are_noticed_and_named(folder, tmp_path):
    for path in files_in(folder):
        sound = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError, match=path.relative_to(folder).as_posix()):
            store.restore(tmp_path, "last", ABSTRACT)
        path.write_bytes(sound)
    for part in ("params", "rest"):
        (folder / part).rename(folder / "elsewhere")
        assert noticed(tmp_path, folder)
        (folder / "elsewhere").rename(folder / part)
    assert not noticed(tmp_path, folder)


def test_files_of_two_checkpoints_cannot_be_mixed(folder, tmp_path):
    with store.Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(7, jax.tree.map(lambda x: x + 1, STATE), META)
    other = tmp_path / "checkpoints" / "step_7"
    shutil.rmtree(folder / "rest")
    shutil.copytree(other / "rest", folder / "rest")
    with pytest.raises(UserError, match="step 6 is damaged"):
        store.restore(tmp_path, 6, ABSTRACT)
    other.rename(other.with_name("step_8"))
    with pytest.raises(UserError, match="step 8 is damaged .*is of step 7"):
        store.restore(tmp_path, 8, ABSTRACT)


def rewrite(folder, change):
    """A manifest from somebody who knows how it is sealed."""
    inner = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["manifest"]
    inner = change(inner) or inner
    text = json.dumps(inner, sort_keys=True, separators=(",", ":"))
    outer = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "manifest": inner}
    (folder / "manifest.json").write_text(json.dumps(outer), encoding="utf-8")


def test_names_that_lead_out_of_the_folder_are_refused(folder, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    (folder / "params" / "link").symlink_to(tmp_path / "secret")
    for name in ("params/../../../secret", "params/link", "params/a\0b"):
        rewrite(folder, lambda m: m.update(files={name: [6, digest]}))  # noqa: B023
        with pytest.raises(UserError, match="leads out of the folder|lists no files"):
            store.restore(tmp_path, "last", ABSTRACT)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "params" / "pipe")
        rewrite(folder, lambda m: m.update(files={"params/pipe": [6, digest]}))
        with pytest.raises(UserError, match="params/pipe is missing"):  # and nobody waits for it
            store.restore(tmp_path, "last", ABSTRACT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["format", "step", "meta", "arrays", "files"])


def test_arrays_that_orbax_reads_otherwise_than_saved_are_named(folder, tmp_path):
    with store.Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(7, jax.tree.map(lambda x: x + (x.shape == (77,)), STATE), META)
    other = folder.with_name("step_7")
    shutil.rmtree(folder / "rest")
    shutil.copytree(other / "rest", folder / "rest")
    # Every file is as the manifest says, but the arrays' own checksums are the old ones.
    files = manifest.read(folder)["files"] | manifest.read(other)["files"]
    there = {name: entry for name, entry in files.items() if (folder / name).exists()}
    there |= {k: v for k, v in manifest.read(folder)["files"].items() if k.startswith("params/")}
    rewrite(folder, lambda m: m.update(files=there))
    with pytest.raises(UserError, match="rest/mu/a/kernel has other values than were saved"):
        store.restore(tmp_path, 6, ABSTRACT)


@pytest.fixture(scope="module")
def target(sound, tmp_path_factory):
    return Path(shutil.copytree(sound, tmp_path_factory.mktemp("nonsense") / "run"))


@settings(max_examples=100, deadline=None)
@given(key=KEYS, value=JSON, inside=st.booleans())
def test_well_sealed_nonsense_ends_in_one_line_and_never_in_other_arrays(
    sound, target, key, value, inside
):
    name = "checkpoints/step_6/manifest.json"
    shutil.copy(sound / name, target / name)

    def change(inner):
        if inside and isinstance(inner[key], dict):
            inner[key][next(iter(inner[key]))] = value
        else:
            inner[key] = value

    rewrite(target / "checkpoints" / "step_6", change)
    try:
        restored = store.restore(target, "last", ABSTRACT)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        for a, b in zip(jax.tree.leaves(restored.tree), jax.tree.leaves(STATE), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 100_000, b'{"manifest": 1, "sha256": 2}'],
    ids=lambda text: repr(text[:9]),
)
def test_what_is_no_manifest_is_refused(folder, tmp_path, text):
    (folder / "manifest.json").write_bytes(text)
    assert noticed(tmp_path, folder)


def test_a_manifest_may_not_fill_the_memory(folder, monkeypatch):
    monkeypatch.setattr(manifest, "MANIFEST_LIMIT", 100)
    with pytest.raises(manifest.Damaged, match="more than the allowed 100"):
        manifest.read(folder)
    with pytest.raises(UserError, match="bytes, the limit is 100"):
        manifest.seal(folder, {})


def test_a_later_format_is_not_called_damage(folder, tmp_path):
    rewrite(folder, lambda m: m.update(format=2))
    with pytest.raises(UserError, match="format 2, this gptjax reads 1"):
        store.restore(tmp_path, "last", ABSTRACT)
