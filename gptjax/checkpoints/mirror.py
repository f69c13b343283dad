"""A run on an object store: a folder here that is its copy, and what keeps the two equal.

In: a work folder's URL. Out: a folder. For a question it has what the question needs. For a
training it is the run's own, and a thread copies what is finished to the same names in the store:

- A checkpoint is there while its manifest is: put last, deleted first.
- An old one is deleted only when the newest is there, the best one when a better one is.
- Lines of metrics.jsonl are put before the checkpoint that counts them.
- Each change needs the lease of the URL (``object_store.Lease``).
"""

import _thread
import contextlib
import hashlib
import os
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import filelock

from gptjax.checkpoints import directory, manifest
from gptjax.checkpoints.directory import Slot
from gptjax.checkpoints.manifest import MANIFEST, Damaged
from gptjax.checkpoints.store import PARTS
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal
from gptjax.processes import cluster
from gptjax.runtime import devices, preemption, run_lock
from gptjax.runtime.atomic_files import PART, read_json, write_whole
from gptjax.runtime.object_store import Lease, Lost, Store, explaining, is_remote, reason

POLL_S, BESIDE_S = 1.0, 30.0  # between two looks for checkpoints, and for what lies beside them
LAST_TRIES = 5  # once the run has ended, after pauses of 1, 2, 4 and 8 s


def reading(workdir: str | Path, which: str | int = "best", parts: tuple[str, ...] = PARTS) -> Path:
    """A folder with the manifests below a URL, what lies beside them, ``parts`` of a checkpoint.

    ``which``: "best", "last", a step, or "every" one. A path is returned as it is. UserError: the
    store cannot be read, holds no such checkpoint, or no sound one.
    """
    url = str(workdir)
    if not is_remote(url):
        return Path(workdir)
    with explaining(url):
        store = Store(url)
        folder = _folder(store, "reading")
        with filelock.FileLock(folder.with_name("lock")):
            for again in (True, True, False):
                try:
                    files = store.files()
                    sums = _sums(store, files)
                    _fetch_all(store, folder, files, sums, parts if which == "every" else ())
                    if which != "every":
                        directory.first_sound(folder, which, lambda at: _fetch(store, at, parts))
                    break
                except FileNotFoundError:  # a trainer has just deleted it: look again
                    if not again:
                        raise
                except UserError as error:
                    raise UserError(str(error).replace(str(folder), url)) from error
    return folder


@contextlib.contextmanager
def training(workdir: str | Path, terminal: Terminal) -> Iterator[Path]:
    """A ``with`` that holds a URL, gives the run's folder, and copies there what is finished in it.

    Its end waits until all is copied, also after a signal. A path is left as it is.

    Raises:
      UserError: another process has the URL, or took it over; or the store cannot be read or
        written: what could not be copied stays here, and the next start on this machine copies it.
    """
    url = str(workdir)
    if not is_remote(url):
        yield Path(workdir)
        return
    with contextlib.ExitStack() as open_:
        with cluster.together(), explaining(url, "used"):
            store = Store(url)
            folder = _folder(store, "training")
            copier = _start(store, folder, terminal, open_) if cluster.is_first() else None
        place = cluster.from_first(_place(folder))
        with cluster.together():
            if _place(folder) != place:
                raise UserError(
                    f"{folder}, the copy of {url}, is another folder on each host: let "
                    "GPTJAX_CACHE_DIR name one that all hosts see, or give such a one as --workdir"
                )
        if copier:
            copier.thread.start()
        terminal.note(f"the run works in {folder} and is copied to {url}")
        ended: BaseException | None = None
        try:
            yield folder
        except BaseException as error:
            ended = error
        # Processes end in order together, and one with a mistake alone.
        in_order = ended is None or isinstance(ended, preemption.Stopped)
        with terminal.doing(f"copying to {url}"):
            while (cluster.any_of if in_order else bool)(copier is not None and copier.ending()):
                time.sleep(0.1)
        trouble = copier.trouble() if copier else ""
        if trouble and (ended is None or copier.lease.taker):
            raise UserError(trouble) from ended
        if in_order or trouble:
            (terminal.warn if trouble else terminal.note)(trouble or f"{url} has all of it")
        if ended is not None:
            raise ended


