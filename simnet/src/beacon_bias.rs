//! What a grinding minority gains from two beacons (S3, attack 18), on the code the node runs.
//!
//! Arguing that a beacon cannot be ground is easy and often wrong, so the grinders play here. They are the first
//! members of the committee, as many as it may contain (n - t), and wish for a property of the next beacon that
//! they would get by luck at a known rate: either one beacon in k has it, or it seats all of them in the next
//! committee drawn from N validators with [`oda_consensus::sample::draw`].
//!
//! **Hash of the last signature.** The committee signs with its real [`Signer`]s. A grinder that leads runs the
//! unmodified engine on a clock of its own that runs ahead: it sees the finished signature first, keeps
//! it to itself unless the beacon suits it, lets its clock pass the other leaders' turns, and leads the
//! next session, with fresh nonces and so another signature. The others follow, as they must: a leader whose
//! session failed looks the same. It publishes the first signature it likes, or the last it tried. Only the
//! tries of a grinder whose turn comes first are counted; one that withholds its share under another leader
//! has one more, so the measured gain is a lower bound.
//!
//! **DVRF.** The members evaluate with their real [`BeaconShare`]s. The grinders see everything, may withhold any
//! of their partials, send broken ones, and pick whose partials are combined. They get the best of all the
//! beacons these choices lead to. There is one.
//!
//! Rates come with Wilson's 95 % interval (E. B. Wilson, J. American Statistical Association 22, 1927).

use anyhow::{Context, Result, ensure};
use oda_consensus::beacon::{BeaconError, BeaconInput, BeaconKey, BeaconShare, Partial, Purpose};
use oda_consensus::frost::{
    GroupKey, SignEffect, SignInput, SignMessage, Signer, SignerConfig, dkg_all_local, payload_hash, threshold,
};
use oda_consensus::ids::{Beacon, ChainId, Digest, NodeId, Signature};
use oda_consensus::sample;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;

/// What the grinders want of a beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// A property that one beacon in so many has.
    OneIn(u32),
    /// A seat for every grinder in the next committee of the same size.
    Seats {
        /// Validators it is drawn from.
        validators: u32,
    },
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// Committee size n.
    pub members: usize,
    /// How many of them grind, at most n - t.
    pub grinders: usize,
    /// Beacons drawn for each line.
    pub trials: u32,
    /// Everything is drawn from it.
    pub seed: u64,
    /// Signatures a leading grinder makes before it publishes one.
    pub tries: u32,
    /// Its wish.
    pub wish: Wish,
}

/// Most trials of one run.
const MAX_TRIALS: u32 = 1_000_000;
/// Most tries of one leader.
const MAX_TRIES: u32 = 1_000;
/// Sets of combined members tried for one DVRF value.
const MAX_SETS: usize = 4;

impl Wish {
    /// Rate at which a fair beacon grants it.
    pub fn fair_rate(&self, setting: &Setting) -> f64 {
        match *self {
            Self::OneIn(k) => 1.0 / f64::from(k),
            // g given validators among n of N: product of (n - i) / (N - i)
            Self::Seats { validators } => (0..setting.grinders)
                .map(|i| (setting.members - i) as f64 / (f64::from(validators) - i as f64))
                .product(),
        }
    }

