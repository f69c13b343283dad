"""Kills, stops and damages short runs, and counts what was lost: nothing should be.

    python tests/torture.py                                # 100 kills, 20 signals, 50 damages
    python tests/torture.py --kills=6 --signals=2 --damages=10 --seed=3

In: counts and a seed. Out: a table, and exit code 1 if a run was lost, changed or wrongly accepted.
Each kill or signal comes at a random moment of a run of its own; the same command then continues
it, and it must equal the run that nobody touched: every line, sample and bit. Linux and macOS.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Hundreds of starts: even the smallest program is compiled once, and none is worth optimizing.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Once, for all the runs that are forked from here.
import jax  # noqa: E402
import matplotlib.backends.backend_agg  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import orbax.checkpoint  # noqa: E402, F401

from gptjax.checkpoints import directory, manifest, run, store  # noqa: E402
from gptjax.config.parse import from_dict  # noqa: E402
from gptjax.errors import UserError  # noqa: E402
from gptjax.training import experiment  # noqa: E402

CONTINUE_ME = 75
TIMES = ("train_seconds", "compile_seconds", "gather_seconds", "evaluation_seconds")
TIMES += ("checkpoint_seconds", "tokens_per_second")
SETTINGS = {
    "model.kind": "gpt",
    "model.n_layer": 1,
    "model.n_head": 2,
    "model.n_embd": 8,
    "model.block_size": 6,
    "model.dropout": 0.1,
    "train.steps": 150,
    "train.batch_size": 4,
    "train.accumulate": 2,
    "train.eval_every": 50,
    "train.eval_iters": 2,
    "train.chunk_steps": 9,
    "checkpoint.every_steps": 15,
    "sample.max_new_tokens": 9,
}


def command(folder: Path, name: str) -> list[str]:
    """The command line of the run ``name``; the same one begins and continues it."""
    overrides = [f"--config.{field}={value}" for field, value in SETTINGS.items()]
    overrides.append(f"--config.data.path={folder / 'words.txt'}")
    return ["gptjax.train", "--config=gpt:small", f"--workdir={folder / name}", *overrides]


def start(argv: list[str], log: Path) -> int:
    """Run a command line of train in a process of its own, as ``python -m`` would; its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = argv
        runpy.run_module("gptjax.train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(argv: list[str], log: Path) -> int:
    """Run a command line to its end; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(start(argv, log), 0)[1])


def outcome(workdir: Path) -> dict:
    """All that two equal runs have in common."""
    arrays = {}
    for slot in directory.slots(workdir):
        facts = directory.facts(slot)
        manifest.verify(slot.path, facts["files"], store.PARTS)
        arrays[slot.step] = facts["arrays"]  # type, shape and checksum of each
    summary = json.loads((workdir / run.SUMMARY).read_text(encoding="utf-8"))
    return {
        "metrics": (workdir / run.METRICS).read_bytes(),
        "summary": {name: value for name, value in summary.items() if name not in TIMES},
        "last": arrays[directory.last(workdir)],
        "best": arrays[directory.best(workdir)],
    }


def has_lines(workdir: Path) -> bool:
    """Whether a run has begun to write."""
    path = workdir / run.METRICS
    return path.exists() and path.stat().st_size > 0


def prepare(folder: Path, chance: random.Random) -> None:
    """What the runs of a folder share: a text, and the cache of compiled programs."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    words = ["".join(chance.choices("abcdefg", k=5)) for _ in range(30)]
    text = "\n".join(chance.choices(words, k=300))
    (folder / "words.txt").write_text(text + "\n", encoding="utf-8")


class Torture:
    """A folder with a run that nobody touched, to which the others are compared."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.chance = folder, random.Random(seed)
        prepare(folder, self.chance)
        self._run("warm")  # fills the cache of compiled programs: the next ones take less time
        self.until_first_line, self.writing = self._run("whole")
        self.whole = outcome(folder / "whole")

    def _run(self, name: str) -> tuple[float, float]:
        """Run to the end: seconds to the first line, and from there on."""
        began, log = time.monotonic(), self.folder / f"{name}.log"
        child, first = start(command(self.folder, name), log), None
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if first is None and has_lines(self.folder / name):
                first = time.monotonic()
            if ended:
                break
            time.sleep(0.005)
        if status or first is None:
            raise SystemExit(f"the run that nobody touches failed:\n{log.read_text('utf-8')}")
        return first - began, time.monotonic() - first

    def interrupt(self, number: int, kind: signal.Signals) -> str:
        """Start a run, send it a signal at a random moment, continue it; the verdict."""
        name = f"{kind.name}{number}"
        workdir, log = self.folder / name, self.folder / f"{name}.log"
        child = start(command(self.folder, name), log)
        # One in ten before anything is written, the others from there to the end.
        early = self.chance.random() < 0.1
        if not early:
            while not has_lines(workdir) and not os.waitpid(child, os.WNOHANG)[0]:
                time.sleep(0.002)
        time.sleep(self.chance.uniform(0, self.until_first_line if early else self.writing))
        try:
            os.kill(child, kind)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except (ProcessLookupError, ChildProcessError):
            code = 0
        complete = directory.last(workdir)
        when = "before the first checkpoint" if complete is None else "while training"
        when = "at the end" if complete == SETTINGS["train.steps"] else when
        if kind != signal.SIGKILL and code not in (0, CONTINUE_ME):
            when = f"before it listens, code {code}"
            if complete is not None:
                return f"LOST: exit code {code} at step {complete}"
        again = finish(command(self.folder, name), log)
        said = log.read_text(encoding="utf-8")
        if again:
            return f"LOST: exit code {again} on continuing: {said.strip().splitlines()[-1]}"
        if complete and f"continuing at step {complete:,}\n" not in said:
            return f"LOST: did not continue at step {complete}"
        if outcome(workdir) != self.whole:
            return "CHANGED"
        shutil.rmtree(workdir)
        return f"equal ({when})"

    def damage(self, number: int) -> str:
        """Harm a copy of the last checkpoint and open it; the verdict."""
        workdir = self.folder / f"damage{number}"
        shutil.copytree(self.folder / "whole" / "checkpoints", workdir / "checkpoints")
        slot = directory.slots(workdir)[-1]
        files = sorted(path for path in slot.path.rglob("*") if path.is_file())
        path = self.chance.choice(files)
        data, how = bytearray(path.read_bytes()), self.chance.choice(("flip", "cut", "delete"))
        if how == "flip" and data:
            for _ in range(self.chance.choice((1, 1, 20))):
                data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            path.write_bytes(data)
        elif how == "cut" and data:
            path.write_bytes(data[: self.chance.randrange(len(data))])
        else:
            path.unlink()
        said = self._open(workdir, slot)
        shutil.rmtree(workdir)
        return said

    def _open(self, workdir: Path, slot: directory.Slot) -> str:
        if not hasattr(self, "like"):
            meta = store.read_meta(self.folder / "whole")[1]
            state = experiment.build(from_dict(meta["config"])).abstract_state
            self.like = {"params": state.params, "rest": state.replace(params=None)}
            self.good = store.restore(self.folder / "whole", "last", self.like)
        import numpy as np

        try:
            store.restore(workdir, slot.step, self.like)
        except UserError:
            fallen = store.restore(workdir, "last", self.like)
            told = any(f"step {slot.step} is damaged" in notice for notice in fallen.notices)
            previous = [s.step for s in directory.slots(workdir)][-2]
            if not told or fallen.step != previous:
                return "LOST: the one before it was not used, or this was not said"
            return "detected, the one before it used"
        found = store.restore(workdir, slot.step, self.like)
        same = jax.tree.map(lambda a, b: np.array_equal(a, b), found.tree, self.good.tree)
        if not all(jax.tree.leaves(same)) or found.meta != self.good.meta:
            return "ACCEPTED WRONG"
        return "harmless, the state is equal"


def main() -> int:
    """Torture runs and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, default in (("kills", 100), ("signals", 20), ("damages", 50), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kind", default=SETTINGS["model.kind"], help="the model")
    args = parser.parse_args()
    SETTINGS["model.kind"] = args.kind
    began, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        torture = Torture(Path(folder), args.seed)
        print(
            f"a run takes {torture.until_first_line:.1f} s to its first line, then "
            f"{torture.writing:.1f} s",
            flush=True,
        )
        kinds = [signal.SIGKILL] * args.kills
        kinds += [(signal.SIGTERM, signal.SIGINT)[i % 2] for i in range(args.signals)]
        tables: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        for number, kind in enumerate(kinds):
            verdict = torture.interrupt(number, kind)
            print(f"{number + 1} of {len(kinds)}, {kind.name}: {verdict}", file=sys.stderr)
            tables[kind.name][verdict] += 1
        for number in range(args.damages):
            tables["damage"][torture.damage(number)] += 1
        for what, table in tables.items():
            for verdict, count in sorted(table.items()):
                print(f"{what:<8} {count:>4}  {verdict}")
                failed += count * (not verdict.startswith(("equal", "detected", "harmless")))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{time.monotonic() - began:.0f} s, {spent.ru_utime + spent.ru_stime:.0f} s of CPU"
    print(f"{failed} failed; seed {args.seed}, {seconds}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
