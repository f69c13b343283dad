"""Checkpoints of a run: the only file that knows orbax.

In: a step, trees of arrays, a JSON-able dict. Out: the same, later, or a clear refusal. Each is a
folder ``workdir/checkpoints/step_N`` with the parts ``params`` and ``rest``, written by orbax, and
a manifest that seals them. It gets its name when it is complete: kill the run whenever you like.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from gptjax.checkpoints import directory as shelf
from gptjax.checkpoints import manifest as integrity
from gptjax.checkpoints import pytree as leaves
from gptjax.checkpoints.directory import (
    available,  # noqa: F401  (for those who read a run)
    best,
    last,
)
from gptjax.errors import UserError
from gptjax.runtime import atomic_files as files

PARTS = ("params", "rest")  # apart, so that sampling reads only params


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved, and how much of its past is kept."""

    every_steps: Annotated[int, "save every so many steps; 0 saves at each evaluation only"] = 0
    every_minutes: Annotated[float, "also save after so many minutes; 0 is never"] = 5.0
    keep_last: Annotated[int, "checkpoints kept beside the best; 2 leaves a spare one"] = 2
    on_full_disk: Annotated[str, "when one can't be written: stop, or continue without it"] = "stop"

    def __post_init__(self):
        for name, least in (("every_steps", 0), ("every_minutes", 0), ("keep_last", 1)):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise UserError(f"checkpoint.{name}={value} must be {least} or more")
        if self.on_full_disk not in ("stop", "continue"):
            value = repr(self.on_full_disk)
            raise UserError(f"checkpoint.on_full_disk={value} must be 'stop' or 'continue'")


