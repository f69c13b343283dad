"""A command line becomes values of the right types; a mistake on it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from absl import flags as absl_flags
from toy_command import FLAGS, NAME, assert_one_line, call, fails, read

from gptjax.cli import flags, main
from gptjax.config import parse, schema


def test_flags_that_are_not_set_have_their_defaults():
    args = read()
    assert (args.workdir, args.number, args.heat, args.loud) == ("", 7, 0.5, False)
    assert (args.seed, args.word, args.split) == (None, [], "val")
    assert args.compilation_cache is True and args.debug is False


@pytest.mark.parametrize(
    "argv, name, value",
    [
        (["--number=-3"], "number", -3),
        (["--number", "-3"], "number", -3),
        (["-number=4"], "number", 4),
        (["--number=1", "--number=2"], "number", 2),
        (["--heat=1"], "heat", 1.0),
        (["--heat=1e-3"], "heat", 1e-3),
        (["--loud"], "loud", True),
        (["--loud", "--noloud"], "loud", False),
        (["--loud=true"], "loud", True),
        (["--seed=0"], "seed", 0),
        (["--word=a b", "--word=ß"], "word", ["a b", "ß"]),
        (["--split=train"], "split", "train"),
        (["--workdir=/tmp/my runs/ü=1"], "workdir", "/tmp/my runs/ü=1"),
        (["--workdir", "--number=3"], "workdir", "--number=3"),
        (["--workdir", "--config.seed=3"], "workdir", "--config.seed=3"),
        (["--nocompilation_cache"], "compilation_cache", False),
    ],
)
def test_a_flag_reaches_the_command_with_its_type(argv, name, value):
    found = getattr(read(*argv), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "argv, path, value",
    [
        (["--config.model.n_layer=2"], "model.n_layer", 2),
        (["--config.model.n_layer", "2"], "model.n_layer", 2),
        (["--config.model.n_layer=2", "--config.model.n_layer=3"], "model.n_layer", 3),
        (["--config.model.dropout=0"], "model.dropout", 0.0),
        (["--config.model.tie_lm_head"], "model.tie_lm_head", True),
        (["--noconfig.model.tie_lm_head"], "model.tie_lm_head", False),
        (["--config.model.tie_lm_head=false"], "model.tie_lm_head", False),
        (["--config.data.path=/my texts/Faust für alle=1.txt"], "data.path", None),
        (["--config.sample.prompt=--config.seed=5"], "sample.prompt", "--config.seed=5"),
        (["--config.name=007"], "name", "007"),
        (["--config.expected={'a': (1, 2.5)}"], "expected", {"a": (1.0, 2.5)}),
    ],
)
def test_an_override_reaches_the_config(argv, path, value):
    value = argv[0].partition("=")[2] if value is None else value
    plain = read("--config=gpt:small", config=True).config
    changes = {f.path: f.value for f in schema.fields(plain)}[path] != value
    for order in (["--config=gpt:small", *argv], [*argv, "--config=gpt:small"]):
        args = read(*order, config=True)
        found = {f.path: f.value for f in schema.fields(args.config)}[path]
        assert found == value and type(found) is type(value)
        # A flag that says what the file says leaves the run the file's.
        assert args.overridden == ([path] if changes else [])
        assert args.config.model.n_embd == 128  # what the file says stays


def test_overridden_names_each_field_once():
    args = read("--config=gpt:small", "--config.seed=1", "--number=2", config=True)
    assert args.overridden == ["seed"] and args.number == 2
    assert read("--config=gpt:small", config=True).overridden == []


def test_arguments_that_are_no_flags_are_kept_where_they_are_wanted():
    args = flags.read(["toy", "a", "--number=3", "b c"], FLAGS, False, words="names")
    assert args.names == ["a", "b c"] and args.number == 3


def test_every_command_has_the_flags_of_all_commands():
    names = [flag.name for flag in flags.every(FLAGS, config=False)]
    assert names == [*(flag.name for flag in FLAGS), "compilation_cache", "debug", "help"]
    names = [flag.name for flag in flags.every(FLAGS, config=True)]
    assert {"config", "print_config"} <= set(names) and len(names) == len(FLAGS) + 5


def write_config(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(body, encoding="utf-8")
    return f"--config={path}"


def test_a_config_may_compute_one_field_from_another(tmp_path):
    flag = write_config(
        tmp_path,
        "from gptjax import config\n"
        "def get_config():\n"
        "    c = config.base()\n"
        "    c.model.n_hidden = c.model.get_ref('n_embd') * 3\n"
        "    return c\n",
    )
    assert read(flag, "--config.model.n_embd=20", config=True).config.model.n_hidden == 60


def test_a_folder_may_stand_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert read("--workdir=~/runs/x").workdir == "/home/me/runs/x"
    assert read("--workdir=").workdir == ""


def test_no_flag_is_left_behind_in_absl():
    before = set(absl_flags.FLAGS)
    for _ in range(2):  # and a second command line in one process is no duplicate
        read("--config=gpt", "--config.seed=3", "--number=4", config=True)
    assert set(absl_flags.FLAGS) == before


MISTAKES = [
    # argv, what the one line must name
    (["--numbr=3"], ["--numbr", "--number"]),
    (["--number=two"], ["--number=two", "a whole number"]),
    (["--number=2.5"], ["--number=2.5", "a whole number"]),
    (["--number="], ["--number=", "a whole number"]),
    (["--number=a: b"], ["--number=a: b is", "a whole number"]),
    (["--heat=warm"], ["--heat=warm", "a number"]),
    (["--loud=perhaps"], ["--loud=perhaps", "true or false"]),
    (["--split=test"], ["--split=test", "train or val"]),
    (["--workdir"], ["missing value", "--workdir"]),
    (["runs/x"], ["'runs/x'", "--name=value"]),
    (["--loud", "true"], ["'true'", "--name=value"]),
    (["--", "--loud"], ["--loud"]),
    (["--config=gpt"], ["--config"]),
    (["--flagfile=/no/such/file"], ["unknown flag --flagfile"]),
    (["-heat=1_0"], ["--heat=1_0", "a number"]),
]
CONFIG_MISTAKES = [
    ([], ["--config is missing", "bigram", "gpt"]),
    (["--config="], ["--config is missing"]),
    (["--config"], ["missing value", "--config"]),
    (["--config.seed=3"], ["--config is missing"]),
    (["--config=gtp"], ["'gtp'", "did you mean gpt?"]),
    (["--config=configs/bigrm.py:small"], ["'configs/bigrm.py:small'", "did you mean bigram?"]),
    (["--config=/"], ["'/'"]),
    (["--config=README.md"], ["'README.md'", "gpt"]),
    (["--config=gpt:huge"], ["'huge'", "small", "lecture"]),
    (["--config=bigram:small"], ["bigram.py", ":small"]),
    (["--config=gpt", "--config.model.n_layr=2"], ["--config.model.n_layr", "model.n_layer?"]),
    (["--config=gpt", "--noconfig.model.tie_head"], ["model.tie_head", "model.tie_lm_head?"]),
    (["--config=gpt", "--config.modl.n_layer=2"], ["--config.modl.n_layer", "model.n_layer?"]),
    (["--config=gpt", "--config.n_layer=2"], ["--config.n_layer", "--config.model.n_layer?"]),
    (["--config=gpt", "--n_layer=2"], ["--n_layer", "--config.model.n_layer?"]),
    (["--config=gpt", "--model.n_layer=2"], ["--model.n_layer", "--config.model.n_layer?"]),
    (["--config=gpt", "--config.model=gpt"], ["--config.model ", "group", "model.kind"]),
    (["--config=gpt", "--config.=1"], ["--config."]),
    (["--config=gpt", "--max_iters=5"], ["unknown flag --max_iters (here it is --config.train.s"]),
    (["--config=gpt", "--batch-size=32"], ["--batch-size", "did you mean --config.train.batch"]),
    (["--config=gpt", "--config.optim.lr=1"], ["(here it is --config.optim.learning_rate)"]),
    (["--config=gpt", "--device=cpu"], ["unknown flag --device (there is none: JAX"]),
    (["--config=gpt", "--config.torch_compile=x"], ["--config.torch_compile (there is none: "]),
    (
        ["--config=gpt", "--gradient_checkpointing=1"],
        ["--gradient_checkpointing (here it is --config.model.remat: train.accumulate"],
    ),
    (["--config=gpt", "--config.model[0]=1"], ["--config.model[0]"]),
    (["--config=gpt", "--config.zzzz=1"], ["--config.zzzz", "--print_config"]),
    (["--config=gpt", "--config.model.n_layer=two"], ["n_layer=two", "a whole number"]),
    (["--config=gpt", "--config.model.n_layer=2.0"], ["n_layer=2.0", "a whole number"]),
    (["--config=gpt", "--config.model.dropout=no"], ["dropout=no", "a number"]),
    (["--config=gpt", "--config.model.tie_lm_head=2"], ["tie_lm_head=2", "true or false"]),
    (["--config=gpt", "--config.model.tie_lm_head", "no"], ["'no'", "--name=value"]),
    (["--config=gpt", "--config.model.n_layer"], ["missing value", "n_layer"]),
    (["--config=gpt", "--config.model.n_layer=0"], ["model.n_layer=0", "at least 1"]),
    (["--config=gpt", "--config.model.dropout=nan"], ["model.dropout=nan"]),
    (["--config=gpt", "--config.seed=-1"], ["seed=-1"]),
    (["--config=gpt", "--config.expected=3"], ["expected=3", "a dict"]),
    (["--config=gpt", "--config.expected={'a': 3}"], ["expected.a"]),
]


@pytest.mark.parametrize("argv, named", MISTAKES, ids=lambda x: " ".join(x)[:40] or "nothing")
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(argv, named, capsys):
    assert_one_line(call(fails, *argv), capsys, named)


@pytest.mark.parametrize("argv, named", CONFIG_MISTAKES, ids=lambda x: " ".join(x)[-40:])
def test_a_mistake_about_the_config_is_one_line_and_code_2(argv, named, capsys):
    assert_one_line(call(fails, *argv, config=True), capsys, named)


def saved(workdir: str) -> schema.Config | None:
    """A folder "run" holds a run of other settings; others hold none."""
    values = {"model": {"n_embd": 64}, "expected": {"my.txt": (1.0, 2.0)}, "name": "saved"}
    return parse.from_dict(values) if workdir == "run" else None


def test_without_a_config_the_run_in_the_folder_has_its_own():
    def args(*argv):
        return flags.read([NAME, *argv], FLAGS, True, saved=saved)

    plain = args("--workdir=run")
    assert plain.config == saved("run") and plain.overridden == []
    more = args("--workdir=run", "--config.train.steps=5000", "--config.seed=1337")
    assert more.config.train.steps == 5000 and more.overridden == ["train.steps"]
    assert more.config.model == saved("run").model and more.config.expected
    assert args("--workdir=run", "--config=bigram").config.name == "bigram"


@pytest.mark.parametrize(
    "argv, named",
    [
        ([], ["toy: --config is missing: to train, choose one of bigram,", "--workdir"]),
        (["--workdir=other"], ["toy: other holds no run to continue, and --config is missing"]),
    ],
)
def test_without_a_config_or_a_run_both_ways_out_are_told(argv, named, capsys):
    code = main.call(fails, [NAME, *argv], flags=FLAGS, config=True, saved=saved)
    assert_one_line(code, capsys, [*named, "gpt", "--help"])


@pytest.mark.parametrize("fields", ["{'seed': 5}", "{'sed': 5}"])
def test_a_config_file_that_lacks_a_field_that_is_set_is_told_of_the_base(fields, tmp_path, capsys):
    text = f"from gptjax import config\ndef get_config():\n    return config.ConfigDict({fields})\n"
    argv = [write_config(tmp_path, text), "--config.model.n_head=2"]
    assert_one_line(call(fails, *argv, config=True), capsys, ["mine.py", "base()"])
