"""A config file is found by path or by name; a mistake in it is one line that names its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from gptjax.config import files, parse
from gptjax.errors import UserError

BODY = "from gptjax import config\ndef get_config():\n    c = config.base()\n    c.name = 'x'\n"
BODY += "    return c\n"


def write_config(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(body, encoding="utf-8")
    return str(path)


def test_the_names_are_the_files_of_the_clone():
    found = sorted(path.stem for path in Path(__file__).parents[2].glob("configs/*.py"))
    assert files.names() == found and {"bigram", "gpt", "ladder"} <= set(found)


def test_a_config_is_found_by_path_from_anywhere_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_path = files.load("configs/bigram.py")
    assert by_path == files.load("bigram") and by_path.name == "bigram"
    assert files.find("bigram") == files.find("configs/bigram.py")
    named = files.load("configs/gpt.py:lecture")
    assert named == files.load("gpt:lecture") != by_path
    # What stands here comes before the repository's.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/bigram.py").write_text(BODY, encoding="utf-8")
    assert files.load("configs/bigram.py").name == "x"


def test_a_path_with_a_colon_is_a_path_first(tmp_path, monkeypatch):
    (tmp_path / "a:b.py").write_text(BODY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert files.load("a:b.py").name == "x"


def test_what_a_file_gives_is_locked(tmp_path):
    settings = files.load(write_config(tmp_path, BODY))
    assert isinstance(settings, ConfigDict) and settings.is_locked
    with pytest.raises(AttributeError, match="n_layer"):
        settings.model.n_layers = 2


def refusal(name: str) -> str:
    """What a command says of a config, which it loads and then checks."""
    with pytest.raises(UserError) as error:
        parse.from_dict(files.load(name))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name, named",
    [
        ("", ["no config file ''", "bigram", "gpt"]),
        ("gtp", ["'gtp'", "did you mean gpt?", "bigram"]),
        ("configs/bigrm.py:small", ["'configs/bigrm.py:small'", "did you mean bigram?"]),
        ("/", ["'/'", "choose one of"]),
        ("README.md", ["'README.md'", "gpt"]),
        ("gpt:huge", ["'huge'", "small", "lecture"]),
        ("bigram:small", ["bigram.py", "comes in one size", ":small"]),
    ],
)
def test_a_name_of_no_config_is_told_the_names(name, named):
    message = refusal(name)
    assert all(part in message for part in named), message


@pytest.mark.parametrize(
    "body, named",
    [
        ("def get_config(:\n", ["line 1", "mine.py"]),
        ("x = 1\n", ["mine.py", "no get_config"]),
        ("import no_such_module\n", ["line 1", "no_such_module"]),
        ("def get_config():\n    pass\n", ["ConfigDict", "NoneType"]),
        ("def get_config():\n    return {}\n", ["ConfigDict", "dict"]),
        ("def get_config():\n    return 1 / 0\n", ["line 2", "ZeroDivisionError"]),
        ("def get_config(:\0", ["mine.py", "null bytes"]),
        ("def get_config():\n    return '\xff'\n", ["mine.py"]),
        ("C.model.n_layr = 3", ["line 4", "n_layr", "n_layer?"]),
        ("C.model.zzzzzz = 3", ["line 4", "zzzzzz;", "--help"]),
        ("C.max_iters = 3", ["line 4", "unknown field max_iters (here it is train.steps)"]),
        ("C.train.update(max_iters=3)", ["line 4", "max_iters (here it is train.steps)"]),
        ("C.device = 'cpu'", ["line 4", "device (there is none: ", "JAX_PLATFORMS=cpu"]),
        ("C.optim.lr = 3.0", ["line 4", "lr (here it is optim.learning_rate)"]),
        ("C.modl.n_layer = 3", ["line 4", "modl", "model?"]),
        ("C.model.n_layer = 'three'", ["line 4", "n_layer", "str", "int"]),
        ("C.model.n_layer = 2.5", ["line 4", "n_layer", "float", "int"]),
        ("C.model.n_layer = None", ["model.n_layer=None"]),
        ("C.model.dropout = 1.5", ["model.dropout=1.5"]),
    ],
)
def test_a_mistake_in_a_config_file_names_its_line(body, named, tmp_path):
    head = "from gptjax import config\ndef get_config():\n    C = config.base()\n    "
    path = write_config(tmp_path, f"{head}{body}\n    return C\n" if body[0] == "C" else body)
    if "\xff" in body:
        Path(path).write_bytes(body.encode("latin-1"))
    message = refusal(path)
    assert all(part in message for part in named), message


def test_a_file_that_a_config_cannot_open_is_the_machines_word(tmp_path):
    path = write_config(tmp_path, "def get_config():\n    return open('/no/such')\n")
    with pytest.raises(FileNotFoundError, match="/no/such"):
        files.load(path)
