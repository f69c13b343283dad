"""The panel of layers in a real browser: its numbers are those of ``interpret/layers``."""

import pytest
from tiny_runs import STEPS, build_once, config, fit, write_text

from gptjax import report
from gptjax.checkpoints.run import open_run
from gptjax.interpret import layers
from gptjax.web import payload


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder, the train split and the page of a tiny model with ReLUs, tiny_runs' ladder."""
    folder = tmp_path_factory.mktemp("layers")
    of_run = config(write_text(folder), "ffwd", checkpoint={"keep_last": 9})
    fit(of_run, folder / "run")
    with pytest.MonkeyPatch.context() as patch:  # this panel alone
        for parts in (payload.FACTS, payload.OF_CHECKPOINT):
            for name in set(parts) - {"layers"}:
                patch.delitem(parts, name)
        report.write(open_run(folder / "run"), folder / "run", folder / "page.html")
    return folder / "run", build_once(of_run).splits["train"], folder / "page.html"


def expected_of(found, view):
    """data-what -> value of all that the panel shows of a ``Layers``."""
    told = {"layers.nats": found.nats, "layers.rate": found.learning_rate}
    for n, flow in enumerate(found.flows):
        seen = {"values": flow.values, "gradient": flow.gradient}[view]
        told[f"layers.flow.{n}.{view}.mean"] = seen.mean
        told[f"layers.flow.{n}.{view}.std"] = seen.std
        for name in ("saturated", "zero", "dead", "norm"):
            told[f"layers.flow.{n}.{name}"] = getattr(flow, name)
    for n, matrix in enumerate(found.matrices):
        for name in ("std", "grad_mean", "grad_std", "grad_to_data", "update_to_data"):
            told[f"layers.matrix.{n}.{name}"] = getattr(matrix, name)
    return {name: value for name, value in told.items() if value is not None}


def test_all_numbers_are_those_of_python(made, open_page, values):
    workdir, split, file = made
    page = open_page(file)
    for step, key in ((0, "Home"), (STEPS, "End")):
        page.locator("#time").focus()
        page.keyboard.press(key)
        run = open_run(workdir, step)
        found = layers.at_checkpoint(run, workdir, layers.draw(run, split))
        for view, name in (("gradient", "their gradients"), ("values", "activations")):
            page.get_by_role("button", name=name, exact=True).click()
            shown = {k: float(v) for k, v in values(page).items() if k.startswith("layers.")}
            told = expected_of(found, view)
            assert shown == pytest.approx(told, rel=1e-4, abs=1e-9)
            assert len(told) == 2 + 2 * len(found.flows) + 2 + 5 * len(found.matrices)


def test_the_panel_draws_each_place_each_matrix_and_time(made, open_page):
    workdir, split, file = made
    run, page = open_run(workdir), open_page(file)
    found = layers.measure(run.model, run.params, layers.draw(run, split))
    panel = page.locator("#layers")
    assert panel.locator("svg.histogram").count() == len(found.flows) == 5
    assert panel.locator("svg.ruler circle").count() == len(found.matrices) == 9
    assert panel.locator("svg .curve").count() >= 3
    assert "After ReLU" in panel.inner_text() and "After tanh" not in panel.inner_text()
