// A text coloured by each token's loss; of the chosen token: what had been expected instead, what
// each head looked at, and the guess after every block. Data: web/text_data.py.

import { choice, figure, h, number, percent, show, signal, t, table } from "../dom.js";
import { barList, colourLegend, shade } from "../charts.js";
import { unpack } from "../page.js";
import { headsView } from "./text_heads.js";

const CONTEXT = 12; // tokens before the chosen one that are said
const BIGRAM_SPAN = 3; // nats: as much better or worse than the bigram has the strongest colour

export const textPanel = {
  id: "text",
  title: "text.title",
  has: (page) => page.data.checkpoints.some((checkpoint) => checkpoint.text),
  mount(root, page) {
    const chosen = signal(null);
    const chips = chipList(page, chosen);
    const mode = choice(t("text.colour"), [["loss", t("text.by_loss")], ["bigram", t("text.by_bigram")]], "loss");
    const [about, legend, mean, guess, lens] = Array.from({ length: 5 }, () => h("div", {}));
    const said = h("p", { class: "text-said", "aria-live": "polite" });
    const heads = headsView(page, chips);
    let text = null;
    const paint = () => {
      const known = text.bigram !== null;
      const by = known ? mode.value.get() : "loss";
      mode.node.hidden = !known;
      show(legend, legendOf(by, page));
      chips.colour(text, (i) => colourOf(text, i, by, page));
    };
    const pick = (i) => {
      if (!text?.nats || i === null) return;
      chips.mark(i);
      show(said, ...sentence(text, i, page));
      show(guess, ...guesses(text, i, page));
      show(lens, ...lensTable(text, i, page));
      heads.update(text, i);
    };
    const details = h("div", {}, said, h("div", { class: "columns" }, guess, lens), heads.node);
    show(root, about, mode.node, legend, mean, chips.node, details);
    page.onText((payload, typed) => {
      details.hidden = !payload?.finite;
      if (!payload) return show(about, note("text.none")); // of this checkpoint
      text = readText(payload);
      chips.fill(text);
      show(about, ...aboutText(text, typed, page));
      show(mean, ...(text.nats ? [meanLoss(text)] : [note("text.not_finite")]));
      paint();
      const i = chosen.get();
      chosen.set(i !== null && i < text.ids.length ? i : firstChoice(text));
    });
    chosen.on(pick);
    mode.value.on(() => text && paint());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      paint();
      pick(chosen.get());
    });
  },
};

const note = (key, values) => h("p", { class: "note" }, t(key, values));

// The panel's data with its arrays unpacked. Token i of `ids` is predicted where i is above 0, by
// place i - 1 - first[row] of its row; what is told of predictions has it at i - 1.
export function readText(payload) {
  const ids = unpack(payload.ids).data;
  const row = new Array(ids.length).fill(0);
  payload.first.forEach((first, r) => row.fill(r, first + 1, first + 1 + payload.count[r]));
  const place = row.map((r, i) => i - 1 - payload.first[r]);
  const text = { ...payload, ids, row, place, bigram: payload.bigram_nats && unpack(payload.bigram_nats).data };
  if (!payload.finite) return { ...text, nats: null, attention: null, lens: null };
  return { ...text, ...readGuesses(payload), attention: payload.attention && readAttention(payload, row, place), lens: payload.lens && readLens(payload.lens, row, place) };
}

const readGuesses = (packed) => ({
  nats: unpack(packed.nats),
  rank: unpack(packed.rank),
  topIds: unpack(packed.top_ids),
  topP: unpack(packed.top_p),
});

const total = (values) => values.reduce((sum, value) => sum + value, 0);

// Where in an array of the first places of each row, `size(t)` values each, that of token i is.
function offsets(places, row, place, size) {
  let sum = 0;
  const begins = places.map((n) => (sum += size(n)) - size(n));
  return (i) => (i > 0 && place[i] < places[row[i]] ? begins[row[i]] + size(place[i]) : null);
}

// weights(layer, head, i): how the place that guessed token i dealt 1 out over its row so far.
function readAttention({ attention }, row, place) {
  const { shape, data } = unpack(attention.weights);
  const [layers, heads, all] = shape;
  const at = offsets(attention.places, row, place, (n) => (n * (n + 1)) / 2);
  const weights = (layer, head, i) => {
    const begin = at(i);
    if (begin === null) return null;
    const from = (layer * heads + head) * all + begin;
    return data.subarray(from, from + place[i] + 1);
  };
  return { layers, heads, places: attention.places, weights };
}

