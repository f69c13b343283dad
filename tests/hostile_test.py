"""Files from somebody who means harm: nothing in them runs, and nothing outside is read or lost."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import fit

from gptjax.checkpoints import directory, manifest, run, store
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal

PACKAGE = Path(__file__).resolve().parent.parent / "gptjax"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A config and the folder of its finished run; copy it before harming it."""
    folder = tmp_path_factory.mktemp("hostile")
    config = tiny_runs.config(tiny_runs.write_text(folder))
    with pytest.MonkeyPatch.context() as patch:
        fit(config, folder / "run", patch)
    return config, folder / "run"


@pytest.fixture
def workdir(finished, tmp_path):
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


class Evil:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


# One signal is bound to a function of C's library.
TIES = {"processes/cluster.py": {"ctypes"}}


def test_nothing_in_the_package_unpickles_or_evaluates():
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "ctypes"}
    calls = {"eval", "exec", "compile", "__import__", "import_module"}
    runners = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not {str(module).split(".")[0] for module in modules} & banned - TIES.get(
                    name, set()
                ), name
                if "runpy" in modules or "subprocess" in modules:
                    runners[name] = True
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", "")
                assert called not in calls, f"{name} calls {called}"
                for keyword in node.keywords:
                    assert keyword.arg not in ("allow_pickle", "shell"), name
    # Config files are programs of the user, pip and git are run, and our own commands by name.
    assert set(runners) <= {
        "__main__.py",
        "bench/startup.py",
        "config/files.py",
        "compare/__main__.py",
        "data/fetch/download.py",
        "runtime/devices.py",
    }


def test_opening_a_checkpoint_compiles_imports_and_starts_nothing(finished):
    watched = {"pickle.find_class", "exec", "compile", "os.system", "os.exec", "os.posix_spawn"}
    watched |= {"subprocess.Popen", "socket.connect", "ctypes.dlopen", "os.fork"}
    seen, listening = [], False

    def listen(event, args):
        if listening and event in watched:
            seen.append((event, repr(args)[:200]))

    sys.addaudithook(listen)
    run.open_run(finished[1])  # whatever is imported late, is imported now
    listening = True
    opened = run.open_run(finished[1])
    pickle.loads(pickle.dumps(Evil))  # the hook does listen
    listening = False
    assert opened.step == 23
    assert [event for event, _ in seen] == ["pickle.find_class"], seen


def test_pickles_in_a_checkpoint_are_damage_or_dead_weight(workdir, tmp_path):
    trace = tmp_path / "trace"
    evil = pickle.dumps(Evil(trace))
    slot = directory.slots(workdir)[-1]
    for name in ("evil.pkl", "checkpoint", "params/.DS_Store", "params/d/Thumbs.db"):
        (slot.path / name).write_bytes(evil)
    assert run.open_run(workdir).step == 23
    for name in ("params/evil.pkl", "params/checkpoint", "params/d/more"):
        (slot.path / name).write_bytes(evil)
        with pytest.raises(UserError, match=f"{name} was not written with it"):
            run.open_run(workdir, 23)
        (slot.path / name).unlink()
    for path in sorted((slot.path / "params").rglob("*")):
        if path.is_file() and path.name not in (".DS_Store", "Thumbs.db"):
            sound = path.read_bytes()
            path.write_bytes(evil)
            with pytest.raises(UserError, match="damaged"):
                run.open_run(workdir, 23)
            path.write_bytes(sound)
    # And when its author knows how to seal it.
    for name in ("_METADATA", "manifest.ocdbt", "d", "_sharding"):
        path = slot.path / "params" / name
        if path.is_file():
            path.write_bytes(evil)
            reseal(slot.path, lambda meta: None)
            with pytest.raises(UserError):
                run.open_run(workdir, 23)
    assert not trace.exists()
    pickle.loads(evil)
    assert trace.exists()  # it would have


def reseal(folder, change):
    """The manifest of somebody who knows how it is sealed."""
    facts = manifest.read(folder)
    change(facts["meta"])
    (folder / manifest.MANIFEST).unlink()
    del facts["files"]
    manifest.seal(folder, facts)


@pytest.mark.parametrize(
    "group, field, value",
    [
        ("model", "n_layer", 10**12),
        ("model", "n_embd", 10**30),
        ("model", "block_size", -1),
        ("model", "kind", "__import__('os').system('x')"),
        ("tokenizer", "kind", "../../etc/passwd"),
        ("data", "path", "\0"),
        ("optim", "learning_rate", "nan"),
        ("checkpoint", "every_steps", [[[[]]]]),
        ("train", "steps", True),
    ],
)
def test_a_config_in_a_checkpoint_is_only_checked_values(workdir, group, field, value):
    for slot in directory.slots(workdir):
        reseal(slot.path, lambda meta: meta["config"][group].update({field: value}))
    try:
        run.open_run(workdir)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert (group, field) == ("data", "path")  # nobody opens it to sample


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "char", "vocabulary": []},
        {"kind": "char", "vocabulary": ["ab"]},
        {"kind": "char", "vocabulary": "abc" * 9},
        {"kind": "char", "vocabulary": list("aabc")},
        {"kind": "byte", "vocabulary": ["a"]},
        {"kind": "word", "vocabulary": [None]},
        {"kind": "pickle", "vocabulary": ["gASV"]},
        [],
        None,
    ],
    ids=str,
)
def test_a_tokenizer_in_a_checkpoint_is_only_a_list_of_texts(workdir, said):
    for slot in directory.slots(workdir):
        reseal(slot.path, lambda meta: meta.update(tokenizer=said))
    with pytest.raises(UserError, match="vocabulary|tokenizer"):
        run.open_run(workdir)


