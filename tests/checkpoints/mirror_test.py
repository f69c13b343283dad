"""A run on an object store: old or new at each instant, and continued to the same bytes."""

import contextlib
import io
import itertools
import json
import threading
import time

import fsspec
import jax
import numpy as np
import pytest
import s3_server
from tiny_runs import config, fit, outcome, write_text

from gptjax.checkpoints import directory, manifest, mirror, run
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal
from gptjax.runtime import object_store, preemption
from gptjax.runtime.object_store import Lease, Store
from gptjax.runtime.preemption import Stopped


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture
def url(memory_bucket):
    fsspec.filesystem("memory").pipe(f"/{memory_bucket}/beside.txt", b"")
    return f"memory://{memory_bucket}/runs/mine"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mirror, "POLL_S", 0.05)
    monkeypatch.setattr(mirror, "LAST_TRIES", 2)
    monkeypatch.setattr(object_store, "WATCH_S", 0.01)


@pytest.fixture
def on(monkeypatch, tmp_path):
    """Be on a machine: one with a cache of its own."""
    return lambda machine: monkeypatch.setenv("GPTJAX_CACHE_DIR", str(tmp_path / machine))


def sums(store):
    return mirror._sums(store, store.files())


def write(folder, step, best=False, keep_last=1):
    """A checkpoint of little files, with the line of metrics.jsonl that it counts; old ones go."""
    with open(folder / "metrics.jsonl", "ab") as lines:
        lines.write(metrics.to_json({"step": step}))
    made = directory.folder(folder) / ".unfinished-x"
    for part, n in (("params", 3), ("rest", 2)):
        for i in range(n):
            manifest.write_whole(made / part / f"d{i}/of", f"{part} {i} of {step}".encode())
    manifest.seal(made, {"step": step, "meta": {}, "arrays": {"params": {}, "rest": {}}})
    new = directory.rename_into_place(made, step, best, folder)
    for old in directory.superfluous(directory.slots(folder), new, keep_last):
        directory.delete(old)


@contextlib.contextmanager
def by_hand(url, monkeypatch, waits=True):
    """What ``training`` begins, without its threads: the folder, and what copies when it is told.

    As after a kill the lock stays; ``waits``: the next one has waited for it long enough.
    """
    with monkeypatch.context() as patch, contextlib.ExitStack() as open_:
        patch.setattr(mirror._Copier, "_follow", lambda self: None)
        patch.setattr(Lease, "_keep", lambda self: None)
        patch.setattr(Lease, "_withdraw", lambda self, number: None)
        if waits:
            patch.setattr(object_store, "DEAD_S", 0.0)
            patch.setattr(object_store, "RENEW_S", -60.0)
        store = Store(url)
        folder = mirror._folder(store, "training")
        copier = mirror._start(store, folder, Terminal(io.StringIO(), live=False), open_)
        copier._end.set()
        yield folder, copier


def steps_read(folder, newest=0):
    """The steps of a folder's ``newest`` checkpoints (0: all), checked: each file as it was."""
    for slot in directory.slots(folder)[-newest:]:
        manifest.verify(slot.path, directory.facts(slot)["files"], mirror.PARTS)
        assert (slot.path / "params/d1/of").read_text() == f"params 1 of {slot.step}"
    return [slot.step for slot in directory.slots(folder)[-newest:]]


def test_killed_after_any_operation_the_store_has_the_old_checkpoint_or_the_new(
    url, on, monkeypatch
):
    seen, changes = [], ("write", "delete")
    for n in range(100):
        bucket, here = f"{url}/{n}", f"machine {n}"
        on(here)
        with by_hand(bucket, monkeypatch) as (folder, copier):
            write(folder, 7, best=True)
            copier.copy()
            write(folder, 14, best=True)
            (folder / "summary.json").write_text("{}")
            assert steps_read(folder) == [14]
            left = [n]

            def dies(store, *what, real, left=left, **how):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return real(store, *what, **how)

            with monkeypatch.context() as patch, contextlib.suppress(Killed):
                for name in changes:
                    real = getattr(Store, name)
                    patch.setattr(Store, name, lambda s, *a, r=real, **k: dies(s, *a, real=r, **k))
                copier.copy()
        on(f"a reader {n}")
        for which in ("last", "best"):
            folder = mirror.reading(bucket, which)
            [step] = steps_read(folder, newest=1)
            lines = [line["step"] for line in metrics.read(folder / "metrics.jsonl")]
            assert lines in ([7], [7, 14]) and step in lines
        seen.append(step)
        # Another machine goes on from there; on this one nothing is lost.
        for machine, may in ((f"another {n}", ([7], [7, 14], [14])), (here, ([14],))):
            on(machine)
            with by_hand(bucket, monkeypatch) as (folder, copier):
                assert (found := steps_read(folder)) in may
                copier.copy()
            there = {name.split("/")[1] for name in Store(bucket).files("checkpoints")}
            assert there == {f"step_{step}-best" for step in found}, "half of one is left"
            if machine != here:
                assert step == found[-1]
            if found != [14]:
                break
        if left[0]:
            break
    else:
        pytest.fail("it never came to its end")
    assert n > 12 and seen == sorted(seen) and {*seen} == {7, 14}


