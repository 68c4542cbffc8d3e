//! CPU cost of the beacon: one partial, checking one, and combining t of n.
//!
//! `cargo run --release -p oda-consensus --example beacon_cost`

use frost_ristretto255::keys;
use oda_consensus::beacon::{BeaconInput, BeaconKey, BeaconShare, Purpose};
use oda_consensus::codec;
use oda_consensus::frost::threshold;
use oda_consensus::ids::ChainId;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::error::Error;
use std::time::Instant;

/// Mean microseconds of a call.
fn mean_us<T>(calls: u32, mut call: impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        std::hint::black_box(call());
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{:>3} {:>3} {:>12} {:>18} {:>12} {:>12} {:>14}",
        "n", "t", "partial us", "verify_partial us", "combine us", "verify us", "key decode us"
    );
    for n in [4usize, 7, 20, 67] {
        let t = threshold(n);
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let list = keys::IdentifierList::Default;
        let (secrets, public) = keys::generate_with_dealer(u16::try_from(n)?, u16::try_from(t)?, list, &mut rng)?;
        let key = BeaconKey::of(&public, n, t)?;
        let mut shares = Vec::new();
        for index in 0..n {
            let id = frost_ristretto255::Identifier::try_from(u16::try_from(index + 1)?)?;
            let secret = secrets.get(&id).ok_or("a share is missing")?;
            shares.push(BeaconShare::of(&secret.clone().try_into()?, index)?);
        }
        let input = BeaconInput { chain: ChainId([1; 32]), purpose: Purpose::Samples, number: 1, subject: [0; 32] };
        let partials: Vec<_> = shares.iter().map(|s| s.partial(&input, &mut rng)).collect();
        let first = partials.first().ok_or("no partial")?;
        let (_, proof) = key.combine(&input, &partials)?;
        let key_bytes = codec::encode(&key);
        let calls = 400 / u32::try_from(n)? + 5;
        let share = shares.first().ok_or("no share")?;
        println!(
            "{n:>3} {t:>3} {:>12.0} {:>18.0} {:>12.0} {:>12.0} {:>14.0}",
            mean_us(200, || share.partial(&input, &mut rng)),
            mean_us(200, || key.verify_partial(&input, first)),
            mean_us(calls, || key.combine(&input, &partials)),
            mean_us(calls, || key.verify(&input, &proof)),
            mean_us(calls, || codec::decode::<BeaconKey>(&key_bytes)),
        );
    }
    Ok(())
}
