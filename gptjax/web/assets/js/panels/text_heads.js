// What each head of each layer looked at: small pictures to choose one from, its arcs over the text,
// the places it read most as bars, and its matrix.

import { h, number, percent, show, svg, t } from "../dom.js";
import { barList, matrix, responsive, shade } from "../charts.js";

const SOURCES = 6; // places that are told as bars
const LEAST_ARC = 0.02; // a share of less is not drawn
const BEFORE = 10; // tokens before a place that say where it stands

// {node, update(text, i)}; `chips`: the list of tokens over which arcs are drawn.
export function headsView(page, chips) {
  const [how, pictures, most] = Array.from({ length: 3 }, () => h("div", {}));
  const mapBox = h("div", {});
  const node = h("section", { class: "heads" }, h("h3", {}, t("text.heads")), how, pictures, h("div", { class: "columns" }, most, mapBox));
  let [text, at, drawn, map] = [null, null, null, null];
  let [layer, head] = [0, 0];
  let buttons = [];

  const arcs = responsive((width, box) => {
    const weights = text?.attention?.weights(layer, head, at);
    if (!weights) return show(box);
    const inner = chips.over.parentNode;
    show(box, svg("svg", { class: "arcs", width: inner.offsetWidth, height: inner.offsetHeight }, paths(weights)));
  });
  chips.over.append(arcs.node);

  function paths(weights) {
    const first = text.first[text.row[at]];
    const middle = (i) => {
      const chip = chips.box(i);
      return [chip.offsetLeft + chip.offsetWidth / 2, chip.offsetTop + 2, chip.offsetHeight];
    };
    const [x, y] = middle(at - 1);
    return Array.from(weights, (weight, s) => {
      if (weight < LEAST_ARC) return null;
      const [a, b, high] = middle(first + s);
      const width = 1 + 5 * weight;
      if (first + s === at - 1) return svg("circle", { class: "arc self", cx: x, cy: y, r: width + 1, opacity: 0.3 + 0.7 * weight });
      const up = Math.min(y, b) - Math.min(high * 1.5, 6 + Math.abs(x - a) / 4);
      return svg("path", { class: "arc", d: `M${x} ${y}Q${(x + a) / 2} ${up} ${a} ${b}`, "stroke-width": width, opacity: 0.25 + 0.75 * weight });
    });
  }

  // One picture per head, of the row in which the chosen token stands.
  function draw() {
    const { layers, heads, places } = text.attention;
    const row = text.row[at];
    const size = places[row];
    buttons = [];
    const rows = Array.from({ length: layers }, (_, n) =>
      h("div", { class: "heads-row" }, h("span", { class: "heads-layer" }, t("text.layer", { layer: n + 1 })), Array.from({ length: heads }, (_, k) => picture(n, k, row, size))),
    );
    show(pictures, h("div", { class: "wide heads-all" }, rows));
  }

  function picture(n, k, row, size) {
    const canvas = h("canvas", { width: size, height: size, "aria-hidden": "true" });
    const pen = canvas.getContext("2d");
    const image = pen.createImageData(size, size);
    const colours = ramp();
    for (let place = 0; place < size; place++) {
      const weights = text.attention.weights(n, k, text.first[row] + 1 + place);
      weights.forEach((weight, s) => image.data.set(colours[Math.round(100 * Math.sqrt(weight))], 4 * (place * size + s)));
    }
    pen.putImageData(image, 0, 0);
    const name = t("text.head", { layer: n + 1, head: k + 1 });
    const button = h("button", { type: "button", class: "head", title: name, "aria-label": name, onclick: () => choose(n, k) }, canvas);
    buttons.push([button, n, k]);
    return button;
  }

  function choose(n, k) {
    [layer, head] = [n, k];
    tell();
  }

  // What follows from the choice of a head and of a token.
  function tell() {
    buttons.forEach(([button, n, k]) => button.setAttribute("aria-pressed", String(n === layer && k === head)));
    const weights = text.attention.weights(layer, head, at);
    const first = text.first[text.row[at]];
    const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, SOURCES);
    const items = order.map((s) => ({
      name: `${page.token(text.ids[first + s])} ${back(at - 1 - first - s)}`,
      value: weights[s],
      text: percent(weights[s]),
      what: `text.attention.${layer}.${head}.${at}.${first + s}`,
    }));
    const said = t("text.reads", { layer: layer + 1, head: head + 1, token: page.token(text.ids[at - 1]), next: page.token(text.ids[at]) });
    const left = Math.max(0, 1 - items.reduce((sum, item) => sum + item.value, 0));
    const rest = weights.length > order.length ? h("p", { class: "note" }, t("text.rest", { n: number(weights.length - order.length, 0), p: percent(left) })) : null;
    show(most, h("p", { class: "note" }, said), barList(said, items, 1), rest);
    arcs.redraw();
    showMap();
  }

  const back = (n) => (n === 0 ? t("text.itself") : t("text.back_by", { n: number(n, 0) }));

  function showMap() {
    const row = text.row[at];
    const size = text.attention.places[row];
    const [i, first] = [text.place[at], text.first[row]];
    const values = (a) => text.attention.weights(layer, head, first + 1 + a);
    const label = t("text.matrix", { layer: layer + 1, head: head + 1 });
    const where = (a) => Array.from(text.ids.slice(Math.max(first, first + a - BEFORE), first + a + 1), page.token).join("");
    const what = {
      label,
      rows: size,
      columns: size,
      most: 420,
      start: [i, i],
      value: (a, b) => (b <= a ? Math.sqrt(values(a)[b]) : null),
      read: (a, b) => t(b <= a ? "text.looks" : "text.masked", { at: where(a), token: page.token(text.ids[first + b]), back: back(a - b), p: b <= a ? percent(values(a)[b]) : "" }),
    };
    // The box that is there is filled anew: whoever moves through it with keys keeps the focus.
    if (map && map.size === size) {
      Object.assign(map.what, what);
      map.node.querySelector("canvas").setAttribute("aria-label", label);
      map.move(i, i);
      return;
    }
    const view = matrix(what);
    map = { ...view, what, size };
    show(mapBox, h("p", { class: "note" }, t("text.matrix_how")), view.node);
  }

  return {
    node,
    update(next, i) {
      const known = next.attention && i > 0;
      node.hidden = !next.attention;
      [text, at] = [next, i];
      if (!known || next.attention.weights(0, 0, i) === null) {
        const n = number(next.attention?.places.reduce((sum, t) => sum + t, 0), 0);
        show(how, h("p", { class: "note" }, t(i > 0 ? "text.heads_room" : "text.first", { n })));
        show(pictures);
        show(most);
        show(mapBox);
        [drawn, map] = [null, null];
        return arcs.redraw();
      }
      if (layer >= text.attention.layers || head >= text.attention.heads) [layer, head] = [0, 0];
      // The same pictures as long as text, checkpoint, row and colours are the same.
      const key = [text.row[i], getComputedStyle(document.documentElement).getPropertyValue("--seq-0")].join();
      if (drawn?.text !== text || drawn.key !== key) {
        show(how, h("p", { class: "note" }, t("text.heads_how")));
        draw();
        drawn = { text, key };
      }
      tell();
    },
  };
}

// Little to much in 101 steps, as [red, green, blue, opacity]; a root, so that small shares show.
function ramp() {
  return Array.from({ length: 101 }, (_, i) => [...shade(i / 100).background.match(/\d+/g).map(Number), 255]);
}
