"""GPT-2 here and in transformers: the same logits, gradients, losses, texts and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gpt2_folders as made
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from safetensors.numpy import load_file

from gptjax import convert
from gptjax.checkpoints import pytree
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.data.tokenizers import CharTokenizer
from gptjax.interop import folders, gpt2, tokenizer_files
from gptjax.models.loss import cross_entropy

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub is wrong
WHY = "PyTorch and transformers are not installed: bash launch/test.sh --peers"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# All sizes of a model differ; of 17 tokens some stay unused, and one model has only one.
CONFIGS = {
    "tied": {"vocab_size": 23, "n_positions": 11, "n_embd": 15, "n_head": 3, "n_layer": 2},
    "untied": {"vocab_size": 17, "n_positions": 9, "n_embd": 14, "n_head": 7, "n_layer": 1}
    | {"tie_word_embeddings": False, "activation_function": "relu"},
    "one head": {"vocab_size": 31, "n_positions": 70, "n_embd": 6, "n_head": 1, "n_layer": 3}
    | {"activation_function": "gelu"},
    "one token": {"vocab_size": 1, "n_positions": 5, "n_embd": 8, "n_head": 2, "n_layer": 2}
    | {"activation_function": "gelu_pytorch_tanh", "tie_word_embeddings": False},
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """A random GPT-2 of transformers, and the run that was made of what it saved."""
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(**CONFIGS[request.param], **ends)
    torch.manual_seed(3)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():  # biases and scales, too
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("peers")
    theirs.save_pretrained(folder / "theirs")
    letters = CharTokenizer(made.LETTERS[: config.vocab_size])
    tokenizer_files.write(folder / "theirs", letters, config.n_positions)
    assert convert_to(f"--from_hf={folder / 'theirs'}", f"--workdir={folder / 'run'}") == 0
    return theirs, runs.open_run(folder / "run"), folder


def convert_to(*argv):
    return cli.call(convert.main, ["convert", *argv], flags=convert.FLAGS)


def nats(model, params, x):
    """The loss that transformers gives for tokens that are their own labels."""
    logits = model.apply({"params": params}, x)
    total, n = cross_entropy(logits[:, :-1], x[:, 1:], jnp.ones(x[:, 1:].shape))
    return total / n, logits


def batch(config, seed=0):
    shape = (3, config.n_positions)
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape)


def test_logits_and_losses_are_the_same(pair):
    theirs, run, _ = pair
    x = batch(theirs.config)
    with torch.no_grad():
        expected = theirs(torch.tensor(x), labels=torch.tensor(x))
    loss, logits = jax.jit(nats, static_argnums=0)(run.model, run.params, x)
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
    assert abs(loss - expected.loss.item()) < 1e-5


def test_gradients_are_the_same(pair):
    theirs, run, _ = pair
    x = batch(theirs.config, 1)
    theirs.zero_grad()
    theirs(torch.tensor(x), labels=torch.tensor(x)).loss.backward()
    gradient = jax.jit(jax.grad(nats, 1, has_aux=True), static_argnums=0)
    flat = pytree.flat(gradient(run.model, run.params, x)[0])
    family = gpt2.Family(run.config.model, theirs.config.vocab_size)
    found = {tensor.name: tensor.make() for tensor in gpt2.tensors(family, flat)}
    expected = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
    assert found.keys() == expected.keys()
    largest = max(np.abs(grad).max() for grad in expected.values())
    for name, grad in expected.items():
        scale = max(np.abs(grad).max(), 1e-3 * largest, 1e-9)  # what is 0 but for rounding
        np.testing.assert_allclose(found[name], grad, atol=1e-3 * scale, err_msg=name)


def greedy(model, ids, n):
    """As many tokens after ``ids``, the likeliest each time, of the last block_size only."""
    ids = list(ids)
    with torch.no_grad():
        for _ in range(n):
            seen = torch.tensor([ids[-model.config.n_positions :]])
            ids.append(int(model(seen).logits[0, -1].argmax()))
    return tuple(ids)


def test_greedy_texts_of_64_tokens_are_the_same(pair):
    theirs, run, _ = pair
    prompt = batch(theirs.config, 2)[0][:4]
    text = run.tokenizer.decode(prompt)
    found = run.generate(text, temperature=0, max_new_tokens=64)[0].ids
    assert found == greedy(theirs, prompt, 64)[4:]
    if theirs.config.n_positions >= 68:  # their own loop, with its cache
        how = {"max_new_tokens": 64, "do_sample": False, "pad_token_id": 0}
        made_ids = theirs.generate(torch.tensor(prompt[None]), **how)
        assert tuple(made_ids[0, 4:].tolist()) == found


def test_back_again_every_tensor_is_bitwise_the_one_they_saved(pair, tmp_path):
    theirs, _, folder = pair
    assert convert_to(f"--workdir={folder / 'run'}", f"--to_hf={tmp_path / 'out'}") == 0
    before, after = (
        load_file(at / "model.safetensors") for at in (folder / "theirs", tmp_path / "out")
    )
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is transformers.GPT2LMHeadModel
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())
    same = {"dtype", "torch_dtype", "_name_or_path", "architectures", "embd_pdrop"}
    same |= {"activation_function", "bos_token_id"}  # two names of one; the tokenizer's
    theirs, again = theirs.config.to_dict(), again.config.to_dict()
    assert {name for name in theirs if theirs[name] != again.get(name)} <= same


def test_sharded_files_of_theirs_are_read(tmp_path):
    config = transformers.GPT2Config(**CONFIGS["tied"])
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "shards", max_shard_size="9KB")
    tokenizer_files.write(tmp_path / "shards", CharTokenizer(made.LETTERS[:23]), 11)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    params = folders.read(tmp_path / "shards").params
    wte = model.transformer.wte.weight.detach().numpy()
    assert np.array_equal(params["token_embedding_table/embedding"], wte)


def test_a_pickle_of_theirs_is_refused(tmp_path, capsys):
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CONFIGS["tied"]))
    model.config.save_pretrained(tmp_path / "old")
    torch.save(model.state_dict(), tmp_path / "old/pytorch_model.bin")
    assert convert_to(f"--from_hf={tmp_path / 'old'}", f"--workdir={tmp_path / 'run'}") == 2
    assert "can run programs" in capsys.readouterr().err and not (tmp_path / "run").exists()


KINDS = {
    "the notes'": {"dropout": 0.0},
    "tied, with biases": {"tie_lm_head": True, "qkv_bias": True, "activation": "gelu"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_trained_here_is_theirs(kind, tmp_path):
    text = tiny_runs.write_text(tmp_path)
    how = {"model": KINDS[kind] | {"compute_dtype": "float32"}, "sample": {"max_new_tokens": 0}}
    config = tiny_runs.config(text, "gpt", train={"steps": 5, "eval_every": 5}, **how)
    tiny_runs.fit(config, tmp_path / "run")
    run, out = runs.open_run(tmp_path / "run"), tmp_path / "out"
    assert convert_to(f"--workdir={tmp_path / 'run'}", f"--to_hf={out}") == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tok = transformers.AutoTokenizer.from_pretrained(out)
    x = run.tokenizer.encode(text.read_text()[:48]).reshape(8, 6)
    with torch.no_grad():
        expected = theirs(torch.tensor(x.astype(np.int64))).logits.numpy()
    found = jax.jit(run.model.apply)({"params": run.params}, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    prompt = "abc"
    ids = tok(prompt)["input_ids"]
    assert ids == run.tokenizer.encode(prompt).tolist()
    sample = run.generate(prompt, temperature=0, max_new_tokens=64)[0]
    assert sample.ids == greedy(theirs, ids, 64)[3:]
    assert sample.text == tok.decode(list(sample.ids))
    how = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    first = theirs.generate(**tok(prompt, return_tensors="pt"), **how)[0]
    assert tok.decode(first) == prompt + run.tokenizer.decode(sample.ids[:3])


# What a process has had in memory at most, KiB; ru_maxrss begins with that of whoever started it.
PEAK = """
import re, time
def peak():
    with open('/proc/self/status') as file:
        return int(re.search(r'VmHWM:\\s*(\\d+)', file.read())[1])
