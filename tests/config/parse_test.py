"""A config survives JSON; a wrong value is one line that names the field and the way out."""

import dataclasses
import json
import typing

import numpy as np
import pytest
from ml_collections import ConfigDict

from gptjax.config import parse as gptjax_config
from gptjax.config.parse import Config, differences, fields, from_dict, to_dict
from gptjax.errors import UserError

# A value other than the default, for every field that does not take any.
OTHER = {
    "data.name": "names",
    "data.kind": "items",
    "data.split": "makemore",
    "tokenizer.kind": "word",
    "model.kind": "mlp",
    "model.n_embd": 256,
    "model.n_head": 8,
    "model.activation": "gelu",
    "optim.name": "sgd",
    "optim.schedule": "constant",
    "optim.beta2": 0.5,
    "checkpoint.on_full_disk": "continue",
    "expected": {"names": (1.5, 2.25)},
}
# What a field's other value is possible with.
WITH = {"tokenizer.min_count": {"tokenizer.kind": "word"}}


def nested(flat):
    """{"a.b": 1} as {"a": {"b": 1}}."""
    tree = {}
    for path, value in flat.items():
        *parts, last = path.split(".")
        at = tree
        for part in parts:
            at = at.setdefault(part, {})
        at[last] = value
    return tree


def other(field):
    """A value that a field does not have by default."""
    if field.path in OTHER:
        return OTHER[field.path]
    if field.type in (int, float):
        return field.value + 1 if field.type is int else field.value * 0.5 + 0.25
    return not field.value if field.type is bool else field.value + "x"


# ---- to and fro -------------------------------------------------------------------------------


@pytest.mark.parametrize("band", [("a", "b"), (None, 2.0), ([1], [2]), (True, 2), (2.0, 1.0)])
def test_a_band_is_two_numbers_in_order(band):
    with pytest.raises(UserError, match="must be .low, high. nats"):
        from_dict({"expected": {"shakespeare": band}})


def test_a_number_that_numpy_computed_is_a_number():
    found = from_dict({"optim": {"learning_rate": np.float64(0.5)}}).optim.learning_rate
    assert type(found) is float and found == 0.5


def test_the_base_is_every_default():
    assert from_dict(gptjax_config.base()) == Config() == from_dict({})


@pytest.mark.parametrize("field", list(fields(Config())), ids=lambda field: field.path)
def test_json_gives_the_same_config_back(field):
    config = from_dict(nested({field.path: other(field)} | WITH.get(field.path, {})))
    assert other(field) in [f.value for f in fields(config) if f.path == field.path]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config != Config()


def test_a_whole_number_is_a_float_where_one_is_wanted():
    rate = from_dict({"optim": {"learning_rate": 1}}).optim.learning_rate
    assert rate == 1 and type(rate) is float


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


def test_a_misspelt_field_of_the_base_is_an_error_at_once():
    config = gptjax_config.base()
    with pytest.raises(AttributeError, match="n_layer"):
        config.model.n_layers = 2
    with pytest.raises(TypeError):
        config.model.n_layer = "two"
    config.model.n_layer = 2
    assert from_dict(config).model.n_layer == 2


def test_differences_name_each_field_with_both_values():
    ours, theirs = from_dict({"model": {"n_layer": 2}, "train": {"steps": 5}}), Config()
    assert differences(ours, theirs) == ["model.n_layer: 4 -> 2", "train.steps: 2000 -> 5"]
    assert differences(ours, theirs, ignore=("train.steps",)) == ["model.n_layer: 4 -> 2"]
    assert differences(ours, theirs, ignore=("model",)) == ["train.steps: 2000 -> 5"]
    assert differences(ours, ours) == differences(Config(), from_dict({})) == []


# ---- what is refused --------------------------------------------------------------------------


def refusal(values):
    with pytest.raises(UserError) as caught:
        from_dict(values)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "path, nearest",
    [
        ("model.n_layers", "model.n_layer"),
        ("train.learning_rate", "optim.learning_rate"),
        ("n_embd", "model.n_embd"),
        ("optim.lerning_rate", "optim.learning_rate"),
    ],
)
def test_an_unknown_field_names_the_nearest(path, nearest):
    message = refusal(nested({path: 3}))
    assert message.startswith(f"unknown field {path} (did you mean {nearest}?)")


