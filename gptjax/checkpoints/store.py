"""Checkpoints of a run: the only file that knows orbax.

In: a step, trees of arrays, a JSON-able dict. Out: the same, later, or a clear refusal. Each is a
folder ``workdir/checkpoints/step_N`` with the parts ``params`` and ``rest``, written by orbax, and
a manifest that seals them. It gets its name when it is complete: kill the run whenever you like.
Of several processes each writes and reads what its devices have; the first seals and deletes.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gptjax.checkpoints import directory, manifest, pytree
from gptjax.checkpoints.directory import Slot
from gptjax.config.schema import CheckpointConfig
from gptjax.errors import UserError
from gptjax.processes import cluster
from gptjax.runtime import atomic_files

PARTS = ("params", "rest")  # apart, so that sampling reads only params
# Beside the arrays: what orbax writes of them, some 20 files and a folder for each part.
OVERHEAD_BYTES, OVERHEAD_FILES = 2**19, 70
WRITE_SECONDS = 300  # of several processes, for which one waits for the others to have written


class Checkpoints(contextlib.AbstractContextManager):
    """Writes a run's checkpoints in the background, one at a time, and deletes the old ones.

    One writer per work folder at a time: hold its lock (``runtime/run_lock.py``). Use ``with``.
    """

    def __init__(self, workdir: Path, config: CheckpointConfig):
        """Make ``workdir/checkpoints``, or UserError; delete what a killed writer left there."""
        self.notices: list[str] = []  # what went wrong and did not stop the run; yours to clear
        self._config = config
        self._folder = directory.folder(workdir)
        self._workdir = self._folder.parent
        with cluster.together():
            self._make_folder()
        self._best = cluster.from_first(directory.best(workdir))
        # The newest one's step; whoever finds that one damaged knows better and says so.
        self.safe = cluster.from_first(directory.last(workdir))
        self._pending: tuple[int, Future] | None = None
        self._open = contextlib.ExitStack()
        self._open.enter_context(_quiet_after_failures())
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._open.enter_context(self._thread)
        self._thread.submit(_orbax)  # imports for half a second: not when a state is to be saved

    def _make_folder(self) -> None:
        if not cluster.is_first():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            line = f"cannot make {self._folder} ({error.strerror}); choose another --workdir"
            raise UserError(line) from error
        directory.clean(self._workdir)
        atomic_files.clean(self._workdir)

    def save(self, step: int, state: dict[str, Any], meta: dict, *, best: bool = False) -> None:
        """Copy {"params": tree, "rest": tree} of arrays to the host and return; a thread writes it.

        It first does what ``wait`` does. The arrays may be donated or changed right after. ``meta``
        is JSON-able. The ``best`` so far is kept, however old, until a better one is complete; a
        step that was saved as the best stays the best when it is saved again.
        """
        self.wait()
        begin = _begin if cluster.count() == 1 else self._begin_together
        unfinished = self._folder / f"{directory.UNFINISHED}{step}"
        write, tables, n_bytes = begin(unfinished, {part: state[part] for part in PARTS})
        self._best = step if best else self._best
        said = json.dumps(meta)  # here, so that what isn't JSON is the caller's error
        facts = {"step": step, "meta": json.loads(said), "arrays": tables}
        made = unfinished, write, facts, n_bytes, step == self._best
        self._pending = step, self._thread.submit(self._write, *made)

    def _begin_together(self, unfinished: Path, state: dict[str, Any]) -> tuple:
        """As ``_begin`` of several processes: orbax copies to each host what its devices have."""
        with cluster.together():
            if cluster.is_first():
                directory.remove(unfinished)
                unfinished.mkdir()
        ocp, writers = _orbax(), []
        n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        for part, tree in state.items():
            named = {"barrier_sync_key_prefix": part}  # both are written at once
            options = ocp.options.MultiprocessingOptions(**named)
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
            limit = ocp.options.AsyncOptions(timeout_secs=WRITE_SECONDS)
            writer = ocp.AsyncCheckpointer(
                handler, async_options=limit, multiprocessing_options=options
            )
            nested = pytree.nested(pytree.flat(tree))
            writer.save(unfinished / part, args=ocp.args.PyTreeSave(nested))
            writers.append(writer)

        def write() -> None:
            for writer in writers:
                writer.wait_until_finished()
                writer.close()

        tables = {
            part: {
                name: [leaf.dtype.name, list(leaf.shape), pytree.NO_SUM]
                for name, leaf in pytree.flat(tree).items()
            }
            for part, tree in state.items()
        }
        return write, tables, n_bytes

    def wait(self) -> None:
        """Return when the last save is complete on the disk.

        Raises:
          UserError: it could not be written and ``on_full_disk`` is "stop"; with "continue" the
            same line is appended to ``notices``. Earlier checkpoints are untouched either way.
        """
        if self._pending is None:
            return
        (step, work), self._pending = self._pending, None
        try:
            with cluster.together():
                try:
                    work.result()
                except Exception as error:
                    raise UserError(self._explain(step, error)) from error
        except UserError as error:
            if self._config.on_full_disk == "stop":
                raise
            self.notices.append(str(error))
        else:
            self.safe = step

    def look(self) -> None:
        """Raise (or note) what became of the last save if it is over; does not wait for it."""
        if self._pending and not cluster.any_of(not self._pending[1].done()):
            self.wait()

    def __exit__(self, kind, error, trace) -> None:
        if kind and cluster.count() > 1:  # the others may be elsewhere: nothing to wait for
            self._pending = None
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        # A failed write must not hide the error that ended the run.
        hidden = (UserError,) if kind else ()
        with contextlib.suppress(*hidden), self._open:
            self.wait()

    def _write(
        self, unfinished: Path, write: Callable, facts: dict, n_bytes: int, best: bool
    ) -> None:
        step = facts["step"]
        self._require_room(n_bytes)
        try:
            write()
            if not cluster.is_first():
                return
            manifest.seal(unfinished, facts)
            new = directory.rename_into_place(unfinished, step, best, self._workdir)
        except BaseException:
            directory.remove(unfinished)  # gives the space back
            raise
        manifest.sync_folder(self._folder)
        self.safe = step
        slots, keep = directory.slots(self._workdir), self._config
        for old in directory.superfluous(slots, new, keep.keep_last, keep.keep_every):
            directory.delete(old)

    def _require_room(self, n_bytes: int) -> None:
        """Find a full disk before orbax does, whose threads would each complain of it."""
        n_bytes += OVERHEAD_BYTES
        free_bytes, free_files = _room(self._folder)
        if free_bytes < n_bytes or (free_files or OVERHEAD_FILES) < OVERHEAD_FILES:
            needs = f"it needs {n_bytes / 1e6:.1f} MB and {OVERHEAD_FILES} files"
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needs}")

    def _explain(self, step: int, error: Exception) -> str:
        line = f"the checkpoint of step {step} could not be written to {self._folder}"
        if not self._folder.is_dir():
            return f"{line}: the folder is gone, and with it what was saved there"
        full = os.strerror(errno.ENOSPC)
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        if full in str(error) and not why.startswith(full):  # orbax names a file of its own
            why = full
        with contextlib.suppress(OSError):
            free_bytes, free_files = _room(self._folder)
            files = "" if free_files is None else f" and {free_files:,} files"
            why += f"; {free_bytes / 1e6:.1f} MB{files} are free"
        kept = "there is no other" if self.safe is None else f"that of step {self.safe} is kept"
        stops = self._config.on_full_disk == "stop"
        way_out = " and start again, or set checkpoint.on_full_disk=continue" if stops else ""
        return f"{line} ({why}); {kept}: make room{way_out}"


def _begin(unfinished: Path, state: dict[str, Any]) -> tuple[Callable, dict, int]:
    """Copy a state to the host; what writes it, the tables of its arrays, and its bytes."""
    host = {part: pytree.on_host(tree) for part, tree in state.items()}
    tables: dict[str, dict] = {}

    def write() -> None:
        directory.remove(unfinished)
        unfinished.mkdir()
        for part, arrays in host.items():
            if arrays:  # orbax refuses an empty tree
                # Compressed, numbers take 7 % less and a save twice the seconds and the memory.
                with _orbax().PyTreeCheckpointer(use_compression=False) as writer:
                    writer.save(unfinished / part, pytree.nested(arrays))
            tables[part] = {name: pytree.describe(array) for name, array in arrays.items()}

    return write, tables, sum(a.nbytes for arrays in host.values() for a in arrays.values())


def _room(folder: Path) -> tuple[int, int | None]:
    """Bytes and files (None: without a limit, or unknown) for which a disk has room."""
    if not hasattr(os, "statvfs"):  # Windows
        return shutil.disk_usage(folder).free, None
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None


@contextlib.contextmanager
def _quiet_after_failures() -> Iterator[None]:
    """A ``with`` in which writes that orbax gave up print no traceback each as they come back."""
    before = sys.excepthook

    def hook(kind, error, trace):
        if not (kind is RuntimeError and str(error) == "Event loop is closed"):
            before(kind, error, trace)

    sys.excepthook = hook
    try:
        yield
    finally:
        if sys.excepthook is hook:
            sys.excepthook = before


class Restored(NamedTuple):
    """What a checkpoint held, and what the user should be told about finding it."""

    step: int
    tree: dict[str, Any]  # "params" and, unless only_params, "rest", shaped like ``abstract``
    meta: dict[str, Any]
    notices: list[str]


def read_meta(workdir: Path, which: str | int = "last") -> tuple[int, dict[str, Any]]:
    """(step, meta) of "last", "best" or a step: what stands beside the arrays, without these.

    ``restore`` looks at the arrays, too, and with "last" may fall back further: then believe it.
    """
    facts, _ = directory.first_sound(workdir, which, directory.facts)
    return facts["step"], facts["meta"]


def restore(
    workdir: Path, which: str | int, abstract: dict[str, Any], *, only_params: bool = False
) -> Restored:
    """Read the checkpoint of "last", "best" or a step: all of it, as it was saved, or nothing.

    ``abstract`` is {"params": tree, "rest": tree} of jax.ShapeDtypeStruct, with ``only_params``
    without "rest"; a leaf is placed on its sharding, if it has one. With "last" a damaged
    checkpoint is passed over for the one before it, and ``notices`` says so. UserError where there
    is none, all are damaged, or the parameters are not those of ``abstract``.
    """
    wanted = {part: abstract[part] for part in (PARTS[:1] if only_params else PARTS)}

    def read(slot: Slot) -> tuple[int, dict, dict]:
        facts = directory.facts(slot)
        for part, tree in wanted.items():
            if wrong := pytree.misfit(part, facts["arrays"].get(part, {}), tree):
                raise UserError(
                    f"the checkpoint of step {slot.step} does not fit this model: it {wrong}; "
                    "use the config it was saved with, or another --workdir"
                )
        _verify(slot.path, facts["files"], wanted)
        tree = {p: _read_part(slot.path, p, facts["arrays"][p], wanted[p]) for p in wanted}
        return slot.step, tree, facts["meta"]

    (step, tree, meta), damage = directory.first_sound(workdir, which, read)
    return Restored(step, tree, meta, [f"{line}; step {step} is used instead" for line in damage])


def _verify(folder: Path, files: dict[str, list], parts: Any) -> None:
    """``manifest.verify``, by the first process for all."""
    damage = ""
    if cluster.is_first():
        try:
            manifest.verify(folder, files, parts)
        except manifest.Damaged as error:
            damage = str(error)
            if cluster.count() == 1:
                raise
    if damage := cluster.from_first(damage):
        raise manifest.Damaged(damage)


def _read_part(folder: Path, part: str, saved: dict[str, list], tree: Any) -> Any:
    """One part's arrays, in the shape and on the devices of ``tree``."""
    wanted = pytree.flat(tree)
    if not wanted:
        return tree
    ocp = _orbax()
    how = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    for name, leaf in wanted.items():
        if pytree.is_cut(leaf):  # each device reads its own
            how[name] = ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape)
    args = ocp.args.PyTreeRestore(pytree.nested(wanted), restore_args=pytree.nested(how))
    try:
        with ocp.PyTreeCheckpointer() as reader:
            found = pytree.flat(reader.restore(folder / part, args=args))
    except Exception as error:  # the files are as written, so: another orbax, or no memory
        why = " ".join(str(error).split())[:200]
        raise manifest.Damaged(f"orbax {ocp.__version__} can't read {part}: {why}") from error
    placed = []
    for name, leaf in wanted.items():
        array, (*like, total) = found.pop(name, None), saved[name]
        if not isinstance(array, (np.ndarray, jax.Array)) or not pytree.is_like(array, like, total):
            raise manifest.Damaged(f"{part}/{name} has other values than were saved")
        is_placed = isinstance(array, jax.Array)
        placed.append(array if is_placed else pytree.put(array, getattr(leaf, "sharding", None)))
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


@functools.cache
def _orbax() -> Any:
    """orbax.checkpoint, imported when needed and silent: its errors are raised, too."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    import orbax.checkpoint as ocp

    return ocp
