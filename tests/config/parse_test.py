"""A config survives JSON; an unknown field is one line that names the nearest."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from gptjax import config as exported
from gptjax.config import files
from gptjax.config.parse import base, from_dict, override, settings_of
from gptjax.config.schema import Config, fields, to_dict
from gptjax.errors import UserError

# A value other than the default, for every field that does not take any.
OTHER = {
    "mesh.data": 3,
    "mesh.uneven": "whole",
    "data.name": "names",
    "data.kind": "items",
    "data.split": "makemore",
    "tokenizer.kind": "word",
    "tokenizer.vocab_size": 300,
    "model.kind": "mlp",
    "model.n_embd": 256,
    "model.n_head": 8,
    "model.activation": "gelu",
    "optim.name": "sgd",
    "optim.schedule": "constant",
    "optim.beta2": 0.5,
    "checkpoint.on_full_disk": "continue",
    "model.compute_dtype": "bfloat16",
    "model.storage_dtype": "bfloat16",
    "model.attention": "fused",
    "expected": {"names": (1.5, 2.25)},
}
# What a field's other value is possible with.
WITH = {"tokenizer.min_count": {"tokenizer.kind": "word"}}
WITH |= {"tokenizer.vocab_size": {"tokenizer.kind": "bpe"}}


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


def test_the_settings_of_a_config_make_it_again():
    values = {"expected": {"my.txt": (1, 2)}, "model": {"kind": "mlp"}}
    config = from_dict(values)
    settings = settings_of(config)
    assert from_dict(settings) == config and settings.is_locked
    with pytest.raises(AttributeError, match="n_layer"):
        settings.model.n_layers = 2


# ---- overrides from Python --------------------------------------------------------------------


def test_fields_are_set_by_last_name_or_path_and_those_that_changed_are_told():
    settings = files.load("gpt:small")
    values = {"steps": 7, "n_layer": 2, "model.n_head": 4, "learning_rate": 1, "name": "x"}
    changed = override(settings, values)
    assert changed == ["train.steps", "model.n_layer", "optim.learning_rate", "name"]
    config = from_dict(settings)
    assert (config.train.steps, config.model.n_layer, config.name) == (7, 2, "x")
    assert config.data.name == "shakespeare"  # a field at the top is meant by its bare name


def test_what_a_file_computes_from_an_overridden_field_follows():
    settings = base()
    settings.model.n_hidden = settings.model.get_ref("n_embd") * 3
    override(settings, {"n_embd": 20})
    assert from_dict(settings).model.n_hidden == 60


def test_a_config_dict_of_a_few_fields_takes_others_too():
    settings = ConfigDict({"seed": 3})
    assert override(settings, {"steps": 5}) == ["train.steps"]
    assert from_dict(settings) == from_dict({"seed": 3, "train": {"steps": 5}})


@pytest.mark.parametrize(
    "values, named",
    [
        ({"kind": "gpt"}, ["called kind", "data.kind", "tokenizer.kind", '**{"model.kind": ...}']),
        ({"n_layers": 2}, ["unknown field n_layers", "did you mean model.n_layer?"]),
        ({"lr": 1e-3}, ["unknown field lr", "here it is optim.learning_rate"]),
        ({"out_dir": "x"}, ["unknown field out_dir", "here it is workdir"]),
        ({"zzz": 1}, ["unknown field zzz; ", "--help"]),
        ({"model": {"n_layer": 3}}, ["unknown field model"]),
        ({"steps": "7"}, ["train.steps='7'", "must be int"]),
        ({"steps": 5, "train.steps": 6}, ["train.steps is given twice"]),
    ],
)
def test_an_override_that_means_nothing_is_one_line(values, named):
    with pytest.raises(UserError) as caught:
        override(base(), values)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in named), message


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
