"""Several processes as one run: started together, of one mind, and ended together.

In: the environment of a scheduler, or where the first process is. Out: JAX's distributed runtime, a
few values that all processes agree on, and an end of one that is an end of all. Every function is a
no-op where there is one process, and ``start`` imports no jax there.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gptjax.errors import UserError
from gptjax.processes import schedulers, watchdog
from gptjax.runtime import devices

START_S = 300.0  # that processes may start apart: installing packages, waiting for a node
HEARTBEAT_S = 60.0
_WORD = 256  # bytes that ``from_first`` sends at once

_index, _count = 0, 1
_watchdog: watchdog.Watchdog | None = None
_last_words = ""


def start(
    coordinator: str = "",
    process_id: int | None = None,
    num_processes: int | None = None,
    heartbeat_seconds: float = HEARTBEAT_S,
    start_seconds: float = START_S,
    waiting: contextlib.AbstractContextManager | None = None,
) -> None:
    """Join the other processes, before any JAX backend exists; nothing happens where none are.

    Args:
      coordinator: host:port of the first process; with it the two numbers are given, too. Without
        it a scheduler's environment is looked for.
      heartbeat_seconds: after this long a silence a process is taken for lost.
      start_seconds: how long to wait for the others at the start.
      waiting: is entered while they are waited for.

    Raises:
      UserError: the values do not fit together, or not all processes came.
    """
    if not 1 <= heartbeat_seconds < 1e6:
        raise UserError(f"--heartbeat_seconds={heartbeat_seconds:g} is not from 1 to 999,999")
    place = schedulers.named(coordinator, process_id, num_processes) or schedulers.detected()
    if place is None or place.count == 1:
        return
    if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in os.environ:  # of several processes on CPUs
        devices.set_jax("jax_cpu_collectives_implementation", "gloo")
    with waiting or contextlib.nullcontext():
        _join(place, heartbeat_seconds, start_seconds)
    if not is_first():  # of several processes one speaks
        sys.stdout.flush()
        _stdout_to(os.open(os.devnull, os.O_WRONLY))


def _join(place: schedulers.Place, heartbeat_seconds: float, start_seconds: float) -> None:
    global _watchdog
    import jax  # holds this process up for seconds: before the others listen for heartbeats

    if jax.distributed.is_initialized():
        raise UserError("jax.distributed is initialized already: leave that to gptjax")
    peers = watchdog.meet(place, start_seconds)
    _delay_aborts()
    _watchdog = watchdog.Watchdog(place, peers, heartbeat_seconds)
    _initialize(place, heartbeat_seconds)
    with _no_stdout():  # gloo tells there of its connections
        barrier("start")


def hush(argv: Sequence[str]) -> bool:
    """Before JAX is imported: keep its C++ code from telling, in a page, of a process that is lost.

    The watchdog tells it in a line. ``argv``: the flags, which may ask for all to be shown. Returns
    whether it was done: only of several processes.
    """
    flagged = any(re.match("--?coordinator(=|$)", argument) for argument in argv)
    if "--debug" in argv or not (flagged or schedulers.detected()):
        return False
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # a parent's JAX left its default, 1
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "4"
    return True


def _initialize(place: schedulers.Place, heartbeat_seconds: float) -> None:
    global _index, _count
    import jax

    # A proxy for the world outside is not to be asked about the processes of a run.
    os.environ.setdefault("no_grpc_proxy", place.host)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        # A scheduler's environment also says which GPU is whose.
        cluster_detection_method=None if place.scheduler else "deactivate",
        # For the case that our watchdog fails: JAX ends a process by abort().
        heartbeat_timeout_seconds=max(100, int(10 * heartbeat_seconds)),
    )
    _index, _count = jax.process_index(), jax.process_count()


def _delay_aborts() -> None:
    """Have ``abort()`` wait some seconds, in which the watchdog ends the process with its line.

    When the first process dies, JAX's client sees it in the same millisecond and aborts. A handler
    in Python would come too late: C's sleep() is called instead, with the signal's number, 6.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # where there is no POSIX
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal.restype = ctypes.c_void_p
        libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def _stdout_to(target: int) -> None:
    """Let the standard output of this process, its C code included, go to an open file."""
    os.dup2(target, 1)
    os.close(target)


@contextlib.contextmanager
def _no_stdout() -> Iterator[None]:
    sys.stdout.flush()
    before = os.dup(1)
    _stdout_to(os.open(os.devnull, os.O_WRONLY))
    try:
        yield
    finally:
        _stdout_to(before)


def is_first() -> bool:
    """Whether this process is the one that prints and writes; with one process it is."""
    return _index == 0


def count() -> int:
    """How many processes the run has."""
    return _count


def from_first(value: Any) -> Any:
    """The first process's value, for all: anything that JSON can hold. The others' is left out."""
    if _count == 1:
        return value
    text = json.dumps(value).encode() if is_first() else b""
    # The length and, of what is not long, the text in one message.
    sent = _broadcast(len(text).to_bytes(4, "big") + text[:_WORD], _WORD + 4)
    size = int.from_bytes(sent[:4], "big")
    text = sent[4 : 4 + size] if size <= _WORD else _broadcast(text, size)
    return json.loads(text)


def _broadcast(text: bytes, size: int) -> bytes:
    import numpy as np
    from jax.experimental import multihost_utils

    room = 1 << (size - 1).bit_length()  # few sizes: each is compiled
    bytes_N = np.frombuffer(text.ljust(room, b"\0"), np.uint8)
    return (
        np.asarray(multihost_utils.broadcast_one_to_all(bytes_N)).astype(np.uint8).tobytes()[:size]
    )


def _gather(value: Any) -> Any:
    """A number or an array of every process, stacked."""
    import numpy as np
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them have to ask."""
    return bool(flag) if _count == 1 else bool(_gather(int(flag)).any())


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if _count > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A ``with`` that all processes enter: a UserError of one is raised in all, in the same words.

    What stands in it must not wait for other processes.
    """
    if _count == 1:
        yield
        return
    import numpy as np

    own = None
    try:
        yield
    except UserError as error:
        own = error
    text = str(own or "").encode()
    sizes_P = _gather(len(text)).reshape(_count)
    if not sizes_P.any():
        return
    size = 1 << int(sizes_P.max() - 1).bit_length()
    texts_PxN = _gather(np.frombuffer(text.ljust(size, b"\0"), np.uint8)).reshape(_count, size)
    who = int(sizes_P.nonzero()[0][0])
    line = texts_PxN[who].astype(np.uint8).tobytes()[: sizes_P[who]].decode()
    raise UserError(f"process {who} of {_count}: {line}" if who else line) from own


def wait_for_an_end() -> None:
    """After an error that may come from a lost process: let the watchdog end this one, if so."""
    if _watchdog:
        _watchdog.wait_for_an_end()


def last_words(line: str) -> None:
    """Note what this process has said of its mistake: the others say it, too."""
    global _last_words
    _last_words = line


def finish(code: int) -> int:
    """The end of a command: a good one for all, or all others end with this one's exit code.

    Returns the exit code, or ends the process: leaving Python waits for processes that do not come.
    """
    global _watchdog
    if _watchdog and code:
        sys.stdout.flush()
        _watchdog.leave(code, _last_words)
    elif _watchdog:
        import jax

        jax.distributed.shutdown()  # waits for all
        _watchdog.close()
        _watchdog = None
    return code
