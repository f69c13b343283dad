"""Two real processes train what one does, and go on exactly where a signal to one stopped both."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gptjax.checkpoints import pytree, run

ROOT = Path(__file__).resolve().parents[2]
SIZES = "--config.model.n_layer=1 --config.model.n_embd=24 --config.model.n_head=2"
SIZES += " --config.model.block_size=9 --config.model.dropout=0.1 --config.mesh.fsdp={fsdp}"
TRAIN = "--config.train.steps=40 --config.train.batch_size=4 --config.train.eval_every=20"
TRAIN += " --config.train.eval_iters=2 --config.train.chunk_steps=4"
TRAIN += " --config.checkpoint.every_steps=8 --config.sample.max_new_tokens=10"
TRAIN += " --heartbeat_seconds=20"
QUICK = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("".join(random.Random(7).choices("abcdefgh \n", k=3000)), encoding="utf-8")
    return path


def start(text: Path, workdir: Path, count: int, fsdp: int) -> list[subprocess.Popen]:
    """The command in ``count`` processes."""
    flags = [*SIZES.format(fsdp=fsdp).split(), *TRAIN.split(), f"--config.data.path={text}"]
    flags += [f"--config={ROOT / 'configs/gpt.py'}:small", f"--workdir={workdir}"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    several = [[coordinator, f"--num_processes={count}", f"--process_id={i}"] for i in range(count)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "gptjax.train", *flags, *(more if count > 1 else [])],
            env=os.environ | QUICK,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for more in several
    ]


def end(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and what was said, of each."""
    said = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / run.METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> Path:
    """A run of two processes from its start to its end."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    (code, said), (other, silent) = end(start(text, workdir, 2, fsdp=2))
    assert code == other == 0, said + silent
    assert "over 2 processes" in said and f"everything is in {workdir}" in said
    assert silent == ""  # one speaks
    return workdir


def test_two_processes_learn_what_one_does(whole, text, tmp_path):
    ((code, said),) = end(start(text, tmp_path / "one", 1, fsdp=1))
    assert code == 0, said
    one, two = lines(tmp_path / "one"), lines(whole)
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys() and a.get("sample") == b.get("sample")
        for name in ("loss_nats", "grad_norm", "train_nats", "val_nats"):
            np.testing.assert_allclose(a.get(name, 0), b.get(name, 0), rtol=1e-4)
    # Each wrote its half of the checkpoint; whoever opens it alone has all of it.
    ours, theirs = (run.open_run(folder) for folder in (tmp_path / "one", whole))
    ours, theirs = pytree.flat(ours.params), pytree.flat(theirs.params)
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_signal_to_one_stops_both_and_they_go_on_to_the_same_bits(whole, text, tmp_path):
    workdir = tmp_path / "run"
    processes = start(text, workdir, 2, fsdp=2)
    for _ in range(1200):
        if list(workdir.glob("checkpoints/step_*")):
            break
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    (code, said), (other, silent) = end(processes)
    assert code == other == 75, said + silent
    assert "the same command continues (exit code 75)" in said and silent == ""
    (code, said), (other, silent) = end(start(text, workdir, 2, fsdp=2))
    assert code == other == 0, said + silent
    assert "continuing at step" in said
    assert (workdir / run.METRICS).read_bytes() == (whole / run.METRICS).read_bytes()
