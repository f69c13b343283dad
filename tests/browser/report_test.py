"""The report in a real browser."""

import pytest
from tiny_runs import config, fit, write_text

from gptjax import report
from gptjax.checkpoints.run import open_run


@pytest.fixture(scope="module")
def gpt_page(tmp_path_factory):
    """A tiny GPT's page, all of its checkpoints kept."""
    folder = tmp_path_factory.mktemp("page")
    fit(config(write_text(folder), "gpt", checkpoint={"keep_last": 9}), folder / "run")
    report.write(open_run(folder / "run"), folder / "run", folder / "page.html")
    return folder / "page.html"


@pytest.mark.parametrize("size", ["wide", "phone"])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_opens_without_a_complaint(open_page, axe, gpt_page, size, dark):
    page = open_page(gpt_page, size, dark)
    assert page.locator("h1").inner_text() == "tiny-gpt"
    assert axe(page) == []
    inside, shown = page.evaluate("[document.body.scrollWidth, innerWidth]")
    assert inside <= shown, "the page scrolls sideways"


def test_the_slider_moves_through_training_by_keys(open_page, gpt_page):
    page = open_page(gpt_page)
    slider = page.locator("#time")
    slider.focus()
    page.keyboard.press("Home")
    assert "step 0" in slider.get_attribute("aria-valuetext")
    page.keyboard.press("End")
    assert "step 23" in slider.get_attribute("aria-valuetext")
