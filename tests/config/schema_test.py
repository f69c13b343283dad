"""Every setting checks itself; a wrong value is one line that names the field and the way out."""

import dataclasses
import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import pytest

from gptjax import models
from gptjax.config import schema
from gptjax.config.parse import from_dict
from gptjax.config.schema import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TokenizerConfig,
    differences,
    fields,
)
from gptjax.data import corpora, tokenizers
from gptjax.errors import UserError
from gptjax.models import gpt
from gptjax.training import optimizer


def nested(path, value):
    """{"a": {"b": 1}} of "a.b" and 1."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def refusal(values):
    with pytest.raises(UserError) as caught:
        from_dict(values)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- the fields -------------------------------------------------------------------------------


def test_every_field_has_a_type_and_a_meaning():
    listed = list(fields(Config()))
    assert len({f.path for f in listed}) == len(listed) > 30
    for field in listed:
        assert field.meaning and field.type in (int, float, str, bool, dict), field
        assert type(field.value) is field.type, field


def test_a_default_stands_in_one_place_and_cannot_be_moved():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.n_layer = 2
    for part in typing.get_type_hints(Config).values():
        if dataclasses.is_dataclass(part):
            assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(part))


def test_differences_name_each_field_with_both_values():
    ours, theirs = from_dict({"model": {"n_layer": 2}, "train": {"steps": 5}}), Config()
    assert differences(ours, theirs) == ["model.n_layer: 4 -> 2", "train.steps: 2000 -> 5"]
    assert differences(ours, theirs, ignore=("train.steps",)) == ["model.n_layer: 4 -> 2"]
    assert differences(ours, theirs, ignore=("model",)) == ["train.steps: 2000 -> 5"]
    assert differences(ours, ours) == differences(Config(), from_dict({})) == []


def test_a_row_is_as_long_as_the_window_the_item_or_the_block():
    config = from_dict({"model": {"block_size": 9}})
    assert (config.window(items=False), config.window(items=True)) == (9, 0)
    config = from_dict({"model": {"block_size": 9}, "train": {"window": 4}})
    assert config.window(items=False) == config.window(items=True) == 4


def test_a_run_of_neighbours_does_not_learn_what_comes_next():
    assert Config().predicts_next and not from_dict({"train": {"neighbours": 2}}).predicts_next


# ---- what may be chosen is what the engine provides -------------------------------------------


def choices(path):
    """The words that the message of a wrong value lists."""
    return refusal(nested(path, "?")).partition("must be one of ")[2].partition(";")[0].split(", ")


def test_the_known_corpora_are_the_choices():
    assert set(schema.CORPORA) == set(corpora.KNOWN)
    assert choices("data.name") == list(schema.CORPORA)


def test_the_tokenizers_are_the_choices():
    made = [tokenizers.build(TokenizerConfig(kind), "a b\n") for kind in schema.TOKENIZERS]
    assert [tok.to_json()["kind"] for tok in made] == list(schema.TOKENIZERS)
    kinds = tokenizers.Tokenizer.__subclasses__()
    kinds += [sub for kind in kinds for sub in kind.__subclasses__()]
    assert {type(tok) for tok in made} == {kind for kind in kinds if kind.kind}
    assert choices("tokenizer.kind") == list(schema.TOKENIZERS)


MODULES = {
    "bigram": models.BigramLanguageModel,
    "bigram_embed": models.BigramEmbedLanguageModel,
    "ngram": models.NGramLanguageModel,
    "mlp": models.MLPLanguageModel,
    **dict.fromkeys(schema.RUNGS, models.RungLanguageModel),
    "gpt": models.GPTLanguageModel,
}


def test_the_models_are_the_choices():
    assert set(MODULES) == set(schema.MODELS) and len(schema.MODELS) == len(MODULES)
    assert choices("model.kind") == list(schema.MODELS)


@pytest.mark.parametrize("kind", schema.MODELS)
def test_each_model_reads_longer_rows_only_where_the_config_lets_it(kind):
    config = ModelConfig(kind, block_size=3, n_layer=1, n_head=2, n_embd=4, n_hidden=4)
    model = models.build(config, vocab_size=5)
    assert type(model) is MODULES[kind]
    assert model.slides == (kind in schema.SLIDING_MODELS)
    for n_tokens in (3, 7) if model.slides else (3,):
        x_BxT = jnp.zeros((2, n_tokens), jnp.int32)
        logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x_BxT)
        assert logits.shape == (2, n_tokens, 5)


def test_each_rung_is_a_model_of_its_own():
    trees = set()
    for rung in schema.RUNGS:
        model = models.build(ModelConfig(rung, block_size=3, n_head=2, n_embd=4), vocab_size=5)
        assert model.rung == rung
        x_BxT = jnp.zeros((1, 3), jnp.int32)
        trees.add(str(jax.eval_shape(model.init, jax.random.key(0), x_BxT)))
    assert len(trees) == len(schema.RUNGS)


def test_the_activations_are_the_choices():
    assert set(schema.ACTIVATIONS) == set(gpt.ACTIVATIONS)
    assert choices("model.activation") == list(schema.ACTIVATIONS)


def test_each_optimizer_and_schedule_is_one_of_its_own():
    params = {"kernel": jnp.ones((2, 2))}
    states = {str(optimizer.build(OptimConfig(name)).init(params)) for name in schema.OPTIMIZERS}
    assert len(states) == len(schema.OPTIMIZERS)
    rates = [optimizer.schedule(OptimConfig(schedule=word), 10) for word in schema.SCHEDULES]
    curves = {tuple(float(rate(step)) for step in range(10)) for rate in rates}
    assert len(curves) == len(schema.SCHEDULES)
    assert choices("optim.name") == list(schema.OPTIMIZERS)
    assert choices("optim.schedule") == list(schema.SCHEDULES)


@pytest.mark.parametrize("module", ["gptjax.config", "gptjax.config.files"])
def test_reading_a_config_loads_neither_jax_nor_flax(module):
    code = f"import sys, {module}; sys.exit(bool({{'jax', 'flax', 'optax'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, value",
    [
        ("model.n_layer", "2"),
        ("model.n_layer", 2.0),
        ("model.n_layer", True),
        ("model.n_layer", None),
        ("model.dropout", "0.1"),
        ("model.dropout", True),
        ("model.tie_lm_head", 1),
        ("data.name", 3),
        ("seed", 0.5),
    ],
)
def test_a_wrong_type_names_the_field_the_value_and_the_type(path, value):
    message = refusal(nested(path, value))
    wanted = next(f.type.__name__ for f in fields(Config()) if f.path == path)
    assert message == f"{path}={value!r} is {type(value).__name__}, must be {wanted}"


@pytest.mark.parametrize("band", [("a", "b"), (None, 2.0), ([1], [2]), (True, 2), (2.0, 1.0)])
def test_a_band_is_two_numbers_in_order(band):
    with pytest.raises(UserError, match="must be .low, high. nats"):
        Config(expected={"shakespeare": band})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "shakespear"}, "did you mean 'shakespeare'"),
        ({"name": "my.txt"}, "data.path"),
        ({"name": None}, "data.name=None"),
        ({"kind": "lines"}, "data.kind='lines' must be one of auto, stream, items"),
        ({"path": 7}, "data.path=7"),
    ],
)
def test_a_wrong_setting_of_the_data_is_named(fields, says):
    with pytest.raises(UserError, match=says) as error:
        DataConfig(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "chars"}, "did you mean 'char'"),
        ({"kind": 7}, "tokenizer.kind=7"),
        ({"kind": "word", "min_count": 0}, "tokenizer.min_count=0"),
        ({"kind": "word", "min_count": True}, "tokenizer.min_count=True"),
        ({"kind": "word", "min_count": 2.5}, "tokenizer.min_count=2.5"),
        ({"kind": "byte", "min_count": 3}, "must be 1 unless tokenizer.kind='word'"),
    ],
)
def test_a_wrong_setting_of_the_tokenizer_is_named(fields, says):
    with pytest.raises(UserError, match=says) as error:
        TokenizerConfig(**fields)
    assert "\n" not in str(error.value)


NAN, INF = float("nan"), float("inf")
BAD = [
    *(("seed", value, "at most 4,294,967,295") for value in (-1, 2**32)),
    ("model.kind", "lstm", "bigram_embed"),
    *(
        (f"model.{name}", value, "at least 1")
        for name in ("block_size", "n_layer", "n_head", "n_embd", "n_hidden")
        for value in (0, -3)
    ),
    ("model.n_layer", 1001, "at least 1 and at most 1,000"),
    *(
        (f"model.{name}", 2**20 + 1, "at most 1,048,576")
        for name in ("block_size", "n_head", "n_embd", "n_hidden")
    ),
    *(("model.dropout", value, "below 1") for value in (1.0, 1.5, -0.1, NAN)),
    ("model.activation", "tanh", "one of relu, gelu, gelu_tanh"),
    ("model.n_head", 3, "n_embd=129"),
    ("model.n_head", 200, "n_embd=200"),
    ("optim.name", "adam", "one of adamw, sgd (did you mean 'adamw'?)"),
    ("optim.schedule", "linear", "cosine, constant, step"),
    *(
        ("optim.learning_rate", value, "above 0 and at most 1e+38")
        for value in (0.0, -1e-3, NAN, INF, 1e308)
    ),
    *(
        (f"optim.{name}", -1, "at least 0")
        for name in ("warmup_steps", "weight_decay", "clip_norm")
    ),
    *(
        (f"optim.{name}", value, "at least 0 and below 1")
        for name in ("beta1", "beta2")
        for value in (1.0, -0.1, NAN)
    ),
    *(("optim.eps", value, "above 0") for value in (0.0, -1e-8, NAN)),
    *(("optim.final_fraction", value, "at least 0 and at most 1") for value in (-0.1, 1.1, NAN)),
    *(
        (f"train.{name}", -1, "at least 0")
        for name in ("steps", "window", "neighbours", "eval_every", "skip_nonfinite")
    ),
    *(
        (f"train.{name}", 0, "at least 1")
        for name in ("batch_size", "accumulate", "eval_iters", "chunk_steps")
    ),
    *(
        (path, 2**31, "at most 2,147,483,647")
        for path in ("train.steps", "train.accumulate", "optim.warmup_steps", "train.eval_every")
    ),
    ("optim.weight_decay", 1e308, "at most 1e+38"),
    ("sample.max_new_tokens", -1, "at least 0"),
    ("sample.temperature", -0.5, "at least 0"),
    ("sample.temperature", NAN, "at least 0"),
    *(("sample.temperature", value, "at most 1e+38") for value in (INF, 1e300)),
    ("name", "a/b", "the name of a folder"),
]


@pytest.mark.parametrize("path, value, way_out", BAD)
def test_a_wrong_value_names_the_field_the_value_and_the_way_out(path, value, way_out):
    wanted = next(f.type for f in fields(Config()) if f.path == path)
    value = wanted(value)
    message = refusal(nested(path, value))
    assert path in message and str(value) in message and way_out in message


@pytest.mark.parametrize("path", ["name", "why"])
def test_a_title_is_characters_and_not_stray_bytes(path):
    assert "is not UTF-8" in refusal(nested(path, "a\udcff"))


def test_a_message_is_the_field_the_value_and_its_bounds():
    assert refusal(nested("model.n_layer", 0)) == (
        "model.n_layer=0 must be at least 1 and at most 1,000"
    )
    assert refusal(nested("optim.name", "adam")) == (
        "optim.name='adam' must be one of adamw, sgd (did you mean 'adamw'?)"
    )


def test_rows_longer_than_the_block_are_only_for_models_that_slide_over_them():
    for kind in set(schema.MODELS) - set(schema.SLIDING_MODELS):
        sizes = {"model": {"kind": kind, "block_size": 8}}
        message = refusal(sizes | {"train": {"window": 9}})
        assert "train.window=9" in message and "model.block_size=8" in message
        assert from_dict(sizes | {"train": {"window": 8}}).train.window == 8
    for kind in schema.SLIDING_MODELS:
        sizes = {"model": {"kind": kind, "block_size": 8}, "train": {"window": 9}}
        assert from_dict(sizes).train.window == 9


GOOD = [
    *(("seed", value) for value in (0, 2**32 - 1)),
    *((f"model.{name}", 1) for name in ("block_size", "n_layer", "n_head", "n_hidden")),
    *(("model.dropout", value) for value in (0.0, 0.99)),
    *((f"optim.{name}", 0) for name in ("beta1", "beta2", "warmup_steps")),
    *((f"optim.{name}", 0.0) for name in ("weight_decay", "clip_norm", "final_fraction")),
    ("optim.final_fraction", 1.0),
    *((f"train.{name}", 0) for name in ("steps", "window", "eval_every", "skip_nonfinite")),
    *((f"train.{name}", 1) for name in ("batch_size", "accumulate", "eval_iters", "chunk_steps")),
    ("train.steps", 2**31 - 1),
    *((f"sample.{name}", 0) for name in ("max_new_tokens", "temperature")),
]


@pytest.mark.parametrize("path, value", GOOD)
def test_a_value_on_the_edge_is_accepted(path, value):
    built = from_dict(nested(path, value))
    assert next(f.value for f in fields(built) if f.path == path) == value


def test_only_a_gpt_needs_channels_that_its_heads_can_share():
    for kind in ("bigram", "bigram_embed", "mlp", "ngram", "head"):
        assert from_dict({"model": {"kind": kind, "n_embd": 2, "n_head": 4}}).model.n_embd == 2
    for kind in ("multihead", "ffwd", "gpt"):
        assert "try n_embd=4" in refusal({"model": {"kind": kind, "n_embd": 2, "n_head": 4}})
