// Asks the node it came from, by JSON-RPC, every few seconds while somebody looks, and shows the answers.
//
// What the node said last stays on the screen when it stops answering, and says of when it is.

import { el, plain, count, sat, nat, gain, ident, short, words, span, clock, verdict, test, money } from './format.js';
import { points, say, draw } from './chart.js';
import { events, isOver, payment, state, timeline } from './claim.js';

const POLL_MS = 3000;
const LONGEST_PAUSE_MS = 15000;
const TIMEOUT_MS = 8000;
const PAGE = 500;
const ROUNDS_SHOWN = 10;
const ROUNDS_MORE = 20;
const ROUNDS_MOST = 90;
const MODELS_SHOWN = 60;
const ROWS_SHOWN = 100;

const $ = (id) => document.getElementById(id);
const known = { status: null, models: [], federation: null, peers: [], credit: new Map(), outcomes: new Map(), claims: new Map(), journeys: new Map() };
const chosen = { model: null, round: null, claim: null, look: null, rounds: ROUNDS_SHOWN };
let answered_ms = null;
let failures = 0;
let asking = false;
let timer = null;

/** What the node answered instead of a result; any other error is that it did not answer. */
class Said extends Error {}

const said = (otherwise) => (error) => { if (error instanceof Said) return otherwise(error); throw error; };

async function call(method, ...params) {
  const answer = await fetch('./', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: `oda_${method}`, params }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
    credentials: 'omit',
  });
  if (!answer.ok) throw new Error(`it answered with HTTP ${answer.status}`);
  const { result, error } = await answer.json();
  if (error) throw new Said(error.message);
  return result;
}

/** What there is to ask for; another choice meanwhile is asked for at once. */
const asked = () => JSON.stringify({ ...chosen, look: null });
const model = () => known.models.find((m) => m.id === chosen.model) ?? null;
const outcomes = () => [...(known.outcomes.get(chosen.model)?.values() ?? [])];
const claims = (round) => known.claims.get(`${chosen.model}:${round}`) ?? null;
/** The round whose claims are shown: the one chosen, or the one in progress, or the last one while that is empty. */
function shownRound() {
  const now = model()?.round?.number ?? null;
  return chosen.round ?? (now && model().round.claims.length === 0 && now > 1 ? now - 1 : now);
}

// ---- what was chosen lives in the address, so that it can be passed on

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const id = (name) => (/^[0-9a-f]{64}$/.test(wanted.get(name) ?? '') ? wanted.get(name) : null);
  const round = Number(wanted.get('r'));
  Object.assign(chosen, { model: id('m') ?? chosen.model, claim: id('c'), round: Number.isSafeInteger(round) && round > 0 ? round : null });
}

function choose(change) {
  if (change.model && change.model !== chosen.model) Object.assign(chosen, { round: null, claim: null, look: null, rounds: ROUNDS_SHOWN });
  Object.assign(chosen, change);
  const words = new URLSearchParams();
  if (chosen.model) words.set('m', chosen.model);
  if (chosen.round) words.set('r', chosen.round);
  if (chosen.claim) words.set('c', chosen.claim);
  history.replaceState(null, '', `#${words}`);
  show();
  poll();
}

// ---- asking

async function readModel() {
  const now = model();
  if (!now) return;
  const have = known.outcomes.get(now.id) ?? new Map();
  const last = now.round?.number ?? 0;
  const from = Math.max(...have.keys(), last - PAGE, -1) + 1;
  if (from < last || have.size === 0) for (const o of await call('outcomes', now.id, from, PAGE)) have.set(o.outcome.round, o);
  for (const round of have.keys()) if (round <= last - PAGE) have.delete(round);
  known.outcomes.set(now.id, have);
  known.credit.set(now.id, await call('credit', now.id));
  const listed = [...have.keys()].slice(-chosen.rounds);
  if (last) listed.push(last);
  if (chosen.round) listed.push(chosen.round);
  for (const round of new Set(listed)) {
    const key = `${now.id}:${round}`;
    if (have.has(round) && known.claims.get(key)?.every(isOver)) continue;
    // a round that has just ended may be between its record and its outcome
    const read = await call('claims', now.id, round).catch(said(() => null));
    if (read) known.claims.set(key, read);
  }
  while (known.claims.size > 4 * ROUNDS_MOST) known.claims.delete(known.claims.keys().next().value);
}

