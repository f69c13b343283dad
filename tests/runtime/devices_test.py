"""What the machine is taken for, what a run records of it, and where its caches lie."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from gptjax.runtime import devices

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = ("JAX_PLATFORM", "TPU_", "COLAB_TPU", "CUDA_VISIBLE")


def pretend(monkeypatch, paths=(), modules=(), env=None):
    """A machine with these device files, these packages and this environment."""
    for name in [name for name in os.environ if name.startswith(HIDDEN)]:
        monkeypatch.delenv(name)
    for name, value in (env or {}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "jax")  # this process may have chosen its platform
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    monkeypatch.setattr(devices, "_installed", lambda *names: bool(set(names) & set(modules)))
    monkeypatch.setattr(
        devices.glob, "glob", lambda pattern: [p for p in paths if fnmatch.fnmatch(p, pattern)]
    )


@pytest.mark.parametrize(
    "paths, modules, env, platform, why",
    [
        ([], [], {}, "cpu", "no accelerator found"),
        # The environment decides, whatever is there.
        (["/dev/nvidia0"], ["jax_cuda12_plugin"], {"JAX_PLATFORMS": "cpu"}, "cpu", "=cpu"),
        ([], [], {"JAX_PLATFORMS": "tpu,cpu"}, "tpu", "JAX_PLATFORMS=tpu,cpu"),
        ([], [], {"JAX_PLATFORMS": "cuda"}, "gpu", "JAX_PLATFORMS=cuda"),
        ([], [], {"JAX_PLATFORMS": "rocm,cpu"}, "gpu", "rocm"),
        ([], [], {"JAX_PLATFORMS": "", "JAX_PLATFORM_NAME": "gpu"}, "gpu", "JAX_PLATFORM_NAME"),
        # A TPU needs chips and libtpu; libtpu alone compiles for a TPU elsewhere.
        (["/dev/accel0"], ["libtpu"], {}, "tpu", "/dev/accel0"),
        (["/dev/vfio/0"], ["libtpu"], {}, "tpu", "/dev/vfio/0"),
        ([], ["libtpu"], {"TPU_WORKER_ID": "0"}, "tpu", "TPU_WORKER_ID"),
        ([], ["libtpu"], {"COLAB_TPU_ADDR": "10.0.0.2:8470"}, "tpu", "COLAB_TPU_ADDR"),
        ([], ["libtpu"], {}, "cpu", "no accelerator"),
        ([], ["libtpu"], {"TPU_SKIP_MDS_QUERY": "1"}, "cpu", "no accelerator"),
        (["/dev/accel3"], [], {}, "cpu", 'pip install "jax[tpu]"'),
        (["/dev/vfio/0"], [], {}, "cpu", "no accelerator"),
        (["/dev/vfio/vfio"], ["libtpu"], {}, "cpu", "no accelerator"),
        (["/dev/accel"], ["libtpu"], {}, "cpu", "no accelerator"),  # Intel's
        # A GPU needs a plugin; without it nothing falls back in silence.
        (["/dev/nvidia0"], ["jax_cuda12_plugin"], {}, "gpu", "NVIDIA"),
        (["/dev/nvidia3"], ["jax_cuda13_plugin"], {}, "gpu", "NVIDIA"),
        (["/dev/nvidia0"], [], {}, "cpu", 'pip install "jax[cuda12]"'),
        (["/dev/nvidia0"], ["jax_cuda12_plugin"], {"CUDA_VISIBLE_DEVICES": ""}, "cpu", "hides"),
        (["/dev/nvidia0"], ["jax_cuda12_plugin"], {"CUDA_VISIBLE_DEVICES": "-1"}, "cpu", "'-1'"),
        (["/dev/nvidia0"], ["jax_cuda12_plugin"], {"CUDA_VISIBLE_DEVICES": "1"}, "gpu", "NVIDIA"),
        (["/dev/nvidiactl"], ["jax_cuda12_plugin"], {}, "cpu", "no accelerator"),
        ([], ["jax_cuda12_plugin"], {}, "cpu", "no accelerator"),
        # Windows' Linux: /dev/dxg is any graphics card.
        (["/dev/dxg"], ["jax_cuda12_plugin"], {}, "cpu", "no accelerator"),
        (["/dev/dxg", "/usr/lib/wsl/lib/nvidia-smi"], ["jax_cuda12_plugin"], {}, "gpu", "NVIDIA"),
        (["/dev/kfd"], ["jax_rocm7_plugin"], {}, "gpu", "AMD"),
        (["/dev/kfd"], [], {}, "cpu", "no accelerator"),
        (["/dev/accel0", "/dev/nvidia0"], ["libtpu", "jax_cuda12_plugin"], {}, "tpu", "TPU"),
    ],
)
def test_the_platform_is_guessed_from_what_is_there(
    monkeypatch, paths, modules, env, platform, why
):
    pretend(monkeypatch, paths, modules, env)
    guess, reason = devices.guess_platform()
    assert guess == platform and why in reason


def test_a_platform_chosen_in_python_counts(monkeypatch):
    pretend(monkeypatch, ["/dev/nvidia0"], ["jax_cuda12_plugin"])
    monkeypatch.setitem(sys.modules, "jax", jax)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", "cpu")
        assert devices.guess_platform() == ("cpu", "jax_platforms=cpu")
    finally:
        jax.config.update("jax_platforms", before)


def test_no_backend_is_started_by_a_guess_or_a_config_and_the_command_line_imports_no_jax(tmp_path):
    code = """if True:
        import sys
        from gptjax.cli import flags, help, main
        from gptjax.config import files
        from gptjax.runtime import compilation_cache, devices
        devices.guess_platform(), devices.cache_dir(), devices.cpu_name()
        assert "jax" not in sys.modules, "jax was imported"
        args = flags.read(["train", "--config=gpt", "--config.model.n_layer=3"], [], True)
        help.config_page(args.config)
        compilation_cache.switch(True)
        from jax._src import xla_bridge
        assert not xla_bridge.backends_are_initialized(), "a backend was started"
        print(args.config.model.n_layer, args.config.why)
    """
    env = {**os.environ, "GPTJAX_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 small: ") or done.stdout.startswith("3 lecture: ")


def test_a_wrong_guess_is_told_with_both_platforms():
    real = jax.default_backend()
    assert devices.check(real) == ""
    wrong = {"cpu": "gpu", "gpu": "tpu", "tpu": "cpu"}[real]
    told = devices.check(wrong)
    assert wrong.upper() in told and f"runs on {real}" in told and "\n" not in told


def test_the_device_line_counts_and_names():
    line = devices.device_line()
    if jax.default_backend() == "cpu":
        assert re.fullmatch(r"\d+ CPU cores? \(.+\)( as \d+ devices)?", line)
        assert line.startswith(f"{devices.cpu_count()} CPU core")
    else:
        assert line == f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def test_the_facts_are_json_and_name_what_the_run_depended_on(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS_OF_A_TEST", "ü")
    monkeypatch.setenv("AWS_SECRET", "not recorded")
    facts = json.loads(json.dumps(devices.facts()))
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(facts["versions"][name] for name in ("jaxlib", "flax", "optax", "numpy"))
    assert facts["devices"]["count"] == jax.device_count()
    assert facts["devices"]["platform"] == jax.default_backend()
    assert facts["command"] == sys.orig_argv
    assert facts["environment"]["XLA_FLAGS_OF_A_TEST"] == "ü"
    assert "not recorded" not in str(facts)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", facts["started"])


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
def test_git_tells_the_commit_and_whether_files_differ(tmp_path):
    def run(*command: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *who, *command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert devices.git(tmp_path) is None
    run("init", "-q")
    assert devices.git(tmp_path) is None  # no commit yet
    (tmp_path / "a.txt").write_text("1", encoding="utf-8")
    run("add", "a.txt")
    run("commit", "-q", "-m", "one")
    run("tag", "v1-rc")  # a tag's name is not the commit
    commit = run("rev-parse", "HEAD")
    (tmp_path / "untracked.txt").write_text("1", encoding="utf-8")
    assert devices.git(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a.txt").write_text("2", encoding="utf-8")
    assert devices.git(tmp_path) == {"commit": commit, "dirty": True}
    # A package installed inside somebody's repository has no commit of its own.
    (tmp_path / "site-packages").mkdir()
    assert devices.git(tmp_path / "site-packages") is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.git(tmp_path) is None


@pytest.mark.parametrize(
    "system, env, expected",
    [
        ("linux", {}, "/home/a/.cache/gptjax"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/gptjax"),
        ("linux", {"XDG_CACHE_HOME": "/x", "GPTJAX_CACHE_DIR": "/own"}, "/own"),
        ("linux", {"GPTJAX_CACHE_DIR": "~/own"}, "/home/a/own"),
        ("linux", {"GPTJAX_CACHE_DIR": ""}, "/home/a/.cache/gptjax"),
        ("linux", {"LOCALAPPDATA": "/w"}, "/home/a/.cache/gptjax"),
        ("darwin", {}, "/home/a/Library/Caches/gptjax"),
        ("win32", {"LOCALAPPDATA": "/w/Local"}, "/w/Local/gptjax"),
    ],
)
def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, system, env, expected):
    for name in ("GPTJAX_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices.sys, "platform", system)
    assert devices.cache_dir() == Path(expected)


def test_free_memory_is_the_least_that_machine_and_container_leave(tmp_path, monkeypatch):
    files = {
        "meminfo": "MemTotal:  900 kB\nMemAvailable:     500 kB\n",
        "memory.max": "400000\n",
        "memory.current": "300000\n",
        "memory.stat": "anon 5\n\ninactive_file 20000\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    number = devices._number
    monkeypatch.setattr(devices, "_number", lambda p, n="": number(tmp_path / Path(p).name, n))
    assert devices.free_memory() == 400_000 - 300_000 + 20_000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.free_memory() == 500 * 1024
    for name in files:
        (tmp_path / name).unlink()
    assert devices.free_memory() == 0  # unknown
