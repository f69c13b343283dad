"""A config survives JSON; an unknown field is one line that names the nearest."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from gptjax import config as exported
from gptjax.config.parse import base, from_dict
from gptjax.config.schema import Config, fields, to_dict
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


def test_a_number_that_numpy_computed_is_a_number():
    found = from_dict({"optim": {"learning_rate": np.float64(0.5)}}).optim.learning_rate
    assert type(found) is float and found == 0.5


def test_the_base_is_every_default():
    assert from_dict(base()) == Config() == from_dict({})
    # What users' config files call.
    assert exported.base is base and exported.ConfigDict is ConfigDict


@pytest.mark.parametrize("field", list(fields(Config())), ids=lambda field: field.path)
def test_json_gives_the_same_config_back(field):
    config = from_dict(nested({field.path: other(field)} | WITH.get(field.path, {})))
    assert other(field) in [f.value for f in fields(config) if f.path == field.path]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config != Config()


def test_a_whole_number_is_a_float_where_one_is_wanted():
    rate = from_dict({"optim": {"learning_rate": 1}}).optim.learning_rate
    assert rate == 1 and type(rate) is float


def test_a_config_dict_is_taken_as_it_is():
    assert from_dict(ConfigDict({"model": {"n_layer": 3}})).model.n_layer == 3


def test_a_misspelt_field_of_the_base_is_an_error_at_once():
    config = base()
    with pytest.raises(AttributeError, match="n_layer"):
        config.model.n_layers = 2
    with pytest.raises(TypeError):
        config.model.n_layer = "two"
    config.model.n_layer = 2
    assert from_dict(config).model.n_layer == 2


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


@pytest.mark.parametrize("part", ["model", "expected"])
def test_a_part_must_hold_fields(part):
    assert part in refusal({part: 3}) and "3" in refusal({part: 3})


@pytest.mark.parametrize(
    "band",
    [
        *(1.5, (1.5,), (2.0, 1.0), (1.0, 1.5, 2.0), "ab"),
        *(("a", "b"), (None, 2.0), ([1], [2]), (True, 2)),
    ],
)
def test_a_band_must_be_low_and_high(band):
    message = refusal({"expected": {"names": band}})
    assert "expected.names must be (low, high) nats" in message
