// A tree of texts: every way that was taken from a prompt stays, and can be walked back.

import { h, t } from "../dom.js";
import { visible } from "../page.js";

const TREE_DEEPEST = 6; // steps to the right: a phone has room for no more
const STRETCH_SHOWN = 40; // characters of a stretch of text

// The beginning of a tree: the tokens of a prompt, null until the server has told them.
export function plant(ids = null) {
  return { parent: null, children: [], ids, id: null };
}

// Go on from a node with a token; a way that was taken before is the same one.
export function grow(node, id) {
  const taken = node.children.find((child) => child.id === id);
  if (taken) return taken;
  const child = { parent: node, children: [], id };
  node.children.push(child);
  return child;
}

// The nodes from the prompt, or from one of them, (left out) to a node.
export function wayTo(node, from = null) {
  const nodes = [];
  for (let at = node; at.parent && at !== from; at = at.parent) nodes.push(at);
  return nodes.reverse();
}

export function rootOf(node) {
  let at = node;
  while (at.parent) at = at.parent;
  return at;
}

// All tokens up to a node, the prompt's first.
export function idsTo(node) {
  return [...rootOf(node).ids, ...wayTo(node).map((one) => one.id)];
}

// Nodes of a tree that follow each other without a fork, from `node` on.
function stretchFrom(node) {
  const nodes = [node];
  let at = node;
  while (at.children.length === 1) {
    [at] = at.children;
    nodes.push(at);
  }
  return nodes;
}

// The tree as nested lists of buttons; `token(id)`: its text. Up and Down go through them all.
export function treeList(root, current, token, goTo) {
  const here = new Set([root, ...wayTo(current)]);
  const list = (nodes, depth) =>
    h("ul", { class: depth > 0 && depth <= TREE_DEEPEST ? "deeper" : null }, nodes.map((node) => item(node, depth)));
  const item = (node, depth) => {
    const nodes = stretchFrom(node);
    const end = nodes[nodes.length - 1];
    const said = visible(nodes.map((one) => token(one.id)).join(""));
    const cut = [...said].length > STRETCH_SHOWN ? `${[...said].slice(0, STRETCH_SHOWN).join("")}…` : said;
    const button = h(
      "button",
      {
        type: "button",
        class: here.has(node) ? "on-the-way" : null,
        "aria-current": nodes.includes(current) ? "true" : null,
        onclick: () => goTo(end),
      },
      h("span", { class: "stretch" }, cut),
      " ",
      h("span", { class: "note" }, t(nodes.length === 1 ? "playground.one_token" : "playground.tokens", { n: nodes.length })),
    );
    return h("li", {}, button, end.children.length ? list(end.children, depth + 1) : null);
  };
  const start = h(
    "button",
    { type: "button", class: "on-the-way", "aria-current": current === root ? "true" : null, onclick: () => goTo(root) },
    t("playground.prompt_alone"),
  );
  const node = h("div", { class: "tree", role: "group", "aria-label": t("playground.branches") }, start, list(root.children, 0));
  node.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const buttons = [...node.querySelectorAll("button")];
    buttons[Math.min(Math.max(buttons.indexOf(document.activeElement) + by, 0), buttons.length - 1)].focus();
  });
  return node;
}
