// A model that sees the last few tokens, computed in the page: the MLP of names, or counted tables.

import { h, number, percent, show, signal, t } from "../dom.js";
import { barList } from "../charts.js";
import { unpack } from "../page.js";

const MOST_BARS = 40;

// P(next) after the ids of a whole window, as numbers: models/mlp.py in a few lines.
export function mlpProbabilities(params, ids) {
  const table = params["token_embedding_table/embedding"];
  let x = ids.flatMap((id) => Array.from({ length: table.shape[1] }, (_, k) => table.at(id, k)));
  for (let layer = 0; params[`hidden_${layer}/kernel`]; layer++) x = dense(params, `hidden_${layer}`, x).map(Math.tanh);
  return softmax(dense(params, "lm_head", x));
}

function dense(params, name, x) {
  const [kernel, bias] = [params[`${name}/kernel`], params[`${name}/bias`]];
  return Array.from(bias.data, (b, j) => x.reduce((sum, value, i) => sum + value * kernel.at(i, j), b));
}

function softmax(logits) {
  const most = Math.max(...logits);
  const weights = logits.map((value) => Math.exp(value - most));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
}

// The row of an n-gram's table: the newest token is the last digit in base V.
export function ngramProbabilities({ table }, ids) {
  const V = table.shape[1];
  const row = ids.reduce((place, id) => place * V + id, 0);
  return Array.from({ length: V }, (_, j) => table.at(row, j));
}

export function mountWindow(root, page, facts) {
  const block = facts.block_size;
  if (facts.too_large) {
    root.append(h("p", { class: "note" }, t("window.too_large")));
    return;
  }
  const ask = facts.kind === "mlp" ? mlpProbabilities : ngramProbabilities;
  const written = signal([]);
  let params = {};
  const places = h("ol", { class: "window-places", "aria-label": t("window.places") });
  const bars = h("div", {});
  const problem = h("p", { class: "note", role: "status" });
  const input = h("input", {
    type: "text",
    id: "window-text",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    oninput: () => {
      const { ids, rest } = cut(input.value, page.data.tokens);
      problem.textContent = rest ? t("window.unknown", { text: rest.slice(0, 20) }) : "";
      if (!rest) written.set(ids);
    },
  });
  const put = (ids) => {
    input.value = ids.map((id) => page.data.tokens[id]).join("");
    problem.textContent = "";
    written.set(ids);
  };
  const draw = (ids) => {
    const seen = Array.from({ length: block }, (_, i) => ids[ids.length - block + i] ?? facts.start);
    show(places, seen.map((id) => h("li", {}, page.token(id))));
    const p = ask(params, seen);
    const order = p.map((_, id) => id);
    if (p.length > MOST_BARS) order.sort((a, b) => p[b] - p[a]).splice(MOST_BARS);
    const items = order.map((id) => ({
      name: page.token(id),
      value: p[id],
      text: percent(p[id], 2),
      what: `window.p.${id}`,
      onclick: () => put(page.data.items && id === facts.start ? [] : [...written.get(), id]),
    }));
    const title = t("window.bars", { n: number(items.length, 0), of: number(p.length, 0) });
    show(bars, h("h4", {}, title), barList(title, items));
  };
  page.onCheckpoint(({ embeddings }) => {
    params = Object.fromEntries(Object.entries(embeddings.window).map(([name, packed]) => [name, unpack(packed)]));
    draw(written.get());
  });
  written.on(draw);
  const box = h("div", { class: "embeddings-search" }, h("label", { for: "window-text" }, t("window.type")), input);
  const again = h("button", { type: "button", onclick: () => put([]) }, t("window.clear"));
  root.append(h("p", { class: "note" }, t("window.about", { n: number(block, 0) })), box, again, problem, places, bars);
}

// A text as ids, the longest token first; `rest`: what no token begins.
function cut(text, tokens) {
  const ids = [];
  const known = new Map(tokens.map((token, id) => [token, id]));
  const longest = Math.max(...tokens.map((token) => token.length));
  for (let at = 0; at < text.length; ) {
    let length = Math.min(longest, text.length - at);
    while (length && !known.has(text.slice(at, at + length))) length--;
    if (!length) return { ids, rest: text.slice(at) };
    ids.push(known.get(text.slice(at, at + length)));
    at += length;
  }
  return { ids, rest: "" };
}
