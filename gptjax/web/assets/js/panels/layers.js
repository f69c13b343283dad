// How healthy the layers are on one batch: activations, gradients, updates, the residual stream.

import { choice, figure, h, number, percent, show, svg, t, table } from "../dom.js";
import { barList, lineChart } from "../charts.js";

const [WIDTH, HEIGHT] = [164, 34]; // of a small histogram, px
const [FEWEST, MOST, HEALTHY] = [-6, 0, -3]; // log10 of an update's ratio: the scale, and its line

export const layersPanel = {
  id: "layers",
  title: "layers.title",
  has: (page) => Boolean(page.data.layers),
  mount(root, page) {
    const facts = page.data.layers;
    const about = h("p", { class: "note" });
    const kinds = ["values", "gradient"];
    const view = choice(t("layers.view"), kinds.map((kind) => [kind, t(`layers.view_${kind}`)]), "values");
    const [flows, norms, matrices, over] = [0, 1, 2, 3].map(() => h("div", {}));
    const draw = () => {
      const now = page.checkpoint.layers;
      const sizes = { tokens: number(facts.tokens, 0), rows: t("layers.rows", { rows: number(facts.rows, 0) }) };
      show(about, t(`layers.about_${facts.from}`, sizes), " ", t("layers.loss"), " ", figure("layers.nats", now.nats, number(now.nats)), " ", t("layers.nats"));
      show(flows, flowTable(now.flows, view.value.get(), facts));
      show(norms, normBars(now.flows));
      show(matrices, matrixTable(now));
    };
    page.onCheckpoint(draw);
    view.value.on(draw);
    show(over, updatesOverTime(page));
    const normal = [...new Set(page.checkpoint.layers.flows.map((flow) => flow.kind || "plain"))];
    root.append(about, view.node, flows, h("ul", { class: "note" }, normal.map((kind) => h("li", {}, t(`layers.normal_${kind}`, { limit: facts.saturated })))));
    root.append(h("p", { class: "note" }, t("layers.normal_gradient")));
    if (normal.includes("stream")) root.append(h("h3", {}, t("layers.norms")), h("p", { class: "note" }, t("layers.norms_normal")), norms);
    root.append(h("h3", {}, t("layers.matrices")), h("p", { class: "note" }, t("layers.matrices_normal")), matrices, over);
  },
};

function flowTable(flows, view, facts) {
  const heads = ["place", "histogram", "mean", "std", "range", "state"].map((name) => t(`layers.${name}`));
  const rows = flows.map((flow, n) => {
    const seen = flow[view];
    const range = `${short(seen.low)} … ${short(seen.high)}`;
    return [
      h("code", {}, flow.name),
      histogram(seen),
      figure(`layers.flow.${n}.${view}.mean`, seen.mean, short(seen.mean)),
      figure(`layers.flow.${n}.${view}.std`, seen.std, short(seen.std)),
      range,
      state(flow, n),
    ];
  });
  return table(t(`layers.caption_${view}`, { far: facts.far }), heads, rows);
}

// What can be wrong with a place: saturated tanh, zeros, dead units.
function state(flow, n) {
  const said = (name, text, of = {}) =>
    flow[name] === null ? [] : [h("div", {}, figure(`layers.flow.${n}.${name}`, flow[name], text(flow[name])), " ", t(`layers.state_${name}`, of))];
  const units = { units: number(flow.units, 0) };
  return [said("saturated", percent), said("zero", percent), said("dead", (many) => number(many, 0), units)];
}

// The shape of a crowd of values; what it shows stands beside it in numbers. The line is at zero.
function histogram({ low, high, counts }) {
  const most = Math.max(...counts);
  const step = WIDTH / counts.length;
  const bars = counts.map((count, i) => {
    const tall = count ? Math.max(1, (HEIGHT * count) / most) : 0;
    return svg("rect", { x: i * step, y: HEIGHT - tall, width: step * 0.9, height: tall });
  });
  const zero = (-low / (high - low || 1)) * WIDTH;
  const line = low < 0 && high > 0 ? svg("line", { x1: zero, x2: zero, y1: 0, y2: HEIGHT }) : null;
  return svg("svg", { class: "histogram", width: WIDTH, height: HEIGHT, "aria-hidden": "true" }, bars, line);
}

