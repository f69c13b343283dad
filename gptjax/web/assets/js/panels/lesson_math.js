// The arithmetic of the lessons, from q, k, logits and noise of web/lessons_data.py.

import { unpack } from "../page.js";

// The softmax of numbers of which some are -Infinity.
export function lessonSoftmax(scores) {
  const top = Math.max(...scores);
  const e = scores.map((score) => Math.exp(score - top));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((value) => value / sum);
}

// -Σ p ln p, in nats: 0 is certain, ln n is knowing nothing of n.
export function lessonEntropy(p) {
  return -p.reduce((sum, value) => sum + (value > 0 ? value * Math.log(value) : 0), 0);
}

// q kᵀ / divisor: row t holds what token t asks of every token.
export function lessonScores(head, divisor) {
  const [q, k] = [unpack(head.q), unpack(head.k)];
  const [T, K] = q.shape;
  const dot = (t, s) => {
    let sum = 0;
    for (let i = 0; i < K; i++) sum += q.at(t, i) * k.at(s, i);
    return sum;
  };
  return Array.from({ length: T }, (_, t) => Array.from({ length: T }, (_, s) => dot(t, s) / divisor));
}

const KEEPS = { tril: (t, s) => s <= t, none: () => true, triu: (t, s) => s >= t };

// Scores with -Infinity where a mask forbids to look: "tril", "none" or "triu" (upside down).
export function lessonMasked(scores, mask) {
  return scores.map((row, t) => row.map((score, s) => (KEEPS[mask](t, s) ? score : -Infinity)));
}

// The mean share of a row's weight that goes to later tokens.
export function lessonLeak(weights) {
  const later = weights.map((row, t) => row.slice(t + 1).reduce((a, b) => a + b, 0));
  return later.reduce((a, b) => a + b, 0) / later.length;
}

// Head size, width and the mean entropy (nats) of the masked rows at a divisor.
export function lessonSizes(head) {
  return { K: head.q.shape[1], C: head.n_embd };
}

export function lessonMeanEntropy(head, divisor) {
  const rows = lessonMasked(lessonScores(head, divisor), "tril").map(lessonSoftmax);
  return rows.reduce((sum, row) => sum + lessonEntropy(row), 0) / rows.length;
}

// The next token at a temperature: {p, draws: places in `lesson.tokens` by seed}. As the sampler
// has it: below 1e-7 the likeliest alone; a draw is the largest of logits / temperature + noise.
export function lessonNext(lesson, temperature) {
  const [logits, noise] = [Array.from(unpack(lesson.logits).data), unpack(lesson.noise)];
  const greedy = !(temperature > 1e-7);
  const scaled = logits.map((logit, i) => (greedy ? (i === 0 ? 0 : -Infinity) : Math.fround(logit / temperature)));
  const draws = lesson.seeds.map((_, seed) => {
    let best = 0;
    scaled.forEach((value, i) => {
      if (value + noise.at(seed, i) > scaled[best] + noise.at(seed, best)) best = i;
    });
    return best;
  });
  return { p: lessonSoftmax(scaled), draws };
}
