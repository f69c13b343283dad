"""What is not finite is named; any step after a kept checkpoint can be looked at again."""

import runpy
import sys

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from tiny_runs import fit

from gptjax.checkpoints import directory, pytree, run
from gptjax.config import schema
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.training import nonfinite, trainer


def test_the_first_bad_parameter_is_named():
    params = {"a": {"kernel": jnp.ones(2)}, "b": {"bias": jnp.array([1.0, jnp.inf])}, "c": jnp.nan}
    assert nonfinite.first_nonfinite(params) == "b/bias"
    assert nonfinite.first_nonfinite({"a": jnp.ones(3)}) == ""


def test_a_step_is_replayed_from_the_checkpoint_before_it(text, tmp_path, monkeypatch, poison):
    config = tiny_runs.config(text, "bigram_embed", train={"skip_nonfinite": 3})
    poison(11)
    fit(config, tmp_path, monkeypatch, stop_at=16)
    steps = directory.available(tmp_path)
    exp = tiny_runs.build_once(config)
    found = nonfinite.replay(exp, tmp_path, 11)
    assert found.from_step == max((s for s in steps if s <= 11), default=0)
    assert np.isnan(found.loss_nats)
    assert all(np.isfinite(array).all() for array in found.params.values())
    assert not any(np.isfinite(grad).all() for grad in found.grads.values())
    lines = list(nonfinite.lines(found))
    assert any("lm_head" in line for line in lines) and any("loss is not fin" in ln for ln in lines)
    fine = nonfinite.replay(exp, tmp_path, 12)
    assert np.isfinite(fine.loss_nats)
    assert all(np.isfinite(grad).all() for grad in fine.grads.values())
    assert directory.available(tmp_path) == steps


def test_a_replay_sees_the_very_parameters_that_the_run_had(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text, checkpoint={"every_steps": 1, "keep_last": 99})
    fit(config, tmp_path, monkeypatch)
    exp = tiny_runs.build_once(config)
    seen = {step: nonfinite.replay(exp, tmp_path, step) for step in (13, 20)}
    for step, found in seen.items():
        saved = pytree.on_host(run.open_run(tmp_path, step).params)
        chex.assert_trees_all_equal(found.params, saved)
    for slot in directory.slots(tmp_path):
        if slot.step != 10:
            directory.delete(slot)
    for step in (13, 20):
        found = nonfinite.replay(exp, tmp_path, step)
        assert found.from_step == 10
        chex.assert_trees_all_equal(found.params, seen[step].params)
        chex.assert_trees_all_equal(found.grads, seen[step].grads)


