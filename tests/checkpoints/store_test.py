"""What is saved comes back bit for bit, whole, or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.checkpoints import directory, manifest, store
from gptjax.checkpoints.directory import available, best, last
from gptjax.checkpoints.store import Checkpoints
from gptjax.config.schema import CheckpointConfig
from gptjax.errors import UserError

ROOT = Path(__file__).parents[2]


def make_state(step: int, n_layer: int = 2, width: int = 3):
    """A small model and the state of a chain of optimizers (tuples, NamedTuples, empty states)."""
    key = jax.random.fold_in(jax.random.key(7), step)
    params = {
        f"Block_{i}": {"sa": {"kernel": jax.random.normal(jax.random.fold_in(key, i), (5, width))}}
        for i in range(n_layer)
    }
    params["scale"] = jnp.array([-0.0, jnp.nan, jnp.inf, 1e-45], jnp.bfloat16)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 3, 9)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    rest = {
        "opt_state": tx.init(params),
        "step": jnp.int32(step),
        "memory": (jnp.ones(2, bool), []),
    }
    return {"params": params, "rest": rest}


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


ABSTRACT = abstract(make_state(0))


def assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def write(workdir, *steps, best=(), **config):
    with Checkpoints(workdir, CheckpointConfig(**config)) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"step": step}, best=step in best)
    return workdir / "checkpoints"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with checkpoints at steps 3 and 4; copy it before harming it."""
    workdir = tmp_path_factory.mktemp("two") / "a run, ünïcode"
    write(workdir, 3, 4, best=[3])
    return workdir


@pytest.fixture
def run(two, tmp_path):
    return Path(shutil.copytree(two, tmp_path / "run"))


def test_a_state_comes_back_bit_for_bit_with_its_structure_and_meta(two):
    meta = {"config": {"model": {"n_layer": 2}}, "tokenizer": "aé\n", "val": 1.7976931348623157e308}
    restored = store.restore(two, "last", ABSTRACT)
    assert_same(restored.tree, make_state(4))
    assert (restored.step, restored.meta, restored.notices) == (4, {"step": 4}, [])
    with Checkpoints(two.parent / "meta", CheckpointConfig()) as checkpoints:
        checkpoints.save(1, make_state(1), meta)
    assert store.read_meta(two.parent / "meta") == (1, meta)


def test_only_params_neither_needs_nor_looks_at_the_rest(run):
    shutil.rmtree(run / "checkpoints" / "step_4" / "rest")
    restored = store.restore(run, "last", {"params": ABSTRACT["params"]}, only_params=True)
    assert_same(restored.tree, {"params": make_state(4)["params"]})
    assert restored.notices == []


def test_best_and_any_step_can_be_asked_for(two):
    for which, step in (("best", 3), ("last", 4), (3, 3), (4, 4)):
        assert store.read_meta(two, which) == (step, {"step": step})
        assert store.restore(two, which, ABSTRACT).step == step
    with pytest.raises(UserError, match="no checkpoint 5, only of steps 3, 4"):
        store.restore(two, 5, ABSTRACT)
    with pytest.raises(UserError, match="no checkpoint"):
        store.read_meta(two.parent / "never made", "last")
    assert available(two.parent / "never made") == []


def test_donating_the_state_right_after_save_changes_nothing_that_is_written(tmp_path):
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 + 1, s), donate_argnums=0)
    big = {"params": {"w": jnp.arange(300_000.0)}, "rest": {"h": np.arange(5.0)}}
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=9)) as checkpoints:
        for step in (1, 2, 3):
            state = jax.tree.map(lambda x: x + step, big)  # noqa: B023
            expected = jax.tree.map(np.array, state)
            checkpoints.save(step, state, {})
            state["rest"]["h"] += 1  # numpy leaves are copied too
            state["params"] = spoil(state["params"])
            jax.block_until_ready(state["params"])
            checkpoints.wait()
            restored = store.restore(tmp_path, step, abstract(expected)).tree
            np.testing.assert_array_equal(restored["params"]["w"], expected["params"]["w"])
            assert restored["rest"]["h"][0] == expected["rest"]["h"][0]
            spoil(restored)  # and what was restored may be donated


def test_save_returns_before_the_checkpoint_is_written(tmp_path, monkeypatch):
    rename = directory.rename_into_place

    def slow(*args):
        time.sleep(0.3)
        return rename(*args)

    monkeypatch.setattr(directory, "rename_into_place", slow)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        assert available(tmp_path) == []
        checkpoints.wait()
        assert available(tmp_path) == [1]


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3, 5, 8, 13, best=[1, 2], keep_last=2)
    assert (available(tmp_path), best(tmp_path), last(tmp_path)) == ([2, 8, 13], 2, 13)
    write(tmp_path, 21, 34, best=[21], keep_last=1)
    assert (available(tmp_path), best(tmp_path)) == ([21, 34], 21)