function normBars(flows) {
  const items = flows.flatMap((flow, n) =>
    flow.norm === null ? [] : [{ name: flow.name, value: flow.norm, text: number(flow.norm, 2), what: `layers.flow.${n}.norm` }],
  );
  return items.length ? barList(t("layers.norms"), items) : null;
}

function matrixTable(now) {
  const known = now.matrices.some((matrix) => matrix.update_to_data !== null);
  const names = ["matrix", "shape", "matrix_std", "grad_mean", "grad_std", "grad_to_data", "update"];
  const heads = names.map((name) => t(`layers.${name}`));
  if (known) heads.push(t("layers.update_scale"));
  const rows = now.matrices.map((matrix, n) => {
    const cell = (name) => figure(`layers.matrix.${n}.${name}`, matrix[name], short(matrix[name]));
    const update = figure(`layers.matrix.${n}.update_to_data`, matrix.update_to_data, number(matrix.update_to_data, 2));
    const shape = matrix.shape.map((size) => number(size, 0)).join(" × ");
    const cells = [h("code", {}, matrix.name), shape, ...["std", "grad_mean", "grad_std", "grad_to_data"].map(cell), update];
    return known ? [...cells, ruler(matrix.update_to_data)] : cells;
  });
  const rate = now.learning_rate;
  const why = now.no_updates ? t("layers.no_updates", { why: now.no_updates }) : [t("layers.rate"), " ", figure("layers.rate", rate, short(rate))];
  return [h("p", { class: "note" }, why), table(t("layers.caption_matrices"), heads, rows)];
}

// A ratio on its scale, with the line at -3.
function ruler(value) {
  const x = (v) => 4 + ((Math.min(Math.max(v, FEWEST), MOST) - FEWEST) / (MOST - FEWEST)) * (WIDTH - 8);
  const dot = value === null ? null : svg("circle", { cx: x(value), cy: 8, r: 4 });
  const line = svg("line", { x1: x(HEALTHY), x2: x(HEALTHY), y1: 0, y2: 16 });
  const base = svg("line", { class: "base", x1: 4, x2: WIDTH - 4, y1: 8, y2: 8 });
  return svg("svg", { class: "ruler", width: WIDTH, height: 16, "aria-hidden": "true" }, base, line, dot);
}

// The ratios of all matrices through training: the largest, the middle and the smallest.
function updatesOverTime(page) {
  const known = page.data.checkpoints
    .map(({ step, layers }) => ({ step, ratios: layers.matrices.map((m) => m.update_to_data).filter((v) => v !== null) }))
    .filter(({ ratios }) => ratios.length)
    .map(({ step, ratios }) => ({ step, ratios: ratios.sort((a, b) => a - b) }));
  if (known.length < 2) return null;
  const x = known.map(({ step }) => step);
  const of = (pick) => known.map(({ ratios }) => ratios[pick(ratios.length)]);
  const picks = { smallest: () => 0, middle: (n) => Math.floor(n / 2), largest: (n) => n - 1 };
  const chart = lineChart({
    label: t("layers.over_label"),
    series: Object.entries(picks).map(([name, pick]) => ({ name: t(`layers.over_${name}`), x, y: of(pick) })),
    lines: [{ name: t("layers.over_line"), y: HEALTHY }],
    xLabel: t("layers.step"),
    yLabel: t("layers.over_y"),
    digits: 2,
    height: 220,
  });
  return [h("h4", {}, t("layers.over")), chart];
}

// A number of any size in few characters.
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value === 0) return "0";
  return size >= 0.01 && size < 1000 ? number(value, 4) : value.toExponential(2).replaceAll("-", "−");
}
