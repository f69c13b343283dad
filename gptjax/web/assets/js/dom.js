// Building blocks of the page: nodes, words, numbers, values that tell when they change.
// All text that comes from a run goes into text nodes: nothing of it is ever read as HTML.

// h("p", {class: "note", onclick: f}, "text", node): an element. Functions are listeners, false and
// null leave an attribute out, true is an empty one.
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for SVG.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Put these in place of what a node holds.
export function show(node, ...children) {
  node.replaceChildren();
  return fill(node, {}, children);
}

let words = null;

// A sentence of words.json, with {name} replaced by values.name.
export function t(key, values = {}) {
  words ??= JSON.parse(document.getElementById("words").textContent);
  const text = words[key];
  if (text === undefined) throw new Error(`words.json has no ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// 1234.5678 -> "1,234.5678" with `digits` after the point; what is no number is a dash.
export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const said = new Intl.NumberFormat("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(value);
  return said.replace("-", "−");
}

// 0.1234 -> "12.3 %".
export function percent(p, digits = 1) {
  return `${number(100 * p, digits)} %`;
}

// A number with what it is of, for readers and tests: <span data-what data-value>.
export function figure(what, value, text) {
  return h("span", { "data-what": what, "data-value": String(value) }, text);
}

// A value that tells when it is set: get(), set(v), on(f); f is called now and at each change.
// on() returns what ends it.
export function signal(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      value = next;
      for (const listener of [...listeners]) listener(value);
    },
    on(listener) {
      listeners.add(listener);
      listener(value);
      return () => listeners.delete(listener);
    },
  };
}

// A slider with its label and its value as text: {node, input, value()}.
// `what`: {id, label, min, max, step, value, text: (v) => string, onInput: (v) => void}.
export function slider(what) {
  const out = h("output", { for: what.id });
  const input = h("input", {
    type: "range",
    id: what.id,
    min: what.min,
    max: what.max,
    step: what.step,
    value: what.value,
    oninput: () => told(true),
  });
  const told = (tell) => {
    const value = Number(input.value);
    const text = what.text ? what.text(value) : String(value);
    out.textContent = text;
    input.setAttribute("aria-valuetext", text);
    if (tell && what.onInput) what.onInput(value);
  };
  told(false);
  const node = h("div", { class: "slider" }, h("label", { for: what.id }, what.label), input, out);
  return { node, input, value: () => Number(input.value), set: (v) => { input.value = v; told(false); } };
}

// A row of buttons of which one is pressed: {node, value: signal}.
// `options`: [[value, label], ...]; the group is named by `label`.
export function choice(label, options, first) {
  const value = signal(first);
  const buttons = options.map(([option, text]) =>
    h("button", { type: "button", onclick: () => value.set(option) }, text),
  );
  value.on((now) =>
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(options[i][0] === now))),
  );
  const node = h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  return { node, value };
}

// A table: heads, then rows of cells (text or nodes); `caption` says what it is.
export function table(caption, heads, rows) {
  return h(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
    ),
  );
}
