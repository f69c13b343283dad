"""The first and the last page of a run: what is recorded, what is measured, what is said of it."""

import io
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import tiny_runs
from tiny_runs import fit

from gptjax.checkpoints import directory, run
from gptjax.monitoring import plots
from gptjax.monitoring.console import Terminal
from gptjax.training import summary, trainer
from gptjax.training.trainer import Trainer


@pytest.mark.parametrize(
    "nats, band, text, ok",
    [
        (1.79, (1.7, 1.9), "val 1.79: as expected, 1.70–1.90 nats per token", True),
        (1.7, (1.7, 1.9), "val 1.70: as expected, 1.70–1.90 nats per token", True),
        (2.31, (1.7, 1.9), "val 2.31: 0.41 above what is expected, 1.70–1.90 nats per", False),
        (1.904, (1.7, 1.9), "val 1.9040: 0.0040 above what is expected, 1.7000–1.9000", False),
        (1.61, (1.7, 1.9), "val 1.61: 0.09 better than expected, 1.70–1.90 nats per token", True),
        (2.455, (2.4519, 2.4619), "val 2.4550: as expected, 2.4519–2.4619 nats", True),
    ],
)
def test_verdict_against_the_band(nats, band, text, ok):
    said, good = summary.against_band(nats, band)
    assert said.startswith(text) and good is ok and "\n" not in said
    assert ("raise train.steps" in said) is (not ok)  # what to try


def verdict(text, val_nats, changed="", kind="gpt", band=None, steps=23, **more):
    """The verdict of a run on a text of one's own; ``band`` is for that text."""
    config = tiny_runs.config(text, kind, **more)
    exp = SimpleNamespace(config=config, corpus=SimpleNamespace(name=text.name))
    figures = {"final_val_nats": val_nats, "count_bigram_val_nats": 2.0, "steps": steps}
    said, ok = summary.verdict(exp, figures, band, changed)
    assert "\n" not in said and "(" not in said  # one plain sentence
    return said, ok


TRY = "raise train.steps if the curve still falls, else try another optim.learning_rate"
BELOW, ABOVE = "0.2500 below the count bigram's 2.0000", "0.2500 above the count bigram's 2.0000"


def test_without_a_band_the_verdict_compares_with_the_count_bigram_and_says_why(text):
    no_band = f"no config says what to expect of {text.name}"
    assert verdict(text, 1.75) == (f"val 1.7500 nats per token, {BELOW}; {no_band}", None)
    assert verdict(text, 2.25) == (f"val 2.2500 nats per token, {ABOVE}; {no_band}: {TRY}", None)
    # On a text of one's own that is the reason, whatever else was changed.
    assert verdict(text, 1.75, "train.steps") == verdict(text, 1.75)
    assert verdict(text, 2.25, steps=0)[0].endswith(no_band)  # nothing was trained: no advice


def test_changed_settings_are_named_with_the_band_that_need_not_hold(text):
    said, ok = verdict(text, 1.75, "train.steps, optim.eps", band=(1.5, 1.6))
    why = "with train.steps, optim.eps changed, the config's 1.50–1.60 need not hold"
    assert (said, ok) == (f"val 1.7500 nats per token, {BELOW}; {why}", None)
    assert verdict(text, 1.55, band=(1.5, 1.6))[1] is True


@pytest.mark.parametrize("kind", ["bigram", "bigram_embed"])
def test_a_bigram_is_expected_to_end_near_its_counts(text, kind):
    near = "0.0016 above the count bigram's 2.0000"
    said, ok = verdict(text, 2.0016, "train.steps", kind, (2.5, 2.6))
    assert ok and said == (
        f"val 2.0016 nats per token, {near}: as expected, it is about the best that pairs can do"
    )
    said, ok = verdict(text, 2.25, kind=kind)
    assert ok is None and said.endswith(f"{ABOVE}, which a table of pairs can reach: {TRY}")
    said, ok = verdict(text, 2.0016, kind=kind, band=(1.99, 2.02))
    assert ok and said.startswith("val 2.00: as expected, 1.99–2.02 nats per token; 0.0016 above")
    assert verdict(text, 2.0, kind="ngram", steps=0)[0].startswith(
        "val 2.0000 nats per token, equal to the count bigram's 2.0000"
    )