def _folder(store: Store, what: str) -> Path:
    """Where the copy for reading or for training lies; the folder around it is there."""
    around = devices.cache_dir() / "runs" / _sum(store.url.encode())[:16] / what
    around.mkdir(parents=True, exist_ok=True)
    return Path(os.path.abspath(around)) / store.name


def _place(folder: Path) -> str:
    """Which of all copies of all runs this is; told when it is first asked for."""
    path = folder.with_name("place")
    if not path.exists():
        write_whole(path, uuid.uuid4().hex.encode())
    return path.read_text()


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sums(store: Store, files: Iterable[str]) -> dict[str, str]:
    """Name -> sum of the manifest, of each complete checkpoint among the files of a store."""
    names = [re.fullmatch(r"checkpoints/(step_[\w.-]+)/" + MANIFEST, n) for n in files]
    return {name[1]: _sum(store.read(name[0])) for name in names if name}


def _fetch_all(
    store: Store,
    folder: Path,
    files: Iterable[str],
    sums: dict[str, str],
    parts: tuple[str, ...] = PARTS,
) -> None:
    """Make a folder what the store is: the manifests, what lies beside them, ``parts`` of all."""
    within, beside = directory.folder(folder), {n for n in files if "/" not in n}
    within.mkdir(parents=True, exist_ok=True)
    for path in [*folder.iterdir(), *within.iterdir()]:
        if path != within and path.name not in (sums if path.parent == within else beside):
            directory.remove(path)
    for name in beside:
        store.get(name, folder)
    for name, total in sums.items():
        path = within / name / MANIFEST
        if not path.is_file() or _sum(path.read_bytes()) != total:
            directory.remove(path.parent)
            store.get(f"checkpoints/{name}/{MANIFEST}", folder)
    for slot in directory.slots(folder):
        with contextlib.suppress(Damaged):  # whoever reads it says so, and may do without it
            _fetch(store, slot, parts)


def _fetch(store: Store, slot: Slot, parts: tuple[str, ...]) -> None:
    """Fetch parts of a checkpoint, if they are not here; Damaged: the store has them no better.

    FileNotFoundError: meanwhile it was deleted.
    """
    files, there = directory.facts(slot)["files"], f"checkpoints/{slot.path.name}"
    for part in parts:
        with contextlib.suppress(Damaged):
            manifest.verify(slot.path, files, [part])
            continue
        for name in [name for name in files if name.startswith(f"{part}/")]:
            try:
                store.get(f"{there}/{name}", slot.within.parent)
            except FileNotFoundError as error:
                store.read(f"{there}/{MANIFEST}")
                raise Damaged(f"{name} is missing") from error
        manifest.verify(slot.path, files, [part])


def _start(
    store: Store, folder: Path, terminal: Terminal, open_: contextlib.ExitStack
) -> "_Copier":
    """Hold the URL, make the folder what the store is, unless it is ahead, and begin to copy."""
    open_.enter_context(run_lock.lock(folder.parent))
    with terminal.doing(f"fetching {store.url}"):
        lease = Lease(store, _place(folder), terminal.note)
        open_.callback(lease.close)
        copier, files = _Copier(store, folder, lease, terminal), store.files()
        sums = _sums(store, files)
        for name in files:  # half put or half deleted by who was killed
            if name.startswith("checkpoints/") and name.split("/")[1] not in sums:
                copier.delete(name)
        # If the store is as this folder left it, the folder is ahead in all that differs. If not,
        # another machine went on, and nobody follows the line that is here alone.
        if copier.there != sums:
            copier.note({"": "fetching"})
            _fetch_all(store, folder, files, sums)
            copier.note(sums)
    return copier