def test_a_step_saved_again_replaces_itself_and_stays_the_best(tmp_path):
    write(tmp_path, 1, 4, best=[4])
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(4, make_state(4), {"again": True})
    assert (available(tmp_path), best(tmp_path)) == ([1, 4], 4)
    assert store.read_meta(tmp_path, "best") == (4, {"again": True})


def test_the_damaged_last_is_passed_over_and_later_replaced(run):
    folder = run / "checkpoints"
    (folder / "step_4" / "params" / "manifest.ocdbt").write_bytes(b"")
    restored = store.restore(run, "last", ABSTRACT)
    assert_same(restored.tree, make_state(3))
    (notice,) = restored.notices
    assert "step 4 is damaged (params/manifest.ocdbt has 0 bytes" in notice and "step 3" in notice
    with pytest.raises(UserError, match="step 4 is damaged .* of steps 3, 4"):
        store.restore(run, 4, ABSTRACT)
    write(run, 4)
    assert (available(run), store.restore(run, "last", ABSTRACT).notices) == ([3, 4], [])
    for name in ("step_3-best", "step_4.2"):
        (folder / name / "manifest.json").unlink()
    with pytest.raises(UserError, match="step 4 is damaged .*; .* step 3 is damaged") as error:
        store.restore(run, "last", ABSTRACT)
    assert "\n" not in str(error.value)


def test_what_follows_the_step_a_run_fell_back_to_is_forgotten(run):
    shutil.rmtree(run / "checkpoints" / "step_4" / "rest")
    with Checkpoints(run, CheckpointConfig(keep_last=1)) as checkpoints:
        checkpoints.save(2, make_state(2), {})
    assert available(run) == [2]


def test_a_reader_whose_checkpoint_is_deleted_under_it_takes_the_newer_one(run, monkeypatch):
    verify, calls = manifest.verify, []

    def and_delete(folder, *args):
        calls.append(folder.name)
        if len(calls) == 1:
            write(run, 5, keep_last=1)
        return verify(folder, *args)

    monkeypatch.setattr(manifest, "verify", and_delete)
    restored = store.restore(run, "last", ABSTRACT)
    assert (calls, restored.step, restored.notices) == (["step_4", "step_5"], 5, [])


def test_a_checkpoint_deleted_while_its_folders_are_listed_is_looked_for_again(run, monkeypatch):
    rglob, listed = Path.rglob, []

    def gone(path, pattern):
        listed.append(path.parent.name)
        if len(listed) == 1:  # the files were all there; now the trainer deletes the checkpoint
            monkeypatch.undo()
            write(run, 5, keep_last=1)
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return rglob(path, pattern)

    monkeypatch.setattr(Path, "rglob", gone)
    restored = store.restore(run, "last", ABSTRACT)
    assert (listed, restored.step, restored.notices) == (["step_4"], 5, [])


def test_another_models_shapes_are_refused_with_both_numbers(two):
    def refusal(state, **kw):
        with pytest.raises(UserError) as error:
            store.restore(two, "last", abstract(state), **kw)
        assert "\n" not in str(error.value)
        return str(error.value)

    line = refusal(make_state(0, n_layer=5))
    assert "has 2 of params/Block_*, needs 5" in line
    assert "lacks params/Block_2/sa/kernel and 2 more" in line
    line = refusal(make_state(0, n_layer=1), only_params=True)
    assert "has 2 of params/Block_*, needs 1, has unknown params/Block_1/sa/kernel" in line
    line = refusal(make_state(0, width=7))
    assert "has params/Block_0/sa/kernel (5, 3), needs (5, 7), and 1 more differ" in line
    state = make_state(0)
    state["params"]["scale"] = state["params"]["scale"].astype(jnp.float32)
    assert "has params/scale bfloat16, needs float32" in refusal(state)
    state = make_state(0)
    state["rest"]["opt_state"] = optax.sgd(0.1).init(state["params"])
    assert "has unknown rest/opt_state/1/0/count" in refusal(state)


def test_a_write_error_is_said_at_the_next_call_and_the_last_good_one_stays(tmp_path):
    resource = pytest.importorskip("resource")
    free, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def full_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))

    noise = np.random.default_rng(0).normal(size=100_000)
    big = {"params": {"w": noise}, "rest": {}}
    refused = "step 2 could not be written .*step 1 is kept"
    with Checkpoints(tmp_path, CheckpointConfig()) as stop:
        stop.save(1, make_state(1), {})
        stop.wait()
        with full_disk():
            stop.save(2, big, {})
            with pytest.raises(UserError, match=refused) as error:
                stop.wait()
        assert "\n" not in str(error.value)
        stop.save(3, make_state(3), {})  # once there is room, it goes on
    assert available(tmp_path) == [1, 3]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_1", "step_3"]

    with Checkpoints(tmp_path, CheckpointConfig(on_full_disk="continue")) as go_on, full_disk():
        go_on.save(4, big, {})
        go_on.save(5, make_state(5), {})
        go_on.wait()
    assert available(tmp_path) == [3, 5]
    (notice,) = go_on.notices
    assert "step 4 could not be written" in notice and "step 3 is kept" in notice


