"""The wings of the package, read from its imports: lower ones never know higher ones."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gptjax"
MAX_LINES, MAX_FUNCTION, MAX_FILES = 400, 60, 9

# From the highest to the lowest; a file beside the wings has its own name here.
WINGS = ["commands", "bench", "training", "evaluation", "checkpoints", "generation", "models"]
WINGS += ["data", "monitoring", "cli", "runtime", "config", "errors"]

# Maths: functions and frozen dataclasses, without files, clocks, prints or flags.
PURE = {"errors", "data.batching", "data.tokenizers", "generation.decode", "generation.sampling"}
PURE |= {"training.optimizer", "training.scan", "runtime.sharding", "evaluation.count_models"}
PURE |= {"evaluation.embeddings", "evaluation.flops"}  # and all of models/
LIBRARIES = {"jax", "flax", "optax", "numpy"}
# What of Python's own library reaches outside: files, clocks, the system, chance.
OUTSIDE = {"os", "io", "sys", "pathlib", "shutil", "tempfile", "glob", "time", "datetime", "random"}
OUTSIDE |= {"subprocess", "threading", "multiprocessing", "socket", "urllib", "http", "logging"}

# Libraries that one file knows, so that they can be exchanged.
ONLY = {
    "orbax": {"checkpoints.store"},
    "matplotlib": {"monitoring.plots"},
    "tensorboardX": {"monitoring.metrics"},
    "rich": {"monitoring.console"},
    "ml_collections": {"config.parse", "config.files", "cli.flags"},
    "absl": {"cli.main", "cli.flags", "checkpoints.store"},
}

# Imports upwards that are still to be cut.
UNCUT = {
    ("config.parse", "checkpoints.store"),
    ("config.parse", "generation.generate"),
    ("config.parse", "data.splits"),
    ("config.parse", "models"),
    ("config.parse", "training.optimizer"),
    ("config.parse", "training.scan"),
    ("config.parse", "data.tokenizers"),
    ("evaluation.baselines", "training.experiment"),
    ("training.trainer", "evaluate"),
    ("training.trainer", "sample"),
    ("training.summary", "evaluate"),
}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
del FILES[""], TREES[""]  # gptjax/__init__.py
PURE |= {name for name in FILES if name.split(".")[0] == "models"}
EACH = pytest.mark.parametrize("name", sorted(FILES))


def imports(name):
    """Full names of all that a module imports, in functions and for types too: "jax.numpy"."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively: name the package"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(name):
    """The modules of this package that a module imports, as in FILES."""
    found = set()
    for full in imports(name):
        first, *rest = full.split(".")
        # "gptjax.models.loss.cross_entropy" is the module models.loss.
        while first == "gptjax" and rest and ".".join(rest) not in FILES:
            rest.pop()
        if first == "gptjax":
            found.add(".".join(rest))
    return found - {""}


def wing(name):
    first = name.split(".")[0]
    return first if first in WINGS else "commands"


def is_command(name):
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in TREES[name].body
    )


def test_the_lists_of_this_test_name_files_that_exist():
    assert set(FILES) >= PURE | {name for names in ONLY.values() for name in names}
    assert {wing(name) for name in FILES} == set(WINGS)
    commands = {name for name in FILES if is_command(name)}
    assert commands == {n for n in FILES if wing(n) == "commands"} | {"bench.__main__"}


@EACH
def test_no_wing_knows_a_higher_one(name):
    order = WINGS.index(wing(name))
    higher = {other for other in ours(name) if WINGS.index(wing(other)) < order}
    assert {(name, other) for other in higher} <= UNCUT


def test_what_is_uncut_is_there():
    assert all(other in ours(name) for name, other in UNCUT)


def test_imports_go_in_no_circle():
    left = {name: ours(name) for name in FILES}
    left["training.nonfinite"] -= {"training.trainer"}  # for its types: to be cut
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"in a circle, or above one: {sorted(left)}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_maths_knows_only_maths_and_the_array_libraries(name):
    assert {module for module in ours(name) if not module.startswith("config")} <= PURE
    known = {full.split(".")[0] for full in imports(name)} - LIBRARIES - {"gptjax"}
    assert known <= sys.stdlib_module_names - OUTSIDE
    called = {
        node.func.id
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval"}


@EACH
def test_a_library_is_known_to_its_own_file_alone(name):
    known = {full.split(".")[0] for full in imports(name)}
    assert {library for library in known & set(ONLY) if name not in ONLY[library]} == set()


def test_matplotlib_and_tensorboard_are_imported_only_when_they_are_used():
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                full = ast.unparse(node)
                assert "matplotlib" not in full and "tensorboardX" not in full, name


@EACH
def test_mistakes_are_raised_and_never_asserted(name):
    lines = [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.Assert)]
    assert lines == []


@pytest.mark.parametrize("name", sorted(PURE))
def test_maths_names_no_device(name):
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(TREES[name])
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    }
    strings = {
        node.value.lower()
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value not in docstrings
    }
    assert not strings & {"cpu", "gpu", "tpu", "cuda", "rocm", "metal"}


@EACH
def test_every_file_begins_by_saying_what_it_is(name):
    assert ast.get_docstring(TREES[name])


def test_a_folder_can_be_seen_at_a_glance():
    folders = {path.parent for path in FILES.values()}
    counts = {folder.name: len(list(folder.glob("*.py"))) for folder in folders}
    assert max(counts.values()) <= MAX_FILES, counts


@EACH
def test_a_file_can_be_read_in_one_go(name):
    n_lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES, f"{n_lines} lines: two purposes?"


@EACH
def test_a_function_can_be_held_in_the_head(name):
    if name in ("cli.flags", "compare"):
        return  # to be cut
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            n_lines = node.end_lineno - node.lineno + 1
            assert n_lines <= MAX_FUNCTION, f"{node.name} has {n_lines} lines"


@EACH
def test_a_file_is_named_after_what_it_holds(name):
    last = name.rsplit(".", 1)[-1]
    assert last not in {"utils", "util", "helpers", "common", "misc"}
    assert last not in sys.stdlib_module_names, "a script beside it would import the wrong one"