async function readClaim() {
  if (!chosen.claim) return;
  const kept = known.journeys.get(chosen.claim);
  if (kept && kept.happened && isOver(kept.info)) return;
  const info = await call('claim', chosen.claim).catch(said((e) => ({ failed: e.message })));
  if (!info.failed && info.claim.model !== chosen.model) Object.assign(chosen, { model: info.claim.model, round: info.claim.round });
  const happened = info.failed ? null : await events(call, info, known.status.height);
  known.journeys.set(chosen.claim, { info, happened });
  while (known.journeys.size > ROWS_SHOWN) known.journeys.delete(known.journeys.keys().next().value);
}

async function poll() {
  if (asking || document.hidden) return;
  asking = true;
  clearTimeout(timer);
  try {
    let wanted;
    do {
      wanted = asked();
      [known.status, known.models, known.federation, known.peers] = await Promise.all([call('status'), call('models'), call('federation'), call('peers')]);
      if (!chosen.model || (known.models.length && !model())) chosen.model = known.models[0]?.id ?? null;
      await readModel();
      await readClaim();
      [answered_ms, failures] = [Date.now(), 0];
      $('trouble').hidden = true;
      document.body.classList.remove('stale');
      show();
    } while (wanted !== asked() && !document.hidden);
  } catch (error) {
    failures += 1;
    const why = error.name === 'TimeoutError' ? 'no answer in time' : error instanceof TypeError ? 'no connection' : error.message;
    showTrouble(why, Math.min(LONGEST_PAUSE_MS, POLL_MS * failures));
  } finally {
    asking = false;
    timer = setTimeout(poll, Math.min(LONGEST_PAUSE_MS, POLL_MS * Math.max(1, failures)));
  }
}

// ---- showing

/** Puts children in place of what is there, if they differ, and gives the focus back to what had it. */
function put(id, ...children) {
  const place = $(id);
  const fresh = el('div', {}, ...children);
  if (place.shown?.isEqualNode(fresh)) return;
  place.shown = fresh.cloneNode(true);
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  place.replaceChildren(...fresh.childNodes);
  if (key) [...place.querySelectorAll('[data-key]')].find((n) => n.dataset.key === key)?.focus({ preventScroll: true });
}

const fact = (name, value, small) => el('div', {}, el('dt', {}, name), el('dd', {}, value, small ? el('small', {}, small) : null));
const empty = (...text) => el('p', { class: 'empty' }, ...text);

/** A table; on a phone each row becomes a card that names its cells. */
function table(columns, rows) {
  const head = el('tr', {}, columns.map(([name, right]) => el('th', { scope: 'col', class: right ? 'r' : null }, name)));
  const body = rows.slice(0, ROWS_SHOWN).map(({ cells, current }) =>
    el('tr', { class: current ? 'chosen' : null, 'aria-current': current ? 'true' : null },
      cells.map((cell, i) => el('td', { class: `${columns[i][1] ? 'r' : ''}${cell === '' ? ' void' : ''}`, 'data-name': columns[i][0] }, cell))));
  return el('table', { class: 'cards' }, el('thead', {}, head), el('tbody', {}, body));
}

const press = (key, label, run, more) => el('button', { type: 'button', 'data-key': key, on: { click: run }, ...more }, label);
const toned = (tone, text) => el('span', { class: tone }, text);

function showTrouble(why, pause_ms) {
  const since = answered_ms ? ` What is shown is of ${clock(answered_ms)}.` : '';
  $('trouble').textContent = plain(`The node does not answer (${why}).${since} Trying again in ${span(pause_ms)}.`);
  $('trouble').hidden = false;
  document.body.classList.add('stale');
}

