"""A command of the tests: its flags, and what its command line becomes."""

from __future__ import annotations

from gptjax.cli import flags, main
from gptjax.cli.flags import Flag

NAME = "gptjax.toy"
ABOUT = """Do a thing.

    python -m gptjax.toy --number=3

In: inner matters. Out: none."""
FLAGS = (
    Flag("workdir", "", "folder of the run"),
    Flag("number", 7, "how many, pieces"),
    Flag("heat", 0.5, "above 0"),
    Flag("loud", False, "say more"),
    Flag("seed", int, "none means the run's"),
    Flag("word", [], "may be repeated"),
    Flag("split", "val", "which part", choices=("train", "val")),
)


def read(*argv: str, config: bool = False):
    return flags.read([NAME, *argv], FLAGS, config)


def call(command, *argv: str, config: bool = False) -> int:
    return main.call(command, [NAME, *argv], about=ABOUT, flags=FLAGS, config=config)


def fails(*_):
    raise AssertionError("the command was called")


def assert_one_line(code: int, capsys, named: list[str]) -> None:
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith(f"{NAME}: ") and err.count("\n") == 1 and err.endswith("\n")
    for part in named:
        assert part in err, err
