"""The wheel, and the console's command: used from an empty folder, the clone not in sight."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gptjax
from gptjax.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


def run(*command, cwd: Path, code: int = 0, **variables) -> str:
    """What a command prints on stdout, or on stderr where it has to fail."""
    env = os.environ | {"PIP_NO_INDEX": "1", "PYTHONUTF8": "1"} | variables
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves folders where it builds."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("gptjax", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=copy)
    return next((copy / "dist").glob("gptjax-*.whl"))


@pytest.fixture(scope="module")
def use(wheel, tmp_path_factory):
    """``use(*argv)``: the installed console command in an empty folder; ``use.folder``."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    run(*PIP, "install", "--no-deps", "--target", str(site), str(wheel), cwd=empty)
    command = next((site / "bin").glob("gptjax*"))

    def use(*argv, code=0, command=(str(command),)):
        return run(*command, *argv, cwd=empty, code=code, PYTHONPATH=str(site))

    use.folder, use.site = empty, site
    return use


def test_every_file_of_the_package_travels_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    kinds = (".py", ".typed", ".html", ".css", ".js", ".json")
    package = [path for path in ROOT.glob("gptjax/**/*") if path.suffix in kinds]
    ours = {path.relative_to(ROOT).as_posix() for path in [*package, *ROOT.glob("configs/*.py")]}
    assert names == {name.replace("configs/", "gptjax/configs/", 1) for name in ours}
    assert "gptjax/py.typed" in names and "gptjax/configs/gpt.py" in names
    assert wheel.name.startswith(f"gptjax-{gptjax.__version__}-")


def test_an_installed_gptjax_trains_and_writes_in_an_empty_folder(use):
    code = "import gptjax; print(gptjax.__file__)"
    where = run(sys.executable, "-c", code, cwd=use.folder, PYTHONPATH=str(use.site))
    assert Path(where.strip()).is_relative_to(use.site)
    text = "ROMEO: but soft, what light is this?\n" * 40
    (use.folder / "my.txt").write_text(text, encoding="utf-8")
    tiny = {"model.n_layer": 1, "model.n_head": 2, "model.n_embd": 8, "model.block_size": 16}
    tiny |= {"train.steps": 6, "train.eval_every": 0, "train.eval_iters": 2, "data.path": "my.txt"}
    flags = [f"--config.{field}={value}" for field, value in tiny.items()]
    said = use("train", "--config=gpt:small", "--workdir=runs/mine", *flags)
    assert "everything is in runs/mine" in said
    said = use("sample", "--workdir=runs/mine", "--prompt=ROMEO", "--max_new_tokens=5")
    assert said.startswith("ROMEO") and len(said) == len("ROMEO") + 5 + 1
    said = use("sample", code=2)
    assert said.count("\n") == 1 and "--workdir=runs/mine" in said and "(step 6, val " in said


CONFIGS = """
from gptjax.config import files
from gptjax.errors import UserError
for name in ("gpt", "configs/gpt.py:small", "bigram", "ladder:head", "gtp", "gpt:huge", "ladder:x"):
    try:
        print(files.load(name).name)
    except UserError as error:
        print(error)
"""


def test_an_installed_gptjax_finds_its_configs_and_names_none_that_is_not_there(use):
    *found, gtp, huge, x = use("-c", CONFIGS, command=[sys.executable]).splitlines()
    assert found[1:] == ["gpt-small", "bigram", "ladder-head"]
    assert "did you mean gpt?" in gtp and "small or lecture" in huge and "bigram, embed" in x
    assert "configs/" not in gtp + huge + x
    said = use("compare", "--ladder", "--rungs=x", code=2)  # it has found its ladder
    assert "none of bigram, embed, head" in said


def test_the_console_shows_its_commands_quickly_and_helps_with_a_slip(use):
    module = (sys.executable, "-X", "importtime", "-m", "gptjax")
    for command in (None, module):
        more = {"command": command} if command else {}
        page = use("--help", **more)
        assert page == use(**more) and page.startswith("usage: gptjax COMMAND")
        assert use("--version", **more) == f"gptjax {gptjax.__version__}\n"
    for name in COMMANDS:
        assert f"\n  {name} " in page
        assert (ROOT / f"gptjax/{name}.py").exists() or (ROOT / f"gptjax/{name}").is_dir()
    said = use("trian", code=2)
    assert said.startswith("gptjax: unknown command 'trian' (did you mean train?): choose train")
    assert said.count("\n") == 1
    loaded = use("trian", code=2, command=module)
    assert "gptjax.errors" in loaded and " jax\n" not in loaded and "absl" not in loaded
    assert use("look", "--help").startswith("usage: gptjax look [--flag=value ...]\n")


def test_every_command_is_a_command_of_the_console():
    modules = {
        path.relative_to(ROOT / "gptjax").parts[0]
        for path in ROOT.glob("gptjax/**/*.py")
        if "cli.run(main" in path.read_text(encoding="utf-8")
    }
    assert {name.removesuffix(".py") for name in modules} == set(COMMANDS)
