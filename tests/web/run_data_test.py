"""What the page says of a run: thinned curves, lines to compare with, samples, unfinished runs."""

import base64
import json
import math

import numpy as np
import pytest
from tiny_runs import EVAL_EVERY, STEPS, config, fit, write_text

from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import open_run
from gptjax.evaluation.baselines import baselines
from gptjax.interpret import lessons
from gptjax.monitoring import metrics
from gptjax.web import context, lessons_data, run_data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished bigram run: its folder, the run, its context."""
    folder = tmp_path_factory.mktemp("run")
    fit(config(write_text(folder), "bigram"), folder / "run")
    run = open_run(folder / "run", "last")
    return folder / "run", run, context.of_run(run, folder / "run")


@pytest.mark.parametrize("n", [1, 3, 999, 1000, 1001, 1999, 54_321])
def test_thinning_keeps_ends_and_extremes(n):
    rng = np.random.default_rng(n)
    values = rng.normal(size=n).tolist()
    kept = run_data.thinned(values)
    assert kept == sorted(set(kept)) and kept[0] == 0 and kept[-1] == n - 1
    assert len(kept) == n if n <= run_data.MOST_POINTS else n / 60 < len(kept) <= 1000
    of_all, of_kept = np.array(values), np.array(values)[kept]
    assert of_kept.min() == of_all.min() and of_kept.max() == of_all.max()


def test_a_spike_between_two_steps_is_still_seen():
    values = [1.0] * 30_000
    values[17_003], values[17_004] = 9.0, -3.0
    assert {17_003, 17_004} <= set(run_data.thinned(values))


def test_a_curve_is_what_the_metrics_say_and_counts_what_is_left_out(trained):
    _, _, ctx = trained
    found = run_data.curve(ctx.records, "val_nats")
    expected = [(r["step"], r["val_nats"]) for r in ctx.records if "val_nats" in r]
    assert list(zip(found["x"], found["y"], strict=True)) == expected
    assert found["x"] == [0, EVAL_EVERY, 2 * EVAL_EVERY, 3 * EVAL_EVERY, STEPS]
    records = [{"step": 1, "grad_norm": None}, {"step": 2, "grad_norm": 0.5}, {"step": 3}]
    assert run_data.curve(records, "grad_norm") == {"x": [2], "y": [0.5], "of": 1, "missing": 1}


def test_the_lines_are_the_baselines_of_compare(trained):
    folder, run, ctx = trained
    found, V = run_data.lines(run, ctx), run.tokenizer.vocab_size
    blocks = baselines(ctx.splits, V)
    expected = {name: b.nats.sum() / b.count.sum() for name, b in blocks.items()}
    assert found["uniform"] == math.log(V)
    np.testing.assert_allclose(found["unigram"], expected["unigram"], rtol=1e-6)
    np.testing.assert_allclose(found["count_bigram"], expected["count bigram"], rtol=1e-6)
    assert found["count_bigram"] == runs.summary(folder)["count_bigram_val_nats"]
    assert found["uniform"] > found["unigram"] > found["count_bigram"]


def test_without_the_corpus_the_lines_that_are_known_stay(trained, monkeypatch):
    folder, run, ctx = trained
    alone = context.Context(folder, ctx.text, "val", summary=ctx.summary)
    found = run_data.lines(run, alone)
    assert found["unigram"] is None
    assert found["count_bigram"] == ctx.summary["count_bigram_val_nats"]
    assert run_data.lines(run, context.Context(folder, "", "val"))["count_bigram"] is None
    monkeypatch.setattr(run_data, "MOST_COUNTED", len(ctx.splits["train"].tokens) - 1)
    assert run_data.lines(run, ctx)["unigram"] is None


def test_the_facts_are_those_of_the_folder(trained):
    folder, run, ctx = trained
    found = run_data.run_facts(run, ctx)
    figures = runs.summary(folder)
    assert found["summary"]["verdict"] == figures["verdict"]
    by_name = {(x["split"], x["step"]): x for x in found["losses"]}
    assert by_name["val", STEPS]["nats"] == figures["final_val_nats"]
    assert by_name["val", STEPS]["error"] == figures["final_val_nats_error"]
    assert by_name["train", STEPS]["nats"] == figures["final_train_nats"]
    assert found["parameters"] == run.n_parameters and found["last_step"] == STEPS
    assert found["machine"]["versions"]["jax"] and found["first"]["step"] == 0
    assert json.loads(metrics.to_json(found)) == metrics.plain(found)


def test_a_run_that_is_not_finished_has_no_exact_losses(trained):
    folder, run, ctx = trained
    records = [r for r in ctx.records if r["step"] <= EVAL_EVERY]
    found = run_data.run_facts(run, context.Context(folder, "", "val", records=records))
    assert found["summary"] is None and found["losses"] == []
    assert found["last_step"] == EVAL_EVERY < found["training"]["steps"] == STEPS
    nothing = run_data.run_facts(run, context.Context(folder, "", "val"))
    assert nothing["first"] is None and nothing["machine"] == {}
    assert all(curve["x"] == [] for curve in nothing["curves"].values())


def test_the_samples_are_whole_and_evenly_spread(trained, monkeypatch):
    folder, run, ctx = trained
    written = [(r["step"], r["sample"]) for r in ctx.records if r.get("sample")]
    found = run_data.samples_facts(run, ctx)
    assert [(s["step"], s["sample"]) for s in found["each"]] == written and found["of"] == 5
    assert found["each"][0]["val_nats"] == ctx.records[0]["val_nats"]
    monkeypatch.setattr(run_data, "MOST_SAMPLES", 3 * len(written[0][1]))
    fewer = run_data.samples_facts(run, ctx)
    assert [s["step"] for s in fewer["each"]] == [0, 2 * EVAL_EVERY, STEPS] and fewer["of"] == 5
    assert run_data.samples_facts(run, context.Context(folder, "", "val")) is None


def test_of_a_large_vocabulary_the_likeliest_are_sent(trained, monkeypatch):
    _, run, ctx = trained
    whole = lessons_data.lessons_data(run, ctx)
    V = run.tokenizer.vocab_size
    assert whole["of"] == whole["tokens"]["shape"][0] == V and whole["rest"] < 1e-9
    monkeypatch.setattr(lessons_data, "MOST_WHOLE", V - 1)
    monkeypatch.setattr(lessons_data, "LARGEST", 3)
    few = lessons_data.lessons_data(run, ctx)
    logits = lessons.lesson(run, ctx.text).logits_V.astype(np.float64)
    p = np.sort(np.exp(logits) / np.exp(logits).sum())
    np.testing.assert_allclose(few["rest"], p[:-3].sum(), rtol=1e-6)
    sent = np.frombuffer(base64.b64decode(few["logits"]["base64"]), "<f4")
    np.testing.assert_array_equal(sent, np.sort(logits)[::-1][:3].astype(np.float32))
    assert few["noise"]["shape"] == [len(lessons.SEEDS), 3] and few["head"] is None


def test_the_first_estimate_is_the_earliest_of_val_and_batches(trained):
    folder, run, ctx = trained
    found = run_data.run_facts(run, ctx)["first"]
    assert found == {"step": 0, "nats": ctx.records[0]["val_nats"]}
    late = [{"step": 8, "val_nats": 2.0}, {"step": 4, "loss_nats": 3.0}, {"step": 2}]
    of_late = run_data.run_facts(run, context.Context(folder, "", "val", records=late))
    assert of_late["first"] == {"step": 4, "nats": 3.0}
