// The page's data and its place in time: what all panels share.

import { h, signal, t } from "./dom.js";

const VISIBLE = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\\n": "⏎", "\\t": "⇥" };
const KINDS = { unit: Uint16Array, float: Float32Array, u16: Uint16Array, u32: Uint32Array };
const MOST_UNIT = 65535;

// An array of web/arrays.py: {shape, data, at(i, j, ...)}; units are numbers from 0 to 1.
export function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.base64), (c) => c.charCodeAt(0));
  const raw = new KINDS[packed.kind](bytes.buffer);
  const data = packed.kind === "unit" ? Float64Array.from(raw, (value) => value / MOST_UNIT) : raw;
  const at = (...index) => data[index.reduce((place, i, axis) => place * packed.shape[axis] + i, 0)];
  return { shape: packed.shape, data, at };
}

// White space as signs that can be seen, also where Python has escaped it: as the name of a token.
export function visible(text) {
  return VISIBLE[text] ?? ([...text].map((c) => VISIBLE[c] ?? c).join("") || t("page.no_text"));
}

// `data`: of payload.py. `live`: how to ask the server, null in a report.
export function makePage(data, live) {
  const at = signal(bestPlace(data));
  const text = signal(null); // a text that was asked for: its data instead of the checkpoint's
  const page = {
    data,
    live,
    at,
    get checkpoint() {
      return data.checkpoints[at.get()];
    },
    onCheckpoint: (f) => at.on(() => f(page.checkpoint)),
    token: (id) => visible(data.tokens[id]),
    // Take in data that came later.
    fill(more) {
      Object.assign(data, more);
      at.set(bestPlace(data));
    },
    setText: (of) => text.set(of),
    // What the text panel shows, now and whenever the checkpoint or the text changes.
    onText(f) {
      const told = () => f(text.get() ?? page.checkpoint?.text, text.get() !== null);
      at.on(told);
      text.on(told);
    },
  };
  return page;
}

function bestPlace(data) {
  const place = data.checkpoints.findIndex((checkpoint) => checkpoint.step === data.step);
  return place < 0 ? data.checkpoints.length - 1 : place;
}

// The slider through the checkpoints; null where there is only one.
export function timeSlider(page) {
  const { checkpoints } = page.data;
  if (checkpoints.length < 2) return null;
  const out = h("output", { for: "time" });
  const input = h("input", {
    type: "range",
    id: "time",
    min: 0,
    max: checkpoints.length - 1,
    step: 1,
    oninput: () => page.at.set(Number(input.value)),
  });
  const said = (checkpoint) => {
    const step = checkpoint.step.toLocaleString("en-US");
    return t(checkpoint.step === page.data.step ? "page.step_best" : "page.step", { step });
  };
  page.onCheckpoint((checkpoint) => {
    input.value = page.at.get();
    out.textContent = said(checkpoint);
    input.setAttribute("aria-valuetext", out.textContent);
  });
  let timer = null;
  const play = h("button", { type: "button", onclick: () => (timer ? stop() : start()) }, t("page.play"));
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = t("page.play");
  };
  const start = () => {
    if (page.at.get() === checkpoints.length - 1) page.at.set(0);
    play.textContent = t("page.pause");
    timer = setInterval(() => {
      if (page.at.get() === checkpoints.length - 1) stop();
      else page.at.set(page.at.get() + 1);
    }, 900);
  };
  return h("div", { class: "slider time" }, h("label", { for: "time" }, t("page.time")), input, out, play);
}
