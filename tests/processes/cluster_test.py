"""Several real processes: values and errors are agreed on, and no end of one leaves another behind.

Most processes do without JAX, which takes seconds to start; those that need it are said so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import cluster_member
import pytest

from gptjax.errors import UserError
from gptjax.processes import cluster, watchdog
from gptjax.processes.schedulers import Place

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and file descriptors of POSIX")
ROOT = Path(__file__).parents[2]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Run:
    """Some processes of cluster_member.py, and what they said."""

    def __init__(self, count, do, *flags, who=0):
        member = [sys.executable, str(Path(cluster_member.__file__)), f"--num_processes={count}"]
        member += [f"--coordinator=127.0.0.1:{free_port()}", f"--do={do}", f"--who={who}", *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        env.pop("XLA_FLAGS", None)
        self.processes = [
            subprocess.Popen([*member, f"--process_id={i}"], env=env, **pipes) for i in range(count)
        ]
        self.who = who

    def signal(self, kind):
        """Send a signal to the chosen one, once all have met."""
        for process in self.processes:
            assert process.stderr.readline() == "met\n"
        os.kill(self.processes[self.who].pid, kind)

    def ends(self, but=None):
        """(exit code, stdout, stderr) of each process; ``but``: of one it is not waited for."""
        waited = [p for i, p in enumerate(self.processes) if i != but]
        try:
            # The bound, wide: a heartbeat is missed after 2 s, on a busy machine too.
            said = [process.communicate(timeout=60) for process in waited]
            return [(p.returncode, *texts) for p, texts in zip(waited, said, strict=True)]
        finally:
            for process in self.processes:
                process.kill()
                process.communicate()


LOST = {signal.SIGKILL: "has ended without a word", signal.SIGSTOP: "has not been heard of for"}


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("kind", LOST)
def test_one_killed_or_stopped_ends_all_others_with_one_line_and_75(kind, who):
    run = Run(3, "wait", who=who)
    run.signal(kind)
    for code, out, err in run.ends(but=who):
        assert (code, out, err.count("\n")) == (75, "", 1), err
        assert err.startswith(f"gptjax: process {who} of 3 (") and LOST[kind] in err
        assert err.endswith("the same command continues (exit code 75)\n")


@pytest.mark.parametrize(("kind", "who"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_jax_in_a_collective_is_ended_by_the_same_line(kind, who):
    """JAX itself would abort with a page of C++, or wait; gloo raises an error of its own."""
    run = Run(2, "wait", "--with_jax", who=who)
    run.signal(kind)
    ((code, out, err),) = run.ends(but=who)
    assert (code, out, err.count("\n")) == (75, "", 1), err
    assert err.startswith(f"gptjax: process {who} of 2 (") and LOST[kind] in err


@pytest.mark.parametrize("who", [0, 2])
def test_a_mistake_of_one_ends_all_with_its_line_and_code(who):
    for index, (code, _, err) in enumerate(Run(3, "fail", who=who).ends()):
        assert (code, err.count("\n")) == (2, 2), err
        met, line = err.splitlines()
        assert met == "met" and line.endswith(": the disk is full: make room")
        assert f"process {who} of 3 (" in line or index == who


def test_processes_that_were_all_stopped_for_a_while_go_on():
    """As `scontrol suspend` does it: nobody is to blame for the silence."""
    run = Run(2, "wait", "--heartbeat_seconds=1")
    for kind, seconds in ((0, 0), (signal.SIGSTOP, 3), (signal.SIGCONT, 2)):
        if kind:
            for process in run.processes:
                os.kill(process.pid, kind)
        else:
            assert [process.stderr.readline() for process in run.processes] == ["met\n"] * 2
        time.sleep(seconds)
    assert [process.poll() for process in run.processes] == [None, None]
    run.processes[0].kill()
    assert [code for code, _, _ in run.ends(but=0)] == [75]


def test_an_exit_code_that_all_come_to_is_no_loss():
    assert Run(3, "stop").ends() == [(75, "", "met\n")] * 3


def test_all_agree_the_first_speaks_and_each_brings_its_own_rows():
    ends = Run(2, "agree", "--with_jax").ends()
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert [out for _, out, _ in ends] == ["said by one\n", ""]
    answers = [json.loads(err.splitlines()[1]) for _, _, err in ends]
    common = {"short": {"a": [0, None, "é"]}, "long": 1000, "any": [True, False, True], "count": 2}
    assert answers == [common | {"first": True}, common | {"first": False}]
    dealt = [json.loads(err.splitlines()[2]) for _, _, err in ends]
    assert dealt == [{"own": own, "came": [True, True]} for own in ([0, 1], [2, 3])]


def test_a_mistake_within_together_is_raised_in_all_in_the_same_words():
    ends = Run(2, "agree on an error", "--with_jax", who=1).ends()
    line = "cluster_member: process 1 of 2: the disk is full: make room"
    assert [(code, err.splitlines()[1:]) for code, _, err in ends] == [(2, [line])] * 2


def test_one_process_needs_no_jax_for_any_of_it():
    program = """
        import sys
        from gptjax.processes import cluster
        cluster.start()
        cluster.start("10.0.0.2:4000", 0, 1)
        cluster.barrier("here")
        with cluster.together():
            assert cluster.from_first(3) == 3 and cluster.any_of(True) and cluster.is_first()
        assert cluster.count() == 1 and cluster.finish(75) == 75
        assert "jax" not in sys.modules
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=env, check=True)


