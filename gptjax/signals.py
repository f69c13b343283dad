"""Stopping in good order: SIGINT and SIGTERM end a run after the steps in flight.

In: the signals of the operating system. Out: a flag the loop looks at, and an exit code that tells
a cluster to start the same command again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# sysexits' EX_TEMPFAIL: nothing is wrong, all is saved, start me again.
CONTINUE_ME = 75


class Stopped(Exception):
    """A signal ended the run early, with everything saved at ``step``."""

    def __init__(self, name: str, step: int):
        super().__init__(
            f"{name} at step {step:,}: saved; the same command continues (exit code {CONTINUE_ME})"
        )
        self.step = step


@dataclasses.dataclass
class Stop:
    """The name of the signal that came, "" while none has."""

    signal: str = ""


@contextlib.contextmanager
def watch() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM instead of dying of it; a second one acts as usual.

    Yields:
      The flag. Outside the main thread, where Python allows no handlers, it never rises.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kinds = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number).name
        restore()

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield stop
    finally:
        restore()
