"""Who of several processes still lives: heartbeats over a connection of our own.

In: where the first process is, and how long silence may last. Out: a thread that ends this process
with one line and an exit code when another one has ended or fallen silent, whatever the main thread
waits for in C code. Every process talks to the first, which passes on what it hears.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import threading
import time
from typing import Any

from gptjax.errors import UserError, harmless
from gptjax.processes.schedulers import Place
from gptjax.runtime.preemption import CONTINUE_ME

GRACE_S = 5.0  # in which a process that hears of another's end comes to the same end by itself
LEAVE_S = 2.0  # that the first, whose end JAX would notice, waits for the others to go before it
_HELLO_S, _LINE_LIMIT = 5.0, 16_384  # seconds for a first word; bytes of a line


@dataclasses.dataclass(eq=False)
class Peer:
    """A process at the other end of a connection."""

    socket: socket.socket
    index: int
    host: str
    heard: float = dataclasses.field(default_factory=time.monotonic)
    unread: bytes = b""
    leaves: bool = False  # it has said that it ends


def meet(place: Place, seconds: float) -> list[Peer]:
    """Wait for the other processes: the first one for all of them, the others for the first.

    They meet at the port where JAX's own service will listen, so that nothing else has to be named:
    JAX aborts the process, with a page of C++, where it does not find the others.

    Raises:
      UserError: not all came within ``seconds``, or their numbers do not fit.
    """
    return _admit(place, seconds) if place.index == 0 else [_knock(place, seconds)]


def _admit(place: Place, seconds: float) -> list[Peer]:
    dual = socket.has_dualstack_ipv6()
    how = {"family": socket.AF_INET6, "dualstack_ipv6": True} if dual else {}
    try:
        server = socket.create_server(("", place.port), backlog=1024, **how)
    except OSError as error:
        raise UserError(
            f"this process, the first of {place.count}, cannot listen at port {place.port} "
            f"({os.strerror(error.errno or 0)}): end what uses it, or name another --coordinator"
        ) from error
    peers: dict[int, Peer] = {}
    until = time.monotonic() + seconds
    with server:
        while len(peers) < place.count - 1 and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            # A port scanner says nothing, something else, or has gone again.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                connection = server.accept()[0]
                connection.settimeout(_HELLO_S)
                hello = json.loads(_line(connection)[0])
                peer = Peer(connection, int(hello["index"]), str(hello["host"]))
                if why := _refusal(hello["count"], peer, _living(peers), place):
                    connection.sendall(_encoded({"refused": why}))
                    continue
                peers[peer.index] = peer
            peers = _living(peers)
    missing = sorted(set(range(1, place.count)) - set(peers))
    for peer in peers.values():
        with contextlib.suppress(OSError):
            gone = f"process {missing[0]} did not come" if missing else ""
            peer.socket.sendall(_encoded({"refused": gone}))
    if missing:
        raise UserError(
            f"of {place.count} processes {len(missing)} did not come to {place.coordinator} within "
            f"{seconds:g} s, such as number {missing[0]}: start them all, and let them reach that "
            "host and port"
        )
    return list(peers.values())


def _refusal(count: int, peer: Peer, peers: dict[int, Peer], place: Place) -> str:
    """Why a process cannot come in, "" if it can."""
    if count != place.count:
        return f"it counts {place.count} processes, this one {count}"
    if not 0 < peer.index < count:
        return f"there is no process {peer.index}"
    if there := peers.get(peer.index):
        return f"process {peer.index} is there already, on {there.host}"
    return ""


def _living(peers: dict[int, Peer]) -> dict[int, Peer]:
    return {index: peer for index, peer in peers.items() if not _has_gone(peer)}


def _has_gone(peer: Peer) -> bool:
    """Whether a process that said no more than hello has ended, and may be started anew."""
    peer.socket.setblocking(False)
    try:
        return not peer.socket.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _knock(place: Place, seconds: float) -> Peer:
    hello = {"index": place.index, "count": place.count, "host": socket.gethostname()}
    until, why = time.monotonic() + seconds, ""
    while (left := until - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((place.host, place.port), timeout=_HELLO_S)
            connection.settimeout(left + _HELLO_S)  # until all the others have come, too
            connection.sendall(_encoded(hello))
            said, more = _line(connection)
            if said:
                if refused := json.loads(said)["refused"]:
                    raise UserError(f"the first process, at {place.coordinator}, says: {refused}")
                return Peer(connection, 0, place.host, unread=more)
            why = "it closed the connection"
        except OSError as error:
            why = error.strerror or str(error)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            why = "something else answers there"
        time.sleep(0.2)
    raise UserError(
        f"process {place.index} of {place.count} did not find the first one at {place.coordinator} "
        f"within {seconds:g} s ({why}): start it there, and let the others reach that host and port"
    )


class Watchdog:
    """The thread. It ends the process by ``os._exit``: nothing else gets past a waiting C call."""

    def __init__(self, place: Place, peers: list[Peer], seconds: float):
        """Watch those who met; after ``seconds`` of silence one is taken for lost."""
        self._index, self._count = place.index, place.count
        self._peers, self._seconds = set(peers), seconds
        self._lock, self._selector = threading.RLock(), selectors.DefaultSelector()
        # Once an end is certain: when it comes at the latest, its exit code and its line.
        self._end: tuple[float, int, str] | None = None
        self._closed = False
        for peer in peers:
            peer.heard = time.monotonic()  # some have waited for the others
            peer.socket.setblocking(False)
            peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def leave(self, code: int, line: str) -> None:
        """End this process, which has said why, and have the others end; it does not return."""
        with self._lock:
            line = f": {line}" if line else f" ended with exit code {code}"
            self._decide(code, "", GRACE_S)
            self._tell({"end": code, "line": self._named(self._index, socket.gethostname(), line)})
        self._thread.join()

    def wait_for_an_end(self) -> None:
        """Wait as long as a lost process may stay unnoticed; it returns if none was lost."""
        self._thread.join(self._seconds + GRACE_S)

    def close(self) -> None:
        """Stop watching: all processes have come to a good end."""
        with self._lock:
            self._tell({"bye": True})
            self._closed = True
        self._thread.join()
        for peer in self._peers:
            peer.socket.close()

    def _watch(self) -> None:
        beat = min(self._seconds / 6, 0.5 + self._seconds / 60)
        looped = sent = time.monotonic()
        with self._lock:
            for peer in self._peers:  # what came with the welcome
                self._hear(peer, b"")
        while not self._closed:
            ready = self._selector.select(beat) if self._peers else time.sleep(beat / 4)
            with self._lock:
                for key, _ in ready or ():
                    self._read(key.data)
                now = time.monotonic()
                if now - looped > 3 * beat:  # this process stood still: the others are not to blame
                    for peer in self._peers:
                        peer.heard = now
                looped = now
                if now - sent >= beat:
                    sent = now
                    self._tell({})
                for peer in [p for p in self._peers if now - p.heard > self._seconds]:
                    self._lost(peer, f"has not been heard of for {now - peer.heard:.0f} s")
                self._end_if_due(now)

    def _read(self, peer: Peer) -> None:
        try:
            new = peer.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            new = b""
        if not new:
            self._lost(peer, "has ended without a word")
            return
        peer.heard = time.monotonic()
        self._hear(peer, new)

    def _hear(self, peer: Peer, new: bytes) -> None:
        *lines, peer.unread = (peer.unread + new).split(b"\n")
        for line in filter(None, lines):
            said = json.loads(line)
            peer.leaves = peer.leaves or bool(said)
            if "end" in said:
                self._decide(said["end"], said["line"], said.get("grace", GRACE_S))
                self._tell(said, but=peer)

    def _lost(self, peer: Peer, how: str) -> None:
        self._selector.unregister(peer.socket)
        self._peers.discard(peer)
        peer.socket.close()
        if peer.leaves or self._end:
            return
        line = f" {how}: what was saved is safe, and the same command continues"
        line = self._named(peer.index, peer.host, f"{line} (exit code {CONTINUE_ME})")
        self._decide(CONTINUE_ME, line, 0)
        self._tell({"end": CONTINUE_ME, "line": line, "grace": 0})

    def _named(self, index: int, host: str, line: str) -> str:
        return f"process {index} of {self._count} ({host}){line}"

    def _decide(self, code: int, line: str, grace: float) -> None:
        """The first decision counts; an own end (no line) is not announced a second time."""
        due = time.monotonic() + grace
        if self._end is None or not line:
            self._end = due, code, line

    def _end_if_due(self, now: float) -> None:
        if self._end is None:
            return
        due, code, line = self._end
        if self._index == 0:
            gone, due_at = not self._peers, due + LEAVE_S
        else:
            gone, due_at = all(peer.leaves for peer in self._peers), due
        if now >= due_at or (gone and (now >= due or not line)):
            if line:
                os.write(2, f"gptjax: {harmless(line)}\n".encode())
            os._exit(code)

    def _tell(self, what: dict[str, Any], but: Peer | None = None) -> None:
        """Say something to all; {} is a heartbeat. One who does not listen is found silent."""
        for peer in self._peers - {but}:
            with contextlib.suppress(OSError):
                peer.socket.send(_encoded(what) if what else b"\n")


def _encoded(what: dict[str, Any]) -> bytes:
    return json.dumps(what).encode() + b"\n"


def _line(connection: socket.socket) -> tuple[bytes, bytes]:
    """The first line that a connection says, and what came with it."""
    text = b""
    while b"\n" not in text and len(text) < _LINE_LIMIT and (new := connection.recv(1024)):
        text += new
    line, _, more = text.partition(b"\n")
    return line, more
