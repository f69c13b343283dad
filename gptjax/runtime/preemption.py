"""Stopping in good order: SIGINT, SIGTERM and SIGHUP end a run after the steps in flight.

In: the signals of the operating system. Out: a flag that the trainer reads, and an exit code that
tells a cluster to start the same command again. A second signal ends the process at once.
"""

import contextlib
import dataclasses
import os
import signal
import socket
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
    """Note the first of ``KINDS`` instead of dying of it; for one a second later see ``insist``."""
    stop = Stop()
    terminals = [number for number in (1, 2) if os.isatty(number)]  # stdout and stderr

    def note(number: int, frame: FrameType | None) -> None:
        for terminal in terminals:
            if not os.isatty(terminal):  # it was closed: what is printed now would be an OSError
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        stop.signal = stop.signal or signal.Signals(number).name

    with contextlib.ExitStack() as before, insist():
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows none
            for kind in KINDS:
                nohup = kind.name == "SIGHUP" and signal.getsignal(kind) is signal.SIG_IGN
                if not nohup:  # it was ignored on purpose
                    before.callback(signal.signal, kind, signal.signal(kind, note))
        yield stop


@contextlib.contextmanager
def insist() -> Iterator[None]:
    """A ``with`` in which a second wish to stop ends the process, whatever the main thread does.

    Python's handlers wait until a compiled program returns, which may take minutes; this does not.
    The exit code is what a shell says of a process that died of the signal.
    """
    global _insists
    if _insists or threading.current_thread() is not threading.main_thread():
        yield
        return
    wakes, wake = socket.socketpair()
    wake.setblocking(False)
    before, _insists = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False), True
    threading.Thread(target=_listen, args=(wakes,), name="second signal", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        wake.close()  # the thread ends
        _insists = False


_insists = False  # whether a ``with`` around this one listens already


def _listen(wakes: socket.socket) -> None:
    """Read the numbers of signals as they come, and end the process at the second wish."""
    first = None
    with wakes:
        while numbers := wakes.recv(64):
            now = time.monotonic()
            for number in set(numbers) & set(KINDS):  # others may have a handler of Python's
                first = first or now
                if now - first > SAME_WISH_S:
                    os._exit(128 + number)
