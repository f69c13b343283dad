"""What was trained, the diagrams, lessons and questions in a real browser, against Python."""

import jax
import numpy as np
import pytest
from tiny_runs import EVAL_EVERY, STEPS, config, fit, write_text

from gptjax import report
from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import open_run
from gptjax.interpret import capture, lessons
from gptjax.monitoring import metrics
from gptjax.web import context, run_data

DIVISORS = 4  # 1, √K, √C, K


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    """A tiny GPT's folder, its page, and the run at its last step."""
    folder = tmp_path_factory.mktemp("gpt")
    # Far from where it began, so that it looks at some places more than at others.
    settings = {"checkpoint": {"keep_last": 9}, "optim": {"learning_rate": 0.3, "warmup_steps": 1}}
    fit(config(write_text(folder), "gpt", **settings), folder / "run")
    run = open_run(folder / "run", "last")
    report.write(run, folder / "run", folder / "page.html")
    return folder / "run", folder / "page.html", run


@pytest.fixture(scope="module")
def lesson(gpt):
    folder, _, run = gpt
    return lessons.lesson(run, context.of_run(run, folder).text)


def at_end(page):
    """Move the page to the last checkpoint."""
    page.locator("#time").focus()
    page.keyboard.press("End")
    return page


def entropy(p):
    p = p[p > 0]
    return -np.sum(p * np.log(p))


def test_the_figures_are_those_of_the_folder(open_page, values, gpt):
    folder, html, run = gpt
    page, figures = open_page(html), runs.summary(folder)
    shown = values(page)
    assert page.locator("[data-what='run.summary.verdict']").inner_text() == figures["verdict"]
    assert float(shown["run.loss.0.nats"]) == figures["final_train_nats"]
    assert float(shown["run.loss.1.nats"]) == figures["final_val_nats"]
    assert int(shown["run.parameters"]) == run.n_parameters
    expected = run_data.lines(run, context.of_run(run, folder))
    for name, nats in expected.items():
        assert float(shown[f"run.line.{name}"]) == nats
    assert f"{expected['unigram']:.4f}" in page.locator("#run").inner_text()


def test_a_curve_is_read_by_arrow_keys_on_both_scales(open_page, gpt):
    folder, html, _ = gpt
    page, records = open_page(html), metrics.read(folder / runs.METRICS)
    first = next(r for r in records if "val_nats" in r)
    for scale in ("linear steps", "logarithmic steps"):
        page.get_by_role("button", name=scale, exact=True).click()
        chart = page.locator("#run svg[role=img]").first
        chart.focus()
        page.keyboard.press("ArrowRight")
        read = page.locator("#run .read-out").first.inner_text()
        assert read.startswith("step 0 ") and f"{first['val_nats']:.4f}" in read


def test_the_samples_follow_the_slider_through_training(open_page, values, gpt):
    folder, html, _ = gpt
    page = open_page(html)
    samples = {r["step"]: r for r in metrics.read(folder / runs.METRICS) if "sample" in r}
    text = page.locator("[data-what='samples.shown.text']")
    page.locator("#time").focus()
    page.keyboard.press("Home")
    assert text.text_content() == samples[0]["sample"]
    at_end(page)
    assert text.text_content() == samples[STEPS]["sample"] != samples[0]["sample"]
    page.locator("#samples-time").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert text.text_content() == samples[EVAL_EVERY]["sample"]
    assert float(values(page)["samples.val_nats"]) == samples[EVAL_EVERY]["val_nats"]


def test_the_counts_of_the_boxes_add_up_and_a_box_tells_its_line(open_page, values, gpt):
    _, html, run = gpt
    page = open_page(html)
    shown = values(page)
    each = [
        int(v) for k, v in shown.items() if k.startswith("diagrams.model.") and k[15:].isdigit()
    ]
    assert sum(each) == int(shown["diagrams.model.count"]) == run.n_parameters
    diagram = page.locator("#diagrams-attention")
    diagram.get_by_role("button", name="query, ").click()
    assert "q = self.query(x_BxTxC)" in diagram.inner_text()
    assert "blocks_0/sa/heads/query/kernel" in diagram.inner_text()
    diagram.get_by_role("button", name="key, ").focus()
    page.keyboard.press("Enter")
    assert "k = self.key(x_BxTxC)" in diagram.inner_text()
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused.startswith("key, ")


