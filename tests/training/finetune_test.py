"""A run that begins with another: what it takes from it, what it says of both, how it goes on."""

import copy
import functools
import json
import random
import shutil

import chex
import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import fit

from gptjax.checkpoints import directory, pytree, run, start
from gptjax.config.schema import to_dict
from gptjax.errors import UserError
from gptjax.models import lora
from gptjax.monitoring import metrics
from gptjax.training import experiment, nonfinite, trainer

KINDS = ("bigram", "mlp", "gpt")
NAMED = {"train": {"trainable": "lm_head,blocks_0/ffwd"}}
LORA = {"model": {"lora_rank": 2, "lora_targets": "query,fc", "lora_alpha": 3.0}}


@pytest.fixture(scope="module")
def bases(text, tmp_path_factory):
    """kind -> the folder of a finished run that others begin with."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            folders[kind] = tmp_path_factory.mktemp("base") / kind
            fit(tiny_runs.config(text, kind), folders[kind], patch)
    return folders


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another text, of the same letters: eight hundred of them."""
    draw, path = random.Random(8), tmp_path_factory.mktemp("other") / "other.txt"
    words = ["".join(draw.choices("gfedcba", k=draw.randint(1, 4))) for _ in range(300)]
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def tuned(text, base, kind="gpt", **changes):
    """A config of 11 steps that begins with a run."""
    train = {"steps": 11, "eval_every": 4, "init_from": str(base)} | changes.pop("train", {})
    return tiny_runs.config(text, kind, train=train, **changes)


@functools.cache
def _built(config, tok):
    return tiny_runs.real_build(tiny_runs.from_dict(json.loads(config)), tok)


def build_once(config, tok=None, say=None, start=None, told=None):
    """``experiment.build`` that compiles once for all runs that differ in their beginning alone."""
    values = to_dict(config)
    values["train"] |= {"init_from": ""}
    exp = copy.copy(_built(json.dumps(values, sort_keys=True), tok))
    for name, value in (("config", config), ("start", start)):
        object.__setattr__(exp, name, value)
    return exp


def tune(config, workdir, monkeypatch, explicit=(), stop_at=None):
    """``tiny_runs.fit``, but each start builds its own, with what it begins with."""
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "fit", functools.partial(trainer.fit, explicit=explicit))
        patch.setattr(tiny_runs, "build_once", build_once)
        return fit(config, workdir, patch, stop_at=stop_at)


def saved(workdir, which="last"):
    """All arrays of a checkpoint, by name, as they were written."""
    found = {}
    found_there = run.understand(workdir, run.store.read_meta(workdir, which)[1])
    like = build_once(found_there.config, found_there.tokenizer).abstract_state
    abstract = {"params": like.params, "rest": like.replace(params=None)}
    tree = run.store.restore(workdir, which, abstract).tree
    for part, leaves in tree.items():
        found |= {f"{part}/{name}": np.asarray(leaf) for name, leaf in pytree.flat(leaves).items()}
    return found


def outcome(workdir):
    """What two equal runs have in common."""
    figures = json.loads((workdir / run.SUMMARY).read_text(encoding="utf-8"))
    figures = {name: value for name, value in figures.items() if name not in tiny_runs.TIMES}
    arrays = {name: array.tobytes() for name, array in saved(workdir).items()}
    return (workdir / run.METRICS).read_bytes(), figures, arrays


# ---- the beginning ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_with_the_best_parameters_of_the_run_and_a_fresh_optimizer(kind, bases, other):
    base = run.open_run(bases[kind])
    config = tuned(other, bases[kind], kind, optim={"learning_rate": 0.003})
    exp = experiment.build_to_train(config, "nowhere")
    state = exp.init_state()
    chex.assert_trees_all_equal(state.params, base.params)
    assert int(state.step) == 0 and not any(map(np.any, jax.tree.leaves(state.opt_state)))
    assert exp.tokenizer == base.tokenizer and exp.corpus.name == "other.txt"
    assert exp.config.optim.learning_rate == 0.003 and exp.config.train.steps == 11
    fresh = experiment.build(config).init_state().params
    assert not np.allclose(*(jax.tree.leaves(p)[-1] for p in (fresh, base.params)))


