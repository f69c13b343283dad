"""Two runs never share a work folder; a dead one never keeps it."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gptjax.errors import UserError
from gptjax.runtime import run_lock
from gptjax.runtime.run_lock import lock

HOLD = """
    import sys
    from pathlib import Path
    from gptjax.runtime.run_lock import lock
    with lock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


def start_holder(workdir):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(workdir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def no_os_locks(monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_the_second_run_is_refused_and_told_who_holds_the_folder(tmp_path):
    workdir = tmp_path / "new" / "run"
    with lock(workdir):
        with pytest.raises(UserError) as error, lock(workdir):
            pass
        with lock(tmp_path / "another"):
            pass
    line = str(error.value)
    assert f"process {os.getpid()} on {socket.gethostname()} since 20" in line
    assert str(workdir) in line and "--workdir" in line and "\n" not in line
    with lock(workdir):
        pass


def test_a_killed_process_gives_the_folder_free_at_once(tmp_path):
    holder = start_holder(tmp_path)
    try:
        with pytest.raises(UserError, match=f"process {holder.pid} on"), lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert json.loads((tmp_path / run_lock.NAME).read_bytes())["pid"] == holder.pid
    with lock(tmp_path):
        pass


def test_an_error_inside_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path):
        raise KeyError
    with lock(tmp_path):
        pass


def test_without_locks_of_the_system_a_living_holder_is_still_respected(tmp_path, no_os_locks):
    refused = pytest.raises(UserError, match=f"process {os.getpid()} .*delete")
    with lock(tmp_path), refused, lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_without_locks_of_the_system_a_dead_holder_does_not_block(tmp_path, no_os_locks):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / run_lock.NAME
    here = socket.gethostname()
    for holder in (
        {"pid": dead.pid, "host": here},
        {"pid": "x"},
        {"pid": 10**30, "host": here},
        [],
    ):
        path.write_text(json.dumps(holder), encoding="utf-8")
        with lock(tmp_path):
            pass
    path.write_text("{torn", encoding="utf-8")
    with lock(tmp_path):
        pass
    path.write_text(json.dumps({"pid": dead.pid, "host": "another-host"}), encoding="utf-8")
    with pytest.raises(UserError, match="on another-host"), lock(tmp_path):
        pass


def test_of_two_that_start_at_once_without_locks_one_wins(tmp_path, no_os_locks, monkeypatch):
    other = {"pid": os.getpid(), "host": "another-host", "started": "now"}
    path = tmp_path / run_lock.NAME
    monkeypatch.setattr(
        run_lock.time, "sleep", lambda _: path.write_text(json.dumps(other), encoding="utf-8")
    )
    with pytest.raises(UserError, match="on another-host since now"), lock(tmp_path):
        pass
    assert json.loads(path.read_bytes()) == other


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_lock_that_leads_elsewhere_is_refused_and_harms_nothing(tmp_path, what):
    precious = tmp_path / "precious"
    precious.write_bytes(b"data")
    (tmp_path / "run").mkdir()
    if what == "link":
        (tmp_path / "run" / run_lock.NAME).symlink_to(precious)
    else:
        os.mkfifo(tmp_path / "run" / run_lock.NAME)
    with pytest.raises(UserError, match="cannot write to"), lock(tmp_path / "run"):
        pass
    assert precious.read_bytes() == b"data"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write to .*file"), lock(tmp_path / "file"):
        pass
