"""The command ``convert``: the same logits on both sides, or one line and nothing written."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil

import gpt2_folders as made
import jax
import numpy as np
import pytest
import tiny_runs
from safetensors.numpy import load_file, save_file

from gptjax import convert, evaluate, look
from gptjax.checkpoints import run as runs
from gptjax.checkpoints import store
from gptjax.cli import main as cli
from gptjax.config.schema import to_dict
from gptjax.data.tokenizers import CharTokenizer
from gptjax.interop import folders, safetensors_files, tokenizer_files
from gptjax.runtime import devices


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of two GPT-2s, the run that was made of one, and runs that were trained."""
    folder = tmp_path_factory.mktemp("world")
    tied, untied = made.config(), made.config(tie_word_embeddings=False, n_layer=1)
    made.write(folder / "tied", tied, made.tensors(tied))
    made.write(folder / "untied", untied, made.tensors(untied, 1))
    folders.write_run(folders.read(folder / "tied"), folder / "converted", "tied")
    text = tiny_runs.write_text(folder)
    short = {"train": {"steps": 3, "eval_every": 3}, "sample": {"max_new_tokens": 0}}
    tiny_runs.fit(tiny_runs.config(text, "gpt", **short), folder / "gpt")
    return folder


@pytest.fixture
def call(world, capsys, monkeypatch):
    """Call the command in the folder of them all: (exit code, stdout, stderr)."""
    monkeypatch.chdir(world)

    def call(*argv, command=convert, **how):
        code = cli.call(command.main, ["convert", *argv], flags=command.FLAGS, **how)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def refused(call, world, words, *argv, **how):
    """One line with these words, code 2, and no file or folder is new or gone."""
    before = sorted(world.rglob("*"))
    code, out, err = call(*argv, **how)
    assert (code, out) == (2, "") and err.count("\n") == 1 and len(err) < 700, out + err
    assert words in err
    assert sorted(world.rglob("*")) == before


def logits(run, ids):
    return np.asarray(jax.jit(run.model.apply)({"params": run.params}, np.asarray(ids)[None])[0])


