//! `oda model add`: data in any of the formats read once, tried on this machine, and kept in a node's data
//! directory for its sponsor.

use anyhow::{Result, bail};
use clap::Args;
use oda_ml::torch::{Torch, set_threads};
use oda_ml::{bundle, model_file, trial};
use std::path::PathBuf;

/// Command line.
#[derive(Args)]
pub struct AddArgs {
    /// Model description (TOML), see `models/`.
    file: PathBuf,
    /// Where its data lies, if not beside it: a folder, or the file of a model with one source.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Keep the model in this node's data directory, for `[sponsor] model`; without it, it is only checked.
    #[arg(long, env = "ODA_DATADIR")]
    datadir: Option<PathBuf>,
    /// Skip the round of training and judging that shows whether its sample sizes suffice.
    #[arg(long)]
    no_trial: bool,
    /// Keep it although the trial found something wrong.
    #[arg(long)]
    force: bool,
    /// Threads of the trial.
    #[arg(long, default_value_t = 1)]
    threads: u32,
}

/// Runs it.
///
/// # Errors
/// If the model or its data are not right, with what is needed.
pub fn run(args: &AddArgs, json: bool) -> Result<()> {
    // sealed guards are encrypted under a key of the node that will fund the model
    let secret = match &args.datadir {
        Some(dir) => crate::identity::Identity::load(dir)?.sealing_secret(),
        None => Default::default(),
    };
    let made = model_file::load_sealed(&args.file, args.data.as_deref(), &secret)?;
    let id = made.manifest.id();
    if !json {
        print!("{}", made.report());
    }
    let mut problems = Vec::new();
    if !args.no_trial {
        set_threads(args.threads);
        let tried = trial::run(&Torch::default(), &made)?;
        if !json {
            print!("{}", tried.report);
        }
        problems = tried.problems;
    }
    if !problems.is_empty() && !args.force {
        bail!("{}\n(--force keeps the model as it is)", problems.join("\n"));
    }
    let kept = args.datadir.as_ref().map(|dir| dir.join("models").join(id.to_string()));
    if let Some(dir) = &kept {
        bundle::save(&made, dir)?;
    }
    if json {
        return crate::query::print_json(&serde_json::json!({
            "model": id, "manifest": made.manifest, "kept": kept, "problems": problems,
        }));
    }
    match kept {
        Some(_) => {
            println!("kept           in the data directory; to fund it:\n\n  [sponsor]\n  model = \"models/{id}\"")
        }
        None => println!("checked        nothing is kept without --datadir"),
    }
    Ok(())
}
