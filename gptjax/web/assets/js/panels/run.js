// What was trained and how it went: facts, verdict, exact losses, curves over the steps.

import { choice, figure, h, number, show, t, table } from "../dom.js";
import { lineChart } from "../charts.js";

export const runPanel = {
  id: "run",
  title: "run.title",
  has: (page) => Boolean(page.data.run),
  mount(root, page) {
    const { run } = page.data;
    root.append(
      verdictOf(run),
      h("div", { class: "columns" }, lossTable(run), levelTable(run)),
      curvesOf(run),
      factTable(page.data),
    );
  },
};

function verdictOf(run) {
  const steps = { step: number(run.last_step, 0), steps: number(run.training.steps, 0) };
  if (!run.summary) return h("p", { class: "verdict" }, t("run.unfinished", steps));
  const said = run.summary.verdict ?? t("run.no_verdict");
  return h("p", { class: "verdict", "data-what": "run.summary.verdict" }, said);
}

function lossTable(run) {
  if (run.losses.length === 0) return null;
  const rows = run.losses.map((loss, i) => {
    const nats = figure(`run.loss.${i}.nats`, loss.nats, number(loss.nats));
    const error = loss.error === null ? null : figure(`run.loss.${i}.error`, loss.error, ` ± ${number(loss.error)}`);
    const tokens = loss.tokens === null ? "–" : number(loss.tokens, 0);
    return [loss.split, number(loss.step, 0), h("span", {}, nats, error), tokens];
  });
  const heads = [t("run.split"), t("run.step"), t("run.nats"), t("run.tokens")];
  const means = run.losses.some((loss) => loss.error !== null) ? h("p", { class: "note" }, t("run.error_means")) : null;
  return h("div", {}, table(t("run.exact"), heads, rows), means);
}

function levels(run) {
  const { uniform, unigram, count_bigram } = run.lines;
  return [
    ["uniform", uniform, t("run.line_uniform")],
    ["unigram", unigram, t("run.line_unigram")],
    ["count_bigram", count_bigram, t("run.line_bigram")],
  ];
}

function levelTable(run) {
  const rows = levels(run).map(([name, nats, label]) => [
    label,
    nats === null ? t("run.not_known") : figure(`run.line.${name}`, nats, number(nats)),
  ]);
  return table(t("run.lines"), [t("run.line"), t("run.nats")], rows);
}

function curvesOf(run) {
  const { curves } = run;
  if (Object.values(curves).every((curve) => curve.x.length === 0)) return h("p", { class: "note" }, t("run.no_curves"));
  const scale = choice(t("run.scale"), [["linear", t("run.linear")], ["log", t("run.log")]], "linear");
  const place = h("div", {});
  scale.value.on((how) => show(place, lossChart(run, how === "log"), smallCharts(run, how === "log")));
  const thinned = Object.values(curves).filter((curve) => curve.of > curve.x.length);
  const counts = thinned.map((curve) => ({ shown: number(curve.x.length, 0), of: number(curve.of, 0) }));
  const missing = Math.max(...Object.values(curves).map((curve) => curve.missing));
  return h(
    "div",
    {},
    h("h3", {}, t("run.curves")),
    scale.node,
    place,
    counts.length ? h("p", { class: "note" }, t("run.thinned", counts[0])) : null,
    missing ? h("p", { class: "note" }, t("run.missing", { n: number(missing, 0) })) : null,
  );
}

function lossChart(run, logX) {
  const { curves } = run;
  const exact = (split) => {
    const points = run.losses.filter((loss) => loss.split === split).sort((a, b) => a.step - b.step);
    return { x: points.map((point) => point.step), y: points.map((point) => point.nats), points: true };
  };
  const series = [
    { name: t("run.batches"), ...curves.loss_nats },
    { name: t("run.train"), ...curves.train_nats },
    { name: t("run.val"), ...curves.val_nats },
    { name: t("run.exact_train"), ...exact("train") },
    { name: t("run.exact_val"), ...exact("val") },
  ].filter((one) => one.x.length > 0);
  const known = levels(run).filter(([, nats]) => nats !== null);
  const lines = known.map(([, nats, label]) => ({ name: `${label} ${number(nats)}`, y: nats }));
  const last = run.summary ? run.summary.final_val_nats : curves.val_nats.y.at(-1);
  return lineChart({
    label: t("run.loss_chart", { last: number(last), steps: number(run.last_step, 0) }),
    series: withEnds(series, run),
    lines,
    xLabel: t("run.step"),
    yLabel: t("run.nats"),
    logX,
  });
}

// What the steps did, below the losses and over the same steps.
function smallCharts(run, logX) {
  const of = [
    ["learning_rate", t("run.learning_rate"), 7],
    ["grad_norm", t("run.grad_norm"), 4],
  ];
  return of
    .filter(([name]) => run.curves[name].x.length > 0)
    .map(([name, label, digits]) =>
      lineChart({
        label,
        series: withEnds([{ name: label, ...run.curves[name] }], run),
        xLabel: t("run.step"),
        yLabel: "",
        height: 150,
        digits,
        logX,
      }),
    );
}

// A first and a last step without a value give all charts of a run one x axis.
function withEnds(series, run) {
  if (series.length === 0) return series;
  const [first, ...rest] = series;
  const nothing = [Number.NaN];
  return [{ ...first, x: [...first.x, 0, run.last_step], y: [...first.y, ...nothing, ...nothing] }, ...rest];
}

function factTable(data) {
  const { run } = data;
  const sizes = Object.entries(run.sizes).map(([name, n]) => [name, figure(`run.size.${name}`, n, number(n, 0))]);
  const training = Object.entries(run.training).map(([name, value]) => [name, typeof value === "number" ? figure(`run.training.${name}`, value, String(value)) : value]);
  const { versions, devices, started, git } = run.machine;
  const corpus = run.data;
  const rows = [
    [t("run.config"), run.title],
    [t("run.kind"), data.kind],
    ...sizes,
    [t("run.parameters"), figure("run.parameters", run.parameters, number(run.parameters, 0))],
    [t("run.corpus"), corpus ? `${corpus.name} (${corpus.source})` : t("run.not_known")],
    ...(corpus ? [[t("run.characters"), figure("run.characters", corpus.characters, number(corpus.characters, 0))], ["sha256", corpus.sha256.slice(0, 8)]] : []),
    ...training,
    ...(run.summary ? speed(run.summary) : []),
    ...(devices ? [[t("run.device"), `${devices.kind} (${devices.platform}), ${number(devices.count, 0)}`]] : []),
    ...(started ? [[t("run.started"), started]] : []),
    ...(git?.commit ? [[t("run.commit"), git.commit.slice(0, 8)]] : []),
    ...Object.entries(versions ?? {}).filter(([, version]) => version),
  ];
  return h("details", {}, h("summary", {}, t("run.facts")), table(t("run.facts"), [t("run.what"), t("run.value")], rows));
}

function speed(summary) {
  return [
    [t("run.seconds"), figure("run.seconds", summary.train_seconds, number(summary.train_seconds, 1))],
    [t("run.speed"), figure("run.speed", summary.tokens_per_second, number(summary.tokens_per_second, 0))],
  ];
}