"""
MEASURE = """
import jax
jax.devices()
from gptjax.interop import folders
from gptjax.checkpoints import store, run
from pathlib import Path
store._orbax()
least, begin = peak(), time.perf_counter()
{work}
print(peak() - least, time.perf_counter() - begin)
"""
IN = "folders.write_run(folders.read(Path('in')), Path('run'), 'in')"
OPEN = "opened = run.open_run(Path('run'))"
OUT = f"{OPEN}; folders.write(opened, Path('run'), Path('out'))"
SAMPLE = f"{OPEN}; print(opened.generate('abc', max_new_tokens=8)[0].ids)"
THEIRS = """
import torch, transformers
least, begin = peak(), time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained('{folder}')
sum(float(parameter.sum()) for parameter in model.parameters())
print(peak() - least, time.perf_counter() - begin)
"""


@pytest.mark.skipif(not os.environ.get("GPTJAX_SLOW"), reason="takes a minute: GPTJAX_SLOW=1")
def test_124_million_parameters_take_at_most_two_and_a_half_times_their_bytes(tmp_path):
    said = made.config(**gpt2.DEFAULTS | {"embd_pdrop": 0.0})
    arrays = made.tensors(said)
    made.write(tmp_path / "in", said, arrays, n_tokens=50)
    n_bytes = sum(array.nbytes for array in arrays.values())
    assert n_bytes == 4 * 124_439_808
    figures = {}
    for name, work in {"in": IN, "sample": SAMPLE, "out": OUT}.items():
        figures[name] = measured(MEASURE.format(work=work), tmp_path)
    for folder in ("in", "out"):
        figures[f"transformers, {folder}"] = measured(THEIRS.format(folder=folder), tmp_path)
    print(json.dumps({name: (kib * 1024 / n_bytes, s) for name, (kib, s) in figures.items()}))
    again = load_file(tmp_path / "out/model.safetensors")
    assert all(again[name].tobytes() == array.tobytes() for name, array in arrays.items())
    assert all(figures[name][0] * 1024 <= 2.5 * n_bytes for name in ("in", "sample", "out"))


def measured(program, cwd):
    """KiB at most above what importing took, and seconds, of a fresh process."""
    path = os.pathsep.join(sys.path)
    env = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    env.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    done = subprocess.run(
        [sys.executable, "-c", PEAK + program], cwd=cwd, env=env, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    kib, seconds = done.stdout.split()[-2:]
    return int(kib), float(seconds)
