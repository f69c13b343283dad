"""The playground in a real browser and its server: each number and each text is Python's."""

import re

import numpy as np
import pytest
from random_runs import save_random_runs
from tiny_runs import config, write_text

from gptjax.evaluation import memorization, probe
from gptjax.generation import sampling
from gptjax.interpret import text

SEED = 1337  # where the page begins


@pytest.fixture(scope="module")
def served(tmp_path_factory, random_params):
    """A server of two runs, "gpt" and "bigram": its URL, and the runs."""
    for package in ("starlette", "uvicorn", "httpx"):
        pytest.importorskip(package, reason='not there: pip install ".[serve]" httpx')
    import live_server

    from gptjax.serving import completion_request, models, playground
    from gptjax.web import page

    folder = tmp_path_factory.mktemp("served")
    corpus = write_text(folder)
    runs = {
        kind: save_random_runs(random_params, folder / kind, corpus, config(corpus, kind), [5])
        for kind in ("gpt", "bigram")
    }
    of = [models.Served(kind, str(folder / kind), run) for kind, run in runs.items()]
    data = playground.first_data(of)
    with live_server.serving(
        of,
        limits=completion_request.Limits(),
        more=playground.routes,
        page_html=lambda: page.html_page(data, data["name"], live=True),
    ) as server:
        yield server.url, runs


@pytest.fixture
def playground(open_page, served):
    """The page, with its first run's bars on it."""
    return begin(open_page, served)


def begin(open_page, served, *how):
    page = open_page(served[0], *how)
    page.set_default_timeout(60_000)  # of the first answers, which compile
    page.wait_for_selector("[data-run=gpt] button.next-row")
    settled(page)
    return page


def settled(page):
    """Wait until everything is written and the bars are of what stands there."""
    page.wait_for_selector("#playground button:disabled:text-is('Stop')")
    page.wait_for_selector(".playground-next[aria-busy=true]", state="detached")


def press(page, name):
    page.locator("#playground").get_by_role("button", name=name, exact=True).click()


def ids(page, run="gpt"):
    """The tokens that were written."""
    found = page.locator(f"[data-run={run}] .token").evaluate_all("a => a.map(e => e.dataset.id)")
    return [int(id) for id in found]


