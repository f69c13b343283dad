"""How a command begins and ends: its exit code, its one line on stderr, its output."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from toy_command import assert_one_line, call, fails

from gptjax.errors import UserError
from gptjax.runtime import compilation_cache


@pytest.mark.parametrize(
    "error, code, named",
    [
        (UserError("block_size=9 is\ntoo long"), 2, ["block_size=9 is too long"]),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a b"),
            2,
            ["/a b: Permission denied"],
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, ["standard output", "No space"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a"),
            2,
            ["/a: No space left on device", "make room"],
        ),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 bytes"), 2, ["out of memory", "fewer or shorter"]),
        (MemoryError(), 2, ["out of memory"]),
        (RuntimeError("Unable to initialize backend 'x': no\nmore"), 2, ["JAX_PLATFORMS", "'x'"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_what_a_command_raises_for_its_user_is_one_line(error, code, named, capsys, monkeypatch):
    def main(args):
        raise error

    monkeypatch.setattr("gptjax.cli.main._drop_stdout", lambda: None)
    assert call(main) == code
    assert_one_line(2, capsys, named)
    assert call(main, "--debug") == code
    err = capsys.readouterr().err
    assert "Traceback" in err and "in main" in err
    assert err.splitlines()[-1].startswith("gptjax.toy: ")


def test_an_error_cannot_move_the_cursor(capsys):
    def main(_):
        raise UserError("a \x1b]0;name\x07 from a checkpoint")

    assert call(main) == 2
    assert capsys.readouterr().err.endswith("a \\x1b]0;name\\x07 from a checkpoint\n")


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


def test_the_exit_code_is_the_commands():
    assert call(lambda args: None) == 0
    assert call(lambda args: 75) == 75


SCRIPT = """
import logging
from gptjax.cli import main as cli
def main(args):
    print("Zürich \\udcff", args.word)
    for library in ("jax", "jax._src.xla_bridge", "absl", "orbax"):
        logging.getLogger(library).info("told by %s", library)
        logging.getLogger(library).warning("warned by %s", library)
    if args.dtype:
        import jax.numpy as jnp
        print(jnp.ones(1, dtype=float).dtype)
    if args.many:
        for line in range(100_000):
            print(line)
flags = [cli.Flag("many", False, ""), cli.Flag("dtype", False, ""), cli.Flag("word", "", "")]
if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=flags)
"""


def start(*argv: str, stdout=subprocess.PIPE) -> subprocess.Popen:
    path = Path(tempfile.mkdtemp()) / "command.py"
    path.write_text(SCRIPT, encoding="utf-8")
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(root)}
    command = [sys.executable, str(path), "--compilation_cache=false", *argv]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=env)


def test_a_reader_that_leaves_ends_the_command_in_silence():
    with start("--many") as command:
        assert command.stdout.readline().startswith("Zürich ? ".encode())
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
def test_a_full_standard_output_is_named():
    with open("/dev/full", "w") as full, start("--many", stdout=full) as command:
        err = command.stderr.read().decode()
    assert command.returncode == 2 and err.count("\n") == 1
    assert "standard output cannot be written: No space left on device" in err


def test_float64_is_left_out_in_one_line(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    with start("--dtype") as command:
        out, err = command.communicate()
    assert command.returncode == 0 and out.decode().split()[-1] == "float32"
    assert err.decode().count("\n") == 1 and "JAX_ENABLE_X64 is left out" in err.decode()


def test_output_is_utf8_whatever_the_terminal():
    with start("--word=Müller") as command:
        out, err = command.communicate()
    assert out.decode("utf-8").split() == ["Zürich", "?", "Müller"] and err == b""
    assert command.returncode == 0


def test_libraries_are_heard_only_in_debug():
    with start("--debug") as command:
        err = command.communicate()[1].decode("utf-8")
    for library in ("jax", "jax._src.xla_bridge", "absl", "orbax"):
        assert f"told by {library}" in err and f"warned by {library}" in err


def test_a_config_file_that_opens_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def get_config():\n    return open('/no/such')\n")
    argv = [f"--config={tmp_path / 'mine.py'}"]
    assert_one_line(call(fails, *argv, config=True), capsys, ["/no/such"])


COMMANDS = ["gptjax.train", "gptjax.sample", "gptjax.evaluate", "gptjax.look"]
COMMANDS += ["gptjax.prepare", "gptjax.compare.__main__", "gptjax.aot.__main__"]


@pytest.mark.parametrize("module", ["gptjax.cli", "gptjax.cli.main", *COMMANDS])
def test_the_command_line_loads_neither_jax_nor_flax(module):
    code = f"import sys, {module}; sys.exit(bool({{'jax', 'flax', 'optax'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
