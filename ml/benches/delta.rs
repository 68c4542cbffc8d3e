//! Ten million parameters at 64 of 4096: compressing, reading and adding up deltas, in bytes of dense f32 weights.
//!
//! `cargo bench -p oda-ml --no-default-features --bench delta`

#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use oda_consensus::delta::{SparseDelta, decode};
use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::manifest::{Judging, Training};
use oda_ml::compress::{ErrorFeedback, compress};
use oda_ml::{aggregate, cheat};

const PARAMETERS: usize = 10_000_000;

/// Deltas in one head.
const CLAIMS: u8 = 8;

fn deltas(c: &mut Criterion) {
    let sample = sample_manifest("bench");
    let training = Training { chunk: 4096, keep_per_chunk: 64, ..sample.training };
    let judging = Judging { norm_cap_milli: 1_000_000, max_delta_bytes: 1 << 20, ..sample.judging };
    let parent = cheat::random(PARAMETERS, 0.1, [0; 32]);
    let dense = cheat::random(PARAMETERS, 0.01, [1; 32]);
    let bytes = compress(&dense, &training);
    println!("{PARAMETERS} parameters in {} bytes: 1/{:.1}", bytes.len(), 4e7 / bytes.len() as f64);
    let read = |bytes: &[u8]| decode(bytes, PARAMETERS, &training, &judging).expect("a delta of this model");
    let others: Vec<SparseDelta> =
        (0..CLAIMS).map(|i| read(&compress(&cheat::random(PARAMETERS, 0.01, [i; 32]), &training))).collect();
    let others: Vec<&SparseDelta> = others.iter().collect();

    let mut group = c.benchmark_group("delta");
    group.throughput(Throughput::Bytes(4 * PARAMETERS as u64)).sample_size(10);
    group.bench_function("compress", |b| b.iter(|| compress(&dense, &training)));
    let mut feedback = ErrorFeedback::new(PARAMETERS);
    group.bench_function("compress_with_feedback", |b| b.iter(|| feedback.compress(&dense, &training)));
    group.bench_function("decode", |b| b.iter(|| read(&bytes)));
    group.bench_function("decode_and_apply", |b| b.iter(|| read(&bytes).applied(&parent, 1.0)));
    group.bench_function("cosine", |b| b.iter(|| others.iter().map(|d| d.cosine_milli(others[0])).sum::<i32>()));
    group.bench_function("aggregate_8", |b| b.iter(|| aggregate::new_head(&parent, &others, 700)));
    group.bench_function("aggregate_8_on_1_thread", |b| {
        b.iter(|| aggregate::new_head_on(1, &parent, &others, 700));
    });
    group.finish();
}

criterion_group!(benches, deltas);
criterion_main!(benches);
