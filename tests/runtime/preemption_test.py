"""Signals: the first is noted, its echo within a second too; a later one ends the process."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from gptjax.runtime import preemption
from gptjax.runtime.preemption import Stopped


@pytest.mark.parametrize("kind", preemption.KINDS)
def test_a_signal_is_noted_and_its_echo_within_a_second_is_not_a_second_wish(kind, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    before = signal.getsignal(kind)
    with preemption.watch() as stop:
        stop.check(3)
        signal.raise_signal(kind)
        now[0] += 0.9
        signal.raise_signal(kind)
        assert stop.signal == kind.name
        with pytest.raises(Stopped, match=f"{kind.name} at step 3: saved.*exit code 75"):
            stop.check(3)
    assert signal.getsignal(kind) is before


@pytest.mark.parametrize("ending", [None, KeyError("from within")], ids=["well", "by an error"])
def test_afterwards_every_signal_has_the_handler_that_it_had(ending):
    """Python's own for Ctrl-C, the system's, or one of the caller's: each kind another."""
    outside = {kind: signal.getsignal(kind) for kind in preemption.KINDS}
    theirs = [lambda *_: None, signal.SIG_DFL, signal.default_int_handler]
    try:
        for shift in range(len(theirs)):
            before = dict(zip(preemption.KINDS, theirs[shift:] + theirs[:shift], strict=False))
            for kind, handler in before.items():
                signal.signal(kind, handler)
            with contextlib.suppress(KeyError), preemption.watch():
                noting = {kind: signal.getsignal(kind) for kind in before}
                if ending:
                    raise ending
            assert {kind: signal.getsignal(kind) for kind in before} == before
            assert not set(noting.values()) & set(before.values())
    finally:
        for kind, handler in outside.items():
            signal.signal(kind, handler)


@pytest.mark.parametrize("kind, inside", [("INT", "watch"), ("TERM", "watch"), ("INT", "insist")])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without its signals")
def test_a_second_signal_ends_a_process_that_is_deep_in_a_compiled_program(kind, inside):
    script = f"""
import hashlib
from gptjax.runtime import preemption
preemption.SAME_WISH_S = 0.2
with preemption.{inside}():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # C for minutes: no handler runs
"""
    number = getattr(signal, f"SIG{kind}")
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.3)  # it is in there
        for _ in range(2):  # the second is the first's echo
            process.send_signal(number)
            time.sleep(0.05)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert process.stderr.read() == b""


def test_who_listened_to_signals_before_listens_again_afterwards():
    reads, writes = socket.socketpair()
    writes.setblocking(False)
    before = signal.set_wakeup_fd(writes.fileno())
    try:
        with preemption.watch(), preemption.insist():
            assert signal.set_wakeup_fd(-1) not in (-1, writes.fileno())
        assert signal.set_wakeup_fd(-1) == writes.fileno()
    finally:
        signal.set_wakeup_fd(before)
        reads.close()
        writes.close()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_under_nohup_a_closed_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.watch() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal == "" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_run_whose_terminal_is_closed_goes_on_to_its_end_in_good_order():
    script = """
import os, pty, sys, time
from gptjax.runtime import preemption
child, terminal = pty.fork()
if not child:
    with preemption.watch() as stop:
        print("ready", flush=True)
        while not stop.signal:
            time.sleep(0.01)
        print("nobody reads this", flush=True)
        print("nor this", file=sys.stderr, flush=True)
        sys.exit(preemption.CONTINUE_ME)
while b"ready" not in os.read(terminal, 99):
    pass
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "75", done.stdout + done.stderr


def test_outside_the_main_thread_no_handler_is_set():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def elsewhere():
        with preemption.watch() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [("", before)]
