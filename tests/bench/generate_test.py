"""The bench: turns are interleaved, medians and ratios are right, the command prints them."""

import json

import pytest

from gptjax.bench import __main__ as bench
from gptjax.bench import generate
from gptjax.cli import main as cli
from gptjax.generation import decode

TINY = generate.Work(8, 12, 3, 2, batch_size=2, tokens=11, windows=("exact", "refill"))


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(generate, "REST_SECONDS", 0)


def test_turns_are_interleaved_and_the_first_does_not_count():
    turns, clock = [], iter(range(100))

    def contender(name):
        return lambda: (turns.append(name), float(next(clock)))[1]

    seconds = generate.interleave({"a": contender("a"), "b": contender("b")}, repeats=3)
    assert "".join(turns) == "abababab"
    assert seconds == {"a": [2, 4, 6], "b": [3, 5, 7]}


def test_speeds_and_ratios_are_medians(monkeypatch):
    taken = {"exact": [1.0, 2.0, 4.0], "refill": [0.5, 1.0, 1.0], "peer": [3.0, 8.0, 20.0]}
    monkeypatch.setattr(generate.Ours, "__init__", lambda self, work: None)
    monkeypatch.setattr(generate, "interleave", lambda calls, repeats: taken)
    exact, refill, peer = generate.measure(TINY, 3)
    assert (exact["tokens_per_second"], exact["slowest"], exact["fastest"]) == (11, 5.5, 22)
    assert refill["tokens_per_second"] == 22 and not refill["times_as_fast"]
    assert peer["times_as_fast"] == {"exact": 4, "refill": 8}  # of 3, 4, 5 and of 6, 8, 20


def test_the_work_is_done_as_said(monkeypatch):
    ends = []
    real = decode.advance

    def advance(*args):
        ends.append(real(*args))
        return ends[-1]

    monkeypatch.setattr(decode, "advance", advance)
    ours = generate.Ours(TINY)
    assert ours.write(2, 11, "refill") > 0 and ours.write_around(5, 4) > 0
    assert ends[0].length_B.tolist() == [12, 12]
    assert ends[1].length_B.tolist() == [7]  # 3 were there, 4 came: the fifth amid them


def test_the_command_prints_a_table_or_json(monkeypatch, capsys):
    monkeypatch.setattr(generate, "WORKS", (TINY,))
    monkeypatch.setattr(generate, "cost_by_position", lambda work, repeats: {"ratio": 1.25})

    def call(*argv):
        code = cli.call(bench.main, ["bench", *argv], flags=bench.FLAGS, words="what")
        return code, *capsys.readouterr()

    code, out, err = call("generate", "--repeats=2", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "") and report["repeats"] == 2
    assert [line["who"] for line in report["results"]] == ["exact", "refill"]
    assert all(line["tokens_per_second"] > 0 for line in report["results"])
    assert report["cost_by_position"] == {"ratio": 1.25}
    code, out, _ = call("generate", "--repeats=1")
    assert code == 0 and str(TINY) in out
    assert "gptjax --window=refill" in out and "ratio 1.25" in out
    for wrong, named in (("train", "generate"), ("--repeats=0", "--repeats=0")):
        code, out, err = call("generate", wrong)
        assert (code, out) == (2, "") and named in err and err.count("\n") == 1


def test_the_cost_by_position_is_per_token(monkeypatch):
    seconds = {10: [0.1, 0.2, 0.4], 250: [0.3, 0.4, 0.2]}
    monkeypatch.setattr(generate.Ours, "write_around", lambda self, at, n: seconds[at].pop())
    monkeypatch.setattr(generate.Ours, "__init__", lambda self, work: None)
    found = generate.cost_by_position(TINY, repeats=2, tokens=10)
    assert found["ms_per_token_at_10"] == pytest.approx(15)  # 0.1 and 0.2 s; 0.4 was the warm-up
    assert found["ms_per_token_at_250"] == pytest.approx(35)
    assert found["ratio"] == pytest.approx((2 + 3) / 2)
