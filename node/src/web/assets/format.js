// Figures and text for people, and elements that hold text only.
//
// Whatever comes from the ledger (names of models and networks, above all) is a stranger's word: it reaches the page as a
// text node and nothing else. There is no innerHTML here, and the page's policy would not run what it could bring in.

/** An element with attributes and children; strings become text nodes, null and false are left out. */
export function el(tag, attributes, ...children) {
  const svg = ['svg', 'path', 'line', 'circle', 'text', 'g', 'rect'].includes(tag);
  const node = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') Object.entries(value).forEach(([event, run]) => node.addEventListener(event, run));
    else node.setAttribute(name, String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : plain(child));
  }
  return node;
}

/** Text without control, direction and invisible characters, and not longer than a screen bears. */
export function plain(text) {
  return String(text).replace(/\p{C}/gu, '\u00b7').slice(0, 400);
}

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 3 });

/** A count with thousands separators. */
export const count = (n) => (Number.isFinite(n) ? grouped.format(n) : '-');

/** Millisatoshi as sat. */
export const sat = (msat) => (Number.isFinite(msat) ? `${grouped.format(msat / 1000)} sat` : '-');

/** Micro-nats as nat, four digits. */
export const nat = (unat) => (Number.isFinite(unat) ? `${(unat / 1e6).toFixed(4).replace('-', '\u2212')} nat` : '-');

/** The same with a sign. */
export const gain = (unat) => (unat > 0 ? `+${nat(unat)}` : nat(unat));

/** A z value or another figure with one digit. */
export const tenth = (x) => (Number.isFinite(x) ? x.toFixed(1).replace('-', '\u2212') : '-');

/** The first eight digits of an id. */
export const short = (id) => plain(String(id ?? '-').slice(0, 8));

/** An id: short to see, whole on demand. */
export const ident = (id) => el('span', { class: 'id', title: plain(id ?? '-') }, short(id));

/** `snake_case` of the ledger as words. */
export const words = (text) => plain(text ?? '-').replaceAll('_', ' ');

/** A span of time. */
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

/** A time of day, with the date if it is another day. */
export function clock(ms) {
  if (!Number.isFinite(ms) || ms <= 0) return '';
  const date = new Date(ms);
  const time = date.toLocaleTimeString('en-GB');
  return date.toDateString() === new Date().toDateString() ? time : `${date.toISOString().slice(0, 10)} ${time}`;
}

/** The verdict on a claim (S4, S7): a word for the table and what it means. */
export function verdict(v) {
  if (v === 'accepted') return { good: true, word: 'accepted', why: 'counts towards the new head' };
  const refusal = v?.refused;
  const why = {
    not_revealed: 'its commitment was never opened',
    not_assigned_work: 'gains no more on the shard assigned to it than on fresh data',
    harmful: 'makes the model worse at the probe step',
    too_little_work: 'a part of the work the others did',
    near_copy: "nearly the same as another claim's work",
    below_stated: 'adds less than it states',
    bad_measurement: 'not measured on the samples the model prescribes',
    not_served: 'its bytes could not be fetched before the deadline',
    oversize: 'larger than the model allows',
    malformed: 'its bytes are not a delta',
    wrong_shape: "a delta of another model's shape",
    norm_above_cap: "its norm is above the model's cap",
  }[refusal ?? v];
  return { good: false, word: words(refusal ?? v), why: why ?? words(refusal ?? v) };
}

/** Mean and standard error of paired differences in micro-nats, or null where nothing was measured. */
export function mean(paired) {
  const n = paired?.n ?? 0;
  if (n < 2) return null;
  const m = paired.sum_unat / n;
  return { m, se: Math.sqrt(Math.max(0, paired.sum_sq_unat2 / n - m * m) / (n - 1)), n };
}

/** Standard errors by which `a` exceeds `b` (or zero). For people: verdicts compare integers. */
export function z(a, b) {
  const [x, y] = [mean(a), b === undefined ? { m: 0, se: 0 } : mean(b)];
  return x && y ? (x.m - y.m) / Math.max(Math.hypot(x.se, y.se), 1e-9) : NaN;
}

/** Mean loss and accuracy of a test report. */
export function test(report) {
  if (!report || !(report.n > 0)) return null;
  return { loss_unat: report.loss_sum_unat / report.n, accuracy: report.correct / report.n };
}

/** What has become of an escrow's tranches, msat. */
export function money(escrow) {
  const sums = { paid: 0, back: 0, held: 0, lost: 0, over: true };
  for (const t of escrow?.tranches ?? []) {
    const status = tranche(t);
    if (status === 'settled') sums.paid += t.amount_msat;
    else if (status === 'refunded') sums.back += t.amount_msat;
    else if (status === 'expired' || status === 'fraud') sums.lost += t.amount_msat;
    else [sums.held, sums.over] = [sums.held + t.amount_msat, false];
  }
  return sums;
}

/** The state of a tranche in one word. */
export const tranche = (t) => (typeof t.status === 'string' ? t.status : Object.keys(t.status ?? {})[0] ?? '-');
