"""The addresses beside ``/v1/completions``, and what is refused before anything is done."""

import contextlib
import json
import socket
import threading
import time

import pytest
from live_server import PAGE, as_served, serving

from gptjax.generation import generate
from gptjax.serving.guard import BODY_BYTES, is_allowed

ASK = {"model": "table", "prompt": "ab", "max_tokens": 5, "seed": 1}
JSON = {"content-type": "application/json"}


def error_of(answer):
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error


# ---- addresses --------------------------------------------------------------------------------


def test_models_are_listed_by_name(openai, runs):
    listed = openai.models.list().data
    assert [one.id for one in listed] == [*runs] and listed[0].created == 1234567890
    assert openai.models.retrieve("gpt").max_model_len == 6
    package = pytest.importorskip("openai")
    with pytest.raises(package.NotFoundError, match="choose gpt, table, bytes, names"):
        openai.models.retrieve("gpt-5")
    with pytest.raises(package.NotFoundError) as told:
        openai.completions.create(model="gpt-5", prompt="ab")
    assert (told.value.code, told.value.param) == ("model_not_found", "model")


def test_chat_is_refused_with_the_reason(openai):
    package = pytest.importorskip("openai")
    with pytest.raises(package.BadRequestError, match="base models.*use /v1/completions"):
        openai.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("model, text", [("gpt", "abc\nh"), ("bytes", "aé😀"), ("names", "ab")])
def test_tokens_and_texts(model, text, live, runs):
    said = live.client.post("/tokenize", json={"model": model, "prompt": text}).json()
    assert said["tokens"] == runs[model].tokenizer.encode(text).tolist()
    assert said["count"] == len(said["tokens"])
    back = live.client.post("/detokenize", json={"model": model, "tokens": said["tokens"]})
    assert back.json() == {"prompt": text}


@pytest.mark.parametrize(
    "path, body, param",
    [
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "X"}, "prompt"),
        ("/tokenize", {"prompt": "a", "x": 1}, "x"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [10]}, "tokens"),
    ],
)
def test_mistakes_name_their_field(path, body, param, live):
    answer = live.client.post(path, json={"model": "gpt"} | body)
    assert answer.status_code == 400 and error_of(answer)["param"] == param


def test_an_address_that_is_none_and_a_method_that_is_none(live):
    for answer, status in (
        (live.client.get("/v1/nothing"), 404),
        (live.client.get("/v1/completions"), 405),
        (live.client.post("/health", json={}), 405),
    ):
        assert answer.status_code == status and error_of(answer)["message"]


def test_the_page_may_run_its_own_scripts_and_ask_this_server(live):
    answer = live.client.get("/")
    policy = answer.headers["content-security-policy"]
    assert answer.text == PAGE and answer.headers["content-type"].startswith("text/html")
    assert policy.count("'sha256-") == 2 and "default-src 'none'" in policy
    assert "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_model_that_is_not_open_yet_is_told(runs):
    served = as_served({"one": None, "table": None})
    with serving(served) as server:
        health = server.client.get("/health")
        assert health.status_code == 503 and health.headers["retry-after"]
        assert health.json() == {"status": "loading", "loading": ["one", "table"]}
        answer = server.client.post("/v1/completions", json=ASK)
        assert answer.status_code == 503 and "still being opened" in error_of(answer)["message"]
        assert answer.headers["retry-after"] == "1"
        served[1].run = runs["table"]
        assert server.client.get("/health").json() == {"status": "ok", "loading": ["one"]}
        assert server.client.get("/health").status_code == 200
        assert server.client.post("/v1/completions", json=ASK).status_code == 200


# ---- who may ask, and how much ----------------------------------------------------------------


@pytest.mark.parametrize(
    "host, bound, allowed",
    [
        ("localhost:8000", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9:1", "127.0.0.1", True),
        ("[::1]:8000", "127.0.0.1", True),
        ("LOCALHOST.:8000", "127.0.0.1", True),
        ("known.example:80", "127.0.0.1", True),
        ("a.below.example", "127.0.0.1", True),
        ("below.example", "127.0.0.1", False),
        ("evil.example", "127.0.0.1", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("192.168.0.7:8000", "0.0.0.0", True),
        ("1.2.3", "127.0.0.1", False),
        ("[fe80::1]", "::", True),
        ("evil.example", "0.0.0.0", False),
        ("box.local", "box.local", True),
    ],
)
def test_hosts(host, bound, allowed):
    assert is_allowed(host, bound, ["known.example", "*.below.example"]) is allowed


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"host": "evil.example"}, 421),
        ({"host": "known.example"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"content-type": "text/plain"}, 415),  # what a form of another site may send
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_who_may_ask(headers, status, live):
    answer = live.client.post("/v1/completions", content=json.dumps(ASK), headers=JSON | headers)
    assert answer.status_code == status
    assert status == 200 or error_of(answer)["message"]


