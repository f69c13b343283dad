"""Samplers: what is drawn has the distribution that plain float64 arithmetic says it has.

N draws of one distribution at once, V tokens, B rows.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gptjax.errors import UserError
from gptjax.generation import sampling
from gptjax.generation.sampling import Chain, MinP, RepetitionPenalty, Temperature, TopK, TopP

N, V, B = 20_000, 9, 4
LOGITS_V = np.array([1.3, -0.4, 2.1, 0.2, -1.7, 0.9, -3.0, 1.6, -0.1], np.float32)
SEEN_V = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0], bool)


def expected(logits, seen, temperature=1.0, top_k=None, top_p=None, min_p=None, penalty=None):
    """The distribution, token by token in float64: the definitions, not the code."""
    logits = [float(logit) for logit in logits]
    if penalty is not None:
        logits = [
            (x / penalty if x > 0 else x * penalty) if is_seen else x
            for x, is_seen in zip(logits, seen, strict=True)
        ]
    logits = [x / temperature for x in logits]

    def softmax(kept):
        weights = [math.exp(x) if i in kept else 0.0 for i, x in enumerate(logits)]
        return [w / sum(weights) for w in weights]

    by_likelihood = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = set(by_likelihood[:top_k])
    if top_p is not None:
        p, total, few = softmax(kept), 0.0, set()
        for i in by_likelihood:
            if total >= top_p or i not in kept:
                break
            total += p[i]
            few.add(i)
        kept = few
    if min_p is not None:
        p = softmax(kept)
        kept = {i for i in kept if p[i] >= min_p * max(p)}
    return np.array(softmax(kept))


def test_no_rule_can_be_taken_for_another():
    """Rules of equal structure would share a compiled program whenever their hashes meet."""
    rules = [Temperature(1.0), TopK(2), TopP(0.5), MinP(0.5), RepetitionPenalty(2.0)]
    chains = [Chain((rule,)) for rule in rules] + [Chain((a, b)) for a in rules for b in rules]
    structures = [jax.tree.structure(made) for made in rules + chains]
    for i, structure in enumerate(structures):
        assert [j for j, other in enumerate(structures) if other == structure] == [i]
    twice = [jax.tree.structure(Chain((TopP(p), MinP(0.1)))) for p in (0.5, 0.9)]
    assert twice[0] == twice[1]  # another number is data


def rows(logits, n=B):
    return jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (n, len(logits)))


def count(sampler, seed=0, logits=LOGITS_V, n=N):
    """How often each token comes in n draws, each row with a key of its own."""
    changed = sampler(rows(logits, n), rows(SEEN_V, n).astype(bool))
    keys = jax.random.split(jax.random.key(seed), n)
    drawn = sampling.draw(keys, jnp.full(n, seed), changed)
    return np.bincount(drawn, minlength=len(logits))


def p_value(counts, p):
    """Of Pearson's chi-square test; a token that cannot come must not have come."""
    assert counts[p == 0].sum() == 0
    return stats.chisquare(counts[p > 0], p[p > 0] * counts.sum()).pvalue


SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 2.5},
    {"top_k": 4},
    {"top_k": V + 5},
    {"top_p": 0.8},
    {"top_p": 0.55},
    {"min_p": 0.25},
    {"penalty": 1.8},
    {"penalty": 0.6},
    {"temperature": 1.7, "top_k": 6},
    {"temperature": 0.6, "top_p": 0.9},
    {"top_k": 5, "top_p": 0.85},
    {"top_k": 7, "min_p": 0.2},
    {"top_p": 0.95, "min_p": 0.1},
    {"penalty": 1.5, "top_k": 3},
    {"temperature": 1.4, "top_k": 7, "top_p": 0.9, "min_p": 0.12, "penalty": 1.3},
]


def build(settings):
    settings = dict(settings)
    return sampling.build(repetition_penalty=settings.pop("penalty", None), **settings)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_have_the_exact_distribution(settings):
    p = expected(LOGITS_V, SEEN_V, **settings)
    assert p_value(count(build(settings)), p) > 1e-4


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_logits_are_those_of_the_exact_distribution(settings):
    changed = build(settings)(rows(LOGITS_V), rows(SEEN_V).astype(bool))
    p = expected(LOGITS_V, SEEN_V, **settings)
    np.testing.assert_allclose(jax.nn.softmax(changed), np.tile(p, (B, 1)), rtol=2e-5)


def test_the_chi_square_of_this_file_sees_a_temperature_that_is_a_tenth_off():
    p = expected(LOGITS_V, SEEN_V, temperature=1.0)
    assert p_value(count(Temperature(1.1)), p) < 1e-4


def test_each_row_is_treated_by_its_own_logits_and_past():
    rng = np.random.default_rng(1)
    logits, seen = rng.normal(0, 2, (B, V)).astype(np.float32), rng.random((B, V)) < 0.5
    settings = {"temperature": 0.9, "top_k": 6, "top_p": 0.9, "min_p": 0.05, "penalty": 1.4}
    p = jax.nn.softmax(build(settings)(logits, seen))
    for b in range(B):
        np.testing.assert_allclose(p[b], expected(logits[b], seen[b], **settings), rtol=2e-5)


