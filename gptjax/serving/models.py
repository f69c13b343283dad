"""Which runs are served: their names, known at once, and the models, opened one after the other.

In: work folders. Out: a ``Served`` for each, by its name; its ``run`` is there when it is open.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal


@dataclasses.dataclass
class Served:
    """One run: ``id`` is its name to clients; ``run`` is None until it is open."""

    id: str
    workdir: str  # a folder, or a URL
    run: Any = None  # a ``checkpoints.run.Run``, known to the worker's thread alone before
    opened: int = 0  # when, seconds since 1970


def named(workdirs: Iterable[str]) -> list[Served]:
    """The runs to serve, called as their folders are; of equal names the later ones get a number.

    UserError: there is none, one twice, or no such folder.
    """
    from gptjax.runtime.object_store import is_remote

    served: list[Served] = []
    paths: set[str] = set()
    for workdir in workdirs:
        if not is_remote(workdir) and not Path(workdir).is_dir():
            raise UserError(f"no folder {workdir!r}: --workdir names the folder of a run")
        path = workdir if is_remote(workdir) else str(Path(workdir).resolve())
        if path in paths:
            raise UserError(f"--workdir={workdir} is given twice: give each run once")
        paths.add(path)
        name = path.rstrip("/").replace("\\", "/").rpartition("/")[2] or "run"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        taken = {other.id for other in served}
        served.append(Served(next(one for one in names if one not in taken), workdir))
    return served


def open_all(served: Iterable[Served], checkpoint: str, terminal: Terminal) -> Iterator[Any]:
    """Open each run and have it write a little, so that what it needs is compiled; then yield it.

    To be run in the worker's thread. UserError where one cannot be opened.
    """
    for one in served:
        began = time.monotonic()
        with terminal.doing(f"opening {one.id}"):
            from gptjax.checkpoints.run import open_for_command

            run = open_for_command(one.workdir, checkpoint, terminal.warn)
            if run.config.predicts_next:
                for _ in _first_words(run):
                    pass
        one.opened, one.run = int(time.time()), run
        terminal.note(f"{one.id}: {run!r}, ready after {time.monotonic() - began:.1f} s")
        yield one
    for one in served:
        if one.run.config.predicts_next:
            yield from _full_context(one.run)


def _first_words(run: Any) -> Iterator[Any]:
    """Compiles the reading of a short prompt, and the loop."""
    from gptjax.generation.generate import row_keys

    return run.stream([""], row_keys(0, 1, 1), run.settings(2, temperature=1.0))


def _full_context(run: Any) -> Iterator[None]:
    """Compiles what a GPT does past block_size; an item per part of it."""
    import numpy as np

    from gptjax.generation.generate import row_keys

    ids = np.full(run.model.block_size + 1, run.tokenizer.begin_id, np.int32)
    for _ in run.stream([ids], row_keys(0, 1, 1), run.settings(2, temperature=1.0)):
        yield None
