// The notes' diagrams, drawn from this model's shapes and parameters. A box that is chosen says
// which parameters it holds, and which line of the package does it.

import { figure, h, number, show, signal, svg, t, table } from "../dom.js";
import { responsive } from "../charts.js";

const [LINE, GAP, PAD, SIDE] = [17, 24, 9, 18]; // px

export const diagramsPanel = {
  id: "diagrams",
  title: "diagrams.title",
  has: (page) => Boolean(page.data.diagrams),
  mount(root, page) {
    const { diagrams, parameters } = page.data.diagrams;
    root.append(
      h("p", {}, t("diagrams.about")),
      h("div", { class: "columns diagrams" }, diagrams.map((diagram) => drawn(diagram, parameters))),
    );
  },
};

const shapeNames = (box) => `(${box.shape.map(([name]) => name).join(", ")})`;
const shapeNumbers = (box, between = " × ") => box.shape.map(([, n]) => number(n, 0)).join(between);

function countText(box) {
  if (box.count === 0) return "";
  if (box.times === 1) return t("diagrams.count", { n: number(box.count, 0) });
  const each = number(box.count / box.times, 0);
  return t("diagrams.count_times", { times: box.times, each, n: number(box.count, 0) });
}

function drawn(diagram, parameters) {
  const boxes = diagram.rows.flat();
  const start = boxes.findIndex((box) => box.params.length > 0);
  const chosen = signal(Math.max(start, 0));
  const picture = responsive((width, node) => show(node, image(diagram, Math.min(width, 460), chosen)));
  const detail = h("div", { class: "diagram-detail", "aria-live": "polite" });
  chosen.on((i) => {
    picture.redraw();
    show(detail, told(boxes[i]));
  });
  const total = number(parameters, 0);
  const sum = figure(`diagrams.${diagram.name}.count`, diagram.count, number(diagram.count, 0));
  return h(
    "div",
    { id: `diagrams-${diagram.name}` },
    h("h3", {}, t(`diagrams.name_${diagram.name}`)),
    h("p", { class: "note" }, sum, " ", t(`diagrams.of_${diagram.name}`, { total })),
    picture.node,
    detail,
    asTable(diagram),
  );
}

function image(diagram, width, chosen) {
  const right = width - (diagram.skips.length > 0 ? SIDE : 1);
  const places = layout(diagram.rows, right);
  const last = places.at(-1)[0];
  const height = last.y + last.height + 2;
  let i = 0;
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": t(`diagrams.name_${diagram.name}`) },
    diagram.skips.map(([from, to]) => skip(places[from].at(-1), places[to].at(-1), width - 6)),
    places.slice(1).map((row, k) => arrows(places[k], row)),
    places.flat().map((place) => boxOf(place, i++, chosen)),
  );
}

// Where each box stands: one of a row over the whole width, several side by side.
function layout(rows, right) {
  let y = 1;
  return rows.map((row) => {
    const wide = row.length === 1;
    const lines = wide ? 2 : 5;
    const [width, height] = [(right - 1 - (row.length - 1) * 8) / row.length, lines * LINE + 2 * PAD - 3];
    const places = row.map((box, i) => ({ box, wide, width, height, x: 1 + i * (width + 8), y }));
    y += height + GAP;
    return places;
  });
}

function boxOf({ box, wide, width, height, x, y }, i, chosen) {
  const [name, formula] = [box.times > 1 ? `${box.times} × ${box.name}` : box.name, box.formula];
  const said = countText(box);
  const pad = wide ? PAD : PAD - 3;
  const text = (words, line, kind, end) =>
    svg(
      "text",
      { class: kind, x: end ? x + width - pad : x + pad, y: y + PAD + LINE * line + 10, "text-anchor": end ? "end" : "start" },
      words,
    );
  const lines = wide
    ? [text(name, 0, "name"), text(`${shapeNames(box)} ${shapeNumbers(box)}`, 0, "mono", true), text(formula, 1, "mono soft"), text(said, 1, "soft", true)]
    : [name, formula, shapeNames(box), shapeNumbers(box, "×"), number(box.count, 0)].map((words, k) => text(words, k, ["name", "soft", "mono", "mono", "soft"][k]));
  const choose = () => chosen.set(i);
  return svg(
    "g",
    {
      class: box.count > 0 ? "box learns" : "box",
      role: "button",
      tabindex: "0",
      "aria-pressed": String(chosen.get() === i),
      "aria-label": [name, formula, shapeNames(box), shapeNumbers(box), said].filter(Boolean).join(", "),
      onclick: choose,
      onkeydown(event) {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        const group = event.currentTarget.ownerSVGElement.parentNode;
        choose();
        group.querySelectorAll(".box")[i].focus(); // it was drawn anew
      },
    },
    svg("rect", { x, y, width, height, rx: 6 }),
    lines,
  );
}

function arrows(above, below) {
  // From every box of a row to every one below would be a net: the shorter row says how many.
  const n = Math.max(above.length, below.length);
  return Array.from({ length: n }, (_, k) => {
    const [from, to] = [above[Math.min(k, above.length - 1)], below[Math.min(k, below.length - 1)]];
    const [a, b] = [from.x + from.width / 2, to.x + to.width / 2];
    const x = above.length >= below.length ? a : b;
    return arrow(`M${x} ${from.y + from.height}L${x} ${to.y - 1}`, x, to.y, "down");
  });
}

function skip(from, to, x) {
  const [a, b] = [from.y + from.height / 2 + 6, to.y + to.height / 2 - 6];
  const end = to.x + to.width;
  return arrow(`M${from.x + from.width} ${a}L${x} ${a}L${x} ${b}L${end} ${b}`, end, b, "left");
}

function arrow(d, x, y, way) {
  const head = way === "down" ? `M${x - 4} ${y - 7}L${x} ${y}L${x + 4} ${y - 7}` : `M${x + 7} ${y - 4}L${x} ${y}L${x + 7} ${y + 4}`;
  return [svg("path", { class: "arrow", d }), svg("path", { class: "arrow", d: head })];
}

function told(box) {
  const where = box.line > 0 ? [h("p", { class: "note" }, t("diagrams.line", { file: box.file, line: box.line })), h("pre", {}, box.code)] : [];
  const rows = box.params.map(([path, shape, n]) => [path, shape.join("×"), number(n, 0)]);
  const heads = [t("diagrams.parameter"), t("diagrams.shape"), t("diagrams.numbers")];
  const caption = box.times > 1 ? t("diagrams.holds_first", { name: box.name, times: box.times }) : t("diagrams.holds", { name: box.name });
  return [
    ...where,
    box.params.length > 0 ? table(caption, heads, rows) : h("p", { class: "note" }, t("diagrams.holds_none", { name: box.name })),
    box.opens ? h("p", {}, h("a", { href: `#diagrams-${box.opens}` }, t("diagrams.opens", { name: box.name }))) : null,
  ];
}

function asTable(diagram) {
  const rows = diagram.rows.flat().map((box, i) => [
    box.name,
    box.formula,
    `${shapeNames(box)} ${shapeNumbers(box)}`,
    figure(`diagrams.${diagram.name}.${i}`, box.count, number(box.count, 0)),
  ]);
  const heads = [t("diagrams.box"), t("diagrams.formula"), t("diagrams.shape"), t("diagrams.numbers")];
  return h("details", {}, h("summary", {}, t("diagrams.table")), table(t(`diagrams.name_${diagram.name}`), heads, rows));
}
