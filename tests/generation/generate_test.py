"""The notes' ``generate``, and prompts in, texts out: streaming, stop strings, ends, keys.

Most models are small tables, so that what follows what is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.config.schema import MODELS, ModelConfig, SampleConfig
from gptjax.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer
from gptjax.errors import UserError
from gptjax.generation import generate, sampling
from gptjax.generation.generate import Settings, continue_rows, row_keys
from gptjax.runtime import pace

CHARS = CharTokenizer("\n abcdeé😀")
BYTES = ByteTokenizer()
WORDS = WordTokenizer(("\n", " ", "!", "hello", "held", "wörld"))
GREEDY = sampling.build(0)


@pytest.fixture(autouse=True)
def a_machine_of_any_speed(monkeypatch):
    """How much is done at a time depends on sizes alone, and not on how busy the machine is."""
    monkeypatch.setattr(pace, "SECONDS", 1e9)


def cycle(tok, text, chance=0.0):
    """A bigram table in which ``text`` goes round and round; any other token comes by chance."""
    V, ids = tok.vocab_size, tok.encode(text)
    assert len(set(ids.tolist())) == len(ids)
    table = np.zeros((V, V), np.float32)
    table[ids, np.roll(ids, -1)] = 99.0 if not chance else np.log(V / chance)
    model = models.build(ModelConfig("bigram"), V)
    return model, {"token_embedding_table": {"embedding": table}}


def write(tok, text, prompts, chance=0.0, seed=0, on_text=None, num_samples=1, **settings):
    model, params = cycle(tok, text, chance)
    settings = {"max_new_tokens": 20, "sampler": sampling.build(1.0)} | settings
    keys = row_keys(seed, len(prompts), num_samples)
    rows = [prompt for prompt in prompts for _ in range(num_samples)]
    return continue_rows(model, params, tok, rows, keys, Settings(**settings), on_text)


# ---- page 6 -----------------------------------------------------------------------------------

W = 6  # block_size


@pytest.fixture(scope="module")
def small(random_params):
    """A model of any kind with sharp random opinions, over the vocabulary of CHARS."""

    def make(kind):
        sizes = {"block_size": 2 if kind == "ngram" else W, "n_layer": 2, "n_head": 3}
        config = ModelConfig(kind, n_embd=12, n_hidden=7, **sizes)
        model = models.build(config, CHARS.vocab_size, start_id=4)
        return model, random_params(model, np.zeros((1, 1), np.int32))

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_the_plain_loop_of_the_notes_writes_what_is_written_with_a_cache(kind, small):
    model, params = small(kind)
    rng, n = np.random.default_rng(2), W + 4
    # Two prompts shorter than the context and two longer; the rows of a plain batch are as long.
    prompts = [CHARS.decode(rng.integers(0, CHARS.vocab_size, t)) for t in (2, 2, W + 3, W + 3)]
    idx = [np.stack([CHARS.encode(p) for p in pair]) for pair in (prompts[:2], prompts[2:])]
    key_R, texts = row_keys(7, 4, 1), set()
    for temperature in (0.0, 0.7):  # greedy, and drawn
        settings = Settings(n, sampling.build(temperature), window="exact")
        made = continue_rows(model, params, CHARS, prompts, key_R, settings)
        for pair in (0, 1):
            rows = slice(2 * pair, 2 * pair + 2)
            plain = generate.generate(model, params, idx[pair], n, key_R[rows], temperature)
            np.testing.assert_array_equal(plain[:, :-n], idx[pair])
            assert plain[:, -n:].tolist() == [list(sample.ids) for sample in made[rows]]
        texts |= {sample.text for sample in made}
    assert len(texts) > 4  # the keys matter, and the temperature


def test_the_plain_loop_of_no_tokens_is_the_prompt(small):
    model, params = small("bigram")
    idx = np.array([[3, 1, 4]])
    np.testing.assert_array_equal(generate.generate(model, params, idx, 0, row_keys(0, 1, 1)), idx)


def test_the_preview_is_the_first_sample_of_its_key(small):
    model, params = small("gpt")
    key = jax.random.key(3)
    text = generate.preview(model, params, CHARS, SampleConfig("ab", 9, 0.7), False, key)
    settings = Settings(9, sampling.build(0.7))
    (sample,) = continue_rows(model, params, CHARS, ["ab"], row_keys(key, 1, 1), settings)
    assert text == "ab" + sample.text
    assert generate.preview(model, params, CHARS, SampleConfig("ab", 0), False, key) == ""


def test_the_preview_of_items_is_a_few_of_them_a_line_each(small):
    model, params = small("mlp")
    key = jax.random.key(3)
    text = generate.preview(model, params, CHARS, SampleConfig("a", 9, 1.0), True, key)
    settings = Settings(9, sampling.build(1.0), items=True)
    keys = row_keys(key, 1, generate.ITEMS_SHOWN)
    made = continue_rows(model, params, CHARS, ["a"] * generate.ITEMS_SHOWN, keys, settings)
    assert text.split("\n") == ["a" + sample.text for sample in made]
    assert {sample.why for sample in made} == {"end", "length"}


def test_of_several_processes_each_makes_the_same_pieces_whatever_its_clock_says(
    small, monkeypatch
):
    model, params = small("gpt")
    config, key, cuts = SampleConfig("ab", 75, 0.7), jax.random.key(3), {}
    for processes in (1, 2):
        told = cuts[processes] = []
        monkeypatch.setattr(pace, "SECONDS", 1e-9)  # as if each piece had taken for ever
        monkeypatch.setattr(jax, "process_count", lambda n=processes: n)
        told_of = lambda done, total, told=told: told.append(done)  # noqa: E731
        generate.preview(model, params, CHARS, config, False, key, told_of)
    assert cuts[2] == [32, 64, 75] and len(cuts[1]) > 3


def test_a_long_text_is_made_in_bounded_pieces_and_is_the_same(small, monkeypatch):
    model, params = small("gpt")
    key, config, n = jax.random.key(3), SampleConfig("ab", 700, 0.7), []
    monkeypatch.setattr(generate, "ROOM", 50)
    in_pieces = generate.preview(
        model, params, CHARS, config, False, key, lambda done, total: n.append((done, total))
    )
    settings, key_R, m = Settings(700, sampling.build(0.7)), row_keys(key, 1, 1), []
    (sample,) = continue_rows(
        model, params, CHARS, ["ab"], key_R, settings, busy=lambda *told: m.append(told)
    )
    for told in (n, m):
        done, (total,) = [0, *(made for made, _ in told)], {total for _, total in told}
        assert total == 700 == done[-1] and max(np.diff(done)) <= 50 and len(done) > 700 / 50
    idx = CHARS.encode("ab")[None]
    plain = np.asarray(generate.generate(model, params, idx, 700, key_R, 0.7))[0, 2:]
    assert in_pieces == "ab" + CHARS.decode(plain) and list(sample.ids) == plain.tolist()


# ---- what is made -----------------------------------------------------------------------------


def test_a_prompt_is_continued_for_as_many_tokens_as_asked():
    (sample,) = write(CHARS, "abcd", ["ab"], max_new_tokens=5)
    assert (sample.prompt, sample.text, sample.why) == ("ab", "cdabc", "length")
    assert sample.ids == tuple(CHARS.encode("cdabc")) and len(sample.log_probs) == 5
    assert max(map(abs, sample.log_probs)) < 1e-3


def test_an_empty_prompt_begins_after_a_line_end():
    assert write(CHARS, "\nbéa", [""], max_new_tokens=3)[0].text == "béa"
    np.testing.assert_array_equal(generate.prompt_ids(CHARS, "", False), [0])
    np.testing.assert_array_equal(generate.prompt_ids(CHARS, "ab", False), [2, 3])


def test_characters_of_any_script_go_in_and_come_out():
    for tok in (CHARS, BYTES):
        assert write(tok, "é😀a", ["aé"], max_new_tokens=11)[0].text[:4] == "😀aé😀"
    sample = write(WORDS, "wörld!", ["hello wörld"], max_new_tokens=3)[0]
    assert sample.text == "!wörld!"


def test_an_item_begins_and_ends_at_the_end_token():
    a, b = write(CHARS, "\nabé", ["", "a"], items=True, max_new_tokens=9, sampler=GREEDY)
    assert (a.text, a.why, len(a.ids)) == ("abé", "end", 3)
    assert (b.text, b.why, len(b.ids), len(b.log_probs)) == ("bé", "end", 2, 2)
    short = write(CHARS, "\nabé", [""], items=True, max_new_tokens=2)[0]
    assert (short.text, short.why) == ("ab", "length")
    np.testing.assert_array_equal(generate.prompt_ids(CHARS, "ab", True), [0, 2, 3])


def test_prompts_of_different_lengths_stand_in_one_batch():
    made = write(CHARS, "abcd", ["a", "abcdabcdabcdabcdabc", "", "ad"], max_new_tokens=4)
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
    (sample,) = write(CHARS, "abcd", ["a"], stop=stop, on_text=on_text)
    assert sample.text == text and sample.why == ("length" if len(text) == 20 else "stop")
    assert sample.ids == tuple(CHARS.encode(text)) and len(sample.log_probs) == len(text)
    assert not stream or "".join(told) == text


def test_a_stop_string_may_end_inside_a_word_and_between_bytes():
    (sample,) = write(WORDS, "hello!", ["!"], stop=("lo!",), max_new_tokens=8)
    assert sample.text == "hel" and WORDS.decode(sample.ids) == "hello"
    (sample,) = write(BYTES, "aé€b", ["a"], stop=("€",), max_new_tokens=9)
    assert sample.text == "é" and BYTES.decode(sample.ids) == "é"


def test_each_row_stops_for_its_own_reason():
    made = write(CHARS, "\nabcde", ["a", "d", ""], items=True, stop=("bc",), max_new_tokens=4)
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
    streamed = write(tok, text, prompts, on_text=on_text, **common)
    plain = write(tok, text, prompts, **common)
    assert streamed == plain and told == [s.text for s in plain]
    assert len({s.text for s in plain}) > 1


def test_text_is_told_as_it_is_made():
    told = []
    write(CHARS, "abcd", ["a"], on_text=lambda row, new: told.append(new), max_new_tokens=40)
    assert len(told) == 40 / generate.STREAM_TOKENS


@pytest.mark.parametrize(
    "tok, text, settings",
    [
        (CHARS, "abcdé😀", {"stop": ("dé", "bca")}),
        (CHARS, "\nabcdé", {"items": True}),
        (BYTES, "aé€😀", {"stop": ("€😀a", "é€a")}),
    ],
)
def test_the_pieces_of_a_row_are_its_text_however_often_one_looks(tok, text, settings):
    model, params = cycle(tok, text, 0.3)
    settings = Settings(61, sampling.build(1.0), **settings)
    prompts, key_R = ["", text[1], text[2:]], row_keys(3, 3, 1)
    found = []
    for look_every in (1, 8, 25, 61, 1000):
        told, samples, made = ["", "", ""], [None, None, None], [[], [], []]
        pieces = generate.stream(model, params, tok, prompts, key_R, settings, look_every)
        for row, new, _, sample, ids in pieces:
            assert samples[row] is None, "a row goes on after its sample"
            assert bool(new) is (sample is None)
            told[row] += new
            made[row] += ids.tolist()
            samples[row] = sample
        for sample, ids in zip(samples, made, strict=True):
            assert tuple(ids[: len(sample.ids)]) == sample.ids  # a stop string cuts the rest off
        assert told == [sample.text for sample in samples]
        found.append(samples)
    assert all(samples == found[0] for samples in found)
    assert len({sample.text for sample in found[0]}) > 1


def test_a_row_that_has_stopped_grows_no_more(monkeypatch):
    advance, lengths = generate.decode.advance, []

    def watched(*args):
        state = advance(*args)
        lengths.append(state.length_B.tolist())
        return state

    monkeypatch.setattr(generate.decode, "advance", watched)
    model, params = cycle(CHARS, "abcd")
    (e,) = CHARS.encode("é")
    params["token_embedding_table"]["embedding"][e, e] = 99  # it follows itself
    settings = Settings(12, sampling.build(1.0), stop=("dab",))
    list(generate.stream(model, params, CHARS, ["a", "é"], row_keys(0, 2, 1), settings, 4))
    assert lengths == [[5, 5], [9, 9], [9, 13]]  # "dab" is there at the second look


def test_whoever_stops_asking_stops_the_making(monkeypatch):
    advance, calls = generate.decode.advance, []

    def counted(*args):
        calls.append(args)
        return advance(*args)

    monkeypatch.setattr(generate.decode, "advance", counted)
    model, params = cycle(CHARS, "abcd")
    key_R, settings = row_keys(0, 2, 1), Settings(40, sampling.build(1.0))
    pieces = generate.stream(model, params, CHARS, ["a", "b"], key_R, settings, 4)
    assert not calls  # nothing is made before it is asked for
    assert [next(pieces) for _ in range(5)][-1][:4] == (0, "bcda", 12, None)
    assert len(calls) == 3
    pieces.close()
    assert list(pieces) == [] and len(calls) == 3
    assert len(list(generate.stream(model, params, CHARS, ["a", "b"], key_R, settings, 4))) == 22
    assert len(calls) == 3 + 10


# ---- what a text depends on -------------------------------------------------------------------

CHANCE = {"chance": 1.0, "max_new_tokens": 30}


def test_the_first_of_four_samples_is_the_only_one_of_one():
    one = write(CHARS, "abcd", ["a", "bc"], num_samples=1, **CHANCE)
    four = write(CHARS, "abcd", ["a", "bc"], num_samples=4, **CHANCE)
    assert [four[0], four[4]] == one
    assert len({s.text for s in four}) == 8


def test_a_row_does_not_depend_on_its_company():
    prompts = ["a", "", "dcba", "é", "abcd" * 5, "b", "cc"]
    seven = write(CHARS, "abcd", prompts, **CHANCE)
    model, params = cycle(CHARS, "abcd", 1.0)
    for b, (prompt, together) in enumerate(zip(prompts, seven, strict=True)):
        settings, key_R = Settings(30, sampling.build(1.0)), row_keys(0, 7, 1)[b : b + 1]
        assert continue_rows(model, params, CHARS, [prompt], key_R, settings) == [together]


def test_many_rows_come_in_groups_and_are_the_same(monkeypatch):
    told = {}
    prompts = ["a", "", "dcba", "é", "abcd" * 5, "b", "cc"]
    together = write(CHARS, "abcd", prompts, **CHANCE)
    monkeypatch.setattr(generate, "GROUP_ROWS", 3)

    def on_text(row, new):
        told[row] = told.get(row, "") + new

    assert write(CHARS, "abcd", prompts, **CHANCE) == together
    assert write(CHARS, "abcd", prompts, on_text=on_text, **CHANCE) == together
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
    texts = [write(CHARS, "abcd", ["a"], seed=seed, **CHANCE)[0].text for seed in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]
    with_key = row_keys(jax.random.key(1), 1, 1)
    model, params = cycle(CHARS, "abcd", 1.0)
    settings = Settings(30, sampling.build(1.0))
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
        write(CHARS, "abcd", [])


def test_an_item_does_not_go_over_a_lines_end():
    tok = CharTokenizer("\nabcd")
    with pytest.raises(UserError, match=r"'ab\\nc' goes over a line's end"):
        write(tok, "abcd", ["a", "ab\nc"], items=True)


def test_a_prompt_outside_the_vocabulary_is_explained():
    with pytest.raises(UserError, match=r"'ß' \(U\+00DF\) at position 2"):
        write(CHARS, "abcd", ["a", "abß"])


def test_logits_that_are_not_finite_are_an_error_not_a_character():
    model, params = cycle(CHARS, "abcd")
    params["token_embedding_table"]["embedding"][CHARS.encode("c")] = np.nan
    settings = Settings(3, sampling.build(1.0))
    with pytest.raises(UserError, match="row 1: the logits after token 4 are not finite"):
        continue_rows(model, params, CHARS, ["d", "aab"], row_keys(0, 2, 1), settings)
