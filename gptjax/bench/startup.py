"""How long one waits for a command: whole processes, from their start.

In: nothing. Out: seconds until gptjax is imported, a help page stands there, and the default
config has done its first training step, with empty caches and with those that it left.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptjax.bench import turns
from gptjax.bench.turns import Told, no_one
from gptjax.checkpoints.run import TIMING
from gptjax.config import files, parse
from gptjax.data import corpora

COMMANDS = ("prepare", "train", "sample", "evaluate", "compare", "look", "report", "serve")
COMMANDS += ("convert", "aot", "bench")
CONFIG = "gpt"  # the default one, in the size that this machine can train
POLL_SECONDS = 0.01


def measure(
    repeats: int, told: Told = no_one, note: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Seconds of each beginning. The corpus is fetched before: ``note`` is told of a download."""
    calls: dict[str, Callable[[], float]] = {}
    calls["import gptjax"] = lambda: seconds_of(["-c", "import gptjax"])
    for name in COMMANDS:
        calls[f"{name} --help"] = functools.partial(seconds_of, ["-m", f"gptjax.{name}", "--help"])
    with tempfile.TemporaryDirectory() as folder:
        data, warm = Path(folder) / "data", Path(folder) / "warm"
        data.mkdir()
        name = parse.from_dict(files.load(CONFIG)).data.name
        text, _ = corpora.known_text(name, note)
        (data / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
        calls["first training step, empty caches"] = lambda: first_step(data)
        calls["first training step, compiled before"] = lambda: first_step(data, warm)
        seconds = turns.interleave(calls, repeats, told)
    return [{"what": what, "seconds": turns.spread(taken)} for what, taken in seconds.items()]


def first_step(data: Path, cache: Path | None = None) -> float:
    """Seconds until a run has done its first step; it is ended then."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        workdir, cache = Path(folder) / "run", cache or Path(folder) / "cache"
        argv = [sys.executable, "-m", "gptjax.train", f"--config={CONFIG}", f"--workdir={workdir}"]
        env = environment(GPTJAX_CACHE_DIR=str(cache), GPTJAX_DATA_DIR=str(data))
        begin, timing = time.perf_counter(), workdir / TIMING
        with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=said) as process:
            try:
                while not (timing.exists() and timing.stat().st_size):
                    if process.poll() is not None:
                        said.seek(0)
                        raise RuntimeError(f"the run ended: {said.read().decode()[-1000:]}")
                    time.sleep(POLL_SECONDS)
                return time.perf_counter() - begin
            finally:
                process.kill()


def seconds_of(arguments: list[str], **more: str) -> float:
    """Seconds of a whole Python process; RuntimeError with its last words where it fails."""
    begin, how = time.perf_counter(), {"env": environment(**more), "capture_output": True}
    ended = subprocess.run([sys.executable, *arguments], check=False, **how)
    seconds = time.perf_counter() - begin
    if ended.returncode:
        raise RuntimeError(f"{arguments} ended: {ended.stderr.decode(errors='replace')[-1000:]}")
    return seconds


def environment(**more: str) -> dict[str, str]:
    """This process's, in which Python finds this very package."""
    root, path = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, path)))} | more