@pytest.mark.parametrize(
    "body, status, says",
    [
        (b'{"prompt": "\xff"}', 400, "UTF-8"),
        (b'{"prompt": ', 400, "JSON"),
        (b"", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"prompt": "a", "temperature": NaN}', 400, "NaN"),
        (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", 400, "digits"),
        (b'["a"]', 400, "object"),
        (b'{"model": "gpt", "prompt": "' + b"\\ud800" + b'"}', 400, "not in the vocabulary"),
        (b'{"prompt": "' + b"a" * BODY_BYTES + b'"}', 413, "bytes"),
        (b" " * 10 * BODY_BYTES, 413, "bytes"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bodies_that_are_no_request(body, status, says, live):
    answer = live.client.post("/v1/completions", content=body, headers=JSON)
    assert answer.status_code == status and says in error_of(answer)["message"]
    assert live.client.get("/health").status_code == 200


# ---- many at a time ---------------------------------------------------------------------------


def lines_of(server, **body):
    """A stream's events as they come, and a function that hangs up."""
    body = ASK | {"stream": True} | body
    return server.client.stream("POST", "/v1/completions", json=body)


def connected(server):
    """A plain connection, closed at the end of a ``with``."""
    host, port = server.url.removeprefix("http://").split(":")
    return contextlib.closing(socket.create_connection((host, int(port)), 5))


def request_of(body):
    """The bytes of a request for a text."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


@pytest.fixture
def slowly(monkeypatch):
    """Texts take a tenth of a second for every look at them; how many looks there were."""
    looks, stream = [], generate.stream

    def slow(*args):
        for piece in stream(*args):
            looks.append(piece)
            time.sleep(0.1)
            yield piece

    monkeypatch.setattr(generate, "stream", slow)
    return looks


def test_a_short_question_does_not_wait_for_a_long_text(live, runs, slowly):
    ids = runs["table"].tokenizer.encode("hgf").tolist()
    with lines_of(live, max_tokens=200) as answer:
        lines = answer.iter_lines()
        next(lines)
        short = live.client.post("/tokenize", json={"model": "table", "prompt": "hgf"})
        assert short.json()["tokens"] == ids and len(slowly) < 10
        events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]" and len(slowly) == 26


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_ends_its_job(stream, live, slowly):
    body = json.dumps(ASK | {"stream": stream, "max_tokens": 400}).encode()
    with connected(live) as sock:
        sock.sendall(request_of(body))
        until(lambda: slowly)
    until(lambda: live.worker.n_jobs == 0)
    assert len(slowly) < 12  # of 13 or 51


def test_more_than_the_queue_holds_are_told_to_come_again(runs):
    go = threading.Event()
    with serving(as_served(runs), most_jobs=1) as server:
        server.worker.begin(lambda: iter([go.wait(10)]), lambda *what: None)
        until(lambda: server.worker.n_jobs == 1)
        try:
            for body in (ASK, ASK | {"stream": True}):
                answer = server.client.post("/v1/completions", json=body)
                assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
                assert "try again" in error_of(answer)["message"]
        finally:
            go.set()
        until(lambda: server.worker.n_jobs == 0)
        assert server.client.post("/v1/completions", json=ASK).status_code == 200


def test_what_takes_too_long_ends_with_an_error(runs):
    class Slow:
        """A run whose model never comes to an end."""

        def __getattr__(self, name):
            return getattr(runs["table"], name)

        def settings(self, *_, **__):
            time.sleep(0.5)
            return runs["table"].settings(5)

    served = as_served({"table": Slow()})
    with serving(served, seconds=0.2) as server:
        answer = server.client.post("/v1/completions", json=ASK)
        assert answer.status_code == 503 and error_of(answer)["message"]
        until(lambda: server.worker.n_jobs == 0)


def test_an_error_after_the_first_event_is_the_last_event(runs, openai):
    class Breaks:
        """A run that breaks while it writes."""

        def __getattr__(self, name):
            return getattr(runs["table"], name)

    package = pytest.importorskip("openai")
    broken = Breaks()
    broken.params = {"token_embedding_table": {"embedding": _nan_after(runs["table"], "c")}}
    with serving(as_served({"table": broken})) as server:
        client = package.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
        seen = []
        with pytest.raises(package.APIError, match="not finite"):
            for chunk in client.completions.create(**ASK | {"max_tokens": 300}, stream=True):
                seen.append(chunk.choices[0].text)
        assert server.client.get("/health").status_code == 200


def _nan_after(run, char):
    table = run.params["token_embedding_table"]["embedding"].copy()
    table[run.tokenizer.encode(char)[0]] = float("nan")
    return table


def test_half_closed_and_broken_connections_leave_nothing_behind(live):
    body = json.dumps(ASK | {"max_tokens": 400, "stream": True}).encode()
    head, whole = request_of(body).split(b"\r\n\r\n")[0] + b"\r\n", request_of(body)
    no_http = b"\x16\x03\x01\x02", b"GET / HTTP/9.9\r\n\r\n"
    for sent in (b"", b"GET", head, whole[:-5], whole, *no_http):
        for half in (True, False):
            with connected(live) as sock:
                sock.sendall(sent)
                if half:
                    sock.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionError):
                        while sock.recv(65536):
                            pass
    until(lambda: live.worker.n_jobs == 0)
    assert live.client.post("/v1/completions", json=ASK).status_code == 200
