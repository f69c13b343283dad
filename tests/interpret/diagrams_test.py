"""The notes' diagrams: shapes and counts are those of the model, and each line exists."""

import jax
import numpy as np
import pytest

from gptjax import models
from gptjax.checkpoints import pytree
from gptjax.config.schema import Config, ModelConfig, TrainConfig
from gptjax.interpret import diagrams

B, T, C, H, N, V = 5, 7, 12, 3, 2, 11
KINDS = ["bigram", "bigram_embed", "ngram", "mlp", "head", "multihead", "ffwd", "gpt"]


def made(kind, **more):
    """A config, its model and the shapes of its parameters."""
    sizes = {"block_size": T, "n_layer": N, "n_head": H, "n_embd": C, "n_hidden": 13}
    sizes |= {"block_size": 2} if kind == "ngram" else {}
    config = Config(model=ModelConfig(kind, **sizes | more), train=TrainConfig(batch_size=B))
    model = models.build(config.model, V)
    x = np.zeros((1, 1), np.int32)
    return config, model, jax.eval_shape(model.init, jax.random.key(0), x)["params"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [{}, {"tie_lm_head": True, "qkv_bias": True}])
def test_the_counts_add_up_to_the_models(kind, more):
    config, model, params = made(kind, **more if kind == "gpt" else {})
    whole, *inner = diagrams.diagrams(config, model, params)
    assert whole.name == "model" and whole.count == pytree.n_numbers(params) > 0
    for diagram in inner:  # what a box opens holds what the box says
        boxes = [b for d in (whole, *inner) for row in d.rows for b in row]
        (opening,) = [box for box in boxes if box.opens == diagram.name]
        assert diagram.count * opening.times == opening.count > 0


def test_every_parameter_stands_in_one_box():
    config, model, params = made("gpt", qkv_bias=True)
    whole, block, attention = diagrams.diagrams(config, model, params)
    for diagram, prefix in ((block, "blocks_0/"), (attention, "blocks_0/sa/")):
        paths = [path for row in diagram.rows for box in row for path, *_ in box.params]
        every = [p for p, *_ in diagrams.model_rows(params) if p.startswith(prefix)]
        assert sorted(paths) == sorted(every)
    (blocks,) = [box for row in whole.rows for box in row if box.name == "Block"]
    assert blocks.times == N and block.skips == ((0, 3), (3, 7))


def test_the_shapes_are_those_of_a_batch():
    config, model, params = made("gpt")
    whole, block, attention = diagrams.diagrams(config, model, params)

    def box(diagram, name):
        (found,) = [b for row in diagram.rows for b in row if b.name == name]
        return tuple(n for _, n in found.shape)

    def forward(x_BxT):
        of_calls = {"capture_intermediates": True, "mutable": ["params", "intermediates"]}
        return model.init_with_output(jax.random.key(0), x_BxT, **of_calls)

    logits, state = jax.eval_shape(forward, np.zeros((B, T), np.int32))
    inside = state["intermediates"]["blocks_0"]
    assert box(whole, "lm_head") == logits.shape == (B, T, V)
    assert box(whole, "Block") == inside["__call__"][0].shape
    assert box(block, "sa") == inside["sa"]["__call__"][0].shape == (B, T, C)
    # The heads are stacked in front of the batch.
    heads = inside["sa"]["heads"]
    stacked = {"query": heads["query"]["__call__"][0], "out": heads["__call__"][0]}
    stacked["wei"] = heads["wei"][0]
    for name, array in stacked.items():
        n_heads, n_rows, *rest = array.shape
        assert n_heads == H and box(attention, name) == (n_rows, n_heads, *rest)


@pytest.mark.parametrize("what", diagrams._LINES)
def test_the_line_of_a_box_is_there(what):
    file, line, code = diagrams.line_of(what)
    assert file.startswith("gptjax/models/") and line > 1
    assert code.startswith(diagrams._LINES[what][1])


def test_a_line_that_is_gone_is_told():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(diagrams._LINES, "lost", ("gpt.py", "no such line"))
        with pytest.raises(LookupError, match=r"gptjax/models/gpt\.py has no line 'no such line'"):
            diagrams.line_of("lost")
