// One claim from commit to payment, as a line of time. The ledger's record says what happened; at which height and
// when is read from the transactions of the blocks in between.

import { el, ident, sat, nat, gain, tenth, words, clock, span, verdict, z, mean, money, tranche, count } from './format.js';

/** Pages of blocks looked through for one claim. */
const MAX_PAGES = 4;
const PAGE_BLOCKS = 120;

/** Everything that happened to a claim: `[{kind, height, time_ms}]`, oldest first. */
export async function events(call, info, tip) {
  const { claim, escrow } = info;
  const about = new Set([`claim ${claim.id}`, `model ${claim.model} round ${claim.round}`]);
  if (escrow) about.add(`escrow ${escrow.id}`);
  const found = [];
  let to = isOver(info) ? Math.max(escrow?.changed_height ?? 0, claim.judged[1]) : tip;
  for (let page = 0; page < MAX_PAGES && to >= claim.committed_height; page += 1) {
    const blocks = await call('blocks', to, PAGE_BLOCKS, false);
    for (const block of blocks.toReversed()) {
      if (block.height < claim.committed_height) return found.reverse();
      for (const tx of block.txs.toReversed()) {
        // an offer says its terms behind the claim's name; a round's commits are of all its trainers
        const named = about.has(tx.about) || tx.about.startsWith(`claim ${claim.id} `);
        const others = tx.kind === 'commit' && (tx.signer !== claim.trainer || block.height !== claim.committed_height);
        if (named && !others) found.push({ kind: tx.kind, height: block.height, time_ms: block.time_ms });
      }
    }
    if (blocks.length < PAGE_BLOCKS) break;
    to = blocks[0].height - 1;
  }
  return found.reverse();
}

/** Whether nothing more can happen to it. */
export function isOver({ claim, escrow }) {
  return Boolean(claim.judged) && (!escrow || escrow.stage.toLowerCase() === 'withdrawn' || money(escrow).over);
}

/** Where a claim stands, in one word and its colour. */
export function state({ claim }) {
  if (claim.judged) {
    const v = verdict(claim.judged[0].verdict);
    return { word: v.word, tone: v.good ? 'good' : 'bad' };
  }
  return { word: claim.reveal ? 'revealed' : 'committed', tone: 'wait' };
}

/** What it is paid, short. */
export function payment({ escrow }) {
  if (!escrow) return 'none offered';
  const stage = escrow.stage.toLowerCase();
  if (stage !== 'dealt' && stage !== 'judged') return stage;
  const { paid, back, held, lost } = money(escrow);
  const parts = [];
  if (paid) parts.push(`${sat(paid)} paid`);
  if (held) parts.push(`${sat(held)} ${stage === 'dealt' ? 'held' : 'on the way'}`);
  if (back) parts.push(`${sat(back)} back`);
  if (lost) parts.push(`${sat(lost)} lost`);
  return parts.join(', ') || '-';
}

function when(step, start) {
  if (!step) return null;
  const after = start && step.time_ms > start ? ` \u00b7 ${span(step.time_ms - start)} after the commit` : '';
  const time = step.time_ms ? ` \u00b7 ${clock(step.time_ms)}` : '';
  return el('span', { class: 'when' }, `block ${count(step.height)}${time}${after}`);
}

function scores(judging, judged) {
  const { measurement, verdict: given, credit_unat } = judged;
  const list = [];
  const scored = measurement?.scored;
  if (scored) {
    const [shard, gate, probe] = [mean(scored.shard), mean(scored.gate), mean(scored.probe)];
    if (shard && gate) {
      list.push(`assigned work: z = ${tenth(z(scored.shard, scored.gate))} (above ${tenth(judging.assigned_z_milli / 1000)} needed); `
        + `${gain(shard.m)} a sample on its own shard, ${gain(gate.m)} on ${count(gate.n)} fresh samples`);
    }
    list.push(probe
      ? `probe step: z = ${tenth(z(scored.probe))} (harmful below ${tenth(-judging.harm_z_milli / 1000)}); ${gain(probe.m)} a sample`
      : 'probe step: not measured, for it is not the assigned work');
  }
  const added = measurement?.added;
  if (added) {
    const gate = mean(added.gate);
    list.push(`states ${gain(added.stated_unat)}, adds ${gate ? `${gain(gate.m)} a sample, z = ${tenth(z(added.gate))}` : '-'}`);
  }
  if (given === 'accepted') list.push(`credit ${nat(credit_unat)}`);
  return list;
}

