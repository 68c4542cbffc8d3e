//! S2: the float64 score is the same integer whatever instructions the libraries pick, up to rounding edges.
//!
//! libtorch, MKL and oneDNN choose their kernels once a process, so this binary runs itself with each setting.
#![cfg(feature = "torch")]

mod zoo;

use oda_ml::torch::{Device, Torch, set_threads};
use oda_ml::{Backend as _, Inner, Work, weights};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

const TORCH: Torch = Torch { device: Device::Cpu };

/// Where a child finds the weights and leaves its losses; unset in the parent.
const CHILD: &str = "ODA_INSTRUCTION_SETS_CHILD";
const TEST: &str = "losses_are_the_same_on_every_instruction_set";

const SETTINGS: [&[(&str, &str)]; 10] = [
    &[],
    &[("ATEN_CPU_CAPABILITY", "default")],
    &[("ATEN_CPU_CAPABILITY", "avx2")],
    &[("ATEN_CPU_CAPABILITY", "avx512")],
    &[("MKL_CBWR", "COMPATIBLE")],
    &[("MKL_ENABLE_INSTRUCTIONS", "SSE4_2")],
    &[("ONEDNN_MAX_CPU_ISA", "SSE41")],
    &[("ONEDNN_MAX_CPU_ISA", "AVX2")],
    &[("OMP_NUM_THREADS", "2"), ("ATEN_CPU_CAPABILITY", "avx2")],
    &[
        ("ATEN_CPU_CAPABILITY", "default"),
        ("MKL_CBWR", "COMPATIBLE"),
        ("MKL_ENABLE_INSTRUCTIONS", "SSE4_2"),
        ("ONEDNN_MAX_CPU_ISA", "SSE41"),
    ],
];

/// Asking for instructions that the processor lacks ends a process.
fn possible(settings: &[(&str, &str)]) -> bool {
    let has = |setting: &(&str, &str)| match *setting {
        #[cfg(target_arch = "x86_64")]
        (_, "avx2") => std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
        #[cfg(target_arch = "x86_64")]
        (_, "avx512") => {
            std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
        }
        #[cfg(not(target_arch = "x86_64"))]
        (_, "avx2" | "avx512") => false,
        _ => true,
    };
    settings.iter().all(has)
}

fn trained(model: &zoo::Model) -> (Vec<f32>, Vec<f32>) {
    let (head, indices) = (model.head(), model.indices());
    let (manifest, data) = (&model.manifest, &model.data);
    let work = Work { manifest, head: &head, data, indices: &indices[..512], steps: 60, seed: [5; 32] };
    let mut inner = Inner::new(head.len());
    let change = TORCH.train(&work, &mut inner, &AtomicBool::new(false), &mut |_| {}).unwrap();
    (head.iter().zip(&change).map(|(w, c)| w + c).collect(), change)
}

/// Measures every model with the weights it finds; trains one too, as a witness that the setting has any effect.
fn child(dir: &Path, out: &Path) {
    let mut lines = Vec::new();
    for model in zoo::all() {
        let head = weights::from_bytes(&model.manifest, &std::fs::read(dir.join(model.name)).unwrap()).unwrap();
        let measured = TORCH.measure(&model.manifest, &head, &model.data, &model.indices()).unwrap();
        lines.push(measured.losses_unat.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }
    let bits: Vec<u8> = trained(&zoo::cnn()).1.iter().flat_map(|v| v.to_le_bytes()).collect();
    lines.push(blake3::hash(&bits).to_string());
    std::fs::write(out, lines.join("\n")).unwrap();
}

#[test] // S2
fn losses_are_the_same_on_every_instruction_set() {
    if let Some(paths) = std::env::var_os(CHILD) {
        let dir = Path::new(&paths);
        return child(dir, &dir.join("losses"));
    }
    let dir = tempfile::tempdir().unwrap();
    let models = zoo::all();
    set_threads(1);
    for model in &models {
        let bytes = weights::to_bytes(&model.manifest, &trained(model).0).unwrap();
        std::fs::write(dir.path().join(model.name), bytes).unwrap();
    }
    let run = |settings: &[(&str, &str)]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--test-threads", "1"]).env(CHILD, dir.path());
        command.env("OMP_NUM_THREADS", "1").env("OMP_WAIT_POLICY", "PASSIVE").envs(settings.iter().copied());
        let done = command.output().unwrap();
        let (status, said) = (done.status, String::from_utf8_lossy(&done.stdout));
        assert!(status.success(), "{settings:?}: {status}: {said}");
        let written = std::fs::read_to_string(dir.path().join("losses")).unwrap();
        std::fs::remove_file(dir.path().join("losses")).unwrap();
        let mut lines: Vec<String> = written.lines().map(str::to_string).collect();
        let witness = lines.pop().unwrap();
        let parse = |line: &String| line.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<i64>>();
        (lines.iter().map(parse).collect::<Vec<_>>(), witness)
    };
    let (base, base_witness) = run(SETTINGS[0]);
    assert_eq!(base.len(), models.len());
    let (mut runs, mut trained_otherwise, mut differing) = (0, 0, 0);
    for settings in &SETTINGS[1..] {
        if !possible(settings) {
            eprintln!("{settings:?}: not on this processor");
            continue;
        }
        let (losses, witness) = run(settings);
        (runs, trained_otherwise) = (runs + 1, trained_otherwise + usize::from(witness != base_witness));
        assert_eq!(losses.len(), models.len());
        for ((model, one), other) in models.iter().zip(&base).zip(&losses) {
            differing += zoo::edges(one, other, &format!("{} with {settings:?}", model.name));
        }
    }
    let measured = runs * models.len() * zoo::SAMPLES as usize;
    eprintln!("{differing} of {measured} losses differ by a unit");
    eprintln!("float32 training differs in {trained_otherwise} of {runs} settings");
    assert!(runs >= 5);
}