def read(folder):
    """config.json and the tensors of a folder."""
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return said, load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_in_and_out_again_every_tensor_is_bitwise_the_same(call, world, name, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    assert call(f"--from_hf={name}", f"--workdir={run}")[0] == 0
    code, text, err = call(f"--workdir={run}", f"--to_hf={out}")
    assert (code, err) == (0, "") and str(out) in text
    (said, tensors), (said_again, again) = read(world / name), read(out)
    assert again.keys() == tensors.keys()
    assert all(again[n].tobytes() == a.tobytes() for n, a in tensors.items())
    assert said_again.items() >= said.items()
    assert tokenizer_files.read(out) == tokenizer_files.read(world / name)
    files = {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert {path.name for path in out.iterdir()} == files | {
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_converted_run_has_the_logits_the_text_and_the_loss_of_the_definition(call, world):
    (said, tensors), run = read(world / "tied"), runs.open_run(world / "converted")
    ids = np.random.default_rng(5).integers(0, 23, said["n_positions"])
    expected = made.logits(said, tensors, ids)
    np.testing.assert_allclose(logits(run, ids), expected, atol=1e-5)
    greedy = list(ids[:3])
    for _ in range(8):
        greedy.append(int(made.logits(said, tensors, np.array(greedy))[-1].argmax()))
    prompt = run.tokenizer.decode(ids[:3])
    sample = run.generate(prompt, temperature=0, max_new_tokens=8)[0]
    assert sample.ids == tuple(greedy[3:])
    (world / "letter.txt").write_text(run.tokenizer.decode(ids), encoding="utf-8")
    flags = ["--workdir=converted", "--text_file=letter.txt", "--json"]
    code, out, _ = call(*flags, command=evaluate)
    nats = np.log(np.exp(expected).sum(1)) - expected[range(11), [*ids[1:], 0]]
    assert code == 0 and abs(json.loads(out)["nats_per_token"] - nats[:10].mean()) < 1e-5
    code, out, _ = call("--workdir=converted", "next", prompt, command=look, words="question")
    p = np.exp(expected[2] - np.log(np.exp(expected[2]).sum()))
    assert code == 0 and f"{p.max():.4f}" in out.splitlines()[1]


def test_a_run_of_ours_is_a_gpt2_with_the_same_logits_and_text(call, world, tmp_path):
    run, out = runs.open_run(world / "gpt"), tmp_path / "out"
    assert "bias" in run.params["lm_head"]  # the notes' head, which GPT-2 lacks
    assert call("--workdir=gpt", f"--to_hf={out}")[0] == 0
    said, tensors = read(out)
    assert not said["tie_word_embeddings"] and said["activation_function"] == "relu"
    assert "lm_head.bias" not in tensors and tensors["lm_head.weight"].shape == (8, 6)
    ids = run.tokenizer.encode("abc\nfa")
    np.testing.assert_allclose(logits(run, ids), made.logits(said, tensors, ids), atol=1e-5)
    assert tokenizer_files.read(out).to_json() == run.tokenizer.to_json()
    assert (said["eos_token_id"], said["bos_token_id"]) == (None, run.tokenizer.start_id)
    back = tmp_path / "back"
    assert call(f"--from_hf={out}", f"--workdir={back}")[0] == 0
    again = runs.open_run(back)
    np.testing.assert_allclose(logits(again, ids), logits(run, ids), atol=1e-5)
    assert again.tokenizer == run.tokenizer


def test_the_card_says_what_the_run_knows_and_nothing_else(call, world, tmp_path):
    shutil.copytree(world / "gpt", tmp_path / "gpt")
    figures = json.loads((world / "gpt/summary.json").read_text(encoding="utf-8"))
    figures |= {"final_val_bits_per_character": 3.375, "final_val_bits_per_byte": 3.25}
    (tmp_path / "gpt/summary.json").write_text(json.dumps(figures), encoding="utf-8")
    call(f"--workdir={tmp_path / 'gpt'}", f"--to_hf={tmp_path / 'out'}")
    call("--workdir=converted", f"--to_hf={tmp_path / 'again'}")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    record = json.loads((world / "gpt/run.json").read_text(encoding="utf-8"))
    nats = figures["final_val_nats"]
    assert f"{nats:.4f} nats per token" in card
    assert "3.3750 bits per character, 3.2500 bits per byte" in card
    assert record["data"]["sha256"] in card and f"{record['data']['characters']:,} char" in card
    assert f"parameters {figures['params']:,} |" in card and "from_pretrained('out')" in card
    assert str(world) not in card
    assert card.startswith("---\nlibrary_name: transformers\n") and "step 3 of 3" in card
    converted = (tmp_path / "again/README.md").read_text(encoding="utf-8")
    assert "converted from tied" in converted
    assert not any(word in converted for word in ("corpus", "nats", "sha256", "step"))


def test_a_command_of_the_card_leaves_the_machine_out(world, tmp_path):
    record = {"starts": [{"command": ["/usr/bin/python3", "-X", "a", "-m", "gptjax.train", "b c"]}]}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    facts = folders.model_card.facts(runs.open_run(world / "gpt"), tmp_path)
    assert facts["command"] == "`python -m gptjax.train 'b c'`"
    for starts in ([], [3], [{}], [{"command": 3}], [{"command": ["x"]}], 3):
        (tmp_path / "run.json").write_text(json.dumps({"starts": starts}), encoding="utf-8")
        assert "command" not in folders.model_card.facts(runs.open_run(world / "gpt"), tmp_path)


def test_it_cannot_be_trained_on_where_it_is(call, world):
    train = importlib.import_module("gptjax.train")  # the package's own attribute is the function
    told = {"config": True, "saved": train.saved_config, "command": train}
    way_out = "--init_from=converted --workdir=runs/mine"
    refused(call, world, way_out, "--workdir=converted", **told)
    lock = world / "converted/run.lock"
    lock.touch()  # taken before the checkpoint is read
    argv = ["--config=bigram", "--workdir=converted", f"--config.data.path={world / 'words.txt'}"]
    before = sorted(world.rglob("*"))
    code, _, err = call(*argv, **told)
    assert code == 2 and way_out in err and err.count("\n") == 1
    assert sorted(world.rglob("*")) == before
    assert runs.open_run(world / "converted").step == 0


def test_other_arrangements_of_the_same_tensors_are_read(call, world, tmp_path):
    said, tensors = read(world / "tied")
    table, head = "transformer.wte.weight", "lm_head.weight"
    mask = np.tril(np.ones((1, 1, 11, 11), bool))
    plain = {name.removeprefix("transformer."): a for name, a in tensors.items()}
    masks = {f"h.{i}.attn.bias": mask for i in range(2)}
    masks |= {f"h.{i}.attn.masked_bias": np.full((), -1e4, "f4") for i in range(2)}
    without = {name: a for name, a in tensors.items() if name != table}
    arrangements = {
        "openai": plain | masks,
        "both": tensors | {head: tensors[table]},
        "head": without | {head: tensors[table]},
    }
    expected = folders.read(world / "tied").params
    for name, arrays in arrangements.items():
        folder = made.write(tmp_path / name, said, arrays)
        found = folders.read(folder).params
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[path], expected[path]) for path in expected), name
    half = made.write(tmp_path / "half", said, {n: a.astype("f2") for n, a in tensors.items()})
    for path, array in folders.read(half).params.items():
        expected_half = np.asarray(expected[path]).astype("f2").astype("f4")
        assert np.array_equal(array, expected_half) and array.dtype == np.float32


def test_rows_of_the_table_without_a_token_are_kept_and_stand_for_no_text(call, world, tmp_path):
    said, tensors = read(world / "tied")
    made.write(tmp_path / "padded", said, tensors, n_tokens=19)
    run, out = tmp_path / "run", tmp_path / "out"
    assert call(f"--from_hf={tmp_path / 'padded'}", f"--workdir={run}")[0] == 0
    opened = runs.open_run(run)
    assert opened.tokenizer.vocab_size == opened.model.vocab_size == 23
    assert opened.tokenizer.decode([1, 20, 2, 22]) == opened.tokenizer.decode([1, 2])
    assert opened.generate("abc", max_new_tokens=30)[0].text
    code, text, _ = call(f"--workdir={run}", "next", "abc", command=look, words="question")
    assert code == 0 and "23 of 23 tokens" in text and "<no token 20>" in text
    assert call(f"--workdir={run}", f"--to_hf={out}")[0] == 0
    assert read(out)[0]["vocab_size"] == 23 and tokenizer_files.read(out).vocab_size == 19
    assert all(read(out)[1][name].tobytes() == a.tobytes() for name, a in tensors.items())


def rewrite(folder, arrays=None, config=None, drop=()):
    """Change a folder's tensors and config.json."""
    said, tensors = read(folder)
    tensors = {n: a for n, a in (tensors | (arrays or {})).items() if n not in drop}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(said | (config or {})), encoding="utf-8")