def test_the_best_one_goes_when_a_better_one_is_there_and_the_newest_is_put_first(
    url, on, monkeypatch
):
    on("here")
    puts, put = [], Store.write

    def noted(store, name, data):
        puts.append(name.split("/")[1] if "/" in name else name)
        put(store, name, data)

    with by_hand(url, monkeypatch) as (folder, copier):
        write(folder, 3, best=True)
        copier.copy()
        write(folder, 5, best=True)
        write(folder, 9)
        monkeypatch.setattr(Store, "write", noted)
        copier.copy()
        assert list(dict.fromkeys(puts)) == ["metrics.jsonl", "step_9", "step_5-best"]
        assert set(copier.there) == {"step_5-best", "step_9"}
        assert set(sums(copier._store)) == set(copier.there)

        def fails(store, name, data):
            if "step_11" in name:
                raise OSError("the line was cut")
            put(store, name, data)

        write(folder, 11, best=True)
        write(folder, 13)
        monkeypatch.setattr(Store, "write", fails)
        with pytest.raises(OSError, match="cut"):
            copier.copy()
        assert set(sums(copier._store)) == {"step_5-best", "step_13"}


def test_what_is_deleted_here_while_it_is_copied_is_copied_whole(url, on, monkeypatch):
    on("here")
    put = Store.write
    with by_hand(url, monkeypatch) as (folder, copier):
        write(folder, 3)

        def meanwhile(store, name, data):
            if name.endswith("step_3/params/d0/of"):
                write(folder, 4)
                assert directory.available(folder) == [4]
            put(store, name, data)
            if name.endswith("step_3/manifest.json"):
                on("elsewhere")
                assert steps_read(mirror.reading(url, "last"), newest=1) == [3]

        monkeypatch.setattr(Store, "write", meanwhile)
        copier.copy()
        assert set(copier.there) == {"step_4"}


def test_a_run_that_saves_faster_than_it_is_copied_fills_no_store(url, on, monkeypatch):
    on("here")
    put, most, steps = Store.write, [], iter(range(4, 40, 2))
    with by_hand(url, monkeypatch) as (folder, copier):
        write(folder, 2, best=True)

        def meanwhile(store, name, data):
            if "params/d0" in name:
                for step in itertools.islice(steps, 2):
                    write(folder, step, best=step % 3 == 0)
            put(store, name, data)
            if name.endswith("/manifest.json"):
                there = sorted(sums(store), key=lambda name: int(name[5:].split("-")[0]))
                most.append(len(there))
                assert any(name.endswith("-best") for name in there)

        monkeypatch.setattr(Store, "write", meanwhile)
        copier.copy()
        assert len(most) > 8 and max(most) <= 4
        assert set(copier.there) == {slot.path.name for slot in directory.slots(folder)}


def test_what_was_not_copied_goes_on_here_unless_another_machine_went_on(url, on, monkeypatch):
    on("here")
    with by_hand(url, monkeypatch) as (folder, copier):
        write(folder, 2, keep_last=2)
        copier.copy()
        write(folder, 4, keep_last=2)
        write(folder, 6, keep_last=2)
    with by_hand(url, monkeypatch) as (folder, copier):
        assert steps_read(folder) == [4, 6]
    on("elsewhere")
    with by_hand(url, monkeypatch) as (folder, copier):
        assert steps_read(folder) == [2]
        write(folder, 3, keep_last=2)
        copier.copy()
    on("here")
    with by_hand(url, monkeypatch) as (folder, copier):
        assert steps_read(folder) == [2, 3]
        assert [line["step"] for line in metrics.read(folder / "metrics.jsonl")] == [2, 3]