    fn granted(&self, setting: &Setting, beacon: &Beacon) -> bool {
        match *self {
            Self::OneIn(k) => sample::draw(beacon.seed("oda simnet wish", &[]), k, 1) == [0],
            Self::Seats { validators } => {
                let seed = beacon.seed("oda simnet committee", &[]);
                let seats = sample::draw(seed, validators, u32::try_from(setting.members).unwrap_or(u32::MAX));
                seats.iter().filter(|v| (**v as usize) < setting.grinders).count() == setting.grinders
            }
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Row {
    /// Which beacon and conduct.
    pub construction: &'static str,
    /// Beacons drawn.
    pub trials: u32,
    /// Beacons with the wished property.
    pub granted: u32,
    /// Share of them.
    pub rate: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Rate of a fair beacon.
    pub fair: f64,
    /// `rate / fair`.
    pub ratio: f64,
    /// Most values the grinders could choose among for one beacon.
    pub choices_max: usize,
    /// Hash over all beacons: the same seed gives the same.
    pub trace: String,
}

impl Row {
    fn of(construction: &'static str, setting: &Setting, drawn: &[Drawn]) -> Self {
        let granted = drawn.iter().filter(|d| setting.wish.granted(setting, &d.beacon)).count();
        let (n, k) = (drawn.len() as f64, granted as f64);
        let (rate, fair, z) = (k / n, setting.wish.fair_rate(setting), 1.96);
        let center = (rate + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt();
        let mut h = blake3::Hasher::new();
        for d in drawn {
            h.update(&d.beacon.0);
        }
        Self {
            construction,
            trials: setting.trials,
            granted: u32::try_from(granted).unwrap_or(u32::MAX),
            rate,
            low: (center - half).max(0.0),
            high: (center + half).min(1.0),
            fair,
            ratio: rate / fair,
            choices_max: drawn.iter().map(|d| d.choices).max().unwrap_or(0),
            trace: h.finalize().to_hex()[..16].to_string(),
        }
    }

    /// Whether the fair rate lies in the interval.
    pub fn looks_fair(&self) -> bool {
        (self.low..=self.high).contains(&self.fair)
    }
}

/// The table.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    /// What was simulated.
    pub setting: Setting,
    /// Naive without and with grinding, DVRF without and with.
    pub rows: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.setting;
        let t = threshold(s.members);
        writeln!(
            f,
            "n = {}, t = {t}, {} grinding, up to {} tries, wish {:?}, seed {}",
            s.members, s.grinders, s.tries, s.wish, s.seed
        )?;
        writeln!(
            f,
            "{:<44} {:>7} {:>8} {:>7} {:>6} {:>17} {:>8}  trace",
            "construction", "trials", "rate", "fair", "ratio", "95 % interval", "choices"
        )?;
        for r in &self.rows {
            let interval = format!("{:.4} - {:.4}", r.low, r.high);
            writeln!(
                f,
                "{:<44} {:>7} {:>8.4} {:>7.4} {:>6.2} {interval:>17} {:>8}  {}",
                r.construction, r.trials, r.rate, r.fair, r.ratio, r.choices_max, r.trace
            )?;
        }
        Ok(())
    }
}

/// A beacon and how many values the grinders could choose it from.
struct Drawn {
    beacon: Beacon,
    choices: usize,
}

/// Runs both constructions, each without and with grinding.
///
/// # Errors
/// If the setting is out of bounds, or a committee fails to produce a value.
pub fn measure(setting: &Setting) -> Result<Report> {
    let (n, t) = (setting.members, threshold(setting.members));
    ensure!((3..=67).contains(&n), "--members must be 3 to 67");
    ensure!(setting.grinders <= n - t, "{} grinders, but a committee of {n} may contain {}", setting.grinders, n - t);
    ensure!((1..=MAX_TRIALS).contains(&setting.trials), "--trials must be 1 to {MAX_TRIALS}");
    ensure!((1..=MAX_TRIES).contains(&setting.tries), "--tries must be 1 to {MAX_TRIES}");
    match setting.wish {
        Wish::OneIn(k) => ensure!(k >= 2, "--one-in must be at least 2"),
        Wish::Seats { validators } => ensure!(validators as usize > n, "--validators must be more than --members"),
    }
    let rows = vec![
        Row::of("hash of last signature, nobody grinds", setting, &naive(setting, false)?),
        Row::of("hash of last signature, leader retries", setting, &naive(setting, true)?),
        Row::of("DVRF, nobody grinds", setting, &dvrf(setting, false)?),
        Row::of("DVRF, grinders withhold, break and choose", setting, &dvrf(setting, true)?),
    ];
    Ok(Report { setting: *setting, rows })
}

fn rng(setting: &Setting, purpose: &str) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(blake3::derive_key(&format!("oda 2026 simnet {purpose}"), &setting.seed.to_le_bytes()))
}

/// The signing committee, its messages delivered at once and in order.
struct Signers {
    group: GroupKey,
    signers: Vec<Signer>,
    /// Each member's own clock, ms; only grinders let theirs run.
    clocks_ms: Vec<u64>,
    rng: ChaCha20Rng,
    queue: VecDeque<(usize, NodeId, SignMessage)>,
    signed: Vec<(usize, Vec<u8>)>,
}

impl Signers {
    fn new(setting: &Setting) -> Result<Self> {
        let mut rng = rng(setting, "naive");
        let n = setting.members;
        let members: Vec<NodeId> = (1..=n).map(|i| NodeId([u8::try_from(i).unwrap_or(u8::MAX); 32])).collect();
        let (group, shares) = dkg_all_local(&members, threshold(n), &mut rng)?;
        let signer = |(node, share)| Signer::new(node, group.clone(), share, SignerConfig::default());
        let signers = members.iter().copied().zip(shares).map(signer).collect();
        let mut net = Self { signers, clocks_ms: vec![0; n], rng, queue: VecDeque::new(), signed: Vec::new(), group };
        for i in 0..n {
            net.input(i, SignInput::Start);
        }
        net.settle();
        Ok(net)
    }

