// What the tables know: vectors of tokens on a plane, neighbours, places, what follows a token.

import { choice, figure, h, number, percent, show, signal, t } from "../dom.js";
import { barList, colourLegend, matrix, scatter } from "../charts.js";
import { unpack } from "../page.js";
import { mountWindow } from "./window.js";

const AT_FIRST = ["e", "king", "the"]; // the token that is chosen when the page opens, if it is there
const DOT = "·"; // in place of a name, where all names would hide each other
const [NAMED, PX_A_NAME] = [150, 8]; // names at most, and the width of the plane that one asks for
const FULL = 0.2; // difference of two probabilities at which the colours end

export const embeddingsPanel = {
  id: "embeddings",
  title: "embeddings.title",
  has: (page) => Boolean(page.data.embeddings),
  mount(root, page) {
    const facts = page.data.embeddings;
    const first = page.data.checkpoints[0].embeddings;
    if (first.plane) mountPlane(section(root, "embeddings.plane"), page, facts);
    if (first.places) mountPlaces(section(root, "embeddings.places"), page);
    if (first.after) mountPairs(section(root, "embeddings.pairs"), page, facts);
    if (facts.window) mountWindow(section(root, "embeddings.window"), page, facts.window);
  },
};

function section(root, title) {
  const node = h("div", {});
  root.append(h("h3", {}, t(title)), node);
  return node;
}

function mountPlane(root, page, facts) {
  const ids = [...unpack(facts.ids).data];
  const place = new Map(ids.map((id, i) => [id, i]));
  const selected = signal(Math.max(0, ...AT_FIRST.map((text) => ids.findIndex((id) => page.data.tokens[id] === text))));
  let now = null;
  const shownOf = (id) => place.get(id);
  const nearest = (i) => Array.from({ length: now.near.shape[1] }, (_, k) => now.near.at(i, k));
  const what = {
    label: t("embeddings.plane_label", { n: number(ids.length, 0) }),
    points: [],
    names: ids.map(page.token),
    selected,
    near: (i) => nearest(i).map(shownOf).filter((k) => k !== undefined),
  };
  const kept = h("p", { class: "note" });
  const bars = h("div", { "aria-live": "polite" });
  page.onCheckpoint(({ embeddings: { plane } }) => {
    const points = unpack(plane.points);
    now = { near: unpack(plane.near), cosines: unpack(plane.cosines) };
    what.points = ids.map((_, i) => [points.at(i, 0), points.at(i, 1)]);
    const key = facts.width === 2 ? "embeddings.kept_all" : "embeddings.kept";
    const share = figure("embeddings.kept", plane.kept, percent(plane.kept));
    const n = { n: number(ids.length, 0), of: number(facts.of, 0), width: number(facts.width, 0) };
    const chosen = ids.length < facts.of ? t(`embeddings.chosen_${facts.chosen}`, n) : t("embeddings.chosen_all", n);
    show(kept, chosen, " ", t(key, n), " ", share, facts.width === 2 ? "" : ` ${t("embeddings.of_variance")}`);
    selected.set(selected.get());
  });
  selected.on((i) => {
    const id = ids[i];
    const many = Math.min(NAMED, Math.max(30, Math.floor(root.clientWidth / PX_A_NAME)));
    const named = (k) => ids.length <= NAMED || k < many || k === i || what.near(i).includes(k);
    what.names = ids.map((other, k) => (named(k) ? page.token(other) : DOT));
    const items = nearest(i).map((other, k) => ({
      name: page.token(other),
      value: now.cosines.at(i, k),
      text: number(now.cosines.at(i, k), 4),
      what: `embeddings.near.${id}.${k}`,
      onclick: place.has(other) ? () => selected.set(place.get(other)) : null,
    }));
    const title = t("embeddings.near", { token: page.token(id) });
    show(bars, h("h4", {}, title), barList(title, items, 1));
  });
  const drawn = scatter(what); // after what chooses its names
  const found = h("p", { class: "note", role: "status" });
  const search = h("input", {
    type: "search",
    id: "embeddings-search",
    autocomplete: "off",
    oninput: () => {
      const i = lookUp(search.value, ids, page);
      if (i >= 0) selected.set(i);
      const none = { text: search.value, n: number(ids.length, 0) };
      found.textContent = i >= 0 || !search.value ? "" : t("embeddings.not_found", none);
    },
  });
  const box = h("div", { class: "embeddings-search" }, h("label", { for: "embeddings-search" }, t("embeddings.search")), search);
  root.append(kept, h("div", { class: "embeddings-plane" }, h("div", {}, box, found, drawn), bars));
  root.append(h("p", { class: "note" }, t("embeddings.plane_normal")));
}

// The token that was typed: as it is, as it is shown, and last without regard to its white space.
function lookUp(text, ids, page) {
  const same = [
    (id) => page.data.tokens[id] === text,
    (id) => page.token(id) === text,
    (id) => text.trim() && page.data.tokens[id].trim().toLowerCase() === text.trim().toLowerCase(),
  ];
  return same.map((is) => ids.findIndex(is)).find((i) => i >= 0) ?? -1;
}