function showStatus() {
  const s = known.status;
  const [n, t] = s.committee;
  document.title = plain(`${s.network} \u00b7 oda`);
  $('network').textContent = plain(s.network);
  const roles = new Map();
  for (const p of known.peers.filter((p) => p.connected)) roles.set(p.role ?? 'unknown', (roles.get(p.role ?? 'unknown') ?? 0) + 1);
  const kinds = [...roles].slice(0, 4).map(([role, number]) => `${number} ${plain(role).slice(0, 12)}`).join(', ');
  const age = Date.now() - s.time_ms;
  put('status',
    fact('Block', count(s.height), `${age < 0 ? 'just now' : `${span(age)} old`}`),
    fact('Peers', count(s.connected), kinds || 'nobody is connected'),
    fact('Epoch', count(s.epoch), `${count(s.mempool)} transactions waiting`),
    fact('Committee', `${t} of ${n} sign`, `forging needs ${t}, blocking needs ${n - t + 1}`),
    fact('This node', ident(s.node), s.seated ? 'validator, seated' : s.validator ? 'validator' : 'follows the ledger'));
  $('foot').replaceChildren(`${plain(s.network)} \u00b7 chain `, ident(s.chain), ' \u00b7 everything here is also in ', el('code', {}, 'oda top'), ' and over JSON-RPC.');
}

/** Where a round stands, from its record and its timing. */
function phase(m, height) {
  const round = m.round;
  if (!round) return 'not funded yet: no round is open';
  const { commit_blocks, linger_blocks, reveal_blocks } = m.manifest.timing;
  const { scores } = round;
  const left = (end) => (end >= height ? `for ${count(end - height + 1)} more blocks at most` : 'closing');
  if (round.sealed) {
    const judges = round.judges === null ? '' : ` by the committee of epoch ${round.judges}`;
    if (scores.supported) return `judged${judges}: its members agree, the outcome is being signed`;
    if (scores.quorum_height !== null) return `judging${judges}: ${scores.revealed.length} of ${scores.committed.length} have opened their scores`;
    return `judging${judges}: ${scores.committed.length} members have committed to scores`;
  }
  if (round.first_commit_height === null) return 'open: no claim yet';
  const commits = Math.max(round.opened_height + commit_blocks, round.first_commit_height + linger_blocks);
  if (height <= commits) return `open for commits, ${left(commits)}`;
  if (round.judges !== null) return 'being sealed: the beacon draws the samples';
  return `open for reveals, ${left(commits + reveal_blocks)}`;
}

function showModels() {
  const buttons = known.models.slice(0, MODELS_SHOWN).map((m) => press(m.id, [el('span', {}, plain(m.manifest.name)), el('small', {}, `round ${m.round?.number ?? '-'} \u00b7 ${short(m.id)}`)],
    () => choose({ model: m.id }), { 'aria-pressed': String(m.id === chosen.model) }));
  const none = empty('No model yet. A sponsor prepares one with ', el('code', {}, 'oda model add FILE.toml --datadir DIR'), ' and funds it with ', el('code', {}, 'oda sponsor --datadir DIR'), '.');
  put('models', ...(buttons.length ? buttons : [none]));
}

function showFacts(m) {
  $('model-title').textContent = plain(m.manifest.name);
  const report = test(m.head.test);
  const sum = (key) => m.sponsors.reduce((total, s) => total + s[key], 0);
  const budget = m.sponsors.reduce((total, s) => total + s.fund.budget_msat, 0);
  put('facts',
    fact('Loss now', report ? nat(report.loss_unat) : 'not measured', report ? `${(100 * report.accuracy).toFixed(1)} % right, head of round ${m.head.round}` : 'the first outcome says it'),
    fact('Proven so far', nat(m.proven_unat), `in ${count(outcomes().filter((o) => o.outcome.proven_unat > 0).length)} new heads`),
    fact('Paid', sat(sum('paid_msat')), `of ${sat(budget)}; ${sat(sum('held_msat'))} held`),
    fact('Round', m.round ? count(m.round.number) : '-', phase(m, known.status.height)),
    fact('Model', ident(m.id), `${count(m.parameters)} parameters, ${words(m.manifest.work_mode)} work`));
}

