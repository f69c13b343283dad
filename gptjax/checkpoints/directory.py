"""The checkpoints in a work folder: which there are, what they are called, which may go.

In: a work folder. Out: its complete checkpoints in the order in which they were written. Names:
``step_300``, ``step_300-best`` (the best so far), ``step_300.2`` (the step written again).
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gptjax.checkpoints import manifest, pytree
from gptjax.checkpoints.manifest import Damaged
from gptjax.errors import UserError

UNFINISHED = ".unfinished-"  # how the names of folders being written or deleted begin
_NAME = re.compile(r"step_(\d{1,18})(?:\.(\d{1,9}))?(-best)?", re.ASCII)


class Slot(NamedTuple):
    """A complete checkpoint's place."""

    step: int
    serial: int  # 1, or more when the step was written again
    best: bool
    within: Path

    @property
    def path(self) -> Path:
        """The checkpoint's folder."""
        again = f".{self.serial}" if self.serial > 1 else ""
        return self.within / f"step_{self.step}{again}{'-best' if self.best else ''}"


def folder(workdir: Path) -> Path:
    """Where a run keeps its checkpoints: absolute, as orbax wants it."""
    return Path(os.path.abspath(workdir)) / "checkpoints"


def slots(workdir: Path) -> list[Slot]:
    """Every complete checkpoint, oldest first; UserError if the folder cannot be listed."""
    within = folder(workdir)
    try:
        names = [_NAME.fullmatch(path.name) for path in within.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot list {within} ({error.strerror}); check its rights") from error
    found = [Slot(int(n[1]), int(n[2] or 1), bool(n[3]), within) for n in names if n]
    return sorted(slot for slot in found if slot.path.is_dir())


def available(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints, oldest first; damage is looked for on reading."""
    return sorted({slot.step for slot in slots(workdir)})


def last(workdir: Path) -> int | None:
    """The newest checkpoint's step, or None."""
    return max(available(workdir), default=None)


def best(workdir: Path) -> int | None:
    """The best checkpoint's step, or None."""
    return max((slot.step for slot in slots(workdir) if slot.best), default=None)


def first_sound(workdir: Path, which: str | int, read: Callable[[Slot], Any]) -> tuple[Any, list]:
    """``read`` the "best" checkpoint, that of a step, or of "last" the newest that is sound.

    Returns what ``read`` did, and a line about each one passed over because it raised Damaged;
    UserError where there is no such checkpoint, or no sound one.
    """
    found = slots(workdir)[::-1]
    if not found:
        raise UserError(
            f"{str(workdir)!r} holds no checkpoint: train one there, "
            f"python -m gptjax.train --config=gpt --workdir={workdir}"
        )
    steps = ", ".join(str(step) for step in available(workdir))
    if which != "last":
        found = [s for s in found if s.step == which or (s.best and which == "best")][:1]
        if not found:
            raise UserError(f"{workdir} holds no checkpoint {which!r}, only of steps {steps}")
    damage = []
    for slot in found:
        try:
            return read(slot), damage
        except Damaged as error:
            if not slot.path.is_dir():  # a running trainer has just deleted it: look again
                return first_sound(workdir, which, read)
            damage.append(f"the checkpoint of step {slot.step} is damaged ({error})")
    others = len(slots(workdir)) > len(found)
    way_out = "--checkpoint=last or a step takes another one" if others else "nothing sound is left"
    raise UserError(
        f"{'; '.join(damage)}; {folder(workdir)} holds those of steps {steps}: {way_out}; to train "
        "anew, name another --workdir"
    )


def facts(slot: Slot) -> dict[str, Any]:
    """What its manifest says: "step", "meta", "arrays" (part -> table), "files"; or Damaged."""
    said = manifest.read(slot.path)
    if said.get("step") != slot.step:
        raise Damaged(f"its manifest is of step {said.get('step')!r}")
    tables = said.get("arrays")
    if not isinstance(said.get("meta"), dict) or not isinstance(tables, dict):
        raise Damaged("its manifest has no meta or no arrays")
    if not all(pytree.well_formed(table) for table in tables.values()):
        raise Damaged("its manifest has no table of its arrays")
    return {**said, "step": slot.step}


def rename_into_place(unfinished: Path, step: int, best: bool, workdir: Path) -> Slot:
    """Give a finished folder its name, in one rename: until then nobody sees it."""
    same = [slot.serial for slot in slots(workdir) if slot.step == step]
    slot = Slot(step, 1 + max(same, default=0), best, folder(workdir))
    for pause_s in (0.1, 0.3, 1.0):
        with contextlib.suppress(PermissionError):  # Windows: a virus scanner looks at a new file
            unfinished.rename(slot.path)
            return slot
        time.sleep(pause_s)
    unfinished.rename(slot.path)
    return slot


def superfluous(
    slots: Iterable[Slot], new: Slot, keep_last: int, keep_every: int = 0
) -> list[Slot]:
    """All but the last ``keep_last``, the newest best one, and those of every ``keep_every`` steps.

    ``keep_every`` 0: none of these.
    """
    # What has the new one's step or a later one is of an earlier try, from which the run fell back.
    line = [slot for slot in slots if slot.step < new.step] + [new]
    keep = {*line[-keep_last:], *[slot for slot in line if slot.best][-1:]}
    if keep_every:  # of one step the newest: it was saved again
        keep |= set({slot.step: slot for slot in line if slot.step % keep_every == 0}.values())
    return [slot for slot in slots if slot not in keep]


def delete(slot: Slot) -> None:
    """Delete a checkpoint, under another name: half of one must not look like a whole one."""
    gone = slot.within / f"{UNFINISHED}{slot.path.name}"
    with contextlib.suppress(OSError):  # Windows: a reader has it open; the next save tries again
        slot.path.rename(gone)
        remove(gone)


def clean(workdir: Path) -> None:
    """Delete what a writer that was killed left unfinished."""
    for left in folder(workdir).glob(UNFINISHED + "*"):
        remove(left)


def remove(path: Path) -> None:
    """Delete a folder, as far as it can be; of a link only the link."""
    with contextlib.suppress(OSError):
        path.unlink()  # a link, a file or a pipe; a folder refuses
    shutil.rmtree(path, ignore_errors=True)