def test_of_one_process_an_error_stays_as_it_is():
    with pytest.raises(UserError, match="^the disk is full$"), cluster.together():
        raise UserError("the disk is full")


class Meeting:
    """The first of some processes waits for the others, all of them threads of this one."""

    def __init__(self, count, seconds=20.0):
        self.port, self.count, self.seconds = free_port(), count, seconds
        self.pool = ThreadPoolExecutor(count + 1)
        self.first = self.start(0)

    def start(self, index, count=None):
        place = Place("127.0.0.1", self.port, index, count or self.count)
        return self.pool.submit(watchdog.meet, place, self.seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown()


def peers_of(future):
    """Who is at the other ends of a process's connections: (number, host)."""
    peers = future.result()
    for peer in peers:
        peer.socket.close()
    return sorted((peer.index, peer.host) for peer in peers)


def test_who_is_missing_is_told_to_all_who_came():
    with Meeting(3, seconds=1.0) as meeting:
        other = meeting.start(2)
        line = f"of 3 processes 1 did not come to 127.0.0.1:{meeting.port} within 1 s, such as "
        with pytest.raises(UserError, match=f"{line}number 1"):
            meeting.first.result()
        with pytest.raises(UserError, match="process 1 did not come"):
            other.result()


def test_a_first_process_that_is_not_there_is_named():
    port = free_port()
    line = f"process 1 of 2 did not find the first one at 127.0.0.1:{port} within 0.3 s"
    with pytest.raises(UserError, match=line):
        watchdog.meet(Place("127.0.0.1", port, 1, 2), 0.3)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=rf"at port {port} \(Address already in use\)"):
            watchdog.meet(Place("127.0.0.1", port, 0, 2), 0.3)


def test_processes_of_another_run_are_refused_and_the_others_meet():
    with Meeting(3) as meeting:
        with pytest.raises(UserError, match="says: it counts 3 processes, this one 4"):
            meeting.start(1, 4).result()
        with pytest.raises(UserError, match="says: there is no process 0"):
            watchdog._knock(Place("127.0.0.1", meeting.port, 0, 3), 5)
        twice = {meeting.start(1), meeting.start(1)}
        later = wait(twice, return_when=FIRST_COMPLETED).done
        with pytest.raises(UserError, match="says: process 1 is there already, on "):
            later.copy().pop().result()
        others = [(twice - later).pop(), meeting.start(2)]
        assert [peers_of(other) for other in others] == [[(0, "127.0.0.1")]] * 2
        host = socket.gethostname()
        assert peers_of(meeting.first) == [(1, host), (2, host)]


def test_one_that_ended_while_it_waited_may_be_started_anew():
    hello = {"index": 1, "count": 3, "host": "gone"}
    with Meeting(3) as meeting:
        for _ in range(100):
            with contextlib.suppress(ConnectionRefusedError):
                with socket.create_connection(("127.0.0.1", meeting.port)) as gone:
                    gone.sendall(json.dumps(hello).encode() + b"\n")
                break
            time.sleep(0.05)
        others = [meeting.start(index) for index in (1, 2)]
        assert [peers_of(other) for other in others] == [[(0, "127.0.0.1")]] * 2
        assert "gone" not in dict(map(reversed, peers_of(meeting.first)))
