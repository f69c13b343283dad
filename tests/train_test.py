"""Every config through the real command line, and what a run promises its user."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax import evaluate, sample
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.evaluation import loss_eval
from gptjax.generation import generate
from gptjax.monitoring import metrics
from gptjax.training import experiment, summary

train = importlib.import_module("gptjax.train")  # gptjax.train is the function
ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("optimized")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A text of 6,000 characters over a few letters, and with it lines that serve as items."""
    draw = random.Random(11)
    words = ["".join(draw.choices("abcdefg", k=draw.randint(2, 7))) for _ in range(900)]
    path = tmp_path_factory.mktemp("text") / "words and lines.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def command(name: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"gptjax.{name}", *flags],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


def small(text: Path, kind: str = "stream", *more: str) -> list[str]:
    """Overrides that make any config a matter of seconds."""
    return [
        f"--config.data.path={text}",
        f"--config.data.kind={kind}",
        "--config.train.steps=17",
        "--config.train.eval_every=8",
        "--config.train.eval_iters=3",
        "--config.train.batch_size=4",
        "--config.sample.max_new_tokens=12",
        *more,
    ]


SIZES = ("n_layer=2", "n_head=2", "n_embd=16", "block_size=11")
GPT = tuple(f"--config.model.{size}" for size in SIZES)


