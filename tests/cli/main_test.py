"""The command line, in this process where it can be: what reaches a verb, and how mistakes end."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from absl import flags as absl_flags
from hypothesis import given
from hypothesis import strategies as st

from gptjax.cli import flags as arguments
from gptjax.cli import help as pages
from gptjax.cli import main as cli
from gptjax.config import parse as gptjax_config
from gptjax.errors import UserError
from gptjax.runtime import compilation_cache

ABOUT = """Do a thing.

    python -m gptjax.verb --number=3

In: inner matters. Out: none."""
FLAGS = (
    cli.Flag("workdir", "", "folder of the run"),
    cli.Flag("number", 7, "how many, pieces"),
    cli.Flag("heat", 0.5, "above 0"),
    cli.Flag("loud", False, "say more"),
    cli.Flag("seed", int, "none means the run's"),
    cli.Flag("word", [], "may be repeated"),
    cli.Flag("split", "val", "which part", choices=("train", "val")),
)


@pytest.fixture(autouse=True)
def no_cache_of_compiled_programs(monkeypatch):
    monkeypatch.setattr(compilation_cache, "switch", lambda on: None)


def parse(*argv: str, config: bool = False):
    return arguments.parse(["gptjax.verb", *argv], FLAGS, config)


def call(main, *argv: str, config: bool = False) -> int:
    return cli.call(main, ["gptjax.verb", *argv], about=ABOUT, flags=FLAGS, config=config)


def fails(*_):
    raise AssertionError("main was called")


def test_flags_that_are_not_set_have_their_defaults():
    args = parse()
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
def test_a_flag_reaches_the_verb_with_its_type(argv, name, value):
    found = getattr(parse(*argv), name)
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
    plain = parse("--config=gpt:small", config=True).config
    changes = {f.path: f.value for f in gptjax_config.fields(plain)}[path] != value
    for order in (["--config=gpt:small", *argv], [*argv, "--config=gpt:small"]):
        args = parse(*order, config=True)
        found = {f.path: f.value for f in gptjax_config.fields(args.config)}[path]
        assert found == value and type(found) is type(value)
        # A flag that says what the file says leaves the run the file's.
        assert args.overridden == ([path] if changes else [])
        assert args.config.model.n_embd == 128  # what the file says stays


def test_overridden_names_each_field_once():
    args = parse("--config=gpt:small", "--config.seed=1", "--number=2", config=True)
    assert args.overridden == ["seed"] and args.number == 2
    assert parse("--config=gpt:small", config=True).overridden == []


def write_config(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(body, encoding="utf-8")
    return f"--config={path}"


def test_a_config_is_found_by_path_from_anywhere_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_path = parse("--config=configs/bigram.py", config=True).config
    assert by_path == parse("--config=bigram", config=True).config
    assert by_path.name == "bigram"
    named = parse("--config=configs/gpt.py:lecture", config=True).config
    assert named == parse("--config=gpt:lecture", config=True).config != by_path
    # What stands here comes before the repository's.
    (tmp_path / "configs").mkdir()
    body = "from gptjax import config\ndef get_config():\n    c = config.base()\n    c.name = 'x'\n"
    (tmp_path / "configs/bigram.py").write_text(body + "    return c\n", encoding="utf-8")
    assert parse("--config=configs/bigram.py", config=True).config.name == "x"


def test_a_config_may_compute_one_field_from_another(tmp_path):
    flag = write_config(
        tmp_path,
        "from gptjax import config\n"
        "def get_config():\n"
        "    c = config.base()\n"
        "    c.model.n_hidden = c.model.get_ref('n_embd') * 3\n"
        "    return c\n",
    )
    assert parse(flag, "--config.model.n_embd=20", config=True).config.model.n_hidden == 60


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
    (["--flagfile=/no/such/file"], ["/no/such/file"]),
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


def assert_one_line(code: int, capsys, named: list[str]) -> None:
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith("gptjax.verb: ") and err.count("\n") == 1 and err.endswith("\n")
    for part in named:
        assert part in err, err


@pytest.mark.parametrize(
    "body, named",
    [
        ("def get_config(:\n", ["line 1", "mine.py"]),
        ("x = 1\n", ["mine.py", "no get_config"]),
        ("import no_such_module\n", ["line 1", "no_such_module"]),
        ("def get_config():\n    pass\n", ["ConfigDict", "NoneType"]),
        ("def get_config():\n    return {}\n", ["ConfigDict", "dict"]),
        ("def get_config():\n    return 1 / 0\n", ["line 2", "ZeroDivisionError"]),
        ("def get_config():\n    return open('/no/such')\n", ["/no/such"]),
        ("def get_config(:\0", ["mine.py", "null bytes"]),
        ("def get_config():\n    return '\xff'\n", ["mine.py"]),
        ("C.model.n_layr = 3", ["line 4", "n_layr", "n_layer?"]),
        ("C.model.zzzzzz = 3", ["line 4", "zzzzzz", "--print_config"]),
        ("C.modl.n_layer = 3", ["line 4", "modl", "model?"]),
        ("C.model.n_layer = 'three'", ["line 4", "n_layer", "str", "int"]),
        ("C.model.n_layer = 2.5", ["line 4", "n_layer", "float", "int"]),
        ("C.model.n_layer = None", ["n_layer"]),
        ("C.model.dropout = 1.5", ["model.dropout=1.5"]),
        ("C = config.ConfigDict({'seed': 5})", ["mine.py", "base()"]),
        ("C = config.ConfigDict({'sed': 5})", ["mine.py", "base()"]),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_and_code_2(body, named, tmp_path, capsys):
    head = "from gptjax import config\ndef get_config():\n    C = config.base()\n    "
    flag = write_config(tmp_path, f"{head}{body}\n    return C\n" if body[0] == "C" else body)
    if "\xff" in body:
        (tmp_path / "mine.py").write_bytes(body.encode("latin-1"))
    override = ["--config.model.n_head=2"] if "base()" in named else []
    assert_one_line(call(fails, flag, *override, config=True), capsys, named)


@pytest.mark.parametrize(
    "error, code, named",
    [
        (UserError("block_size=9 is\ntoo long"), 2, ["block_size=9 is too long"]),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a b"),
            2,
            ["/a b: Permission denied"],
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, ["No space left", "make room"]),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 bytes"), 2, ["out of memory", "smaller batch"]),
        (MemoryError(), 2, ["out of memory"]),
        (RuntimeError("Unable to initialize backend 'x': no\nmore"), 2, ["JAX_PLATFORMS", "'x'"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_what_a_verb_raises_for_its_user_is_one_line(error, code, named, capsys):
    def main(args):
        raise error

    assert call(main) == code
    assert_one_line(2, capsys, named)
    assert call(main, "--debug") == code
    err = capsys.readouterr().err
    assert "Traceback" in err and "in main" in err
    assert err.splitlines()[-1].startswith("gptjax.verb: ")


def test_an_error_cannot_move_the_cursor(capsys):
    def main(_):
        raise UserError("a \x1b]0;name\x07 from a checkpoint")

    assert call(main) == 2
    assert capsys.readouterr().err.endswith("a \\x1b]0;name\\x07 from a checkpoint\n")


def test_a_folder_may_stand_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert parse("--workdir=~/runs/x").workdir == "/home/me/runs/x"
    assert parse("--workdir=").workdir == ""


def test_compiled_programs_are_kept_unless_told_otherwise(monkeypatch):
    switched = []
    monkeypatch.setattr(compilation_cache, "switch", switched.append)
    for flags in ((), ("--compilation_cache=false",), ("--nocompilation_cache",)):
        assert call(lambda args: None, *flags) == 0
    assert switched == [True, False, False]


def test_a_bug_is_not_dressed_up_as_a_mistake():
    def main(args):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        call(main)


def test_the_exit_code_is_the_verbs():
    assert call(lambda args: None) == 0
    assert call(lambda args: 75) == 75


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_what_the_verb_does_and_every_flag(flag, capsys):
    assert call(fails, flag) == 0
    out, err = capsys.readouterr()
    assert "Do a thing." in out and "python -m gptjax.verb --number=3" in out
    assert "inner matters" not in out and err == ""
    for line in ("--number=7", "--heat=0.5", "--loud=false", "--split=val", "--debug=false"):
        assert f"\n{line} " in out
    assert "\n--seed " in out and "how many, pieces" in out and "config" not in out


def test_help_needs_no_config_and_lists_its_fields(capsys):
    assert call(fails, "--config=nowhere", "--help", config=True) == 0
    out = capsys.readouterr().out
    for field in gptjax_config.fields(gptjax_config.Config()):
        # A long meaning is wrapped at the terminal's width.
        assert f"\n--config.{field.path}=" in out
        assert " ".join(field.meaning.split()) in " ".join(out.split())
    assert "bigram_embed" in out


def test_print_config_can_be_given_back_as_flags(capsys):
    first = ["--config=gpt:small", "--config.model.n_layer=3", "--config.sample.prompt=it's so"]
    first += ["--config.expected={'names': (1.5, 2)}", "--config.optim.learning_rate=3e-5"]
    assert call(fails, *first, "--print_config", config=True) == 0
    out = capsys.readouterr().out
    given = []
    for line in out.splitlines():
        if line.startswith("--config."):
            # Two spaces end the value: none here holds two.
            given += shlex.split(line[: line.index("  ")])
    asked = parse(*first, config=True)
    again = parse("--config=bigram", *given, config=True)
    assert again.config == asked.config
    assert [flag.split("=")[0] for flag in given] == [
        f"--config.{field.path}" for field in gptjax_config.fields(asked.config)
    ]


@given(text=st.text(st.characters(exclude_categories=["Cs"])), number=st.floats())
def test_a_shown_flag_reads_back_as_its_value(text, number):
    argv = shlex.split(f"{pages._flag('workdir', text)} {pages._flag('heat', number)}")
    args = parse(*argv)
    assert args.workdir == text and repr(args.heat) == repr(number)


def test_a_page_fits_the_terminal(monkeypatch):
    rows = [("--a=1", "int", "word " * 30), ("--longer=2", "float", "short")]
    monkeypatch.setenv("COLUMNS", "60")
    lines = pages.table(rows).split("\n")
    assert max(map(len, lines)) < 60 and lines[1].startswith(" " * 19 + "word")
    assert " ".join(" ".join(lines).split()).count("word") == 30
    monkeypatch.setenv("COLUMNS", "30")  # too narrow to wrap
    assert len(pages.table(rows).split("\n")) == 2


def test_no_flag_is_left_behind_in_absl():
    before = set(absl_flags.FLAGS)
    for _ in range(2):  # and a second command line in one process is no duplicate
        parse("--config=gpt", "--config.seed=3", "--number=4", config=True)
    assert set(absl_flags.FLAGS) == before


SCRIPT = """
import logging
from gptjax.cli import main as cli
def main(args):
    print("Zürich \\udcff", args.word)
    for library in ("jax", "jax._src.xla_bridge", "absl", "orbax"):
        logging.getLogger(library).info("told by %s", library)
        logging.getLogger(library).warning("warned by %s", library)
    if args.many:
        for line in range(100_000):
            print(line)
flags = [cli.Flag("many", False, ""), cli.Flag("word", "", "")]
if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=flags)
"""


def start(*argv: str) -> subprocess.Popen:
    path = Path(tempfile.mkdtemp()) / "verb.py"
    path.write_text(SCRIPT, encoding="utf-8")
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(root)}
    command = [sys.executable, str(path), "--compilation_cache=false", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def test_a_reader_that_leaves_ends_the_verb_in_silence():
    with start("--many") as verb:
        assert verb.stdout.readline().startswith("Zürich ? ".encode())
        verb.stdout.close()
        assert verb.stderr.read() == b""
    assert verb.returncode == 141


def test_output_is_utf8_whatever_the_terminal():
    with start("--word=Müller") as verb:
        out, err = verb.communicate()
    assert out.decode("utf-8").split() == ["Zürich", "?", "Müller"] and err == b""
    assert verb.returncode == 0


def test_libraries_are_heard_only_in_debug():
    with start("--debug") as verb:
        err = verb.communicate()[1].decode("utf-8")
    for library in ("jax", "jax._src.xla_bridge", "absl", "orbax"):
        assert f"told by {library}" in err and f"warned by {library}" in err
