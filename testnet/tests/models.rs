//! Every kind of model through the real network: trained by lite nodes, judged by the committee, paid, and
//! replayed by a stranger with `oda verify`, every integer of it. Small models, so that a round takes seconds.

mod common;

use anyhow::{Context, Result, ensure};
use common::{Story, tell};
use oda_testnet::genesis::Options;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What all models here have in common.
const REST: &str = r#"
[judging]
screen_samples = 100
assigned_z_milli = 3000
harm_z_milli = 2330
adopt_z_milli = 2330
probe_divisor = 8
norm_cap_milli = 50000
least_work_milli = 700
copy_cosine_milli = 900
min_gain_unat = 100
max_delta_bytes = 65536
max_claims = 16
SAMPLES
[timing]
commit_blocks = 20
linger_blocks = 15
reveal_blocks = 40
"#;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data").join(name).canonicalize().expect("shipped data")
}

fn model(dir: &Path, name: &str, head: &str, samples: &str) -> PathBuf {
    let mut text = format!("name = \"{name}\"\nseed = \"{name} 1\"\n{head}\n");
    let _ = write!(text, "{}", REST.replace("SAMPLES", samples));
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("a writable directory");
    path
}

/// Two rounds of two honest trainers and a cheat; then a stranger replays each claim of the last.
async fn play(story: &mut Story, model: &Path) -> Result<()> {
    // S4: on samples too small for it honest work is refused by chance; the trial says so before anybody pays
    let (enough, said) = story.oda(&["model", "add", &model.display().to_string()])?;
    ensure!(enough, "the model's own sample sizes do not suffice: {said}");
    story.rounds_over(2).await?;
    let summary = story.balanced().await.context("after two rounds")?;
    ensure!(summary.adopted > 0 && summary.spent_msat > 0, "nothing was learned: {summary:#?}");
    let rpc = story.network.rpc("validator-0")?;
    let model = rpc.models().await?.into_iter().find(|m| m.round.is_some()).context("no model")?;
    // S3: the judges had the key of what only they may read, and measured it
    let measured = rpc.outcomes(model.id, 1).await?;
    let opened = measured.iter().filter_map(|o| o.outcome.head.as_ref()).any(|h| h.guards.iter().all(|g| g.n > 0));
    ensure!(opened || !model.manifest.has_sealed_guards(), "the sealed guard was never measured");
    let claims = rpc.claims(model.id, 2).await?;
    ensure!(!claims.is_empty(), "no claims in round 2");
    let genesis = story.network.dir().join("genesis.json").display().to_string();
    let peer = story.network.file().node("validator-0")?.p2p.clone();
    for claim in claims {
        let id = claim.claim.id.to_string();
        let (ok, said) = story.oda(&["verify", &id, "--genesis", &genesis, "--peer", &peer])?;
        ensure!(ok && said.contains("attestation  holds") && said.contains("equal"), "{said}");
    }
    // and takes the weights home
    let (file, id) = (story.network.dir().join("head.safetensors"), model.id.to_string());
    let output = file.display().to_string();
    let get = ["--json", "model", "get", &id, "-o", &output, "--genesis", &genesis, "--peer", &peer];
    let (ok, said) = story.oda(&get)?;
    let weights = std::fs::metadata(&file).with_context(|| said.clone())?;
    let head = rpc.models().await?.into_iter().find(|m| m.id == model.id).context("no model")?.head.weights;
    ensure!(ok && said.contains(&head.hash.to_string()) && weights.len() == head.len, "{said}");
    Ok(())
}

fn told(name: &str, model: PathBuf) {
    let options = Options { model: model.clone(), ..common::options(name) };
    tell(options, async |story: &mut Story| play(story, &model).await);
}

#[test] // S2: a transformer over bytes, with a guard slice
fn a_transformer_over_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let text = data("english/kjv.txt.gz");
    let head = format!(
        r#"objective = "cross_entropy"
architecture = {{ transformer = {{ context = 32, width = 32, layers = 1, heads = 2 }} }}
[data]
source = {{ text = {text:?} }}
eval_samples = 8000
test_samples = 1000
[training]
inner_steps = 150
batch = 8
lr_micro = 3000
weight_decay_micro = 0
chunk = 1024
keep_per_chunk = 128
feedback_milli = 0
outer_lr_milli = 1000"#
    );
    let path =
        model(dir.path(), "bytes-small", &head, "shard_samples = 128\ngate_samples = 1000\nconfirm_samples = 1000");
    told("bytes-test", path);
}

#[test] // S2, S3, D1: a convolution with a complexity term, a guard slice by class, and one only the committee can read
fn a_convolution_with_a_complexity_term_and_guards() {
    let dir = tempfile::tempdir().unwrap();
    let images = |split: &str, rest: &str| {
        let file = |what: &str| data(&format!("fashion-mnist/{split}-{what}.idx.gz"));
        format!("{{ idx = {{ images = {:?}, labels = {:?} }}, {rest} }}", file("images"), file("labels"))
    };
    let head = format!(
        r#"objective = {{ cross_entropy_l2 = {{ l2_nano = 1000 }} }}
architecture = {{ cnn = {{ channels = 1, height = 28, width = 28, filters = [4, 8], hidden = 32, classes = 10 }} }}
[data]
train = {}
eval = {}
test = {}
guards = {{ bags = {{ class = 8, samples = 100 }}, secret = {} }}
[training]
inner_steps = 200
batch = 32
lr_micro = 2000
weight_decay_micro = 0
chunk = 1024
keep_per_chunk = 512
feedback_milli = 500
outer_lr_milli = 1000"#,
        images("train", "samples = 2000"),
        images("eval", "samples = 2000"),
        images("test", "samples = 2000"),
        images("eval", "samples = 150, sealed = true")
    );
    let path = model(dir.path(), "cnn-small", &head, "shard_samples = 256\ngate_samples = 900\nconfirm_samples = 900");
    told("cnn-test", path);
}

#[test] // S4, free mode: paid for what is stated and added
fn free_mode() {
    let dir = tempfile::tempdir().unwrap();
    let shipped = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist.toml"));
    let absolute = format!("\"{}/", data("").display());
    let text = shipped.unwrap().replace("\"../data/", &absolute).replacen("[data]", "work_mode = \"free\"\n[data]", 1);
    let path = dir.path().join("free.toml");
    std::fs::write(&path, text).unwrap();
    told("free-test", path);
}