def test_a_field_like_no_other_is_refused_without_a_guess():
    assert "did you mean" not in refusal({"qqqqqqqq": 1})


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
    message = refusal(nested({path: value}))
    wanted = next(f.type.__name__ for f in fields(Config()) if f.path == path)
    assert message == f"{path}={value!r} is {type(value).__name__}, must be {wanted}"


@pytest.mark.parametrize("part", ["model", "expected"])
def test_a_part_must_hold_fields(part):
    assert part in refusal({part: 3}) and "3" in refusal({part: 3})


@pytest.mark.parametrize("band", [1.5, (1.5,), (2.0, 1.0), (1.0, 1.5, 2.0), "ab"])
def test_a_band_must_be_low_and_high(band):
    assert "expected.names" in refusal({"expected": {"names": band}})


NAN, INF = float("nan"), float("inf")
BAD = [
    *(("seed", value, "2**32") for value in (-1, 2**32)),
    ("model.kind", "lstm", "bigram_embed"),
    *(
        (f"model.{name}", value, "at least 1")
        for name in ("block_size", "n_layer", "n_head", "n_embd", "n_hidden")
        for value in (0, -3)
    ),
    *(("model.dropout", value, "below 1") for value in (1.0, 1.5, -0.1, NAN)),
    ("model.activation", "tanh", "relu or gelu"),
    ("model.n_head", 3, "n_embd=129"),
    ("model.n_head", 200, "n_embd=200"),
    ("optim.name", "adam", "adamw or sgd"),
    ("optim.schedule", "linear", "cosine, constant, step"),
    *(("optim.learning_rate", value, "above 0") for value in (0.0, -1e-3, NAN)),
    *(
        (f"optim.{name}", -1, "not be negative")
        for name in ("warmup_steps", "weight_decay", "clip_norm")
    ),
    *(
        (f"optim.{name}", value, "[0, 1)")
        for name in ("beta1", "beta2")
        for value in (1.0, -0.1, NAN)
    ),
    *(("optim.eps", value, "above 0") for value in (0.0, -1e-8, NAN)),
    *(("optim.final_fraction", value, "[0, 1]") for value in (-0.1, 1.1, NAN)),
    *(
        (f"train.{name}", -1, "not be negative")
        for name in ("steps", "window", "neighbours", "eval_every", "skip_nonfinite")
    ),
    *(
        (f"train.{name}", 0, "at least 1")
        for name in ("batch_size", "accumulate", "eval_iters", "chunk_steps")
    ),
    ("sample.max_new_tokens", -1, "not be negative"),
    ("sample.temperature", -0.5, "not be negative"),
    ("sample.temperature", NAN, "not be negative"),
]


@pytest.mark.parametrize("path, value, way_out", BAD)
def test_a_wrong_value_names_the_field_the_value_and_the_way_out(path, value, way_out):
    wanted = next(f.type for f in fields(Config()) if f.path == path)
    value = wanted(value)
    message = refusal(nested({path: value}))
    assert path in message and str(value) in message and way_out in message


def test_rows_longer_than_the_block_are_only_for_models_that_slide_over_them():
    for kind in ("gpt", "bigram_embed", "head"):
        sizes = {"model": {"kind": kind, "block_size": 8}}
        message = refusal(sizes | {"train": {"window": 9}})
        assert "train.window=9" in message and "model.block_size=8" in message
        assert from_dict(sizes | {"train": {"window": 8}}).train.window == 8
    for kind in ("bigram", "mlp"):
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
    *((f"sample.{name}", 0) for name in ("max_new_tokens", "temperature")),
]


@pytest.mark.parametrize("path, value", GOOD)
def test_a_value_on_the_edge_is_accepted(path, value):
    built = from_dict(nested({path: value}))
    assert next(f.value for f in fields(built) if f.path == path) == value


def test_only_a_gpt_needs_channels_that_its_heads_can_share():
    for kind in ("bigram", "bigram_embed", "mlp"):
        assert from_dict({"model": {"kind": kind, "n_embd": 2, "n_head": 4}}).model.n_embd == 2


def test_a_config_dict_is_taken_as_it_is():
    assert from_dict(ConfigDict({"model": {"n_layer": 3}})).model.n_layer == 3
