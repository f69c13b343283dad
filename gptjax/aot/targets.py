"""What to compile for: a TPU topology, a GPU or a CPU by its name; none of them need be here.

In: "tpu:v5e:2x2", "cuda:h100:8", "cpu:8". Out: a ``Target``, with the devices of a mesh. Of a TPU
libtpu describes them; of a GPU, for which programs are lowered and not compiled, CPUs stand in.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import sys
from types import SimpleNamespace
from typing import Any

from gptjax.errors import UserError, did_you_mean
from gptjax.runtime import devices

# Name -> how libtpu calls it. v4's two cores make one device on a TPU and two in a description.
TPUS = {"v2": "v2", "v3": "v3", "v5e": "v5e", "v5p": "v5p", "v6e": "v6e"}
# Name -> a device_kind that bench/peaks.py knows, compute capability.
GPUS = {
    "h200": ("NVIDIA H200", "9.0"),
    "h100": ("NVIDIA H100 80GB HBM3", "9.0"),
    "a100": ("NVIDIA A100-SXM4-80GB", "8.0"),
    "l4": ("NVIDIA L4", "8.9"),
    "t4": ("Tesla T4", "7.5"),
}
MOST_DEVICES = 1024
EXAMPLES = "tpu:v5e:2x2, cuda:h100:8 or cpu:8"
# Nobody asks Google's metadata server, no other process is kept from its TPU, and nothing is said.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Name:
    """A target's name, taken apart: platform, chip, and its devices along each axis."""

    text: str
    platform: str
    chip: str
    dims: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to make a mesh of, and the one that decides what "auto" is; ``kind``: its name."""

    name: Name
    devices: list[Any]
    like: Any

    @property
    def kind(self) -> str:
        """The ``device_kind`` by which its speeds are known."""
        return self.like.device_kind

    @property
    def compiles(self) -> bool:
        """Whether there is a compiler for it here; else its programs are lowered alone."""
        return self.name.platform != "cuda"


def parse(text: str) -> Name:
    """Take a target's name apart; UserError for one that there is not."""
    platform, *rest = text.lower().split(":")
    known = {"tpu": TPUS, "cuda": GPUS, "cpu": {}}
    if platform not in known:
        near = did_you_mean(platform, known)
        raise UserError(f"--target={text!r:.80} is unknown{near}: write {EXAMPLES}")
    chip = rest.pop(0) if platform != "cpu" and rest else ""
    if chip not in known[platform] and platform != "cpu":
        near = did_you_mean(chip, known[platform])
        chips = ", ".join(known[platform])
        raise UserError(f"--target={text!r:.80}: no {platform} {chip!r:.40}{near}; known: {chips}")
    shape = r"\d{1,4}(x\d{1,4}){1,2}" if platform == "tpu" else r"\d{1,4}"
    if len(rest) != 1 or not re.fullmatch(shape, rest[0]):
        what = "chips as 2x2" if platform == "tpu" else "how many devices"
        raise UserError(f"--target={text!r:.80} does not say {what}: write {EXAMPLES}")
    dims = tuple(map(int, rest[0].split("x")))
    if not 1 <= math.prod(dims) <= MOST_DEVICES:
        raise UserError(
            f"--target={text!r:.80}: from 1 to {MOST_DEVICES:,} devices can be asked for"
        )
    return Name(text, platform, chip, dims)


def prepare(names: list[Name]) -> None:
    """Before JAX starts: let it start on the CPU, as so many devices as the names want of it."""
    if any(name.platform == "tpu" for name in names):
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("compiling for a TPU needs libtpu, and no TPU: pip install libtpu")
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
    devices.set_jax("jax_platforms", "cpu")
    n = max((name.dims[0] for name in names if name.platform != "tpu"), default=1)
    if n > 1 and "jax" not in sys.modules:
        flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
        flags.append(f"--xla_force_host_platform_device_count={n}")
        os.environ["XLA_FLAGS"] = " ".join(flags)


def find(name: Name) -> Target:
    """The devices of a target; UserError where there are none such."""
    import jax

    if name.platform == "tpu":
        found = _of_tpu(name)
        return Target(name, found, found[0])
    found = jax.devices("cpu")
    if len(found) < name.dims[0]:
        raise UserError(
            f"--target={name.text}: JAX has started with {len(found)} CPU devices: set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={name.dims[0]} before it starts"
        )
    like = found[0]
    if name.platform == "cuda":
        kind, capability = GPUS[name.chip]
        like = SimpleNamespace(platform="cuda", device_kind=kind, compute_capability=capability)
    return Target(name, found[: name.dims[0]], like)


def _of_tpu(name: Name) -> list[Any]:
    import jax
    from jax.experimental import topologies

    shape = "x".join(map(str, name.dims))
    # libtpu takes a host to have 2x2 chips; one chip alone is its own host.
    more = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(name.dims) == 1 else {}
    topology = f"{TPUS[name.chip]}:{shape}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **more)
    except jax.errors.JaxRuntimeError as error:
        line = str(error).splitlines()[0]
        raise UserError(f"--target={name.text}: libtpu knows no such topology ({line})") from error
    return list(found.devices)