def test_a_write_error_does_not_hide_what_ended_the_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "rename_into_place", refuse)
    with pytest.raises(KeyError), Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        raise KeyError("the run's own error")
    with pytest.raises(UserError, match="No space left"):  # noqa: SIM117
        with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
            checkpoints.save(1, make_state(1), {})


def test_no_folder_can_be_made_in_a_file(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="cannot make"):
        Checkpoints(tmp_path / "file", CheckpointConfig())
    assert available(tmp_path / "file") == []


def test_unjsonable_meta_is_the_callers_error_and_writes_nothing(tmp_path):
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints, pytest.raises(TypeError):
        checkpoints.save(1, make_state(1), {"loss": np.float32(1)})
    assert available(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("every_steps", -1), ("every_minutes", float("nan")), ("keep_last", 0), ("on_full_disk", "x")],
)
def test_a_bad_setting_is_named_with_its_value(field, value):
    with pytest.raises(UserError, match=f"checkpoint.{field}={value!r}"):
        CheckpointConfig(**{field: value})


def test_orbax_says_nothing(tmp_path, caplog, capfd):
    with caplog.at_level(logging.DEBUG, logger="absl"):
        write(tmp_path, 1)
        store.restore(tmp_path, "last", ABSTRACT)
    assert [r.getMessage() for r in caplog.records if r.name == "absl"] == []
    assert capfd.readouterr() == ("", "")


KILLED = """
    import os, random, sys, time, numpy as np
    from pathlib import Path
    import orbax.checkpoint  # once, for all the children
    from gptjax.checkpoints.store import Checkpoints
    from gptjax.config.schema import CheckpointConfig

    for run in range(8):
        workdir = Path(sys.argv[1]) / str(run)
        workdir.mkdir()
        begun, go = os.pipe()
        child = os.fork()
        if not child:
            checkpoints = Checkpoints(workdir, CheckpointConfig(keep_last=1))
            for step in range(1, 1000):
                tree = {str(i): np.full((200, 50), step, np.float32) for i in range(9)}
                checkpoints.save(step, {"params": tree, "rest": tree}, {"k": step}, best=step == 1)
                checkpoints.wait()
                os.write(go, b"%d\\n" % step)
        os.close(go)
        said = os.read(begun, 100)
        time.sleep(random.Random(run).uniform(0, 0.15))
        os.kill(child, 9)
        os.waitpid(child, 0)
        while more := os.read(begun, 100):
            said += more
        print(run, said.split()[-1].decode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its runs with fork")
def test_a_run_killed_while_saving_loses_nothing_that_was_complete(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr
    tree = {str(i): jax.ShapeDtypeStruct((200, 50), np.float32) for i in range(9)}
    unfinished = 0
    for line in result.stdout.splitlines():
        run, complete = line.split()
        workdir = tmp_path / run
        unfinished += any((workdir / "checkpoints").glob(directory.UNFINISHED + "*"))
        restored = store.restore(workdir, "last", {"params": tree, "rest": tree})
        # The one that was being written when the kill came may have been completed or not.
        assert restored.step - int(complete) in (0, 1)
        assert restored.notices == [] and restored.meta == {"k": restored.step}
        for leaf in jax.tree.leaves(restored.tree):
            np.testing.assert_array_equal(leaf, restored.step)
        assert best(workdir) == 1
        with Checkpoints(workdir, CheckpointConfig()):
            pass
        assert not any((workdir / "checkpoints").glob(directory.UNFINISHED + "*"))
    assert len(result.stdout.splitlines()) == 8
    assert unfinished > 0  # some were hit in the middle


SHARDED = """
    import sys, json, jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from pathlib import Path
    from gptjax.checkpoints import store
    from gptjax.config.schema import CheckpointConfig

    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    on = {"w": NamedSharding(mesh, P("fsdp", None)), "b": NamedSharding(mesh, P())}
    values = {"w": jnp.arange(24.0).reshape(6, 4), "b": jnp.arange(5)}
    state = {"params": jax.device_put(values, on), "rest": {}}
    with store.Checkpoints(Path(sys.argv[1]), CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state, {})
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), values, on)
    params = store.restore(Path(sys.argv[1]), 1, {"params": like, "rest": {}}).tree["params"]
    assert len(jax.devices()) == 8
    for name in values:
        assert params[name].sharding == on[name], params[name].sharding
        np.testing.assert_array_equal(params[name], values[name])
"""


def test_arrays_come_back_on_the_shardings_they_are_asked_for(tmp_path):
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED), str(tmp_path)],
        check=True,
        timeout=120,
        env={**os.environ, **flags, "PYTHONPATH": str(ROOT)},
    )
    # One device can read what eight have written.
    like = {
        "w": jax.ShapeDtypeStruct((6, 4), np.float32),
        "b": jax.ShapeDtypeStruct((5,), np.int32),
    }
    tree = store.restore(tmp_path, "last", {"params": like}, only_params=True).tree
    np.testing.assert_array_equal(tree["params"]["w"], np.arange(24.0).reshape(6, 4))