@pytest.mark.parametrize(
    "config, kind, more",
    [
        ("bigram.py", "stream", ()),
        ("bigram_embed.py", "stream", ()),
        ("mlp_names.py", "items", ("--config.model.n_embd=2",)),
        ("mlp_names.py:makemore", "items", ()),
        ("gpt.py:small", "stream", GPT),
    ],
)
def test_a_config_trains_evaluates_and_samples_by_its_command(config, kind, more, text, tmp_path):
    flags = [f"--config={ROOT / 'configs' / config}", "--workdir=my run", *small(text, kind, *more)]
    done = command("train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "my run"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    wanted = "final_train_nats final_val_nats best_val_nats best_step steps train_seconds"
    assert set(wanted.split()) | {"tokens_per_second", "params"} <= set(summary)
    assert summary["steps"] == 17
    lines = metrics.read(run / "metrics.jsonl")
    assert [line["step"] for line in lines if "val_nats" in line] == [0, 8, 16, 17]
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "count bigram" in done.stdout and "exact loss" in done.stdout
    assert ("repeated lines dropped" in done.stdout) == (config == "mlp_names.py")

    if not more:
        return  # two of the five show what evaluate and sample do with a run
    # The commands read nothing but the folder; their exact loss is that of the summary.
    last = "--checkpoint=last"
    found = command("evaluate", "--workdir=my run", last, "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["nats_per_token"] == pytest.approx(
        summary["final_val_nats"], rel=1e-6
    )
    made = command("sample", "--workdir=my run", "--prompt=ab", "--max_new_tokens=9", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("ab")


def call(module, *argv: str, flags=None) -> int:
    flags = module.FLAGS if flags is None else flags
    more = {"config": True, "saved": runs.saved_config} if module is train else {}
    return cli.call(module.main, ["gptjax.train", *argv], flags=flags, **more)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes")
def test_a_reader_that_goes_ends_the_run_as_it_ends_any_program_in_a_pipe(text, tmp_path):
    flags = [f"--config={ROOT / 'configs/bigram.py'}", "--workdir=run", *small(text)]
    run = subprocess.Popen(
        [sys.executable, "-m", "gptjax.train", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert run.stdout.readline().startswith("bigram")
    run.stdout.close()
    with run.stderr:
        said = run.stderr.read()
    assert run.wait(120) == 141 and "Traceback" not in said and "Exception" not in said, said


def test_what_is_trained_is_said_before_jax_is_imported(text, tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit(7)")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "gptjax.train", "--config=bigram", "--config.why=a test"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "bigram (a test)\n", "")


def test_a_run_traces_three_functions_once_each(text, tmp_path, monkeypatch):
    seen, build = [], experiment.build

    def built(*args, **how):
        seen.append(build(*args, **how))
        return seen[-1]

    monkeypatch.setattr(experiment, "build", built)
    shared = (loss_eval.forward, generate.append)
    before = [function._cache_size() for function in shared]
    config = f"--config={ROOT / 'configs/gpt.py:small'}"
    assert call(train, config, f"--workdir={tmp_path / 'run'}", *small(text, "stream", *GPT)) == 0
    (exp,) = seen
    after = [function._cache_size() for function in shared]
    assert exp.train_chunk._cache_size() == 1
    # The sums of batches (estimates, train), of rows (val, in blocks); the preview.
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]


@pytest.mark.parametrize(
    "overridden, named",
    [
        (["seed", "data.name", "data.path", "checkpoint.every_steps", "sample.prompt"], ""),
        (["train.skip_nonfinite", "train.chunk_steps", "train.eval_every", "name"], ""),
        (["seed", "train.steps", "optim.eps"], "train.steps, optim.eps"),
    ],
)
def test_a_band_holds_until_something_changes_a_number(overridden, named):
    assert summary.why_no_band(overridden) == named


def test_no_steps_evaluate_the_fresh_model_and_end(text, tmp_path, capsys):
    flags = [f"--config={ROOT / 'configs/bigram.py'}", f"--workdir={tmp_path / 'run'}"]
    assert call(train, *flags, *small(text), "--config.train.steps=0") == 0
    found = runs.summary(tmp_path / "run")
    assert found["steps"] == 0 and found["final_val_nats"] > found["count_bigram_val_nats"]
    assert "token_embedding_table" in capsys.readouterr().out


def test_another_run_in_the_folder_is_refused_with_the_fields_that_differ(text, tmp_path, capsys):
    flags = [f"--config={ROOT / 'configs/bigram.py'}", f"--workdir={tmp_path / 'run'}"]
    flags += [*small(text), "--config.train.steps=1"]
    assert call(train, *flags) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
    assert call(train, *flags, "--config.optim.learning_rate=0.5", "--config.seed=3") == 2
    error = capsys.readouterr().err
    assert "optim.learning_rate: 0.01 -> 0.5" in error and "seed: 1337 -> 3" in error
    assert error.count("\n") == 1 and "--workdir" in error
    assert files == {path: path.read_bytes() for path in files}  # nothing lost
    assert call(train, *flags, "--config.train.steps=4") == 0  # more of the same is welcome
    assert runs.summary(tmp_path / "run")["steps"] == 4


def test_show_batch_prints_every_context_and_target_of_the_real_data(text, capsys):
    flags = [f"--config={ROOT / 'configs/bigram.py'}", "--show_batch"]
    assert call(train, *flags, *small(text), "--config.model.block_size=5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "input shape: (4, 5)" in lines
    contexts = [line for line in lines if line.startswith("when input is")]
    assert len(contexts) == 5
    for shorter, longer in zip(contexts, contexts[1:], strict=False):
        context, target = (
            shorter.split("when input is ")[1].split("   ")[0].split(" the target is ")
        )
        grown = json.loads(longer.split("when input is ")[1].split(" the target is ")[0])
        assert grown == [*json.loads(context), int(target)]


def test_show_sharding_prints_every_parameter_and_what_a_device_has_of_it(text, capsys):
    flags = [f"--config={ROOT / 'configs/bigram.py'}", "--show_sharding", *small(text)]
    assert call(train, *flags, "--config.model.kind=mlp", "--config.model.n_layer=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("data 1, fsdp 1, tensor 1; a batch in 1 parts") for line in lines)
    rows = {line.split()[0]: line.split() for line in lines if "  " in line and "/" in line}
    hidden = rows["hidden_0/kernel"]
    n_in, n_out = map(int, hidden[1].split("×"))
    assert hidden[2:] == ["fsdp,", "tensor", f"{4 * n_in * n_out:,}"]
    assert any("CPU 0" in line for line in lines)  # the drawing


def test_a_changed_corpus_is_refused(text, tmp_path, capsys):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text.read_bytes())
    run = f"--workdir={tmp_path / 'run'}"
    flags = [f"--config={ROOT / 'configs/bigram.py'}", run, *small(copy), "--config.train.steps=1"]
    assert call(train, *flags) == 0
    copy.write_text("gfedcba\n" * 800, encoding="utf-8")
    capsys.readouterr()
    assert call(train, *flags, "--config.train.steps=2") == 2
    assert "sha256" in capsys.readouterr().err


def verdict_in(lines):
    """What a training says of its loss; a slow machine says afterwards that it is still at work."""
    return [line for line in lines if line.startswith("val ")][-1]


@pytest.mark.parametrize(
    "kind, said",
    [
        ("verdict in the band", ": as expected, 0.00–9.00 nats per token; "),
        ("out of it", " better than expected, 8.00–9.00 nats per token"),
        ("none", ", which a table of pairs can reach: raise train.steps"),
    ],
)
def test_the_verdict_holds_for_the_settings_it_was_measured_with(
    kind, said, text, tmp_path, capsys
):
    bands = {"verdict in the band": (0.0, 9.0), "out of it": (8.0, 9.0), "none": None}
    plain = tmp_path / "words"  # a ConfigDict takes no dots in names
    plain.write_bytes(text.read_bytes())
    lines = ["from gptjax import config as c", "def get_config():", " config = c.base()"]
    lines += [f" config.data.path = {str(plain)!r}", " config.model.kind = 'bigram'"]
    lines += [" config.train.update(steps=1, batch_size=4, eval_iters=2)"]
    if bands[kind]:
        lines += [f" config.expected[{plain.name!r}] = {bands[kind]}"]
    path = tmp_path / "banded.py"
    path.write_text("\n".join([*lines, " return config", ""]), encoding="utf-8")
    assert call(train, f"--config={path}", f"--workdir={tmp_path / 'run'}") == 0
    *lines, page = capsys.readouterr().out.splitlines()
    verdict = verdict_in(lines)
    assert page == f"look inside: {tmp_path / 'run'}/report.html"
    assert said in verdict and verdict.count("expected") == (kind != "none")


@pytest.fixture
def banded(text, tmp_path):
    """A config file with a band for its text that holds for anything."""
    plain = tmp_path / "words"  # a ConfigDict takes no dots in names
    plain.write_bytes(text.read_bytes())
    lines = ["from gptjax import config as c", "def get_config():", " config = c.base()"]
    lines += [f" config.data.path = {str(plain)!r}", " config.model.kind = 'bigram'"]
    lines += [" config.train.update(steps=1, batch_size=4, eval_iters=2)"]
    lines += [f" config.expected[{plain.name!r}] = (0.0, 9.0)", " return config", ""]
    path = tmp_path / "banded.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"--config={path}"


def test_a_folder_alone_continues_its_run_with_its_own_config(banded, tmp_path, capsys):
    run = f"--workdir={tmp_path / 'run'}"
    assert call(train, banded, run, "--config.seed=5") == 0
    before = runs.saved_config(tmp_path / "run")
    (tmp_path / "banded.py").unlink()
    capsys.readouterr()
    assert call(train, run) == 0
    said = capsys.readouterr().out
    assert "continuing at step 1" in said and "as expected, 0.00–9.00" in verdict_in(
        said.splitlines()
    )
    assert call(train, run, "--config.train.steps=3") == 0
    after = runs.saved_config(tmp_path / "run")
    assert (after.train.steps, after.seed, after.model) == (3, 5, before.model)
    assert runs.summary(tmp_path / "run")["steps"] == 3
    assert call(train, run, "--print_config", "--config.train.steps=4") == 0
    shown = capsys.readouterr().out
    assert "--config.train.steps=4 " in shown and "--config.seed=5 " in shown


def test_a_band_that_does_not_hold_for_a_run_does_not_when_it_is_continued_either(
    banded, tmp_path, capsys
):
    run = f"--workdir={tmp_path / 'run'}"
    assert call(train, banded, run, "--config.optim.eps=1e-3") == 0
    assert call(train, run) == 0
    verdicts = [x for x in capsys.readouterr().out.splitlines() if x.startswith("val ")]
    assert len(verdicts) == 2 and not any("as expected" in verdict for verdict in verdicts)


def test_the_reason_for_no_verdict_is_the_true_one(banded, tmp_path, capsys):
    for changed in ("model.kind=mlp", "optim.eps=1e-3 --config.model.kind=mlp"):
        run = f"--workdir={tmp_path / changed[:5]}"
        assert call(train, banded, run, *f"--config.{changed}".split()) == 0
        said = verdict_in(capsys.readouterr().out.splitlines())
        assert "changed, the config's 0.00–9.00 need not hold" in said, said
        assert "no config says what to expect" not in said


def test_a_damaged_checkpoint_is_passed_over_for_the_config_too(banded, tmp_path, capsys):
    run = tmp_path / "run"
    assert call(train, banded, f"--workdir={run}", "--config.train.eval_every=1") == 0
    assert runs.saved_config(run).train.eval_every == 1
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name[5]))
    (newest / "manifest.json").write_text("{}")
    assert runs.saved_config(run).train.eval_every == 1
    assert runs.saved_config(tmp_path) is None


def test_the_default_folder_is_named_after_the_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--config={ROOT / 'configs/bigram.py'}", *small(text), "--config.train.steps=0"]
    assert call(train, *flags) == 0
    assert (tmp_path / "runs" / "bigram" / "summary.json").exists()


def test_evaluate_and_sample_refuse_what_is_no_run(tmp_path, capsys):
    for module in (evaluate, sample):
        for folder in (tmp_path, tmp_path / "absent"):
            assert call(module, f"--workdir={folder}") == 2
            error = capsys.readouterr().err
            assert str(folder) in error and error.count("\n") == 1
