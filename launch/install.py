"""Gives a Python what gptjax needs and prints which Python that is; does nothing the second time.

--tests adds pyproject.toml's `test` list, --gs and --s3 those of these object stores, --s3-server
that of a server for tests, --peers PyTorch and transformers, --serve what gptjax.serve needs,
--browser what drives a browser. Failures exit with 2.
Windows: `py launch/install.py`.
  GPTJAX_VENV=DIR | none                  another folder than .venv | install into this very Python
  GPTJAX_PLATFORM=cpu|cuda12|cuda13|tpu   jax's wheels; when not set they follow the machine
"""

import os
import re
import subprocess
import sys
import urllib.request
import venv
from http.client import HTTPException
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# PCI numbers of Google's chips: v2 and v3, plc, v4, v5p, v5e, v6e, 7x (others are network cards).
TPUS = {f"0x1ae0 0x00{chip}" for chip in ("27", "56", "5e", "62", "63", "6f", "76")}
# PyTorch without CUDA, of which PyPI's wheels for Linux bring gigabytes.
TORCH_CPU, ANSWERS_S = "https://download.pytorch.org/whl/cpu", 5
EXTRAS = ("gs", "s3", "s3-server", "peers", "serve", "browser")


def stop(text, code=2):
    print(f"gptjax: {text}", file=sys.stderr)
    sys.exit(code)


def run(*command):
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")


def requirements(tests, extras=()):
    """["jax>=0.7.2,<0.13", ...]: the package's and, if asked, the tests' and those of extras."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    for extra in [*["test"] * tests, *extras]:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        lines += project["optional-dependencies"][extra]
    return [line for line in lines if re.match(r"\w", line)]


def lacks(requirement):
    """Whether this Python has none or too old a one; newer than asked for is left alone."""
    name, bound = re.split(r"\[[\w,]+\]>=|>=|==", requirement, maxsplit=1)
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    have, need = (re.match(r"\d+(\.\d+)*", v)[0].split(".") for v in (found, bound))
    return list(map(int, have)) < list(map(int, need))


def choose_wheels(machine=Path("/")):
    """("cuda12", "NVIDIA driver 535"): jax's wheels for a machine, and what shows that they fit."""
    if asked := os.environ.get("GPTJAX_PLATFORM"):
        return asked, "asked for"
    if sys.platform != "linux":
        return "cpu", f"jax has no accelerator wheels for {sys.platform}"
    pci = (machine / "sys/bus/pci/devices").glob("*/vendor")
    ids = {v.read_text().strip() + " " + v.with_name("device").read_text().strip() for v in pci}
    if ids & TPUS or any((machine / "dev").glob("accel[0-9]*")):  # dev/accel/accel0 is Intel's
        return "tpu", "TPU chips found"
    query = "nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader"
    gpus = re.findall(r"^(\d+)\.[\d.]+, *(\d+\.\d+)", subprocess.getoutput(query), re.MULTILINE)
    if not gpus:
        return "cpu", "no GPU or TPU found"
    driver, capability = int(gpus[0][0]), min(float(capability) for _, capability in gpus)
    # What jax's installation page asks for; CUDA 13 has dropped the GPUs before Turing (7.5).
    cuda = "cuda13" if driver >= 580 and capability >= 7.5 else "cuda12"
    return cuda if driver >= 525 else "cpu", f"NVIDIA driver {driver}, CUDA needs 525 or newer"


def torch_index(lines):
    """pip's arguments for PyTorch's own wheels, where it is asked for and they can be had."""
    if sys.platform != "linux" or not any(line.startswith("torch=") for line in lines):
        return []
    try:  # pip would try for minutes, and again for each package
        urllib.request.urlopen(f"{TORCH_CPU}/torch/", timeout=ANSWERS_S).close()
    except (OSError, HTTPException):
        return []
    return ["--extra-index-url", TORCH_CPU]


