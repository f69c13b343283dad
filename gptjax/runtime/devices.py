"""The machine: what it has, what a run records of it, where its caches lie.

In: environment variables, device files, versions. Out: a guess of the platform that starts no JAX
backend (a config may ask before ``jax.distributed`` has begun), facts for run.json, a line for the
header. Importing this file imports no jax.
"""

import contextlib
import datetime
import glob
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# JAX's names of platforms -> the three that matter here; any other plugin is taken for a GPU.
_PLATFORMS = {"cpu": "cpu", "tpu": "tpu"}
_PACKAGES = ("gptjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections")
_PACKAGES += ("numpy",)
_PREFIXES = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "CUDA_VISIBLE", "NVIDIA_TF32", "OMP_", "GPTJAX_")


def guess_platform() -> tuple[str, str]:
    """What JAX will run on, found without starting it: ("tpu" | "gpu" | "cpu", why).

    The reason is a clause; of hardware that JAX cannot use as it is, it says what to install.
    """
    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
        if first := os.environ.get(name, "").split(",")[0].strip().lower():
            return _PLATFORMS.get(first, "gpu"), f"{name}={os.environ[name]}"
    if chosen := of_jax("jax_platforms"):  # a program may have chosen in Python
        return _PLATFORMS.get(chosen.split(",")[0], "gpu"), f"jax_platforms={chosen}"
    # /dev/accel (a folder, no digit) is an Intel NPU's; /dev/vfio/0 could be any passed-through
    # device, and libtpu alone is what one installs to compile for a TPU elsewhere.
    libtpu = _installed("libtpu")
    chip = _there("/dev/accel[0-9]*") or (libtpu and _there("/dev/vfio/[0-9]*"))
    chip = chip or next(filter(os.environ.get, ("TPU_WORKER_ID", "TPU_NAME", "COLAB_TPU_ADDR")), "")
    if chip and libtpu:
        return "tpu", f"a TPU was found ({chip})"
    if chip:
        return "cpu", f'a TPU is here ({chip}), but JAX cannot use it: pip install "jax[tpu]"'
    nvidia = _there("/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*")
    if not nvidia and _there("/dev/dxg"):  # WSL: any graphics card, but only NVIDIA brings this
        nvidia = shutil.which("nvidia-smi") or _there("/usr/lib/wsl/lib/nvidia-smi")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if nvidia and hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        return "cpu", f"CUDA_VISIBLE_DEVICES={hidden!r} hides the GPU"
    if nvidia and _installed("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_cuda14_plugin"):
        return "gpu", "an NVIDIA GPU was found"
    if nvidia:
        return "cpu", 'an NVIDIA GPU is here, but JAX cannot use it: pip install "jax[cuda12]"'
    if _there("/dev/kfd") and _installed("jax_rocm60_plugin", "jax_rocm7_plugin"):
        return "gpu", "an AMD GPU was found"
    return "cpu", "no accelerator found"


def of_jax(name: str) -> Any:
    """A setting of JAX's, as "jax_platforms", without importing it: its import takes seconds."""
    if jax := sys.modules.get("jax"):
        return getattr(getattr(jax, "config", None), name, None)
    return os.environ.get(name.upper())


def set_jax(name: str, value: Any) -> None:
    """Change a setting of JAX's, now or for when it is imported."""
    if jax := sys.modules.get("jax"):
        jax.config.update(name, value)
    else:
        os.environ[name.upper()] = str(value)


def check(guess: str) -> str:
    """One sentence of warning if JAX, which this starts, runs elsewhere than guessed, else ""."""
    import jax

    real = jax.default_backend()
    if _PLATFORMS.get(real, "gpu") == guess:
        return ""
    name = "cuda" if guess == "gpu" else guess
    return (
        f"this machine was taken for a {guess.upper()}, but JAX runs on {real}: "
        f"JAX_PLATFORMS={name} shows what JAX lacks; a size can be named after the config's colon"
    )


def device_line() -> str:
    """The devices of a run in a few words, e.g. "2 CPU cores (AMD EPYC)" or "1 x NVIDIA H100"."""
    import jax

    devices = jax.devices()
    if devices[0].platform == "cpu":
        cores = cpu_count()
        line = f"{cores} CPU core{'s' * (cores != 1)} ({cpu_name()})"
        line += f" as {len(devices)} devices" * (len(devices) > 1)
    else:
        line = f"{len(devices)} x {devices[0].device_kind}"
    if jax.process_count() > 1:
        line += f" over {jax.process_count()} processes, {jax.local_device_count()} in this one"
    return line


