"""Stopping in good order: SIGINT, SIGTERM and SIGHUP end a run after the steps in flight.

In: the signals of the operating system. Out: a flag that the trainer reads, and an exit code that
tells a cluster to start the same command again.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# sysexits' EX_TEMPFAIL: nothing is wrong, all is saved, start me again.
CONTINUE_ME = 75
# A closed terminal or ssh sends SIGHUP; Windows has none.
KINDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# `timeout` and batch systems signal the process and then its group: one wish, heard twice.
SAME_WISH_S = 1.0


class Stopped(Exception):
    """A signal ended the run early, with everything saved at ``step``."""

    def __init__(self, name: str, step: int):
        saved = f"{name} at step {step:,}: saved; the same command continues"
        super().__init__(f"{saved} (exit code {CONTINUE_ME})")
        self.signal, self.step = name, step


@dataclasses.dataclass
class Stop:
    """The name of the signal that came, "" while none has."""

    signal: str = ""

    def check(self, step: int) -> None:
        """Raise ``Stopped`` if a signal has come: all worth keeping is saved at ``step``."""
        if self.signal:
            raise Stopped(self.signal, step)


@contextlib.contextmanager
def watch() -> Iterator[Stop]:
    """Note the first of ``KINDS`` instead of dying of it; one a second later kills."""
    stop, noted_at = Stop(), 0.0
    terminals = [number for number in (1, 2) if os.isatty(number)]  # stdout and stderr

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted_at
        for terminal in terminals:
            if not os.isatty(terminal):  # it was closed: what is printed now would be an OSError
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        if not stop.signal:
            stop.signal, noted_at = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - noted_at > SAME_WISH_S:
            # Patience is over: die of it, and at once. Python's own KeyboardInterrupt would take
            # the interpreter down while the device still computes.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    with contextlib.ExitStack() as before:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows none
            for kind in KINDS:
                nohup = kind.name == "SIGHUP" and signal.getsignal(kind) is signal.SIG_IGN
                if not nohup:  # it was ignored on purpose
                    before.callback(signal.signal, kind, signal.signal(kind, note))
        yield stop