C = "transformer.h.1.ln_1.bias"
HOSTILE = {
    "gone": (shutil.rmtree, "no folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: No such file"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "config.json: Expecting"),
    "a large config": (lambda f: (f / "config.json").write_bytes(b" " * 2**21), "more than"),
    "a deep config": (lambda f: (f / "config.json").write_text("[" * 10**6), "nested too deep"),
    "a llama": (lambda f: rewrite(f, config={"model_type": "llama"}), "model_type='llama'"),
    "more layers": (lambda f: rewrite(f, config={"n_layer": 3}), "lacks transformer.h.2."),
    "fewer layers": (lambda f: rewrite(f, config={"n_layer": 1}), "has also transformer.h.1."),
    "wider": (lambda f: rewrite(f, config={"n_embd": 18}), "has the shape"),
    "huge": (lambda f: rewrite(f, config={"n_embd": 3 * 2**18}), "has the shape"),
    "missing": (lambda f: rewrite(f, drop=[C]), f"lacks {C}: it is not a GPT-2 of n_layer=2"),
    "extra": (lambda f: rewrite(f, {"score.weight": np.zeros(2)}), "has also transformer.score"),
    "int8": (lambda f: rewrite(f, {C: np.zeros(15, np.int8)}), f"{C} has the dtype I8"),
    "float64": (lambda f: rewrite(f, {C: np.zeros(15)}), "F64, and only F32, F16, BF16 are read"),
    "another head": (
        lambda f: rewrite(f, {"lm_head.weight": np.zeros((23, 15), np.float32)}),
        "lm_head.weight differs from transformer.wte.weight",
    ),
    "cut": (lambda f: os.truncate(f / "model.safetensors", 3000), "model.safetensors cannot be"),
    "a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "save_pretrained",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "a larger tokenizer": (
        lambda f: rewrite(f, {"transformer.wte.weight": np.zeros((9, 15), "f4")}, SMALL),
        "has 23 tokens, and the model's table has 9 rows",
    ),
    "a tokenizer bomb": (
        lambda f: (f / "tokenizer.json").write_text('{"model":' * 10**5),
        "tokenizer.json",
    ),
}
SMALL = {"vocab_size": 9}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_one_line_and_nothing_is_written(call, world, name):
    change, words = HOSTILE[name]
    folder = world / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world / "tied", folder)
    change(folder)
    refused(call, world, words, f"--from_hf={folder}", "--workdir=runs/new")