def test_a_question_fetches_its_part_alone_and_once(url, on, monkeypatch):
    on("here")
    with by_hand(url, monkeypatch) as (folder, copier):
        for step in (2, 4, 6):
            write(folder, step, best=step == 4, keep_last=5)
        copier.copy()
    on("there")
    fetched, get = [], Store.get

    def noted(store, name, folder):
        fetched.append(name)
        get(store, name, folder)

    monkeypatch.setattr(Store, "get", noted)
    folder = mirror.reading(url, "best", ("params",))
    arrays = {name for name in fetched if "/params/" in name or "/rest/" in name}
    assert arrays == {f"checkpoints/step_4-best/params/d{i}/of" for i in range(3)}
    assert directory.available(folder) == [2, 4, 6]
    fetched.clear()
    assert mirror.reading(url, 4, ("params",)) == folder and fetched == ["metrics.jsonl"]


def test_damage_in_the_store_is_passed_over_or_told_by_the_runs_own_name(url, on, monkeypatch):
    on("here")
    with by_hand(url, monkeypatch) as (folder, copier):
        write(folder, 2, keep_last=2)
        write(folder, 4, keep_last=2)
        copier.copy()
    store = Store(url)
    store.delete("checkpoints/step_4/params/d2/of")
    on("there")
    folder = mirror.reading(url, "last", ("params",))
    assert (folder / "checkpoints/step_2/params/d2/of").is_file()
    with pytest.raises(UserError, match="step 4 is damaged.*d2/of is missing"):
        mirror.reading(url, 4)
    store.write("checkpoints/step_2/params/d0/of", b"params 0 of X")
    on("elsewhere")
    with pytest.raises(UserError) as error:
        mirror.reading(url, "last")
    assert url in str(error.value) and "elsewhere" not in str(error.value)
    with pytest.raises(UserError, match=f"{url}0' holds no checkpoint: train one.*={url}0"):
        mirror.reading(f"{url}0")


def test_a_reader_looks_again_when_the_trainer_has_just_deleted_it(url, on, monkeypatch):
    on("here")
    get = Store.get
    with by_hand(url, monkeypatch) as (folder, copier):
        write(folder, 2)
        copier.copy()
        on("there")

        def meanwhile(store, name, to):
            if "step_2/rest" in name and directory.available(folder) == [2]:
                write(folder, 4)
                copier.copy()
            get(store, name, to)

        monkeypatch.setattr(Store, "get", meanwhile)
        assert steps_read(mirror.reading(url, "last"), newest=1) == [4]


@pytest.mark.parametrize("name", ["params/../../../../out", "params/..\\\\out"])
def test_names_that_lead_out_are_refused(url, on, tmp_path, name):
    on("deep/er/here")
    store, made = Store(url), tmp_path / "step_1"
    manifest.write_whole(made / "params/of", b"out")
    manifest.seal(made, {"step": 1, "meta": {}, "arrays": {"params": {}}})
    inner = json.loads((made / "manifest.json").read_text())["manifest"]
    inner["files"] = {name: inner["files"].pop("params/of")}
    outer = {"sha256": manifest._digest(inner), "manifest": inner}
    for at in ("step_1", "..", "step_1/../../../.."):
        store.write(f"checkpoints/{at}/manifest.json", json.dumps(outer).encode())
    store.fs.pipe_file(f"{store.path()}/checkpoints/step_1/{name}", b"out")
    with pytest.raises(UserError):
        mirror.reading(url, "last")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith("out")]


