"""The command ``bench``: tables or JSON, and what it refuses."""

import json

import pytest

from gptjax.bench import __main__ as bench
from gptjax.bench import generate, peaks, startup, train
from gptjax.cli import main as cli

TINY = generate.Work(8, 12, 3, 2, batch_size=2, tokens=11, windows=("exact", "refill"))


def call(capsys, *argv):
    code = cli.call(bench.main, ["bench", *argv], flags=bench.FLAGS, words="what")
    return code, *capsys.readouterr()


def test_generate_prints_a_table_or_json(monkeypatch, capsys):
    monkeypatch.setattr(generate, "WORKS", (TINY,))
    monkeypatch.setattr(generate, "cost_by_position", lambda work, repeats: {"ratio": 1.25})
    code, out, err = call(capsys, "generate", "--repeats=2", "--json")
    report = json.loads(out)
    assert code == 0 and report["repeats"] == 2
    assert [line["who"] for line in report["results"]] == ["exact", "refill"]
    assert all(line["tokens_per_second"] > 0 for line in report["results"])
    assert report["cost_by_position"] == {"ratio": 1.25}
    code, out, _ = call(capsys, "generate", "--repeats=1")
    assert code == 0 and str(TINY) in out and "2/3/12" in out
    assert "gptjax --window=refill" in out and "ratio 1.25" in out


def test_train_prints_a_table_or_json(monkeypatch, capsys):
    line = {"work": "w", "who": "gptjax float32", "tokens_per_second": 12_345.6}
    line |= {"ms_per_step": {"median": 3.25, "fastest": 3.0, "slowest": 4.5}}
    line |= {"flops_per_second": 5.5e9, "share_of_peak": 0.25, "compile_seconds": 1.5}
    line |= {"memory_bytes": 7e6, "steps": 1000, "seconds": 3.25}
    line["times_as_fast"] = {"PyTorch eager float32": 2.5, "PyTorch eager bfloat16": 1.75}
    asked = []

    def measure(work, repeats, with_peers, peaks, told, note):
        asked.append((str(work), repeats, peaks))
        told("warming up", 0, 1)
        return [line]

    monkeypatch.setattr(train, "measure", measure)
    monkeypatch.setattr(
        peaks, "find", lambda dtype, with_peers: {"flops_per_second": 8e9, "source": "found"}
    )
    code, out, _ = call(capsys, "train", "--only=dropout", "--repeats=3")
    cells = "3.25 3 4.5 12,346 5.5 25 1.5 7 1,000 steps: 3.2 s 1.75 x PyTorch eager bfloat16"
    assert code == 0 and cells in " ".join(out.split())
    assert "peak bfloat16: 8 GFLOP/s, found" in out
    both = {"float32": 8e9, "bfloat16": 8e9}
    assert asked == [("6/6/384, block 256, batch 8, dropout 0.2", 3, both)]
    code, out, err = call(capsys, "train", "--json")
    assert code == 0 and err == "" and len(asked) == 1 + len(train.WORKS)
    assert json.loads(out)["results"] == [line] * len(train.WORKS)


def test_cost_and_startup_print_tables(monkeypatch, capsys):
    row = {"size": 64, "tokens_per_second": 900.0, "memory_bytes": 3e6}
    row["ms_per_step"] = {"median": 12.5, "fastest": 11.0, "slowest": 13.0}
    found = {"exponent": 1.75, "rows": [row]}
    monkeypatch.setattr(train, "cost", lambda *args: found)
    code, out, _ = call(capsys, "train", "--cost")
    assert code == 0 and out.count("power 1.75") >= 3 and "12.5 ms/step" in out
    lines = [{"what": "import", "seconds": {"median": 2.5, "fastest": 1.5, "slowest": 3.5}}]
    monkeypatch.setattr(startup, "measure", lambda *args: lines)
    code, out, _ = call(capsys, "startup")
    assert code == 0 and "import 2.50 1.50 3.50" in " ".join(out.split())


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["generates"], "did you mean generate?"),
        ([], "try train, generate, startup"),
        (["generate", "train"], "'generate train'"),
        (["generate", "--repeats=0"], "--repeats=0"),
        (["generate", "--only=4/4"], "--only is of bench train"),
        (["startup", "--peers"], "--peers"),
        (["train", "--cost", "--only=4/4"], "give one"),
    ],
)
def test_what_it_refuses_is_a_line(capsys, argv, named):
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2, "") and named in err and err.count("\n") == 1


def test_a_work_that_is_not_there_is_answered_with_those_that_are(capsys):
    code, _, err = call(capsys, "train", "--only=7/7/77")
    assert code == 2 and "3/4/32, block 8" in err and err.count("\n") == 1