function readLens(lens, row, place) {
  const guess = readGuesses(lens);
  return { ...guess, layers: guess.nats.shape[0], at: offsets(lens.places, row, place, (n) => n) };
}

// The token that is looked at first: well inside the first row, so that heads have a choice.
function firstChoice(text) {
  const seen = text.attention ? text.attention.places[0] : text.count[0];
  return Math.max(1, Math.min(text.ids.length - 1, Math.round(0.7 * seen)));
}

function aboutText(text, typed, page) {
  const shown = text.ids.length - 1;
  const values = { shown: number(shown, 0), all: number(text.n_predicted, 0), unit: page.data.unit, window: text.sees };
  const back = typed ? h("button", { type: "button", onclick: () => page.setText(null) }, t("text.back")) : null;
  const rows = page.data.items ? "text.items" : text.slides ? "text.slides" : "text.windows";
  return [note(`text.from_${text.from}`, values), note(rows, values), note("text.how"), back];
}

function meanLoss(text) {
  const of = (values) => total(values) / values.length;
  const own = of(text.nats.data);
  const parts = [t("text.mean"), " ", figure("text.mean.nats", own, t("text.nats_each", { nats: number(own) }))];
  if (text.bigram) {
    const counted = of(text.bigram);
    parts.push(", ", t("text.mean_bigram"), " ", figure("text.mean.bigram", counted, t("text.nats_each", { nats: number(counted) })));
  }
  return h("p", {}, parts);
}

function legendOf(by, page) {
  if (by === "bigram") return colourLegend(t("text.better"), t("text.worse"), "div");
  return colourLegend(t("text.sure"), t("text.guess", { nats: number(Math.log(page.data.tokens.length), 2), n: number(page.data.tokens.length, 0) }));
}

function colourOf(text, i, by, page) {
  const nats = text.nats.data[i - 1];
  if (by === "loss") return shade(nats / Math.log(page.data.tokens.length));
  return shade(0.5 + (nats - text.bigram[i - 1]) / (2 * BIGRAM_SPAN), "div");
}

// The tokens as a list of which one is chosen, by a click or the arrow keys.
function chipList(page, chosen) {
  const list = h("div", { class: "chips tokens", role: "listbox", tabindex: "0", "aria-label": t("text.list"), onkeydown: (event) => step(event) });
  const over = h("div", { class: "chips-over", "aria-hidden": "true" });
  const node = h("div", { class: "chips-box" }, h("div", { class: "chips-inner" }, list, over));
  let [chips, filled, marked] = [[], null, null];
  list.addEventListener("click", (event) => {
    const chip = event.target.closest("[role=option]");
    if (chip) chosen.set(Number(chip.dataset.at));
  });
  // The nearest token of the line above or below.
  const line = (i, down) => {
    const { offsetTop: top, offsetLeft: left } = chips[i];
    const beyond = chips.filter((chip) => (down ? chip.offsetTop > top : chip.offsetTop < top));
    if (!beyond.length) return i;
    const next = down ? beyond[0].offsetTop : beyond[beyond.length - 1].offsetTop;
    const there = beyond.filter((chip) => chip.offsetTop === next);
    const far = (chip) => Math.abs(chip.offsetLeft - left);
    return chips.indexOf(there.reduce((best, chip) => (far(chip) < far(best) ? chip : best)));
  };
  const step = (event) => {
    const i = chosen.get() ?? 1;
    const moves = { ArrowLeft: () => i - 1, ArrowRight: () => i + 1, ArrowUp: () => line(i, false), ArrowDown: () => line(i, true), Home: () => 1, End: () => chips.length - 1 };
    if (!moves[event.key]) return;
    event.preventDefault();
    chosen.set(Math.min(Math.max(moves[event.key](), 1), chips.length - 1));
    chips[chosen.get()].scrollIntoView({ block: "nearest" });
  };
  return {
    node,
    over,
    box: (i) => chips[i],
    fill(text) {
      if (filled === text.ids.join()) return;
      filled = text.ids.join();
      marked = null;
      const begins = new Set(text.slides || page.data.items ? [] : text.first.slice(1));
      const end = (id) => (page.data.items ? id === text.ids[0] : page.data.tokens[id].endsWith("\n") || page.data.tokens[id] === "\\n");
      chips = Array.from(text.ids, (id, i) =>
        h("span", { role: "option", id: `chip-${i}`, "data-at": i, class: begins.has(i) ? "chip begins" : "chip", "aria-selected": "false" }, page.token(id)),
      );
      show(list, chips.flatMap((chip, i) => (end(text.ids[i]) ? [chip, h("span", { class: "chip-break", "aria-hidden": "true" })] : [chip])));
    },
    colour(text, of) {
      chips.forEach((chip, i) => {
        const told = i > 0 && text.nats;
        const { background, color } = told ? of(i) : { background: "", color: "" };
        Object.assign(chip.style, { background, color });
        const token = page.token(text.ids[i]);
        chip.setAttribute("aria-label", told ? t("text.token", { token, nats: number(text.nats.data[i - 1], 2) }) : t("text.token_first", { token }));
      });
    },
    mark(i) {
      if (marked !== null) chips[marked].setAttribute("aria-selected", "false");
      chips[i].setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", `chip-${i}`);
      marked = i;
    },
  };
}