def test_its_sizes_are_the_runs_and_what_is_computed_anew_is_the_configs(bases, other):
    how = {"dropout": 0.4, "attention": "plain"}
    config = tuned(other, bases["gpt"], model={"n_layer": 3, "n_embd": 8, "block_size": 9, **how})
    exp = experiment.build_to_train(config, "nowhere")
    theirs = run.open_run(bases["gpt"]).config.model
    sizes = ("n_layer", "n_head", "n_embd", "block_size")
    assert all(getattr(exp.config.model, name) == getattr(theirs, name) for name in sizes)
    assert (exp.model.dropout, exp.config.model.attention) == (0.4, "plain")
    (note,) = exp.start.notes
    assert "model.n_layer=1 (3)" in note and "model.n_embd=6 (8)" in note and "dropout" not in note


@pytest.mark.parametrize(
    "kind, values, line",
    [
        ("gpt", {"n_layer": 3}, r"model.n_layer=3, and it has 1: leave it out$"),
        ("gpt", {"block_size": 7}, r"block_size=7, and it has 6.* shorter, never longer"),
        ("mlp", {"block_size": 2}, r"model.block_size=2, and it has 3"),
        ("gpt", {"kind": "head"}, r"model.kind='head', and it has 'gpt'"),
        ("gpt", {"n_embd": 6, "activation": "gelu"}, r"asked for: model.activation='gelu', and it"),
    ],
)
def test_a_size_that_was_set_and_does_not_fit_is_refused_with_both_values(
    kind, values, line, bases, other, tmp_path, monkeypatch
):
    config = tuned(other, bases[kind], kind, model=values)
    with pytest.raises(UserError, match=line):
        tune(config, tmp_path / "run", monkeypatch, [f"model.{name}" for name in values])
    assert not (tmp_path / "run").exists()


def test_a_block_may_be_shorter_and_the_model_is_then_the_same(bases, other):
    config = tuned(other, bases["gpt"], model={"block_size": 4})
    exp = experiment.build_to_train(config, "nowhere", ["model.block_size"])
    params, base = exp.init_state().params, run.open_run(bases["gpt"])
    assert params["position_embedding_table"]["embedding"].shape == (4, 6)
    x = np.array([[3, 1, 4, 1]])
    ours = exp.model.apply({"params": params}, x)
    np.testing.assert_allclose(ours, base.model.apply({"params": base.params}, x), atol=1e-6)


def test_a_run_that_is_not_there_or_cannot_learn_is_refused(bases, text, tmp_path, monkeypatch):
    counted = tmp_path / "counted"
    fit(tiny_runs.config(text, "ngram"), counted, monkeypatch)
    for folder, line in (
        (tmp_path / "nothing", "there is no such folder"),
        (tmp_path / "new", "the folder to train in"),
        (counted, "an ngram counts"),
        ("gpt2-xl", "gptjax.convert makes a run of a Hugging Face folder"),
        ("resume", "training goes on by itself"),
    ):
        with pytest.raises(UserError, match=line):
            (tmp_path / "new").mkdir(exist_ok=True)
            tune(tuned(text, folder), tmp_path / "new", monkeypatch)
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(UserError, match="model.lora_rank=2 .* --init_from"):
        tune(tiny_runs.config(text, "gpt", **LORA), tmp_path / "new", monkeypatch)


def test_a_character_that_the_run_does_not_know_names_the_run(bases, tmp_path):
    odd = tmp_path / "odd.txt"
    odd.write_text("abcdefg\n" * 60 + "é" * 20, encoding="utf-8")
    with pytest.raises(UserError, match=f"'é'.*the tokenizer is that of {bases['gpt']}"):
        experiment.build_to_train(tuned(odd, bases["gpt"]), tmp_path / "run")


