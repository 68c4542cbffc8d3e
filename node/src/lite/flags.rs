//! Flags of `oda lite` that stand above its configuration file.

use crate::config::Lite;
use clap::Args;
use clap::builder::BoolishValueParser;
use std::path::PathBuf;

/// What the command line says about a lite node. Each has a variable too, and a key in `[lite]` of oda.toml.
#[derive(Args, Clone, Debug, Default)]
pub struct LiteFlags {
    /// Data directory of the node [default: ~/.local/share/oda/lite].
    #[arg(long, env = "ODA_DATADIR", global = true)]
    pub datadir: Option<PathBuf>,
    /// The file that names a network, or a directory with join.json; needed once, at the first start.
    #[arg(long, env = "ODA_JOIN")]
    pub join: Option<PathBuf>,
    /// Most of all cores together that training uses, 1 to 100.
    #[arg(long, global = true, env = "ODA_MAX_CPU_PERCENT")]
    pub max_cpu_percent: Option<u32>,
    /// Most memory this process holds; models that need more are left to others. 0: half of the machine's.
    #[arg(long, global = true, env = "ODA_MAX_MEMORY_MB")]
    pub max_memory_mb: Option<u64>,
    /// Most disk the data directory takes; models that need more are left to others. 0: any.
    #[arg(long, global = true, env = "ODA_MAX_DISK_MB")]
    pub max_disk_mb: Option<u64>,
    /// Fastest download of models and data. 0: as fast as it comes.
    #[arg(long, global = true, env = "ODA_MAX_DOWNLOAD_KIB_S")]
    pub max_download_kib_s: Option<u64>,
    /// Pause training while the machine runs on battery.
    #[arg(long, global = true, env = "ODA_PAUSE_ON_BATTERY", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub pause_on_battery: Option<bool>,
    /// Pause training while a person uses the machine.
    #[arg(long, global = true, env = "ODA_PAUSE_WHEN_USED", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub pause_when_used: Option<bool>,
}

impl LiteFlags {
    /// Puts what was said above what is configured.
    pub fn apply(&self, lite: &mut Lite) {
        let number = |to: &mut u64, from: Option<u64>| *to = from.unwrap_or(*to);
        lite.max_cpu_percent = self.max_cpu_percent.unwrap_or(lite.max_cpu_percent);
        number(&mut lite.max_memory_mb, self.max_memory_mb);
        number(&mut lite.max_disk_mb, self.max_disk_mb);
        number(&mut lite.max_download_kib_s, self.max_download_kib_s);
        lite.pause_on_battery = self.pause_on_battery.unwrap_or(lite.pause_on_battery);
        lite.pause_when_used = self.pause_when_used.unwrap_or(lite.pause_when_used);
    }
}
