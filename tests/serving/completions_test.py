"""``/v1/completions``, asked by OpenAI's own client: what ``Run.generate`` writes, in its form."""

import json

import numpy as np
import pytest

from gptjax.evaluation import loss_eval
from gptjax.generation import decode, generate
from gptjax.serving import scoring


def generated(run, prompt, n=1, **how):
    how = {"max_new_tokens": 16, "temperature": 1.0} | how
    return run.generate(prompt, num_samples=n, **how)


def whole_of(chunks):
    """(text, logprobs, finish_reason) per choice, as the chunks of a stream add up to them."""
    found = {}
    for chunk in chunks:
        for choice in chunk.choices:
            text, logprobs, reason = found.get(choice.index, ("", {}, None))
            assert reason is None, "more after the end"
            for name, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                logprobs.setdefault(name, []).extend(values)
            found[choice.index] = (text + choice.text, logprobs, choice.finish_reason)
    return [found[i] for i in range(len(found))]


def choices_of(answer):
    return [
        (c.text, c.logprobs.model_dump() if c.logprobs else {}, c.finish_reason)
        for c in answer.choices
    ]


def test_it_writes_what_generate_writes(openai, runs):
    answer = openai.completions.create(model="table", prompt=["abc", "h"], seed=5)
    expected = generated(runs["table"], ["abc", "h"], seed=5)
    assert [c.text for c in answer.choices] == [s.text for s in expected]
    assert [c.index for c in answer.choices] == [0, 1]
    assert {c.finish_reason for c in answer.choices} == {"length"}
    assert len({c.text for c in answer.choices}) == 2
    assert answer.object == "text_completion" and answer.model == "table"
    usage = answer.usage
    counts = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    assert counts == (4, 2 * 16, 4 + 2 * 16)


SETTINGS = [
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.8},
    {"top_k": 3},
    {"min_p": 0.2},
    {"repetition_penalty": 1.7},
    {"max_tokens": 41},
    {"stop": "e"},
    {"stop": ["gb", "ha", "cc", "d\n"], "max_tokens": 60},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: " ".join(s))
def test_every_setting_means_what_it_means_to_generate(settings, openai, runs):
    ours, how = dict(settings), {"model": "table", "prompt": "abc", "n": 2, "seed": 9}
    body = {k: ours.pop(k) for k in ("top_k", "min_p", "repetition_penalty") if k in ours}
    answer = openai.completions.create(**how, extra_body=body, **ours)
    expected_how = {"max_new_tokens" if k == "max_tokens" else k: v for k, v in settings.items()}
    expected = generated(runs["table"], "abc", 2, seed=9, **expected_how)
    assert [c.text for c in answer.choices] == [s.text for s in expected]
    assert [c.finish_reason for c in answer.choices] == [s.why for s in expected]
    if "stop" in settings:
        assert "stop" in {s.why for s in expected}
    else:  # it makes a difference
        assert answer.choices != openai.completions.create(**how).choices
    assert answer.usage.completion_tokens == sum(len(s.ids) for s in expected)


STREAMED = [
    ("table", {"prompt": ["abc", "h"], "n": 3, "max_tokens": 45, "stop": ["gb", "ac"]}),
    ("gpt", {"prompt": "abcdefgh", "echo": True, "max_tokens": 11, "logprobs": 2}),
    ("bytes", {"prompt": "é", "max_tokens": 53, "n": 2, "logprobs": 5}),
    ("bytes", {"prompt": "aé", "max_tokens": 80, "stop": ["aé😀aé"], "logprobs": 1}),
    ("names", {"prompt": ["a", ""], "n": 2, "max_tokens": 30, "logprobs": 1, "echo": True}),
]


@pytest.mark.parametrize("model, how", STREAMED, ids=lambda x: x if isinstance(x, str) else "")
def test_streamed_is_unstreamed_token_for_token(model, how, openai):
    how = how | {"model": model, "seed": 21}
    answer = openai.completions.create(**how)
    chunks = list(openai.completions.create(stream=True, **how))
    assert whole_of(chunks) == choices_of(answer)
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 1


def test_a_character_comes_whole_or_not_yet(openai):
    how = {"model": "bytes", "prompt": "a", "max_tokens": 90, "seed": 4, "temperature": 0}
    chunks = [c.choices[0].text for c in openai.completions.create(stream=True, **how)]
    text = "".join(chunks)
    assert text.startswith("é😀aé😀a") and "\ufffd" not in "".join(chunks[:-2])
    assert len(chunks) > 5


def test_a_name_is_one_item_and_ends_with_it(openai, runs):
    answer = openai.completions.create(model="names", prompt="ab", n=4, seed=3, max_tokens=40)
    expected = generated(runs["names"], "ab", 4, seed=3, max_new_tokens=40)
    assert [c.text for c in answer.choices] == [s.text for s in expected]
    assert (
        {c.finish_reason for c in answer.choices}
        == {"stop"}
        == {{"end": "stop"}[s.why] for s in expected}
    )
    assert not any("\n" in c.text for c in answer.choices)