# ---- the run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, LORA | NAMED], ids=["all", "lora and named"])
def test_stopped_anywhere_it_goes_on_to_the_same_bits_without_the_run_it_began_with(
    changes, bases, other, tmp_path, monkeypatch
):
    base, copy = bases["gpt"], tmp_path / "base"
    changes = {part: dict(values) for part, values in changes.items()}
    shutil.copytree(base, copy)
    config = tuned(other, copy, **changes)
    tune(config, tmp_path / "whole", monkeypatch)
    tune(config, tmp_path / "run", monkeypatch, stop_at=3)
    shutil.rmtree(copy)
    tune(config, tmp_path / "run", monkeypatch, stop_at=7)
    assert run.saved_config(str(tmp_path / "run")).train.init_from == str(copy)
    tune(run.saved_config(str(tmp_path / "run")), tmp_path / "run", monkeypatch)
    (lines, figures, arrays), expected = (outcome(tmp_path / name) for name in ("run", "whole"))
    assert lines == expected[0] and arrays == expected[2]
    # The text of the run that is gone is still where it was.
    assert figures == expected[1] and figures["start"]["after"]["old_val_nats"] is not None


@pytest.mark.parametrize("changes", [NAMED, LORA], ids=["named", "lora"])
def test_what_is_frozen_is_in_its_checkpoint_to_the_bit_and_opens_without_the_other_run(
    changes, bases, other, tmp_path, monkeypatch
):
    changes = {part: dict(values) for part, values in changes.items()}
    tune(tuned(other, bases["gpt"], **changes), tmp_path / "run", monkeypatch)
    base = pytree.flat(run.open_run(bases["gpt"]).params)
    found = saved(tmp_path / "run")
    moved = {n for n, leaf in base.items() if not np.array_equal(found[f"params/{n}"], leaf)}
    opened = run.open_run(tmp_path / "run", "last")
    now = pytree.flat(opened.params)
    assert list(now) == list(base) and opened.n_parameters == sum(a.size for a in base.values())
    differ = {name for name, leaf in now.items() if not np.array_equal(leaf, base[name])}
    if "model" in changes:
        assert moved == set() and len(differ) == 2
        assert {name.split("/")[-2] for name in differ} == {"query", "fc"}
        exp = experiment.build(opened.config, opened.tokenizer)
        assert set(exp.abstract_state.params) - set(opened.params) == {lora.NAME}
    else:
        assert moved == differ and len(differ) == 6
        assert {name.split("/")[0] for name in differ} == {"lm_head", "blocks_0"}
    moments = {name for name in found if "/mu/" in name or "/nu/" in name}
    learns = differ if "train" in changes else {n for n in found if n.startswith("params/lora/")}
    assert len(moments) == 2 * len(learns), "the optimizer has no memory of what is frozen"
    # What is written and scored is what was trained.
    figures = json.loads((tmp_path / "run" / run.SUMMARY).read_text(encoding="utf-8"))
    again = experiment.of_run(opened, tmp_path / "run")
    exact = again.evaluator.exact_loss(opened.params, again.splits["val"])
    assert exact == pytest.approx(figures["final_val_nats"], abs=1e-6)
    assert figures["params"] == opened.n_parameters and opened.start["folder"] == str(bases["gpt"])


def test_what_was_learnt_and_what_forgotten_is_measured_before_and_after(
    bases, text, other, tmp_path, monkeypatch
):
    config = tuned(other, bases["gpt"], optim={"learning_rate": 0.05})
    figures = tune(config, tmp_path / "run", monkeypatch)
    old, new = run.open_run(bases["gpt"]), run.open_run(tmp_path / "run", "last")
    exps = {
        "old": experiment.of_run(old, bases["gpt"]),
        "new": experiment.of_run(new, tmp_path / "run"),
    }

    def exact(params, which):
        return exps[which].evaluator.exact_loss(params, exps[which].splits["val"])

    begun = figures["start"]
    assert (begun["folder"], begun["step"]) == (str(bases["gpt"]), old.step)
    assert begun["sha256"] == start.digest(old.params)
    for when, params in (("before", old.params), ("after", new.params)):
        assert begun[when]["val_nats"] == pytest.approx(exact(params, "new"), abs=1e-6)
        assert begun[when]["old_val_nats"] == pytest.approx(exact(params, "old"), abs=1e-6)
        assert begun[when]["old_corpus"] == "words.txt"
    assert begun["before"]["val_nats"] > begun["after"]["val_nats"] == figures["final_val_nats"]
    assert begun["before"]["old_val_nats"] == pytest.approx(old.val_nats, abs=1e-6)
    assert begun["before"]["old_val_nats"] < begun["after"]["old_val_nats"]
    record = json.loads((tmp_path / "run" / run.RECORD).read_text(encoding="utf-8"))
    assert record["start"]["sha256"] == begun["sha256"]


