"""Object stores: what lies below a URL such as s3://bucket/run, and who may write there.

In: a URL. Out: objects, whole or not there, by their names below it; a ``Lease``, the lock of what
has none. Through fsspec, which comes with orbax; each store has a package of its own (gcsfs, s3fs).
"""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.runtime.atomic_files import PART

PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}
RENEW_S, DEAD_S = 20.0, 120.0  # how often a lease is renewed; after what silence its holder is dead
WATCH_S = 2.0  # between two looks at a lease that somebody else has


def is_remote(path: str) -> bool:
    """Whether a path is a URL, of a scheme longer than a drive's letter."""
    return re.match(r"[A-Za-z0-9]{2,}://", path) is not None


@contextlib.contextmanager
def explaining(url: str, what: str = "read") -> Iterator[None]:
    """A ``with`` in which what goes wrong at a store is a UserError of one line."""
    try:
        yield
    except ImportError as error:
        package = PACKAGES.get(url.partition("://")[0], "a package of fsspec's")
        raise UserError(f"{url} needs {package}: pip install {package}") from error
    except UserError:
        raise
    except Exception as error:  # of any kind: each store has its own
        raise UserError(f"{url} cannot be {what} ({reason(error)})") from error


def reason(error: Exception) -> str:
    """An error of a store in a few words."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class Store:
    """The objects below a URL, by the rest of their names: "metrics.jsonl"."""

    def __init__(self, url: str):
        """ImportError without the store's package; nothing is asked of the store yet."""
        import fsspec

        self.url = url.rstrip("/")
        # Without its memory of listings: others write there, too.
        self.fs, self._key = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        self.name = self._key.rpartition("/")[2]

    def path(self, name: str = "") -> str:
        """An object's name in the whole store."""
        return f"{self._key}/{name}" if name else self._key

    def files(self, below: str = "") -> dict[str, dict[str, Any]]:
        """Name -> what the store says of it; {"": ...} of a URL that is itself an object's."""
        found = self.fs.find(self.path(below), detail=True)
        return {path[len(self._key) :].strip("/"): of for path, of in found.items()}

    def read(self, name: str) -> bytes:
        """The bytes of an object; FileNotFoundError if there is none."""
        return self.fs.cat_file(self.path(name))

    def get(self, name: str, folder: Path) -> None:
        """Fetch an object into a folder, under its name: whole, or what is there stays."""
        path = folder / name
        if ".." in re.split(r"[/\\]", name) or not path.is_relative_to(folder):
            raise UserError(f"{name!r} leads out of its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}{PART}")
        self.fs.get_file(self.path(name), str(part))
        os.replace(part, path)

    def write(self, name: str, data: bytes | Path, mode: str = "overwrite") -> None:
        """Make or replace an object by bytes or by a file; mode "create": FileExistsError if it is.

        A file must not change meanwhile.
        """
        if isinstance(data, Path):
            self.fs.put_file(str(data), self.path(name), mode=mode)
        else:
            self.fs.pipe_file(self.path(name), data, mode=mode)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))


class Lost(Exception):
    """Somebody else may write by now."""


class Lease:
    """The right to write below a URL, of one process at a time, while it is renewed.

    A claim is an object lock/N, made on the condition that there is none. It counts if a listing
    after that shows no other, but for those of the dead. Every ``RENEW_S`` its holder makes
    lock/N+1, then deletes lock/N; who takes over from the dead makes lock/N+1, too, and only one of
    them can. Dead is who makes no claim for ``DEAD_S``, by the clock of who waits for it, or who
    had our ``place``, whose lock the operating system has given to us.

    What chance is left: a process that is halted for longer than that, between ``require`` and the
    request after it, makes that one request when another has taken over.
    """

    def __init__(self, store: Store, place: str, say: Callable[[str], None]):
        """Take it, or UserError: another process has it, and lives."""
        self._store, self._place, self.taker = store, place, ""  # taker: who has taken it from us
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._us = f"process {os.getpid()} on {socket.gethostname()} since {since}\n{place}"
        dead = self._dead(say)
        self._number, self._renewed = max(dead, default=0) + 1, time.time()
        if not self._claim(self._number) or self._claims() - dead != {self._number}:
            self._withdraw(self._number)
            raise self._refusal()
        for number in dead:
            store.delete(f"lock/{number}")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give it back; ``require`` refuses from now on."""
        self._end.set()
        self._thread.join(RENEW_S)
        self._renewed = 0.0
        with contextlib.suppress(Exception):  # then it is dead after a while
            self._withdraw(self._number)

    def require(self) -> None:
        """Before each change of the store: ``Lost`` if it is, OSError if it soon might be."""
        if self.taker:
            raise Lost
        # The wall clock: it goes on while a machine sleeps.
        if (silent := time.time() - self._renewed) > DEAD_S - RENEW_S:
            raise OSError(f"the lock could not be renewed for {silent:.0f} s")

    def renew(self) -> None:
        """Make the next claim; if another took over meanwhile, it is lost."""
        began, number = time.time(), self._number + 1
        is_ours, claims = self._claim(number), self._claims()
        # The claim before is deleted by us or by who took over, and may have ended since.
        if not is_ours or max(claims) > number or self._number not in claims:
            self._withdraw(number)
            self.taker = self._who()
            return
        self._number, self._renewed = number, began
        for old in claims - {number}:
            self._store.delete(f"lock/{old}")

    def _keep(self) -> None:
        while not (self._end.wait(RENEW_S) or self.taker):
            with contextlib.suppress(Exception):  # out of reach: ``require`` knows for how long
                self.renew()

    def _dead(self, say: Callable[[str], None]) -> set[int]:
        """The claims of the dead; UserError as soon as another holder shows that it lives."""
        first = claims = self._claims()
        began, url = time.monotonic(), self._store.url
        if first and not self._said(max(first)).endswith(f"\n{self._place}"):
            alive, dead = f"this ends in {RENEW_S:.0f} s", f"this goes on in {DEAD_S:.0f} s"
            say(f"{url} is in use by {self._who()}: if that lives, {alive}; if not, {dead}")
            while claims == first and time.monotonic() - began < DEAD_S:
                time.sleep(WATCH_S)
                claims = self._claims()
            if claims - first:
                raise self._refusal()
        return claims

    def _claims(self) -> set[int]:
        names = self._store.files("lock")
        return {int(name[5:]) for name in names if re.fullmatch("lock/[0-9]{1,18}", name)}

    def _claim(self, number: int) -> bool:
        """Make a claim; whether it is ours, be it of a try whose answer was lost."""
        with contextlib.suppress(FileExistsError):
            self._store.write(f"lock/{number}", self._us.encode(), mode="create")
        return self._said(number) == self._us

    def _withdraw(self, number: int) -> None:
        if self._said(number) == self._us:
            self._store.delete(f"lock/{number}")

    def _said(self, number: int) -> str:
        """Who made a claim, and their place on the next line; "" of a claim that is gone."""
        with contextlib.suppress(FileNotFoundError):
            return self._store.read(f"lock/{number}").decode(errors="replace")
        return ""

    def _who(self) -> str:
        said = self._said(max(self._claims(), default=0))
        return said.partition("\n")[0] or "another process"

    def _refusal(self) -> UserError:
        way_out = "wait for it, stop it, or name another --workdir"
        return UserError(f"{self._store.url} is in use by {self._who()}: {way_out}")
