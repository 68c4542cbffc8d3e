//! Copies `consensus/src` with the bugs of `bugs.toml` planted in the copy. The original stays untouched, and so
//! does everything that is built from it.

#[path = "../plant.rs"]
mod plant;

use std::path::PathBuf;

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let (list, sources) = (here.join("../bugs.toml"), here.join("../../../consensus/src"));
    for read in [&list, &sources, &here.join("../plant.rs"), &here.join("build.rs")] {
        println!("cargo::rerun-if-changed={}", read.display());
    }
    let toml = std::fs::read_to_string(&list).unwrap_or_else(|e| panic!("{}: {e}", list.display()));
    let planted = plant::read(&toml).and_then(|bugs| plant::copy(&bugs, &sources, &out.join("consensus")));
    if let Err(why) = planted {
        println!("cargo::error={why}");
    }
}
