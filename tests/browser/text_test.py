"""The text panel in a real browser: each number on it is Python's."""

import re

import numpy as np
import pytest
from random_runs import save_random_runs
from tiny_runs import config, write_text

from gptjax import report
from gptjax.checkpoints.run import open_run
from gptjax.evaluation.count_models import count_bigram
from gptjax.interpret import lens, text
from gptjax.web import context

SIZES = {"n_layer": 3, "n_head": 2, "block_size": 11, "n_embd": 10}


@pytest.fixture(scope="module")
def gpt(tmp_path_factory, random_params):
    """The folder of a tiny GPT's run, and the page of its three checkpoints."""
    folder = tmp_path_factory.mktemp("text")
    corpus = write_text(folder)
    of_run = config(corpus, "gpt", model=SIZES)
    run = save_random_runs(random_params, folder / "run", corpus, of_run, [0, 7, 23])
    report.write(run, folder / "run", folder / "page.html")
    return folder


@pytest.fixture(scope="module")
def names(tmp_path_factory, random_params):
    """The same of an MLP that learnt items."""
    folder = tmp_path_factory.mktemp("names")
    corpus = write_text(folder)
    run = save_random_runs(random_params, folder / "run", corpus, config(corpus, "mlp"), [5])
    report.write(run, folder / "run", folder / "page.html")
    return folder


def expected(folder, which, i, layer=0, head=0):
    """data-what -> value of all that the panel says of token i, by Python's own functions."""
    run = open_run(folder / "run", which)
    of_page = context.of_run(run, folder / "run")
    cut = text.rows(run, of_page.text, 256)
    own, at = text.read(run, cut), i - 1
    bigram = count_bigram(*of_page.splits["train"].pairs(), run.tokenizer.vocab_size)
    counted = text.bigram_nats(cut, bigram)
    said = {"text.mean.nats": own.nats.mean(), "text.mean.bigram": counted.mean()}
    p = np.exp(-own.nats[at])
    said |= {f"text.nats.{i}": own.nats[at], f"text.p.{i}": p, f"text.rank.{i}": own.rank[at]}
    said[f"text.bigram.{i}"] = counted[at]
    said |= {f"text.top.{i}.{k}": p for k, p in enumerate(own.top_p[at])}
    if cut.ids[i] not in own.top_ids[at]:
        said[f"text.came.{i}"] = np.exp(-own.nats[at])
    row = int(np.flatnonzero(cut.first_R < i)[-1])
    place, first = at - cut.first_R[row], cut.first_R[row]
    found = list(text.captures(run, cut))[row]
    if found.attention_NxBxHxTxS is not None:
        weights = found.attention_NxBxHxTxS[layer, 0, head, place, : place + 1]
        said |= {f"text.attention.{layer}.{head}.{i}.{first + s}": w for s, w in enumerate(weights)}
        layers = lens.lens(run, found, cut.y_RxT[row])
        for n in range(run.model.n_layer + 1):
            said |= {f"text.lens.{n}.{i}.{k}": p for k, p in enumerate(layers.top_p[n, place])}
            said[f"text.lens_p.{n}.{i}"] = np.exp(-layers.nats[n, place])
            said[f"text.lens_rank.{n}.{i}"] = layers.rank[n, place]
    return said


def compare(page, values, known, least):
    """Each figure of the panel is a known one; all that are told of each kind are there."""
    shown = {what: float(v) for what, v in values(page).items() if what.startswith("text.")}
    assert len(shown) >= least and set(shown) <= set(known)
    missing = {what for what in set(known) - set(shown) if "attention" not in what}
    assert missing == set()
    for what, value in shown.items():
        assert value == pytest.approx(known[what], rel=1e-5, abs=2e-5), what


def chip(page, i):
    return page.locator(f"#chip-{i}")


