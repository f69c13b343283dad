"""Wrong uses, through the real command lines: one line that helps, code 2, nothing touched."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from pathlib import Path

import jax
import pytest
import tiny_runs

from gptjax.cli import main as cli
from gptjax.data import text_file
from gptjax.runtime import compilation_cache, run_lock
from gptjax.runtime.mesh_rules import AXES
from gptjax.training import experiment

MISSING, BIG = "there is no such thing", 99_999_999_999


# runpy says that the command is imported already; it is run afresh all the same.
pytestmark = pytest.mark.filterwarnings("ignore:'gptjax.:RuntimeWarning")


@pytest.fixture(autouse=True)
def no_cache_of_compiled_programs(monkeypatch):
    monkeypatch.setattr(compilation_cache, "switch", lambda on: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with good and bad texts, a finished run, and things that are no runs."""
    folder = tmp_path_factory.mktemp("world")
    tiny_runs.write_text(folder)
    files = {
        "empty.txt": b"",
        "blank.txt": b" \n\t\n \n",
        "nul.txt": b"abc\0def" * 99,
        "picture.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 9,
        "latin1.txt": "Käse über alles\n".encode("latin-1") * 99,
        "utf16.txt": "a text\n".encode("utf-16") * 99,
        "one.txt": b"x",
        "two.txt": b"xy",
        "short.txt": b"a few words only",
        "two_items.txt": b"anna\n\n\n\notto\n\n  \n",
        "one_long_line.txt": b"abcdefghij" * 2**20,
        "not_a_run/metrics.jsonl": b'{"step": 1}\n',
        "broken/checkpoints/step_3-best/manifest.json": b"{}",
        "a_file": b"precious",
        "no_function.py": b"x = 1\n",
        "leaves.py": b"import sys\ndef get_config():\n    sys.exit()\n",
        "flags.txt": b"--config=gpt:small\n",
        "raises.py": b"class E(BaseException): pass\ndef get_config():\n    raise E('why')\n",
        "mute.py": b"class E(Exception):\n    def __str__(self): raise ValueError\n"
        b"def get_config():\n    raise E\n",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with open(folder / "sparse.txt", "wb") as file:
        file.write(b"abc")
        file.truncate(4 * 2**30)  # zeros that take no room
    tiny_runs.fit(tiny_runs.config(folder / "words.txt", train={"steps": 3}), folder / "run")
    return folder


def call(name: str, *argv: str) -> int:
    """What ``python -m gptjax.name argv`` does, in this process; its exit code."""
    before = sys.argv
    sys.argv = [name, *argv]
    try:
        runpy.run_module(f"gptjax.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    raise AssertionError("it did not end")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and the time it was written."""
    stats = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (s.st_size, s.st_mtime_ns) for path, s in stats.items()}


def wrong(name: str, argv: str, *named: str):
    """A case: the flags (a field is a flag of the config) and what the line must say."""
    return pytest.param(name, argv, named, id=f"{name} {argv or 'nothing'}"[:70])


# Flags are split at spaces; {w} is the world's folder. A name with a dot sets a config's field.
CASES = [
    # The config.
    wrong("train", "--config=", "--config is missing", "gpt"),
    wrong("train", "--config= --max_iters=5", "unknown flag --max_iters", "train.steps"),
    wrong("train", "--config={w}/nowhere.py", "nowhere.py", "choose one of"),
    wrong("train", "--config={w}/no_function.py", "no_function.py", "get_config"),
    wrong("train", "--config={w}/leaves.py", "leaves.py", "sys.exit"),
    wrong("train", "--config={w}/raises.py", "raises.py, line 3", "E: why"),
    wrong("train", "--config={w}/mute.py", "mute.py, line 4", "E"),
    wrong("sample", "--workdir={w}/run --checkpoint=\u0669", "--checkpoint=", "best, last or"),
    wrong("train", "train.batch_size=1048576 train.chunk_steps=900", "batches of 900 steps", "GB"),
    wrong("train", "--flagfile={w}/flags.txt", "unknown flag --flagfile"),
    wrong("train", "--flagfile {w}/flags.txt", "unknown flag --flagfile"),
    wrong("train", "--undefok=stps --stps=3", "unknown flag --undefok"),
    wrong("train", "--show_batch --replay_step=1", "--show_batch", "one at a time"),
    wrong("train", "--config=gpt:giant", "giant", "small"),
    wrong("train", "model.n_layr=2", "n_layr", "did you mean --config.model.n_layer"),
    wrong("train", "--workdr=x", "--workdr", "--workdir"),
    wrong("train", "stray", "'stray'", "--name=value"),
    wrong("train", "model.n_layer=two", "n_layer=two", "whole number"),
    wrong("train", "model.n_layer=0x10", "n_layer=0x10", "whole number"),
    wrong("train", "train.steps=1_000", "steps=1_000", "whole number"),
    wrong("train", "--config.train.steps 1_0", "steps=1_0", "whole number"),
    wrong("train", "train.steps=\u0663", "steps=\u0663", "whole number"),
    wrong("train", "optim.learning_rate=1_0.5", "learning_rate=1_0.5", "a number"),
    wrong("train", "model.dropout=\uff10.\uff11", "model.dropout=", "a number"),
    wrong("train", "--workdir=~nosuchuser/x", "~nosuchuser/x", "no user 'nosuchuser'"),
    wrong("sample", "--workdir={w}/run --top_k=\u0663", "top_k=\u0663", "whole number"),
    wrong("train", "model.n_layer=2.5", "n_layer=2.5", "whole number"),
    wrong("train", "model.dropout=much", "dropout=much", "a number"),
    wrong("train", "model.tie_lm_head=2", "tie_lm_head=2", "true or false"),
    wrong("train", "model.n_head=4 model.n_embd=10", "n_embd=10", "n_head=4", "try n_embd="),
    wrong("train", "model.n_layer=0", "model.n_layer=0", "at least 1"),
    wrong("train", "model.n_embd=-8", "model.n_embd=-8", "at least 1"),
    wrong("train", "model.block_size=0", "model.block_size=0", "at least 1"),
    wrong("train", "model.dropout=1.5", "model.dropout=1.5", "below 1"),
    wrong("train", "model.dropout=-0.1", "model.dropout=-0.1", "at least 0"),
    wrong("train", "model.dropout=nan", "model.dropout=nan", "at least 0"),
    wrong("train", "model.activation=swish", "'swish'", "relu"),
    wrong("train", "model.kind=gtp", "'gtp'", "gpt"),
    wrong("train", f"model.n_layer={BIG}", "model.n_layer=", "at most"),
    wrong("train", f"model.n_embd={BIG}", "model.n_embd=", "at most"),
    wrong("train", f"model.block_size={BIG}", "model.block_size=", "at most"),
    wrong("train", "train.batch_size=0", "train.batch_size=0", "at least 1"),
    wrong("train", f"train.batch_size={BIG}", "train.batch_size=", "at most"),
    wrong("train", "train.accumulate=3", "train.batch_size=4", "train.accumulate=3", "use 6"),
    wrong("train", "train.accumulate=-1", "train.accumulate=-1", "at least 1"),
    wrong("train", "train.steps=-1", "train.steps=-1", "at least 0"),
    wrong("train", f"train.steps={2**31}", "train.steps=2147483648", "at most"),
    wrong("train", "train.eval_iters=0", "train.eval_iters=0", "at least 1"),
    wrong("train", "train.chunk_steps=0", "train.chunk_steps=0", "at least 1"),
    wrong("train", "train.skip_nonfinite=-1", "train.skip_nonfinite=-1", "at least 0"),
    wrong("train", "optim.name=adamm", "'adamm'", "adamw"),
    wrong("train", "optim.schedule=linear", "'linear'", "cosine"),
    wrong("train", "optim.learning_rate=0", "optim.learning_rate=0", "above 0"),
    wrong("train", "optim.learning_rate=1e308", "optim.learning_rate=1e+308", "at most 1e+38"),
    wrong("train", "optim.warmup_steps=2147483648", "warmup_steps=2147483648", "2,147,483,647"),
    wrong("train", "model.kind=gpt model.n_embd=200000", "GB", "for optimizer", "model.n_embd"),
    wrong("train", "model.kind=gpt model.block_size=1000000", "causal masks of 2000.0 GB"),
    wrong("train", "model.kind=gpt model.n_embd=900 train.batch_size=1048576", "1,048,576 rows"),
    wrong("train", "data.path={w}/sparse.txt", "sparse.txt", "byte 3 is NUL"),
    wrong("train", "--config.name=a\udcff", "not UTF-8"),
    wrong("train", "--workdir={w}/a\udcff", "--workdir=", "not UTF-8"),
    wrong("sample", "--workdir={w}/run --temperature=1e300", "temperature=1e+300", "1e+38"),
    wrong("train", "optim.learning_rate=nan", "optim.learning_rate=nan", "above 0"),
    wrong("train", "optim.learning_rate=inf", "optim.learning_rate=inf", "above 0"),
    wrong("train", f"optim.eps={10**400}", "optim.eps", "above 0"),
    wrong("train", "optim.beta2=1", "optim.beta2=1", "below 1"),
    wrong("train", "optim.weight_decay=-1", "optim.weight_decay=-1", "at least 0"),
    wrong("train", "optim.clip_norm=nan", "optim.clip_norm=nan", "at least 0"),
    wrong("train", "optim.warmup_steps=-2", "optim.warmup_steps=-2", "at least 0"),
    wrong("train", "seed=-1", "seed=-1", "at least 0"),
    wrong("train", "seed=4294967296", "seed=4294967296", "at most 4,294,967,295"),
    wrong("train", "tokenizer.kind=morse", "'morse'", "char"),
    wrong("train", "tokenizer.min_count=0", "min_count=0", "at least 1"),
    wrong("train", "checkpoint.keep_last=0", "checkpoint.keep_last=0", "at least 1"),
    wrong("train", "checkpoint.every_minutes=-1", "checkpoint.every_minutes=-1", "at least 0"),
    wrong("train", "checkpoint.on_full_disk=cry", "'cry'", "stop, continue"),
    wrong("train", "sample.temperature=-1", "sample.temperature=-1", "at least 0"),
    wrong("train", "sample.temperature=inf", "sample.temperature=inf", "at most 1e+38"),
    wrong("train", "model.add_count=inf", "model.add_count=inf", "above 0"),
    wrong("train", "model.add_count=0", "model.add_count=0", "above 0"),
    wrong("train", "optim.weight_decay=inf", "optim.weight_decay=inf", "at most 1e+38"),
    wrong("train", "model.kind=ngram model.block_size=5000", "block_size=5000", "smaller"),
    wrong("train", "sample.max_new_tokens=-5", "sample.max_new_tokens=-5", "at least 0"),
    wrong("train", "sample.prompt=ABC", "'A'", "U+0041", "vocabulary"),
    # The data.
    wrong("train", "data.path= data.name=shakespear", "'shakespear'", "did you mean 'shakespeare'"),
    wrong("train", "data.kind=table", "'table'", "stream"),
    wrong("train", "data.split=half", "'half'", "makemore"),
    wrong("train", "name=", "name=''", "--workdir"),
    wrong("train", "name=../x", "'../x'", "--workdir"),
    wrong("train", f"sample.max_new_tokens={BIG}", "sample.max_new_tokens=", "at most"),
    wrong("train", "data.path={w}/missing.txt", "missing.txt", "no file"),
    wrong("train", "data.path={w}", "a folder", "UTF-8 text file"),
    wrong("train", "data.path={w}/empty.txt", "empty.txt", "0 bytes"),
    wrong("train", "data.path={w}/blank.txt", "blank.txt", "empty"),
    wrong("train", "data.path={w}/nul.txt", "nul.txt", "byte 3 is NUL"),
    wrong("train", "data.path={w}/picture.png", "picture.png", "binary"),
    wrong("train", "data.path={w}/latin1.txt", "byte 1", "0xe4", "UTF-8"),
    wrong("train", "data.path={w}/utf16.txt", "UTF-16", "save it again as UTF-8"),
    wrong("train", "data.path={w}/one.txt", "1 character", "2 are the least"),
    wrong("train", "data.path={w}/two.txt", "1 tokens", "block_size=6"),
    wrong("train", "data.path={w}/short.txt", "2 tokens", "block_size=6", "at most 1"),
    wrong("train", "model.block_size=5000", "tokens", "block_size=5000", "give more text"),
    wrong("train", "data.kind=items data.path={w}/two_items.txt", "2 distinct items", "at least 3"),
    wrong("train", "data.kind=items data.path={w}/one_long_line.txt", "1 distinct items"),
    wrong("train", "data.path={w}/a\0b", "a\\x00b", "cannot be read"),
    wrong("train", "tokenizer.kind=word tokenizer.min_count=5000", "min_count=5000", "smaller"),
    # The work folder.
    wrong("train", "--workdir={w}/a_file", "a_file", "--workdir"),
    wrong("train", "--workdir={w}/a_file/run", "a_file/run", "--workdir"),
    wrong("train", "--workdir=/proc/run", "/proc/run", "--workdir"),
    wrong("train", "--workdir={w}/new\0run", "--workdir"),
    wrong("train", "--workdir={w}/" + "n" * 300, "--workdir"),
    wrong("train", "--workdir={w}/run optim.learning_rate=1", "0.02 -> 1.0", "--workdir"),
    wrong("train", "--workdir={w}/run train.steps=2", "step 3", "train.steps=2"),
    wrong("train", "--workdir={w}/broken", "step 3 is damaged", "--workdir"),
    wrong("train", "--workdir={w}/run --replay_step=-1", "--replay_step=-1", "at least 0"),
    wrong("train", "--workdir={w}/run --replay_step=3", "--replay_step=3", "train.steps=3"),
    wrong("train", "--workdir={w}/new --replay_step=1", "new", "holds no run"),
    wrong("train", "--replay_step=one", "--replay_step=one", "whole number"),
    # Using what was trained.
    *(
        case
        for name in ("sample", "evaluate")
        for case in (
            wrong(name, "", "--workdir"),
            wrong(name, "--workdir={w}/missing", "missing", "no folder"),
            wrong(name, "--workdir={w}/not_a_run", "not_a_run", "no checkpoint"),
            wrong(name, "--workdir={w}/a_file", "a_file", "--workdir"),
            wrong(name, "--workdir={w}/broken", "damaged", "manifest.json"),
            wrong(name, "--workdir={w}/run\0", "--workdir"),
            wrong(name, "--workdir={w}/run --checkpoint=bst", "'bst'", "best, last or a step"),
            wrong(name, "--workdir={w}/run --checkpoint=7", "no checkpoint 7", "0, 3"),
            wrong(name, "--workdir={w}/run --checkpoint=-1", "'-1'", "best, last or a step"),
        )
    ),
    wrong("evaluate", "--workdir={w}/run --split=test", "'test'", "train, val"),
    wrong("evaluate", "--workdir={w}/run --split=", "--split= names no split"),
    wrong("compare", "--workdirs={w}/run --markdown --csv", "choose one"),
    wrong("evaluate", "--workdir={w}/run --batch=3", "--batch"),
    wrong("sample", "--workdir={w}/run --prompt=Hi", "'H'", "U+0048", "vocabulary"),
    wrong("sample", "--workdir={w}/run --prompt=ab\ud800", "\\ud800"),
    wrong("sample", "--workdir={w}/run --prompt_file={w}/missing", "missing", "no file"),
    wrong("sample", "--workdir={w}/run --temperature=-1", "temperature=-1"),
    wrong("sample", "--workdir={w}/run --temperature=nan", "temperature=nan"),
    wrong("sample", "--workdir={w}/run --top_p=0", "top_p=0"),
    wrong("sample", "--workdir={w}/run --top_p=1.5", "top_p=1.5"),
    wrong("sample", "--workdir={w}/run --top_k=0", "top_k=0"),
    wrong("sample", "--workdir={w}/run --top_k=-3", "top_k=-3"),
    wrong("sample", f"--workdir={{w}}/run --top_k={10**20}", "top_k=", "below 2**31"),
    wrong("sample", f"--workdir={{w}}/run --checkpoint={'9' * 5000}", "--checkpoint=", "a step"),
    wrong("sample", "--workdir={w}/run --max_new_tokens=-4", "max_new_tokens=-4"),
    wrong("sample", f"--workdir={{w}}/run --max_new_tokens={BIG}", "max_new_tokens=", "at most"),
    wrong("sample", "--workdir={w}/run --num_samples=0", "num_samples=0", "1 or more"),
    wrong("sample", f"--workdir={{w}}/run --num_samples={BIG}", "num_samples=", "at most"),
    wrong("sample", f"--workdir={{w}}/run --seed={2**40}", "seed="),
]


def command_line(name: str, argv: str, world: Path) -> list[str]:
    given = [part.replace("{w}", str(world)) for part in argv.split(" ") if part]
    given = [p if p.startswith("--") or "=" not in p else f"--config.{p}" for p in given]
    if name != "train":
        return given
    base = {"data.path": world / "words.txt", "data.kind": "stream"}
    base |= {"model.kind": "bigram", "model.block_size": 6}
    base |= {"model.n_layer": 1, "model.n_head": 2, "model.n_embd": 6, "model.n_hidden": 7}
    base |= {"train.steps": 3, "train.batch_size": 4, "train.eval_every": 7, "train.eval_iters": 2}
    base |= {"train.chunk_steps": 5, "optim.learning_rate": 0.02, "optim.warmup_steps": 3}
    base |= {"sample.max_new_tokens": 9, "sample.temperature": 1.0, "optim.weight_decay": 0.01}
    if "n_head" in argv:
        base["model.kind"] = "gpt"
    flags = [f"--config.{field}={value}" for field, value in base.items()]
    return ["--config=gpt:small", f"--workdir={world / 'new'}", *flags, *given]


def assert_refused(code: int, capsys, named, world: Path, before: dict) -> None:
    out, err = capsys.readouterr()
    assert code == 2, err
    assert err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err, err
    for part in named:
        assert part in err, err
    assert len(err) < 1000, err
    after = tree(world)
    locks = {path for path in after if path.endswith(run_lock.NAME)}  # opened, so its time changes
    folders = {path for path in after if Path(path).is_dir()}
    changed = {path for path in after if after[path] != before.get(path)} - locks - folders
    assert not changed and set(before) - set(after) == set(), changed
    assert set(after) - set(before) <= locks, set(after) - set(before)


@pytest.mark.parametrize("name, argv, named", CASES)
def test_a_wrong_use_is_one_line_that_helps_and_touches_nothing(name, argv, named, world, capsys):
    before = tree(world)
    code = call(name, *command_line(name, argv, world))
    assert_refused(code, capsys, named, world, before)


def test_there_are_as_many_cases_as_promised():
    assert len(CASES) >= 100


def test_a_file_that_may_not_be_read_is_refused(world, capsys, monkeypatch):
    before = tree(world)

    def forbidden(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(text_file, "open", forbidden, raising=False)
    code = call("train", *command_line("train", "", world))
    assert_refused(code, capsys, ["words.txt", "Permission denied"], world, before)


def test_a_folder_that_may_not_be_written_is_refused(world, capsys, monkeypatch):
    before, open_ = tree(world), os.open

    def forbidden(path, flags, *args, **kwargs):
        if str(path).endswith(run_lock.NAME):
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", forbidden)
    code = call("train", *command_line("train", "--workdir={w}/run", world))
    assert_refused(code, capsys, ["run", "Permission denied", "--workdir"], world, before)


def test_a_pipe_is_refused_and_not_waited_for(world, capsys):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in this file system")
    os.mkfifo(world / "pipe")
    before = tree(world)
    code = call("train", *command_line("train", "data.path={w}/pipe", world))
    assert_refused(code, capsys, ["pipe", "no regular file"], world, before)


def test_a_batch_that_the_devices_cannot_share_is_refused(world, capsys, monkeypatch):
    mesh = jax.sharding.AbstractMesh((3, 1, 1), AXES)
    monkeypatch.setattr(experiment, "make_mesh", lambda *_: mesh)
    before = tree(world)
    code = call("train", *command_line("train", "", world))
    named = ["train.batch_size=4", "3 parts", "use 6"]
    assert_refused(code, capsys, named, world, before)


def test_a_second_run_in_a_folder_is_refused_and_the_holder_named(world, capsys):
    with run_lock.lock(world / "run"):
        before = tree(world)
        code = call("train", *command_line("train", "--workdir={w}/run", world))
        assert_refused(code, capsys, [f"process {os.getpid()}", "--workdir"], world, before)


COMMANDS = {name: f"gptjax.{name}" for name in ("train", "sample", "evaluate", "look", "prepare")}
COMMANDS |= {name: f"gptjax.{name}.__main__" for name in ("bench", "compare")}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_a_page_of_examples_and_flags(name, world, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")  # no meaning is broken over two lines
    before, module = tree(world), importlib.import_module(COMMANDS[name])
    assert call(name, "--help", f"--workdir={world}/missing") == 0
    out, err = capsys.readouterr()
    assert err == "" and tree(world) == before
    assert out.startswith(f"usage: python -m gptjax.{name} [--flag=value ...]\n")
    assert module.__doc__.split("\n")[0] in out and f"\n    python -m gptjax.{name} " in out
    for flag in module.FLAGS:
        assert f"\n--{flag.name}" in out and flag.meaning in out


def test_the_commands_that_open_a_run_share_its_flags():
    found = set()
    for name, module in COMMANDS.items():
        flags = importlib.import_module(module).FLAGS
        if {flag.name for flag in cli.RUN_FLAGS} <= {flag.name for flag in flags}:
            found.add(name)
            assert all(any(flag is ours for ours in flags) for flag in cli.RUN_FLAGS)
    assert found == {"sample", "evaluate", "look"}


def test_a_message_of_any_length_is_shown_by_its_ends(world, capsys):
    assert call("train", f"--{'x' * 100_000}=3") == 2
    err = capsys.readouterr().err
    assert len(err) < 1100 and "unknown flag --xxx" in err and err.endswith("see --help\n")


def test_debug_shows_where_a_mistake_was_found(world, capsys):
    assert call("train", *command_line("train", "train.steps=-1 --debug", world)) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "train.steps=-1" in err.splitlines()[-1]


@pytest.mark.parametrize(
    "prompt", ["", "a", "abcdefg" * 20, "\n"], ids=["empty", "one", "longer than block", "newline"]
)
def test_prompts_that_are_not_wrong_are_continued(prompt, world, capsys):
    argv = [f"--workdir={world}/run", f"--prompt={prompt}", "--max_new_tokens=3"]
    assert call("sample", *argv) == 0
    out, err = capsys.readouterr()
    assert out.startswith(prompt) and len(out) == len(prompt) + 3 + 1 and err == ""


def test_a_line_of_ten_megabytes_is_only_a_text(world):
    exp = experiment.build(tiny_runs.config(world / "one_long_line.txt"))
    assert sum(split.n_predicted for split in exp.splits.values()) == 10 * 2**20 - 2


def test_items_with_blank_lines_are_counted_without_them(world):
    (world / "blanks.txt").write_text("\n\nanna\n\n \notto\n\n\nbo\n\n", encoding="utf-8")
    config = tiny_runs.config(world / "blanks.txt", data={"kind": "items"})
    assert experiment.build(config).corpus.n_items == {"train": 1, "val": 1, "test": 1}
