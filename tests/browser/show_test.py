"""What gptjax.show puts into a notebook, in a real browser: the page, in a frame of its own."""

import pytest
from tiny_runs import config, fit, write_text

import gptjax
from gptjax.errors import UserError


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A tiny GPT's page, and a folder."""
    folder = tmp_path_factory.mktemp("show")
    fit(config(write_text(folder), "gpt"), folder / "run")
    return gptjax.show(gptjax.load(folder / "run"), "abc\nde"), folder


@pytest.mark.parametrize("size", ["wide", "phone"])
def test_a_notebook_shows_the_page_and_its_links_stay_within(open_page, values, shown, size):
    page_of_run, folder = shown
    cell = folder / f"{size}.html"
    start = "<!doctype html><html lang=en><meta charset=utf-8><title>notebook</title>"
    cell.write_text(f"{start}<p id=panels>cell</p>{page_of_run._repr_html_()}", encoding="utf-8")
    page = open_page(cell, size)
    frame = page.frames[1]
    frame.wait_for_selector("main section")
    assert frame.locator("h1").inner_text() == "tiny-gpt"
    of_frame = values(frame)
    frame.locator("nav a").last.click()
    section = frame.locator("main section").last
    assert section.evaluate("e => document.activeElement === e")
    assert page.frames[1].url == "about:srcdoc" and page.url == cell.resolve().as_uri()
    # A file of it is the same page.
    assert values(open_page(page_of_run.save(folder / "page.html"), size)) == of_frame


def test_a_page_can_be_kept_and_says_so(shown, tmp_path):
    page_of_run, _ = shown
    assert '.save("page.html")' in str(page_of_run) and "tiny-gpt" in str(page_of_run)
    with pytest.raises(UserError, match="is a folder: name a file"):
        page_of_run.save(tmp_path)
    path = page_of_run.save(tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8") == page_of_run.html
