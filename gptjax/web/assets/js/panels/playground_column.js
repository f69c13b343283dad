// One run in the playground: its text token by token, what may come next, the ways it took.

import { figure, h, number, percent, show, t } from "../dom.js";
import { visible } from "../page.js";
import { grow, idsTo, plant, rootOf, treeList, wayTo } from "./playground_tree.js";

const BARS_SHOWN = 12; // bars

// `run`: of /api/runs. `settings`: {rules(), seed()}. `say(text)`: tell it to who cannot see it.
// Returns {node, setPrompt, refresh, write, stop, back, idle, onIdle}.
export function makeColumn(run, page, settings, say) {
  const place = (name) => `playground.${run.id}.${name}`;
  const box = (name, attributes = {}) => h("div", { class: `playground-${name}`, ...attributes });
  const text = box("text", { role: "group", "aria-label": t("playground.text_of", { run: run.id }) });
  const short = ["character", "byte"].includes(run.unit) ? " short-names" : "";
  const [next, tree, copies] = [`next${short}`, "tree", "copies"].map((name) => box(name));
  const problem = h("p", { class: "error", role: "alert" });
  const trees = new Map(); // of each prompt, so that a prompt typed again has its texts again
  let [prompt, at, picked, marks] = ["", plant(), null, new Set()];
  let [writing, wanted, asking] = [null, 0, null];
  let tokens = null; // the text of each id
  let reached = null; // the token that Tab goes to

  const name = (id) => tokens?.[id] ?? "";
  const fail = (error) => {
    if (error.name === "AbortError") return;
    problem.textContent = error.status ? error.message : t("playground.no_server");
  };

  function setPrompt(typed) {
    stop();
    if (at.parent || at.children.length) trees.set(prompt, rootOf(at));
    prompt = typed;
    at = trees.get(typed) ?? plant();
    goTo(at);
  }

  // Stand at another place of the tree; `look`: the token whose alternatives are shown, or null.
  function goTo(node, look = null) {
    [at, picked] = [node, look];
    if (!look) marks = new Set();
    show(copies);
    drawText();
    drawTree();
    refresh();
  }

  // Ask what comes next. One question at a time: whatever changed meanwhile, the next one asks.
  function refresh() {
    wanted += 1;
    asking ??= ask().finally(() => {
      asking = null;
    });
    return asking;
  }

  async function ask() {
    next.setAttribute("aria-busy", "true");
    for (let asked = 0; asked !== wanted; ) {
      asked = wanted;
      const [node, look] = [picked ? picked.parent : at, picked];
      const context = node.parent ? { ids: idsTo(node) } : { text: prompt };
      try {
        tokens ??= (await page.live.get(`api/vocabulary?run=${encodeURIComponent(run.id)}`)).tokens;
        const answer = await page.live.post("api/next", { run: run.id, n: BARS_SHOWN, ...context, ...settings.rules() });
        if (rootOf(node) !== rootOf(at)) continue; // of a prompt that is gone
        problem.textContent = answer.problem ?? "";
        if (answer.problem) {
          show(next);
          continue;
        }
        if (!node.parent) node.ids = answer.ids;
        drawNext(answer, node, look);
      } catch (error) {
        if (asked !== wanted) continue;
        show(next);
        fail(error);
      }
    }
    next.setAttribute("aria-busy", "false");
  }

  function drawNext(answer, node, look) {
    const { seen, rest } = answer;
    const head = look ? t("playground.instead_of", { token: visible(name(look.id)) }) : t("playground.what_next");
    const most = Math.max(...answer.tokens.map((token) => Math.max(token.p, token.sampled)), 1e-9);
    const row = (token) =>
      h(
        "button",
        {
          type: "button",
          class: token.id === look?.id ? "next-row came" : "next-row",
          onclick: () => take(node, token),
        },
        h("span", { class: "bar-name" }, visible(token.text), token.id === look?.id ? h("span", { class: "bar-mark" }, ` ${t("playground.came")}`) : null),
        h("span", { class: "tracks", "aria-hidden": "true" }, nextBar("of-model", token.p / most), nextBar("of-draw", token.sampled / most)),
        value(`p.${token.id}`, token.p, t("playground.p_said")),
        value(`sampled.${token.id}`, token.sampled, t("playground.sampled_said")),
      );
    const others = rest.tokens
      ? h("li", { class: "next-row" }, h("span", {}, t("playground.others", { n: number(rest.tokens, 0) })), h("span", {}), value("p.rest", rest.p), value("sampled.rest", rest.sampled))
      : null;
    const columns = h("div", { class: "next-row next-head", "aria-hidden": "true" }, h("span", {}), h("span", {}), h("span", { class: "of-model-key" }, t("playground.p")), h("span", { class: "of-draw-key" }, t("playground.sampled")));
    show(
      next,
      h("h4", {}, head),
      h("p", { class: "note" }, t("playground.seen", { tokens: number(seen.tokens, 0), of: number(seen.of, 0), unit: run.unit })),
      columns,
      h("ol", { class: "next-bars", "aria-label": head }, answer.tokens.map((token) => h("li", {}, row(token))), others),
      h(
        "p",
        { class: "note" },
        t("playground.entropy"),
        figure(place("entropy"), answer.entropy_nats, t("playground.nats", { value: number(answer.entropy_nats) })),
        t("playground.entropy_left"),
        figure(place("sampled_entropy"), answer.sampled_entropy_nats, t("playground.nats", { value: number(answer.sampled_entropy_nats) })),
        t("playground.kept"),
        figure(place("kept"), answer.kept, t("playground.kept_of", { kept: number(answer.kept, 0), of: number(answer.vocab_size, 0) })),
      ),
    );
  }

  function value(what, p, said = "") {
    const spoken = said ? h("span", { class: "spoken" }, `, ${said} `) : null;
    return h("span", { class: "bar-value" }, spoken, figure(place(what), p, percent(p, 2)));
  }

  // Go on with a token of one's own choice: at the text's end, or instead of one that came.
  function take(node, token) {
    stop();
    goTo(grow(node, token.id));
    say(t("playground.went_on", { run: run.id, token: visible(token.text) }));
  }

  function drawText() {
    const nodes = wayTo(at);
    const begun = prompt || nodes.length ? h("span", { class: "prompt" }, prompt) : h("span", { class: "note" }, t("playground.nothing_yet"));
    show(text, begun);
    drawMore(nodes);
    if (picked) rove(text.querySelectorAll("button")[nodes.indexOf(picked)]);
  }

  // Tokens at the text's end; those before them stay as they are.
  function drawMore(nodes) {
    if (nodes.length) text.querySelector(".note")?.remove();
    text.append(...nodes.flatMap(tokenButton));
    rove(text.querySelector("button:last-of-type"));
    if (!picked) text.scrollTop = text.scrollHeight;
  }

  // White space stands as it is, for the text to be read; a line's end is seen as well.
  function tokenButton(node) {
    const label = name(node.id);
    const button = h(
      "button",
      {
        type: "button",
        class: "token",
        "aria-label": /\S/.test(label) ? null : visible(label),
        "aria-pressed": String(node === picked),
        "data-id": String(node.id),
        tabindex: "-1",
        onclick: () => (node === picked ? goTo(at) : goTo(at, node)),
      },
      label === "\n" ? visible(label) : label,
    );
    if (marks.has(node)) button.classList.add("copied");
    return label === "\n" ? [button, "\n"] : [button];
  }

  // One token of the text is reached by Tab, the others from it by arrows.
  function rove(button) {
    reached?.setAttribute("tabindex", "-1");
    button?.setAttribute("tabindex", "0");
    reached = button;
  }

  text.addEventListener("keydown", (event) => {
    const buttons = [...text.querySelectorAll("button")];
    const now = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape" && picked) goTo(at);
    else if (to === undefined || now < 0) return;
    else {
      rove(buttons[Math.min(Math.max(to, 0), last)]);
      reached.focus();
    }
    event.preventDefault();
  });
  // A click draws the text anew: what was clicked keeps the focus.
  text.addEventListener("click", () => reached?.focus());

  function drawTree() {
    const root = rootOf(at);
    const forks = root.children.length > 0;
    show(tree, forks ? h("h4", {}, t("playground.branches")) : null, forks ? treeList(root, at, name, (node) => goTo(node)) : null);
  }

  // Up to n tokens by the run itself. The draws depend on the seed and the place in the text, so
  // it is the same text in one go and step by step.
  async function write(n) {
    await asking;
    const root = rootOf(at);
    if (writing || !root.ids) return;
    goTo(at);
    const mine = new AbortController();
    writing = mine;
    changed();
    let [unsaid, saidAt] = ["", Date.now()];
    const takeIn = (piece) => {
      if (piece.error) throw Object.assign(new Error(piece.error.message), { status: 500 });
      const [choice] = piece.choices;
      if (!choice || rootOf(at) !== root) return;
      const begun = at;
      for (const id of choice.token_ids) at = grow(at, id);
      drawMore(wayTo(at, begun));
      refresh();
      unsaid += choice.text;
      if (choice.finish_reason === "stop") show(copies, h("p", { class: "note" }, t("playground.ended")));
      if (Date.now() - saidAt > 2000) {
        say(unsaid);
        [unsaid, saidAt] = ["", Date.now()];
      }
    };
    const body = { model: run.id, prompt: idsTo(at), max_tokens: n, stream: true, return_token_ids: true, seed: settings.seed() };
    try {
      await page.live.events("v1/completions", { ...body, ...settings.rules() }, takeIn, mine.signal);
      say(unsaid);
    } catch (error) {
      fail(error);
    } finally {
      if (writing === mine) writing = null;
      drawTree();
      changed();
    }
  }

  function stop() {
    writing?.abort();
    writing = null;
    changed();
  }

  function back() {
    stop();
    if (at.parent) goTo(at.parent);
  }

  // Of a stream what was written, without the prompt; of items the whole item.
  async function lookForCopy() {
    const nodes = wayTo(at);
    const context = run.items && nodes.length ? { ids: idsTo(at) } : nodes.length ? { ids: nodes.map((node) => node.id) } : { text: prompt };
    show(copies, h("p", { class: "note" }, t("playground.looking")));
    try {
      const found = await page.live.post("api/copied", { run: run.id, ...context });
      marks = new Set(nodes.length && found.tokens ? nodes.slice(...found.tokens) : []);
      drawText();
      show(copies, copyLine(found));
      say(copies.textContent);
    } catch (error) {
      show(copies);
      fail(error);
    }
  }

  function copyLine(found) {
    if (found.kind === null) return h("p", { class: "note" }, t("playground.not_known", { why: found.reason }));
    if (found.kind === "items")
      return found.items.map((one) => h("p", { "data-what": place("where"), "data-value": one.where }, t(`playground.where_${one.where.replace(" ", "_")}`, { item: one.item })));
    const sizes = { n: number(found.characters, 0), of: number(found.of, 0), unseen: number(found.held_out, 0) };
    return [
      h("p", { "data-what": place("copied"), "data-value": String(found.characters) }, t("playground.copied", sizes)),
      h("blockquote", {}, visible(found.passage)),
    ];
  }

  async function lookInside() {
    const context = at.parent ? { ids: idsTo(at) } : { text: prompt };
    try {
      const answer = await page.live.post("api/inspect", { run: run.id, ...context });
      problem.textContent = answer.problem ?? "";
      if (answer.problem) return;
      page.setText(answer.text);
      say(t("playground.inside_done"));
      document.getElementById("text")?.scrollIntoView();
    } catch (error) {
      fail(error);
    }
  }

  let heard = () => {};
  const changed = () => heard();
  const button = (key, onclick) => h("button", { type: "button", onclick }, t(key));
  // The other panels are of one run.
  const inside = run.id === page.data.run ? button("playground.look_inside", lookInside) : null;
  const node = h(
    "article",
    { class: "playground-column", "aria-label": run.id, "data-run": run.id },
    h("h3", {}, run.id),
    problem,
    text,
    next,
    h("div", { class: "playground-buttons" }, button("playground.is_it_copied", lookForCopy), inside),
    copies,
    tree,
  );
  return { node, setPrompt, refresh, write, stop, back, idle: () => writing === null, onIdle: (f) => (heard = f) };
}

function nextBar(kind, share) {
  const inner = h("span", { class: `bar ${kind}` });
  inner.style.width = `${100 * share}%`;
  return h("span", { class: "bar-track" }, inner);
}