def test_a_folder_that_holds_something_is_never_written_to(call, world):
    refused(call, world, "holds a run", "--from_hf=tied", "--workdir=gpt")
    refused(call, world, "holds a run", "--workdir=converted", "--to_hf=gpt")
    refused(call, world, "holds other files", "--workdir=converted", "--to_hf=tied")
    refused(call, world, "is a file", "--workdir=converted", "--to_hf=words.txt")
    refused(call, world, "is a file", "--from_hf=tied", "--workdir=words.txt")


def test_wrong_flags_are_one_line(call, world):
    both = "give --from_hf=FOLDER (a GPT-2 to read) and --workdir"
    refused(call, world, both, "--workdir=gpt")
    refused(call, world, both, "--from_hf=tied", "--to_hf=x", "--workdir=gpt")
    refused(call, world, both, "--from_hf=tied")
    one = "a folder of Hugging Face's form has one model"
    refused(call, world, one, "--from_hf=tied", "--workdir=x", "--checkpoint=last")
    refused(call, world, "is a URL", "--from_hf=https://hub/gpt2", "--workdir=x")
    refused(call, world, "is a URL", "--from_hf=tied", "--workdir=gs://bucket/x")
    refused(call, world, "holds no checkpoint 7", "--workdir=gpt", "--to_hf=x", "--checkpoint=7")
    refused(call, world, "hf download NAME --local-dir=gpt2", "--from_hf=gpt2", "--workdir=x")


def test_a_model_that_gpt2_cannot_express_is_refused_with_the_reason(call, world):
    config = tiny_runs.config(world / "words.txt", "bigram")
    meta = {"config": to_dict(config), "tokenizer": CharTokenizer("abc").to_json()}
    table = {"token_embedding_table": {"embedding": np.zeros((3, 3), np.float32)}}
    with store.Checkpoints(world / "bigram", config.checkpoint) as checkpoints:
        checkpoints.save(0, {"params": table, "rest": {}}, meta, best=True)
    refused(call, world, "model.kind='bigram' is none that", "--workdir=bigram", "--to_hf=x")


@pytest.mark.parametrize(
    "argv", [("--from_hf=tied", "--workdir=x"), ("--workdir=gpt", "--to_hf=x")]
)
def test_a_full_disk_leaves_nothing(call, world, argv, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_files, "write", full)
    monkeypatch.setattr(store.Checkpoints, "_require_room", full)
    before = sorted(world.rglob("*"))
    code, _, err = call(*argv)
    assert code == 2 and "No space left" in err and err.count("\n") == 1
    assert sorted(world.rglob("*")) == before


def test_a_model_larger_than_the_memory_is_refused(call, world, monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    refused(call, world, "GB of memory, and 0.0 GB are free", "--from_hf=tied", "--workdir=x")