def test_tokens_are_a_prompt_as_their_text_is(openai, runs):
    run, texts = runs["table"], ["abcab", "hg"]
    ids = [run.tokenizer.encode(text).tolist() for text in texts]
    how = {"model": "table", "seed": 8, "max_tokens": 13, "echo": True, "logprobs": 0}
    as_texts = openai.completions.create(prompt=texts, **how)
    assert choices_of(openai.completions.create(prompt=ids, **how)) == choices_of(as_texts)
    alone = openai.completions.create(prompt=ids[0], **how)
    assert choices_of(alone)[0] == choices_of(as_texts)[0]
    assert as_texts.usage.prompt_tokens == 7


def test_log_probs_are_the_models_own_past_block_size_too(openai, runs):
    run, how = runs["gpt"], {"model": "gpt", "prompt": "ab", "max_tokens": 20, "seed": 2}
    choice = openai.completions.create(**how, temperature=0.5, logprobs=3).choices[0]
    sample = generated(run, "ab", seed=2, max_new_tokens=20, temperature=0.5)[0]
    logprobs = choice.logprobs
    assert logprobs.tokens == [*choice.text] and len(logprobs.tokens) == 20
    np.testing.assert_allclose(logprobs.token_logprobs, sample.log_probs, atol=2e-5)
    assert logprobs.text_offset == [*range(2, 22)]  # in prompt and text, as OpenAI's
    ids = [*run.tokenizer.encode("ab"), *sample.ids]
    for place, likeliest in enumerate(logprobs.top_logprobs, start=2):
        p_V = loss_eval.probabilities(run.model, run.params, np.array(ids[:place]))[1][-1]
        best = np.argsort(-p_V, kind="stable")[:3]
        expected = {run.tokenizer.vocabulary[i]: np.log(p_V[i]) for i in best}
        expected |= {logprobs.tokens[place - 2]: np.log(p_V[ids[place]])}  # the one that came
        assert [*likeliest] == [*expected]
        np.testing.assert_allclose([*likeliest.values()], [*expected.values()], atol=2e-5)


@pytest.mark.parametrize("model, text", [("gpt", "abcdefgh\nhgf abc"), ("bytes", "xé😀a\n")])
def test_echo_of_no_tokens_scores_a_text(model, text, openai, runs):
    run = runs[model]
    answer = openai.completions.create(
        model=model, prompt=text, max_tokens=0, echo=True, logprobs=1
    )
    choice, ids = answer.choices[0], run.tokenizer.encode(text)
    assert choice.text == text and choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 0 and answer.usage.prompt_tokens == len(ids)
    scores = choice.logprobs.token_logprobs
    assert scores[0] is None and choice.logprobs.top_logprobs[0] is None
    for place in range(1, len(ids)):
        p_V = loss_eval.probabilities(run.model, run.params, ids[:place])[1][-1]
        assert scores[place] == pytest.approx(np.log(p_V[ids[place]]), abs=2e-5)
    tokens, starts = choice.logprobs.tokens, choice.logprobs.text_offset
    if model == "gpt":
        assert "".join(tokens) == text and starts == [*range(len(text))]
    else:
        assert tokens[1:4] == ["bytes:\\xc3", "bytes:\\xa9", "bytes:\\xf0"]
        assert starts == [0, 1, 1, 2, 2, 2, 2, 3, 4]


def test_the_first_letter_of_a_name_follows_an_end_and_has_a_chance(openai, runs):
    run = runs["names"]
    choice = openai.completions.create(
        model="names", prompt="cab", max_tokens=0, echo=True, logprobs=0
    ).choices[0]
    ids = generate.prompt_ids(run.tokenizer, "cab", True)
    _, p_SxV = loss_eval.probabilities(run.model, run.params, ids)
    expected = np.log([p_SxV[i, ids[i + 1]] for i in range(3)])
    np.testing.assert_allclose(choice.logprobs.token_logprobs, expected, atol=2e-5)
    assert choice.text == "cab" and choice.logprobs.text_offset == [0, 1, 2]


def test_without_a_seed_the_answer_tells_the_one_it_had(openai):
    how = {"model": "table", "prompt": "abc", "max_tokens": 30}
    one, other = (openai.completions.create(**how) for _ in range(2))
    seeds = [int(a.system_fingerprint.rpartition(" ")[2]) for a in (one, other)]
    assert seeds[0] != seeds[1] and one.choices[0].text != other.choices[0].text
    again = openai.completions.create(seed=seeds[0], **how)
    assert again.choices[0].text == one.choices[0].text
    assert again.system_fingerprint == one.system_fingerprint
    assert ", step 7, seed " in one.system_fingerprint


