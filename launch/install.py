"""Gives a Python what gptjax needs and says which Python that is; does nothing the second time.

In: requirements.txt, with --tests also pyproject.toml's `test` list, and the variables GPTJAX_VENV
and GPTJAX_PLATFORM (explained in venv.sh). Out: on stdout one line, the Python to run; progress on
stderr, and on failure one line with a way out and exit code 2. Standard library only. It also runs
by itself, on Windows too: `py launch/install.py`.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from wheels import choose_wheels  # beside this file

ROOT = Path(__file__).resolve().parent.parent


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def stop(text: str, code: int = 2) -> NoReturn:
    say(f"gptjax: {text}")
    sys.exit(code)


def requirements(tests: bool) -> list[str]:
    """The requirement lines, ["jax>=0.7.2,<0.13", ...]: the package's and, if asked, the tests'."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if tests:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines += project["optional-dependencies"]["test"]
    return lines


def name_and_minimum(requirement: str) -> tuple[str, tuple[int, ...]]:
    """("jax", (0, 7, 2)) of "jax>=0.7.2,<0.13"."""
    name, bound = requirement.split(",")[0].split(">=")
    return name, numbers(bound)


def numbers(version: str) -> tuple[int, ...]:
    """(0, 7, 2) of "0.7.2" or of "0.7.2.dev3"."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]", version)[0]))


def missing(lines: Sequence[str]) -> list[str]:
    """The requirements this Python lacks or has too old; newer than asked for is left alone."""
    lacking = []
    for line in lines:
        name, minimum = name_and_minimum(line)
        try:
            if numbers(importlib.metadata.version(name)) >= minimum:
                continue
        except importlib.metadata.PackageNotFoundError:
            pass
        lacking.append(line)
    return lacking


def has_jax() -> bool:
    """Whether this very Python imports a jax that is new enough."""
    try:
        import jax
    except Exception:  # a jaxlib that does not fit, say: whatever it is, this jax is of no use
        return False
    if too_old := missing(requirements(tests=False)[:1]):
        say(f"gptjax: {sys.executable} has jax {jax.__version__}, not {too_old[0]}: not using it")
        return False
    return True


def pip(python: str, arguments: Sequence[str], what: str, log: Path) -> None:
    """Install, telling so in one line; on failure show pip's last lines and a way out."""
    say(f"gptjax: installing {what} ...", end="")
    start = time.monotonic()
    command = [python, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check"]
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run([*command, *arguments], stdout=file, stderr=file).returncode
    say(f" {time.monotonic() - start:.0f} s")
    if code:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]:
            say(f"  pip: {line}")
        stop(
            "pip failed (above). No network, or a proxy: set HTTPS_PROXY, or PIP_INDEX_URL to your "
            "mirror. No version fits: GPTJAX_PYTHON=python3.12 names another Python, "
            "GPTJAX_VENV=.venv another place. Then start again"
        )


def with_wheels(lines: Sequence[str]) -> tuple[list[str], str]:
    """The requirements with jax's wheels for this machine, and a few words on which and why."""
    try:
        chip, why = choose_wheels()
    except ValueError as mistake:
        stop(str(mistake))
    extra = "" if chip == "cpu" else f"[{chip}]"
    return [line.replace("jax>", f"jax{extra}>") for line in lines], f"jax for {chip} ({why})"


def here(tests: bool) -> str:
    """Add what is missing to this very Python; the jax it may have stays as it is."""
    lines = missing(requirements(tests))
    if not lines:
        return sys.executable
    installed = {d.name or "": d.version for d in importlib.metadata.distributions()}
    keep = {
        n: v for n, v in installed.items() if re.match(r"(jax|jaxlib|jax[-_].*|libtpu|numpy)$", n)
    }
    if lines[0].startswith("jax>"):
        if "jax" in keep:
            stop(
                f"{sys.executable} has jax {keep['jax']}, not {lines[0]}: upgrade it yourself, or "
                "unset GPTJAX_VENV for an environment of gptjax's own"
            )
        lines, _ = with_wheels(lines)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        pins = [f"{name}=={version}\n" for name, version in sorted(keep.items())]
        constraints.write_text("".join(pins), encoding="utf-8")
        names = ", ".join(line.split(">")[0] for line in lines)
        log = Path(folder) / "pip.log"
        pip(sys.executable, [*lines, "-c", str(constraints)], f"{names} into {sys.prefix}", log)
    return sys.executable


def venv(folder: Path, tests: bool) -> str:
    """Make or complete the virtual environment `folder`; stamps tell what it has in full."""
    python, version = make(folder)
    stamps = {}
    for name in ("run", "tests") if tests else ("run",):
        lines, wheels = with_wheels(requirements(name == "tests"))
        stamps[folder / f"gptjax-{name}.txt"] = "\n".join([f"# Python {version}", *lines, ""])
    if all(stamp.exists() and stamp.read_text("utf-8") == text for stamp, text in stamps.items()):
        return str(python)
    for stamp in stamps:  # back when pip has ended well: an interrupted install is not an install
        stamp.unlink(missing_ok=True)
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        add_pip(python)
    effort = "about a minute" if "for cpu" in wheels else "some minutes, some GB"
    place = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else folder
    pip(str(python), lines, f"{wheels} into {place} (once, {effort})", folder / "pip.log")
    for stamp, text in stamps.items():
        stamp.write_text(text, encoding="utf-8")
    return str(python)


def make(folder: Path) -> tuple[Path, str]:
    """A virtual environment without packages, or the one that is there: its Python, "3.12"."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = os.environ.get("GPTJAX_PYTHON") or os.environ.get("PYTHON")
    ours, found = f"{sys.version_info.major}.{sys.version_info.minor}", version_of(python)
    # One that works is kept, whatever python3 means today, unless another Python is asked for.
    if found and numbers(found) >= (3, 11) and (not asked or found == ours):
        return python, found
    if folder.exists() and not (folder / "pyvenv.cfg").exists() and any(folder.iterdir()):
        stop(f"{folder} is a folder with other things in it; GPTJAX_VENV=DIR names another")
    # Without pip at first: Debian's Python can lack ensurepip, which would put pip there.
    command = [sys.executable, "-m", "venv", "--clear", "--without-pip", folder]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        reason = (made.stderr or made.stdout or "no reason given").strip().splitlines()[-1]
        stop(f"cannot make {folder}: {reason}; GPTJAX_VENV=DIR names another folder")
    return python, ours


def version_of(python: Path) -> str | None:
    """ "3.12", or None where there is no Python that runs."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", program], capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() or None


def add_pip(python: Path) -> None:
    """Put pip into a virtual environment: Python's own copy, else with the pip of this Python."""
    for command in (
        [python, "-m", "ensurepip", "--default-pip"],
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "pip"],
    ):
        if subprocess.run(command, capture_output=True).returncode == 0:
            return
    stop(f"{sys.executable} has neither ensurepip nor pip: install python3-venv or python3-pip")


def main(arguments: Sequence[str]) -> None:
    tests = "--tests" in arguments
    place = os.environ.get("GPTJAX_VENV")
    if place == "none" or (not place and has_jax()):
        print(here(tests))
    else:
        print(venv(Path(place).absolute() if place else ROOT / ".venv", tests))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        stop("stopped; start again to go on", code=130)
