"""The playground's questions: the same numbers and texts as the run and its sampler give."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from live_server import as_served, serving

from gptjax.data.corpora import Corpus
from gptjax.data.tokenizers import ByteTokenizer
from gptjax.errors import UserError
from gptjax.evaluation import memorization, probe
from gptjax.generation import sampling
from gptjax.serving import next_token, playground
from gptjax.serving.models import Served
from gptjax.web import context, text_data

TEXTS = {
    "gpt": ["", "a", "abc h", "hgfedcba abcd"],  # shorter and longer than block_size
    "bytes": ["", "é", "😀a"],
    "names": ["", "b", "edcba"],
}
RULES = [
    {},
    {"temperature": 0},
    {"temperature": 0.6, "top_k": 3},
    {"temperature": 1.7, "top_p": 0.7, "repetition_penalty": 1.4},
    {"min_p": 0.3, "top_p": 0.95, "top_k": 4},
]


@pytest.fixture(scope="module")
def ask(runs):
    """A function of a path and a question: the answer's JSON, which must come with 200."""
    with serving(as_served(runs), more=playground.routes) as server:

        def ask_(path, **body):
            answer = server.client.post(f"/api/{path}", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        ask_.client = server.client
        yield ask_


def expected(run, text, rules):
    """p of the model and of the draw (V,), float64, straight from the run and the sampler."""
    ids = probe.prompt_ids(run.tokenizer, text, run.items)
    _, p_SxV = probe.next_tokens(run, text)
    seen = jnp.asarray(np.isin(np.arange(run.model.vocab_size), ids)[None])
    x = ids[None] if run.model.slides else ids[None, -run.model.block_size :]
    logits = run.model.apply({"params": run.params}, x)[:, -1]
    left = np.asarray(sampling.build(**rules)(logits, seen), np.float64)[0]
    q = np.exp(left - left.max())
    return p_SxV[-1], q / q.sum()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_the_bars_are_the_runs_and_the_samplers(ask, runs, name, rules):
    for text in TEXTS[name]:
        found = ask("next", run=name, text=text, n=5, **rules)
        p_V, q_V = expected(runs[name], text, rules)
        near = {"rtol": 2e-4, "atol": 1e-6}
        shown, rest = found["tokens"], found["rest"]
        ids = [t["id"] for t in shown]
        np.testing.assert_allclose([t["p"] for t in shown], -np.sort(-p_V)[:5], **near)
        np.testing.assert_allclose([t["p"] for t in shown], p_V[ids], **near)
        np.testing.assert_allclose([t["sampled"] for t in shown], q_V[ids], **near)
        assert len(set(ids)) == 5
        assert found["kept"] == (q_V > 0).sum() and found["vocab_size"] == len(p_V)
        np.testing.assert_allclose(rest["p"], 1 - p_V[ids].sum(), atol=1e-5)
        np.testing.assert_allclose(rest["sampled"], 1 - q_V[ids].sum(), atol=1e-5)
        assert rest["tokens"] == len(p_V) - 5
        entropy = -(p_V[p_V > 0] * np.log(p_V[p_V > 0])).sum()
        np.testing.assert_allclose(found["entropy_nats"], entropy, rtol=1e-4, atol=1e-5)
        if rules.get("temperature") == 0:
            assert [t["sampled"] for t in shown] == [1, 0, 0, 0, 0]
            assert found["sampled_entropy_nats"] == 0 and found["kept"] == 1


def test_a_context_is_told_by_its_tokens_too_and_says_what_is_seen(ask, runs):
    for name, texts in TEXTS.items():
        run = runs[name]
        for text in texts:
            by_text = ask("next", run=name, text=text)
            assert ask("next", run=name, ids=by_text["ids"]) == by_text
            n = len(probe.prompt_ids(run.tokenizer, text, run.items))
            assert by_text["seen"]["of"] == n
            assert by_text["seen"]["tokens"] == min(n, run.model.block_size)
            assert len(by_text["ids"]) == n - run.items
    assert ask("next", run="gpt", text="hgfedcba abcd")["seen"]["text"] == "a abcd"


def test_every_token_has_a_text(ask, runs):
    def tokens(name):
        return ask.client.get("/api/vocabulary", params={"run": name}).json()["tokens"]

    for name, run in runs.items():
        assert len(tokens(name)) == run.tokenizer.vocab_size and all(tokens(name))
    assert tokens("gpt")[:2] == ["\n", " "]
    assert tokens("bytes")[0xC3] == ByteTokenizer().token_text(0xC3)
    assert tokens("bytes")[ord("a")] == "a"


@pytest.mark.parametrize(
    ("name", "prompt", "how"),
    [
        ("gpt", "abc", {"temperature": 0.9}),
        ("gpt", "", {"temperature": 1.1}),
        ("gpt", "hgfedcba", {"repetition_penalty": 1.5, "temperature": 1.2, "top_k": 4}),
        ("gpt", "a", {"temperature": 0}),
        ("bytes", "é", {}),
        ("names", "", {"temperature": 1.3}),
        ("names", "ab", {}),
    ],
)
def test_step_by_step_streamed_and_at_once_it_is_one_text(ask, runs, name, prompt, how):
    n = 15

    def write(**more):
        body = {"model": name, "seed": 11, "return_token_ids": True, **how, **more}
        answer = ask.client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer

    begin = ask("next", run=name, text=prompt)["ids"]
    [whole] = write(prompt=begin, max_tokens=n).json()["choices"]
    assert [whole] == write(prompt=prompt, max_tokens=n).json()["choices"]
    [sample] = runs[name].generate(prompt, max_new_tokens=n, seed=11, **{"temperature": 1.0} | how)
    assert (whole["text"], tuple(whole["token_ids"])) == (sample.text, sample.ids)
    events = write(prompt=begin, max_tokens=n, stream=True).text.split("\n\n")
    streamed = [json.loads(e[6:])["choices"][0] for e in events if e.startswith("data: {")]
    assert sum((piece["token_ids"] for piece in streamed), []) == whole["token_ids"]
    assert "".join(piece["text"] for piece in streamed) == whole["text"]
    ids, ended = list(begin), False
    while len(ids) < len(begin) + n and not ended:
        [one] = write(prompt=ids, max_tokens=1).json()["choices"]
        ids, ended = ids + one["token_ids"], one["finish_reason"] == "stop"
    assert ids == begin + whole["token_ids"]
    assert ended == (whole["finish_reason"] == "stop")


def test_token_ids_come_only_to_those_who_ask(ask):
    for stream in (False, True):
        body = {"model": "gpt", "prompt": "a", "max_tokens": 3, "stream": stream}
        answer = ask.client.post("/v1/completions", json=body)
        assert answer.status_code == 200 and "token_ids" not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("next", {"run": "gpt", "txet": "a"}, "txet"),
        ("next", {"run": "gpt", "text": 5}, "text"),
        ("next", {"run": "gpt", "text": "a", "ids": [1]}, "ids"),
        ("next", {"run": "gpt", "ids": [1.5]}, "ids"),
        ("next", {"run": "gpt", "text": "a", "n": 0}, "n"),
        ("next", {"run": "gpt", "text": "a", "temperature": "hot"}, "temperature"),
        ("next", {"run": "gpt", "text": "a", "temperature": -1}, "temperature"),
        ("next", {"run": "gpt", "text": "a", "top_k": True}, "top_k"),
        ("next", {"run": "gpt", "text": "a", "top_p": 1.5}, "top_p"),
        ("next", {"text": "a"}, "model"),
        ("copied", {"run": "gpt", "text": "a", "n": 3}, "n"),
        ("inspect", {"run": "gpt"}, "text"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(ask, path, body, param):
    answer = ask.client.post(f"/api/{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert error["message"] and "\n" not in error["message"]


def test_a_text_that_cannot_be_read_is_an_answer(ask):
    for said, part in (
        ({"run": "gpt", "text": "xyz"}, "'x'"),
        ({"run": "gpt", "ids": [99]}, "99"),
        ({"run": "names", "text": "a\nb"}, "line"),
        ({"run": "gpt", "text": "a" * (playground.MOST_TOKENS + 1)}, "20,001"),
    ):
        found = ask("next", **said)
        assert list(found) == ["problem"] and part in found["problem"]
        assert "\n" not in found["problem"]
    assert "'x'" in ask("inspect", run="gpt", text="xyz")["problem"]


def test_other_refusals_are_one_line(ask):
    for status, body in (
        (404, {"run": "other", "text": "a"}),
        (413, {"run": "gpt", "ids": [1] * (playground.MOST_TOKENS + 1)}),
        (413, {"run": "gpt", "text": "a" * (8 * playground.MOST_TOKENS + 1)}),
    ):
        answer = ask.client.post("/api/next", json=body)
        assert answer.status_code == status, answer.text
        assert "\n" not in answer.json()["error"]["message"]


def test_runs_are_listed_before_they_are_open(runs, monkeypatch):
    monkeypatch.setattr(playground, "PATIENCE_S", 0.3)
    waiting = Served("later", "runs/later")
    with serving([waiting, *as_served(runs)], more=playground.routes) as server:
        found = {one.pop("id"): one for one in server.client.get("/api/runs").json()["runs"]}
        assert list(found) == ["later", *runs]
        assert found["later"] == {"state": "loading"}
        assert found["names"]["items"] and not found["gpt"]["items"]
        assert found["gpt"]["facts"] == runs["gpt"].facts() and found["gpt"]["writes"]
        answer = server.client.post("/api/next", json={"run": "later", "text": ""})
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert server.client.get("/api/page").status_code == 503


def test_a_text_is_looked_into_as_the_report_does(ask, runs):
    of_page = context.of_run(runs["gpt"], Path("runs/gpt"))
    expected = text_data.inspect(runs["gpt"], of_page, "abc hgfed")
    typed = ask("inspect", run="gpt", text="abc hgfed")
    assert typed == {"text": json.loads(json.dumps(expected))}
    ids = runs["gpt"].tokenizer.encode("abc hgfed").tolist()
    assert ask("inspect", run="gpt", ids=ids) == typed


def test_where_the_corpus_is_not_there_nothing_is_said_of_copies(ask):
    found = ask("copied", run="gpt", text="abc")
    assert found["kind"] is None and found["reason"]


TRAIN, VAL = "it was a dark and stormy night; the rain fell in torrents", "rain and sun"


def test_the_longest_copied_passage_says_where_it_is():
    corpus = Corpus("night", "stream", "a file", "0" * 64, {"train": TRAIN, "val": VAL})
    text = "on a dark and sunny night"
    found = next_token.copied(text, corpus)
    assert found["passage"] == memorization.longest(text, TRAIN) == " a dark and s"
    assert text[found["begin"] :].startswith(found["passage"]) and found["begin"] == 2
    assert (found["characters"], found["of"], found["held_out"]) == (13, 25, 6)
    with pytest.raises(UserError, match="10,001 characters"):
        next_token.copied("a" * 10_001, corpus)


def test_items_are_said_to_be_known_or_new():
    splits = {"train": "ann\nbea\n", "val": "cleo\n", "test": "dora\n"}
    corpus = Corpus("names", "items", "a file", "0" * 64, splits)
    found = next_token.copied("bea\ndora\nzoe", corpus)
    where = {"bea": "in train", "dora": "held out", "zoe": "new"}
    assert found["items"] == [{"item": item, "where": w} for item, w in where.items()]


def test_a_passage_is_found_again_among_its_tokens():
    tok = ByteTokenizer()
    ids = tok.encode("aé😀bc")  # 1, 2, 4, 1 and 1 bytes
    for begin, end, places in ((0, 1, [0, 1]), (1, 3, [1, 7]), (2, 4, [3, 8]), (3, 5, [7, 9])):
        assert next_token.tokens_of(tok, ids, begin, end) == places
