"""launch/*.sh and the Python beneath them, without network: only pip, jax and the verbs are fakes.

Every script runs in a copy of the launch folder, in a path with a space. The fakes lie on
PYTHONPATH, so that they win in the caller's Python and in the .venv that the scripts make.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import install
import pytest
import wheels

ROOT = Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
SCRIPTS = [".ci/run", "launch/test.sh", "launch/train.sh", "launch/venv.sh"]
PCI = "sys/bus/pci/devices/0000:00:05.0"
needs_bash = pytest.mark.skipif(os.name == "nt", reason="POSIX shell scripts; Windows: README.md")

RECORD = """
import json, os, signal, sys
def record(name, **more):
    with open(os.environ["CALLS"], "a", encoding="utf-8") as file:
        print(json.dumps({"name": name, "argv": sys.argv[1:], "prefix": sys.prefix,
                          "cwd": os.getcwd(), **more}), file=file)
"""
PIP = """
from record import *
if "--version" not in sys.argv:
    kept = open(sys.argv[-1], encoding="utf-8").read() if "-c" in sys.argv else ""
    record("pip", constraints=kept.split())
    if os.environ.get("PIP") == "fails":
        sys.exit("ERROR: no route to host")
    if os.environ.get("PIP") == "killed":
        os.kill(os.getppid(), signal.SIGKILL)
