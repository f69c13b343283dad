"""What people type who come from another trainer is answered, and what the answers name exists."""

import importlib
import inspect
import re

import pytest

import gptjax
from gptjax import evaluate, look, sample
from gptjax.cli.flags import every
from gptjax.compare import __main__ as compare
from gptjax.config.foreign_names import ANSWERS, TABLE, nearest
from gptjax.config.parse import PATHS
from gptjax.errors import UserError, last_part

train = importlib.import_module("gptjax.train")  # gptjax.train is the function
COMMANDS = (compare, evaluate, look, sample, train)
FLAGS = {flag.name for command in COMMANDS for flag in command.FLAGS}
FLAGS |= {flag.name for flag in every([], config=True)}
SETTINGS = list(inspect.signature(gptjax.generate).parameters)[1:-1]
TRAIN = ["--workdir", "--config", *(f"--config.{path}" for path in PATHS)]
SAMPLE = [f"--{flag.name}" for flag in every(sample.FLAGS, config=False)]

# The settings of nanoGPT and of makemore, but those that are called the same here.
THEIRS = """out_dir eval_interval log_interval eval_only always_save_checkpoint wandb_log
wandb_project wandb_run_name dataset gradient_accumulation_steps bias max_iters grad_clip decay_lr
warmup_iters lr_decay_iters min_lr backend device dtype compile start
input_file work_dir resume sample_only num_workers max_steps type n_embd2"""


def test_every_name_is_answered_once_and_is_none_of_ours():
    names = [name for names, _, _ in TABLE for name in names.split()]
    assert len(names) == len(set(names)) == len(ANSWERS)
    ours = {last_part(path) for path in PATHS} | FLAGS | set(SETTINGS)
    assert not ours & set(names)
    assert all(name == last_part(name) for name in names), "as it is looked up"


@pytest.mark.parametrize("name", ANSWERS)
def test_what_an_answer_names_exists(name):
    here, mind = ANSWERS[name]
    assert here or mind
    for place in here:
        assert place in {*PATHS, *FLAGS, *SETTINGS}, f"{name}: there is no {place}"
    groups = {path.partition(".")[0] for path in PATHS if "." in path}
    for group, field in re.findall(r"\b([a-z]+)\.([a-z_0-9]+)", mind):
        assert group not in groups or f"{group}.{field}" in PATHS, mind
    for flag in re.findall(r"--(\w+)", mind):
        assert flag in FLAGS, mind


@pytest.mark.parametrize("name", THEIRS.split())
def test_the_settings_of_the_programs_people_come_from_are_answered(name):
    answers = [nearest(f"--{form}", TRAIN + SAMPLE) for form in (name, name.replace("_", "-"))]
    assert answers[0] == answers[1] and re.match(r" \((here it is --|there is none: )", answers[0])


@pytest.mark.parametrize(
    "name, known, answer",
    [
        ("--max_iters", TRAIN, " (here it is --config.train.steps)"),
        ("--config.max_iters", TRAIN, " (here it is --config.train.steps)"),
        ("--config.train.Max-Iters", TRAIN, " (here it is --config.train.steps)"),
        ("train.max_iters", PATHS, " (here it is train.steps)"),
        ("--max_iters", SAMPLE, ""),  # sample has no steps
        ("--out_dir", TRAIN, " (here it is --workdir)"),
        ("--start", SAMPLE, " (here it is --prompt)"),
        ("--start", TRAIN, " (here it is --config.sample.prompt)"),
        ("start", SETTINGS, " (here it is prompt)"),
        ("max_length", SETTINGS, " (here it is max_new_tokens: the prompt is not counted)"),
        ("--compile", SAMPLE, " (there is none: every step is compiled)"),
        ("--batch-size", TRAIN, " (did you mean --config.train.batch_size?)"),
        ("n_layers", PATHS, " (did you mean model.n_layer?)"),
        ("zzz", PATHS, ""),
    ],
)
def test_an_answer_is_written_as_it_can_be_typed_there(name, known, answer):
    assert nearest(name, known) == answer


@pytest.mark.parametrize("name", ["max_iters", "train.max_iters"])
def test_a_config_and_a_call_answer_too(name):
    with pytest.raises(UserError, match=r"max_iters \(here it is train.steps\)"):
        gptjax.train("bigram", **{name: 5})