def test_every_number_of_a_token_is_pythons(gpt, open_page, values):
    page = open_page(gpt / "page.html")
    for i in (9, 3):  # what was chosen before leaves nothing on the page
        chip(page, i).click()
        known = expected(gpt, 23, i)
        compare(page, values, known, least=30)
        bars = [what for what in values(page) if what.startswith("text.attention")]
        assert len(bars) == min(6, i)
    shown = page.locator(".text-said").inner_text()
    assert f"{known['text.nats.3']:.4f} nats" in shown and chip(page, 3).inner_text() in shown


def test_a_head_is_chosen_and_its_arcs_drawn(gpt, open_page, values):
    page = open_page(gpt / "page.html")
    chip(page, 8).click()
    page.get_by_role("button", name="layer 3, head 2", exact=True).click()
    known = expected(gpt, 23, 8, layer=2, head=1)
    compare(page, values, known, least=30)
    drawn = [w for what, w in known.items() if what.startswith("text.attention") and w >= 0.02]
    assert page.locator(".arc").count() == len(drawn) > 1
    read = page.locator("#text .matrix .read-out")
    page.locator("#text .matrix canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert re.search(rf"{100 * known['text.attention.2.1.8.6']:.1f} %", read.inner_text())
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert "the mask hides it" in read.inner_text()


def test_the_slider_moves_losses_heads_and_lens(gpt, open_page, values):
    page = open_page(gpt / "page.html")
    chip(page, 7).click()
    page.locator("#time").focus()
    page.keyboard.press("Home")
    at_0 = expected(gpt, 0, 7)
    compare(page, values, at_0, least=30)
    assert at_0["text.mean.nats"] != expected(gpt, 23, 7)["text.mean.nats"]


def test_arrow_keys_walk_through_the_tokens(gpt, open_page):
    page = open_page(gpt / "page.html")
    chip(page, 4).click()
    page.get_by_role("listbox").focus()
    marked = page.locator(".chip[aria-selected=true]")
    for key, i in (("ArrowRight", 5), ("ArrowLeft", 4), ("Home", 1), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert marked.get_attribute("id") == f"chip-{i}" and marked.count() == 1
    page.keyboard.press("ArrowDown")
    below, first = marked.bounding_box(), chip(page, 1).bounding_box()
    assert below["y"] > first["y"]
    page.keyboard.press("ArrowUp")
    assert marked.bounding_box()["y"] == first["y"]
    page.keyboard.press("End")
    assert marked.get_attribute("id") == f"chip-{page.locator('.chip').count() - 1}"


def test_colours_are_the_loss_or_what_the_bigram_lost_more(gpt, open_page):
    page = open_page(gpt / "page.html")
    run = open_run(gpt / "run", 23)
    cut = text.rows(run, context.of_run(run, gpt / "run").text, 256)
    nats = text.read(run, cut).nats
    most, least = 1 + int(np.argmax(nats)), 1 + int(np.argmin(nats))

    def brightness(i):
        colour = chip(page, i).evaluate("e => getComputedStyle(e).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert brightness(most) < brightness(least)  # more loss, more ink
    before = brightness(most)
    page.get_by_role("button", name="loss minus the count bigram's").click()
    assert brightness(most) != before
    assert "nats better than the bigram" in page.locator("#text .colour-legend").inner_text()


def test_names_have_losses_and_no_heads(names, open_page, values, axe):
    page = open_page(names / "page.html")
    chip(page, 5).click()
    run = open_run(names / "run")
    compare(page, values, expected(names, run.step, 5), least=10)
    assert not page.locator(".heads").is_visible() and page.locator(".arc").count() == 0
    assert axe(page) == []


@pytest.mark.parametrize("size, dark", [("wide", True), ("phone", False)])
def test_axe_finds_nothing_with_all_parts_open(gpt, open_page, axe, size, dark):
    page = open_page(gpt / "page.html", size, dark)
    chip(page, 2).click()
    page.get_by_role("button", name="loss minus the count bigram's").click()
    assert axe(page) == []
    inside, shown = page.evaluate("[document.body.scrollWidth, innerWidth]")
    assert inside <= shown
    box = chip(page, 2).bounding_box()
    assert min(box["width"], box["height"]) >= 24