def test_a_replay_has_the_dropout_and_so_the_loss_and_the_norm_of_its_step(
    text, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    config = tiny_runs.config(text, "gpt", model={"dropout": 0.5})
    fit(config, tmp_path, monkeypatch)
    lines = {
        line["step"]: line for line in metrics.read(tmp_path / run.METRICS) if "grad_norm" in line
    }
    for step in (0, 9, 10):  # the first, and two that one checkpoint leads to
        found = nonfinite.replay(tiny_runs.build_once(config), tmp_path, step)
        norm = np.sqrt(sum(np.sum(np.square(grad)) for grad in found.grads.values()))
        logged = lines[step + 1]  # a line's step counts those that are done
        np.testing.assert_allclose(found.loss_nats, logged["loss_nats"], rtol=1e-5)
        np.testing.assert_allclose(norm, logged["grad_norm"], rtol=1e-4)


def test_a_step_is_replayed_from_the_sound_checkpoint_before_a_damaged_one(
    text, tmp_path, monkeypatch
):
    config = tiny_runs.config(text, checkpoint={"every_steps": 5, "keep_last": 9})
    fit(config, tmp_path, monkeypatch)
    exp = tiny_runs.build_once(config)
    sound = nonfinite.replay(exp, tmp_path, 12)
    assert sound.from_step == 10 and not sound.notes
    damaged = next(slot for slot in directory.slots(tmp_path) if slot.step == 10)
    (damaged.path / "manifest.json").write_bytes(b"")
    found = nonfinite.replay(exp, tmp_path, 12)
    assert found.from_step == 7 and "step 10 is damaged" in found.notes[0]
    chex.assert_trees_all_equal((found.params, found.grads), (sound.params, sound.grads))
    assert found.loss_nats == sound.loss_nats


def test_a_step_after_the_last_checkpoint_is_replayed_with_a_word_about_it(
    text, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    last = directory.last(tmp_path)
    found = nonfinite.replay(tiny_runs.build_once(config), tmp_path, 20)
    assert f"the last checkpoint is of step {last}" in found.notes[0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # runpy's, where train is imported
def test_the_flag_prints_the_table(text, tmp_path, monkeypatch, capsys):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    capsys.readouterr()
    fields = schema.fields(config)
    flags = [f"--config.{field.path}={field.value}" for field in fields if field.path != "expected"]
    argv = ["train", "--config=gpt:small", f"--workdir={tmp_path}", "--replay_step=8", *flags]
    monkeypatch.setattr(sys, "argv", [*argv, "--nocompilation_cache"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("gptjax.train", run_name="__main__", alter_sys=True)
    out = capsys.readouterr().out
    assert end.value.code == 0, out
    assert "step 8, from step 7: loss" in out and "token_embedding_table" in out
    assert "the loss is finite" in out


def test_the_table_has_the_norms_of_what_is_finite_and_counts_the_rest():
    params = {"a/kernel": np.array([[3.0, 4.0], [0.0, 0.0]]), "b": np.array([np.nan, 2.0])}
    grads = {"a/kernel": np.array([[np.inf, 0.5], [0, -np.inf]]), "b": np.zeros(2)}
    found = nonfinite.Replay(1234, 1200, np.nan, params, grads, ["ab\n"], ["a note"])
    note, head, _, *rows, verdict, text = nonfinite.lines(found)
    assert (note, text) == ("a note", r"  read 'ab\n'")
    assert head == "step 1,234, from step 1,200: loss nan nats"
    assert [row.split() for row in rows] == [
        ["a/kernel", "5", "0.5", "0", "(2)", "of", "4"],
        ["b", "2", "0", "1", "(0)", "of", "2"],
    ]
    assert verdict.startswith("the loss is not finite; of 2 parameters 1 and of their gradients 1")


def test_what_stopped_a_step_is_told_with_whether_its_state_is_good(text, poison):
    exp = tiny_runs.build_once(tiny_runs.config(text, "bigram_embed"))
    state = exp.init_state()
    what, good = nonfinite.judge(exp, state, float("inf"))
    assert (what, good) == ("the gradients are finite", True)
    assert nonfinite.judge(exp, state, 2.0) == ("the norm overflows", True)
    poison(0)
    what, good = nonfinite.judge(exp, state, float("nan"))
    assert what == "the gradient of lm_head/bias is not finite" and good
    bad = state.params | {"lm_head": {"bias": np.full(8, np.nan), "kernel": np.zeros((6, 8))}}
    what, good = nonfinite.judge(exp, state.replace(params=bad), float("nan"))
    assert what == "parameter lm_head/bias is not finite" and not good


def test_a_replay_that_cannot_be_is_refused_in_one_line(text, tmp_path, monkeypatch, poison):
    config = tiny_runs.config(text, train={"skip_nonfinite": 1})
    exp = tiny_runs.build_once(config)
    with pytest.raises(UserError, match=r"run holds no run: name the --workdir of the one to"):
        nonfinite.replay(exp, tmp_path / "run", 3)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    for step in (-1, 23):
        with pytest.raises(UserError, match=f"--replay_step={step} must be at least 0 and below"):
            nonfinite.replay(exp, tmp_path, step)
    poison(16, 18)
    with pytest.raises(UserError, match="step 18 is not finite and comes before 20") as error:
        nonfinite.replay(exp, tmp_path, 20)
    assert "--replay_step=18" in str(error.value) and "skip_nonfinite=10" in str(error.value)
    other = tiny_runs.build_once(tiny_runs.config(text, optim={"learning_rate": 0.5}))
    for step in (3, 15):
        with pytest.raises(UserError, match="other settings: .*optim.learning_rate: 0.02 -> 0.5"):
            nonfinite.replay(other, tmp_path, step)
