"""Which jax wheels fit this machine: cpu, cuda12, cuda13 or tpu.

In: the devices and drivers the operating system shows, or GPTJAX_PLATFORM. Out: jax's name for the
wheels, and what shows it. Nothing here starts jax. Used by install.py; standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PLATFORMS = ("cpu", "cuda12", "cuda13", "tpu")
# Google's PCI vendor number, and its chips: v2 and v3, plc, v4, v5p, v5e, v6e, 7x. (Its network
# cards and disks have the same vendor number.)
GOOGLE = "0x1ae0"
CHIPS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}


def choose_wheels(machine: Path = Path("/")) -> tuple[str, str]:
    """Name the wheels for this machine.

    Args:
      machine: the root of the file system that is looked at.

    Returns:
      (one of PLATFORMS, the reason in a few words).

    Raises:
      ValueError: GPTJAX_PLATFORM is set to something else.
    """
    if asked := os.environ.get("GPTJAX_PLATFORM"):
        if asked not in PLATFORMS:
            raise ValueError(f"GPTJAX_PLATFORM={asked} is none of {', '.join(PLATFORMS)}")
        return asked, "asked for"
    if sys.platform != "linux":
        return "cpu", f"jax has no accelerator wheels for {sys.platform}"
    if _tpu(machine):
        return "tpu", "TPU chips found"
    driver, capability = _nvidia(machine)
    if driver is None:
        return "cpu", "no GPU or TPU found"
    # What jax's installation page asks for; CUDA 13 has dropped the GPUs before Turing (7.5).
    if driver >= 580 and capability >= 7.5:
        return "cuda13", f"NVIDIA driver {driver}"
    if driver >= 525:
        return "cuda12", f"NVIDIA driver {driver}"
    return "cpu", f"NVIDIA driver {driver} is too old for jax's CUDA, which needs 525"


def _tpu(machine: Path) -> bool:
    if any((machine / "dev").glob("accel[0-9]*")):  # /dev/accel/accel0, a folder, is Intel's
        return True
    return any(
        vendor.read_text("ascii").strip() == GOOGLE
        and vendor.with_name("device").read_text("ascii").strip() in CHIPS
        for vendor in (machine / "sys/bus/pci/devices").glob("*/vendor")
    )


def _nvidia(machine: Path) -> tuple[int | None, float]:
    """The driver's major version (None: no GPU) and the oldest GPU's compute capability."""
    if smi := shutil.which("nvidia-smi"):
        query = [smi, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
        except (OSError, subprocess.TimeoutExpired):
            answer = ""
        if gpus := re.findall(r"^(\d+)\.[\d.]+, *(\d+\.\d+)", answer, re.MULTILINE):
            return int(gpus[0][0]), min(float(capability) for _, capability in gpus)
    module = machine / "proc/driver/nvidia/version"
    has_gpu = module.exists() and (machine / "dev/nvidia0").exists()
    if has_gpu and (version := re.search(r"\s(\d{3,})\.\d+", module.read_text("utf-8"))):
        return int(version[1]), 0.0  # capability unknown: CUDA 12 serves old and new GPUs
    return None, 0.0
