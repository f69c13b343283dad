// The playground: a prompt, the rules of the draw, and a column for each run that is asked.

import { h, number, show, slider, t } from "../dom.js";
import { makeColumn } from "./playground_column.js";

const TOP_K_ALL = 101; // the end of the slider of top-k: no limit
const MOST_SEED = 2 ** 32 - 1;
const RUNS_MS = 500;

export const playgroundPanel = { id: "playground", title: "playground.title", live: true, mount: mountPlayground };

function mountPlayground(root, page) {
  const columns = new Map(); // id of a run -> its column, while it is shown
  const status = h("p", { class: "spoken", role: "status" });
  const say = (text) => (status.textContent = text);
  const each = (f) => [...columns.values()].forEach(f);

  const prompt = h("textarea", { id: "playground-prompt", rows: 3, spellcheck: "false", autocapitalize: "off", oninput: () => each((column) => column.setPrompt(prompt.value)) });
  const settings = makeSettings(() => each((column) => column.refresh()));
  const n = wholeNumber("playground-n", t("playground.n"), 200, 1, 4096);

  const button = (key, onclick, kind = null) => h("button", { type: "button", class: kind, onclick }, t(key));
  const step = button("playground.step", () => each((column) => column.write(1)));
  const write = button("playground.write", () => each((column) => column.write(n.value())), "primary");
  const stop = button("playground.stop", () => each((column) => column.stop()));
  const back = button("playground.back", () => each((column) => column.back()));
  const told = () => {
    const idle = [...columns.values()].every((column) => column.idle());
    [step, write].forEach((one) => (one.disabled = !idle || columns.size === 0));
    stop.disabled = idle;
  };

  const board = h("div", { class: "columns" });
  const choose = (run, shown) => {
    if (shown && !columns.has(run.id)) {
      const column = makeColumn(run, page, settings, say);
      column.onIdle(told);
      columns.set(run.id, column);
      column.setPrompt(prompt.value);
    } else if (!shown) {
      columns.get(run.id)?.stop();
      columns.delete(run.id);
    }
    show(board, [...columns.values()].map((column) => column.node));
    told();
  };

  const runs = h("div", { role: "status" }, h("p", { class: "note" }, t("playground.loading")));
  show(
    root,
    h("label", { for: "playground-prompt" }, t("playground.prompt")),
    prompt,
    settings.node,
    h("div", { class: "playground-buttons" }, write, step, stop, back, n.node),
    runs,
    board,
    status,
  );
  told();
  showRuns(page, runs, choose);
}

// The runs to choose from, as they are opened. The first one is shown.
async function showRuns(page, place, choose) {
  const chosen = new Set();
  let drawn = "";
  for (;;) {
    let found;
    try {
      found = (await page.live.get("api/runs")).runs;
    } catch (error) {
      show(place, h("p", { class: "error" }, error.status ? error.message : t("playground.no_server")));
      return;
    }
    const can = found.filter((run) => run.writes);
    const now = JSON.stringify(found.map((run) => run.state));
    if (now !== drawn) {
      drawn = now;
      if (!chosen.size && can.length) {
        chosen.add(can[0].id);
        choose(can[0], true);
      }
      show(place, found.length > 1 ? runBoxes(found, chosen, choose) : null);
      if (!can.length) show(place, h("p", { class: "note" }, t(found.some((run) => run.state === "loading") ? "playground.loading" : "playground.none_writes")));
    }
    if (found.every((run) => run.state !== "loading")) return;
    await new Promise((resolve) => setTimeout(resolve, RUNS_MS));
  }
}

function runBoxes(found, chosen, choose) {
  const boxes = found.map((run) => {
    const id = `playground-run-${run.id}`;
    const box = h("input", {
      type: "checkbox",
      id,
      checked: chosen.has(run.id),
      disabled: !run.writes,
      onchange: () => {
        if (box.checked) chosen.add(run.id);
        else chosen.delete(run.id);
        choose(run, box.checked);
      },
    });
    const label = run.state === "loading" ? t("playground.run_loading", { run: run.id }) : run.writes ? run.id : t("playground.run_writes_not", { run: run.id });
    return h("label", { class: "playground-run", for: id }, box, label);
  });
  return h("fieldset", { class: "playground-runs" }, h("legend", {}, t("playground.runs")), boxes);
}

// The rules of the draw and its seed: {node, rules(), seed()}; what is at its end is no rule.
function makeSettings(onInput) {
  const make = (name, label, min, max, stepBy, value, said) =>
    slider({ id: `playground-${name}`, label, min, max, step: stepBy, value, text: said, onInput });
  const temperature = make("temperature", t("playground.temperature"), 0, 2, 0.05, 1, (v) => (v ? number(v, 2) : t("playground.greedy")));
  const topK = make("top-k", t("playground.top_k"), 1, TOP_K_ALL, 1, TOP_K_ALL, (v) => (v < TOP_K_ALL ? t(v === 1 ? "playground.one_token" : "playground.tokens", { n: v }) : t("playground.off")));
  const topP = make("top-p", t("playground.top_p"), 0.01, 1, 0.01, 1, (v) => (v < 1 ? number(v, 2) : t("playground.off")));
  const minP = make("min-p", t("playground.min_p"), 0, 1, 0.01, 0, (v) => (v ? number(v, 2) : t("playground.off")));
  const seed = wholeNumber("playground-seed", t("playground.seed"), 1337, 0, MOST_SEED);
  const another = h("button", { type: "button", onclick: () => seed.set(Math.floor(Math.random() * 1e6)) }, t("playground.another_seed"));
  const rules = () => ({
    temperature: temperature.value(),
    top_k: topK.value() < TOP_K_ALL ? topK.value() : null,
    top_p: topP.value() < 1 ? topP.value() : null,
    min_p: minP.value() || null,
  });
  const node = h(
    "fieldset",
    { class: "playground-rules" },
    h("legend", {}, t("playground.rules")),
    [temperature, topK, topP, minP].map((one) => one.node),
    h("div", { class: "playground-buttons" }, seed.node, another),
  );
  return { node, rules, seed: seed.value };
}

// A field for a whole number from least to most: {node, value(), set(v)}.
function wholeNumber(id, label, value, least, most) {
  const input = h("input", { type: "number", id, value, min: least, max: most, step: 1, inputmode: "numeric" });
  const clamp = (v) => Math.min(Math.max(Math.round(v) || 0, least), most);
  input.addEventListener("change", () => (input.value = clamp(Number(input.value))));
  const node = h("span", { class: "playground-number" }, h("label", { for: id }, label), input);
  return { node, value: () => clamp(Number(input.value)), set: (v) => (input.value = v) };
}