/** The line of time. `happened` is null while it is being read. */
export function timeline(info, happened, model, round) {
  const { claim, escrow } = info;
  const first = (kind) => happened?.find((e) => e.kind === kind);
  const last = (kind) => happened?.findLast((e) => e.kind === kind);
  const number = (kind) => happened?.filter((e) => e.kind === kind).length ?? 0;
  const commit = first('commit') ?? { height: claim.committed_height };
  const start = commit.time_ms;
  const list = el('ol', { class: 'life' });
  const step = (mode, title, at, ...lines) =>
    list.append(el('li', { class: mode }, el('b', {}, title), when(at, start), el('ul', {}, lines.flat().filter(Boolean).map((l) => el('li', {}, l)))));
  const judged = claim.judged?.[0];
  const sealed = first('seal');

  step('', 'Committed', commit, ['only the hash of the work, bound to this trainer, head and round']);
  if (escrow) {
    const { terms } = escrow;
    const most = terms.unit_msat * (2 ** terms.tranches - 1);
    step('', 'Payment offered', first('offer'), ['by ', ident(escrow.payer), `: up to ${sat(most)}, ${sat(terms.rate_msat)} for each micro-nat proven`].reduce((line, part) => (line.append(part), line), el('span')));
    const stage = escrow.stage.toLowerCase();
    if (escrow.choice) step('', 'Payments drawn by the trainer', first('choose'));
    if (escrow.tranches.length) {
      step('', 'Locked', first('deal'), [`${escrow.tranches.length} payments held over Lightning; their secrets dealt to the committee of epoch ${escrow.epoch}`]);
    } else step(judged ? 'not' : 'open', judged ? 'Never locked' : 'To be locked', null, [`the offer is ${words(stage)}`]);
  } else step(judged ? 'not' : 'open', judged ? 'No payment was offered' : 'No payment offered yet', null);

  if (claim.reveal) {
    step('', 'Revealed', first('reveal'), [`${count(claim.reveal.delta.len)} bytes; states a gain of ${nat(claim.reveal.stated_gain_unat)}`]);
  } else step(judged ? 'not' : 'open', judged ? 'Never revealed' : 'To be revealed', null);

  if (sealed || judged || round?.sealed) step('', 'Sealed', sealed, ['nothing more is taken: only now the beacon draws the samples it is judged on']);
  else step('open', 'To be sealed', null);

  const members = number('score-reveal');
  if (members) step('', 'Measured', last('score-reveal'), [`${members} members replayed it, first committed to their scores, then opened them`]);
  if (judged) {
    const v = verdict(judged.verdict);
    const at = last('outcome') ?? { height: claim.judged[1], time_ms: escrow?.judged_ms };
    step(v.good ? '' : 'not', v.good ? 'Accepted' : `Refused: ${v.word}`, at, [v.why, ...(model ? scores(model.manifest.judging, judged) : [])]);
  } else step('open', 'To be judged', null);

  if (escrow?.stage.toLowerCase() === 'judged') {
    const { paid, back, held, lost } = money(escrow);
    const lines = escrow.tranches.map((t) => `${sat(t.amount_msat)}: ${words(tranche(t))}`);
    if (paid) step('paid', `Paid ${sat(paid)}`, last('settle'), [back || held || lost ? null : 'all of it', ...lines]);
    if (back) step('', `${sat(back)} back with the sponsor`, last('refund'), paid ? [] : lines);
    if (held) step('open', `${sat(held)} on the way`, null, paid || back ? [] : lines);
    if (lost) step('not', `${sat(lost)} not received`, null, ['the hold ended before it was claimed, or what was dealt was not its secret']);
  } else if (judged) step('not', 'Nothing to pay', null);
  else step('open', 'To be settled', null);
  return list;
}