def facts() -> dict[str, Any]:
    """What a run records of the machine and its code, as plain JSON types; starts a JAX backend."""
    import jax

    device = jax.devices()[0]
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(sys.orig_argv),
        "host": platform.node(),
        "os": platform.platform(),
        "versions": {"python": platform.python_version()} | {n: _version(n) for n in _PACKAGES},
        "git": git(Path(__file__).resolve().parents[2]),
        "devices": {
            "platform": device.platform,
            "kind": cpu_name() if device.platform == "cpu" else device.device_kind,
            "count": jax.device_count(),
            "local_count": jax.local_device_count(),
            "processes": jax.process_count(),
            "cpu_cores": cpu_count(),
        },
        "environment": {n: v for n, v in sorted(os.environ.items()) if n.startswith(_PREFIXES)},
    }


def git(folder: Path) -> dict[str, Any] | None:
    """The {"commit": 40 hex digits, "dirty": bool} of tracked files, None without git.

    A folder that is not the top of its repository has no commit of its own: None.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    untouched = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # reading must not write the index
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 5}  # seconds
    try:
        said = subprocess.check_output(command, cwd=folder, env=untouched, text=True, **quiet)
    except (OSError, subprocess.SubprocessError):
        return None
    commit, _, dirty = said.strip().partition("-")
    return {"commit": commit, "dirty": bool(dirty)} if commit else None


def cpu_count() -> int:
    """The CPU cores that this process may use (a container or taskset may leave it fewer)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_CGROUPS = (  # versions 2 and 1: folder, limit, what is in use, what of that is only cached files
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_memory() -> int:
    """Bytes that this process may still take, a container's limit included; 0: unknown."""
    found = [1024 * _number("/proc/meminfo", "MemAvailable:")]
    for folder, limit, used, cached in _CGROUPS:
        if most := _number(f"{folder}/{limit}"):  # "max": no limit
            reusable = _number(f"{folder}/memory.stat", cached)
            found.append(most - _number(f"{folder}/{used}") + reusable)
    return max(0, min(filter(None, found), default=0))


def device_memory() -> int:
    """Bytes that a device of JAX's may still take; 0: unknown."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return free_memory()
    known = device.memory_stats() or {}
    return max(0, known.get("bytes_limit", 0) - known.get("bytes_in_use", 0))


def _number(path: str, name: str = "") -> int:
    """The whole number after ``name`` in a file of the system's; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        text = Path(path).read_text(encoding="ascii")
        if not name:
            return int(text)
        lines = map(str.split, text.splitlines())
        return next((int(words[1]) for words in lines if words[:1] == [name]), 0)
    return 0


def cpu_name(flags: bool = False) -> str:
    """The CPU's name; with ``flags`` also the instructions it knows."""
    found = {}
    info = Path("/proc/cpuinfo")
    with contextlib.suppress(OSError), info.open(encoding="utf-8", errors="replace") as file:
        # The first processor, up to an empty line, is enough: the rest is slow to read.
        for line in itertools.takewhile(str.strip, file):
            name, _, value = line.partition(":")
            found[name.strip()] = value.strip()
    wanted = ("model name", "flags", "Features") if flags else ("model name",)
    named = " ".join(found[name] for name in wanted if name in found)
    return named or platform.processor() or platform.machine()


def cache_dir() -> Path:
    """Where downloads and compiled programs stay: a folder of this user's that need not exist."""
    if own := os.environ.get("GPTJAX_CACHE_DIR"):
        return Path(os.path.expanduser(own))
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(os.path.expanduser(xdg)) / "gptjax"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "gptjax"
    home = os.path.expanduser("~")
    if home == "~":  # no HOME and no entry in the password file: some containers
        home = tempfile.gettempdir()
    return Path(home, "Library/Caches" if sys.platform == "darwin" else ".cache", "gptjax")


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _there(*patterns: str) -> str:
    return next((path for pattern in patterns for path in glob.glob(pattern)), "")


def _installed(*modules: str) -> bool:
    return any(importlib.util.find_spec(name) is not None for name in modules)
