//! Measures what the defaults of a model file give: z of the assigned-work test for honest and dishonest
//! work, adoption and accuracy by round.
//!
//! `cargo run --release -p oda-ml --example tune -- models/fashion-mnist.toml [rounds] [honest] [seeds]`

use oda_consensus::ids::{Beacon, NodeId};
use oda_consensus::score::{Measurement, Verdict, excess_z_milli, proven_gain_unat, verdict};
use oda_ml::judge::{self, Round, Submitted};
use oda_ml::torch::{Torch, set_threads, train};
use oda_ml::{Dataset, ModelData, cheat, delta, model_file, weights};
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, or: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let path = args.get(1).map_or("models/fashion-mnist.toml", String::as_str);
    let (rounds, honest, seeds) = (number(2, 8), number(3, 2), number(4, 1));
    set_threads(1);
    let bundle = model_file::load(path.as_ref())?;
    let (m, id) = (&bundle.manifest, bundle.manifest.id());
    let split = |i: usize, n| Dataset::from_idx(&bundle.blobs[i], &bundle.blobs[i + 1], n);
    let data = ModelData {
        train: split(0, m.data.train.samples)?,
        eval: split(2, m.data.eval.samples)?,
        test: split(4, m.data.test.samples)?,
    };
    println!(
        "delta {} bytes, dense {} bytes",
        delta::encoded_len(m.parameters() as usize, &m.training),
        4 * m.parameters()
    );
    println!(
        "seed round | honest z (accepted) | random poison lazy foreign z | norm | proven nat | accuracy | train s judge s"
    );
    for seed in 0..seeds {
        let mut head = bundle.blobs[6].clone();
        let mut beacon = Beacon([seed as u8 + 1; 32]);
        for round in 1..=rounds {
            let flat = weights::from_bytes(m, &head)?;
            let stop = AtomicBool::new(false);
            let clock = std::time::Instant::now();
            let work = |who: u8, steps: u32, foreign: bool| {
                let owner = if foreign { NodeId([who + 100; 32]) } else { NodeId([who; 32]) };
                let shard = judge::shard(m, id, round, beacon, owner);
                train(m, &flat, &data.train, &shard, steps, [who; 32], &stop, &mut |_| {})
            };
            let mut dense = Vec::new();
            for who in 0..honest as u8 {
                dense.push((who, work(who, m.training.inner_steps, false)?));
            }
            let seconds = clock.elapsed().as_secs_f64() / honest as f64;
            dense.push((50, cheat::random(flat.len(), 0.02, [round as u8; 32])));
            dense.push((51, work(51, m.training.inner_steps, false)?.iter().map(|v| -v).collect()));
            dense.push((52, work(52, 1, false)?));
            dense.push((53, work(53, m.training.inner_steps, true)?));
            let claims: Vec<(NodeId, Submitted)> = dense
                .iter()
                .map(|(who, d)| (NodeId([*who; 32]), Submitted::Bytes(delta::encode(d, &m.training))))
                .collect();
            let sealed = beacon.next(b"seal");
            let r = Round { manifest: m, model: id, round, start: beacon, sealed, parent: &head, data: &data };
            let clock = std::time::Instant::now();
            let result = judge::replay(&Torch, &r, &claims)?;
            let judging = clock.elapsed().as_secs_f64();
            let z: Vec<String> = result
                .measured
                .iter()
                .map(|x| match x {
                    Measurement::Scored(s) => {
                        let mark = match verdict(&m.judging, x) {
                            Verdict::Accepted => "+",
                            Verdict::Harmful => "h",
                            _ => "-",
                        };
                        format!("{:.1}{mark}", excess_z_milli(&s.shard, &s.gate) as f64 / 1000.0)
                    }
                    other => format!("{other:?}"),
                })
                .collect();
            let norm = delta::decode(&delta::encode(&dense[0].1, &m.training), flat.len(), &m.training, &m.judging)
                .map(|d| d.norm())
                .unwrap_or(-1.0);
            let (mut proven, mut accuracy) = (0, 0.0);
            if let (Some(h), Some(bytes)) = (&result.head, result.candidate) {
                proven = proven_gain_unat(&m.judging, &h.confirm);
                accuracy = f64::from(h.candidate_test.correct) / f64::from(h.candidate_test.n);
                if proven > 0 {
                    head = bytes;
                }
            }
            println!(
                "{seed} {round} | {} | {} | {norm:.2} | {:.4} | {:.1} % | {seconds:.1} {judging:.1}",
                z[..honest as usize].join(" "),
                z[honest as usize..].join(" "),
                proven as f64 / 1e6,
                100.0 * accuracy
            );
            beacon = sealed.next(b"outcome");
        }
    }
    Ok(())
}
