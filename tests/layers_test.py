"""The layers of the package, read from its imports: which file may know which.

verbs -> doors -> config -> pure nouns -> jax, flax, optax, numpy; no cycles.
"""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gptjax"
MAX_LINES = 300

# Functions and frozen dataclasses: no files, clocks, prints or flags.
PURE = {"errors", "tokenizer", "batches", "counts", "losses", "optimizer", "steps", "decoding"}
PURE |= {"samplers", "sharding", "flops", "neighbours"}  # and all of models/
LIBRARIES = {"jax", "flax", "optax", "numpy"}
# What of Python's own library reaches outside: files, clocks, the system, chance.
OUTSIDE = {"os", "io", "sys", "pathlib", "shutil", "tempfile", "glob", "time", "datetime", "random"}
OUTSIDE |= {"subprocess", "threading", "multiprocessing", "socket", "urllib", "http", "logging"}

# A verb is imported by nobody, but for these: training looks at itself while it runs, and a verb
# of many runs trains each.
DOWNHILL = dict.fromkeys(("train", "loop", "report"), {"evaluate", "sample"})
DOWNHILL |= {"compare": {"train"}}

# Libraries that one room knows, so that they can be exchanged.
ONLY = {
    "orbax": {"checkpoint", "shelf"},
    "matplotlib": {"plot"},
    "tensorboardX": {"metrics", "tensorboard"},
    "rich": {"metrics", "terminal"},
    "ml_collections": {"config", "config_file", "arguments"},
    "absl": {"cli", "arguments", "checkpoint"},
}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
del FILES[""], TREES[""]  # gptjax/__init__.py
PURE |= {name for name in FILES if name.split(".")[0] == "models"}
EACH = pytest.mark.parametrize("name", sorted(FILES))


def imports(name, typing_too=False):
    """Full names of all that a module imports, inside functions too: "jax.numpy"."""
    found, skipped = set(), set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= set() if typing_too else set(ast.walk(node))
        if node in skipped:
            continue
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
        # "gptjax.steps.TrainState" is the module steps; "gptjax.models.build" the package models.
        while first == "gptjax" and rest and ".".join(rest) not in FILES:
            rest.pop()
        if first == "gptjax":
            found.add(".".join(rest))
    return found - {""}


def is_verb(name):
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in TREES[name].body
    )


def test_the_lists_of_this_test_name_files_that_exist():
    assert set(FILES) >= PURE
    assert len(FILES) > 20
    assert {name for name in FILES if is_verb(name)} >= {"train", "evaluate", "sample"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_noun_knows_only_pure_nouns_and_the_array_libraries(name):
    assert ours(name) <= PURE
    known = {full.split(".")[0] for full in imports(name)} - LIBRARIES - {"gptjax"}
    assert known <= sys.stdlib_module_names - OUTSIDE
    called = {
        node.func.id
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval"}


@pytest.mark.parametrize("name", sorted(n for n in PURE if n.startswith("models")))
def test_models_know_nothing_else_of_ours(name):
    assert {module for module in ours(name) if not module.startswith("models")} <= {"errors"}


@EACH
def test_nobody_imports_a_verb_except_downhill(name):
    verbs = {module for module in ours(name) if is_verb(module)}
    assert verbs <= DOWNHILL.get(name, set())


def test_imports_go_in_no_circle():
    left = {name: ours(name) for name in FILES}
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"in a circle, or above one: {sorted(left)}"


@EACH
def test_a_library_is_known_to_its_own_room_alone(name):
    known = {full.split(".")[0] for full in imports(name, typing_too=True)}
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
def test_no_pure_noun_names_a_device(name):
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


@EACH
def test_a_file_can_be_read_in_one_go(name):
    n_lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES, f"{n_lines} lines: make two files or a folder of it"


@EACH
def test_a_file_is_named_after_what_it_holds(name):
    last = name.rsplit(".", 1)[-1]
    assert last not in {"utils", "util", "helpers", "common", "misc"}
    assert last not in sys.stdlib_module_names, "a script beside it would import the wrong one"