function mountPlaces(root, page) {
  let now = null;
  let [row, column] = [0, 1];
  const out = h("p", { class: "read-out", "aria-live": "polite" });
  const told = () => {
    const [i, j] = [row, column].map((k) => now.at.data[k]);
    const cosine = 2 * now.cosines.at(row, column) - 1;
    const value = figure(`embeddings.places.${i}.${j}`, cosine, number(cosine, 3));
    show(out, t("embeddings.places_read", { i, j }), " ", value);
  };
  const load = ({ embeddings: { places } }) => {
    now = { at: unpack(places.at), cosines: unpack(places.cosines) };
  };
  load(page.checkpoint);
  const n = now.at.data.length;
  const map = matrix({
    label: t("embeddings.places_label"),
    rows: n,
    columns: n,
    value: (i, j) => now.cosines.at(i, j),
    kind: "div",
    read: (i, j) => t("embeddings.places_at", { i: now.at.data[i], j: now.at.data[j] }),
    start: [row, column],
    most: 360,
    onMove: (i, j) => {
      [row, column] = [i, j];
      told();
    },
  });
  page.onCheckpoint((checkpoint) => {
    load(checkpoint);
    map.redraw();
    told();
  });
  const every = n > 1 && now.at.data[1] > 1 ? t("embeddings.places_every", { every: now.at.data[1] }) : null;
  const legend = colourLegend("−1", t("embeddings.places_legend"), "div");
  root.append(h("p", { class: "note" }, t("embeddings.places_normal"), " ", every), legend, map.node, out);
}

function mountPairs(root, page, facts) {
  const ids = unpack(facts.paired).data;
  const V = page.data.tokens.length;
  const counts = facts.counts && { pairs: unpack(facts.counts.pairs), first: unpack(facts.counts.first) };
  const counted = (i, j) => (counts.pairs.at(i, j) + facts.counts.add) / (counts.first.at(i) + facts.counts.add * V);
  let after = unpack(page.checkpoint.embeddings.after);
  const start = Math.max(0, ids.findIndex((id) => AT_FIRST.includes(page.data.tokens[id])));
  let [row, column] = [start, start];
  const names = counts ? ["model", "counts", "difference"] : ["model"];
  const views = choice(t("embeddings.pairs_view"), names.map((name) => [name, t(`embeddings.view_${name}`)]), "model");
  const values = {
    model: (i, j) => Math.sqrt(after.at(i, j)), // small ones are many: they are to be seen
    counts: (i, j) => Math.sqrt(counted(i, j)),
    difference: (i, j) => 0.5 + (after.at(i, j) - counted(i, j)) / (2 * FULL),
  };
  const out = h("p", { class: "read-out", "aria-live": "polite" });
  const told = () => {
    const [a, b] = [ids[row], ids[column]];
    const p = after.at(row, column);
    const parts = [t("embeddings.pairs_model", { a: page.token(a), b: page.token(b) }), " ", figure(`embeddings.after.${a}.${b}`, p, percent(p, 2))];
    if (counts) {
      const q = counted(row, column);
      const [n, of] = [counts.pairs.at(row, column), counts.first.at(row)];
      const times = t("embeddings.pairs_times", { n: number(n, 0), of: number(of, 0) });
      parts.push("; ", t("embeddings.pairs_counted"), " ", figure(`embeddings.counted.${a}.${b}`, q, percent(q, 2)));
      parts.push(" (", figure(`embeddings.pairs.${a}.${b}`, n, times), ")");
      parts.push("; ", t("embeddings.pairs_difference"), " ", figure(`embeddings.difference.${a}.${b}`, p - q, number(100 * (p - q), 2)));
    }
    show(out, parts);
  };
  const holder = h("div", {});
  let map = null;
  const build = () => {
    const view = views.value.get();
    const kind = view === "difference" ? "div" : "seq";
    map = matrix({
      label: t("embeddings.pairs_label", { view: t(`embeddings.view_${view}`) }),
      rows: ids.length,
      columns: ids.length,
      value: values[view],
      kind,
      read: (i, j) => t("embeddings.pairs_at", { a: page.token(ids[i]), b: page.token(ids[j]) }),
      start: [row, column],
      most: 620,
      onMove: (i, j) => {
        [row, column] = [i, j];
        told();
      },
    });
    const ends = kind === "div" ? [t("embeddings.div_low"), t("embeddings.div_high")] : ["0 %", "100 %"];
    show(holder, colourLegend(...ends, kind), map.node);
  };
  views.value.on(build);
  page.onCheckpoint((checkpoint) => {
    after = unpack(checkpoint.embeddings.after);
    map.redraw();
    told();
  });
  const n = { n: number(ids.length, 0), of: number(V, 0) };
  const some = ids.length < V ? t("embeddings.pairs_some", n) : "";
  const key = page.data.kind === "bigram" ? "embeddings.pairs_bigram" : "embeddings.pairs_model_note";
  root.append(h("p", { class: "note" }, t(key), " ", some, " ", counts ? "" : t("embeddings.no_counts")), counts ? views.node : "", holder, out);
}
