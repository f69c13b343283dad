"""Prompts in, texts out: streaming, stop strings, ends, and what a row's text depends on.

The models are small tables, so that what follows what is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptjax import models
from gptjax.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer
from gptjax.errors import UserError
from gptjax.generation import generate as continuation
from gptjax.generation import sampling as samplers
from gptjax.generation.generate import Settings, Watched, continue_rows, row_keys

pytestmark = pytest.mark.usefixtures("quick_compile")

CHARS = CharTokenizer("\n abcdeé😀")
BYTES = ByteTokenizer()
WORDS = WordTokenizer(("\n", " ", "!", "hello", "held", "wörld"))
GREEDY = samplers.build(0)


def cycle(tok, text, chance=0.0):
    """A bigram table in which ``text`` goes round and round; any other token comes by chance."""
    V, ids = tok.vocab_size, tok.encode(text)
    assert len(set(ids.tolist())) == len(ids)
    table = np.zeros((V, V), np.float32)
    table[ids, np.roll(ids, -1)] = 99.0 if not chance else np.log(V / chance)
    model = models.build(models.ModelConfig("bigram"), V)
    return model, {"token_embedding_table": {"embedding": table}}


def generate(tok, text, prompts, chance=0.0, seed=0, on_text=None, num_samples=1, **settings):
    model, params = cycle(tok, text, chance)
    settings = {"max_new_tokens": 20, "sampler": samplers.build(1.0)} | settings
    keys = row_keys(seed, len(prompts), num_samples)
    rows = [prompt for prompt in prompts for _ in range(num_samples)]
    return continue_rows(model, params, tok, rows, keys, Settings(**settings), on_text)


# ---- what is made -----------------------------------------------------------------------------


def test_a_prompt_is_continued_for_as_many_tokens_as_asked():
    (sample,) = generate(CHARS, "abcd", ["ab"], max_new_tokens=5)
    assert (sample.prompt, sample.text, sample.why) == ("ab", "cdabc", "length")
    assert sample.ids == tuple(CHARS.encode("cdabc")) and len(sample.log_probs) == 5
    assert max(map(abs, sample.log_probs)) < 1e-3


def test_an_empty_prompt_begins_behind_a_line_end():
    assert generate(CHARS, "\nbéa", [""], max_new_tokens=3)[0].text == "béa"
    np.testing.assert_array_equal(continuation.prompt_ids(CHARS, "", False), [0])
    np.testing.assert_array_equal(continuation.prompt_ids(CHARS, "ab", False), [2, 3])


def test_characters_of_any_script_go_in_and_come_out():
    for tok in (CHARS, BYTES):
        assert generate(tok, "é😀a", ["aé"], max_new_tokens=11)[0].text[:4] == "😀aé😀"
    sample = generate(WORDS, "wörld!", ["hello wörld"], max_new_tokens=3)[0]
    assert sample.text == "!wörld!"


def test_an_item_begins_and_ends_at_the_end_token():
    a, b = generate(CHARS, "\nabé", ["", "a"], items=True, max_new_tokens=9, sampler=GREEDY)
    assert (a.text, a.why, len(a.ids)) == ("abé", "end", 3)
    assert (b.text, b.why, len(b.ids), len(b.log_probs)) == ("bé", "end", 2, 2)
    short = generate(CHARS, "\nabé", [""], items=True, max_new_tokens=2)[0]
    assert (short.text, short.why) == ("ab", "length")
    np.testing.assert_array_equal(continuation.prompt_ids(CHARS, "ab", True), [0, 2, 3])


def test_prompts_of_different_lengths_stand_in_one_batch():
    made = generate(CHARS, "abcd", ["a", "abcdabcdabcdabcdabc", "", "ad"], max_new_tokens=4)
    assert [s.text for s in (made[0], made[1], made[3])] == ["bcda", "dabc", "abcd"]


# ---- stop strings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stop, text",
    [
        (("da",), "bc"),  # across two tokens
        (("cdab",), "b"),
        (("zz", "dab", "cda"), "b"),  # the first that comes, wherever it stands in the list
        (("dab", "d"), "bc"),
        (("b",), ""),  # at once
        (("aa",), "bcdabcdabcdabcdabcda"),  # never
        (("ab",), "bcd"),  # its first letter in the prompt does not count
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_text_ends_before_the_first_stop_string(stop, text, stream):
    told = []
    on_text = (lambda b, new: told.append(new)) if stream else None
    (sample,) = generate(CHARS, "abcd", ["a"], stop=stop, on_text=on_text)
    assert sample.text == text and sample.why == ("length" if len(text) == 20 else "stop")
    assert sample.ids == tuple(CHARS.encode(text)) and len(sample.log_probs) == len(text)
    assert not stream or "".join(told) == text


def test_a_stop_string_may_end_inside_a_word_and_between_bytes():
    (sample,) = generate(WORDS, "hello!", ["!"], stop=("lo!",), max_new_tokens=8)
    assert sample.text == "hel" and WORDS.decode(sample.ids) == "hello"
    (sample,) = generate(BYTES, "aé€b", ["a"], stop=("€",), max_new_tokens=9)
    assert sample.text == "é" and BYTES.decode(sample.ids) == "é"


def test_each_row_stops_for_its_own_reason():
    made = generate(CHARS, "\nabcde", ["a", "d", ""], items=True, stop=("bc",), max_new_tokens=4)
    assert [(s.text, s.why) for s in made] == [("", "stop"), ("e", "end"), ("a", "stop")]


# ---- streaming --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tok, text, stop",
    [
        (CHARS, "abcdé😀", ()),
        (CHARS, "abcdé😀", ("dé", "bca")),
        (BYTES, "aé€😀", ()),  # 1 + 2 + 3 + 4 bytes, now and then broken off by chance
        (BYTES, "aé€😀", ("€😀a", "é€a", "\ufffd\ufffd\ufffd")),
        (WORDS, "hello!held", ("ohel", "!!")),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_streamed_text_is_the_text(tok, text, stop, seed):
    told = ["", "", ""]

    def on_text(row, new):
        assert new
        told[row] += new

    common = {"chance": 0.3, "seed": seed, "stop": stop, "max_new_tokens": 61}
    prompts = ["", text[0], text[1] + text]
    streamed = generate(tok, text, prompts, on_text=on_text, **common)
    plain = generate(tok, text, prompts, **common)
    assert streamed == plain and told == [s.text for s in plain]
    assert len({s.text for s in plain}) > 1


def test_text_is_told_as_it_is_made():
    told = []
    generate(CHARS, "abcd", ["a"], on_text=lambda row, new: told.append(new), max_new_tokens=40)
    assert len(told) == 40 / continuation.STREAM_TOKENS


@given(
    made=st.lists(st.sampled_from(list("aé€😀".encode()) + [0x80, 0xC3, 0xF0]), max_size=30),
    stop=st.lists(st.sampled_from(["a", "é", "a€", "é😀", "\ufffd", "\ufffda", "aé€"]), max_size=2),
    cuts=st.sets(st.integers(1, 29)),
)
@example(made=list("aé€b".encode()), stop=["é", "aé€"], cuts={3})
@example(made=list("aé€b".encode()), stop=["aé€", "€"], cuts={5})
def test_whatever_bytes_come_and_whenever_one_looks_the_text_is_one(made, stop, cuts):
    def watch(cuts):
        settings, ids = Settings(stop=tuple(stop)), np.array(made, np.int32)
        row = Watched(BYTES, "", ids[:0], settings)
        told = ""
        for end in sorted(c for c in cuts if c < len(made)) + [len(made)]:
            told += row.look(ids[:end], np.zeros(end), end == len(made))
        return told, row.sample()

    told, sample = watch(cuts)
    whole, plain = watch(())
    assert told == sample.text == plain.text == whole
    assert BYTES.decode(sample.ids).startswith(sample.text)
    expected = BYTES.decode(made)
    complete = [(expected.find(s) + len(s), expected.find(s)) for s in stop if s in expected]
    assert sample.text == expected[: min(complete, default=(None, None))[1]]


# ---- what a text depends on -------------------------------------------------------------------

CHANCE = {"chance": 1.0, "max_new_tokens": 30}


def test_the_first_of_four_samples_is_the_only_one_of_one():
    one = generate(CHARS, "abcd", ["a", "bc"], num_samples=1, **CHANCE)
    four = generate(CHARS, "abcd", ["a", "bc"], num_samples=4, **CHANCE)
    assert [four[0], four[4]] == one
    assert len({s.text for s in four}) == 8


def test_a_row_does_not_depend_on_its_company():
    prompts = ["a", "", "dcba", "é", "abcd" * 5, "b", "cc"]
    seven = generate(CHARS, "abcd", prompts, **CHANCE)
    model, params = cycle(CHARS, "abcd", 1.0)
    for b, (prompt, together) in enumerate(zip(prompts, seven, strict=True)):
        settings, key_R = Settings(30, samplers.build(1.0)), row_keys(0, 7, 1)[b : b + 1]
        assert continue_rows(model, params, CHARS, [prompt], key_R, settings) == [together]


def test_many_rows_come_in_groups_and_are_the_same(monkeypatch):
    told = {}
    prompts = ["a", "", "dcba", "é", "abcd" * 5, "b", "cc"]
    together = generate(CHARS, "abcd", prompts, **CHANCE)
    monkeypatch.setattr(continuation, "GROUP_ROWS", 3)

    def on_text(row, new):
        told[row] = told.get(row, "") + new

    assert generate(CHARS, "abcd", prompts, **CHANCE) == together
    assert generate(CHARS, "abcd", prompts, on_text=on_text, **CHANCE) == together
    assert [told[b] for b in range(7)] == [sample.text for sample in together]


def test_keys_are_those_of_seed_prompt_and_number():
    folded = [
        jax.random.fold_in(jax.random.fold_in(jax.random.key(5), i), j)
        for i in range(3)
        for j in range(2)
    ]
    keys = row_keys(np.int64(5), 3, 2)
    assert (jax.random.key_data(keys) == jax.random.key_data(jnp.stack(folded))).all()


def test_a_seed_decides_the_text():
    texts = [generate(CHARS, "abcd", ["a"], seed=seed, **CHANCE)[0].text for seed in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]
    with_key = row_keys(jax.random.key(1), 1, 1)
    model, params = cycle(CHARS, "abcd", 1.0)
    settings = Settings(30, samplers.build(1.0))
    assert continue_rows(model, params, CHARS, ["a"], with_key, settings)[0].text == texts[1]


# ---- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": -4}, "max_new_tokens=-4"),
        ({"window": "half"}, "window='half'"),
        ({"stop": ("ab", "")}, "stop string must not be empty"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(settings, named):
    with pytest.raises(UserError, match=named) as error:
        Settings(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "7"])
def test_a_seed_that_jax_would_take_for_another_is_refused(seed):
    with pytest.raises(UserError, match=f"seed={seed} must be a whole number"):
        row_keys(seed, 1, 1)


def test_no_prompt_at_all_is_refused():
    with pytest.raises(UserError, match="there is no prompt"):
        generate(CHARS, "abcd", [])


def test_an_item_does_not_go_over_a_lines_end():
    tok = CharTokenizer("\nabcd")
    with pytest.raises(UserError, match=r"'ab\\nc' goes over a line's end"):
        generate(tok, "abcd", ["a", "ab\nc"], items=True)


def test_a_prompt_outside_the_vocabulary_is_explained():
    with pytest.raises(UserError, match=r"'ß' \(U\+00DF\) at position 2"):
        generate(CHARS, "abcd", ["a", "abß"])


def test_logits_that_are_not_finite_are_an_error_not_a_character():
    model, params = cycle(CHARS, "abcd")
    params["token_embedding_table"]["embedding"][CHARS.encode("c")] = np.nan
    settings = Settings(3, samplers.build(1.0))
    with pytest.raises(UserError, match="row 1: the logits behind token 4 are not finite"):
        continue_rows(model, params, CHARS, ["d", "aab"], row_keys(0, 2, 1), settings)
