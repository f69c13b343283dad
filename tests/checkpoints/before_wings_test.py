"""Runs saved before the package had wings open, sample, score and continue as they did then.

before_wings.tar.xz holds a tiny run of every kind, stopped at step 14 of 23 by commit 8a78cfe, and
before_wings.json what that commit made of it: samples of each sampler and window, the loss of each
token of a text, and the rest of its training. The text is made by ``tiny_runs.write_text``.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from gptjax import evaluate
from gptjax.checkpoints.run import open_run
from gptjax.config.parse import from_dict
from gptjax.config.schema import to_dict
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal
from gptjax.runtime import fast_paths
from gptjax.training import experiment

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "before_wings.json").read_text(encoding="utf-8"))
KINDS = sorted(EXPECTED)
SAMPLERS = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "topk": {"top_k": 3},
    "topp": {"top_p": 0.8, "temperature": 1.2},
    "minp": {"min_p": 0.2},
    "rep": {"repetition_penalty": 1.5},
    "stop": {"stop": ["a"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs, and the text they were trained on, in the current folder."""
    folder = tmp_path_factory.mktemp("before_wings")
    with tarfile.open(HERE / "before_wings.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    tiny_runs.write_text(folder)
    (folder / "score.txt").write_text("abcab\nbada\ngabe\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the runs name their text relative to it
        yield folder


def test_there_is_a_run_of_every_kind():
    kinds = {"bigram", "bigram_embed", "ngram", "mlp", "head", "multihead", "ffwd", "gpt"}
    assert set(KINDS) == kinds | {"words", "word2vec"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "word2vec"])
def test_it_samples_and_scores_as_it_did(kind, folder):
    run, expected = open_run(folder / kind, "last"), EXPECTED[kind]
    assert run.step == expected["step"] == 14
    for window in ("exact", "refill"):
        for name, settings in SAMPLERS.items():
            made = run.generate(
                ["", "ab"], num_samples=2, seed=3, max_new_tokens=17, window=window, **settings
            )
            assert [sample.text for sample in made] == expected["samples"][f"{window} {name}"]
    scored = evaluate.of_text(run, "score.txt", True, Terminal())["per_token"]
    np.testing.assert_allclose([t["nats"] for t in scored], expected["nats"], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_continues_as_it_did(kind, folder, monkeypatch):
    expected, workdir = EXPECTED[kind], folder / kind
    config = to_dict(open_run(workdir, "last").config)
    # It was computed in plain float32, before there was a choice: an "auto" left alone is that.
    monkeypatch.setattr(fast_paths, "resolve", lambda config: config)
    summary = tiny_runs.fit(from_dict(config), workdir, monkeypatch)
    last = open_run(workdir, "last")  # all of train was measured then, and now a sample of it
    exp = experiment.of_run(last, workdir)
    summary["final_train_nats"] = exp.evaluator.exact_loss(last.params, exp.splits["train"])
    assert summary["best_step"] == expected["summary"]["best_step"]
    for name, value in expected["summary"].items():
        assert summary[name] == (pytest.approx(value, rel=1e-5) if "nats" in name else value)
    lines = [line for line in metrics.read(workdir / "metrics.jsonl") if line["step"] >= 14]
    assert len(lines) == len(expected["metrics"])
    for line, before in zip(lines, expected["metrics"], strict=True):
        text = line.pop("sample", None), before.pop("sample", None)
        assert text[0] == text[1] and line == pytest.approx(before, rel=1e-4)