// What came, how likely it was, and what counting pairs says of it.
function sentence(text, i, page) {
  if (i === 0) return [t("text.first")];
  const [nats, rank] = [text.nats.data[i - 1], text.rank.data[i - 1]];
  const parts = [
    h("strong", { class: "tokens" }, page.token(text.ids[i])),
    ": ",
    figure(`text.p.${i}`, Math.exp(-nats), percent(Math.exp(-nats))),
    ", ",
    figure(`text.nats.${i}`, nats, t("text.nats", { nats: number(nats) })),
    ", ",
    figure(`text.rank.${i}`, rank, t("text.rank", { rank: number(rank, 0), n: number(page.data.tokens.length, 0) })),
  ];
  if (text.bigram) parts.push("; ", t("text.bigram"), " ", figure(`text.bigram.${i}`, text.bigram[i - 1], t("text.nats", { nats: number(text.bigram[i - 1]) })));
  return parts;
}

// The likeliest tokens as bars; the one that came is marked, and added where it is not among them.
function guesses(text, i, page) {
  if (i === 0) return [];
  const n = text.topIds.shape[1];
  const bar = (id, p, what, mark) => ({ name: page.token(id), value: p, text: percent(p), what, mark });
  const items = Array.from({ length: n }, (_, k) => {
    const id = text.topIds.at(i - 1, k);
    return bar(id, text.topP.at(i - 1, k), `text.top.${i}.${k}`, id === text.ids[i] ? t("text.came") : null);
  });
  if (!items.some((item) => item.mark)) items.push(bar(text.ids[i], Math.exp(-text.nats.data[i - 1]), `text.came.${i}`, t("text.came")));
  const past = page.data.items || !text.slides ? text.place[i] + 1 : i;
  const seen = Math.min(text.sees, past);
  const told = Math.min(seen, CONTEXT);
  const before = (told < seen ? "… " : "") + Array.from(text.ids.slice(i - told, i), page.token).join("");
  const said = t("text.expected", { before, seen: number(seen, 0) });
  return [h("h3", {}, t("text.guesses")), h("p", { class: "note" }, said), barList(said, items, 1)];
}

// The guess after the embedding and after each block; the last row is the model's own answer.
function lensTable(text, i, page) {
  if (!text.lens || i === 0) return [];
  const { lens } = text;
  const at = lens.at(i);
  const title = h("h3", {}, t("text.lens"));
  if (at === null) return [title, note("text.lens_room", { n: number(total(text.lens.places), 0) })];
  const last = lens.layers - 1;
  const rows = Array.from({ length: lens.layers }, (_, layer) => {
    const name = layer === 0 ? t("text.lens_embedding") : t(layer === last ? "text.lens_last" : "text.lens_block", { block: layer });
    const nats = lens.nats.at(layer, at);
    const top = Array.from({ length: lens.topIds.shape[2] }, (_, k) => {
      const p = lens.topP.at(layer, at, k);
      const cell = figure(`text.lens.${layer}.${i}.${k}`, p, `${page.token(lens.topIds.at(layer, at, k))} ${percent(p)}`);
      cell.className = "lens-cell tokens";
      Object.assign(cell.style, shade(p));
      return cell;
    });
    const came = [figure(`text.lens_p.${layer}.${i}`, Math.exp(-nats), percent(Math.exp(-nats))), ", ", figure(`text.lens_rank.${layer}.${i}`, lens.rank.at(layer, at), t("text.lens_rank", { rank: number(lens.rank.at(layer, at), 0) }))];
    return [name, top, h("span", { class: "lens-came" }, came)];
  });
  const heads = [t("text.lens_where"), t("text.lens_top"), t("text.lens_came", { token: page.token(text.ids[i]) })];
  return [title, note("text.lens_raw"), table(t("text.lens_caption"), heads, rows)];
}
