"""launch/notes_to_code.md, the table from the notes to the code: all that it names is there."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from gptjax.cli import flags

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "launch/notes_to_code.md"


def table():
    """The cells of the table's rows, or [] where there is no such page."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    rows = [line.strip("| ").split(" |") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


ROWS = table()
EACH = pytest.mark.parametrize("row", ROWS, ids=[" ".join(row[:2]) for row in ROWS])


def names_of(path):
    """The functions and classes of a file, methods as their own names."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_the_page_has_the_table():
    assert len(ROWS) >= 36, f"{PAGE} lacks rows"
    pages = {page for row in ROWS for page in re.findall(r"\d+|[a-z]+", row[0].split("§")[0])}
    assert pages >= set(map(str, range(1, 11))) | {"slides", "concepts", "handwritten", "worked"}


@EACH
def test_the_file_and_its_names_exist(row):
    assert len(row) == 5, row
    path, found = None, re.findall("`([^`]+)`", row[2])
    assert found, "no file is named"
    for code in found:
        if "/" in code:
            path, _, code = code.partition(":")
        assert path and (ROOT / path).is_file(), path
        assert code in names_of(path), f"{path} has no {code}"


@EACH
def test_the_command_could_be_given(row):
    for code in re.findall("`([^`]+)`", row[3]):
        python, m, module, *arguments = shlex.split(code)
        assert (python, m) == ("python", "-m")
        if (ROOT / module.replace(".", "/")).is_dir():
            module += ".__main__"
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert "cli.run(main" in source, f"{module} is no command"
        own = importlib.import_module(module).FLAGS
        words = "words" if "words=" in source else ""
        flags.read([module, *arguments], own, "config=True" in source, words)


@EACH
def test_the_test_exists(row):
    found = re.findall("`([^`]+)::([^`]+)`", row[4])
    assert found, "no test is named"
    for path, name in found:
        assert name in names_of(path), f"{path} has no {name}"
