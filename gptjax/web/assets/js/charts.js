// Charts: curves, bars, points, matrices. Each is drawn anew when its box changes its width, is
// moved through by arrow keys as well as by a pointer, and says in words what it points at.

import { h, number, show, svg, t } from "./dom.js";

const FADE = { seq: ["--seq-0", "--seq-1", "--seq-2"], div: ["--div-0", "--div-1", "--div-2"] };

// A box that calls draw(width in px) now and whenever its width changes: {node, redraw}.
export function responsive(draw) {
  const node = h("div", { class: "responsive" });
  let width = 0;
  const redraw = () => width > 0 && draw(width, node);
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width) return;
    width = now;
    redraw();
  }).observe(node);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return { node, redraw };
}

// Round numbers from low to high, about n of them.
export function ticks(low, high, n = 5) {
  const raw = (high - low || 1) / n;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, i) => (first + i) * step);
}

function tickText(value, all) {
  const step = all.length > 1 ? Math.abs(all[1] - all[0]) : 1;
  return number(value, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

// The colour of a share: p from 0 to 1 along "seq" (little to much), or "div" (0.5 is none).
// Returns {background, color}: the second is an ink that can be read on the first.
export function shade(p, kind = "seq") {
  const style = getComputedStyle(document.documentElement);
  const stops = FADE[kind].map((name) => hex(style.getPropertyValue(name).trim()));
  const at = Math.min(Math.max(p, 0), 1) * 2;
  const [a, b] = at < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
  const rgb = a.map((value, i) => Math.round(value + (b[i] - value) * (at % 1 || (at === 2 ? 1 : 0))));
  return { background: `rgb(${rgb.join(" ")})`, color: luminance(rgb) > 0.18 ? "#000" : "#fff" };
}

const hex = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));

// Relative luminance, as WCAG defines it; above 0.18 black is read better than white.
function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => {
    const c = value / 255;
    return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// A bar of colours with what its ends mean.
export function colourLegend(low, high, kind = "seq") {
  const parts = Array.from({ length: 24 }, (_, i) => {
    const cell = h("span", {});
    cell.style.background = shade(i / 23, kind).background;
    return cell;
  });
  return h("div", { class: "colour-legend" }, low, h("span", { class: "ramp", "aria-hidden": "true" }, parts), high);
}

// Curves over a common x. `what`: {label, series: [{name, x, y, points}], lines: [{name, y}],
// xLabel, yLabel, height, logX, digits}. Infinite and missing values break a curve.
export function lineChart(what) {
  const read = h("output", { class: "read-out", "aria-live": "polite" });
  const xs = [...new Set(what.series.flatMap((s) => Array.from(s.x)))].sort((a, b) => a - b);
  let cursor = null;
  const box = responsive((width, node) => {
    const view = plotFrame(what, xs, width);
    const cross = svg("line", { class: "cursor", y1: view.top, y2: view.bottom, visibility: "hidden" });
    const dots = what.series.map((_, i) => svg("circle", { class: `dot series-${i}`, r: 3.5, visibility: "hidden" }));
    const move = (place) => {
      cursor = Math.min(Math.max(place, 0), xs.length - 1);
      const x = xs[cursor];
      cross.setAttribute("x1", view.x(x));
      cross.setAttribute("x2", view.x(x));
      cross.setAttribute("visibility", "visible");
      const said = what.series.map((series, i) => {
        const k = Array.from(series.x).indexOf(x);
        const known = k >= 0 && Number.isFinite(series.y[k]);
        dots[i].setAttribute("visibility", known ? "visible" : "hidden");
        if (!known) return null;
        dots[i].setAttribute("cx", view.x(x));
        dots[i].setAttribute("cy", view.y(series.y[k]));
        return `${series.name} ${number(series.y[k], what.digits ?? 4)}`;
      });
      read.textContent = [`${what.xLabel} ${number(x, 0)}`, ...said.filter(Boolean)].join(" · ");
    };
    const image = svg(
      "svg",
      {
        width,
        height: view.height,
        viewBox: `0 0 ${width} ${view.height}`,
        role: "img",
        tabindex: "0",
        "aria-label": what.label,
        onpointermove: (event) => move(nearest(xs, view.inverse(event.offsetX))),
        onkeydown: (event) => {
          const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10 }[event.key];
          if (!by) return;
          event.preventDefault();
          move(cursor === null ? 0 : cursor + by);
        },
      },
      view.axes,
      what.series.map((series, i) => curve(series, i, view)),
      cross,
      dots,
    );
    show(node, image);
    if (cursor !== null) move(cursor);
  });
  const names = [...what.series, ...(what.lines ?? [])].map((entry, i) => {
    const kind = i < what.series.length ? `series-${i}` : `line-${i - what.series.length}`;
    const mark = svg("svg", { width: 22, height: 10, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 22, y1: 5, y2: 5, class: `curve ${kind}` }));
    return h("li", {}, mark, entry.name);
  });
  read.textContent = t("chart.how");
  return h("figure", { class: "chart" }, h("ul", { class: "legend" }, names), box.node, read);
}

