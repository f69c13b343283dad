"""A run's folder is opened from its checkpoint alone, and used from Python in three lines."""

import shutil

import numpy as np
import pytest
import tiny_runs

import gptjax
from gptjax.checkpoints import run as runs
from gptjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compile")


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
    return runs.open_run(workdir, "last")


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
    assert runs.open_run(workdir, 4).step == runs.open_run(workdir, "last").step == 4
    first = gptjax.load(workdir, 4).params["lm_head"]["kernel"]
    np.testing.assert_array_equal(first, run.params["lm_head"]["kernel"])
    assert [runs.which(text) for text in ("best", "last", "25")] == ["best", "last", 25]
    for wrong in ("", "newest", "-3", "2.5"):
        with pytest.raises(UserError, match="best, last or a step"):
            runs.which(wrong)


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
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(settings, named, run):
    with pytest.raises(UserError, match=named) as error:
        run.generate(**settings)
    assert "\n" not in str(error.value)
