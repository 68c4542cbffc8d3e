//! The networks written out in plain loops, from the definitions in PyTorch's documentation of `nn.Conv2d`,
//! `nn.MaxPool2d`, `nn.LayerNorm`, `nn.GELU` and `nn.MultiheadAttention`.

use oda_consensus::manifest::Architecture;
use oda_ml::{Batch, to_unat};

/// Tensors of a flat vector, one after the other.
struct Flat<'a>(&'a [f32]);

impl Flat<'_> {
    fn take(&mut self, len: usize) -> Vec<f64> {
        let (mine, rest) = self.0.split_at(len);
        self.0 = rest;
        mine.iter().map(|w| f64::from(*w)).collect()
    }

    fn linear(&mut self, x: &[f64], to: usize, with_bias: bool) -> Vec<f64> {
        let matrix = self.take(to * x.len());
        let bias = if with_bias { self.take(to) } else { vec![0.0; to] };
        let row = |i: usize| (0..x.len()).map(|j| matrix[i * x.len() + j] * x[j]).sum::<f64>();
        (0..to).map(|i| row(i) + bias[i]).collect()
    }
}

fn cross_entropy(logits: &[f64], class: u8) -> f64 {
    logits.iter().map(|l| (l - logits[usize::from(class)]).exp()).sum::<f64>().ln()
}

pub fn losses_unat(architecture: &Architecture, weights: &[f32], batch: &Batch) -> Vec<i64> {
    match (architecture, batch) {
        (
            Architecture::Cnn { channels, height, width, filters, hidden, classes },
            Batch::Bytes { inputs, classes: y },
        ) => {
            let image = [channels, height, width].map(|d| *d as usize);
            let pixels: usize = image.iter().product();
            let one = |(x, y): (&[u8], &u8)| {
                let x = x.iter().map(|p| f64::from(*p) / 255.0).collect();
                let logits = cnn(&mut Flat(weights), x, image, filters, *hidden as usize, *classes as usize);
                to_unat(cross_entropy(&logits, *y))
            };
            inputs.chunks(pixels).zip(y).map(one).collect()
        }
        (Architecture::Transformer { context, width, layers, heads }, Batch::Windows { bytes }) => {
            let [context, width, heads] = [context, width, heads].map(|d| *d as usize);
            let one = |window: &[u8]| {
                let logits = transformer(&mut Flat(weights), &window[..context], width, *layers, heads);
                let losses = logits.iter().zip(&window[1..]).map(|(l, y)| cross_entropy(l, *y));
                to_unat(losses.sum::<f64>() / context as f64)
            };
            bytes.chunks(context + 1).map(one).collect()
        }
        _ => panic!("no oracle"),
    }
}

fn cnn(
    w: &mut Flat<'_>,
    mut x: Vec<f64>,
    image: [usize; 3],
    filters: &[u32],
    hidden: usize,
    classes: usize,
) -> Vec<f64> {
    let [mut from, mut rows, mut columns] = image;
    for to in filters.iter().map(|f| *f as usize) {
        let (kernel, bias) = (w.take(to * from * 9), w.take(to));
        let at = |c: usize, i: usize, j: usize| {
            // one pixel of zeros around
            if i == 0 || j == 0 || i > rows || j > columns { 0.0 } else { x[(c * rows + i - 1) * columns + j - 1] }
        };
        let value = |o: usize, i: usize, j: usize| {
            let mut sum = bias[o];
            for c in 0..from {
                for (di, dj) in (0..3).flat_map(|di| (0..3).map(move |dj| (di, dj))) {
                    sum += kernel[((o * from + c) * 3 + di) * 3 + dj] * at(c, i + di, j + dj);
                }
            }
            sum.max(0.0)
        };
        let mut pooled = Vec::new();
        for o in 0..to {
            for (i, j) in (0..rows / 2).flat_map(|i| (0..columns / 2).map(move |j| (2 * i, 2 * j))) {
                let four = [value(o, i, j), value(o, i, j + 1), value(o, i + 1, j), value(o, i + 1, j + 1)];
                pooled.push(four.into_iter().fold(f64::NEG_INFINITY, f64::max));
            }
        }
        (x, from, rows, columns) = (pooled, to, rows / 2, columns / 2);
    }
    let x: Vec<f64> = w.linear(&x, hidden, true).iter().map(|v| v.max(0.0)).collect();
    w.linear(&x, classes, true)
}

fn erf(x: f64) -> f64 {
    // Maclaurin series; enough terms for the |x| < 4 seen here
    let (mut term, mut sum) = (x, x);
    for n in 1..120u32 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu(x: f64) -> f64 {
    x * 0.5 * (1.0 + erf(x / 2f64.sqrt()))
}

/// Applies the next norm to every position.
fn norm(w: &mut Flat<'_>, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let width = x[0].len();
    let (scale, bias) = (w.take(width), w.take(width));
    let one = |row: &Vec<f64>| {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        (0..width).map(|i| (row[i] - mean) / (variance + 1e-5).sqrt() * scale[i] + bias[i]).collect()
    };
    x.iter().map(one).collect()
}

/// Applies the next linear layer to every position.
fn linear(w: &mut Flat<'_>, x: &[Vec<f64>], to: usize, with_bias: bool) -> Vec<Vec<f64>> {
    let before = w.0;
    x.iter()
        .map(|row| {
            w.0 = before;
            w.linear(row, to, with_bias)
        })
        .collect()
}

fn add(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
    for (x, y) in x.iter_mut().flatten().zip(y.iter().flatten()) {
        *x += y;
    }
}

fn attention(qkv: &[Vec<f64>], width: usize, heads: usize) -> Vec<Vec<f64>> {
    let each = width / heads;
    let mut out = vec![vec![0.0; width]; qkv.len()];
    for (head, i) in (0..heads).flat_map(|h| (0..qkv.len()).map(move |i| (h, i))) {
        let part = |i: usize, which: usize| &qkv[i][which * width + head * each..which * width + (head + 1) * each];
        let score =
            |j: usize| part(i, 0).iter().zip(part(j, 1)).map(|(q, k)| q * k).sum::<f64>() / (each as f64).sqrt();
        let shares: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
        let sum: f64 = shares.iter().sum();
        for (j, share) in shares.iter().enumerate() {
            for (d, v) in part(j, 2).iter().enumerate() {
                out[i][head * each + d] += share / sum * v;
            }
        }
    }
    out
}

fn transformer(w: &mut Flat<'_>, bytes: &[u8], width: usize, layers: u32, heads: usize) -> Vec<Vec<f64>> {
    let (embed, position) = (w.take(256 * width), w.take(bytes.len() * width));
    let place = |(i, b): (usize, &u8)| {
        (0..width).map(|d| embed[usize::from(*b) * width + d] + position[i * width + d]).collect()
    };
    let mut x: Vec<Vec<f64>> = bytes.iter().enumerate().map(place).collect();
    for _ in 0..layers {
        let normed = norm(w, &x);
        let qkv = linear(w, &normed, 3 * width, true);
        let attended = attention(&qkv, width, heads);
        let out = linear(w, &attended, width, true);
        add(&mut x, &out);
        let normed = norm(w, &x);
        let mut inner = linear(w, &normed, 4 * width, true);
        inner.iter_mut().flatten().for_each(|v| *v = gelu(*v));
        let down = linear(w, &inner, width, true);
        add(&mut x, &down);
    }
    let normed = norm(w, &x);
    linear(w, &normed, 256, false)
}
