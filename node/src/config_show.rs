//! `oda config show`: every setting that is in force, and who said so.
//!
//! A printed configuration alone does not answer what its reader wants to know: why is it so, and where do I change it?

use crate::config::{Config, FILE};
use anyhow::{Context, Result};
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// oda.toml.
    File,
    /// A variable.
    Environment,
    /// The command line.
    Flag,
}

/// Settings a command line or its environment says: key as in oda.toml.
pub type Said = BTreeMap<&'static str, Origin>;

/// Keys of oda.toml that flags stand above: the flag's name, the key.
const FLAGS: [(&str, &str); 8] = [
    ("network", "network"),
    ("i_know_this_is_real_money", "lightning.i_know_this_is_real_money"),
    ("max_cpu_percent", "lite.max_cpu_percent"),
    ("max_memory_mb", "lite.max_memory_mb"),
    ("max_disk_mb", "lite.max_disk_mb"),
    ("max_download_kib_s", "lite.max_download_kib_s"),
    ("pause_on_battery", "lite.pause_on_battery"),
    ("pause_when_used", "lite.pause_when_used"),
];
/// Keys whose values are not shown.
const SECRET: [&str; 3] = ["password", "rpc_password", "token"];

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Key, its sections in front.
    pub key: String,
    /// Its value, as TOML.
    pub value: toml::Value,
    /// Who said so.
    pub origin: Origin,
}

/// What of a parsed command line was said on it, and what by its environment.
pub fn said(matches: Option<&ArgMatches>) -> Said {
    let (mut out, mut level) = (Said::new(), matches);
    while let Some(at) = level {
        for (flag, key) in FLAGS {
            // `value_source` panics for arguments this command does not have
            let source = at.try_contains_id(flag).ok().and_then(|_| at.value_source(flag));
            match source {
                Some(ValueSource::CommandLine) => out.insert(key, Origin::Flag),
                Some(ValueSource::EnvVariable) => out.insert(key, Origin::Environment),
                _ => None,
            };
        }
        level = at.subcommand().map(|(_, below)| below);
    }
    out
}

fn flat(prefix: &str, value: &toml::Value, out: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flat(&name, value, out);
            }
        }
        other => {
            out.insert(prefix.to_string(), other.clone());
        }
    }
}

/// Every setting in force with its origin, by key. `file` is the text of oda.toml.
///
/// # Errors
/// If the text is no TOML.
pub fn settings(config: &Config, file: &str, said: &Said) -> Result<Vec<Setting>> {
    let (mut all, mut own) = (BTreeMap::new(), BTreeMap::new());
    flat("", &toml::Value::try_from(config)?, &mut all);
    flat("", &toml::Value::Table(file.parse::<toml::Table>()?), &mut own);
    let setting = |(key, value): (String, toml::Value)| {
        let in_file = if own.contains_key(&key) { Origin::File } else { Origin::Default };
        // a flag that only confirms what the file says changes nothing, but it is what was asked for
        let origin = said.get(key.as_str()).copied().unwrap_or(in_file);
        let hidden = SECRET.contains(&key.rsplit('.').next().unwrap_or_default()) && value.as_str() != Some("");
        Setting { value: if hidden { "(hidden)".into() } else { value }, key, origin }
    };
    Ok(all.into_iter().map(setting).collect())
}

/// Prints them.
///
/// # Errors
/// If oda.toml cannot be read.
pub fn show(config: &Config, datadir: &Path, said: &Said, json: bool) -> Result<()> {
    let path = datadir.join(FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let settings = settings(config, &text, said)?;
    if json {
        return crate::query::print_json(&settings);
    }
    println!("{}\n", path.display());
    let width = settings.iter().map(|s| s.key.len()).max().unwrap_or(0);
    for s in &settings {
        let origin = format!("{:?}", s.origin).to_lowercase();
        println!("{:width$}  {origin:11}  {}", s.key, s.value);
    }
    Ok(())
}