class Checkpoints:
    """Writes a run's checkpoints in the background, one at a time, and deletes the old ones.

    One writer per work folder at a time: hold its lock (``lock.py``). Use it with ``with``.
    """

    def __init__(self, workdir: Path, config: CheckpointConfig):
        """Make ``workdir/checkpoints`` and delete what a killed writer left unfinished there.

        Raises:
          UserError: the folder cannot be made.
        """
        self.notices: list[str] = []  # what went wrong and did not stop the run; yours to clear
        self._config = config
        self._folder = shelf.folder(workdir)
        self._workdir = self._folder.parent
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            line = f"cannot make {self._folder} ({error.strerror}); choose another --workdir"
            raise UserError(line) from error
        shelf.clean(workdir)
        files.clean(self._workdir)
        self._best = best(workdir)
        # The newest one's step; whoever finds that one damaged knows better and says so.
        self.safe = last(workdir)
        self._pending: tuple[int, Future] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        _orbax()  # imports for half a second: better here than between two steps

    def save(self, step: int, state: dict[str, Any], meta: dict, *, best: bool = False) -> None:
        """Copy the state to the host and return; a thread writes it.

        A save still being written is waited for. Checkpoints of this step or later ones that are
        there already belong to a past try; they go once this one is complete.

        Args:
          step: optimizer steps taken.
          state: {"params": tree, "rest": tree} of arrays; may be donated or changed right after.
          meta: JSON-able: config, tokenizer, losses.
          best: the best so far: kept, however old, until a better one is complete. A step that was
            saved as the best stays the best when it is saved again.

        Raises:
          UserError: the save before this one failed (see ``wait``).
        """
        self.wait()
        host = {part: leaves.on_host(state[part]) for part in PARTS}
        self._best = step if best else self._best
        said = json.dumps(meta)  # here, so that what isn't JSON is the caller's error
        work = self._thread.submit(self._write, step, host, said, step == self._best)
        self._pending = (step, work)

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
            work.result()
        except Exception as error:
            if self._config.on_full_disk == "stop":
                raise UserError(self._explain(step, error)) from error
            self.notices.append(self._explain(step, error))

    def look(self) -> None:
        """Raise (or note) what became of the last save if it is over; does not wait for it."""
        if self._pending and self._pending[1].done():
            self.wait()

    def close(self) -> None:
        """Wait for the last save, then end the thread; raises what ``wait`` raises."""
        with self._thread:
            self.wait()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, error, trace) -> None:
        # A failed write must not hide the error that ended the run.
        with contextlib.suppress(UserError) if kind else contextlib.nullcontext():
            self.close()

    def _write(self, step: int, host: dict[str, dict], meta: str, best: bool) -> None:
        unfinished = self._folder / f"{shelf.UNFINISHED}{step}"
        shelf.remove(unfinished)
        try:
            unfinished.mkdir()
            for part, arrays in host.items():
                if arrays:  # orbax refuses an empty tree
                    with _orbax().PyTreeCheckpointer() as writer:
                        writer.save(unfinished / part, leaves.nested(arrays))
            tables = {part: {n: leaves.describe(a) for n, a in host[part].items()} for part in host}
            facts = {"step": step, "meta": json.loads(meta), "arrays": tables}
            integrity.seal(unfinished, facts)
            new = shelf.place(unfinished, step, best, self._workdir)
        except BaseException:
            shelf.remove(unfinished)  # gives the space back
            raise
        integrity.sync_folder(self._folder)
        self.safe = step
        for old in shelf.surplus(shelf.slots(self._workdir), new, self._config.keep_last):
            shelf.delete(old)

    def _explain(self, step: int, error: Exception) -> str:
        why = " ".join(str(error).split())[:200]
        with contextlib.suppress(OSError):
            why += f"; {shutil.disk_usage(self._folder).free / 1e6:.1f} MB are free"
        kept = "there is no other" if self.safe is None else f"that of step {self.safe} is kept"
        stops = self._config.on_full_disk == "stop"
        way_out = " and start again, or set checkpoint.on_full_disk=continue" if stops else ""
        return (
            f"the checkpoint of step {step} could not be written to {self._folder} ({why}); "
            f"{kept}: make room{way_out}"
        )


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held, and what the user should be told about finding it."""

    step: int
    tree: dict[str, Any]  # "params" and, unless only_params, "rest", shaped like ``abstract``
    meta: dict[str, Any]
    notices: list[str]


def read_meta(workdir: Path, which: str | int = "last") -> tuple[int, dict[str, Any]]:
    """What is stored beside the arrays, without reading them.

    ``restore`` also looks at the arrays, so with "last" it may fall back further than this does:
    afterwards believe ``Restored.step`` and ``Restored.meta``. It also says what the arguments are.

    Returns:
      (step, meta).
    """
    return shelf.first_sound(workdir, which, lambda slot: (slot.step, shelf.facts(slot)["meta"]))[0]


def restore(
    workdir: Path, which: str | int, abstract: dict[str, Any], *, only_params: bool = False
) -> Restored:
    """Read a checkpoint: all of it, compared with what was saved, or nothing.

    With "last" a damaged one is passed over for the one before it, and ``notices`` says so.

    Args:
      workdir: a run's folder.
      which: "last", "best" or a step.
      abstract: {"params": tree, "rest": tree} of jax.ShapeDtypeStruct; a leaf that has a sharding
        is placed on it, one that has none on the default device.
      only_params: leave "rest" alone, in ``abstract`` too.

    Raises:
      UserError: there is none, all are damaged, or its parameters are not those of ``abstract``.
    """
    wanted = {part: abstract[part] for part in (PARTS[:1] if only_params else PARTS)}

    def read(slot: shelf.Slot) -> tuple[int, dict, dict]:
        facts = shelf.facts(slot)
        for part, tree in wanted.items():
            if wrong := leaves.misfit(part, facts["arrays"].get(part, {}), tree):
                raise UserError(
                    f"the checkpoint of step {slot.step} does not fit this model: it {wrong}; "
                    "use the config it was saved with, or another --workdir"
                )
        integrity.verify(slot.path, facts["files"], wanted)
        tree = {p: _read_part(slot.path, p, facts["arrays"][p], wanted[p]) for p in wanted}
        return slot.step, tree, facts["meta"]

    (step, tree, meta), damage = shelf.first_sound(workdir, which, read)
    return Restored(step, tree, meta, [f"{line}; step {step} is used instead" for line in damage])


def _read_part(folder: Path, part: str, saved: dict[str, list], tree: Any) -> Any:
    """One part's arrays, in the shape and on the devices of ``tree``."""
    wanted = leaves.flat(tree)
    if not wanted:
        return tree
    ocp = _orbax()
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    args = ocp.args.PyTreeRestore(leaves.nested(wanted), restore_args=leaves.nested(as_numpy))
    try:
        with ocp.PyTreeCheckpointer() as reader:
            found = leaves.flat(reader.restore(folder / part, args=args))
    except Exception as error:  # the files are as written, so: another orbax, or no memory
        why = " ".join(str(error).split())[:200]
        raise integrity.Damaged(f"orbax {ocp.__version__} can't read {part}: {why}") from error
    placed = []
    for name, leaf in wanted.items():
        array = found.get(name)
        if not isinstance(array, np.ndarray) or leaves.describe(array) != saved[name]:
            raise integrity.Damaged(f"{part}/{name} has other values than were saved")
        placed.append(leaves.place(array, getattr(leaf, "sharding", None)))
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


@functools.cache
def _orbax() -> Any:
    """orbax.checkpoint, imported when it is needed and silent about its daily work."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(
        lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname
    )
    return ocp
