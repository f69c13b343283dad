"""The table of the README from the notes to the code: all that it names is there."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from gptjax.config import files as config_file

ROOT = Path(__file__).resolve().parent.parent
HEADING = "## From the notes to the code"


def table():
    """The cells of the table's rows, or [] where the README has none."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    section = re.split(r"^## ", text.partition(HEADING + "\n")[2], flags=re.M)[0]
    rows = [line.strip("| ").split(" |") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


ROWS = table()
EACH = pytest.mark.parametrize("row", ROWS, ids=[" ".join(row[:2]) for row in ROWS])


def names_of(path):
    """The functions and classes of a file, methods as their own names."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_the_readme_has_the_table():
    assert len(ROWS) >= 25, f"README.md lacks the table under {HEADING!r}"
    pages = {page for row in ROWS for page in re.findall(r"\d+|[a-z]+", row[0].split("§")[0])}
    assert pages >= set(map(str, range(1, 11))) | {"slides", "concepts", "handwritten", "worked"}


@EACH
def test_the_file_and_its_names_exist(row):
    assert len(row) == 5, row
    path = None
    for code in re.findall("`([^`]+)`", row[2]):
        if "/" in code:
            path, _, code = code.partition(":")
        assert path and (ROOT / path).is_file(), path
        assert code in names_of(path), f"{path} has no {code}"


@EACH
def test_the_command_could_be_given(row):
    for code in re.findall("`([^`]+)`", row[3]):
        python, m, module, *flags = shlex.split(code)
        assert (python, m) == ("python", "-m")
        verb = ROOT / (module.replace(".", "/") + ".py")
        source = verb.read_text(encoding="utf-8")
        assert "cli.run(" in source, f"{module} is no verb"
        for flag in flags:
            name, _, value = flag.partition("=")
            if name == "--config":
                config_file.load(value)
            elif name.startswith("--"):
                assert f'"{name[2:]}"' in source, f"{module} has no {name}"


@EACH
def test_the_test_exists(row):
    found = re.findall("`([^`]+)::([^`]+)`", row[4])
    assert found, "no test is named"
    for path, name in found:
        assert name in names_of(path), f"{path} has no {name}"