# What follows trains.


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def undisturbed(text, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        fit(config(text), workdir, patch)
    return workdir


def train(text, url, monkeypatch, stop_at=None, said=None):
    """The run at a URL, or until a SIGTERM: its folder here."""
    with (
        Terminal(said or io.StringIO(), live=False) as terminal,
        contextlib.suppress(Stopped),
        mirror.training(url, terminal) as folder,
    ):
        if isinstance(end := fit(config(text), folder, monkeypatch, stop_at), Stopped):
            raise end
    return folder


def test_a_run_that_is_stopped_goes_on_elsewhere_to_the_same_bytes_and_is_sampled(
    text, url, undisturbed, on, monkeypatch
):
    said = io.StringIO()
    on("first")
    train(text, url, monkeypatch, stop_at=9, said=said)
    assert f"{url} has all of it" in said.getvalue()
    on("second")
    folder = train(text, url, monkeypatch)
    assert outcome(config(text), folder) == outcome(config(text), undisturbed)
    store = Store(url)
    assert not store.files("lock")
    assert store.read("metrics.jsonl") == (undisturbed / "metrics.jsonl").read_bytes()
    at = [start["step"] for start in json.loads(store.read("run.json"))["starts"]]
    assert at[0] == 0 and 9 <= at[1] < 23 and len(at) == 2
    assert {"summary.json", "timing.jsonl"} <= store.files().keys()
    # A plain copy of the objects is a work folder.
    on("third")
    opened = run.open_for_command(url, "best", pytest.fail)
    assert opened.config == run.saved_config(url) == config(text)
    assert opened.val_nats is not None
    jax.tree.map(np.testing.assert_array_equal, opened.params, run.open_run(undisturbed).params)
    copied = mirror.reading(url, "every")
    assert outcome(config(text), copied) == outcome(config(text), undisturbed)


def test_a_store_that_cannot_be_written_costs_nothing_and_the_next_start_copies_it(
    text, url, undisturbed, on, monkeypatch, capsys
):
    on("here")
    put = Store.write

    def fails(store, name, data, mode="overwrite"):
        if name.startswith("checkpoints") and "step_0" not in name:
            raise OSError("quota exceeded")
        put(store, name, data, mode)

    with monkeypatch.context() as once:
        once.setattr(Store, "write", fails)
        with pytest.raises(UserError) as error:
            train(text, url, monkeypatch)
    folder = mirror._folder(Store(url), "training")
    said = f"could not be copied (OSError: quota exceeded): it is in {folder}"
    assert said in str(error.value)
    with monkeypatch.context() as once:  # a scheduler is to start it again: exit code 75
        once.setattr(Store, "write", fails)
        terminal = Terminal(io.StringIO(), live=False)
        with pytest.raises(Stopped), mirror.training(url, terminal):
            raise Stopped("SIGTERM", 23)
    assert "the same command on this machine copies it" in capsys.readouterr().err
    assert directory.available(folder) != [0]
    train(text, url, monkeypatch)
    on("there")
    assert outcome(config(text), mirror.reading(url, "every")) == outcome(config(text), undisturbed)


def test_who_is_taken_over_ends_with_a_line_and_writes_no_more(url, on, monkeypatch):
    on("here")
    monkeypatch.setattr(object_store, "DEAD_S", 1.0)
    monkeypatch.setattr(object_store, "RENEW_S", 0.1)
    store, keep = Store(url), Lease._keep
    monkeypatch.setattr(Lease, "_keep", lambda self: None)  # halted
    with (
        pytest.raises(UserError) as error,
        mirror.training(url, Terminal(io.StringIO(), live=False)) as folder,
        preemption.watch() as stop,
        contextlib.closing(Lease(store, "there", str)) as taker,
    ):
        who = taker._us.partition("\n")[0]
        [copier] = [t for t in threading.enumerate() if t.name == "copier"]
        keep(copier._target.__self__.lease)
        write(folder, 3)
        for _ in range(100):
            time.sleep(0.05)
            stop.check(3)
    assert f"{url} was taken over by {who}" in str(error.value)
    assert not store.files("checkpoints")


def test_a_second_run_here_is_refused_at_once(url, on):
    on("here")
    terminal = Terminal(io.StringIO(), live=False)
    refused = pytest.raises(UserError, match="is in use by process")
    with mirror.training(url, terminal), refused, mirror.training(url, terminal):
        pass


@pytest.mark.parametrize("shared", [True, False])
def test_processes_share_the_first_ones_folder_or_are_refused(url, on, monkeypatch, shared):
    on("here")
    monkeypatch.setattr(mirror.cluster, "from_first", lambda place: place if shared else "another")
    opened = mirror.training(url, Terminal(io.StringIO(), live=False))
    if shared:
        with opened as folder:
            assert folder.parent.is_dir()
    else:
        with pytest.raises(UserError, match="another folder on each host: let GPTJAX_CACHE_DIR"):
            opened.__enter__()
    assert not Store(url).files("lock")


@s3_server.needs_s3
def test_all_of_it_on_a_server_that_speaks_s3(text, undisturbed, on, monkeypatch):
    url = "s3://runs/of/mine"
    with s3_server.bucket("runs"):
        store, held, refused = Store(url), [], []

        def race(place):
            try:
                held.append(Lease(store, place, str))
            except UserError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=race, args=(f"disk {i}",)) for i in range(4)]
        with monkeypatch.context() as quick:
            quick.setattr(object_store, "RENEW_S", 0.3)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (len(held), len(refused)) == (1, 3), refused
        held[0].close()
        on("first")
        train(text, url, monkeypatch, stop_at=9)
        on("second")
        folder = train(text, url, monkeypatch)
        assert outcome(config(text), folder) == outcome(config(text), undisturbed)
        assert store.read("metrics.jsonl") == (undisturbed / "metrics.jsonl").read_bytes()
        assert not store.files("lock")
        on("third")
        opened, step = run.open_for_command(url, "last", pytest.fail), 23
        assert opened.step == step == run.open_run(undisturbed, "last").step
        with pytest.raises(UserError, match="s3://nothing/here cannot be used"):
            train(text, "s3://nothing/here", monkeypatch)
