"""The wings of the package, read from its imports: lower ones never know higher ones."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gptjax"
MAX_LINES, MAX_FUNCTION, MAX_FILES, MAX_PACKAGE = 400, 60, 11, 23_000

# From the highest to the lowest; a file beside the wings has its own name here.
WINGS = ["commands", "aot", "interop", "compare", "bench", "serving", "web", "interpret"]
WINGS += [
    "training",
    "evaluation",
    "checkpoints",
    "generation",
    "models",
    "data",
    "monitoring",
    "cli",
    "processes",
    "runtime",
    "config",
    "errors",
]

# Maths: functions and frozen dataclasses, without files, clocks, prints or flags.
PURE = {"errors", "runtime.mesh_rules", "data.batching", "data.dataset", "data.splits"}
PURE |= {"data.tokenizers", "data.plain_tokenizers", "data.bpe"}
PURE |= {"generation.decode", "generation.generate", "generation.sampling"}
PURE |= {"generation.stopping", "evaluation.count_models", "evaluation.embeddings"}
PURE |= {"evaluation.flops", "evaluation.loss_eval", "evaluation.memorization"}
PURE |= {"training.optimizer", "training.scan", "training.train_step"}  # and all of models/
PURE |= {"training.tuning", "aot.hlo"}
CLOCK = "runtime.pace"  # decides when something is computed, and never what
LIBRARIES = {"jax", "flax", "optax", "numpy"}
# What of Python's own library reaches outside: files, clocks, the system, chance.
OUTSIDE = {"os", "io", "sys", "pathlib", "shutil", "tempfile", "glob", "time", "datetime", "random"}
OUTSIDE |= {"subprocess", "threading", "multiprocessing", "socket", "urllib", "http", "logging"}
# But makemore's shuffle is random.Random(seed)'s, and byte pairs are learnt beside the main thread.
SEEDED = {"data.splits": {"random"}, "data.bpe": {"tokenizers", "threading"}}

# Libraries that one file knows, so that they can be exchanged.
ONLY = {
    "orbax": {"checkpoints.store"},
    "matplotlib": {"monitoring.pictures", "monitoring.plots", "interpret.figures"},
    "tensorboardX": {"monitoring.tensorboard"},
    "rich": {"monitoring.console"},
    "tokenizers": {"data.bpe"},
    "ml_collections": {"config.parse", "config.files", "cli.flags"},
    "starlette": {"serving.app", "serving.playground"},
    "uvicorn": {"serve"},
    "absl": {"cli.main", "cli.flags", "checkpoints.store"},
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
    assert commands == {n for n in FILES if wing(n) == "commands"} | {
        "aot.__main__",
        "bench.__main__",
        "compare.__main__",
    }


@EACH
def test_no_wing_knows_a_higher_one(name):
    order = WINGS.index(wing(name))
    assert {other for other in ours(name) if WINGS.index(wing(other)) < order} == set()


def test_imports_go_in_no_circle():
    left = {name: ours(name) for name in FILES}
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"in a circle, or above one: {sorted(left)}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_maths_knows_only_maths_and_the_array_libraries(name):
    assert {module for module in ours(name) if not module.startswith("config")} <= PURE | {CLOCK}
    known = {full.split(".")[0] for full in imports(name)} - LIBRARIES - {"gptjax"}
    assert known - SEEDED.get(name, set()) <= sys.stdlib_module_names - OUTSIDE
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
    if name == "models.fast.gpt_fast":  # it chooses among the kernels that devices bring
        return
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


def test_every_wing_lists_its_files_in_reading_order():
    for name, path in FILES.items():
        if path.name == "__init__.py":
            listed = set(re.findall(r"^- ``(\w+)``", ast.get_docstring(TREES[name]), re.M))
            files = {p.stem for p in path.parent.glob("*.py")} - {"__init__"}
            assert listed == files | {p.parent.name for p in path.parent.glob("*/__init__.py")}


def test_nobody_outside_asks_what_kind_a_token_or_a_model_is():
    for name, path in FILES.items():
        source = path.read_text(encoding="utf-8")
        assert "hasattr(model" not in source, name
        # A command says what it is about before it imports JAX.
        assert "." not in name or "TYPE_CHECKING" not in source, name
        assert name.startswith("data.") or "isalnum" not in source, name


@EACH
def test_every_file_begins_by_saying_what_it_is(name):
    assert ast.get_docstring(TREES[name])


def test_the_package_is_small():
    paths = [PACKAGE / "__init__.py", *FILES.values()]
    assert sum(len(path.read_text("utf-8").splitlines()) for path in paths) <= MAX_PACKAGE


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
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            n_lines = node.end_lineno - node.lineno + 1
            assert n_lines <= MAX_FUNCTION, f"{node.name} has {n_lines} lines"


@EACH
def test_a_file_is_named_after_what_it_holds(name):
    last = name.rsplit(".", 1)[-1]
    assert last not in {"utils", "util", "helpers", "common", "misc"}
    assert last not in sys.stdlib_module_names, "a script beside it would import the wrong one"