class _Copier:
    """A thread that brings the store up to the folder, until no more comes."""

    def __init__(self, store: Store, folder: Path, lease: Lease, terminal: Terminal):
        self._store, self._folder, self.lease, self._terminal = store, folder, lease, terminal
        # The checkpoints in the store when this machine last changed it: name -> manifest's sum.
        self.there: dict[str, str] = read_json(folder.with_name("there.json"), 10**6)
        self._stamps: dict[str, tuple[int, int]] = {}  # of what lies beside, as it was put
        self._beside_at, self._end = -BESIDE_S, threading.Event()
        self._failed: Exception | None = None
        self.thread = threading.Thread(target=self._follow, name="copier", daemon=True)

    def ending(self) -> bool:
        """Say that no more comes; whether there still is something to copy."""
        self._end.set()
        return self.thread.is_alive()

    def trouble(self) -> str:
        """Why the store has not all of it, and what to do, or ""."""
        url, taker, there = self._store.url, self.lease.taker, ", ".join(self.there) or "nothing"
        if taker:
            late = "as this run had not renewed its lock in time, and ends here"
            way_out = "the same command goes on from what that one leaves"
            return f"{url} was taken over by {taker}, {late}: {way_out}"
        way_out = f"it is in {self._folder}, and the same command on this machine copies it"
        why = self._failed and reason(self._failed)
        return f"{url} has {there}; the rest could not be copied ({why}): {way_out}" if why else ""

    def _follow(self) -> None:
        """Copy again and again to the run's end, and then till it succeeds or fails so often."""
        tries, ended = 0, False
        while not ended or 0 < tries < LAST_TRIES:
            if ended:
                time.sleep(POLL_S * 2**tries / 2)
            elif self._end.wait(min(POLL_S * 2**tries, 60)):
                tries, ended = 0, True
            try:
                self.copy()
                tries, self._failed = 0, None
            except Lost:
                tries = 0
                if not ended and callable(signal.getsignal(signal.SIGTERM)):
                    return _thread.interrupt_main(signal.SIGTERM)  # the training ends in good order
            except Exception as error:
                tries, self._failed = tries + 1, error
            if tries == 3 and not ended:
                line = f"{self._store.url} cannot be written ({reason(self._failed)})"
                self._terminal.warn(f"{line}: the run goes on here, and this is tried again")

    def copy(self) -> None:
        """Put what the store lacks, the newest first, and then delete what it has too much."""
        self.lease.require()
        while slots := directory.slots(self._folder):
            new = [slot for slot in slots if slot.path.name not in self.there]
            if not new:
                break
            self._put_beside("*.jsonl")
            self._put_checkpoint(new[-1])
            self._delete_old(newest=slots[-1].path.name)
        if self._end.is_set() or time.monotonic() - self._beside_at > BESIDE_S:
            self._put_beside("*")
            self._beside_at = time.monotonic()

    def delete(self, name: str) -> None:
        """Delete an object, if we may."""
        self.lease.require()
        self._store.delete(name)

    def note(self, there: dict[str, str]) -> None:
        """Write down what the store has, for the next start here."""
        self.there = there
        write_whole(self._folder.with_name("there.json"), metrics.to_json(there))

    def _put_beside(self, pattern: str) -> None:
        """Put the files beside the checkpoints that have changed since they were put."""
        for path in sorted(self._folder.rglob(pattern)):
            name = path.relative_to(self._folder).as_posix()
            if name.startswith("checkpoints/") or name == run_lock.NAME or name.endswith(PART):
                continue
            with contextlib.suppress(FileNotFoundError):  # the next one takes its name
                stamp = path.stat().st_mtime_ns, path.stat().st_size
                if path.is_file() and self._stamps.get(name) != stamp:
                    self.lease.require()
                    self._store.write(name, path.read_bytes())
                    self._stamps[name] = stamp

    def _put_checkpoint(self, slot: Slot) -> None:
        """Put a checkpoint, its manifest last; links keep what the run deletes meanwhile.

        An error if it is deleted already: next time there is a newer one.
        """
        kept, name = self._folder.with_name("copying"), slot.path.name
        directory.remove(kept)
        shutil.copytree(slot.path, kept, copy_function=os.link)
        paths = [path for path in kept.rglob("*") if path.is_file() and path != kept / MANIFEST]
        for path in [*paths, kept / MANIFEST]:
            self.lease.require()
            self._store.write(f"checkpoints/{name}/{path.relative_to(kept).as_posix()}", path)
        self.note(self.there | {name: _sum((kept / MANIFEST).read_bytes())})

    def _delete_old(self, newest: str) -> None:
        """Delete what the folder does not have any more, as the rules at the top allow.

        ``newest``: what was that before the last was put; it is there, if not here any more.
        """
        here = {slot.path.name for slot in directory.slots(self._folder)} | {newest}
        has_best = any(name.endswith("-best") for name in here & self.there.keys())
        for name in self.there.keys() - here:
            if has_best or not name.endswith("-best"):
                self.delete(f"checkpoints/{name}/{MANIFEST}")
                self.note({n: total for n, total in self.there.items() if n != name})
                for left in self._store.files(f"checkpoints/{name}"):
                    self.delete(left)