let slider = null;
function showCurve() {
  const all = points(outcomes());
  if (!all.length) {
    $('curve').replaceChildren(empty('No outcome yet: the first one brings the first figures.'));
    slider = null;
    $('curve-says').textContent = '';
    return;
  }
  const at = all.some((p) => p.round === chosen.look) ? chosen.look : all.at(-1).round;
  const look = (round, go) => {
    const changed = chosen.look !== round;
    chosen.look = round;
    if (changed) showCurve();
    if (go && round > 0 && all.some((p) => p.round === round && !p.start)) choose({ round, claim: null });
  };
  if (!slider || !slider.isConnected) {
    const key = el('p', { class: 'key' }, el('span', {}, 'new head'), el('span', { class: 'no' }, 'round refused: the head stays'));
    slider = el('div', { tabindex: 0, role: 'slider', 'aria-label': 'Round: arrow keys show each, Enter its claims' });
    slider.addEventListener('keydown', (e) => slider.turn?.(e));
    $('curve').replaceChildren(slider, key);
  }
  const i = all.findIndex((p) => p.round === at);
  slider.turn = (e) => {
    const to = { ArrowLeft: i - 1, ArrowDown: i - 1, ArrowRight: i + 1, ArrowUp: i + 1, Home: 0, End: all.length - 1 }[e.key];
    if (to === undefined && e.key !== 'Enter') return;
    e.preventDefault();
    look(all[Math.max(0, Math.min(all.length - 1, to ?? i))].round, e.key === 'Enter');
  };
  const text = say(all[i]);
  for (const [name, value] of [['valuemin', all[0].round], ['valuemax', all.at(-1).round], ['valuenow', at], ['valuetext', text]]) slider.setAttribute(`aria-${name}`, value);
  draw(slider, all, at, look);
  $('curve-says').textContent = text;
}

function showOutcomes() {
  const list = outcomes().slice(-chosen.rounds).reverse();
  if (!list.length) return put('outcomes', empty('No round has ended yet.'));
  const rows = list.map((o) => {
    const { round, head, claims: judged, proven_unat } = o.outcome;
    const of_round = known.claims.get(`${chosen.model}:${round}`);
    const paid = of_round?.reduce((total, c) => total + money(c.escrow).paid, 0);
    const accepted = judged.filter((c) => c.verdict === 'accepted').length;
    const after = test(head?.candidate_test);
    const result = proven_unat > 0 ? toned('good', 'new head') : toned('bad', head ? 'refused: not better beyond doubt' : 'refused: no claim accepted');
    return {
      current: round === shownRound(),
      cells: [press(`o${round}`, `Round ${round}`, () => choose({ round, claim: null })), result, after ? nat(after.loss_unat) : '', gain(proven_unat),
        `${accepted} accepted, ${judged.length - accepted} refused`, paid === undefined ? '' : sat(paid), `${count(o.height)} \u00b7 ${clock(o.time_ms)}`],
    };
  });
  const more = outcomes().length > chosen.rounds && chosen.rounds < ROUNDS_MOST
    ? el('p', {}, press('more', 'Show older rounds', () => choose({ rounds: Math.min(ROUNDS_MOST, chosen.rounds + ROUNDS_MORE) }))) : null;
  put('outcomes', table([['Round'], ['Result'], ['Loss', true], ['Proven gain', true], ['Claims'], ['Paid', true], ['Block and time', true]], rows), more);
}

