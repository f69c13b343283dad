"""Compiled programs on disk: found again by the next process, and never in anybody's way."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest

from gptjax.runtime import compilation_cache, devices

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
import jax
from gptjax.runtime import compilation_cache
on, columns, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
compilation_cache.MAX_BYTES = limit
print(compilation_cache.switch(on == "on"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
counts = []
jax.monitoring.register_event_listener(lambda event, **_: counts.append(event))
x = jax.numpy.ones((23, columns))
print(float(jax.jit(lambda x: (jax.numpy.sin(x) @ x.T).sum())(x)).hex())
print(counts.count("/jax/compilation_cache/cache_hits"))
"""


def run(cache: Path, on: str = "on", columns: int = 29, limit: int = 1 << 30):
    """(the folder, the result, cache hits) of a process that compiles something."""
    env = {name: v for name, v in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, on, str(columns), str(limit)],
        cwd=ROOT,
        env={**env, "GPTJAX_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder, result, hits = done.stdout.split("\n")[:3]
    return folder, result, int(hits)


def test_a_second_process_loads_what_the_first_compiled_and_damage_only_costs_time(tmp_path):
    cache = tmp_path / "my caché"
    folder, result, hits = run(cache)
    entries = sorted(Path(folder).glob("*-cache"))
    assert cache in Path(folder).parents and entries and hits == 0
    assert run(cache) == (folder, result, len(entries))
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-9])
    assert run(cache) == (folder, result, 0)


def test_switched_off_nothing_is_kept(tmp_path):
    folder, _, hits = run(tmp_path, "off")
    assert folder == "None" and hits == 0 and list(tmp_path.iterdir()) == []


@pytest.fixture
def untouched(monkeypatch):
    """Fails a test in which ``switch`` gave JAX a folder; it begins without one."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("JAX was set up"))
    yield
    monkeypatch.undo()
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path, monkeypatch, untouched):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(tmp_path / "file"))
    assert compilation_cache.switch(True) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_folder_others_may_write_is_not_trusted(tmp_path, monkeypatch, untouched):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(devices, "cpu_name", lambda flags: "some CPU")
    folder = tmp_path / "xla" / f"{zlib.crc32(b'some CPU'):08x}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert compilation_cache.switch(True) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("mode, trusted", [(0o777, False), (0o1777, True), (0o755, True)])
def test_a_folder_that_others_could_exchange_is_not_trusted(mode, trusted, tmp_path, monkeypatch):
    set_up, parent = [], tmp_path / "parent"
    parent.mkdir()
    parent.chmod(mode)
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(parent / "mine"))
    monkeypatch.setattr(jax.config, "update", lambda name, _: set_up.append(name))
    before = jax.config.jax_compilation_cache_dir
    assert not before, "a test before this one left a cache"
    found = compilation_cache.switch(True)
    assert (found is not None) == trusted == ("jax_compilation_cache_dir" in set_up)


def test_a_program_that_was_half_written_goes_and_the_others_stay(tmp_path):
    for name, size in [("a-cache", 300), ("a-atime", 8), ("b-cache", 0), ("b-atime", 8)]:
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "c-cache").write_bytes(b"of a time before JAX noted when each was read")
    (tmp_path / "other").write_bytes(b"x")
    compilation_cache._delete_unfinished(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["a-atime", "a-cache", "b-atime", "other"]


def test_the_folder_stays_below_its_limit_and_the_last_read_are_kept(tmp_path):
    folder = Path(run(tmp_path)[0])

    def entries():
        return {entry.name: entry.stat().st_size for entry in folder.glob("*-cache")}

    first = entries()
    limit = sum(first.values()) + min(first.values())
    run(tmp_path, columns=31, limit=limit)
    assert sum(entries().values()) <= limit and set(entries()) - set(first)
    assert run(tmp_path, columns=31, limit=limit)[2] > 0
