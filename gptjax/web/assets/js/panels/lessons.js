// Three lessons with this model's own numbers: the mask, the divisor of the scores, temperature.

import { choice, figure, h, number, percent, show, signal, slider, t, table } from "../dom.js";
import { barList, colourLegend, matrix } from "../charts.js";
import { unpack } from "../page.js";
import { lessonEntropy, lessonLeak, lessonMasked, lessonMeanEntropy, lessonNext, lessonScores, lessonSizes, lessonSoftmax } from "./lesson_math.js";

const [BARS, LEAKS] = [10, 5];

export const lessonsPanel = {
  id: "lessons",
  title: "lessons.title",
  has: (page) => Boolean(page.data.checkpoints.at(-1)?.lessons),
  mount(root, page) {
    const heads = page.checkpoint.lessons.head;
    root.append(
      h("p", {}, t("lessons.about"), " ", h("code", {}, textOf(page))),
      heads ? h("p", { class: "note" }, t("lessons.head", { head: heads.head, layer: heads.layer })) : h("p", { class: "note" }, t("lessons.no_heads", { kind: page.data.kind })),
      ...(heads ? [maskLesson(page), scaleLesson(page)] : []),
      temperatureLesson(page),
    );
  },
};

const textOf = (page) => page.checkpoint.lessons.ids.map(page.token).join("");
const tokenAt = (page, place) => page.token(page.checkpoint.lessons.ids[place]);

function lesson(id, title, ...children) {
  return h("div", { id: `lessons-${id}`, class: "lesson" }, h("h3", {}, title), ...children);
}

function maskLesson(page) {
  const options = [["tril", t("lessons.mask_on")], ["none", t("lessons.mask_off")], ["triu", t("lessons.mask_flipped")]];
  const mask = choice(t("lessons.mask_choice"), options, "tril");
  const place = h("div", {});
  const draw = () => show(place, maskShown(page, mask.value.get()));
  page.onCheckpoint(draw);
  mask.value.on(draw);
  return lesson("mask", t("lessons.mask_title"), h("p", {}, t("lessons.mask_about")), mask.node, place);
}

function maskShown(page, mask) {
  const { head } = page.checkpoint.lessons;
  const scores = lessonScores(head, Math.sqrt(lessonSizes(head).K));
  const masked = lessonMasked(scores, mask);
  const weights = masked.map(lessonSoftmax);
  const most = Math.max(...scores.flat().map(Math.abs), 1e-12);
  const coloured = (value) => (Number.isFinite(value) ? 0.5 + value / (2 * most) : null);
  const named = (i, j) => ({ row: tokenAt(page, i), i: i + 1, column: tokenAt(page, j), j: j + 1 });
  const grid = (label, values, kind, value) =>
    h(
      "div",
      {},
      h("h4", {}, label),
      matrix({
        label,
        rows: values.length,
        columns: values.length,
        kind,
        most: 300,
        value: (i, j) => value(values[i][j]),
        read: (i, j) => t("lessons.cell", { ...named(i, j), value: number(values[i][j]) }),
        start: [values.length - 1, 0],
      }).node,
    );
  return [
    h("p", { class: "note" }, t("lessons.rows")),
    h(
      "div",
      { class: "columns" },
      grid(t("lessons.scores"), scores, "div", coloured),
      grid(t("lessons.masked"), masked, "div", coloured),
      grid(t("lessons.weights"), weights, "seq", (value) => value),
    ),
    h("div", { class: "columns" }, colourLegend(number(-most, 2), number(most, 2), "div"), colourLegend("0", "1")),
    sums(weights),
    leaks(page, weights),
    asNumbers(page, weights),
  ];
}

function sums(weights) {
  const all = weights.map((row) => row.reduce((a, b) => a + b, 0));
  const [low, high] = [Math.min(...all), Math.max(...all)];
  return h("p", {}, t("lessons.sums"), " ", figure("lessons.mask.sum_low", low, number(low, 6)), " – ", figure("lessons.mask.sum_high", high, number(high, 6)));
}

function leaks(page, weights) {
  const leak = lessonLeak(weights);
  const said = h("p", {}, t("lessons.leak"), " ", figure("lessons.mask.leak", leak, percent(leak)));
  if (leak === 0) return said;
  const later = weights.flatMap((row, i) => row.map((value, j) => ({ i, j, value })).slice(i + 1));
  const worst = later.sort((a, b) => b.value - a.value).slice(0, LEAKS);
  const items = worst.map(({ i, j, value }) => ({
    name: t("lessons.looks", { row: tokenAt(page, i), i: i + 1, column: tokenAt(page, j), j: j + 1 }),
    value,
    text: percent(value),
  }));
  return [said, h("p", { class: "note" }, t("lessons.leaks")), barList(t("lessons.leaks"), items, 1)];
}