// Scales, axes and horizontal lines of a chart `width` px wide.
function plotFrame(what, xs, width) {
  const height = what.height ?? 260;
  const [left, right, top, bottom] = [52, width - 24, 10, height - 38];
  const ys = what.series.flatMap((s) => Array.from(s.y)).filter(Number.isFinite);
  const levels = (what.lines ?? []).map((line) => line.y).filter(Number.isFinite);
  let [low, high] = [Math.min(...ys, ...levels), Math.max(...ys, ...levels)];
  if (!(high > low)) [low, high] = [low - 1, low + 1];
  const pad = (high - low) * 0.05;
  [low, high] = [low - pad, high + pad];
  const place = what.logX ? (x) => Math.log10(Math.max(x, 1)) : (x) => x;
  const [first, last] = [place(xs[0]), place(xs[xs.length - 1])];
  const span = last - first || 1;
  const x = (value) => left + ((place(value) - first) / span) * (right - left);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  const inverse = (px) => {
    const at = first + ((px - left) / (right - left)) * span;
    return what.logX ? 10 ** at : at;
  };
  const rows = ticks(low, high);
  const columns = what.logX
    ? Array.from({ length: Math.floor(last) + 1 }, (_, i) => 10 ** i).filter((v) => place(v) >= first)
    : ticks(first, last, Math.max(2, Math.floor(width / 110)));
  const axes = [
    rows.map((value) => svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) })),
    rows.map((value) => svg("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tickText(value, rows))),
    columns.map((value) => svg("text", { class: "tick", x: x(value), y: bottom + 16, "text-anchor": "middle" }, number(value, 0))),
    svg("text", { class: "axis", x: right, y: height - 6, "text-anchor": "end" }, what.xLabel),
    svg("text", { class: "axis", x: left, y: height - 6 }, what.yLabel),
    (what.lines ?? []).map((line, i) => svg("line", { class: `level line-${i}`, x1: left, x2: right, y1: y(line.y), y2: y(line.y) })),
  ];
  return { height, top, bottom, x, y, inverse, axes };
}

function curve(series, i, view) {
  if (series.points)
    return Array.from(series.x, (x, k) =>
      Number.isFinite(series.y[k]) ? svg("circle", { class: `dot series-${i}`, r: 3, cx: view.x(x), cy: view.y(series.y[k]) }) : null,
    );
  let pen = "M";
  const path = Array.from(series.x, (x, k) => {
    if (!Number.isFinite(series.y[k])) {
      pen = "M";
      return "";
    }
    const piece = `${pen}${view.x(x).toFixed(1)} ${view.y(series.y[k]).toFixed(1)}`;
    pen = "L";
    return piece;
  }).join("");
  return svg("path", { class: `curve series-${i}`, d: path });
}

function nearest(sorted, value) {
  let best = 0;
  sorted.forEach((x, i) => {
    if (Math.abs(x - value) < Math.abs(sorted[best] - value)) best = i;
  });
  return best;
}

