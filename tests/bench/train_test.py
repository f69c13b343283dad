"""The bench of training: the steps are the trainer's, and what is said of them follows."""

import dataclasses
import importlib.util
import types

import jax
import numpy as np
import pytest

from gptjax import models
from gptjax.bench import train
from gptjax.config.schema import ModelConfig
from gptjax.errors import UserError
from gptjax.evaluation.flops import training_flops_per_token

TINY = train.gpt("2/3/12", block_size=5, batch_size=4)
MLP = train.Work(train.MLP, steps=600)


@pytest.fixture(autouse=True)
def little_text(monkeypatch):
    monkeypatch.setattr(train, "N_CHARACTERS", 2000)
    monkeypatch.setattr(train, "N_NAMES", 50)
    train.made_up.cache_clear()
    yield
    train.made_up.cache_clear()


class Timed:
    """A contender whose steps take so many seconds each, in turns."""

    compile_seconds, memory_bytes = 3.5, 2_000_000

    def __init__(self, seconds):
        self.seconds, self.ran = iter(seconds), []

    def run(self, n):
        self.ran.append(n)
        return n * next(self.seconds)


def measure(monkeypatch, work, loops, **how):
    monkeypatch.setattr(train, "contenders", lambda *args: loops)
    monkeypatch.setattr(train, "enough_steps", lambda run: 7)
    return train.measure(work, 3, **how)


def test_figures_follow_from_the_median_of_the_steps(monkeypatch):
    loops = {
        "gptjax float32": Timed([9, 0.2, 0.5, 0.1]),
        "PyTorch eager float32": Timed([9, 0.4, 0.5, 0.4]),  # 2, 1 and 4 times
    }
    peaks = {"float32": 1e9}
    ours, theirs = measure(monkeypatch, TINY, loops, peak_of=peaks)
    assert loops["gptjax float32"].ran == [7] * 4
    ms = {name: pytest.approx(x) for name, x in (("median", 200), ("fastest", 100))}
    assert ours["ms_per_step"] == ms | {"slowest": pytest.approx(500)}
    assert ours["tokens_per_second"] == pytest.approx(4 * 5 / 0.2)
    flops = training_flops_per_token(models.build(TINY.config.model, 65))
    assert ours["flops_per_second"] == pytest.approx(100 * flops)
    assert ours["share_of_peak"] == pytest.approx(100 * flops / 1e9)
    assert ours["times_as_fast"] == {"PyTorch eager float32": pytest.approx(2)}
    assert theirs["times_as_fast"] == {} and "steps" not in ours
    assert (ours["compile_seconds"], ours["memory_bytes"]) == (3.5, 2_000_000)


def test_a_whole_run_is_scaled_from_the_steps_measured(monkeypatch):
    (line,) = measure(monkeypatch, MLP, {"gptjax float32": Timed([9, 1, 2, 3])})
    assert (line["steps"], line["seconds"]) == (600, pytest.approx(1200))
    assert line["tokens_per_second"] == pytest.approx(32 / 2) and line["share_of_peak"] is None


@pytest.mark.parametrize("config", [TINY.config, MLP.config], ids=["gpt", "mlp"])
def test_the_steps_are_those_of_the_trainer(config):
    """Chunk by chunk, whatever is measured at a time: the state after 11 steps is the trainer's."""
    short = dataclasses.replace(config.train, chunk_steps=4)
    ours = train.Ours(dataclasses.replace(config, train=short))
    state, exp = ours.exp.init_state(), ours.exp
    assert ours.compile_seconds > 0
    assert ours.memory_bytes > sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    for n in (1, 6, 4):
        assert ours.run(n) > 0
    assert int(ours.state.step) == ours.done == 11
    # The batches of steps 0, 1 to 4, 5 to 6 and 7 to 10, where the trainer has them.
    for first, n in ((0, 1), (1, 4), (5, 2), (7, 4)):
        state, _ = exp.train_chunk(state, *exp.chunk_inputs(first, n), n, exp.dropout_key)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours.state.params, state.params))


def test_a_mode_sets_the_dtype_of_a_gpt_alone():
    found = train.modes(TINY.config)
    assert {d: c.model.compute_dtype for d, c in found.items()} == {d: d for d in train.MODES}
    table = dataclasses.replace(TINY.config, model=ModelConfig(kind="bigram"))
    assert train.modes(table) == {"float32": table}  # not the same twice


def test_contexts_are_makemores():
    """Each is the block_size tokens up to a place, start tokens where the name begins."""
    model = types.SimpleNamespace(block_size=3, start_id=9)
    x = np.array([[0, 5, 7, 7], [0, 6, 4, 2]])
    w = np.array([[1, 1, 0, 0], [0, 0, 0, 1]])
    seen, next_ = train.contexts(model, train.Batch(x, x + 1, w))
    assert seen.tolist() == [[9, 9, 0], [9, 0, 5], [6, 4, 2]] and next_.tolist() == [1, 6, 3]