def test_usage_of_a_stream_comes_last_when_it_is_asked_for(openai):
    how = {"model": "table", "prompt": "abc", "max_tokens": 10, "stream": True}
    chunks = list(openai.completions.create(stream_options={"include_usage": True}, **how))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 13
    assert all(chunk.choices and chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_is_server_sent_events_and_ends_with_done(live):
    body = {"model": "table", "prompt": "a", "max_tokens": 20, "stream": True}
    answer = live.client.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert done == "data: [DONE]" and rest == ""
    assert len(events) >= 3
    assert all(json.loads(event.removeprefix("data: "))["object"] for event in events)


REFUSED = [
    ({"prompt": "ab", "best_of": 2}, "best_of"),
    ({"prompt": "ab", "suffix": "x"}, "suffix"),
    ({"prompt": "ab", "logit_bias": {"3": 1}}, "logit_bias"),
    ({"prompt": "ab", "presence_penalty": 0.5}, "presence_penalty"),
    ({"prompt": "ab", "frequency_penalty": 0.5}, "frequency_penalty"),
    ({"prompt": "ab", "temperatur": 0.5}, "temperatur"),
    ({"prompt": "ab", "temperature": -1}, "temperature"),
    ({"prompt": "ab", "temperature": "0"}, "temperature"),
    ({"prompt": "ab", "top_p": 0}, "top_p"),
    ({"prompt": "ab", "top_k": 0}, "top_k"),
    ({"prompt": "ab", "min_p": 2}, "min_p"),
    ({"prompt": "ab", "repetition_penalty": 0}, "repetition_penalty"),
    ({"prompt": "ab", "max_tokens": 401}, "max_tokens"),
    ({"prompt": "ab", "max_tokens": True}, "max_tokens"),
    ({"prompt": "ab", "max_tokens": 2.0}, "max_tokens"),
    ({"prompt": "ab", "n": 25}, "n"),
    ({"prompt": "ab", "n": 0}, "n"),
    ({"prompt": ["a"] * 25}, "prompt"),
    ({"prompt": "abX"}, "prompt"),
    ({"prompt": [1, 99]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": "ab", "stop": ""}, "stop"),
    ({"prompt": "ab", "stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"prompt": "ab", "logprobs": 6}, "logprobs"),
    ({"prompt": "ab", "logprobs": True}, "logprobs"),
    ({"prompt": "ab", "seed": 2**32}, "seed"),
    ({"prompt": "ab", "seed": -1}, "seed"),
    ({"prompt": "ab", "stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt": "ab", "stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"prompt": "ab", "model": None}, "model"),
]


@pytest.mark.parametrize("body, param", REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_what_it_does_not_do_is_refused_by_name(body, param, live):
    answer = live.client.post("/v1/completions", json={"model": "table"} | body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
    assert live.worker.n_jobs == 0


def test_fields_that_change_nothing_are_taken(live):
    nothing = {"best_of": 2, "suffix": None, "logit_bias": {}, "presence_penalty": 0, "user": "me"}
    nothing |= {"frequency_penalty": 0.0, "logprobs": None, "stop": None, "top_k": None}
    body = {"model": "table", "prompt": "ab", "n": 2, "seed": 1}
    plain = live.client.post("/v1/completions", json=body).json()
    answer = live.client.post("/v1/completions", json=body | nothing)
    assert answer.status_code == 200 and answer.json()["choices"] == plain["choices"]


def test_no_prompt_begins_as_the_corpus_does(openai, runs):
    answer = openai.completions.create(model="table", prompt="", seed=6)
    assert answer.choices[0].text == generated(runs["table"], "", seed=6)[0].text
    assert answer.usage.prompt_tokens == 0
    assert openai.completions.create(model="table", prompt=[], seed=6).choices == answer.choices


def test_rows_of_any_number_are_those_of_generate(openai, runs):
    """More than are made together, and none is a power of two."""
    answer = openai.completions.create(model="table", prompt=["a", "bc", "d"], n=7, seed=1)
    expected = generated(runs["table"], ["a", "bc", "d"], 7, seed=1)
    assert [c.text for c in answer.choices] == [s.text for s in expected]


def test_programs_do_not_multiply_with_lengths_of_texts(live):
    """A new one would hold up everybody for seconds."""

    def ask(n):
        body = {"model": "gpt", "prompt": "abcdefgh"[:n], "max_tokens": n, "seed": n, "logprobs": 1}
        body["temperature"] = n / 10
        assert live.client.post("/v1/completions", json=body).status_code == 200

    programs = decode._draw_tokens, decode._read_prompts, scoring._ask
    ask(1), ask(8)
    before = [program._cache_size() for program in programs]
    for n in (2, 3, 4, 5, 7):
        ask(n)
    assert [program._cache_size() for program in programs] == before