def test_sampling_never_opens_the_file_that_a_checkpoint_names(workdir, tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret\n" * 99, encoding="utf-8")
    for slot in directory.slots(workdir):
        reseal(slot.path, lambda meta: meta["config"]["data"].update(path=str(secret)))
    opened = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path), real(path))[1])
    assert run.open_run(workdir).step == 23
    assert secret not in opened


def test_links_in_a_run_are_never_followed_out_of_it_to_delete(finished, tmp_path):
    config, _ = finished
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years", encoding="utf-8")
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    try:
        (folder / f"{directory.UNFINISHED}7").symlink_to(precious)
        (folder / f"{directory.UNFINISHED}8").mkdir()
        (folder / f"{directory.UNFINISHED}8" / "inner").symlink_to(precious)
        (folder / "step_9999-best").symlink_to(precious)
    except OSError:
        pytest.skip("no links in this file system")
    with pytest.raises(UserError, match="step 9999 is damaged"):
        fit(config, tmp_path / "run", pytest.MonkeyPatch())
    (folder / "step_9999-best").unlink()
    fit(config, tmp_path / "run", pytest.MonkeyPatch())
    (folder / "step_1").symlink_to(precious)
    with store.Checkpoints(tmp_path / "run", config.checkpoint) as checkpoints:
        checkpoints.save(30, {"params": {"w": 1.0}, "rest": {}}, {})
    assert (precious / "thesis.txt").read_text(encoding="utf-8") == "years"


NONSENSE = [b"", b"\xff\xfe\0", b"[" * 200_000, b"{" * 9, b"null", b"[1, 2]", b'{"starts": 3}']
NONSENSE += [b'{"steps": 23}', b'{"steps": 23, "final_val_nats": "x"}', b'{"step": {"a": NaN}}\n']


@pytest.mark.parametrize("data", NONSENSE, ids=lambda data: repr(data[:20]))
def test_nonsense_in_the_files_beside_the_checkpoints_stops_no_run(finished, workdir, data):
    config, whole = finished
    for name in (run.METRICS, run.SUMMARY, run.RECORD, "run.lock"):
        (workdir / name).write_bytes(data)
    fit(config, workdir, pytest.MonkeyPatch())
    found, expected = (
        json.loads((folder / run.SUMMARY).read_text(encoding="utf-8"))
        for folder in (workdir, whole)
    )
    assert found["final_val_nats"] == expected["final_val_nats"]
    assert metrics.read(workdir / run.METRICS) == []
    assert [start["step"] for start in run.starts(workdir)] == [23]


@pytest.mark.parametrize(
    "change",
    [
        {"memory": {"lines": -3}},
        {"memory": {"lines": 2.5}},
        {"memory": {"train_seconds": 10**400}},
        {"memory": {"timed": [10**400, 1.0]}},
        {"memory": {"pending": [[10**400, 1.0]]}},
        {"data": {"sha256": "\x1b]0;owned\x07"}},
    ],
    ids=lambda change: repr(change)[:40],
)
def test_numbers_that_arithmetic_cannot_take_are_refused(workdir, finished, change):
    ((group, values),) = change.items()
    for slot in directory.slots(workdir):
        reseal(slot.path, lambda meta: meta[group].update(values))
    with pytest.raises(UserError, match="is not one that this version"):
        fit(finished[0], workdir)
    if group == "memory":
        assert run.open_run(workdir).step == 23  # only training reads its own history
    else:
        with pytest.raises(UserError, match="is not one that this version"):
            run.open_run(workdir)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_pipes_are_not_waited_for(workdir, finished):
    (workdir / run.SUMMARY).unlink()
    os.mkfifo(workdir / run.SUMMARY)
    assert run.summary(workdir) is None
    slot = directory.slots(workdir)[-1]
    (slot.path / manifest.MANIFEST).unlink()
    os.mkfifo(slot.path / manifest.MANIFEST)
    with pytest.raises(UserError, match="manifest.json cannot be read .no regular file"):
        run.open_run(workdir, slot.step)
    (workdir / run.METRICS).unlink()
    os.mkfifo(workdir / run.METRICS)
    with pytest.raises(OSError, match="no regular file"):
        metrics.read(workdir / run.METRICS)


def test_a_file_without_an_end_is_not_read(workdir, monkeypatch):
    assert run.summary(workdir)
    monkeypatch.setattr(run, "JSON_LIMIT", 10)
    assert run.summary(workdir) is None and run.starts(workdir) == []


def test_a_hostile_name_in_a_checkpoint_cannot_move_the_cursor(workdir, finished):
    slot = directory.slots(workdir)[-1]
    reseal(slot.path, lambda meta: meta["config"].update(why="\x1b[2J\x1b]0;owned\x07\nline"))
    out = io.StringIO()
    with Terminal(out, live=False) as terminal:
        terminal.note(run.open_run(workdir).config.why)
    assert "\x1b" not in out.getvalue() and "\x07" not in out.getvalue()
