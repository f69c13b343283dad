"""launch/*.sh and the Python beneath them, without network: only pip, jax and commands are fakes.

Every script runs in a copy of the launch folder, in a path with a space. The fakes lie on
PYTHONPATH, so that they win in the caller's Python and in the .venv that the scripts make.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import install
import pytest

ROOT = Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
SCRIPTS = [".ci/run", "launch/test.sh", "launch/train.sh", "launch/venv.sh"]
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
record("pip")
if os.environ.get("PIP") == "fails":
    sys.exit("ERROR: no route to host")
if end := {"killed": signal.SIGKILL, "Ctrl-C": signal.SIGINT}.get(os.environ.get("PIP")):
    os.kill(os.getppid(), end)
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
        ensure = "record('ensurepip')\nsys.exit(os.environ.get('ENSUREPIP'))"
        write(self.fakes / "ensurepip.py", f"from record import *\n{ensure}")
        write(self.fakes / "jax.py", "raise ImportError('no jax in this Python')")
        for name in ("ruff", "pytest"):
            record = f"record('{name}', data=os.environ.get('GPTJAX_DATA_DIR'))"
            status = f"sys.exit(int(os.environ.get('{name.upper()}', 0)))"
            write(self.fakes / f"{name}.py", f"from record import *\n{record}\n{status}")
        # -S: without site-packages, as a fresh machine's Python.
        write(self.bin / "python3", f'#!/bin/sh\nexec "{sys.executable}" -S "$@"', mode=0o755)

    def preinstall(self, name: str, version: str):
        if name == "jax":
            write(self.fakes / "jax.py", f"__version__ = '{version}'")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        write(self.fakes / f"{name.replace('-', '_')}-{version}.dist-info/METADATA", metadata)

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
    assert f"into {clone.root}/.venv (once" in first.stderr and second.stderr == ""


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
@pytest.mark.parametrize("end", ["fails", "killed", "Ctrl-C"])
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
def test_ctrl_c_ends_with_130_and_one_line(clone):
    result = clone.train(PIP="Ctrl-C")
    assert result.returncode == 130 and clone.calls("train") == []
    assert result.stderr.endswith("gptjax: stopped; start again to go on\n")
    assert "Traceback" not in result.stderr


@needs_bash
def test_a_preinstalled_jax_is_left_alone(clone):
    brought = {"jax": "0.11.22", "jaxlib": "0.11.22", "jax-cuda12-plugin": "0.11.22"}
    brought |= {"libtpu": "0.0.40.dev20260101", "numpy": "2.3.5"}
    for name, version in brought.items():
        clone.preinstall(name, version)
    result = clone.train()
    assert result.returncode == 0, result.stderr
    assert not (clone.root / ".venv").exists()
    (call,) = clone.calls("pip")
    assert {f"{name}=={version}" for name, version in brought.items()} < set(call["argv"])
    assert any(a.startswith("flax>=") for a in call["argv"])
    assert not any(re.match("(jax|numpy).*>", a) for a in call["argv"])
    assert clone.calls("train")[0]["prefix"] == call["prefix"] == sys.prefix


@needs_bash
def test_a_python_that_has_everything_needs_no_pip(clone):
    for line in install.requirements(tests=False):
        clone.preinstall(*re.split("[>,]=?", line)[:2])
    result = clone.train()
    assert (result.returncode, result.stderr) == (0, "")
    assert clone.calls("pip") == [] and not (clone.root / ".venv").exists()
    assert clone.calls("train")[0]["prefix"] == sys.prefix


@needs_bash
def test_a_preinstalled_jax_that_is_broken_or_too_old_gives_way_to_a_venv(clone):
    clone.preinstall("jax", "0.11.22")
    write(clone.fakes / "jax.py", "raise RuntimeError('jaxlib is too old')")
    assert clone.train().returncode == 0
    assert clone.calls("train")[0]["prefix"] == str(clone.root / ".venv")
    shutil.rmtree(clone.fakes / "jax-0.11.22.dist-info")
    clone.preinstall("jax", "0.4.37")
    result = clone.train()
    assert result.returncode == 0, result.stderr
    assert clone.calls("train")[1]["prefix"] == str(clone.root / ".venv")
    clone.train(GPTJAX_VENV="none")
    asked = clone.calls("pip")[-1]["argv"]
    assert {install.requirements(tests=False)[0], "jax==0.4.37"} < set(asked), "pip refuses this"


@needs_bash
def test_the_python_that_is_named_is_the_one_to_start_from(clone, tmp_path):
    shutil.copy(clone.bin / "python3", tmp_path / "a python")
    (clone.bin / "python3").unlink()
    bare = {"PATH": f"{clone.bin}:/bin"}
    for name in ("GPTJAX_PYTHON", "PYTHON"):
        result = clone.train(**bare | {name: str(tmp_path / "a python"), "GPTJAX_VENV": "none"})
        assert result.returncode == 0, result.stderr
    assert [run["prefix"] for run in clone.calls("train")] == [sys.prefix] * 2


@needs_bash
def test_a_venv_stays_unless_another_python_is_asked_for_or_its_own_is_too_old(clone):
    python = clone.root / ".venv/bin/python"

    def pretend(version):
        python.unlink()
        write(python, f'#!/bin/sh\n[ "$1" = -V ] && echo Python {version} && exit\n', mode=0o755)
        with python.open("a", encoding="utf-8") as script:
            script.write(f'exec "{sys.executable}" "$@"\n')

    clone.train()
    pretend("3.99.1")  # as after an upgrade of the system
    for pips in (2, 2):  # its packages are installed again, once
        assert clone.train().returncode == 0
        assert len(clone.calls("pip")) == pips and not python.is_symlink()
    assert clone.train(GPTJAX_PYTHON="python3").returncode == 0
    assert len(clone.calls("pip")) == 3 and python.is_symlink()
    clone.train(GPTJAX_PYTHON="python3")
    assert len(clone.calls("pip")) == 3
    pretend("3.10.12")
    assert clone.train().returncode == 0
    assert len(clone.calls("pip")) == 4 and python.is_symlink()


@needs_bash
def test_a_python_without_ensurepip_lends_its_own_pip(clone):
    assert clone.train(ENSUREPIP="no such module").returncode == 0
    lent, install = clone.calls("pip")
    venv = clone.root / ".venv"
    assert lent["argv"] == ["--python", str(venv / "bin/python"), "install", "pip"]
    assert (lent["prefix"], install["prefix"]) == (sys.prefix, str(venv))
    shutil.rmtree(venv)
    neither = clone.train(ENSUREPIP="no such module", PIP="fails")
    assert neither.returncode == 2 and neither.stderr.count("\n") == 1
    assert "install python3-venv" in neither.stderr


@needs_bash
def test_another_folder_may_hold_the_venv_but_never_one_with_other_things(clone, tmp_path):
    assert clone.train(GPTJAX_VENV=str(tmp_path / "an env")).returncode == 0
    assert clone.calls("train")[0]["prefix"] == str(tmp_path / "an env")
    write(tmp_path / "home/thesis.txt", "years of work")
    refused = clone.train(GPTJAX_VENV=str(tmp_path / "home"))
    assert refused.returncode == 2 and "other things" in refused.stderr
    assert (tmp_path / "home/thesis.txt").exists()
    nowhere = clone.train(GPTJAX_VENV=str(tmp_path / "home/thesis.txt/env"))
    assert nowhere.returncode == 2 and nowhere.stderr.count("\n") == 1
    assert "thesis.txt" in nowhere.stderr and "GPTJAX_VENV=DIR" in nowhere.stderr


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
@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_a_url_among_the_arguments_has_its_stores_package_installed(clone, scheme, package):
    for times in (1, 1):  # the second start needs nothing more
        assert clone.train(f"--workdir={scheme}://bucket/run").returncode == 0
        assert len(clone.calls("pip")) == times
    (call,) = clone.calls("pip")
    (asked,) = [a for a in call["argv"] if a.startswith(("gcsfs", "s3fs"))]
    assert asked.startswith(f"{package}>=") and set(install.requirements(False)) < set(call["argv"])


@needs_bash
def test_ci_lints_and_tests_with_the_test_requirements(clone):
    nowhere = {"https_proxy": "http://127.0.0.1:9"}  # PyTorch's own wheels cannot be had
    write(clone.bin / "chromium", "#!/bin/sh", mode=0o755)  # else the script installs a real one
    result = clone.run(clone.root / ".ci/run", cwd="/", CI="true", **nowhere)
    assert result.returncode == 0, result.stderr
    (call,) = clone.calls("pip")
    assert set(install.requirements(True, ["peers", "browser"])) < set(call["argv"])
    assert any(a.startswith("torch==") for a in call["argv"])
    assert any(a.startswith("moto[") for a in call["argv"])
    assert "--extra-index-url" not in call["argv"]
    assert not {"--peers", "--browser"} & set(clone.calls("pytest")[0]["argv"])
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
    assert not any("torch" in a for a in clone.calls("pip")[0]["argv"]), "nobody asked for peers"
    assert call["data"] == str(tmp_path / "shared/data")
    assert clone.run("launch/test.sh", PYTEST="5", GPTJAX_DATA_DIR="/mine").returncode == 5
    assert clone.calls("pytest")[1]["data"] == "/mine"


PEERS = ["transformers>=5", "torch==2.13.0"]


def test_pytorch_comes_from_its_own_index_where_that_answers(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert install.torch_index(PEERS) == ["--extra-index-url", install.TORCH_CPU]
    assert install.torch_index(["flax>=0.10.7"]) == [] and len(asked) == 1
    monkeypatch.setattr(sys, "platform", "darwin")  # PyPI's have no CUDA there
    assert install.torch_index(PEERS) == [] and len(asked) == 1


def test_an_index_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(install, "TORCH_CPU", url)
        monkeypatch.setattr(install, "ANSWERS_S", 0.1)
        assert install.torch_index(PEERS) == []


def test_every_requirement_names_a_lower_bound():
    lines = install.requirements(tests=True)
    assert lines[0].startswith("jax>="), "install.py adds the platform to the first line"
    assert {"flax", "pytest", "ruff"} < {line.split(">")[0] for line in lines}
    for line in lines:
        assert re.fullmatch(r"[\w-]+>=\d+(\.\d+)*(,<\d+(\.\d+)*)?", line), line


@pytest.mark.parametrize(
    ("requirement", "version", "lacking"),
    [
        ("flax>=0.10.7", "0.10.7", False),
        ("flax>=0.10.7", "0.9.12", True),  # by number
        ("orbax-checkpoint>=0.11.26", "0.11.26.1", False),
        ("orbax-checkpoint>=0.11.26", "0.11.6.99", True),
        ("jax>=0.7.2,<0.13", "0.7.2.dev20", False),
        ("jax[cuda12]>=0.7.2,<0.13", "0.13.1", False),  # newer is left alone
        ("jax[cuda12]>=0.7.2,<0.13", "0.4.37", True),
        ("numpy>=2.0.2", "2.0rc1", True),
        ("numpy>=2.0.2", "2.1+local", False),
        ("torch==2.13.0", "2.13.0+cpu", False),
        ("torch==2.13.0", "2.12.1", True),
    ],
)
def test_versions_compare_by_number(requirement, version, lacking, monkeypatch):
    named = {re.match(r"[\w-]+", requirement)[0]: version}
    monkeypatch.setattr(install.metadata, "version", named.__getitem__)
    assert install.lacks(requirement) is lacking


def test_an_old_python_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit) as end:
        install.main(tests=False)
    assert end.value.code == 2
    assert re.fullmatch(
        r"gptjax: .* is Python .* start with 3.11 or newer\n", capsys.readouterr().err
    )


def test_what_is_not_installed_is_lacking():
    assert install.lacks("no-such-package>=1.0")


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
    assert install.choose_wheels(machine)[0] == expected


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
    ],
)
def test_the_devices_show_a_tpu(machine, files, expected):
    for path, text in files.items():
        write(machine / path, text)
    assert install.choose_wheels(machine)[0] == expected


def test_jax_has_accelerator_wheels_for_linux_alone(machine, monkeypatch):
    write(machine / "dev/accel0", "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert install.choose_wheels(machine)[0] == "cpu"