def slide(page, name, value):
    """Move a slider as a hand does: the page hears of it."""
    page.locator(f"#playground-{name}").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def assert_bars(page, values, runs, name, typed, **rules):
    """Every figure of a run's column is what the run and the sampler say."""
    settled(page)
    run, begun = runs[name], f"playground.{name}."
    shown = {k.removeprefix(begun): float(v) for k, v in values(page).items() if begun in k}
    context = probe.prompt_ids(run.tokenizer, typed, run.items)
    _, p_SxV = probe.next_tokens(run, typed)
    seen_V = np.isin(np.arange(run.model.vocab_size), context)
    rules = {"temperature": 1.0} | rules
    log_p = np.log(np.maximum(p_SxV[-1:], 1e-30)).astype(np.float32)
    left = np.asarray(sampling.build(**rules)(log_p, seen_V[None]), np.float64)[0]
    q_V = np.exp(left) / np.exp(left).sum()
    of_token = {int(k[2:]): v for k, v in shown.items() if k[2:].isdigit()}
    assert len(of_token) == min(12, run.model.vocab_size)
    for id, p in of_token.items():
        np.testing.assert_allclose(p, p_SxV[-1, id], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(shown[f"sampled.{id}"], q_V[id], rtol=1e-4, atol=1e-6)
    entropy = -(p_SxV[-1] * np.log(p_SxV[-1])).sum()
    np.testing.assert_allclose(shown["entropy"], entropy, rtol=1e-4)
    assert shown["kept"] == (q_V > 0).sum()


def test_bars_move_with_the_text_and_the_sliders(playground, served, values):
    runs = served[1]
    assert_bars(playground, values, runs, "gpt", "")
    for typed in ("ab", "abcdefgabc\nde"):
        playground.locator("#playground-prompt").fill("")
        playground.locator("#playground-prompt").press_sequentially(typed)
        assert_bars(playground, values, runs, "gpt", typed)
    slide(playground, "temperature", 0.5)
    assert_bars(playground, values, runs, "gpt", typed, temperature=0.5)
    slide(playground, "top-k", 3)
    assert_bars(playground, values, runs, "gpt", typed, temperature=0.5, top_k=3)
    slide(playground, "top-k", 101)
    slide(playground, "top-p", 0.6)
    slide(playground, "min-p", 0.2)
    assert_bars(playground, values, runs, "gpt", typed, temperature=0.5, top_p=0.6, min_p=0.2)
    slide(playground, "temperature", 0)
    assert_bars(playground, values, runs, "gpt", typed, temperature=0.0, top_p=0.6, min_p=0.2)
    assert playground.locator(".slider:has(#playground-temperature) output").inner_text() == (
        "0: the likeliest"
    )


def test_the_same_text_step_by_step_and_in_one_go(playground, served):
    run = served[1]["gpt"]
    playground.locator("#playground-prompt").fill("abc")
    settled(playground)
    for _ in range(3):
        press(playground, "One token")
        settled(playground)
    playground.locator("#playground-n").fill("9")
    press(playground, "Write")
    settled(playground)
    [sample] = run.generate("abc", max_new_tokens=12, temperature=1.0, seed=SEED)
    assert ids(playground) == [*sample.ids]
    playground.locator("#playground-prompt").fill("abd")
    settled(playground)
    assert ids(playground) == []
    playground.locator("#playground-prompt").fill("abc")  # its texts have stayed
    settled(playground)
    playground.get_by_role("button", name=re.compile("12 tokens")).click()
    settled(playground)
    assert ids(playground) == [*sample.ids]


def test_another_way_is_taken_and_walked_back(playground, served, values):
    run = served[1]["gpt"]
    playground.locator("#playground-n").fill("7")
    press(playground, "Write")
    settled(playground)
    first = ids(playground)
    assert len(first) == 7
    tokens = playground.locator("[data-run=gpt] .token")
    tokens.nth(3).click()
    begun = run.tokenizer.decode([run.tokenizer.begin_id, *first[:3]])
    assert_bars(playground, values, served[1], "gpt", begun)
    came = playground.locator("[data-run=gpt] button.next-row.came [data-what]").first
    assert came.get_attribute("data-what") == f"playground.gpt.p.{first[3]}"
    # By keys: to the token before, what might have come instead of it, and one of these.
    playground.keyboard.press("ArrowLeft")
    playground.keyboard.press("Enter")
    settled(playground)
    other = playground.locator("[data-run=gpt] button.next-row:not(.came)").first
    id = int(other.locator("[data-what]").first.get_attribute("data-what").rpartition(".")[2])
    other.press("Enter")
    settled(playground)
    assert ids(playground) == [*first[:2], id] and id != first[2]
    press(playground, "Write")
    settled(playground)
    second = ids(playground)
    assert len(second) == 10 and second[:3] == [*first[:2], id]
    press(playground, "Back a token")
    settled(playground)
    assert ids(playground) == second[:9]
    tree = playground.locator("[data-run=gpt] .tree button")
    assert tree.count() == 4  # the prompt, what both share, and the two ways
    tree.nth(0).focus()
    playground.keyboard.press("ArrowDown")
    playground.keyboard.press("ArrowDown")
    playground.keyboard.press("Enter")
    settled(playground)
    assert ids(playground) == first
    assert "5 tokens" in playground.locator(".tree [aria-current=true]").inner_text()


def test_writing_is_stopped(playground):
    playground.locator("#playground-n").fill("4096")
    press(playground, "Write")
    playground.wait_for_selector("[data-run=gpt] .token")
    press(playground, "Stop")
    settled(playground)
    n = len(ids(playground))
    playground.wait_for_timeout(300)
    assert 0 < n == len(ids(playground)) < 4096


def test_runs_stand_side_by_side(playground, served, values):
    runs = served[1]
    playground.check("#playground-run-bigram")
    playground.wait_for_selector("[data-run=bigram] button.next-row")
    playground.locator("#playground-prompt").fill("gab")
    for name in runs:
        assert_bars(playground, values, runs, name, "gab")
    playground.locator("#playground-n").fill("11")
    press(playground, "Write")
    settled(playground)
    for name, run in runs.items():
        [sample] = run.generate("gab", max_new_tokens=11, temperature=1.0, seed=SEED)
        assert ids(playground, name) == [*sample.ids]
    playground.uncheck("#playground-run-bigram")
    assert playground.locator(".playground-column").count() == 1


def test_copied_passages_are_marked(playground, served):
    run = served[1]["gpt"]
    playground.locator("#playground-n").fill("40")
    press(playground, "Write")
    settled(playground)
    press(playground, "Is it copied?")
    found = playground.locator("[data-what='playground.gpt.copied']")
    found.wait_for()
    corpus = run.read_corpus("the run")
    made = run.tokenizer.decode(ids(playground))
    passage = memorization.longest(made, corpus.splits["train"])
    assert found.get_attribute("data-value") == str(len(passage)) and len(passage) > 1
    marked = playground.locator(".token.copied").evaluate_all("a => a.map(e => +e.dataset.id)")
    assert run.tokenizer.decode(marked) == passage


def test_the_other_panels_look_inside_what_was_typed(playground, served, values):
    run = served[1]["gpt"]
    playground.wait_for_selector("#text [data-what='text.mean.nats']")
    typed = "abcdefgab\ncab"
    playground.locator("#playground-prompt").fill(typed)
    settled(playground)
    cut = text.rows(run, typed, 99)
    mean = text.read(run, cut).nats.mean()
    assert float(values(playground)["text.mean.nats"]) != pytest.approx(mean, rel=1e-4)
    press(playground, "Look inside this text")
    playground.locator("#playground [role=status]", has_text="show this text").wait_for()
    assert float(values(playground)["text.mean.nats"]) == pytest.approx(mean, rel=1e-5)
    assert playground.locator("#text [id^=chip-]").count() == len(cut.ids)


def test_a_mistake_is_said_in_one_line_and_goes(playground):
    prompt = playground.locator("#playground-prompt")
    prompt.fill("aXb")
    problem = playground.locator("[data-run=gpt] .error")
    problem.filter(has_text="'X'").wait_for()
    assert "\n" not in problem.inner_text()
    prompt.fill("ab")
    settled(playground)
    assert problem.inner_text() == ""


@pytest.mark.parametrize("size", ["wide", "phone"])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(open_page, served, axe, size, dark):
    page = begin(open_page, served, size, dark)
    page.check("#playground-run-bigram")
    page.wait_for_selector("[data-run=bigram] button.next-row")
    page.locator("#playground-prompt").fill("abc defg"[:3] * 30)
    press(page, "Write")
    settled(page)
    page.locator("[data-run=gpt] .token").nth(4).click()
    page.locator("[data-run=gpt] button.next-row").nth(2).click()
    settled(page)
    assert axe(page) == []
    inside, shown = page.evaluate("[document.body.scrollWidth, innerWidth]")
    assert inside <= shown, "the page scrolls sideways"
