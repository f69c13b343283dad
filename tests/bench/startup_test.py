"""Beginnings are those of whole processes, a first step is done, and failures are said."""

import pytest

from gptjax.__main__ import COMMANDS
from gptjax.bench import startup
from gptjax.data import corpora


def test_every_beginning_is_measured(monkeypatch):
    def seconds_of(arguments):
        return 1.0 + len(arguments)

    steps = []

    def first_step(data, cache=None):
        steps.append(cache)
        assert (data / "shakespeare.txt").read_text() == "To be"
        return 8.0 if cache else 16.0

    monkeypatch.setattr(startup, "seconds_of", seconds_of)
    monkeypatch.setattr(startup, "first_step", first_step)
    monkeypatch.setattr(corpora, "known_text", lambda name, say: ("To be", "here"))
    found = {line["what"]: line["seconds"]["median"] for line in startup.measure(2)}
    assert found["import gptjax"] == 3 and found["train --help"] == 4
    assert {f"{name} --help" for name in COMMANDS} < set(found)  # of all that gptjax has
    assert found["first training step, empty caches"] == 16
    assert found["first training step, compiled before"] == 8
    assert steps[0] is None and steps[1] is not None


SMALL = """
from gptjax import config as gptjax_config

def get_config():
    config = gptjax_config.base()
    config.data.path = "{path}"
    config.model.update(kind="bigram", block_size=4)
    config.train.update(steps={steps}, eval_iters=1)
    config.sample.max_new_tokens = 0
    return config
"""


def test_a_first_step_is_waited_for_and_the_run_ended(monkeypatch, tmp_path):
    text, config = tmp_path / "text.txt", tmp_path / "small.py"
    config.write_text(SMALL.format(path=text, steps=10**9))
    monkeypatch.setattr(startup, "CONFIG", str(config))
    with pytest.raises(RuntimeError, match="text.txt"):  # it is not there: nothing is waited for
        startup.first_step(tmp_path)
    text.write_text("To be, or not to be\n" * 50)
    assert 0.1 < startup.first_step(tmp_path) < 600
    assert not list(tmp_path.glob("*/")), "the run's folder was not of its own"


def test_a_process_that_fails_says_why():
    assert startup.seconds_of(["-c", "import gptjax"]) > 0
    with pytest.raises(RuntimeError, match="no_such_module"):
        startup.seconds_of(["-m", "no_such_module"])
