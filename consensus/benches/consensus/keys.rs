//! Key generation and the beacon.

use super::Bench;
use frost_ristretto255::keys;
use oda_consensus::beacon::{BeaconInput, BeaconKey, BeaconShare, Purpose};
use oda_consensus::frost::{
    EncryptionKey, EncryptionSecret, EpochSeed, Transcript, deal_locally, deal_round1, dkg_context, threshold,
};
use oda_consensus::ids::{ChainId, NodeId};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// A committee of which everything is known.
pub struct Members {
    pub list: Vec<(NodeId, EncryptionKey)>,
    pub secrets: Vec<EncryptionSecret>,
    pub seeds: Vec<EpochSeed>,
}

impl Members {
    pub fn new(n: usize, rng: &mut ChaCha20Rng) -> Self {
        let secrets: Vec<_> = (0..n).map(|i| EncryptionSecret::derive(&[i as u8 + 1; 32])).collect();
        let list = secrets.iter().enumerate().map(|(i, s)| (NodeId([i as u8 + 1; 32]), s.public())).collect();
        Self { list, secrets, seeds: (0..n).map(|_| EpochSeed::random(rng)).collect() }
    }

    pub fn deal(&self, epoch: u64) -> Transcript {
        deal_locally(&self.list, dkg_context(ChainId([1; 32]), epoch, 0), &self.seeds).expect("a key generation")
    }
}

/// Measures committees of 4 to 67.
pub fn run(bench: &mut Bench) {
    for n in [4usize, 7, 20, 67] {
        if bench.wants(&format!("dkg/n={n}")) && (n < 67 || bench.real) {
            dkg(bench, n);
        }
    }
    for n in [4usize, 7, 20, 67] {
        if bench.wants(&format!("beacon/n={n}")) && (n < 67 || bench.real) {
            beacon(bench, n);
        }
    }
}

fn dkg(bench: &mut Bench, n: usize) {
    let members = Members::new(n, &mut ChaCha20Rng::seed_from_u64(n as u64));
    let transcript = members.deal(1);
    let keys: Vec<EncryptionKey> = members.list.iter().map(|(_, key)| *key).collect();
    let (seed, secret) = (&members.seeds[0], &members.secrets[0]);
    let deal = || deal_round1(seed, transcript.context, 0, n).expect("a package");
    let check = || transcript.round1.iter().enumerate().all(|(i, r)| r.check(i, n));
    let share = || transcript.deal_round2(seed, 0, &keys).expect("boxes");
    let shares = || transcript.shares(seed, 0, secret).expect("shares");
    let public = || transcript.keys().expect("keys");
    let member = || (deal(), check(), share(), shares(), public());
    let name = |what: &str| format!("dkg/n={n} {what}");
    if n < 67 {
        bench.time(&name("one member: deal commitments"), || (), |()| deal());
        bench.time(&name("one member: check all commitments"), || (), |()| check());
        bench.time(&name("one member: deal sealed shares"), || (), |()| share());
        bench.time(&name("one member: open and check its shares"), || (), |()| shares());
        bench.time(&name("anyone: the public keys"), || (), |()| public());
        bench.time(&name("one member, everything"), || (), |()| member());
    } else {
        bench.once(&name("one member, everything"), member);
    }
    // beyond that it is minutes: n times the figure of one member
    if n <= 20 {
        bench.once(&name("all members together"), || {
            let transcript = members.deal(1);
            let share = |i: usize| transcript.shares(&members.seeds[i], i, &members.secrets[i]);
            assert!((0..n).all(|i| share(i).is_ok()), "every member gets its shares");
        });
    }
}

fn beacon(bench: &mut Bench, n: usize) {
    // dealt by one: where the shares come from makes no difference here, and a key generation of 67 takes minutes
    let mut rng = ChaCha20Rng::seed_from_u64(n as u64);
    let t = threshold(n);
    let list = keys::IdentifierList::Default;
    let (secrets, public) = keys::generate_with_dealer(n as u16, t as u16, list, &mut rng).expect("shares");
    let key = BeaconKey::of(&public, n, t).expect("a key");
    let share = |i: usize| {
        let id = frost_ristretto255::Identifier::try_from(i as u16 + 1).expect("an identifier");
        BeaconShare::of(&secrets[&id].clone().try_into().expect("a share"), i).expect("a share")
    };
    let input = BeaconInput { chain: ChainId([1; 32]), purpose: Purpose::Samples, number: 1, subject: [0; 32] };
    let partials: Vec<_> = (0..t).map(|i| share(i).partial(&input, &mut rng)).collect();
    let (_, proof) = key.combine(&input, &partials).expect("a beacon");
    let (first, mine) = (share(0), &partials[0]);
    if n == 4 {
        bench.time("beacon/any n: one partial", || (), |()| first.partial(&input, &mut rng));
        bench.time("beacon/any n: verify a partial", || (), |()| key.verify_partial(&input, mine));
    }
    bench.time(&format!("beacon/n={n} combine"), || (), |()| key.combine(&input, &partials));
    bench.time(&format!("beacon/n={n} verify"), || (), |()| key.verify(&input, &proof));
}