@pytest.mark.parametrize(
    ("mask", "keeps"), [("on", np.tril), ("off", None), ("upside down", np.triu)]
)
def test_the_mask_lesson_is_the_softmax_of_q_and_k(open_page, values, gpt, lesson, mask, keeps):
    _, html, run = gpt
    page = at_end(open_page(html))
    page.locator("#lessons-mask").get_by_role("button", name=mask, exact=True).click()
    shown, (T, K) = values(page), lesson.q_TxK.shape
    scores = lesson.q_TxK.astype(np.float64) @ lesson.k_TxK.T / np.sqrt(K)
    if keeps:
        scores[keeps(np.ones((T, T))) == 0] = -np.inf
    expected = np.asarray(jax.nn.softmax(scores, axis=-1))
    found = [[float(shown[f"lessons.mask.weight.{i}.{j}"]) for j in range(T)] for i in range(T)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    leak = np.triu(expected, 1).sum() / T
    np.testing.assert_allclose(float(shown["lessons.mask.leak"]), leak, atol=1e-6)
    assert (leak == 0) == (mask == "on")
    for end in ("sum_low", "sum_high"):
        assert abs(float(shown[f"lessons.mask.{end}"]) - 1) < 1e-12
    if mask == "on":  # and that is what the model does
        inside = capture.capture(run.model, run.params, lesson.ids_T[None])
        np.testing.assert_allclose(found, inside.attention_NxBxHxTxS[0, 0, 0], atol=1e-6)


def test_the_divisor_lesson_is_the_softmax_of_q_and_k(open_page, values, gpt, lesson):
    _, html, run = gpt
    page, (T, K) = at_end(open_page(html)), lesson.q_TxK.shape
    C, row, entropies = run.model.n_embd, T - 2, []
    page.locator("#lessons-row").select_option(str(row))
    slider = page.locator("#lessons-divisor")
    slider.focus()
    page.keyboard.press("Home")
    for place, divisor in enumerate((1, np.sqrt(K), np.sqrt(C), K)):
        assert f"{divisor:.2f}" in slider.get_attribute("aria-valuetext")
        scores = lesson.k_TxK.astype(np.float64)[: row + 1] @ lesson.q_TxK[row] / divisor
        expected, shown = np.asarray(jax.nn.softmax(scores)), values(page)
        found = [float(shown[f"lessons.scale.p.{j}"]) for j in range(row + 1)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        entropies.append(float(shown["lessons.scale.entropy"]))
        np.testing.assert_allclose(entropies[-1], entropy(expected), atol=1e-6)
        np.testing.assert_allclose(float(shown["lessons.scale.spread"]), scores.std(), atol=1e-6)
        if place < DIVISORS - 1:
            page.keyboard.press("ArrowRight")
    assert entropies == sorted(entropies) and entropies[0] < entropies[-1] - 1e-3


def test_the_temperature_lesson_is_the_models_distribution_and_draws(
    open_page, values, gpt, lesson
):
    _, html, run = gpt
    page, text = at_end(open_page(html)), run.tokenizer.decode(lesson.ids_T)
    slider = page.locator("#lessons-temperature-slider")
    drawn = set()
    for temperature in (0, 0.5, 1, 2):
        slider.fill(str(temperature))
        logits, shown = lesson.logits_V.astype(np.float64), values(page)
        greedy = np.where(np.arange(len(logits)) == logits.argmax(), 0, -np.inf)
        p = np.asarray(jax.nn.softmax(logits / temperature if temperature else greedy))
        best = np.sort(p)[::-1][:10]
        found = [float(shown[f"lessons.temperature.p.{i}"]) for i in range(len(best))]
        np.testing.assert_allclose(found, best, atol=1e-6)
        np.testing.assert_allclose(
            float(shown["lessons.temperature.entropy"]), entropy(p), atol=1e-6
        )
        for seed in lessons.SEEDS:
            (made,) = run.generate(text, max_new_tokens=1, temperature=temperature, seed=seed)
            token = int(shown[f"lessons.temperature.draw.{seed}"])
            assert run.tokenizer.decode([token]) == made.text
            drawn.add((temperature, token))
    assert len({token for of, token in drawn if of == 0}) == 1
    assert len({token for of, token in drawn if of == 2}) > 1


def test_each_question_is_answered_and_leads_to_a_panel(open_page, gpt, lesson):
    folder, html, run = gpt
    page = at_end(open_page(html))
    questions = page.locator("#questions details")
    assert questions.count() == 5
    for question in questions.all():
        question.locator("summary").click()
        target = question.locator("a").get_attribute("href")
        assert page.locator(target).count() == 1
    said = page.locator("#questions").inner_text()
    V, K = run.tokenizer.vocab_size, lesson.q_TxK.shape[1]
    assert f"√{K}" in said and f"{np.log(V):.4f}" in said
    assert runs.summary(folder)["verdict"] in said
    assert f"{metrics.read(folder / runs.METRICS)[0]['val_nats']:.4f}" in said
    p = np.exp(lesson.logits_V.astype(np.float64))
    assert f"{100 * p.max() / p.sum():.1f} %" in said


def test_a_model_without_heads_shows_what_applies(open_page, axe, tmp_path):
    fit(config(write_text(tmp_path), "bigram"), tmp_path / "run")
    run = open_run(tmp_path / "run", "last")
    report.write(run, tmp_path / "run", tmp_path / "page.html")
    page = open_page(tmp_path / "page.html", "phone")
    assert page.locator("#lessons-temperature").count() == 1
    assert page.locator("#lessons-mask, #lessons-scale, #diagrams-attention").count() == 0
    assert page.locator("#questions details").count() == 5
    said = page.locator("#questions").text_content()
    assert "This bigram has no heads" in said and "logits from N(0, 1)" in said
    assert axe(page) == []


@pytest.mark.parametrize(("size", "dark"), [("wide", True), ("phone", False)])
def test_with_everything_open_the_page_has_no_fault(open_page, axe, gpt, size, dark):
    page = open_page(gpt[1], size, dark)
    page.evaluate("document.querySelectorAll('details').forEach(e => (e.open = true))")
    page.locator("#lessons-mask").get_by_role("button", name="off", exact=True).click()
    assert axe(page) == []
    inside, shown = page.evaluate("[document.body.scrollWidth, innerWidth]")
    assert inside <= shown, "the page scrolls sideways"