def test_a_loss_that_is_none_or_of_neighbours_is_not_compared(text):
    for nats in (math.nan, math.inf):
        said, ok = verdict(text, nats, band=(1.7, 1.9))
        assert said.startswith(f"val {nats}: the training diverged") and ok is False
    words = {"tokenizer": {"kind": "word"}, "train": {"neighbours": 2}}
    said, ok = verdict(text, 7.0, kind="bigram_embed", **words)
    assert "look near" in said and ok is None and "bigram" not in said


def took(**figures):
    return summary._took(
        {"steps": 3000, "train_seconds": 140.0, "tokens_per_second": 22_590.0} | figures
    )


def test_steps_tokens_and_seconds_of_one_line_agree():
    said = took(compile_seconds=4.0, evaluation_seconds=38.2)
    assert said == (
        "trained 3,000 steps in 2 min 16 s (22,590 tokens/s), after 4.0 s of compiling; "
        "evaluations and samples 38 s"
    )
    assert round(3000 * 1024 / 136, -1) == 22_590
    assert took() == "trained 3,000 steps in 2 min 20 s, with compiling"  # an older summary
    assert took(steps=1, compile_seconds=None) == "trained 1 step in 2 min 20 s, with compiling"
    assert took(steps=0) == "no steps, nothing was trained"


def test_the_lines_of_the_last_page_and_the_labels_of_the_picture_agree(
    text, tmp_path, monkeypatch
):
    config, drawn = tiny_runs.config(text, "gpt"), []
    monkeypatch.setattr(plots, "loss_curves", lambda *given: drawn.append(given) or "")
    stream = io.StringIO()
    with Terminal(stream, live=False) as terminal:
        figures = trainer.fit(config, tmp_path, terminal)
    said = stream.getvalue()
    train, val, error = (
        figures[f"final_{name}"] for name in ("train_nats", "val_nats", "val_nats_error")
    )
    n = figures["final_train_tokens"]
    assert f"train {train:.4f} over {n} evenly spread, val {val:.4f} ± {error:.4f} by" in said
    exact = {curve.label: dict(curve.exact) for curve in drawn[0][1]}
    assert exact["train"][tiny_runs.STEPS] == train and exact["val"][tiny_runs.STEPS] == val
    assert exact["val"][figures["best_step"]] == figures["best_val_nats"]
    assert not exact["batches"]
    # Speed: tokens of all steps over the seconds that are said.
    seconds = figures["train_seconds"] - figures["compile_seconds"]
    tokens = tiny_runs.STEPS * 4 * 6  # of 4 rows of 6
    assert figures["tokens_per_second"] * seconds == pytest.approx(tokens)
    assert 0 < figures["compile_seconds"] < figures["train_seconds"]
    assert figures["evaluation_seconds"] > 0


# ---- what is recorded and measured


