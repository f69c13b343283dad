// What each evaluation of the training wrote, beside a slider over them.

import { figure, h, number, show, slider, t } from "../dom.js";

export const samplesPanel = {
  id: "samples",
  title: "samples.title",
  has: (page) => Boolean(page.data.samples),
  mount(root, page) {
    const { each, of, temperature } = page.data.samples;
    const place = h("div", {});
    const at = slider({
      id: "samples-time",
      label: t("samples.time"),
      min: 0,
      max: each.length - 1,
      step: 1,
      value: each.length - 1,
      text: (i) => t("samples.step", { step: number(each[i].step, 0) }),
      onInput: (i) => show(place, sampleOf(each[i])),
    });
    // The page's own slider moves this one where it has a sample of that step.
    page.onCheckpoint((checkpoint) => {
      const i = each.findIndex((sample) => sample.step === checkpoint.step);
      if (i >= 0) at.set(i);
      show(place, sampleOf(each[at.value()]));
    });
    const shown = each.length < of ? t("samples.some", { shown: number(each.length, 0), of: number(of, 0) }) : null;
    root.append(
      h("p", {}, t("samples.about", { temperature })),
      each.length > 1 ? at.node : null,
      place,
      shown ? h("p", { class: "note" }, shown) : "",
    );
  },
};

function sampleOf(sample) {
  const losses = ["train_nats", "val_nats"].map((name) =>
    sample[name] === null || sample[name] === undefined ? "–" : figure(`samples.${name}`, sample[name], number(sample[name])),
  );
  return [
    h("p", {}, t("samples.train"), " ", losses[0], ", ", t("samples.val"), " ", losses[1], " ", t("samples.nats")),
    h("pre", { "data-what": "samples.shown.text" }, sample.sample),
  ];
}
