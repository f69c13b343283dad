"""What the tests of whole tiny runs share."""

import numpy as np
import pytest
import tiny_runs

from gptjax.training import experiment


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_runs.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """config -> (its folder, the outcome) of the run that nobody interrupted."""
    known = {}

    def get(config):
        key = repr(config)
        if key not in known:
            workdir = tmp_path_factory.mktemp("whole") / "run"
            with pytest.MonkeyPatch.context() as patch:
                tiny_runs.fit(config, workdir, patch)
            known[key] = workdir, tiny_runs.outcome(config, workdir)
        return known[key]

    return get


@pytest.fixture
def poison(monkeypatch):
    """A function that makes the loss of some training steps NaN."""
    real = experiment.get_batches

    def poison(*bad):
        def get(split, batch_size, seed, steps, **more):
            drawn = real(split, batch_size, seed, steps, **more)
            for i, step in enumerate(steps):
                if step in bad:
                    drawn.w[i, 0] = np.nan
            return drawn

        monkeypatch.setattr(experiment, "get_batches", get)

    return poison
