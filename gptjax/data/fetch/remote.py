"""Texts and token files on an object store: copied once to this user's cache, then read as files.

In: a URL, as gs://bucket/my.txt. Out: the path of its copy, a file or a folder of ``prepare``'s. A
copy is of one version: what changes there is fetched again.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gptjax.runtime import devices
from gptjax.runtime.object_store import Store, explaining, is_remote

FACTS = ("size", "etag", "ETag", "mtime", "updated", "LastModified", "created")


def local(url: str, say: Callable[[str], None] = lambda line: None) -> str:
    """The copy of a URL's file or folder; of a path that is none, the path.

    UserError: the store's package is not installed, nothing is there, or it cannot be read.
    """
    if not is_remote(url):
        return url
    with explaining(url):
        store = Store(url)
        files = store.files() or {"": store.fs.info(store.path(""))}
        facts = [[name, *(str(of.get(fact)) for fact in FACTS)] for name, of in files.items()]
        version = hashlib.sha256(repr([url, facts]).encode()).hexdigest()[:16]
        copy = devices.cache_dir() / "remote" / version / store.name
        if not copy.exists():
            size = sum(of.get("size") or 0 for of in files.values())
            say(f"fetching {url} ({size / 1e6:,.1f} MB)")
            _fetch(store, list(files), copy)
    return str(copy)


def _fetch(store: Store, names: list[str], copy: Path) -> None:
    """Copy file by file into a folder of this process's, and give it its name when all is there."""
    part = copy.parent.with_name(f"{copy.parent.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    for name in names:
        store.get(name, part / copy.name)
    try:
        part.rename(copy.parent)
    except OSError:  # another process was first
        shutil.rmtree(part, ignore_errors=True)
        if not copy.exists():
            raise
