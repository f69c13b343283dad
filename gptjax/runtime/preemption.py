"""Stopping in good order: SIGINT and SIGTERM end a run after the steps in flight.

In: the signals of the operating system. Out: a flag the loop looks at, and an exit code that tells
a cluster to start the same command again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# sysexits' EX_TEMPFAIL: nothing is wrong, all is saved, start me again.
CONTINUE_ME = 75
# `timeout` and batch systems signal the process and then its group: one wish, heard twice.
SAME_WISH_S = 1.0


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

    def check(self, step: int) -> None:
        """End the run here if a signal has come; all that is worth keeping is saved at ``step``.

        Raises:
          Stopped: one has.
        """
        if self.signal:
            raise Stopped(self.signal, step)


@contextlib.contextmanager
def watch() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM instead of dying of it; one a second later kills.

    Yields:
      The flag. Outside the main thread, where Python allows no handlers, it never rises.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    noted_at = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted_at
        if not stop.signal:
            stop.signal, noted_at = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - noted_at > SAME_WISH_S:
            # Patience is over: die of it, and at once. Python's own KeyboardInterrupt would take
            # the interpreter down while the device still computes.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
