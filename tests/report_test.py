"""The page that a training leaves: the same whether a thread looked ahead or not."""

import json
import re

import pytest
import tiny_runs

from gptjax import report
from gptjax.monitoring.console import Terminal
from gptjax.training import trainer


def data_of(page):
    text = re.search(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1]
    return json.loads(text)


@pytest.mark.parametrize("cores", [1, 10**6])
def test_a_training_leaves_its_page_whether_or_not_cores_are_to_spare(
    cores, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(report, "SPARE_CORES", cores)
    config = tiny_runs.config(tiny_runs.write_text(tmp_path), "gpt")
    folder = tmp_path / "run"
    with Terminal() as terminal:

        def page(exp):
            return report.OfTraining(exp, folder, folder, terminal)

        trainer.fit(config, folder, terminal, beside=page)
    assert capsys.readouterr().out.splitlines()[-1] == f"look inside: {folder}/report.html"
    data = data_of(folder / "report.html")
    steps = [checkpoint["step"] for checkpoint in data["checkpoints"]]
    assert data["step"] in steps and steps == sorted(set(steps))
    for checkpoint in data["checkpoints"]:
        assert {"text", "embeddings", "layers", "lessons"} < set(checkpoint)
        assert checkpoint["layers"]["no_updates"] == ""
    if cores > 1:
        assert steps == [data["step"]]
