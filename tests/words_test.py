"""Words as tokens: skip-gram's pairs, and an analogy found in a text that is known to hold it."""

import itertools

import numpy as np
import pytest

from gptjax.config import files as config_file
from gptjax.config import parse as gptjax_config
from gptjax.data import batching as batches
from gptjax.evaluation import embeddings as neighbours
from gptjax.training import experiment
from gptjax.training import scan as steps

ROLES = {
    ("king", "queen"): ("crown", "throne", "palace"),
    ("man", "woman"): ("street", "work", "house"),
    ("prince", "princess"): ("pony", "castle", "tutor"),
    ("boy", "girl"): ("school", "toys", "sweets"),
}
SEXES = (("he", "his", "beard"), ("she", "her", "gown"))


def text_with_known_relations():
    """Every word with what belongs to its role and what to its sex, in every order, a line each."""
    lines = []
    for pair, belongs in ROLES.items():
        for word, signs in zip(pair, SEXES, strict=True):
            for other in itertools.product(belongs, signs):
                lines += [" ".join(order) for order in itertools.permutations((word, *other))]
    return "\n".join(lines) + "\n"


def settings(tmp_path, name="word2vec", **fields):
    path = tmp_path / "text.txt"
    path.write_text(text_with_known_relations(), encoding="utf-8")
    config = config_file.load(name)
    config.data.update(path=str(path), kind="items")
    config.tokenizer.min_count = 1
    for field, value in fields.items():
        part, _, leaf = field.partition("__")
        config[part][leaf] = value
    return gptjax_config.from_dict(config)


def test_pairs_are_all_neighbours_on_both_sides():
    rows = batches.pair_rows(np.array([5, 6, 7, 8]), neighbours=2)
    pairs = sorted(map(tuple, rows.counted.tolist()))
    near = [(5, 6), (6, 7), (7, 8), (5, 7), (6, 8)]
    assert pairs == sorted(near + [(b, a) for a, b in near])
    assert rows.n_predicted == 10 and rows.paired
    (whole,) = batches.whole_split(rows, batch_size=3, n=4)
    found = zip(whole.x[whole.w > 0].tolist(), whole.y[whole.w > 0].tolist(), strict=True)
    assert sorted(found) == pairs, "what is between two pairs is no pair"


@pytest.mark.parametrize("far", [1, 3, 50])
def test_no_pair_holds_or_spans_the_end_of_an_item(far):
    tokens = np.array([0, 1, 2, 0, 3, 0, 4, 5, 6, 0])
    pairs = batches.pair_rows(tokens, far, end_id=0).counted.tolist()
    items = [{1, 2}, {3}, {4, 5, 6}]
    assert pairs and all(any({a, b} <= item for item in items) for a, b in pairs)
    assert all(a != b for a, b in pairs)


def test_white_space_marks_and_unknown_words_are_passed_over(tmp_path):
    config = settings(tmp_path, data__kind="stream", tokenizer__min_count=40)
    exp = experiment.build(config)
    seen = {exp.tokenizer.token_text(i) for i in np.unique(exp.rows["train"].counted)}
    assert "king" in seen and "crown" not in seen  # 54 and 36 times
    assert all(word.isalpha() for word in seen)


def test_king_minus_man_plus_woman_is_queen(tmp_path):
    """Trained by the product's own step; every analogy of the text has its answer."""
    config = settings(
        tmp_path, train__steps=300, train__batch_size=256, model__n_embd=12, optim__warmup_steps=0
    )
    exp = experiment.build(config)
    batch = exp.train_batches(0, 300, 300)
    state, seen = exp.train_chunk(exp.init_state(), batch, 300, exp.dropout_key)
    assert seen.loss_nats[-1] < seen.loss_nats[0] - 1
    table = np.asarray(state.params["token_embedding_table"]["embedding"])
    (king, queen, man, woman, prince, princess, boy, girl) = (
        int(exp.tokenizer.encode(word)[0]) for pair in ROLES for word in pair
    )
    words = range(1, exp.tokenizer.vocab_size)
    for a, b, c, answer in (
        (man, king, woman, queen),
        (woman, queen, man, king),
        (boy, prince, girl, princess),
        (king, prince, queen, princess),
    ):
        direction = neighbours.analogy(table, a, b, c)
        among = [i for i in words if i not in (a, b, c)]
        assert neighbours.nearest(table, direction, 1, among)[0][0] == answer


def test_a_word_that_has_no_neighbour_in_reach_is_said_so(tmp_path):
    path = tmp_path / "marks.txt"
    path.write_text("! ? word ! ?\n" * 20, encoding="utf-8")
    config = config_file.load("word2vec")
    config.data.update(path=str(path), kind="items")
    config.tokenizer.min_count = 1
    with pytest.raises(ValueError, match=r"distinct items|two words within"):
        experiment.build(gptjax_config.from_dict(config))
    path.write_text("a !\nb !\nc !\nd !\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no two words within train.neighbours=3"):
        experiment.build(gptjax_config.from_dict(config))


def test_a_model_of_words_trains_on_any_text(tmp_path):
    small = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4}
    config = settings(
        tmp_path,
        "words",
        **{f"model__{name}": value for name, value in small.items()},
        train__steps=20,
        train__batch_size=7,
    )
    exp = experiment.build(config)
    batch = exp.train_batches(0, 20, 20)
    state, seen = exp.train_chunk(exp.init_state(), batch, 20, exp.dropout_key)
    assert seen.loss_nats[-1] < seen.loss_nats[0]
    assert exp.tokenizer.decode(exp.tokenizer.encode("king throne")) == "king throne"
    assert steps.first_nonfinite(state.params) == ""
