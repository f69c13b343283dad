"""A run's folder is opened from its checkpoint alone, and used from Python in three lines."""

import dataclasses
import inspect
import json
import math
import os
import shutil

import numpy as np
import pytest
import tiny_runs

import gptjax
from gptjax import evaluate, sample
from gptjax.checkpoints import directory, store
from gptjax.checkpoints.run import Run, open_for_command, open_run, runs_below, understand, which
from gptjax.config.schema import CheckpointConfig, Config, to_dict
from gptjax.errors import UserError
from gptjax.runtime.atomic_files import parse_json


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A tiny GPT; its text is gone, and its folder has been moved."""
    folder = tmp_path_factory.mktemp("runs")
    text = tiny_runs.write_text(folder)
    config = tiny_runs.config(
        text, "gpt", train={"steps": 4, "eval_every": 2}, sample={"max_new_tokens": 0}
    )
    assert "final_val_nats" in tiny_runs.fit(config, folder / "made here")
    text.unlink()
    shutil.move(folder / "made here", folder / "moved")
    return folder / "moved"


@pytest.fixture(scope="module")
def run(workdir):
    return open_run(workdir, "last")


def test_three_lines_of_python_open_a_run_and_write_a_text(workdir):
    run = gptjax.load(workdir)
    sample = gptjax.generate(run, "ab", max_new_tokens=9)[0]
    assert sample.prompt == "ab" and len(sample.text) == len(sample.ids) == 9
    assert gptjax.generate(run, "ab", max_new_tokens=9) == [sample]


def test_a_run_brings_all_it_was_trained_with(run):
    assert (run.step, run.model.block_size, run.items) == (4, 6, False)
    assert run.tokenizer.vocab_size == len("abcdefg\n") == run.model.vocab_size
    assert run.config.optim.learning_rate == 0.02


def test_a_checkpoint_is_chosen_by_name_or_step(workdir, run):
    assert open_run(workdir, 4).step == open_run(workdir, "last").step == 4
    first = gptjax.load(workdir, 4).params["lm_head"]["kernel"]
    np.testing.assert_array_equal(first, run.params["lm_head"]["kernel"])
    assert [which(text) for text in ("best", "last", "25")] == ["best", "last", 25]
    for wrong in ("", "newest", "-3", "2.5"):
        with pytest.raises(UserError, match="best, last or a step"):
            which(wrong)


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, workdir):
    with pytest.raises(UserError, match="no folder"):
        gptjax.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint: train one there"):
        gptjax.load(tmp_path)
    with pytest.raises(UserError, match="77"):
        gptjax.load(workdir, 77)


def test_several_prompts_and_samples_come_in_order(run):
    made = run.generate(["ab", "", "fedcba"], num_samples=2, max_new_tokens=5, seed=3)
    assert [s.prompt for s in made] == ["ab", "ab", "", "", "fedcba", "fedcba"]
    assert run.generate(["ab"], max_new_tokens=5, seed=3)[0].ids == made[0].ids
    assert made[0].text != made[1].text


def test_text_is_streamed_to_a_function(run):
    told = {0: "", 1: ""}

    def on_text(row, new):
        told[row] += new

    made = run.generate(["ab", "c"], max_new_tokens=19, on_text=on_text)
    assert [told[0], told[1]] == [s.text for s in made]


def test_every_setting_reaches_the_sampler(run):
    greedy = run.generate("ab", temperature=0, max_new_tokens=12)
    for setting in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert run.generate("ab", temperature=1, max_new_tokens=12, **setting) == greedy
    assert run.generate("ab", temperature=0, repetition_penalty=1e6, max_new_tokens=12) != greedy
    letter = greedy[0].text[3]
    (sample,) = run.generate("ab", temperature=0, stop=letter, max_new_tokens=12)
    assert sample.text == greedy[0].text[: greedy[0].text.index(letter)] and sample.why == "stop"
    windows = [run.generate("ab", window=w, max_new_tokens=30)[0].text for w in ("exact", "refill")]
    assert windows[0][:4] == windows[1][:4] and windows[0] != windows[1]


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_k": 0}, "top_k=0"),
        ({"window": "sliding"}, "window='sliding'"),
        ({"seed": -1}, "seed=-1"),
        ({"prompt": "aé"}, "'é'"),
        (
            {"temprature": 1},
            r"unknown setting temprature \(did you mean temperature\?\); there are",
        ),
        ({"max_length": 9}, r"unknown setting max_length \(here it is max_new_tokens"),
        ({"device": "cpu"}, r"unknown setting device \(there is none: JAX"),
        ({"zzz": 1}, "unknown setting zzz; there are prompt, max_new_tokens, temperature"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(settings, named, run):
    with pytest.raises(UserError, match=named) as error:
        run.generate(**settings)
    assert "\n" not in str(error.value)


def test_the_settings_and_their_defaults_are_the_same_everywhere():
    def settings(function):
        found = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in found if p.name not in ("run", "self", "unknown")}

    assert settings(gptjax.generate) == settings(Run.generate)
    assert settings(Run.settings).items() <= settings(Run.generate).items()
    flags = {flag.name: flag.value or () for flag in sample.FLAGS}
    for name, default in settings(Run.settings).items():
        assert flags[name] == (default or ()), name


def test_a_run_is_shown_in_one_line_and_in_a_notebook_as_a_table(run, workdir):
    line, page = repr(open_run(workdir, 4)), open_run(workdir, 4)._repr_html_()
    assert "\n" not in line and len(line) < 200
    val = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))["final_val_nats"]
    for fact in ("'tiny-gpt'", "gpt", "n_layer=1", "n_head=2", "n_embd=6", "block_size=6"):
        assert fact in line and fact.split("=")[-1].strip("'") in page
    assert "; step 4," in line and f"val {val:.4f}" in line and f"<td>{val:.4f}</td>" in page
    leaves = directory.facts(directory.slots(workdir)[-1])["arrays"]["params"].values()
    n = sum(math.prod(shape) for _, shape, _ in leaves)
    assert line.endswith(f"; {n:,} parameters>") and f"<td>{n:,}</td>" in page
    unmeasured = dataclasses.replace(run, val_nats=None)
    assert "val" not in repr(unmeasured) and "val" not in unmeasured._repr_html_()


def test_a_name_from_a_stranger_is_text_in_a_notebook(run):
    evil = dataclasses.replace(run.config, name="<script>\x1b[2J\n")
    shown = dataclasses.replace(run, config=evil)
    assert "<script>" not in shown._repr_html_() and "\n" not in repr(shown)
    assert "\x1b" not in repr(shown) + shown._repr_html_()


def test_the_runs_are_listed_newest_first(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run below runs/" in runs_below("runs") and "--config=gpt" in runs_below("runs")
    (tmp_path / "runs/empty/checkpoints").mkdir(parents=True)
    assert "no run below runs/" in runs_below("runs")
    for age, name in enumerate(["runs/a", "runs/ladder/head", "runs/c"]):
        shutil.copytree(workdir, name)
        os.utime(f"{name}/checkpoints", (1e9 - age, 1e9 - age))
    (tmp_path / "runs/c/summary.json").unlink()
    figures = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    measured = f"(step {figures['best_step']}, val {figures['best_val_nats']:.4f})"
    assert runs_below("runs") == (
        ": name a run, such as --workdir=runs/a; newest first: "
        f"runs/a {measured}, runs/ladder/head {measured}, runs/c (step 4)"
    )
    with pytest.raises(UserError, match="--workdir is missing: name a run, such as --workdir=runs"):
        open_for_command("", "best", print)
    with pytest.raises(UserError, match="no folder ''|holds no checkpoint") as error:
        gptjax.load("")
    assert "runs/a" not in str(error.value)
    for i in range(10):
        shutil.copytree("runs/a", f"runs/more{i}")
    assert runs_below("runs").endswith(" and 3 more") and "more9 (" in runs_below("runs")


@pytest.fixture(scope="module")
def bare(run, tmp_path_factory):
    """The same model in a checkpoint that knows neither its corpus nor a history of training."""
    workdir = tmp_path_factory.mktemp("bare")
    meta = {"config": to_dict(run.config), "tokenizer": run.tokenizer.to_json()}
    with store.Checkpoints(workdir, CheckpointConfig()) as checkpoints:
        checkpoints.save(4, {"params": run.params, "rest": {}}, meta, best=True)
    return workdir


def test_a_model_without_a_corpus_or_a_history_opens_and_writes_the_same(bare, run):
    opened = open_run(bare)
    assert (opened.step, opened.data, opened.items, opened.config) == (4, None, False, run.config)
    for window in ("exact", "refill"):
        settings = {"num_samples": 2, "max_new_tokens": 17, "window": window}
        assert opened.generate(["ab", ""], **settings) == run.generate(["ab", ""], **settings)


def test_a_model_without_a_corpus_or_a_history_scores_a_text(bare, run, tmp_path):
    (tmp_path / "letter.txt").write_text("abcab\nbada\ngabe\n", encoding="utf-8")
    scored = evaluate.of_text(open_run(bare), str(tmp_path / "letter.txt"), per_token=True)
    assert scored == evaluate.of_text(run, str(tmp_path / "letter.txt"), per_token=True)
    assert len(scored["per_token"]) == 15


def test_a_model_without_a_corpus_refuses_in_one_line_to_be_measured_on_it(bare):
    with pytest.raises(
        UserError, match="does not say what it was trained on.*--text_file"
    ) as error:
        open_run(bare).read_corpus(bare)
    assert str(bare) in str(error.value) and "\n" not in str(error.value)


def test_a_model_without_a_history_is_not_trained_on(bare, run, tmp_path):
    workdir = shutil.copytree(bare, tmp_path / "run")
    tiny_runs.write_text(tmp_path)
    config = tiny_runs.config(
        tmp_path / "words.txt", "gpt", train={"steps": 4, "eval_every": 2}, sample={"prompt": "a"}
    )
    with pytest.raises(UserError, match="no history of training to continue") as error:
        tiny_runs.fit(config, workdir)
    assert "\n" not in str(error.value)


ZEROS = "0" * 64
META = {
    "config": to_dict(Config()),
    "tokenizer": {"kind": "char", "vocabulary": ["\n", "a"]},
    "data": {"kind": "items", "sha256": ZEROS},
}


def test_what_stands_beside_the_arrays_is_read_with_or_without_a_corpus(tmp_path):
    assert understand(tmp_path, META).data == META["data"]
    for absent in ({"data": None}, {"memory": "of another version"}):
        saved = understand(tmp_path, META | absent)
        assert saved.config == Config() and saved.tokenizer.vocab_size == 2


@pytest.mark.parametrize(
    "data",
    [{}, [], 3, "items", {"kind": "items"}, {"kind": "item", "sha256": "0" * 64}]
    + [
        {"kind": "stream", "sha256": s} for s in ("0" * 63, "g" * 64, "0" * 64 + "\n", 10**63, None)
    ],
    ids=str,
)
def test_facts_of_a_corpus_that_are_not_well_formed_are_refused(tmp_path, data):
    with pytest.raises(UserError, match="is not one that this version") as error:
        understand(tmp_path, META | {"data": data})
    assert "\n" not in str(error.value)


def test_values_nested_as_deep_as_json_can_be_are_refused_and_never_a_crash(tmp_path):
    text = json.dumps(META | {"config": META["config"] | {"why": "deep"}})
    for depth in range(700, 1000):
        try:
            meta = parse_json(text.replace('"deep"', "[" * depth + "]" * depth).encode())
        except ValueError:
            break
        with pytest.raises(UserError, match="is not one that this version"):
            understand(tmp_path, meta)


def test_a_command_opens_the_checkpoint_named_and_tells_of_damage(workdir, tmp_path):
    damaged = shutil.copytree(workdir, tmp_path / "run")
    told = []
    assert open_for_command(str(damaged), "last", told.append).step == 4 and told == []
    newest = max((damaged / "checkpoints").iterdir(), key=lambda path: int(path.name[5]))
    (newest / "params" / "manifest.ocdbt").write_bytes(b"")
    assert open_for_command(str(damaged), "last", told.append).step == 2
    (line,) = told
    assert "step 4 is damaged" in line and "step 2 is used instead" in line
