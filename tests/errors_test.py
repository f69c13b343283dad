"""The nearest known name is found, and text from strangers cannot move a terminal's cursor."""

import pytest

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


def test_of_two_equal_last_parts_the_first_is_meant():
    assert did_you_mean("kind", ["data.kind", "model.kind"]) == " (did you mean data.kind?)"


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
