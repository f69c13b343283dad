// Five questions that learners ask again and again, answered with this run's numbers.

import { h, number, percent, show, t } from "../dom.js";
import { unpack } from "../page.js";
import { lessonLeak, lessonMasked, lessonMeanEntropy, lessonNext, lessonScores, lessonSizes, lessonSoftmax } from "./lesson_math.js";

const HALF_NAT_KIND = "bigram"; // its table begins with logits from N(0, 1)

export const questionsPanel = {
  id: "questions",
  title: "questions.title",
  has: (page) => Boolean(page.data.run),
  mount(root, page) {
    const place = h("ul", { class: "questions" });
    const asked = [
      ["scale", t("questions.scale"), scaleAnswer],
      ["mask", t("questions.mask"), maskAnswer],
      ["normal", t("questions.normal"), normalAnswer],
      ["temperature", t("questions.temperature"), temperatureAnswer],
      ["start", t("questions.start"), startAnswer],
    ];
    root.append(place);
    const answers = asked.map(([id, question]) => {
      const answer = h("div", { "data-answer": id });
      place.append(h("li", {}, h("details", { id: `questions-${id}` }, h("summary", {}, question), answer)));
      return answer;
    });
    page.onCheckpoint(() =>
      asked.forEach(([, , answer], i) => {
        const { said, to, label } = answer(page);
        show(answers[i], h("p", {}, said), to ? h("p", {}, h("a", { href: `#${to}` }, label)) : "");
      }),
    );
  },
};

function scaleAnswer(page) {
  const head = page.checkpoint.lessons?.head;
  if (!head) return { said: t("questions.scale_no_heads", { kind: page.data.kind }) };
  const { K, C } = lessonSizes(head);
  const entropies = [1, Math.sqrt(K), Math.sqrt(C)].map((divisor) => number(lessonMeanEntropy(head, divisor), 3));
  const [undivided, by_head, by_width] = entropies;
  const values = { K, C, root_k: number(Math.sqrt(K), 2), root_c: number(Math.sqrt(C), 2), undivided, by_head, by_width };
  return { said: t(K === C ? "questions.scale_one_head" : "questions.scale_said", values), to: "lessons-scale", label: t("lessons.scale_title") };
}

function maskAnswer(page) {
  const head = page.checkpoint.lessons?.head;
  if (!head) return { said: t("questions.mask_no_heads", { kind: page.data.kind }) };
  const scores = lessonScores(head, Math.sqrt(lessonSizes(head).K));
  const leak = (mask) => percent(lessonLeak(lessonMasked(scores, mask).map(lessonSoftmax)));
  const said = t("questions.mask_said", { on: leak("tril"), off: leak("none"), flipped: leak("triu") });
  return { said, to: "lessons-mask", label: t("lessons.mask_title") };
}

function normalAnswer(page) {
  const { run } = page.data;
  const { uniform, count_bigram } = run.lines;
  const compared = t("questions.normal_lines", { V: number(page.data.tokens.length, 0), uniform: number(uniform) });
  const pairs = count_bigram === null || !run.predicts_next ? "" : t("questions.normal_pairs", { bigram: number(count_bigram) });
  const verdict = run.summary?.verdict ? `${run.summary.verdict}.` : t("questions.normal_unknown");
  return { said: [verdict, compared, pairs].filter(Boolean).join(" "), to: "run", label: t("run.title") };
}

function temperatureAnswer(page) {
  const { lessons } = page.checkpoint;
  if (!lessons) return { said: t("questions.temperature_no_text") };
  const tokens = unpack(lessons.tokens).data;
  const { p, draws } = lessonNext(lessons, 1);
  const values = {
    text: lessons.ids.map(page.token).join(""),
    top: page.token(tokens[0]),
    p: percent(p[0]),
    seeds: lessons.seeds.join(", "),
    draws: draws.map((place) => page.token(tokens[place])).join(", "),
  };
  return { said: t("questions.temperature_said", values), to: "lessons-temperature", label: t("lessons.temperature_title") };
}

function startAnswer(page) {
  const { run, tokens, kind } = page.data;
  const { uniform } = run.lines;
  const why = t("questions.start_said", { V: number(tokens.length, 0), uniform: number(uniform) });
  const values = run.first ? { step: number(run.first.step, 0), first: number(run.first.nats), above: number(run.first.nats - uniform) } : {};
  const saw = !run.first ? t("questions.start_unknown") : t(run.began_trained ? "questions.start_trained" : "questions.start_first", values);
  const more = run.first && !run.began_trained && kind === HALF_NAT_KIND ? t("questions.start_bigram", values) : "";
  return { said: [why, saw, more].filter(Boolean).join(" "), to: "run", label: t("run.title") };
}
