// The page: title, list of panels, the slider through time, the panels themselves.

import { h, show, t } from "./dom.js";
import { makeLive } from "./live.js";
import { makePage, timeSlider } from "./page.js";
import { diagramsPanel } from "./panels/diagrams.js";
import { embeddingsPanel } from "./panels/embeddings.js";
import { layersPanel } from "./panels/layers.js";
import { lessonsPanel } from "./panels/lessons.js";
import { playgroundPanel } from "./panels/playground.js";
import { questionsPanel } from "./panels/questions.js";
import { runPanel } from "./panels/run.js";
import { samplesPanel } from "./panels/samples.js";
import { textPanel } from "./panels/text.js";

// In the order of the page. `has` says whether there is something to show of this run.
const PANELS = [
  playgroundPanel,
  questionsPanel,
  runPanel,
  samplesPanel,
  textPanel,
  embeddingsPanel,
  lessonsPanel,
  layersPanel,
  diagramsPanel,
];

const RETRY_MS = 400;

function skeleton(page) {
  const list = h("ul", {});
  const time = h("div", { class: "sticky", role: "region", "aria-label": t("page.time") });
  const main = h("main", { id: "panels" });
  const about = page.live ? "page.about_live" : "page.about";
  show(
    document.getElementById("page"),
    h("a", { class: "skip", href: "#panels" }, t("page.skip")),
    h(
      "header",
      {},
      h("h1", {}, page.data.name),
      h("p", { class: "kind" }, t(about, { version: page.data.version })),
      h("nav", { "aria-label": t("page.contents") }, list),
    ),
    time,
    main,
  );
  return { list, time, main };
}

function mount(panels, page, { list, main }) {
  for (const panel of panels.filter((one) => !one.has || one.has(page))) {
    list.append(h("li", {}, h("a", { href: `#${panel.id}` }, t(panel.title))));
    const title = `${panel.id}-title`;
    const root = h("div", { class: "panel-body" });
    const heading = h("h2", { id: title }, t(panel.title));
    main.append(h("section", { id: panel.id, class: "panel", "aria-labelledby": title }, heading, root));
    panel.mount(root, page);
  }
}

// Within a notebook the page has no address of its own: its links would lead to the notebook's.
function followWithin(event) {
  const link = event.target.closest('a[href^="#"]');
  const target = link && document.getElementById(link.hash.slice(1));
  if (!target || location.protocol !== "about:") return;
  event.preventDefault();
  target.tabIndex = -1;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}

// What the server has not yet computed comes later: the panels that need no checkpoint begin.
async function begin() {
  document.addEventListener("click", followWithin);
  const live = document.body.dataset.live === "yes" ? makeLive() : null;
  const page = makePage(JSON.parse(document.getElementById("data").textContent), live);
  const places = skeleton(page);
  const [early, late] = [true, false].map((is) => PANELS.filter((panel) => Boolean(panel.live) === is));
  if (live) mount(early, page, places);
  if (page.data.checkpoints.length === 0) {
    const waiting = h("p", { class: "note", role: "status" }, t("page.loading"));
    places.main.append(waiting);
    try {
      page.fill(await ready(live));
      waiting.remove();
    } catch (error) {
      waiting.textContent = t("page.failed", { why: error.message });
      return;
    }
  }
  show(places.time, timeSlider(page));
  mount(late, page, places);
}

// The data of the page, when the server has them; 503 is "not yet".
async function ready(live) {
  for (;;) {
    try {
      return await live.get("api/page");
    } catch (error) {
      if (error.status !== 503) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

begin();
