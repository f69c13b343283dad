"""The nearest known name is found, and text from strangers cannot move a terminal's cursor."""

import pytest

from gptjax.config.parse import PATHS
from gptjax.errors import UserError, did_you_mean, harmless

FIELDS = ["model.n_layer", "model.n_embd", "optim.learning_rate", "seed", "train.steps"]


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("model.n_layers", "model.n_layer"),
        ("N_EMBD", "model.n_embd"),
        ("train.learning_rate", "optim.learning_rate"),  # its last part is right
        ("sed", "seed"),
        ("model.steps", "train.steps"),
    ],
)
def test_the_nearest_name_is_asked_for(name, nearest):
    assert did_you_mean(name, FIELDS) == f" (did you mean {nearest}?)"
    assert did_you_mean(name, iter(FIELDS), repr) == f" (did you mean {nearest!r}?)"


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("n_layers", "model.n_layer"),
        ("n-layer", "model.n_layer"),
        ("learning_rte", "optim.learning_rate"),
        ("blocksize", "model.block_size"),
        ("droput", "model.dropout"),
        ("batchsize", "train.batch_size"),
        ("batch-size", "train.batch_size"),
        ("temprature", "sample.temperature"),
        ("sede", "seed"),
        ("tokenizer.knd", "tokenizer.kind"),
    ],
)
def test_a_slip_of_the_fingers_is_understood_in_every_place(name, nearest):
    assert did_you_mean(name, PATHS) == f" (did you mean {nearest}?)"
    flags = [f"--config.{path}" for path in PATHS]
    assert did_you_mean(f"--{name}", flags) == f" (did you mean --config.{nearest}?)"
    assert did_you_mean(f"--config.{name}", flags) == f" (did you mean --config.{nearest}?)"


FAR = ["lr", "dtype", "qqqq", "device", "model.dtype", "train.lora"]
FAR += ["epochs", "max_iters", "workers"]


@pytest.mark.parametrize("name", FAR)
def test_where_nothing_is_near_nothing_is_guessed(name):
    known = [*PATHS, *(f"--config.{path}" for path in PATHS), "--workdir", "--top_k", "--stop"]
    for written in (name, f"--{name}", f"--config.{name}"):
        assert did_you_mean(written, known) == ""


def test_of_equal_last_parts_the_path_that_is_most_alike_is_meant():
    assert did_you_mean("kind", ["data.kind", "model.kind"]) == " (did you mean data.kind?)"
    assert did_you_mean("modl.kind", ["data.kind", "model.kind"]) == " (did you mean model.kind?)"
    assert did_you_mean("mr.", ["Mr.", "Mrs."]) == " (did you mean Mr.?)"  # a token of a text


def test_a_flag_is_near_to_a_field_without_its_dashes():
    known = ["--config.model.n_layer", "--workdir"]
    assert did_you_mean("--n_layer", known) == " (did you mean --config.model.n_layer?)"


@pytest.mark.parametrize("name", ["", "qqqqqqq", "."])
def test_a_name_like_no_other_has_no_nearest(name):
    assert did_you_mean(name, FIELDS) == ""
    assert did_you_mean(name, []) == ""


def test_a_users_mistake_is_a_value_error():
    assert issubclass(UserError, ValueError)


def test_text_is_harmless_and_still_readable():
    assert harmless("a\x1b[2Jb\u202ec\rd\x07") == "a\\x1b[2Jb\\u202ec\\rd\\x07"
    kept = "naïve नमस्\u200dते\n\xa0\u3000\u200c😀"
    assert harmless(kept) == kept
    assert harmless("a\tb") == "a   b"
