"""Texts and token files on an object store: copied once to this user's cache, then read as files.

In: a URL, as gs://bucket/my.txt. Out: the path of its copy, a file or a folder of ``prepare``'s.
Through fsspec, which comes with orbax; each store has a package of its own (gcsfs, s3fs). A copy is
of one version: what changes there is fetched again. Nothing is ever written to a store.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gptjax.errors import UserError
from gptjax.runtime import devices

PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}
FACTS = ("size", "etag", "ETag", "mtime", "updated", "LastModified", "created")


def is_remote(path: str) -> bool:
    """Whether a path is a URL, of a scheme longer than a drive's letter."""
    scheme, found, _ = path.partition("://")
    return bool(found) and len(scheme) > 1 and scheme.isalnum()


def local(url: str, say: Callable[[str], None] = lambda line: None) -> str:
    """The copy of a URL's file or folder; of a path that is none, the path.

    UserError: the store's package is not installed, nothing is there, or it cannot be read.
    """
    if not is_remote(url):
        return url
    try:
        import fsspec

        store, key = fsspec.core.url_to_fs(url)
        files = store.find(key, detail=True) or {key: store.info(key)}
        facts = [[name, *(str(of.get(fact)) for fact in FACTS)] for name, of in files.items()]
        version = hashlib.sha256(repr([url, facts]).encode()).hexdigest()[:16]
        copy = devices.cache_dir() / "remote" / version / Path(key).name
        if not copy.exists():
            size = sum(of.get("size") or 0 for of in files.values())
            say(f"fetching {url} ({size / 1e6:,.1f} MB)")
            _fetch(store, key, list(files), copy)
    except ImportError as error:
        package = PACKAGES.get(url.partition("://")[0], "a package of fsspec's")
        raise UserError(f"{url} needs {package}: pip install {package}") from error
    except UserError:
        raise
    except Exception as error:  # of any kind: each store has its own
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{url} cannot be read ({type(error).__name__}: {why})") from error
    return str(copy)


def _fetch(store, key: str, names: list[str], copy: Path) -> None:
    """Copy file by file into a folder of this process's, and give it its name when all is there."""
    part = copy.parent.with_name(f"{copy.parent.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    for name in names:
        inside = name[len(key) :].strip("/")
        if ".." in inside.split("/"):
            raise UserError(f"{name!r} leads out of its folder")
        path = part / copy.name / inside if inside else part / copy.name
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(name, str(path))
    try:
        part.rename(copy.parent)
    except OSError:  # another process was first
        shutil.rmtree(part, ignore_errors=True)
        if not copy.exists():
            raise
