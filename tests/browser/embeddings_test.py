"""The panel of vectors, places, pairs and windows in a real browser: its numbers are Python's."""

import numpy as np
import pytest
from tiny_runs import STEPS, build_once, config, fit, write_text

from gptjax import report
from gptjax.checkpoints.run import open_run
from gptjax.evaluation import probe
from gptjax.interpret import tables
from gptjax.web import payload


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function of a model's kind: the folder, the splits and the page of a tiny run."""
    known = {}

    def make(kind, **changes):
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            changes["checkpoint"] = {"keep_last": 9}
            of_run = config(write_text(folder), kind, **changes)
            fit(of_run, folder / "run")
            with pytest.MonkeyPatch.context() as patch:  # this panel alone
                for parts in (payload.FACTS, payload.OF_CHECKPOINT):
                    for name in set(parts) - {"embeddings"}:
                        patch.delitem(parts, name)
                report.write(open_run(folder / "run"), folder / "run", folder / "page.html")
            known[kind] = folder / "run", build_once(of_run).splits, folder / "page.html"
        return known[kind]

    return make


def figures(values, page, prefix):
    """data-what behind a prefix -> number."""
    found = {name: value for name, value in values(page).items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): float(value) for name, value in found.items()}


def test_a_token_is_found_and_its_neighbours_are_those_of_look(made, open_page, values):
    workdir, _, file = made("bigram_embed")
    page = open_page(file)
    for step in (0, STEPS):
        page.locator("#time").focus()
        page.keyboard.press("Home" if step == 0 else "End")
        run = open_run(workdir, step)
        page.locator("#embeddings-search").fill("c")
        id = probe.find(run, ["c"])[0]
        near, _ = probe.near(run, "c", tables.NEAREST)
        found = figures(values, page, f"embeddings.near.{id}.")
        assert found == pytest.approx({str(k): c for k, (_, c) in enumerate(near)}, abs=1e-6)
        names = page.locator("#embeddings .bars .bar-name").all_inner_texts()
        assert [name.replace("\\n", "⏎") for name in names] == [
            name.replace("\\n", "⏎") for name, _ in near
        ]
        assert page.locator("#embeddings .point.chosen").text_content() == "c"
        kept = tables.plane(run, tables.shown(run, None))[1]
        assert figures(values, page, "embeddings.kept") == pytest.approx({"": kept})
    page.locator("#embeddings .bars button").first.click()
    assert page.locator("#embeddings .point.chosen").text_content() == names[0]
    page.locator("#embeddings-search").fill("zz")
    assert "zz" in page.locator("#embeddings [role=status]").first.inner_text()


def test_places_and_pairs_are_read_by_keys(made, open_page, values):
    workdir, splits, file = made("bigram_embed")
    run, page = open_run(workdir), open_page(file)
    places, pairs = page.locator("#embeddings canvas").all()
    places.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):  # from place 0 beside place 1
        page.keyboard.press(key)
    cosines = tables.positions(run)[1]
    seen = figures(values, page, "embeddings.places.")
    assert seen == pytest.approx({"2.2": cosines[2, 2]}, abs=1e-4)
    page.keyboard.press("ArrowLeft")
    seen = figures(values, page, "embeddings.places.")
    assert seen == pytest.approx({"2.1": cosines[2, 1]}, abs=1e-4)
    ids = tables.paired(run, splits)
    after, counted = tables.after_each(run, ids), tables.counts(splits, len(ids), ids)
    row = column = int(probe.find(run, ["e"])[0])
    pairs.focus()
    for key, (i, j) in {"ArrowUp": (row - 1, column), "ArrowLeft": (row - 1, column - 1)}.items():
        page.keyboard.press(key)
        p, q = after[i, j], (counted.pairs[i, j] + 1) / (counted.first[i] + len(ids))
        expected = {"after": p, "counted": q, "pairs": counted.pairs[i, j], "difference": p - q}
        for name, value in expected.items():
            found = figures(values, page, f"embeddings.{name}.")
            assert found == pytest.approx({f"{ids[i]}.{ids[j]}": value}, abs=2e-5), name
    for view in ("the counts", "model minus counts"):
        page.get_by_role("button", name=view).click()
        pressed = page.locator("#embeddings .choice [aria-pressed=true]").inner_text()
        assert pressed == view and page.locator("#embeddings canvas").count() == 2


def test_the_model_of_names_is_computed_in_the_page(made, open_page, values):
    workdir, _, file = made("mlp", model={"n_layer": 2, "n_embd": 5})
    page = open_page(file)
    for step in (0, STEPS):
        page.locator("#time").focus()
        page.keyboard.press("Home" if step == 0 else "End")
        run = open_run(workdir, step)
        V = run.tokenizer.vocab_size
        for text in ("", "a", "abcdefg"):
            page.locator("#window-text").fill(text)
            p_V = probe.next_tokens(run, text)[1][-1]
            found = figures(values, page, "window.p.")
            assert len(found) == V == len(p_V)
            seen = [found[str(id)] for id in range(V)]
            np.testing.assert_allclose(seen, p_V, atol=1e-5)
            assert np.ptp(p_V) > 1e-3
    assert page.locator(".window-places li").all_inner_texts() == ["e", "f", "g"]
    bars = page.locator("#embeddings .bars").last.locator("button")
    bars.nth(probe.find(run, ["b"])[0]).click()
    assert page.locator("#window-text").input_value() == "abcdefgb"
    assert page.locator(".window-places li").all_inner_texts() == ["f", "g", "b"]
    page.locator("#window-text").fill("a?b")
    assert "?b" in page.locator("#embeddings [role=status]").last.inner_text()


def test_a_window_on_a_phone_in_the_dark_is_fit_for_all(made, open_page, axe):
    page = open_page(made("mlp")[2], "phone", True)
    assert page.locator(".window-places li").count() == 3
    assert axe(page) == []
    inside, shown = page.evaluate("[document.body.scrollWidth, innerWidth]")
    assert inside <= shown
