"""The table of parameters and the config, both ways, by GPT-2's definition in numpy."""

import gpt2_folders as made
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.checkpoints import pytree
from gptjax.config.schema import MODELS, ModelConfig
from gptjax.errors import UserError
from gptjax.interop import gpt2
from gptjax.interop.gpt2 import Family

SHAPES = {
    "tied": made.config(),
    "untied": made.config(tie_word_embeddings=False, activation_function="relu", n_layer=1),
    "one head": made.config(n_head=1, activation_function="gelu", n_embd=7),
    "one token": made.config(vocab_size=1, activation_function="gelu_pytorch_tanh"),
}


def ours(said, arrays):
    """Our model of a folder's content, and its parameters."""
    family = gpt2.read_config(said)
    params = {}
    for name, shape, paths, layout in family.rows():
        assert arrays[name].shape == shape
        parts = gpt2.split(arrays[name], layout, family.config.n_head)
        shapes = {gpt2.our_shape(shape, layout, family.config.n_head)}
        assert {part.shape for part in parts} == shapes
        params |= zip(paths, parts, strict=True)
    return family, models.build(family.config, family.vocab_size), params


@pytest.mark.parametrize("said", SHAPES.values(), ids=SHAPES)
def test_the_logits_are_those_of_the_definition(said):
    arrays = made.tensors(said)
    family, model, params = ours(said, arrays)
    assert set(arrays) == {name for name, *_ in family.rows()}
    ids = np.random.default_rng(1).integers(0, said["vocab_size"], said["n_positions"])
    found = jax.jit(model.apply)({"params": pytree.nested(params)}, ids[None])[0]
    expected = made.logits(said, arrays, ids)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("said", SHAPES.values(), ids=SHAPES)
def test_out_again_each_tensor_is_bitwise_the_one_that_came_in(said):
    arrays = made.tensors(said)
    family, model, params = ours(said, arrays)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    shapes = {name: leaf.shape for name, leaf in pytree.flat(like).items()}
    assert {name: array.shape for name, array in params.items()} == shapes
    again, params = gpt2.in_family(family.config, family.vocab_size, params)
    out = {tensor.name: tensor for tensor in gpt2.tensors(again, params)}
    assert out.keys() == arrays.keys()
    for name, tensor in out.items():
        array = tensor.make()
        assert array.shape == tensor.shape == arrays[name].shape
        assert array.tobytes() == arrays[name].tobytes()


NOTES = {"kind": "gpt", "block_size": 9, "n_layer": 2, "n_head": 3, "n_embd": 12}


@pytest.mark.parametrize(
    "changes",
    [
        {},  # the notes': ReLU, no bias of q, k, v, an untied head with a bias
        {"qkv_bias": True, "activation": "gelu"},
        {"lm_head_bias": False, "activation": "gelu_tanh"},
        {"tie_lm_head": True},
        {"attention": "blocks", "scan_layers": True, "pad_vocab": 8},
    ],
    ids=str,
)
def test_each_gpt_of_ours_has_the_same_logits_as_a_gpt2(changes, random_params):
    config, V = ModelConfig(**NOTES, **changes), 17
    model = models.build(config, V)
    x = np.random.default_rng(2).integers(0, V, (1, config.block_size))
    params = random_params(model, x)
    family, theirs = gpt2.in_family(config, V, pytree.flat(params))
    arrays = {tensor.name: tensor.make() for tensor in gpt2.tensors(family, theirs)}
    said = gpt2.write_config(family, 0, None)
    assert gpt2.read_config(said).vocab_size == V
    expected = made.logits(said, arrays, x[0])
    found = jax.jit(model.apply)({"params": params}, x)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_config_comes_back_as_it_was():
    for said in SHAPES.values():
        family = gpt2.read_config(said)
        out = gpt2.write_config(family, 3, 4)
        same = said | {"activation_function": out["activation_function"]}
        assert out.items() >= same.items() and out["eos_token_id"] == 4
        assert gpt2.read_config(out) == family and family.notes == ()


def test_what_config_json_leaves_out_is_what_transformers_takes():
    family = gpt2.read_config({"model_type": "gpt2"})
    c = family.config
    assert (family.vocab_size, c.block_size, c.n_layer, c.n_head, c.n_embd) == (
        50257,
        1024,
        12,
        12,
        768,
    )
    assert (c.activation, c.tie_lm_head, c.qkv_bias) == ("gelu_tanh", True, True)
    assert len(family.notes) == 1 and "embd_pdrop=0.1" in family.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon='1e-5'"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx=True"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"activation_function": "silu"}, "relu, gelu, gelu_pytorch_tanh, gelu_new"),
        ({"activation_function": ["relu"]}, "is none of"),
        ({"n_inner": 17}, "n_inner=17 is not 4 x n_embd=60"),
        ({"n_layer": 10**9}, "model.n_layer=1000000000"),
        ({"n_layer": 2.0}, "model.n_layer=2.0 is float"),
        ({"n_layer": True}, "must be int"),
        ({"n_embd": "15"}, "model.n_embd='15' is str"),
        ({"n_head": 0}, "model.n_head=0"),
        ({"n_head": 4}, "not divisible"),
        ({"n_positions": -1}, "model.block_size=-1"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"vocab_size": 10**400}, "vocab_size="),
        ({"vocab_size": None}, "vocab_size=None"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'"),
        ({"resid_pdrop": 1.0}, "model.dropout=1.0"),
        ({"resid_pdrop": float("nan")}, "model.dropout=nan"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(changes, words):
    with pytest.raises(UserError) as error:
        gpt2.read_config(made.config(**changes))
    assert words in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("said", [None, [], "gpt2", {}, 3])
def test_what_is_no_config_is_refused(said):
    with pytest.raises(UserError, match="is not gpt2"):
        gpt2.read_config(said)


@pytest.mark.parametrize("kind", sorted(set(MODELS) - {"gpt"}))
def test_other_kinds_are_refused_with_the_reason(kind):
    with pytest.raises(UserError, match=f"model.kind='{kind}' is none that GPT-2's"):
        gpt2.require_expressible(ModelConfig(kind=kind))


def test_the_four_sizes_have_openais_counts():
    sizes = {"124,439,808": (12, 12, 768), "354,823,168": (24, 16, 1024)}
    sizes |= {"774,030,080": (36, 20, 1280), "1,557,611,200": (48, 25, 1600)}
    for count, (n_layer, n_head, n_embd) in sizes.items():
        said = {"model_type": "gpt2", "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
        family = gpt2.read_config(said)
        assert f"{sum(int(np.prod(shape)) for _, shape, *_ in family.rows()):,}" == count
        assert isinstance(family, Family)
