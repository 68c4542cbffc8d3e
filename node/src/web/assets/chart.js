// The loss of a model's heads by round, drawn as SVG. Reached by pointer, finger and arrow keys alike.

import { el, nat, gain, test } from './format.js';

/** One point a round, and one for where it began. */
export function points(outcomes) {
  const out = [];
  let head = null;
  for (const o of outcomes) {
    const { head: scores, round, proven_unat } = o.outcome;
    const [before, after] = [test(scores?.parent_test), test(scores?.candidate_test)];
    if (before && out.length === 0) out.push({ round: round - 1, head: before.loss_unat, start: true, accuracy: before.accuracy });
    const adopted = proven_unat > 0;
    if (adopted && after) head = after.loss_unat;
    else head ??= before?.loss_unat ?? null;
    out.push({ round, head, adopted, tried: after?.loss_unat ?? null, accuracy: after?.accuracy, proven_unat });
  }
  return out.filter((p) => p.head !== null);
}

/** A point in words. */
export function say(p) {
  const accuracy = Number.isFinite(p.accuracy) ? `, ${(100 * p.accuracy).toFixed(1)} % right` : '';
  if (p.start) return `Before round ${p.round + 1}: ${nat(p.head)}${accuracy}.`;
  if (p.adopted) return `Round ${p.round}: new head, ${nat(p.head)}${accuracy}; ${gain(p.proven_unat)} proven beyond doubt.`;
  if (p.tried === null) return `Round ${p.round}: no claim was accepted; the head stays at ${nat(p.head)}.`;
  return `Round ${p.round}: refused, ${nat(p.tried)}${accuracy} was not better beyond doubt; the head stays at ${nat(p.head)}.`;
}

function ticks(low, high, most) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const out = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) out.push([t, t.toFixed(digits)]);
  return out;
}

/** Draws into `place`; `at` is the round looked at, `look` is told of another. */
export function draw(place, all, at, look) {
  const width = Math.max(280, Math.min(900, place.clientWidth || 600));
  const height = Math.round(Math.max(200, Math.min(300, width * 0.46)));
  const [left, right, top, bottom] = [46, 12, 26, 38];
  const values = all.map((p) => p.head / 1e6);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = Math.max((high - low) * 0.08, high * 0.02, 1e-4);
  const [y0, y1] = [Math.max(0, low - pad), high + pad];
  const [x0, x1] = [all[0].round, Math.max(all.at(-1).round, all[0].round + 1)];
  const x = (round) => left + 6 + ((round - x0) / (x1 - x0)) * (width - left - right - 12);
  // a refused candidate may be anywhere: it is drawn at the edge, and said where it was
  const y = (unat) => {
    const share = (Math.min(y1, Math.max(y0, unat / 1e6)) - y0) / (y1 - y0);
    return height - bottom - share * (height - top - bottom);
  };
  const svg = el('svg', { viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' });
  for (const [t, label] of ticks(y0, y1, height / 48)) {
    const ty = y(t * 1e6);
    svg.append(el('line', { class: 'grid', x1: left, x2: width - right, y1: ty, y2: ty }));
    svg.append(el('text', { x: left - 6, y: ty + 4, 'text-anchor': 'end' }, label));
  }
  const rounds = ticks(x0, x1, Math.max(2, Math.min(x1 - x0, width / 60))).filter(([t]) => Number.isInteger(Math.round(t * 1e6) / 1e6));
  for (const [t] of rounds) {
    svg.append(el('text', { x: x(t), y: height - bottom + 16, 'text-anchor': 'middle' }, String(Math.round(t))));
  }
  svg.append(el('line', { class: 'axis', x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  svg.append(el('text', { x: 2, y: 12 }, 'loss on the test samples, nat'));
  svg.append(el('text', { x: width - right, y: height - 4, 'text-anchor': 'end' }, 'round'));
  const path = all.map((p, i) => `${i ? 'L' : 'M'}${x(p.round).toFixed(1)} ${y(p.head).toFixed(1)}`).join('');
  svg.append(el('path', { class: 'line', d: path }));
  const radius = all.length > 80 ? 1.6 : all.length > 40 ? 2.5 : 4;
  const height_of = (p) => y(p.adopted || p.start ? p.head : p.tried ?? p.head);
  for (const p of all) {
    const [px, py] = [x(p.round), height_of(p)];
    if (p.adopted || p.start) svg.append(el('circle', { class: 'head', cx: px, cy: py, r: radius }));
    else svg.append(el('path', { class: 'refused', d: `M${px - 4} ${py - 4}l8 8m0 -8l-8 8` }));
  }
  const seen = all.find((p) => p.round === at);
  if (seen) {
    svg.append(el('line', { class: 'at', x1: x(at), x2: x(at), y1: top, y2: height - bottom }));
    svg.append(el('circle', { class: 'ring', cx: x(at), cy: height_of(seen), r: radius + 4 }));
  }
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * width;
    return all.reduce((best, p) => (Math.abs(x(p.round) - px) < Math.abs(x(best.round) - px) ? p : best));
  };
  svg.addEventListener('pointermove', (e) => look(nearest(e).round, false));
  svg.addEventListener('click', (e) => look(nearest(e).round, true));
  place.replaceChildren(svg);
}
