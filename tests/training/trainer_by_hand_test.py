"""The figures of a run, computed a second time in plain numpy: a table of pairs learns by AdamW.

Nothing of the package computes what is expected here; only the table that a run begins with is its.
"""

import inspect
import json
import math

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import fit

from gptjax.checkpoints import run
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal

STEPS, B, WINDOW, RATE, WARMUP = 23, 4, 6, 0.02, 3  # of tiny_runs.config
SEED = 2024  # not the default
EVALUATED = [0, 7, 14, 21, 23]
TRAIN, EVAL = 0, {"train": 1, "val": 2}  # whose draws: the middle of Philox's key


def rate(step):
    """A linear rise over 3 steps, then half a cosine to a tenth."""
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    fraction = (step - WARMUP) / (STEPS - WARMUP)
    return RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * fraction)) / 2)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class Text:
    """A text's two splits as rows of ids; an item is a row, from the line's end before it."""

    def __init__(self, text, items):
        self.chars = sorted(set(text))
        lines = list(dict.fromkeys(text.split()))
        order = np.argsort(np.random.Philox(SEED).random_raw(len(lines)), kind="stable")
        lines, held = [lines[i] for i in order], len(lines) // 10
        cut = {"train": lines[: -2 * held], "val": lines[-2 * held : -held]}
        at = int(0.9 * len(text))
        self.rows = {name: [self.ids(f"\n{line}\n") for line in part] for name, part in cut.items()}
        self.streams = None if items else {"train": self.ids(text[:at]), "val": self.ids(text[at:])}

    def ids(self, text):
        return np.array([self.chars.index(char) for char in text])

    def batch(self, split, purpose, step):
        """The pairs (x, y) of the rows that (seed, purpose, step) draw."""
        bits = np.random.Philox(key=[SEED, purpose], counter=[0, 0, 0, step])
        rows = self.rows[split]
        room = len(rows) if self.streams is None else len(self.streams[split]) - WINDOW
        drawn = np.random.Generator(bits).integers(0, room, B)
        if self.streams:
            rows = [self.streams[split][i : i + WINDOW + 1] for i in drawn]
        else:
            rows = [rows[i] for i in drawn]
        return self.pairs(rows)

    def whole(self, split):
        """The pairs of a whole split, each once."""
        return self.pairs(self.cut(split))

    def part_of_train(self):
        """The pairs of evenly spread rows of train, as many as val has."""
        rows, n = self.cut("train"), len(self.cut("val"))
        assert n < len(rows)
        return self.pairs([rows[i * len(rows) // n] for i in range(n)])

    def cut(self, split):
        """A split as rows, each with the token before its first prediction."""
        if not self.streams:
            return self.rows[split]
        ids = self.streams[split]
        return [ids[i : i + WINDOW + 1] for i in range(0, len(ids) - 1, WINDOW)]

    def pairs(self, rows):
        return np.concatenate([row[:-1] for row in rows]), np.concatenate([row[1:] for row in rows])

    def sample(self, table, step):
        """9 tokens drawn after a line's end; of items ten rows, each up to its end."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), 2), step)
        rows = []
        for j in range(1 if self.streams else 10):
            row_key = jax.random.fold_in(jax.random.fold_in(key, 0), j)
            ids = [self.chars.index("\n")]
            for t in range(1, 10):
                logits = table[ids[-1]].astype(np.float32)
                ids.append(int(jax.random.categorical(jax.random.fold_in(row_key, t), logits)))
            text = "".join(self.chars[i] for i in ids[1:])
            rows.append(text if self.streams else text.split("\n")[0])
        return "\n".join(rows)


def loss_and_gradient(table, x, y):
    log_p = log_softmax(table)
    gradient = np.zeros_like(table)
    np.add.at(gradient, x, np.exp(log_p[x]))
    np.add.at(gradient, (x, y), -1.0)
    return -log_p[x, y].mean(), gradient / len(x)


def learn(table, text):
    """A run of 23 steps in float64: its lines, every step's loss, and the table at the end."""
    lines, losses, seen, m, v = [], [], [], 0.0, 0.0
    for step in range(STEPS + 1):
        if step and step % 10 == 0:
            loss, norm = np.mean(seen, axis=0)
            line = {"step": step, "loss_nats": loss, "grad_norm": norm}
            lines.append(line | {"learning_rate": rate(step - 1), "skipped": 0})
            seen = []
        if step in EVALUATED:
            line = {"step": step}
            for split, purpose in EVAL.items():
                means = [loss_and_gradient(table, *text.batch(split, purpose, k)) for k in (0, 1)]
                line[f"{split}_nats"] = np.mean([loss for loss, _ in means])
            lines.append(line | {"sample": text.sample(table, step)})
        if step < STEPS:
            loss, gradient = loss_and_gradient(table, *text.batch("train", TRAIN, step))
            norm = np.sqrt((gradient**2).sum())
            losses.append(loss)
            seen.append((loss, norm))
            gradient = gradient / max(1.0, norm)  # the notes' clipping, at 1
            m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
            m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.99 ** (step + 1))
            direction = m_hat / (np.sqrt(v_hat) + 1e-8) + 0.01 * table
            table = table - rate(step) * direction
    return lines, losses, table


@pytest.fixture
def shown(monkeypatch):
    """What the terminal is told, by the method that is: the arguments of each call."""
    told = {"header": [], "evaluation": [], "progress": []}
    for name, calls in told.items():
        take = inspect.signature(getattr(Terminal, name))

        def call(*args, calls=calls, take=take, **said):
            calls.append(take.bind(*args, **said).arguments)

        monkeypatch.setattr(Terminal, name, call)
    return told


@pytest.mark.parametrize("kind, accumulate", [("stream", 1), ("items", 2)])
def test_every_line_and_figure_of_a_run_is_what_numpy_computes(
    kind, accumulate, text, tmp_path, monkeypatch, shown
):
    config = tiny_runs.config(
        text, data={"kind": kind}, train={"accumulate": accumulate}, checkpoint={"keep_last": 9}
    )
    config = tiny_runs.from_dict(tiny_runs.to_dict(config) | {"seed": SEED})
    figures = fit(config, tmp_path, monkeypatch)
    corpus = Text(text.read_text(encoding="utf-8"), kind == "items")

    def saved(step):
        params = run.open_run(tmp_path, step).params
        return np.asarray(params["token_embedding_table"]["embedding"], np.float64)

    expected, losses, table = learn(saved(0), corpus)
    np.testing.assert_allclose(saved(STEPS), table, atol=2e-5)
    found = metrics.read(tmp_path / run.METRICS)
    assert [list(line) for line in found] == [list(line) for line in expected]
    samples = [line["sample"] for line in expected if "sample" in line]
    assert len(set(samples)) == len(EVALUATED)
    for ours, theirs in zip(expected, found, strict=True):
        assert theirs.pop("sample", "") == ours.pop("sample", "")
        np.testing.assert_allclose(list(theirs.values()), list(ours.values()), rtol=2e-5)

    tokens_per_step = B * WINDOW
    if kind == "items":  # a row is a whole one: the mean
        tokens_per_step = B * np.mean([len(row) - 1 for row in corpus.rows["train"]])
    whole = {split: corpus.whole(split) for split in EVAL}
    measured = {"train": corpus.part_of_train(), "val": whole["val"]}
    for split, pairs in measured.items():
        exact = loss_and_gradient(table, *pairs)[0]
        np.testing.assert_allclose(figures[f"final_{split}_nats"], exact, rtol=2e-5)
    assert figures["final_train_tokens"] == len(measured["train"][0])
    evaluations = [line for line in expected if "val_nats" in line]
    best = min(evaluations, key=lambda line: line["val_nats"])["step"]
    assert (figures["best_step"], figures["steps"], figures["params"]) == (best, STEPS, table.size)
    best_val = loss_and_gradient(saved(best), *whole["val"])[0]
    np.testing.assert_allclose(figures["best_val_nats"], best_val, rtol=2e-5)
    counts = np.ones_like(table)
    np.add.at(counts, whole["train"], 1)
    for split, (x, y) in whole.items():
        nats = -np.log(counts[x, y] / counts[x].sum(axis=1)).mean()
        np.testing.assert_allclose(figures[f"count_bigram_{split}_nats"], nats, rtol=1e-9)
    assert json.loads((tmp_path / run.SUMMARY).read_text(encoding="utf-8")) == figures

    # And what was shown on the way.
    assert f"{figures['count_bigram_val_nats']:.4f}" in shown["header"][0]["lines"]["baseline"]
    least = np.minimum.accumulate([line["val_nats"] for line in evaluations])
    for line, low, said in zip(evaluations, least, shown["evaluation"], strict=True):
        assert said["step"] == line["step"] and said["best"] == (line["val_nats"] == low)
        assert said["bigram_nats"] == figures["count_bigram_val_nats"]
        found = [said["train_nats"], said["val_nats"]]
        np.testing.assert_allclose(found, [line["train_nats"], line["val_nats"]], rtol=2e-5)
    ends = [1] + [said["step"] for said in shown["progress"]]  # the first chunk is the first step
    for begin, end, said in zip(ends, ends[1:], shown["progress"], strict=False):
        np.testing.assert_allclose(said["loss_nats"], np.mean(losses[begin:end]), rtol=2e-5)
        steps_left = said["seconds_left"] * said["tokens_per_second"] / tokens_per_step
        assert steps_left == pytest.approx(STEPS - end) and said["steps"] == STEPS
    assert ends[-1] == STEPS
