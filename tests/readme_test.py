"""What the README shows is what the commands print: all that does not depend on a clock."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from gptjax import report
from gptjax.checkpoints import run
from gptjax.config import files, parse
from gptjax.monitoring import console
from gptjax.monitoring.console import Terminal
from gptjax.training import experiment, summary

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRANSCRIPT = next(b for b in README.split("```") if b.startswith("\ngpt-small")).strip("\n")
NUMBER = r"(\d[\d,]*\.?\d*)"


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """The run of the transcript, built and not trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTJAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("GPTJAX_DATA_DIR", raising=False)
        return experiment.build(parse.from_dict(files.load("gpt:small")))


def printed(show) -> list[str]:
    """The lines of what ``show`` has a terminal print."""
    stream = io.StringIO()
    show(Terminal(stream, live=False))
    return stream.getvalue().splitlines()


def numbers(pattern: str) -> list[float]:
    """The numbers of the transcript where it matches."""
    found = re.search(pattern, TRANSCRIPT)
    assert found, pattern
    return [float(number.replace(",", "")) for number in found.groups()]


def test_the_header_is_that_of_the_run(exp, tmp_path, monkeypatch):
    monkeypatch.setattr(summary.devices, "check", lambda guess: "")
    params = exp.abstract_state.params
    lines = printed(lambda t: summary.first_page(exp, tmp_path, t, params, 0, []))
    lines = list(map(str.rstrip, lines))
    shown = [line for line in TRANSCRIPT.splitlines() if re.match(r"  [a-z]+ {2,}", line)]
    assert len(shown) == 8
    of_the_machine = ("device", "computed", "folder", "corpus")
    for line in shown:
        assert line.split()[0] in of_the_machine or line in lines
    (n_params,) = numbers(rf"of its {NUMBER} parameters")
    assert lines[-2].split() == ["total", f"{n_params:,.0f}"]


def test_an_evaluation_is_printed_as_it_is_shown(exp):
    shown = re.findall(rf"step +{NUMBER}   train {NUMBER}   val {NUMBER}(.*)", TRANSCRIPT)
    assert [step for step, *_ in shown] == ["0", "500", "1,000"]
    best = float("inf")
    for step, train, val, _ in shown:
        step, train, val = int(step.replace(",", "")), float(train), float(val)
        is_best, best = val < best, min(val, best)
        line = {"step": step, "train_nats": train, "val_nats": val, "best": is_best}
        line |= {"bigram_nats": exp.bigram_nats["val"]}
        (text,) = printed(lambda terminal, line=line: terminal.evaluation(**line))
        (there,) = [x for x in TRANSCRIPT.splitlines() if x.startswith(text[:40])]
        gap, said = (float(re.search(rf"{NUMBER} (above|below)", x)[1]) for x in (text, there))
        assert abs(gap - said) < 1.5e-4  # of figures that were not rounded yet
        assert there == text.replace(f"{gap:.4f}", f"{said:.4f}")


def test_the_last_lines_are_made_of_the_figures_that_they_show(exp, tmp_path, monkeypatch):
    steps, train, n, val, error, rate, compiling, evaluating = numbers(
        rf"step {NUMBER}, each[\s\S]*train {NUMBER} over {NUMBER} .*, val {NUMBER} ± {NUMBER} "
        rf"[\s\S]*\({NUMBER} tokens/s\), after {NUMBER} s of compiling; .* {NUMBER} s"
    )
    figures = {"steps": int(steps), "best_step": int(steps), "best_val_nats": val}
    figures |= {"final_train_nats": train, "final_val_nats": val, "final_val_nats_error": error}
    sample = exp.splits["train"].sample(exp.splits["val"].n_rows)
    figures["final_train_tokens"] = sample.n_predicted
    assert n == sample.n_predicted
    figures |= {"tokens_per_second": rate, "compile_seconds": compiling}
    figures |= {"train_seconds": compiling + steps * exp.tokens_per_step / rate}
    figures |= {"evaluation_seconds": evaluating}
    figures |= {"count_bigram_val_nats": exp.bigram_nats["val"]}
    monkeypatch.setattr(summary.plots, "loss_curves", lambda *_: "")
    lines = printed(lambda t: summary.last_page(exp, tmp_path, t, figures))
    expected = exp.config.expected
    lines += printed(lambda t: summary.write_last_page(exp, tmp_path, t, figures, expected))
    monkeypatch.setattr(report.OfTraining, "_write", lambda page: None)
    lines += printed(lambda t: write_page(exp, tmp_path, t))
    lines = [line.replace(str(tmp_path), "runs/gpt-small") for line in lines]
    assert TRANSCRIPT.splitlines()[-len(lines) :] == lines
    assert (tmp_path / run.SUMMARY).exists() and console.duration(59.4) == "59 s"


def write_page(exp, folder, terminal):
    with report.OfTraining(exp, folder, folder, terminal) as page:
        page.write()


ROWS = [row.split("|")[1:-1] for row in README.splitlines() if row.startswith("| `configs/")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_a_loss_of_the_table_is_in_the_band_of_its_config(row):
    name, _, corpus, _, loss = map(str.strip, row)
    size = re.search(r"\(`(:\w+)`\)|`[^`]+(:\w+)`", name)
    settings = files.load(name.split("`")[1].split(":")[0] + ((size[1] or size[2]) if size else ""))
    band = settings.to_dict()["expected"]
    found = re.findall(r"\d\.\d\d?", loss)
    if not found:  # a loss without a meaning of its own
        assert settings.train.neighbours
        return
    low, high = band[corpus if corpus in band else "tinyshakespeare"]
    assert low <= float(found[0]) <= high