def test_where_the_old_text_is_gone_or_the_same_that_is_said(
    bases, text, other, tmp_path, monkeypatch, capsys
):
    same = tune(tuned(text, bases["bigram"], "bigram"), tmp_path / "same", monkeypatch)
    assert same["start"]["before"]["old_corpus"] == "the same"
    moved = tmp_path / "words.txt"
    shutil.copy(text, moved)
    fit(tiny_runs.config(moved), tmp_path / "base", monkeypatch)
    moved.unlink()
    figures = tune(tuned(other, tmp_path / "base", "bigram"), tmp_path / "gone", monkeypatch)
    before = figures["start"]["before"]
    assert before["old_val_nats"] is None and str(moved) in before["old_corpus"]
    assert before["val_nats"] > 0


def test_a_step_of_it_is_replayed_and_another_run_in_the_old_folder_is_not_taken_for_it(
    bases, text, other, tmp_path, monkeypatch
):
    changes = {part: dict(values) for part, values in NAMED.items()}
    shutil.copytree(bases["gpt"], tmp_path / "base")
    config = tuned(other, tmp_path / "base", **changes, checkpoint={"keep_last": 1})
    tune(config, tmp_path / "run", monkeypatch)
    for slot in directory.slots(tmp_path / "run")[:-1]:
        directory.delete(slot)
    exp = experiment.build_to_train(config, tmp_path / "run")
    found = nonfinite.replay(exp, tmp_path / "run", 2)
    assert found.from_step == 0 and len(found.grads) == 6 < len(found.params)
    records = metrics.read(tmp_path / "run" / run.METRICS)
    assert len(list(nonfinite.lines(found))) > len(found.params) and records
    shutil.rmtree(tmp_path / "base")
    fit(tiny_runs.config(text, "gpt", optim={"learning_rate": 0.3}), tmp_path / "base", monkeypatch)
    with pytest.raises(UserError, match="holds another run than the one"):
        nonfinite.replay(experiment.build_to_train(config, tmp_path / "run"), tmp_path / "run", 2)


def test_another_start_is_another_run(bases, other, tmp_path, monkeypatch):
    tune(tuned(other, bases["bigram"], "bigram"), tmp_path / "run", monkeypatch, stop_at=3)
    shutil.copytree(bases["bigram"], tmp_path / "twin")
    with pytest.raises(UserError, match="train.init_from: .*twin"):
        tune(tuned(other, tmp_path / "twin", "bigram"), tmp_path / "run", monkeypatch)
    fit(tiny_runs.config(other), tmp_path / "fresh", monkeypatch, stop_at=3)
    with pytest.raises(UserError, match="train.init_from: '' -> "):
        tune(tuned(other, bases["bigram"], "bigram"), tmp_path / "fresh", monkeypatch)


def test_a_run_of_lora_is_begun_with_like_any_other(bases, other, text, tmp_path, monkeypatch):
    changes = {part: dict(values) for part, values in LORA.items()}
    tune(tuned(other, bases["gpt"], **changes), tmp_path / "one", monkeypatch)
    exp = experiment.build_to_train(tuned(text, tmp_path / "one", **changes), "nowhere")
    state, before = exp.init_state(), run.open_run(tmp_path / "one")
    chex.assert_trees_all_equal(exp.merged(state.params), before.params)
    assert set(state.params) == {*before.params, lora.NAME}
    plain = experiment.build_to_train(tuned(text, tmp_path / "one"), "nowhere").init_state()
    chex.assert_trees_all_equal(plain.params, before.params)


def test_what_a_stranger_wrote_of_the_start_is_checked(bases, other, tmp_path, monkeypatch):
    tune(tuned(other, bases["bigram"], "bigram"), tmp_path / "run", monkeypatch, stop_at=3)
    _, meta = run.store.read_meta(tmp_path / "run")
    assert run.understand(tmp_path, meta).start["config"] == json.loads(
        json.dumps(to_dict(run.open_run(bases["bigram"]).config))
    )
    for name, value in (("step", "3"), ("folder", 7), ("config", {"seed": -1}), ("config", None)):
        with pytest.raises(UserError, match="not one that this version of gptjax can read"):
            run.understand(tmp_path, meta | {"start": meta["start"] | {name: value}})