"""


class Clone:
    """A copy of the launch folder with fakes around it, and what was called in it."""

    def __init__(self, folder: Path):
        self.root, self.fakes, self.bin = folder / "a clone", folder / "fakes", folder / "bin"
        self.log = folder / "calls.jsonl"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copytree(ROOT / ".ci", self.root / ".ci")
        for name in ("requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        write(self.root / "gptjax/train.py", "from record import *\nrecord('train')")
        write(self.fakes / "record.py", RECORD)
        write(self.fakes / "pip/__main__.py", PIP)
        for package in (self.root / "gptjax", self.fakes / "pip"):  # else an installed one wins
            write(package / "__init__.py", "")
        write(self.fakes / "jax.py", "raise ImportError('no jax in this Python')")
        for name in ("ruff", "pytest"):
            record = f"record('{name}', data=os.environ.get('GPTJAX_DATA_DIR'))"
            status = f"sys.exit(int(os.environ.get('{name.upper()}', 0)))"
            write(self.fakes / f"{name}.py", f"from record import *\n{record}\n{status}")
        # -S: without site-packages, as a fresh machine's Python.
        write(self.bin / "python3", f'#!/bin/sh\nexec "{sys.executable}" -S "$@"', mode=0o755)

    def preinstall_jax(self, version: str):
        write(self.fakes / "jax.py", f"__version__ = '{version}'")
        metadata = f"Metadata-Version: 2.1\nName: jax\nVersion: {version}\n"
        write(self.fakes / f"jax-{version}.dist-info/METADATA", metadata)

    def run(self, script, *arguments, cwd=None, **variables):
        theirs = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "TMPDIR")}
        env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "PYTHONPATH": str(self.fakes),
            "CALLS": str(self.log),
            "GPTJAX_PLATFORM": "cpu",
            "PIP_NO_INDEX": "1",
        }
        return subprocess.run(
            [BASH, str(script), *arguments],
            cwd=cwd or self.root,
            env=theirs | env | variables,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def train(self, *arguments, **variables):
        return self.run("launch/train.sh", *arguments, **variables)

    def calls(self, name):
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [call for line in lines if (call := json.loads(line))["name"] == name]


def write(path: Path, text: str, mode: int = 0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(mode)


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


@needs_bash
@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_read_every_script(script):
    subprocess.run([BASH, "-n", str(ROOT / script)], check=True)


@needs_bash
def test_the_first_start_installs_into_a_venv_and_the_second_runs_no_pip(clone):
    first, second = clone.train(), clone.train()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    (call,) = clone.calls("pip")
    assert call["prefix"] == str(clone.root / ".venv")
    assert call["argv"][0] == "install" and set(install.requirements(False)) < set(call["argv"])
    assert [run["prefix"] for run in clone.calls("train")] == [str(clone.root / ".venv")] * 2
    assert "into .venv (once" in first.stderr and second.stderr == ""


@needs_bash
def test_arguments_reach_the_trainer_unchanged_from_any_folder(clone, tmp_path):
    arguments = ["--config.data.path=my text.txt", "*", "", "--workdir=$HOME"]
    result = clone.run(clone.root / "launch/train.sh", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = clone.calls("train")
    assert run["argv"] == [f"--config={clone.root}/configs/gpt.py", *arguments]
    assert run["cwd"] == str(tmp_path), "relative paths are the user's"


@needs_bash
@pytest.mark.parametrize("own", [["--config=configs/bigram.py"], ["--config", "x y.py"]])
def test_a_config_of_the_callers_replaces_the_default(clone, own):
    clone.train("--config.seed=2", *own)
    assert clone.calls("train")[0]["argv"] == ["--config.seed=2", *own]


@needs_bash
def test_a_link_to_the_script_works_from_elsewhere(clone, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links/one").symlink_to("two")
    (tmp_path / "links/two").symlink_to("../a clone/launch/train.sh")
    assert clone.run(tmp_path / "links/one", cwd=tmp_path).returncode == 0
    assert clone.calls("train")[0]["prefix"] == str(clone.root / ".venv")


@needs_bash
def test_a_failing_pip_shows_its_last_lines_and_a_way_out(clone):
    result = clone.train(PIP="fails")
    assert result.returncode == 2 and clone.calls("train") == []
    assert "ERROR: no route to host" in result.stderr
    assert "GPTJAX_PYTHON=" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@needs_bash
@pytest.mark.parametrize("end", ["fails", "killed"])
def test_an_install_that_did_not_end_well_is_done_again(clone, end):
    assert clone.train(PIP=end).returncode != 0
    assert clone.train().returncode == 0
    assert clone.train(PIP=end, GPTJAX_PLATFORM="tpu").returncode != 0  # leaves a mixture
    assert clone.train().returncode == 0
    assert len(clone.calls("pip")) == 4


@needs_bash
def test_changed_requirements_and_a_broken_venv_are_installed_again(clone):
    clone.train()
    requirements = clone.root / "requirements.txt"
    requirements.write_text(requirements.read_text("utf-8") + "einops>=0.8\n", encoding="utf-8")
    clone.train()
    assert "einops>=0.8" in clone.calls("pip")[1]["argv"]
    (clone.root / ".venv/bin/python").unlink()
    assert clone.train().returncode == 0
    assert len(clone.calls("pip")) == 3


@needs_bash
def test_the_platform_can_be_named_and_a_wrong_name_is_refused(clone):
    assert clone.train(GPTJAX_PLATFORM="cuda12").returncode == 0
    assert any(a.startswith("jax[cuda12]>=") for a in clone.calls("pip")[0]["argv"])
    wrong = clone.train(GPTJAX_PLATFORM="rocm")
    assert wrong.returncode == 2
    assert wrong.stderr == "gptjax: GPTJAX_PLATFORM=rocm is none of cpu, cuda12, cuda13, tpu\n"


@needs_bash
def test_a_preinstalled_jax_is_left_alone(clone):
    clone.preinstall_jax("0.11.22")
    result = clone.train()
    assert result.returncode == 0, result.stderr
    assert not (clone.root / ".venv").exists()
    (call,) = clone.calls("pip")
    assert "jax==0.11.22" in call["constraints"]
    assert any(a.startswith("flax>=") for a in call["argv"])
    assert not any(a.startswith("jax") for a in call["argv"])
    assert clone.calls("train")[0]["prefix"] == call["prefix"] == sys.prefix


@needs_bash
def test_a_preinstalled_jax_that_is_too_old_gives_way_to_a_venv(clone):
    clone.preinstall_jax("0.4.37")
    result = clone.train()
    assert result.returncode == 0, result.stderr
    assert "has jax 0.4.37" in result.stderr
    assert clone.calls("train")[0]["prefix"] == str(clone.root / ".venv")
    here = clone.train(GPTJAX_VENV="none")
    assert here.returncode == 2 and "upgrade it yourself" in here.stderr


@needs_bash
def test_another_folder_may_hold_the_venv_but_never_one_with_other_things(clone, tmp_path):
    assert clone.train(GPTJAX_VENV=str(tmp_path / "an env")).returncode == 0
    assert clone.calls("train")[0]["prefix"] == str(tmp_path / "an env")
    write(tmp_path / "home/thesis.txt", "years of work")
    refused = clone.train(GPTJAX_VENV=str(tmp_path / "home"))
    assert refused.returncode == 2 and "other things" in refused.stderr
    assert (tmp_path / "home/thesis.txt").exists()


@needs_bash
def test_no_python_that_is_new_enough_ends_in_one_line(clone, tmp_path):
    for tool in ("dirname", "readlink"):
        write(tmp_path / "bare" / tool, f'#!/bin/sh\nexec {shutil.which(tool)} "$@"', mode=0o755)
    write(tmp_path / "bare/python3", "#!/bin/sh\nexit 1", mode=0o755)  # Python 3.9 would say so
    none = clone.train(PATH=str(tmp_path / "bare"))
    wrong = clone.train(GPTJAX_PYTHON="python2.7")
    for result, word in (none, "Python 3.11 or newer"), (wrong, "python2.7"):
        assert result.returncode == 2 and result.stdout == ""
        assert word in result.stderr and result.stderr.count("\n") == 1


@needs_bash
def test_ci_lints_and_tests_with_the_test_requirements(clone):
    result = clone.run(clone.root / ".ci/run", cwd="/", CI="true")
    assert result.returncode == 0, result.stderr
    (call,) = clone.calls("pip")
    assert set(install.requirements(True)) < set(call["argv"])
    assert [c["argv"][0] for c in clone.calls("ruff")] == ["check", "format"]
    assert clone.calls("pytest")[0]["cwd"] == str(clone.root)
    assert clone.train().returncode == 0
    assert len(clone.calls("pip")) == 1, "what the tests need holds what training needs"


@needs_bash
def test_arguments_reach_pytest_and_a_lint_error_still_fails_at_the_end(clone, tmp_path):
    (tmp_path / "shared/data").mkdir(parents=True)
    lint = clone.run("launch/test.sh", "-k", "a or b", RUFF="1")
    assert lint.returncode == 1
    (call,) = clone.calls("pytest")
    assert call["argv"][-2:] == ["-k", "a or b"]
    assert call["data"] == str(tmp_path / "shared/data")
    assert clone.run("launch/test.sh", PYTEST="5", GPTJAX_DATA_DIR="/mine").returncode == 5
    assert clone.calls("pytest")[1]["data"] == "/mine"


def test_every_requirement_names_a_lower_bound():
    lines = install.requirements(tests=True)
    assert lines[0].startswith("jax>="), "install.py adds the platform to the first line"
    for line in lines:
        name, minimum = install.name_and_minimum(line)
        assert name and minimum > (0,), line


@pytest.mark.parametrize(
    ("version", "parts"),
    [("0.12.0.1", (0, 12, 0, 1)), ("0.7.2.dev20", (0, 7, 2)), ("2.0rc1", (2, 0))],
)
def test_versions_compare_by_number(version, parts):
    assert install.numbers(version) == parts


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty Linux machine: a root folder, and a PATH without nvidia-smi."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("GPTJAX_PLATFORM", raising=False)
    return tmp_path


@needs_bash
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("580.65.06, 9.0", "cuda13"),
        ("580.65.06, 7.0", "cuda12"),  # Volta: CUDA 13 has dropped it
        ("590.10, 12.0\n590.10, 6.1", "cuda12"),  # the oldest of two GPUs decides
        ("535.104.05, 7.5", "cuda12"),
        ("470.256.02, 8.6", "cpu"),
        ("No devices were found", "cpu"),
    ],
)
def test_the_driver_and_the_gpu_choose_the_cuda(machine, answer, expected):
    write(machine / "bin/nvidia-smi", f"#!/bin/sh\necho '{answer}'", mode=0o755)
    assert wheels.choose_wheels(machine)[0] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "cpu"),
        ({"dev/accel0": ""}, "tpu"),
        ({"dev/accel/accel0": ""}, "cpu"),  # Intel's NPU
        (
            {"sys/bus/pci/devices/0/vendor": "0x1ae0", "sys/bus/pci/devices/0/device": "0x0063"},
            "tpu",
        ),
        (
            {"sys/bus/pci/devices/0/vendor": "0x1ae0", "sys/bus/pci/devices/0/device": "0x0042"},
            "cpu",
        ),
        ({"dev/nvidia0": "", "proc/driver/nvidia/version": "x86_64  535.104.05  Sat"}, "cuda12"),
        ({"proc/driver/nvidia/version": "x86_64  535.104.05  Sat"}, "cpu"),  # a GPU not passed on
    ],
)
def test_devices_without_nvidia_smi_choose_too(machine, files, expected):
    for path, text in files.items():
        write(machine / path, text)
    assert wheels.choose_wheels(machine)[0] == expected


def test_jax_has_accelerator_wheels_for_linux_alone(machine, monkeypatch):
    write(machine / "dev/accel0", "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert wheels.choose_wheels(machine)[0] == "cpu"
