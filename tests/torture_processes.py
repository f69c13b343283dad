"""Kills one of several processes of a run, at a random moment, and counts what was lost: nothing.

    python tests/torture_processes.py                      # 20 kills of runs of 4 processes
    python tests/torture_processes.py --kills=3 --processes=2 --stops=1

In: counts and a seed. Out: a line for each, and exit code 1 if the others did not end in time with
exit code 75, or the run that was started again was not that which nobody touched. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from torture import CONTINUE_ME, SETTINGS, command, has_lines, prepare, run, start

HEARTBEAT_S, MOST_S = 10, 300
SETTINGS |= {"mesh.fsdp": 2, "train.batch_size": 8, "train.steps": 90, "train.eval_every": 30}


class Job:
    """A run of several processes in a folder."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count

    def start(self, name: str) -> list[int]:
        """Start all processes of the run ``name``; their ids."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
        argv = [*command(self.folder, name), where, f"--num_processes={self.count}"]
        argv.append(f"--heartbeat_seconds={HEARTBEAT_S}")
        return [
            start([*argv, f"--process_id={i}"], self.folder / f"{name}.{i}.log")
            for i in range(self.count)
        ]

    def end(self, children: list[int]) -> list[int | None]:
        """Exit codes; None of a process that does not end."""
        codes: dict[int, int] = {}
        limit = time.monotonic() + MOST_S
        while len(codes) < len(children) and time.monotonic() < limit:
            for child in set(children) - set(codes):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        for child in set(children) - set(codes):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return [codes.get(child) for child in children]

    def lines(self, name: str) -> bytes:
        """The metrics of a run, which hold every loss and sample."""
        return (self.folder / name / run.METRICS).read_bytes()

    def interrupt(self, name: str, kind: signal.Signals, seconds: float, whom: int) -> str:
        """Start a run, send one of its processes a signal, start it again; the verdict."""
        children = self.start(name)
        while not has_lines(self.folder / name):
            time.sleep(0.01)
        time.sleep(seconds)
        os.kill(children[whom], kind)
        if kind == signal.SIGSTOP:
            time.sleep(3 * HEARTBEAT_S)
            os.kill(children[whom], signal.SIGKILL)
        began = time.monotonic()
        codes = self.end(children)
        took = time.monotonic() - began
        others = [code for i, code in enumerate(codes) if i != whom]
        if any(code not in (0, CONTINUE_ME) for code in others):
            return f"LOST: the others ended with {others}"
        again = self.end(self.start(name))
        if any(again):
            return f"LOST: started again, they ended with {again}"
        if self.lines(name) != self.lines("whole"):
            return "CHANGED"
        shutil.rmtree(self.folder / name)
        return f"equal (process {whom}; the others ended with {others[0]} after {took:.1f} s)"


def main() -> int:
    """Kill, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, default in (("kills", 20), ("stops", 0), ("processes", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args, failed = parser.parse_args(), 0
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        job = Job(Path(folder), args.processes)
        prepare(job.folder, chance)
        children = job.start("whole")
        while not has_lines(job.folder / "whole"):
            time.sleep(0.01)
        began = time.monotonic()
        if any(codes := job.end(children)):
            raise SystemExit(f"the run that nobody touches ended with {codes}")
        writing = time.monotonic() - began
        kinds = [signal.SIGKILL] * args.kills + [signal.SIGSTOP] * args.stops
        for number, kind in enumerate(kinds):
            whom, seconds = chance.randrange(args.processes), chance.uniform(0, writing)
            verdict = job.interrupt(f"{kind.name}{number}", kind, seconds, whom)
            failed += not verdict.startswith("equal")
            print(f"{number + 1} of {len(kinds)}, {kind.name}: {verdict}", flush=True)
    print(f"{failed} failed; seed {args.seed}, {args.processes} processes")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
