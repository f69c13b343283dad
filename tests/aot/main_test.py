"""The command ``aot``: its page, table and JSON, what it refuses, and a TPU that is not here."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from gptjax.aot import __main__ as aot
from gptjax.aot import hlo, programs, report, targets
from gptjax.aot.roofline import Roofline
from gptjax.cli import main as cli
from gptjax.config import files
from gptjax.config.parse import from_dict
from gptjax.training.experiment import saved_bytes

TINY = ["--config=gpt:small", "--config.model.n_layer=1", "--config.model.n_embd=16"]
TINY += ["--config.model.n_head=2", "--config.model.block_size=8", "--config.train.batch_size=8"]
V, C, T = 84, 16, 8
N_PARAMS = V * C + T * C + 12 * C * C + 10 * C + 2 * C + C * V + V  # no biases of q, k, v
slow = pytest.mark.skipif(
    not os.environ.get("GPTJAX_SLOW"), reason="takes minutes: GPTJAX_SLOW=1 runs it"
)


def call(capsys, *argv):
    code = cli.call(aot.main, ["aot", *argv], flags=aot.FLAGS, config=True)
    return code, *capsys.readouterr()


def run(*argv):
    """The command in a process of its own: what JAX is to be is said before it starts."""
    env = {name: value for name, value in os.environ.items() if "MOST_OPT" not in name}
    command = [sys.executable, "-m", "gptjax.aot", *argv]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_a_page_says_what_each_program_holds(capsys):
    code, out, err = call(capsys, *TINY, "--target=cpu:1", "--try=train.accumulate=2")
    lines = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "") and "gpt-small on cpu:1: 1 x cpu" in out
    params = report.amount(4 * N_PARAMS).split()
    assert ["parameters", *params * 2] == next(line for line in lines if "parameters" in line)[:5]
    assert ["optimizer", *report.amount(8 * N_PARAMS + 8).split()] in lines
    assert ["gradients", *params] in lines
    assert any(line[:1] == ["train.accumulate=2"] and line[-1] == "(compiled)" for line in lines)
    assert "roofline" not in out  # of a CPU nobody wrote down the speeds


def test_a_gpus_programs_are_lowered_and_this_is_said(capsys):
    code, out, _ = call(capsys, *TINY, "--target=cuda:h100:1")
    assert code == 0 and "lowered, not compiled" in out and "NVIDIA H100" in out
    assert "bfloat16 products" in out  # that device's "auto", not this one's
    code, out, _ = call(capsys, *TINY, "--target=cuda:t4:1", "--json", "--only=train")
    found = json.loads(out)
    assert code == 0 and not found["compiled"] and found["programs"]["train"]["lower_seconds"] > 0


def test_devices_that_share_a_batch_send_each_other_the_gradients():
    argv = ["--target=cpu:4", "--only=train", "--try=mesh.fsdp=4", "--json"]
    found = json.loads(run(*TINY, *argv).stdout)
    train, (split,) = found["programs"]["train"], found["changes"]
    assert found["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1} and split["compiled"]
    # A ring's all-reduce sends 2 (n - 1) / n of all gradients, and of a few scalars.
    (moved,) = train["collectives"].values()
    assert moved["sent_bytes"] == moved["bytes"] * 2 * 3 / 4
    assert 4 * N_PARAMS <= moved["bytes"] <= 4 * N_PARAMS + 64
    # What is cut is less, though a block is gathered for its products.
    assert split["total"] < sum(train["memory"].values())
    # Parameters and optimizer on four devices: most of them are matrices, which are cut.
    argv = ["--target=cuda:a100:4", "--config.mesh.fsdp=4", "--only=train", "--json"]
    cut = json.loads(run(*TINY, *argv).stdout)["programs"]["train"]["memory"]
    saved = sum(train["memory"][what] - cut[what] for what in ("parameters", "optimizer"))
    assert saved > 0.6 * 12 * N_PARAMS


def test_several_targets_are_a_table(capsys):
    code, out, err = call(capsys, *TINY, "--target=cpu:1,cpu:1")
    shown = [line.split() for line in out.splitlines() if not line.startswith("compiling")]
    heads, *rows = shown[1:]
    assert (code, err, len(rows)) == (0, "", 2) and heads[:3] == ["target", "mesh", "parts"]
    assert rows[0][:3] == ["cpu:1", "1x1x1", "1"] and rows[0][5] == "0.0"  # nothing is sent
    code, out, _ = call(capsys, *TINY, "--target=cpu:1,cpu:1", "--json")
    assert code == 0 and [row["devices"] for row in json.loads(out)] == [1, 1]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--target is missing"),
        (["--target=tpus:v5e:2x2"], "did you mean tpu?"),
        (["--target=tpu:v5:2x2"], "known: v2, v3, v5e, v5p, v6e"),
        (["--target=tpu:v5e:4"], "chips as 2x2"),
        (["--target=tpu:v5e:99x99"], "1,024 devices"),
        (["--target=tpu"], "known: v2"),
        (["--target=cuda:h100"], "how many devices"),
        (["--target=cpu:0"], "from 1 to"),
        (["--target=cpu:3"], "--xla_force_host_platform_device_count=3"),
        (["--target=cpu:1", "--only=sample"], "train, evaluation, decode"),
        (["--target=cpu:1,cpu:2", "--only=decode"], "several targets"),
        (["--target=cpu:1", "--try=train.acumulate=2"], "did you mean train.accumulate?"),
        (["--target=cpu:1", "--try=train.accumulate=two"], "train.accumulate is a int"),
        (["--target=cpu:1", "--try=train.accumulate=3"], "train.accumulate=3 times the 1 part"),
        (["--target=cpu:1", "--vocab_size=1"], "--vocab_size=1"),
        (["--target=cpu:1", "--config.tokenizer.kind=word"], "--vocab_size"),
        (["--target=cpu:1", "--config.data.path=my.txt"], "my.txt is not read"),
        (["--target=cpu:1", "--config=word2vec"], "rows of skip-gram"),
    ],
)
def test_what_it_refuses_is_a_line(argv, named, capsys):
    base = [] if any(word.startswith("--config=") for word in argv) else TINY
    if "--config=word2vec" in argv:
        argv = [*argv, "--vocab_size=99"]
    code, out, err = call(capsys, *base, *argv)
    assert code == 2 and named in err and err.count("\n") == 1 and not out


def test_without_libtpu_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    code, out, err = call(capsys, *TINY, "--target=tpu:v5e:1x1")
    assert (code, out) == (2, "") and "pip install libtpu" in err and err.count("\n") == 1


def test_what_a_program_lacks_is_what_xla_says(monkeypatch):
    config = from_dict(files.load("gpt:small"))
    said = "RESOURCE_EXHAUSTED: E1000: the total memory required for HLO temporaries (66.25G) "
    said += "exceeds available HBM (15.75G). HLO module: jit_train_chunk."
    error = jax.errors.JaxRuntimeError(said)
    before = programs.Compiled("train", 0.0, 1.0, {"parameters": 2**30}, None)
    found = programs._too_large(before, error)
    assert found["missing"] == (66.25 + 1 - 15.75) * 2**30 and config
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"):
        programs._too_large(before, jax.errors.JaxRuntimeError("another"))


def of_a_v5e(temporary, missing=0.0):
    """A report of a step of 4 ms of products, 10 ms of memory and 2 ms of links, made up."""
    target = targets.find(targets.parse("cpu:1"))
    chip = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
    target = targets.Target(target.name, target.devices, chip)
    config = from_dict({"model": {"n_embd": 16, "n_layer": 3}, "train": {"accumulate": 4}})
    exp = programs.experiment_of(config, V, target)
    memory = {"parameters": 2e8, "optimizer": 4e8, "batches": 1e8, "activations": temporary}
    moved = hlo.Traffic(8.19e9, {"all-reduce": (4, 4 * 2e8, 1.8e8)})
    train = programs.Compiled("train", 60.0, 197e12 * 0.004, memory, moved, missing)
    return report.make("made up", exp, {"train": train}, target)


def test_a_page_says_what_fits_and_what_binds():
    made = of_a_v5e(temporary=9.3e9)
    out = "\n".join(report.page(made))
    assert "fits: 10.0 GB a device of 16.9 GB" in out and "lacks" not in out
    assert "compute 4 ms, memory 10 ms, links 2 ms: at best 10 ms, by memory" in out
    assert f"{16 * 64 / 0.010:,.0f} tokens/s" in out
    assert "summed over the devices in each of 4 parts" in out
    assert "  model.remat=true " in out and "  train.accumulate=8 " in out
    row = report.row(made)
    assert row["days_10b"] == pytest.approx(10e9 / (16 * 64 / 0.010) / 86_400)
    assert row["device_hours_300b"] == pytest.approx(30 * 24 * row["days_10b"])
    out = "\n".join(report.page(of_a_v5e(temporary=19.3e9)))
    assert "does not fit: train lacks 3.09 GB a device; 19.3 GB are its activations" in out
    out = "\n".join(report.page(of_a_v5e(temporary=19.3e9, missing=7e9)))  # as XLA has said
    assert "does not fit: train lacks 7.00 GB" in out


def test_a_program_that_cannot_be_read_is_still_measured():
    def as_text():
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure (hlo_instruction.cc)")

    sizes = {"temp_size_in_bytes": 50, "output_size_in_bytes": 9, "alias_size_in_bytes": 7}
    memory = SimpleNamespace(**sizes, generated_code_size_in_bytes=3)
    made = SimpleNamespace(as_text=as_text, memory_analysis=lambda: memory)
    traced = SimpleNamespace(jaxpr=SimpleNamespace(jaxpr=SimpleNamespace(eqns=[])))
    traced.lower = lambda: SimpleNamespace(compile=lambda: made)
    target = targets.find(targets.parse("cpu:1"))
    found = programs.compile_for(programs.Program("train", traced, {"parameters": 20}), target)
    assert found.traffic is None and not found.missing
    assert found.memory["gradients"] == 20 and found.memory["activations and the like"] == 30 + 2
    assert found.total == 20 + 20 + 32 + 3


def test_remat_keeps_less_of_a_forward_pass():
    sizes = {"n_embd": 16, "n_head": 2, "n_layer": 3, "block_size": 8}
    config = from_dict({"model": {"kind": "gpt", "attention": "blocks", **sizes}})
    target = targets.find(targets.parse("cpu:1"))
    exp = programs.experiment_of(config, V, target)
    params = exp.abstract_state.params
    kept = [saved_bytes(exp.model, params, rows, T) for rows in (1, 2, 3)]
    less = saved_bytes(exp.model.clone(remat=True), params, 2, T)
    assert 0 < less < kept[1] / 2 and kept[2] - kept[1] == kept[1] - kept[0] > 0


@pytest.mark.parametrize(
    ("n", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (912_208, "912 kB"), (1.814e9, "1.81 GB")],
)
def test_an_amount_has_three_digits(n, shown):
    assert report.amount(n) == shown


def of_a_tpu(name, *argv):
    reason = "compiling for a TPU needs the package libtpu (pip install libtpu)"
    pytest.importorskip("libtpu", reason=reason)
    done = run(f"--target={name}", "--json", *argv)
    assert all("compiling" in line or "adding" in line for line in done.stderr.splitlines())
    return json.loads(done.stdout)


def assert_sound(found, n_params):
    train = found["programs"]["train"]
    assert found["device_kind"] == "TPU v5 lite" and not train["missing_bytes"]
    assert train["memory"]["parameters"] == 4 * n_params
    # Products: those of the model, but for the upper half of the scores.
    assert 0.7 * found["model_flops"] < train["flops"] < 1.05 * found["model_flops"]
    # Parameters and both moments are read and written, and gradients once each, at least.
    assert train["memory_traffic_bytes"] > 2 * (4 + 8) * n_params
    limits = Roofline(**train["roofline_seconds"])
    assert limits.seconds > 0 and limits.links == 0


def test_a_small_gpt_compiles_for_a_tpu_that_is_not_here():
    found = of_a_tpu("tpu:v5e:1x1", *TINY)
    assert_sound(found, N_PARAMS)
    assert set(found["programs"]) == {"train", "evaluation", "decode"}
    assert found["programs"]["decode"]["memory_traffic_bytes"] > 2 * N_PARAMS


@slow
def test_the_notes_gpt_compiles_for_a_tpu_that_is_not_here():
    found = of_a_tpu("tpu:v5e:1x1", "--config=gpt:lecture", "--vocab_size=65")
    assert_sound(found, 10_788_929)
    total = sum(found["programs"]["train"]["memory"].values())
    assert 1e9 < total < 4e9 and math.isclose(found["tokens_per_step"], 64 * 256)