function asNumbers(page, weights) {
  const heads = ["", ...weights.map((_, j) => tokenAt(page, j))];
  const rows = weights.map((row, i) => [tokenAt(page, i), ...row.map((value, j) => figure(`lessons.mask.weight.${i}.${j}`, value, number(value, 3)))]);
  return h("details", {}, h("summary", {}, t("lessons.numbers")), table(t("lessons.weights"), heads, rows));
}

function divisors(head) {
  const { K, C } = lessonSizes(head);
  return [
    [1, t("lessons.undivided")],
    [Math.sqrt(K), t("lessons.root_head_size", { K })],
    [Math.sqrt(C), t("lessons.root_n_embd", { C })],
    [K, t("lessons.head_size", { K })],
  ];
}

function scaleLesson(page) {
  const { head, ids } = page.checkpoint.lessons;
  const of = divisors(head);
  const place = h("div", {});
  const draw = () => show(place, scaleShown(page, of[divisor.value()][0], Number(row.value)));
  const divisor = slider({
    id: "lessons-divisor",
    label: t("lessons.divisor"),
    min: 0,
    max: of.length - 1,
    step: 1,
    value: 1,
    text: (i) => `${of[i][1]} = ${number(of[i][0], 2)}`,
    onInput: draw,
  });
  const options = ids.map((_, i) => h("option", { value: i, selected: i === ids.length - 1 }, `${i + 1}: ${tokenAt(page, i)}`));
  const row = h("select", { id: "lessons-row", onchange: draw }, options);
  page.onCheckpoint(draw);
  return lesson(
    "scale",
    t("lessons.scale_title"),
    h("p", {}, t("lessons.scale_about")),
    divisor.node,
    h("div", { class: "slider" }, h("label", { for: "lessons-row" }, t("lessons.row")), row),
    place,
  );
}

function scaleShown(page, divisor, row) {
  const { head } = page.checkpoint.lessons;
  const scores = lessonScores(head, divisor)[row].slice(0, row + 1);
  const p = lessonSoftmax(scores);
  const items = p.map((value, j) => ({ name: tokenAt(page, j), value, text: percent(value), what: `lessons.scale.p.${j}` }));
  const [entropy, mean] = [lessonEntropy(p), lessonMeanEntropy(head, divisor)];
  const centre = scores.reduce((a, b) => a + b, 0) / scores.length;
  const spread = Math.sqrt(scores.reduce((sum, score) => sum + (score - centre) ** 2, 0) / scores.length);
  return [
    h("p", {}, t("lessons.entropy", { most: number(Math.log(row + 1), 3) }), " ", figure("lessons.scale.entropy", entropy, t("lessons.in_nats", { nats: number(entropy, 3) }))),
    h("p", {}, t("lessons.mean_entropy"), " ", figure("lessons.scale.mean_entropy", mean, t("lessons.in_nats", { nats: number(mean, 3) }))),
    h("p", {}, t("lessons.spread"), " ", figure("lessons.scale.spread", spread, number(spread, 3))),
    barList(t("lessons.row_weights", { token: tokenAt(page, row) }), items, 1),
  ];
}

function temperatureLesson(page) {
  const place = h("div", {});
  const draw = () => show(place, temperatureShown(page, temperature.value()));
  const temperature = slider({
    id: "lessons-temperature-slider",
    label: t("lessons.temperature"),
    min: 0,
    max: 2,
    step: 0.05,
    value: 1,
    text: (value) => (value === 0 ? t("lessons.greedy") : number(value, 2)),
    onInput: draw,
  });
  page.onCheckpoint(draw);
  return lesson("temperature", t("lessons.temperature_title"), h("p", {}, t("lessons.temperature_about")), temperature.node, place);
}

function temperatureShown(page, temperature) {
  const data = page.checkpoint.lessons;
  const tokens = unpack(data.tokens).data;
  const { p, draws } = lessonNext(data, temperature);
  const items = p.slice(0, BARS).map((value, i) => ({
    name: page.token(tokens[i]),
    value,
    text: percent(value),
    what: `lessons.temperature.p.${i}`,
  }));
  const entropy = lessonEntropy(p);
  const drawn = draws.map((place, i) => h("li", {}, t("lessons.seed", { seed: data.seeds[i] }), " ", h("code", {}, figure(`lessons.temperature.draw.${i}`, tokens[place], page.token(tokens[place])))));
  const left = data.of > tokens.length ? h("p", { class: "note" }, t("lessons.rest", { shown: number(tokens.length, 0), of: number(data.of, 0), rest: percent(data.rest, 2) })) : null;
  return [
    h("p", {}, t("lessons.entropy", { most: number(Math.log(data.of), 3) }), " ", figure("lessons.temperature.entropy", entropy, t("lessons.in_nats", { nats: number(entropy, 3) }))),
    barList(t("lessons.next", { text: textOf(page) }), items, 1),
    h("p", { class: "note" }, t("lessons.bars", { shown: number(items.length, 0), of: number(data.of, 0) })),
    left,
    h("p", {}, t("lessons.draws")),
    h("ul", { class: "draws" }, drawn),
  ];
}
