"""launch/slurm.sbatch on a real SLURM, as tests/slurm.sh starts one: bash tests/slurm.sh

With one, two and four tasks: a run that is told to stop (SIGTERM to its tasks), and another one of
whose tasks is killed, are queued again and write the metrics.jsonl of a run that nobody disturbed.
Arguments: numbers of tasks. Prints a line per check; ends with 1 at the first that fails.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = 240
TRAIN = ["--config=configs/bigram_embed.py", "--config.train.batch_size=8"]
TRAIN += [f"--config.train.steps={STEPS}", "--config.train.eval_every=80"]
TRAIN += ["--config.train.eval_iters=2", "--config.train.chunk_steps=2", "--config.expected={}"]
TRAIN += ["--config.checkpoint.every_steps=40", "--heartbeat_seconds=10"]

GOING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def submit(tasks, folder, text):
    """The number of a job that trains in ``folder``."""
    flags = [f"--ntasks-per-node={tasks}", f"--output={folder}.log", "--parsable", "--mem=0"]
    train = [*TRAIN, f"--config.data.path={text}", f"--workdir={folder}"]
    return said("sbatch", *flags, "launch/slurm.sbatch", *train).strip()


def fact(job, name):
    return re.search(rf"\b{name}=(\S+)", said("scontrol", "show", "job", job))[1]


def wait(job, folder, seconds=1200):
    """The state in which a job ends; a progress line every 10 s."""
    for tick in range(seconds * 2):
        if (state := fact(job, "JobState")) not in (
            "PENDING",
            "CONFIGURING",
            "RUNNING",
            "COMPLETING",
            "REQUEUED",
        ):
            return state
        if tick % 20 == 19:
            print(f"  job {job} is {state.lower()}, step {last_step(folder)}", flush=True)
        time.sleep(0.5)
    return f"still {state}"


def last_step(folder):
    path = Path(folder) / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else -1


def wait_for_step(job, folder, step):
    while last_step(folder) < step:
        if fact(job, "JobState") not in GOING:
            return
        time.sleep(0.1)


def tasks_of(folder):
    """The process ids of a run's tasks: its folder stands in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if f"--workdir={folder}".encode() in words and b"python" in words[0]:
            found.append(int(path.parent.name))
    return sorted(found)


def require(holds, line, folder):
    print(f"{'ok  ' if holds else 'FAIL'} {line}", flush=True)
    if not holds:
        log = Path(f"{folder}.log")
        print(log.read_text("utf-8", "replace")[-4000:] if log.exists() else "no log")
        sys.exit(1)


def check(tasks, base, text):
    folders = {name: f"{base}/{name}{tasks}" for name in ("whole", "stopped", "killed", "ended")}
    job = submit(tasks, folders["whole"], text)
    require(wait(job, folders["whole"]) == "COMPLETED", f"{tasks} tasks: trained", folders["whole"])
    whole = Path(folders["whole"], "metrics.jsonl").read_bytes()
    for name in ("stopped", "killed"):
        if name == "killed" and tasks == 1:
            continue  # nobody is left to say 75; srun's 137 is what the next branch sees, too
        folder = folders[name]
        job = submit(tasks, folder, text)
        wait_for_step(job, folder, STEPS // 4)
        if name == "stopped":
            said("scancel", "--signal=TERM", job)
        else:
            os.kill(random.choice(tasks_of(folder)), 9)
        state, restarts = wait(job, folder), int(fact(job, "Restarts"))
        line = f"{tasks} tasks, {name}: {state}, restarts {restarts}"
        require(state == "COMPLETED" and restarts == 1, line, folder)
        same = Path(folder, "metrics.jsonl").read_bytes() == whole
        require(same, f"{tasks} tasks, {name}: metrics.jsonl is the undisturbed run's", folder)
    folder = folders["ended"]
    job = submit(tasks, folder, text)
    wait_for_step(job, folder, STEPS // 4)
    said("scancel", job)
    state = wait(job, folder)
    require(state == "CANCELLED", f"{tasks} tasks, scancel: {state}", folder)
    while tasks_of(folder):
        time.sleep(0.2)
    saved = "saved; the same command continues" in Path(f"{folder}.log").read_text("utf-8")
    require(saved, f"{tasks} tasks, scancel: saved before the end", folder)


def main():
    os.environ |= {"JAX_PLATFORMS": "cpu", "GPTJAX_PYTHON": sys.executable, "GPTJAX_VENV": "none"}
    with tempfile.TemporaryDirectory() as base:
        letters = random.Random(1)
        text = Path(base, "text.txt")
        text.write_text("".join(letters.choices("abcdefgh \n", k=20_000)), "utf-8")
        for tasks in map(int, sys.argv[1:] or (1, 2, 4)):
            check(tasks, base, text)


if __name__ == "__main__":
    main()