@pytest.mark.parametrize("temperature", [0, 1e-40, 1e-30, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("shift", [0, -50, 50])  # all negative, all positive
def test_temperature_0_and_what_comes_near_it_is_greedy(temperature, shift):
    counts = count(sampling.build(temperature), logits=LOGITS_V + shift, n=99)
    assert counts[2] == 99 == counts.sum()


def test_greedy_is_top_k_1_is_a_tiny_top_p_is_min_p_1():
    for sampler in (TopK(1), TopP(1e-9), MinP(1.0), Temperature(0.0)):
        assert count(sampler, n=99)[2] == 99


@pytest.mark.parametrize("sampler", [TopK(1), TopP(1e-9), Temperature(0.0)])
def test_of_equals_the_greedy_take_the_first(sampler):
    tied = np.array([0.5, 2.0, 2.0, -1.0, 2.0])
    assert count(sampler, logits=tied, n=77)[1] == 77


def test_equals_at_the_border_come_in_order_of_their_ids():
    tied = np.array([0.0, 1.0, 1.0, 1.0, 2.0])
    kept = np.isfinite(TopK(3)(rows(tied), None)[0])
    np.testing.assert_array_equal(kept, [False, True, True, False, True])
    np.testing.assert_array_equal(np.isfinite(MinP(1.0)(rows([3.0, 1.0, 3.0]), None)[0]), [1, 0, 1])
    p = np.exp(tied) / np.exp(tied).sum()
    kept = np.isfinite(TopP(p[4] + p[1] + 1e-3)(rows(tied), None)[0])
    np.testing.assert_array_equal(kept, [False, True, True, False, True])
    # Two of four equals reach a half, and no third is asked for.
    kept = np.isfinite(TopP(0.5)(rows(np.zeros(4)), None)[0])
    np.testing.assert_array_equal(kept, [True, True, False, False])


def test_what_changes_nothing_is_plain():
    logits = rows(np.random.default_rng(2).normal(0, 9, 5000))  # a tail below float32's last digit
    for part in (Temperature(1.0), TopK(5000), TopP(1.0), MinP(0.0), RepetitionPenalty(1.0)):
        np.testing.assert_array_equal(part(logits, jnp.ones(logits.shape, bool)), logits)
    np.testing.assert_array_equal(Chain()(logits, None), logits)


def test_a_chain_goes_first_to_last():
    settings = TopP(0.6), Temperature(3.0)
    one_way, other = Chain(settings), Chain(settings[::-1])
    assert np.isfinite(one_way(rows(LOGITS_V), None)).sum() == 3 * B
    assert np.isfinite(other(rows(LOGITS_V), None)).sum() == 4 * B


def test_only_the_penalty_reads_the_past():
    assert sampling.build(0.5, 3, 0.9, 0.1, 1.2).reads_past
    assert not sampling.build(0.5, 3, 0.9, 0.1).reads_past


def test_an_impossible_token_stays_impossible():
    logits = np.where(np.arange(V) < 3, -np.inf, LOGITS_V)
    changed = sampling.build(0.8, 7, 0.99, 0.001, 1.5)(rows(logits), rows(SEEN_V).astype(bool))
    assert not np.isfinite(changed[:, :3]).any() and not np.isnan(changed).any()


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: sampling.build(-0.5), "temperature=-0.5"),
        (lambda: sampling.build(float("nan")), "temperature=nan"),
        (lambda: sampling.build(float("inf")), "temperature=inf"),
        (lambda: sampling.build(top_k=0), "top_k=0"),
        (lambda: sampling.build(top_k=-3), "top_k=-3"),
        (lambda: sampling.build(top_k=2.5), "top_k=2.5"),
        (lambda: sampling.build(top_k=np.int64(0)), "top_k=0"),
        (lambda: sampling.build(top_p=0), "top_p=0.0"),
        (lambda: sampling.build(top_p=1.01), "top_p=1.01"),
        (lambda: sampling.build(top_p=float("nan")), "top_p=nan"),
        (lambda: sampling.build(min_p=-0.1), "min_p=-0.1"),
        (lambda: sampling.build(min_p=1.5), "min_p=1.5"),
        (lambda: sampling.build(repetition_penalty=0), "repetition_penalty=0.0"),
        (lambda: sampling.build(repetition_penalty=-2), "repetition_penalty=-2.0"),
        (lambda: TopP(0), "top_p=0"),
        (lambda: Temperature(-1), "temperature=-1"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(make, named):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(named) and "\n" not in str(error.value)


def test_another_number_compiles_nothing_new():
    apply = jax.jit(lambda sampler, logits, seen: sampler(logits, seen))
    seen = rows(SEEN_V).astype(bool)
    for number in (0, 0.5, 1, 2):
        sampler = sampling.build(number, 1 + int(number), 0.5 + number / 9, number / 9, 1 + number)
        apply(sampler, rows(LOGITS_V), seen)
    assert apply._cache_size() == 1


def test_what_a_row_draws_depends_on_its_key_and_place_alone():
    keys, places = jax.random.split(jax.random.key(0), 50), jnp.arange(50) % 7
    drawn = sampling.draw(keys, places, rows(LOGITS_V, 50))
    assert drawn.dtype == jnp.int32 and drawn.shape == (50,)
    some = np.array([31, 4, 17])  # in other company, in another order
    np.testing.assert_array_equal(
        sampling.draw(keys[some], places[some], rows(LOGITS_V, 3)), drawn[some]
    )
    for changed in (sampling.draw(keys, places + 1, rows(LOGITS_V, 50)), drawn[::-1]):
        assert (changed != drawn).sum() > 25


def test_a_rule_is_checked_when_it_is_made_and_not_when_it_is_traced():
    apply = jax.jit(lambda rule, logits: rule(logits, None))
    for rule in (Temperature(0.0), TopK(1), TopP(0.5), MinP(0.0)):
        apply(jax.tree.map(jnp.asarray, rule), rows(LOGITS_V))  # an array is no Python number
    with pytest.raises(UserError, match="top_k=0 must be a whole number, 1 or more"):
        sampling.build(top_k=0)
