"""Two real processes train what one does, and go on exactly where a signal to one stopped both."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gptjax.checkpoints import directory, pytree, run
from gptjax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SIZES = "--config.model.n_layer=1 --config.model.n_embd=24 --config.model.n_head=2"
SIZES += " --config.model.block_size=9 --config.model.dropout=0.1 --config.mesh.fsdp={fsdp}"
SIZES += " --config.optim.schedule=constant"
TRAIN = "--config.train.batch_size=8 --config.train.eval_every=20"
TRAIN += " --config.train.eval_iters=2 --config.train.chunk_steps=4"
TRAIN += " --config.checkpoint.every_steps=8 --config.sample.max_new_tokens=10"
TRAIN += " --heartbeat_seconds=20"
STEPS, FACES = 40, "--xla_force_host_platform_device_count={}"
QUICK = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("".join(random.Random(7).choices("abcdefgh \n", k=3000)), encoding="utf-8")
    return path


def start(
    text: Path, workdir: Path, count: int, fsdp: int, devices: int = 1, steps: int = STEPS
) -> list[subprocess.Popen]:
    """The command in ``count`` processes of so many devices each."""
    flags = [*SIZES.format(fsdp=fsdp).split(), *TRAIN.split(), f"--config.data.path={text}"]
    flags.append(f"--config.train.steps={steps}")
    flags += [f"--config={ROOT / 'configs/gpt.py'}:small", f"--workdir={workdir}"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    several = [[coordinator, f"--num_processes={count}", f"--process_id={i}"] for i in range(count)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "gptjax.train", *flags, *(more if count > 1 else [])],
            env=os.environ | QUICK | {"XLA_FLAGS": FACES.format(devices)},
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


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory) -> Path:
    """The same run on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ((code, said),) = end(start(text, workdir, 1, fsdp=1))
    assert code == 0, said
    return workdir


def assert_equal_runs(one: Path, other: Path):
    """All lines, and the last parameters, but for rounding."""
    ours, theirs = lines(one), lines(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() and a.get("sample") == b.get("sample")
        for name in ("loss_nats", "grad_norm", "train_nats", "val_nats"):
            np.testing.assert_allclose(a.get(name, 0), b.get(name, 0), rtol=1e-4)
    a, b = (pytree.flat(run.open_run(folder, "last").params) for folder in (one, other))
    assert list(a) == list(b)
    for name, array in a.items():
        np.testing.assert_allclose(array, b[name], rtol=1e-3, atol=2e-5, err_msg=name)


def test_two_processes_learn_what_one_does(whole, alone):
    """And each wrote its half of the checkpoint: whoever opens it alone has all of it."""
    assert_equal_runs(alone, whole)


def test_a_run_goes_on_over_other_devices_and_other_processes(alone, text, tmp_path):
    """Four devices, then one, then two processes of one device each, then eight devices."""
    workdir = tmp_path / "run"
    for i, (count, devices, fsdp) in enumerate([(1, 4, 4), (1, 1, 1), (2, 1, 1), (1, 8, 4)]):
        for code, said in end(start(text, workdir, count, fsdp, devices, steps=10 * (i + 1))):
            assert code == 0, said
    ours = [line for line in lines(alone) if "loss_nats" in line]
    found = [line for line in lines(workdir) if "loss_nats" in line]
    assert [line["step"] for line in found] == [line["step"] for line in ours] == [10, 20, 30, 40]
    for a, b in zip(ours, found, strict=True):  # the rate is constant: see SIZES
        np.testing.assert_allclose(a["loss_nats"], b["loss_nats"], rtol=1e-4)
        np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=1e-3)


def test_damage_to_what_a_process_wrote_is_found(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    last = directory.slots(copy)[-1].path
    data = max((last / "params").rglob("*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=f"step {STEPS} is damaged .*{data.name}"):
        run.open_run(copy, STEPS)
    assert run.open_run(copy, "last").step < STEPS


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
