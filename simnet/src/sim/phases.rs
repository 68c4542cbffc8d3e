//! The two phases of a run: faults and attacks, then calm until everything has ended.

use super::*;

impl Sim {
    /// Runs until a time.
    pub fn run_until(&mut self, until_ms: u64) {
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= until_ms) {
            self.step();
        }
        self.now_ms = self.now_ms.max(until_ms);
    }

    /// The safety phase: faults and attacks.
    pub fn run_stormy(&mut self) {
        let until_ms = self.now_ms + self.scenario.minutes * 60_000;
        self.run_until(until_ms);
    }

    /// The liveness phase: nothing more is broken, everything honest runs, attackers do as their engines tell them and train no more,
    /// and all that is open must end within the bound. Returns how long it took, ms.
    pub fn run_calm(&mut self) -> Option<u64> {
        self.settling = true;
        self.net.calm();
        self.lightning.failing_milli = 0;
        self.calm_faults();
        self.reform();
        let begun_ms = self.now_ms;
        let (bound_ms, step_ms) = (self.scenario.settle_minutes * 60_000, u64::from(self.scenario.block_interval_ms));
        let open = self.checks.open_at(self.now_ms);
        let rounds = self.rounds();
        while self.now_ms < begun_ms + bound_ms {
            self.run_until(self.now_ms + step_ms);
            if self.unsettled(&open, &rounds).is_empty() {
                return Some(self.now_ms - begun_ms);
            }
        }
        let why = self.unsettled(&open, &rounds);
        self.checks.not_live(self.now_ms, why);
        None
    }

    /// Attackers run the honest program from now on, from what is on their disks, and nobody is surrounded any more.
    pub(super) fn reform(&mut self) {
        let bad: Vec<Addr> = self.bad.keys().copied().collect();
        for addr in bad {
            self.stop(addr);
            self.begin(addr);
        }
        let peers: Vec<Addr> = self.fulls.iter().filter(|f| f.is_validator()).map(|f| f.addr).collect();
        self.lites.iter_mut().for_each(|l| l.peers = peers.clone());
    }

    /// What must still end: claims of rounds that were open when the faults stopped.
    pub(super) fn unsettled(&self, open: &[ClaimId], rounds: &BTreeMap<ModelId, u64>) -> String {
        let ledger = self.checks.ledger();
        let mut out = Vec::new();
        // and it goes on: whoever is left trains and is judged
        let trains = self.lites.iter().any(|l| self.is_honest(l.addr));
        for (model, round) in self.rounds() {
            if trains && rounds.get(&model).is_some_and(|before| round < *before + 2) {
                out.push(format!("model {} is still in round {round}", model.short()));
            }
        }
        let tip = ledger.tip().height;
        let behind = self.fulls.iter().filter(|f| self.is_honest(f.addr) && f.height() + 2 < tip);
        out.extend(behind.map(|f| format!("full node {} is at block {} of {tip}", f.addr.0, f.height())));
        for id in open {
            let Some(claim) = ledger.claim(*id) else { continue };
            let Some(addr) = self.place(claim.trainer).filter(|a| self.is_honest(*a)) else { continue };
            let escrow = claim.escrow.and_then(|e| ledger.escrow(e));
            // an honest payer's money must not stay away; a hostile payer is nobody's concern
            let payer = escrow.and_then(|e| self.place(e.payer)).filter(|a| self.is_honest(*a));
            let held = escrow
                .into_iter()
                .flat_map(|e| &e.tranches)
                .any(|t| self.lightning.htlc(t.payment_hash).is_some_and(|h| h.fate == lightning::Fate::Held));
            let stuck = claim.judged.is_some() && payer.is_some() && (held || escrow.is_some_and(|e| !e.is_over()));
            if claim.judged.is_none() {
                let round = ledger.model(claim.model).and_then(|m| m.round.clone());
                out.push(format!("claim {} of round {} has no verdict; {round:?}", id.short(), claim.round));
            } else if self.lite(addr).is_some_and(|l| !l.is_over(*id)) {
                let phase = self.lite(addr).and_then(|l| l.claims().find(|c| c.claim == *id).map(|c| c.phase));
                out.push(format!(
                    "claim {} of round {} is judged, its trainer is at {phase:?}",
                    id.short(),
                    claim.round
                ));
            } else if stuck {
                out.push(format!("claim {} of round {} is judged, its escrow is not over", id.short(), claim.round));
            }
        }
        out.truncate(8);
        out.join("; ")
    }

    /// Rounds of the models that honest sponsors pay for.
    pub(super) fn rounds(&self) -> BTreeMap<ModelId, u64> {
        let ledger = self.checks.ledger();
        let paid = |m: &oda_consensus::state::ModelState| {
            m.sponsors.iter().any(|s| s.covers_another() && self.place(s.sponsor).is_some_and(|a| self.is_honest(a)))
        };
        let all = ledger.models().filter(|(_, m)| paid(m));
        all.filter_map(|(id, m)| Some((id, m.round.as_ref()?.number))).collect()
    }
}
