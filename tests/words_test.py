"""Words as tokens: an analogy is found in a text that is known to hold it, and words are learnt."""

import itertools

import numpy as np

from gptjax.config import files
from gptjax.config.parse import from_dict
from gptjax.evaluation import embeddings
from gptjax.training import experiment
from gptjax.training.nonfinite import first_nonfinite

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
    config = files.load(name)
    config.data.update(path=str(path), kind="items")
    config.tokenizer.min_count = 1
    for field, value in fields.items():
        part, _, leaf = field.partition("__")
        config[part][leaf] = value
    return from_dict(config)


def train(exp):
    """The state and the metrics after all steps, in one compiled loop."""
    n = exp.config.train.steps
    batches, rates = exp.chunk_inputs(0, n)
    return exp.train_chunk(exp.init_state(), batches, rates, n, exp.dropout_key)


def test_king_minus_man_plus_woman_is_queen(tmp_path):
    """Trained by the product's own step; every analogy of the text has its answer."""
    sizes = {"train__batch_size": 256, "model__n_embd": 12, "optim__warmup_steps": 0}
    config = settings(tmp_path, train__steps=300, train__chunk_steps=300, **sizes)
    exp = experiment.build(config)
    state, seen = train(exp)
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
        direction = embeddings.analogy(table, a, b, c)
        among = [i for i in words if i not in (a, b, c)]
        assert embeddings.nearest(table, direction, 1, among)[0][0] == answer


def test_a_model_of_words_trains_on_any_text(tmp_path):
    small = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4}
    config = settings(
        tmp_path,
        "words",
        **{f"model__{name}": value for name, value in small.items()},
        train__steps=20,
        train__chunk_steps=20,
        train__batch_size=7,
    )
    exp = experiment.build(config)
    state, seen = train(exp)
    assert seen.loss_nats[-1] < seen.loss_nats[0]
    assert exp.tokenizer.decode(exp.tokenizer.encode("king throne")) == "king throne"
    assert first_nonfinite(state.params) == ""