function showCredit() {
  const rows = [...(known.credit.get(chosen.model) ?? [])].sort((a, b) => b.credit_unat - a.credit_unat || b.paid_msat - a.paid_msat);
  if (!rows.length) return put('credit', empty('Nobody has credit yet: it comes with the first new head.'));
  put('credit', table([['Trainer'], ['Credit', true], ['Claims that added', true], ['Received', true]], rows.map((c) => ({
    cells: [ident(c.trainer), nat(c.credit_unat), `${count(c.paid_claims)} of ${count(c.claims)}`, sat(c.paid_msat)] }))));
}

function showClaims(m) {
  const round = shownRound();
  $('claims-title').textContent = round ? `Claims of round ${round}` : 'Claims';
  const running = round && m.round?.number === round;
  $('phase').replaceChildren(running ? phase(m, known.status.height) : round ? 'This round is over. ' : '',
    ...(chosen.round && m.round ? [' ', press('now', 'Follow the running round', () => choose({ round: null }))] : []));
  const list = round ? claims(round) : null;
  if (!list?.length) put('claims', empty(round && !list ? 'This node has no such round.' : 'No claim yet. A trainer makes one with ', round && !list ? '' : el('code', {}, 'oda lite --datadir DIR')));
  else put('claims', table([['Claim'], ['Trainer'], ['State'], ['Payment', true]], list.map((info) => {
    const { word, tone } = state(info);
    const name = el('span', {}, toned(tone, word), info.claim.decoy ? ' (decoy)' : null);
    return { current: info.claim.id === chosen.claim, cells: [press(info.claim.id, el('span', { class: 'id' }, short(info.claim.id)), () => choose({ claim: info.claim.id, round })), ident(info.claim.trainer), name, payment(info)] };
  })));
}

function showClaim(m) {
  if (!chosen.claim) return put('claim', empty('Choose a claim to follow it.'));
  const journey = known.journeys.get(chosen.claim);
  const info = journey?.info ?? claims(shownRound())?.find((c) => c.claim.id === chosen.claim);
  if (!info) return put('claim', empty('Asking\u2026'));
  if (info.failed) return put('claim', empty(plain(info.failed)));
  const c = info.claim;
  const decoy = c.decoy ? ' It was a decoy: a sponsor tested the committee with it.' : '';
  put('claim', el('p', {}, 'Claim ', ident(c.id), ' by ', ident(c.trainer), ` in round ${c.round}.${decoy}`),
    timeline(info, journey?.happened ?? null, c.model === m.id ? m : null, m.round?.number === c.round ? m.round : null));
}

function showFederation() {
  const f = known.federation;
  if (!f.validators.length) return put('federation', empty('No validator is known.'));
  const seats = new Set(f.members);
  put('federation', table([['Validator'], ['Status'], ['Rounds', true], ['Agreed', true], ['Late', true], ['Withheld', true], ['False', true], ['Decoys passed', true]],
    f.validators.map(({ node, status, record: r }) => {
      const standing = typeof status === 'string' ? status : Object.keys(status ?? {})[0];
      return { cells: [ident(node), seats.has(node) ? `${words(standing)}, seated` : words(standing), count(r.rounds), count(r.agreed), count(r.late), count(r.withheld),
        r.false_scores ? toned('bad', count(r.false_scores)) : '0', `${count(r.decoys_passed)} of ${count(r.decoys_passed + r.decoys_failed)}`] };
    })));
}

function show() {
  if (!known.status) return;
  showStatus();
  showModels();
  const m = model();
  $('model').hidden = !m;
  if (m) [showFacts, showCurve, showOutcomes, showCredit, showClaims, showClaim].forEach((part) => part(m));
  showFederation();
}

addEventListener('hashchange', () => { readAddress(); show(); poll(); });
document.addEventListener('visibilitychange', () => poll());
let width = innerWidth;
addEventListener('resize', () => { if (width !== innerWidth) { width = innerWidth; if (known.status && model()) showCurve(); } });
$('tagline').textContent = 'Better models, proven and paid.';
readAddress();
poll();
