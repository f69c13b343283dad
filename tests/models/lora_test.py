"""LoRA's products, added into the kernels, are the layers with a detour beside them.

C channels, H heads, K head size, V vocabulary, R rank: all different.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax import models
from gptjax.checkpoints import pytree
from gptjax.config.schema import ModelConfig
from gptjax.errors import UserError
from gptjax.models import lora

C, H, K, T, V, R, ALPHA = 12, 3, 4, 7, 11, 2, 5.0
X = np.random.default_rng(3).integers(0, V, (5, T))


def config(targets, kind="gpt", **more):
    sizes = {"block_size": T, "n_layer": 2, "n_embd": C, "n_head": H, "n_hidden": 17}
    how = {"lora_rank": R, "lora_targets": targets, "lora_alpha": ALPHA}
    return ModelConfig(kind, **sizes | how | more)


def begun(random_params, c):
    """A model, and its parameters with fresh adapters beside them."""
    model = models.build(c, V, V - 1)
    return model, lora.begin(random_params(model, X), c, jax.random.key(4))


def learnt(params):
    """The parameters with all adapters random, as after some steps."""
    rng = np.random.default_rng(6)

    def random(leaf):
        return rng.normal(0, 0.4, leaf.shape).astype(np.float32)

    return params | {lora.NAME: jax.tree.map(random, params[lora.NAME])}


@pytest.mark.parametrize("kind, targets", [("gpt", "query,sa/proj,fc"), ("mlp", "hidden_1")])
def test_fresh_adapters_leave_every_number_of_the_model(kind, targets, random_params):
    c = config(targets, kind)
    model, params = begun(random_params, c)
    base = {name: leaf for name, leaf in params.items() if name != lora.NAME}
    chex.assert_trees_all_equal(lora.merge(params, c), base)
    moved = model.apply({"params": lora.merge(learnt(params), c)}, X)
    assert np.abs(moved - model.apply({"params": base}, X)).max() > 0.01, "they do count"


@pytest.mark.parametrize(
    "kind, targets",
    [("gpt", "fc,ffwd/proj,lm_head"), ("gpt", "blocks_1/sa/proj"), ("head", "query,value,lm_head")],
)
def test_merged_into_the_kernels_or_computed_beside_them_is_the_same(kind, targets, random_params):
    c = config(targets, kind)
    model, params = begun(random_params, c)
    params, seen = learnt(params), set()
    pairs = pytree.flat(params[lora.NAME])

    def beside(call, args, kwargs, context):
        out, path = call(*args, **kwargs), "/".join(context.module.path)
        if context.method_name == "__call__" and f"{path}/a" in pairs:
            seen.add(path)
            out = out + ALPHA / R * ((args[0] @ pairs[f"{path}/a"]) @ pairs[f"{path}/b"])
        return out

    base = {name: leaf for name, leaf in params.items() if name != lora.NAME}
    with nn.intercept_methods(beside):
        expected = model.apply({"params": base}, X)
    assert len(seen) == len(pairs) // 2 > 0
    np.testing.assert_allclose(
        model.apply({"params": lora.merge(params, c)}, X), expected, atol=1e-5
    )


def test_of_stacked_heads_the_rank_is_that_of_the_whole_product(random_params):
    c = config("query,value")
    _, params = begun(random_params, c)
    params = learnt(params)
    merged, base = pytree.flat(lora.merge(params, c)), pytree.flat(params)
    changed = [p for p, leaf in merged.items() if not np.array_equal(leaf, base[p])]
    heads = [f"blocks_{i}/sa/heads/{name}/kernel" for i in (0, 1) for name in ("query", "value")]
    assert changed == sorted(heads, key=list(merged).index)
    for path in changed:
        moved_HxCxK = np.asarray(merged[path]) - base[path]
        assert moved_HxCxK.shape == (H, C, K)
        assert np.linalg.matrix_rank(moved_HxCxK.transpose(1, 0, 2).reshape(C, -1), tol=1e-4) == R
        pair = (base[f"{lora.NAME}/{path.removesuffix('/kernel')}/{name}"] for name in "ab")
        a, b = pair
        assert a.shape == (C, R) and b.shape == (H, R, K)
        for h in range(H):
            np.testing.assert_allclose(moved_HxCxK[h], ALPHA / R * a @ b[h], atol=1e-5)


def test_fresh_adapters_are_drawn_once_each_and_as_wide_as_their_inputs():
    wide = {"params": {"fc": {"kernel": jnp.zeros((400, 30))}, "up": {"kernel": jnp.zeros((9, 5))}}}
    c = config("fc,up", lora_rank=5)
    made = pytree.flat(lora.adapters(wide["params"], c, jax.random.key(0)))
    assert {name: leaf.shape for name, leaf in made.items()} == {
        "fc/a": (400, 5),
        "fc/b": (5, 30),
        "up/a": (9, 5),
        "up/b": (5, 5),
    }
    assert 0.045 < made["fc/a"].std() < 0.055  # 1/20
    assert not made["fc/b"].any() and not np.isclose(made["fc/a"][:9], made["up/a"]).any()


PATHS = ["blocks_0/ffwd/fc/kernel", "blocks_0/ln1/scale", "blocks_3/ffwd/fc/bias"]
PATHS += ["blocks_3/sa/proj/kernel", "blocks_12/ffwd/proj/kernel", "ln_f/scale", "lm_head/kernel"]


@pytest.mark.parametrize(
    "names, called",
    [
        ("lm_head", [6]),
        ("blocks_3", [2, 3]),
        ("blocks_3/ffwd", [2]),
        ("blocks_1", None),
        ("ln_*", [5]),
        ("ln*", [1, 5]),
        ("blocks_*/ffwd, lm_head,", [0, 2, 4, 6]),
        ("ffwd/proj", [4]),
        ("/ffwd/fc/", [0, 2]),
        ("proj", [3, 4]),
        ("blocks_?/*/fc", [0, 2]),
        ("bias", [2]),
        ("ffwd/lm_head", None),
        ("lm_hea", None),
        ("", []),
    ],
)
def test_names_call_parts_of_paths(names, called):
    if called is None:
        with pytest.raises(UserError, match="train.trainable: .* names no parameter here"):
            lora.find(PATHS, names, "train.trainable")
    else:
        assert lora.find(PATHS, names, "train.trainable") == {PATHS[i] for i in called}


def test_a_name_of_none_is_told_what_there_is():
    with pytest.raises(UserError) as refused:
        lora.find(PATHS, "ffwd,ffdw", "model.lora_targets")
    line = str(refused.value)
    assert "'ffdw'" in line and "did you mean 'ffwd'" in line and "blocks_0 to blocks_12" in line


@pytest.mark.parametrize(
    "targets, rank, line",
    [
        ("ln1", R, "'ln1' names no parameter here"),  # it has no kernel
        ("query", C + 1, f"model.lora_rank={C + 1} is more than the {C} that blocks_0/sa"),
    ],
)
def test_what_no_adapter_can_be_is_refused(targets, rank, line, random_params):
    with pytest.raises(UserError, match=line):
        begun(random_params, config(targets, lora_rank=rank))