def pip(python, lines, what):
    """Install; if that fails, show pip's last lines and a way out."""
    print(f"gptjax: installing {what} ...", file=sys.stderr, flush=True)
    how = ("--no-input", "--disable-pip-version-check", *torch_index(lines))
    done = run(python, "-m", "pip", "install", *how, *lines)
    if done.returncode:
        print(*(done.stdout + done.stderr).splitlines()[-12:], sep="\n", file=sys.stderr)
        stop(
            "pip failed (above). No network: set HTTPS_PROXY, or PIP_INDEX_URL to your mirror. No "
            "version fits: try GPTJAX_PYTHON=python3.12 or GPTJAX_VENV=.venv. Then start again"
        )


def complete(folder, wanted, what):
    """Make a virtual environment, or complete the one that is there, and return its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    version = run(python, "-V").stdout.strip() if python.exists() else ""
    ours = f"Python {sys.version.split()[0]}"
    asked = os.environ.get("GPTJAX_PYTHON") or os.environ.get("PYTHON")
    # One that works is kept, whatever python3 means today, unless another Python is asked for.
    if not re.match(r"Python 3\.(1[1-9]|[2-9]\d)", version) or (asked and version != ours):
        if folder.exists() and not (folder / "pyvenv.cfg").exists() and any(folder.iterdir()):
            stop(f"{folder} is a folder with other things in it; GPTJAX_VENV=DIR names another")
        venv.create(folder, clear=True, symlinks=os.name != "nt")
        version = ours
    stamp, full = folder / "gptjax-installed.txt", [version, *wanted]
    if stamp.exists() and set(full) <= set(stamp.read_text("utf-8").splitlines()):
        return python
    stamp.unlink(missing_ok=True)  # an install that is interrupted is not an install
    base_pip = (sys.executable, "-m", "pip", "--python", python, "install", "pip")  # no ensurepip
    if run(python, "-m", "ensurepip").returncode and run(*base_pip).returncode:
        stop(f"{sys.executable} has neither ensurepip nor pip: install python3-venv")
    pip(python, wanted, f"{what} into {folder} (once, some minutes)")
    stamp.write_text("\n".join(full), "utf-8")
    return python


def main(tests, extras=()):
    if sys.version_info < (3, 11):  # noqa: UP036
        stop(f"{sys.executable} is Python {sys.version.split()[0]}: start with 3.11 or newer")
    chip, why = choose_wheels()
    if chip not in ("cpu", "cuda12", "cuda13", "tpu"):
        stop(f"GPTJAX_PLATFORM={chip} is none of cpu, cuda12, cuda13, tpu")
    jax = "jax" if chip == "cpu" else f"jax[{chip}]"
    wanted = [re.sub("^jax>", f"{jax}>", line) for line in requirements(tests, extras)]
    place = os.environ.get("GPTJAX_VENV")
    import_jax = (sys.executable, "-c", "import jax")  # fails where the jaxlib does not fit, say
    if place != "none" and (place or lacks(wanted[0]) or run(*import_jax).returncode):
        return complete(Path(place or ROOT / ".venv").absolute(), wanted, f"{jax} ({why})")
    if lines := [line for line in wanted if lacks(line)]:  # the jax that is here stays as it is
        names = [found.name or "" for found in metadata.distributions()]
        pins = {f"{n}=={metadata.version(n)}" for n in names if re.match("jax|libtpu|numpy$", n)}
        pip(sys.executable, [*lines, *sorted(pins)], f"{', '.join(lines)} into {sys.prefix}")
    return sys.executable


if __name__ == "__main__":
    try:
        extras = [name for name in EXTRAS if f"--{name}" in sys.argv]
        print(main("--tests" in sys.argv, extras))
    except KeyboardInterrupt:
        stop("stopped; start again to go on", code=130)
    except OSError as error:
        stop(f"{error}; GPTJAX_VENV=DIR names another folder than .venv")