// Bars with names and values, largest value `most` (default: of the items). Items: {name, value,
// text, mark (said and drawn), what (for tests), onclick}.
export function barList(label, items, most = null) {
  const top = most ?? Math.max(...items.map((item) => item.value), 1e-12);
  const rows = items.map((item) => {
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * Math.max(item.value, 0)) / top}%`;
    const parts = [
      h("span", { class: "bar-name" }, item.name),
      h("span", { class: "bar-track" }, bar),
      h("span", { class: "bar-value", "data-what": item.what, "data-value": String(item.value) }, item.text),
      item.mark ? h("span", { class: "bar-mark" }, item.mark) : null,
    ];
    const inside = item.onclick ? h("button", { type: "button", class: "bar-row", onclick: item.onclick }, parts) : h("div", { class: "bar-row" }, parts);
    return h("li", { class: item.mark ? "marked" : null }, inside);
  });
  return h("ol", { class: "bars", "aria-label": label }, rows);
}

// Points of a plane with their names. `what`: {label, points: [[x, y]], names, selected: signal of
// an index or null, near: (i) => indices that are highlighted too, height}.
export function scatter(what) {
  const box = responsive((width, node) => {
    const height = Math.min(what.height ?? 460, Math.max(300, width));
    const [xs, ys] = [0, 1].map((axis) => what.points.map((point) => point[axis]));
    const scale = (values, low, high) => {
      const [a, b] = [Math.min(...values), Math.max(...values)];
      return (value) => low + ((value - a) / (b - a || 1)) * (high - low);
    };
    const [x, y] = [scale(xs, 18, width - 24), scale(ys, height - 14, 16)];
    const chosen = what.selected.get();
    const near = chosen === null ? [] : what.near(chosen);
    const marks = what.points.map((point, i) => {
      const kind = i === chosen ? "chosen" : near.includes(i) ? "near" : "";
      return svg(
        "text",
        { class: `point ${kind}`, x: x(point[0]), y: y(point[1]), "text-anchor": "middle", onclick: () => what.selected.set(i) },
        what.names[i],
      );
    });
    const front = [...marks.keys()].sort((a, b) => rank(a) - rank(b));
    function rank(i) {
      return i === chosen ? 2 : near.includes(i) ? 1 : 0;
    }
    show(
      node,
      svg(
        "svg",
        {
          width,
          height,
          viewBox: `0 0 ${width} ${height}`,
          role: "img",
          tabindex: "0",
          "aria-label": what.label,
          onkeydown: (event) => {
            const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
            if (!by) return;
            event.preventDefault();
            const n = what.points.length;
            what.selected.set(((what.selected.get() ?? -by) + by + n) % n);
          },
        },
        front.map((i) => marks[i]),
      ),
    );
  });
  what.selected.on(box.redraw);
  return box.node;
}

// A matrix of colours. `what`: {label, rows, columns, value: (i, j) => number from 0 to 1 or null,
// kind, rowName, columnName, read: (i, j) => text, start: [i, j], onMove: (i, j), square (default
// true), most (px)}. Returns {node, redraw, move(i, j)}.
export function matrix(what) {
  const read = h("output", { class: "read-out", "aria-live": "polite" });
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": what.label });
  let [row, column] = what.start ?? [0, 0];
  let [cellX, cellY] = [1, 1];
  const box = responsive((width, node) => {
    const wide = Math.min(width, what.most ?? 520);
    cellX = Math.max(2, Math.floor(wide / what.columns));
    cellY = what.square === false ? Math.max(cellX, 14) : cellX;
    const sharp = window.devicePixelRatio || 1;
    canvas.width = what.columns * cellX * sharp;
    canvas.height = what.rows * cellY * sharp;
    canvas.style.width = `${what.columns * cellX}px`;
    canvas.style.height = `${what.rows * cellY}px`;
    const pen = canvas.getContext("2d");
    pen.scale(sharp, sharp);
    const colours = Array.from({ length: 101 }, (_, i) => shade(i / 100, what.kind ?? "seq").background);
    for (let i = 0; i < what.rows; i++)
      for (let j = 0; j < what.columns; j++) {
        const value = what.value(i, j);
        if (value === null) continue;
        pen.fillStyle = colours[Math.round(100 * Math.min(Math.max(value, 0), 1))];
        pen.fillRect(j * cellX, i * cellY, cellX, cellY);
      }
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    pen.lineWidth = 2;
    pen.strokeRect(column * cellX, row * cellY, cellX, cellY);
    if (!canvas.isConnected || canvas.parentNode !== node) show(node, canvas);
  });
  const move = (i, j, tell = true) => {
    row = Math.min(Math.max(i, 0), what.rows - 1);
    column = Math.min(Math.max(j, 0), what.columns - 1);
    read.textContent = what.read(row, column);
    box.redraw();
    if (tell && what.onMove) what.onMove(row, column);
  };
  canvas.addEventListener("pointermove", (event) => {
    const [i, j] = [Math.floor(event.offsetY / cellY), Math.floor(event.offsetX / cellX)];
    if (i !== row || j !== column) move(i, j);
  });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    move(row + by[0], column + by[1]);
  });
  read.textContent = what.read(row, column);
  return { node: h("div", { class: "matrix" }, h("div", { class: "wide" }, box.node), read), redraw: box.redraw, move };
}