    fn input(&mut self, to: usize, input: SignInput) {
        let me = self.group.members()[to];
        for effect in self.signers[to].handle(input, self.clocks_ms[to], &mut self.rng) {
            match effect {
                SignEffect::Broadcast(message) => {
                    let others = (0..self.signers.len()).filter(|i| *i != to);
                    self.queue.extend(others.map(|i| (i, me, message.clone())));
                }
                SignEffect::Signed { signature, .. } => self.signed.push((to, signature.to_bytes())),
                _ => {}
            }
        }
    }

    /// Delivers until silence: the leader that finished a signature, and the signature.
    fn settle(&mut self) -> Option<(usize, Vec<u8>)> {
        while let Some((to, from, message)) = self.queue.pop_front() {
            self.input(to, SignInput::Message { from, message, proof: Signature([0; 64]) });
        }
        self.signed.pop()
    }

    /// A leader lets its clock pass everybody else's turns and leads once more.
    fn lead_again(&mut self, leader: usize) -> Option<(usize, Vec<u8>)> {
        for _ in 0..self.signers.len() {
            // longer than the longest attempt
            self.clocks_ms[leader] += SignerConfig::default().attempt_ms * 16;
            self.input(leader, SignInput::Tick);
        }
        self.settle()
    }
}

fn naive(setting: &Setting, grind: bool) -> Result<Vec<Drawn>> {
    let mut net = Signers::new(setting)?;
    let mut last = Beacon([0; 32]);
    let mut drawn = Vec::new();
    for trial in 0..setting.trials {
        let mut topic = Digest([0; 32]);
        net.rng.fill_bytes(&mut topic.0);
        let payload = trial.to_le_bytes().to_vec();
        let hash = payload_hash(&payload);
        for i in 0..setting.members {
            net.input(i, SignInput::Approve { topic, payload_hash: hash });
        }
        for i in 0..setting.members {
            net.input(i, SignInput::Open { topic, payload: Some(payload.clone()) });
        }
        let (leader, signature) = net.settle().context("the committee did not sign")?;
        let (mut beacon, mut choices) = (last.next(&signature), 1);
        if grind && leader < setting.grinders {
            for _ in 1..setting.tries {
                if setting.wish.granted(setting, &beacon) {
                    break;
                }
                let (_, signature) = net.lead_again(leader).context("the committee did not sign again")?;
                beacon = last.next(&signature);
                choices += 1;
            }
        }
        for i in 0..setting.members {
            net.input(i, SignInput::Close { topic });
        }
        last = beacon;
        drawn.push(Drawn { beacon, choices });
    }
    Ok(drawn)
}

fn dvrf(setting: &Setting, grind: bool) -> Result<Vec<Drawn>> {
    let mut rng = rng(setting, "dvrf");
    let (key, shares) = beacon_committee(setting, &mut rng)?;
    let (n, t) = (setting.members, key.threshold());
    let mut drawn = Vec::new();
    for trial in 0..setting.trials {
        let input = BeaconInput {
            chain: ChainId([0; 32]),
            purpose: Purpose::Committee,
            number: u64::from(trial),
            subject: [0; 32],
        };
        let partials: Vec<Partial> = shares.iter().map(|s| s.partial(&input, &mut rng)).collect();
        let (fair, proof) = key.combine(&input, &partials[n - t..])?;
        let mut values = BTreeSet::from([fair]);
        if grind {
            // all silent, which the first combination was; then all honest; then sets of the grinders' choice
            values.insert(key.combine(&input, &partials)?.0);
            for _ in 2..MAX_SETS {
                let drawn = sample::draw(seed(&mut rng), u32::try_from(n)?, u32::try_from(t)?);
                let set: Vec<Partial> = drawn.iter().map(|i| partials[*i as usize].clone()).collect();
                values.insert(key.combine(&input, &set)?.0);
            }
            // the grinders' partials of another input under this one's name
            let other = BeaconInput { number: input.number.wrapping_add(1), ..input };
            let broken = shares.iter().take(setting.grinders).map(|s| s.partial(&other, &mut rng));
            let mixed: Vec<Partial> = broken.chain(partials[setting.grinders..].iter().cloned()).collect();
            values.insert(key.combine(&input, &mixed)?.0);
            let starved = key.combine(&input, &mixed[..t]);
            let none = setting.grinders > 0 && matches!(starved, Err(BeaconError::TooFew { .. }));
            ensure!(none || setting.grinders == 0, "a broken partial was counted");
        }
        ensure!(key.verify(&input, &proof)? == fair, "the proof does not show the value");
        let choices = values.len();
        let wished = values.iter().find(|b| setting.wish.granted(setting, b)).copied();
        drawn.push(Drawn { beacon: wished.unwrap_or(fair), choices });
    }
    Ok(drawn)
}

fn seed(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}

/// A dealer stands in for the DKG here: the values do not depend on who made the polynomial.
fn beacon_committee(setting: &Setting, rng: &mut ChaCha20Rng) -> Result<(BeaconKey, Vec<BeaconShare>)> {
    use frost_ristretto255::{Identifier, keys};
    let (n, t) = (setting.members, threshold(setting.members));
    let list = keys::IdentifierList::Default;
    let (secrets, public) = keys::generate_with_dealer(u16::try_from(n)?, u16::try_from(t)?, list, rng)?;
    let share = |index: usize| -> Result<BeaconShare> {
        let id = Identifier::try_from(u16::try_from(index + 1)?)?;
        let secret = secrets.get(&id).context("a share is missing")?;
        Ok(BeaconShare::of(&secret.clone().try_into()?, index)?)
    };
    Ok((BeaconKey::of(&public, n, t)?, (0..n).map(share).collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTING: Setting = Setting { members: 4, grinders: 1, trials: 120, seed: 1, tries: 12, wish: Wish::OneIn(8) };

    #[test] // attack 18: the experiment sees a bias where there is one, and only there
    fn grinding_pays_on_the_naive_beacon_only() {
        let honest = Row::of("honest", &SETTING, &naive(&SETTING, false).unwrap());
        assert!(honest.looks_fair(), "{honest:?}");
        let ground = Row::of("ground", &SETTING, &naive(&SETTING, true).unwrap());
        assert!(ground.low > ground.fair && ground.ratio > 1.5, "{ground:?}");
        assert!(ground.choices_max > 4, "{ground:?}");
    }

    #[test] // S3
    fn grinding_the_dvrf_changes_no_bit() {
        let setting = Setting { trials: 24, ..SETTING };
        let (honest, ground) = (dvrf(&setting, false).unwrap(), dvrf(&setting, true).unwrap());
        assert!(honest.iter().zip(&ground).all(|(a, b)| a.beacon == b.beacon && b.choices == 1));
        let row = Row::of("dvrf", &setting, &ground);
        assert!(row.looks_fair(), "{row:?}");
    }

    #[test] // one seed, one trace
    fn a_seed_replays() {
        let setting = Setting { trials: 2, ..SETTING };
        let report = measure(&setting).unwrap();
        assert_eq!(report, measure(&setting).unwrap());
        let other = measure(&Setting { seed: 2, ..setting }).unwrap();
        assert!(report.rows.iter().zip(&other.rows).all(|(a, b)| a.trace != b.trace));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let refused = |s: Setting| measure(&s).unwrap_err().to_string();
        assert!(refused(Setting { grinders: 2, ..SETTING }).contains("may contain 1"));
        assert!(refused(Setting { members: 2, ..SETTING }).contains("--members"));
        assert!(refused(Setting { trials: 0, ..SETTING }).contains("--trials"));
        assert!(refused(Setting { tries: 0, ..SETTING }).contains("--tries"));
        assert!(refused(Setting { wish: Wish::OneIn(1), ..SETTING }).contains("--one-in"));
        assert!(refused(Setting { wish: Wish::Seats { validators: 4 }, ..SETTING }).contains("--validators"));
    }

    #[test]
    fn a_fair_source_grants_wishes_at_the_fair_rate() {
        for wish in [Wish::OneIn(8), Wish::Seats { validators: 7 }] {
            let setting = Setting { members: 4, grinders: 1, trials: 4_000, wish, ..SETTING };
            let fair: Vec<Drawn> = (0..setting.trials)
                .map(|i| Drawn { beacon: Beacon(*blake3::hash(&i.to_le_bytes()).as_bytes()), choices: 1 })
                .collect();
            let row = Row::of("fair", &setting, &fair);
            assert!(row.looks_fair(), "{row:?}");
        }
    }
}
