"""gptjax from Python: what the package shows of itself, and training by a call."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys

import pytest
import tiny_runs

import gptjax
from gptjax.checkpoints import run as runs
from gptjax.config import parse
from gptjax.runtime import preemption
from gptjax.training.trainer import Trainer

TINY = {"block_size": 6, "batch_size": 4, "eval_iters": 2, "steps": 4, "eval_every": 2}
TINY |= {"chunk_steps": 1, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_runs.write_text(tmp_path_factory.mktemp("text"))


def test_the_package_shows_its_api_alone_and_is_imported_without_jax():
    code = "import gptjax, sys; print(dir(gptjax), {'jax', 'flax', 'absl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{sorted(gptjax.__all__)} set()\n", done.stderr
    assert set(gptjax.__all__) == {"UserError", "__version__", "generate", "load", "show", "train"}
    for name in gptjax.__all__:
        assert getattr(gptjax, name)


def test_the_module_of_the_command_does_not_hide_the_function():
    module = importlib.import_module("gptjax.train")
    assert module.main and gptjax.train is not module and callable(gptjax.train)


def test_a_call_trains_prints_what_the_command_prints_and_returns_the_best(
    text, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run = gptjax.train("bigram", path=str(text), **TINY)
    said = capsys.readouterr().out
    assert said.startswith("bigram") and "everything is in runs/bigram" in said
    (verdict,) = [line for line in said.splitlines() if line.startswith("val ")][-1:]
    assert "train.steps" in verdict, "the file's band does not hold"
    figures = json.loads((tmp_path / "runs/bigram/summary.json").read_text(encoding="utf-8"))
    assert run.step == figures["best_step"] and run.val_nats == figures["best_val_nats"]
    assert run.config.model.block_size == 6 and run.config.train.steps == 4
    # What a run was trained with trains it on.
    on = gptjax.train(run.config, "runs/bigram", steps=6)
    assert "continuing at step 4" in capsys.readouterr().out and on.config.train.steps == 6
    assert gptjax.generate(on, "a", max_new_tokens=3)[0].prompt == "a"


def test_a_config_dict_is_taken_and_left_as_it_was(text, tmp_path):
    settings = parse.settings_of(tiny_runs.config(text))
    run = gptjax.train(settings, tmp_path / "run", steps=0, name="mine")
    assert (run.config.name, run.step) == ("mine", 0) and settings.train.steps == tiny_runs.STEPS
    assert run.config == dataclasses.replace(
        tiny_runs.config(text, train={"steps": 0}), name="mine"
    )


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_goes_on(kind, text, tmp_path, monkeypatch, capsys):
    take_in, handlers = Trainer._take_in, [signal.getsignal(k) for k in preemption.KINDS]

    def signalling(trainer, *args):
        take_in(trainer, *args)
        os.kill(os.getpid(), kind)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_in", signalling)
        end = KeyboardInterrupt if kind == signal.SIGINT else SystemExit
        with pytest.raises(end) as ended:
            gptjax.train("bigram", tmp_path / "run", path=str(text), **TINY)
        assert end is KeyboardInterrupt or ended.value.code == 75
    assert f"{kind.name} at step 1: saved; call it again to go on" in capsys.readouterr().out
    assert [signal.getsignal(k) for k in preemption.KINDS] == handlers
    assert runs.saved_config(tmp_path / "run").model.block_size == 6
    run = gptjax.train("bigram", tmp_path / "run", path=str(text), **TINY)
    assert "continuing at step 1" in capsys.readouterr().out and run.step > 0


def test_a_mistake_is_a_user_error_of_one_line(tmp_path):
    for config, more in [("gtp", {}), ("gpt:small", {"n_head": 3}), ("gpt:huge", {})]:
        with pytest.raises(gptjax.UserError) as error:
            gptjax.train(config, tmp_path / "run", **more)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