def test_as_many_steps_as_take_a_second():
    ran = []

    def run(n):
        ran.append(n)
        return 1.0 * (len(ran) == 1) + n * 0.01  # the first compiles

    assert 50 <= train.enough_steps(run) <= 200
    assert train.enough_steps(lambda n: 3.0 * n) == 1


def test_the_cost_is_a_power_of_a_size(monkeypatch):
    monkeypatch.setattr(train, "COSTS", {"n_embd": (4, 8, 16)})
    monkeypatch.setattr(train, "enough_steps", lambda run: 1)

    class Squared(Timed):
        def __init__(self, config):
            super().__init__([config.model.n_embd**2] * 9)
            self.exp = types.SimpleNamespace(tokens_per_step=64)

    monkeypatch.setattr(train, "Ours", Squared)
    found = train.cost("n_embd", "float32", repeats=2)
    assert found["exponent"] == pytest.approx(2)
    assert [row["tokens_per_second"] for row in found["rows"]] == [4, 1, 0.25]


def test_the_tokens_of_a_step_stay_while_a_size_grows():
    for name, sizes in train.COSTS.items():
        for size in sizes:
            assert train.COST_TOKENS % (train.COST_BASE | {name: size})["block_size"] == 0


def test_models_that_differ_are_not_compared():
    with pytest.raises(UserError, match="not the same model"):
        train._require_equal(TINY, 4.1744, 4.1747)
    with pytest.raises(UserError, match="nan in PyTorch"):
        train._require_equal(TINY, 4.1744, float("nan"))
    train._require_equal(TINY, 4.17440, 4.17445)


def test_a_whole_program_trains_the_bigram(monkeypatch):
    config = dataclasses.replace(train.BIGRAM)
    loops = train.contenders(train.Work(config, steps=3), False, lambda *told: None, print)
    assert loops["gptjax float32"].run(3) > 0.1
    with pytest.raises(RuntimeError, match="nothing_of_the_kind"):
        train.Process(["-c", "import nothing_of_the_kind"]).run(3)


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


@needs_torch
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_twin_has_our_loss_and_learns_as_we_do(dropout):
    """Parameters far from zero, then steps on the same batches: clip, AdamW and decay agree."""
    from gptjax.bench import twin

    work = train.gpt("2/3/12", 5, 4, dropout)
    ours = train.Ours(work.config)
    large = jax.tree.map(
        lambda p: p + 0.3 * np.sin(np.arange(p.size)).reshape(p.shape), ours.state.params
    )
    ours.state = ours.state.replace(params=large)
    ours.first_params = jax.device_get(large)
    exp, batches = ours.exp, [ours.batch(4, step) for step in range(5)]
    loop = twin.GPTLoop(work.config, large, exp.splits["train"].tokens, exp.tokenizer.vocab_size)
    x, y = batches[0].x, batches[0].y
    assert loop.loss(x, y) == pytest.approx(ours.loss(batches[0]), abs=1e-5)
    if dropout:
        return
    ours.run(5)  # its batches are those of steps 0 to 4
    for batch in batches:
        loop.update(batch.x, batch.y)
    ours.first_params = jax.device_get(ours.state.params)
    assert loop.loss(x, y) == pytest.approx(ours.loss(batches[0]), abs=2e-5)


@needs_torch
def test_peers_of_a_gpt_are_four_and_those_that_cannot_compile_are_named(monkeypatch):
    import torch

    def fails(model):
        raise RuntimeError("no compiler\nat all")

    said = []
    monkeypatch.setattr(torch, "compile", fails)
    loops = train.contenders(TINY, True, lambda *told: None, said.append)
    assert [who for who in loops if "PyTorch" in who] == [
        "PyTorch eager float32",
        "PyTorch eager bfloat16",
    ]
    assert len(said) == 2 and "compiled float32 cannot be measured here: no compiler" in said[0]
    assert all(loop.run(2) > 0 for loop in loops.values())


@needs_torch
def test_the_twin_of_the_names_has_our_loss_and_learns():
    loops = train.contenders(MLP, True, lambda *told: None, print)
    loop = loops["PyTorch eager float32"]
    before = loop.loss(loop.x[:50].numpy(), loop.y[:50].numpy())
    assert loop.run(200) > 0
    assert loop.loss(loop.x[:50].numpy(), loop.y[:50].numpy()) < before


@needs_torch
def test_another_model_is_not_measured(monkeypatch):
    from gptjax.bench import twin

    monkeypatch.setattr(twin.GPTLoop, "loss", lambda self, x, y: 4.0)
    with pytest.raises(UserError, match=r"2/3/12.* 4.00000 in PyTorch"):
        train.contenders(TINY, True, lambda *told: None, print)


@needs_torch
def test_the_notes_program_trains_the_table(tmp_path, capsys):
    import torch

    from gptjax.bench import twin

    torch.manual_seed(1)
    (tmp_path / "text.txt").write_text("abc" * 200, encoding="utf-8")
    losses = []
    for steps in (1, 1500):
        twin.notes_bigram(str(tmp_path / "text.txt"), steps, 32, 8)
        losses.append(float(capsys.readouterr().out))
    assert losses[0] > 1 > 2 * losses[1]  # what comes next is certain
