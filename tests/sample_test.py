"""The command ``sample``: what its flags print."""

import json

import pytest
import tiny_runs

from gptjax import sample
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.data.corpora import Corpus
from gptjax.evaluation.memorization import longest
from gptjax.generation import generate
from gptjax.generation.stopping import Sample
from gptjax.monitoring.console import shown


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A GPT of a stream and an MLP of items; their text stays where it is."""
    folder = tmp_path_factory.mktemp("sample")
    text = tiny_runs.write_text(folder)
    for kind in ("gpt", "mlp"):
        config = tiny_runs.config(
            text, kind, train={"steps": 3, "eval_every": 3}, sample={"max_new_tokens": 0}
        )
        tiny_runs.fit(config, folder / kind)
    return folder


@pytest.fixture
def call(folders, capsys):
    """Call the command on a run: (exit code, stdout, stderr)."""

    def call(kind, *flags):
        argv = ["gptjax.sample", f"--workdir={folders / kind}", *flags]
        code = cli.call(sample.main, argv, flags=sample.FLAGS)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_text_is_its_prompt_and_what_follows(call, folders):
    code, out, err = call("gpt", "--prompt=abc", "--max_new_tokens=21")
    assert (code, err) == (0, "")
    expected = runs.open_run(folders / "gpt").generate("abc", max_new_tokens=21)[0]
    assert out == f"abc{expected.text}\n"


@pytest.mark.parametrize("window", ["exact", "refill"])
def test_streamed_text_is_the_same(window, call):
    flags = ["--prompt=abc", "--prompt=d", "--num_samples=2", f"--window={window}"]
    flags += ["--max_new_tokens=40", "--stop=ab", "--stop=g\n"]
    assert call("gpt", *flags, "--stream") == call("gpt", *flags)


def test_streamed_items_stand_one_a_line_as_all_at_once(call):
    flags = ["--prompt=a", "--num_samples=3", "--max_new_tokens=8"]
    assert call("mlp", *flags, "--stream") == call("mlp", *flags)


def test_json_is_an_object_a_line(call):
    flags = ["--prompt=ab", "--prompt=", "--num_samples=2", "--max_new_tokens=7", "--json"]
    code, out, _ = call("gpt", *flags)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["prompt"] for line in lines] == ["ab", "ab", "", ""]
    for line in lines:
        assert set(line) == {"prompt", "text", "ids", "log_probs", "why"}
        assert len(line["text"]) == len(line["ids"]) == len(line["log_probs"]) == 7
        assert line["why"] == "length" and max(line["log_probs"]) < 0
    again = call("gpt", "--prompt=ab", *flags[3:])[1]
    assert json.loads(again) == lines[0]


def test_a_prompt_may_stand_in_a_file(call, tmp_path):
    (tmp_path / "prompt.txt").write_text("gfe\nd", encoding="utf-8")
    file = f"--prompt_file={tmp_path / 'prompt.txt'}"
    _, out, _ = call("gpt", file, "--max_new_tokens=5", "--json")
    assert json.loads(out)["prompt"] == "gfe\nd"
    assert call("gpt", f"{file}.not", "--max_new_tokens=5")[0] == 2


@pytest.mark.parametrize(
    "flag",
    ["temperature=0.3", "top_k=2", "top_p=0.4", "min_p=0.99", "repetition_penalty=9", "seed=3"],
)
def test_every_flag_reaches_the_text(flag, call, folders):
    name, value = flag.split("=")
    value = float(value) if "." in value else int(value)
    run, common = runs.open_run(folders / "gpt"), {"max_new_tokens": 40}
    given = {"temperature": 1.0} | {name: value}
    made = run.generate("abc", **common, **given)[0].text
    flags = [f"--{name}={value}" for name, value in (common | given).items()]
    assert call("gpt", "--prompt=abc", *flags)[1] == f"abc{made}\n"
    assert made != run.generate("abc", **common, temperature=1.0)[0].text


def test_the_checkpoint_that_is_asked_for_writes(call, folders):
    texts = {
        which: call("gpt", f"--checkpoint={which}", "--max_new_tokens=60")[1]
        for which in ("0", "3", "last")
    }
    assert texts["0"] != texts["3"] == texts["last"]


def test_an_item_is_prompted_by_a_line_without_its_end(call, tmp_path):
    (tmp_path / "prompt.txt").write_text("ab\n", encoding="utf-8")
    file = f"--prompt_file={tmp_path / 'prompt.txt'}"
    assert call("mlp", file, "--json") == call("mlp", "--prompt=ab", "--json")
    code, out, err = call("mlp", "--prompt=ab\ncd")
    assert (code, out) == (2, "") and "goes over a line's end" in err


def test_the_report_shows_ten_of_each_and_looks_for_passages_in_train_alone():
    made = [Sample("", f"n{i // 2}", (), (), "end") for i in range(40)]
    made += [Sample("t", "x", (), (), "end"), Sample("", "v", (), (), "end")]
    items = Corpus("c", "items", "s", "h", {"train": "tx\n", "val": "v\n", "test": "u\n"})
    train, held, new = sample._report(items, made).splitlines()[2:]
    assert new.split()[0] == "40" and len(new.split("new")[1].split(", ")) == 10
    assert train.split()[-1] == "tx" and held.split()[-1] == "v"
    text = Corpus("c", "stream", "s", "h", {"train": "aab", "val": "xyz"})
    assert "1 characters, 'b'" in sample._report(text, [Sample("", "xyzb", (), (), "length")])


def test_a_report_on_another_text_is_refused_before_anything_is_made(folders, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text((folders / "words.txt").read_text(encoding="utf-8"), encoding="utf-8")
    config = tiny_runs.config(text, train={"steps": 0}, sample={"max_new_tokens": 0})
    tiny_runs.fit(config, tmp_path / "run")
    text.write_text("a" + text.read_text(encoding="utf-8"), encoding="utf-8")
    argv = ["gptjax.sample", f"--workdir={tmp_path / 'run'}", "--report"]
    capsys.readouterr()
    assert cli.call(sample.main, argv, flags=sample.FLAGS) == 2
    said = capsys.readouterr()
    assert said.out == "" and "is not the one that" in said.err


def test_a_terminal_gets_no_control_characters(monkeypatch, capsys):
    text = "a\x1b[2J\x07\nb"
    assert shown(text) == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert shown(text) == "a\\x1b[2J\\x07\nb"


def test_ten_items_come_when_no_number_is_set(call):
    _, out, _ = call("mlp", "--max_new_tokens=9")
    assert len(out.splitlines()) == generate.ITEMS_SHOWN


def test_the_report_says_how_many_items_are_copies(call):
    code, out, _ = call("mlp", "--num_samples=30", "--max_new_tokens=9", "--report")
    items, report = out.split("\nof 30 items:\n")
    counts = {
        line.split(") ")[1].split("  ")[0].strip(): int(line.split()[0])
        for line in report.splitlines()
    }
    assert code == 0 and sum(counts.values()) == 30 == len(items.splitlines())
    assert list(counts) == ["in train", "held out", "new"]


def test_the_report_of_a_text_quotes_the_longest_passage_of_the_training_text(call, folders):
    _, out, err = call("gpt", "--max_new_tokens=60", "--json", "--report")
    text = (folders / "words.txt").read_text(encoding="utf-8")
    passage = longest(json.loads(out)["text"], text[: int(0.9 * len(text))])
    assert f"{len(passage)} characters, {passage!r}" in err and len(passage) > 1


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--temperature=-1"], "temperature=-1"),
        (["--top_p=0"], "top_p=0"),
        (["--max_new_tokens=0"], "max_new_tokens=0"),
        (["--num_samples=0"], "--num_samples=0"),
        (["--window=half"], "half"),
        (["--seed=-1"], "seed=-1"),
        (["--prompt=é"], "'é'"),
        (["--checkpoint=newest"], "newest"),
        (["--stream", "--json"], "--stream"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(flags, named, call):
    code, out, err = call("gpt", *flags)
    assert (code, out) == (2, "") and named in err and err.count("\n") == 1