def test_every_start_is_kept_in_run_json(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    for stop in (4, 12, None):
        fit(config, tmp_path, monkeypatch, stop_at=stop)
    starts = run.starts(tmp_path)
    assert [start["step"] > 0 for start in starts] == [False, True, True]
    for start in starts:
        assert {"versions", "git", "devices", "command", "started"} <= set(start)
    (tmp_path / run.RECORD).write_text("[[[", encoding="utf-8")
    fit(config, tmp_path, monkeypatch)
    assert [start["step"] for start in run.starts(tmp_path)] == [tiny_runs.STEPS]


def test_a_fresh_run_says_that_its_stream_looks_like_a_list(tmp_path, monkeypatch):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{n:b}\n" for n in range(100, 200)), encoding="utf-8")
    seen = []
    monkeypatch.setattr(Terminal, "note", lambda _, note: seen.append(note))
    advice = "names.txt looks like a list of items, one a line: data.kind=items learns them as such"
    config = tiny_runs.config(names, data={"kind": "auto"})
    for stop in (4, None):
        fit(config, tmp_path / "run", monkeypatch, stop_at=stop)
        assert seen.count(advice) == (stop is not None)  # a run that goes on is what it is
        seen.clear()
    fit(tiny_runs.config(names, data={"kind": "items"}), tmp_path / "items", monkeypatch)
    assert advice not in seen


def test_tensorboard_files_are_told_and_can_be_left_out(text, whole, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    seen = []
    monkeypatch.setattr(Terminal, "note", lambda _, note: seen.append(note))
    config, folder = tiny_runs.config(text), tmp_path / "tensorboard"
    fit(config, tmp_path, monkeypatch, stop_at=9)
    line = f"TensorBoard files: {folder} (train.tensorboard=false leaves them out)"
    assert seen.count(line) == 1
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 1
    without = tiny_runs.config(text, train={"tensorboard": False})
    fit(without, tmp_path, monkeypatch)  # it changes no number, so the run goes on
    assert seen.count(line) == 1 and [path.name for path in folder.iterdir()] == names
    assert tiny_runs.outcome(without, tmp_path) == whole(config)[1]
    fit(config, tmp_path, monkeypatch)  # there is nothing left to do
    assert [path.name for path in folder.iterdir()] == names


def test_a_best_that_is_gone_at_the_end_lends_no_other_its_loss(
    text, whole, tmp_path, monkeypatch, capsys
):
    config = tiny_runs.config(text, checkpoint={"keep_last": 9})
    fit(config, tmp_path, monkeypatch)
    real = Trainer._evaluate

    def better_before(self):
        real(self)
        self.progress.best_step, self.progress.best_val_nats = 14, -1.0
        for slot in directory.slots(tmp_path):
            if slot.step == 14:
                directory.delete(slot)

    more = tiny_runs.config(text, checkpoint={"keep_last": 9}, train={"steps": 24})
    monkeypatch.setattr(Trainer, "_evaluate", better_before)
    figures = fit(more, tmp_path, monkeypatch)
    assert "the best checkpoint, of step 14, is not there any more" in capsys.readouterr().err
    assert figures["best_step"] != 14
    params = run.open_run(tmp_path, figures["best_step"]).params
    exp = tiny_runs.build_once(more)
    exact = exp.evaluator.exact_loss(params, exp.splits["val"])
    assert figures["best_val_nats"] == pytest.approx(exact, rel=1e-6)


def test_a_best_that_is_damaged_at_the_end_does_not_cost_the_summary(
    text, whole, tmp_path, monkeypatch
):
    rates = {"learning_rate": 0.6, "schedule": "constant"}
    config = tiny_runs.config(text, optim=rates, train={"steps": 61})
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    best = next(slot for slot in directory.slots(workdir) if slot.best)
    (best.path / "params" / "manifest.ocdbt").unlink()
    (workdir / run.SUMMARY).unlink()
    figures = fit(config, workdir, monkeypatch)
    assert figures["best_step"] == figures["steps"] == 61
    assert json.loads((workdir / run.SUMMARY).read_text(encoding="utf-8")) == figures


def test_of_a_large_val_evenly_spread_rows_are_measured_and_this_is_said(
    text, tmp_path, monkeypatch
):
    monkeypatch.setattr(summary, "MOST_MEASURED", 40)  # val has more
    config = tiny_runs.config(text)
    figures = fit(config, tmp_path, monkeypatch)
    exp = tiny_runs.build_once(config)
    val = exp.splits["val"]
    part = val.sample(40 // val.window)
    params = run.open_run(tmp_path, "last").params
    assert figures["final_val_nats"] == pytest.approx(exp.evaluator.exact_loss(params, part))
    assert 0 < figures["final_val_tokens"] == part.n_predicted < val.n_predicted
    assert figures["final_train_tokens"] <= part.n_predicted + val.window
    said = io.StringIO()
    summary.last_page(exp, tmp_path, Terminal(said, live=False), figures)
    assert said.getvalue().count(" evenly spread") == 2
