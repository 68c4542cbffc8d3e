//! Whether this machine is free for training: on mains power, and used by nobody.
//!
//! A node that anyone starts and forgets must not be noticed. The load average does not tell whether a person is there: a
//! backup makes it high, someone reading makes it low. So what counts is the last touch of keyboard or mouse, as the system
//! knows it, and the decision is a pure function of such readings. Linux only; elsewhere nothing can be read and
//! the node never pauses by itself.

use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the machine is looked at.
pub const LOOK: Duration = Duration::from_secs(5);
/// Looks between two questions to logind.
const SEAT_LOOKS: u32 = 6;
/// How long logind may take.
const SEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest file of /proc or /sys read, bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most entries of a directory looked at.
const MAX_ENTRIES: usize = 4096;

/// When the node pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manners {
    /// While the machine runs on battery.
    pub pause_on_battery: bool,
    /// While a person uses the machine.
    pub pause_when_used: bool,
    /// How long nobody must have touched it, s.
    pub idle_s: u64,
    /// While other processes use more than this share of all cores, per cent; 0: whatever they use.
    pub others_cpu_percent: u32,
}

/// What was read; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Whether the machine runs on battery.
    pub on_battery: Option<bool>,
    /// Since when nobody touched keyboard or mouse, s.
    pub untouched_s: Option<u64>,
    /// Share of all cores that other processes use, per cent.
    pub others_cpu_percent: Option<u32>,
}

/// Why the node pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// On battery.
    Battery,
    /// A person uses the machine.
    Used,
    /// Other processes need the processor.
    Busy,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Battery => "on battery (pause_on_battery)",
            Self::Used => "someone uses this computer (pause_when_used)",
            Self::Busy => "other programs need the processor (pause_above_others_cpu_percent)",
        })
    }
}

/// Whether to pause, and why. What cannot be read is no reason. A pause for other programs' sake ends only when they need
/// half of what began it, or training would stop and go with every gust.
pub fn decide(manners: &Manners, now: &Readings, before: Option<Reason>) -> Option<Reason> {
    if manners.pause_on_battery && now.on_battery == Some(true) {
        return Some(Reason::Battery);
    }
    if manners.pause_when_used && now.untouched_s.is_some_and(|s| s < manners.idle_s) {
        return Some(Reason::Used);
    }
    let most = if before == Some(Reason::Busy) { manners.others_cpu_percent / 2 } else { manners.others_cpu_percent };
    let busy = manners.others_cpu_percent > 0 && now.others_cpu_percent.is_some_and(|p| p > most);
    busy.then_some(Reason::Busy)
}

/// Whether a machine runs on battery, from a directory like /sys/class/power_supply: one of its own batteries discharges
/// and no mains supply is plugged in. `None` if it has no battery of its own.
pub fn on_battery(dir: &Path) -> Option<bool> {
    let read = |supply: &Path, name: &str| small(&supply.join(name)).map(|t| t.trim().to_string()).unwrap_or_default();
    let (mut battery, mut mains) = (None::<bool>, false);
    for supply in entries(dir) {
        match read(&supply, "type").as_str() {
            // a mouse's battery has scope Device
            "Battery" if read(&supply, "scope") != "Device" => {
                let empties = read(&supply, "status") == "Discharging";
                battery = Some(battery.unwrap_or(false) || empties);
            }
            "Mains" | "USB" => mains |= read(&supply, "online") == "1",
            _ => {}
        }
    }
    battery.map(|empties| empties && !mains)
}

/// Since when nobody typed on any terminal of a directory like /dev, s: the kernel notes reads of a terminal as its
/// access time, in steps of eight seconds (`tty_update_time` in `drivers/tty/tty_io.c`). `own` is left out: the terminal
/// this node was started on. `None` without terminals.
pub fn terminals_untouched_s(dev: &Path, own: &BTreeSet<PathBuf>, now: SystemTime) -> Option<u64> {
    let number = |path: &Path, before: &str| {
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(before));
        name.is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
    };
    let consoles = entries(dev).into_iter().filter(|p| number(p, "tty"));
    let remote = entries(&dev.join("pts")).into_iter().filter(|p| number(p, ""));
    let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let touched = consoles.chain(remote).filter(|p| !own.contains(p)).filter_map(|p| {
        let meta = std::fs::metadata(p).ok()?;
        // made at boot and never used since: the time it was made says nothing
        (meta.atime() != meta.ctime()).then(|| u64::try_from(meta.atime()).unwrap_or(0))
    });
    touched.max().map(|at| now_s.saturating_sub(at))
}

/// Interrupts of the PS/2 controller, to which most laptops' keyboards and touchpads are wired, in text like
/// /proc/interrupts.
pub fn keyboard_interrupts(text: &str) -> Option<u64> {
    let counts = |line: &str| -> u64 { line.split_whitespace().skip(1).map_while(|w| w.parse::<u64>().ok()).sum() };
    let lines: Vec<u64> = text.lines().filter(|l| l.contains("i8042")).map(counts).collect();
    (!lines.is_empty()).then(|| lines.iter().sum())
}

/// Since when the person at the seat is idle, s, from the answer of `loginctl show-seat`; 0: at it now. `None` if nobody is
/// logged in there. This is what a desktop itself knows of its keyboard and mouse.
pub fn seat_idle_s(answer: &str, now_us: u64) -> Option<u64> {
    let value = |key: &str| answer.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
    value("ActiveSession").filter(|s| !s.is_empty())?;
    match value("IdleHint")? {
        "no" => Some(0),
        _ => Some(now_us.saturating_sub(value("IdleSinceHint")?.parse().ok()?) / 1_000_000),
    }
}

/// Ticks all cores together were busy, and ticks in all, from text like /proc/stat (proc_stat(5)).
pub fn cpu_ticks(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guests are counted in user
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|w| w.parse().ok()).collect();
    let all = ticks.iter().sum::<u64>();
    let idle = ticks.get(3)?.saturating_add(*ticks.get(4)?);
    Some((all.saturating_sub(idle), all))
}

/// Ticks a process used, from text like /proc/self/stat (proc_pid_stat(5)): its name may hold anything, even brackets.
pub fn own_ticks(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system))
}

/// Reads the machine again and again.
#[derive(Default)]
pub struct Watcher {
    looks: u32,
    own: BTreeSet<PathBuf>,
    keyboard: Option<(u64, SystemTime)>,
    seat: Option<(u64, SystemTime)>,
    cpu: Option<(u64, u64, u64)>,
}

impl Watcher {
    /// A watcher that does not count what is typed on the terminal this process was started on.
    pub fn new() -> Self {
        let own = (0..3).filter_map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()).collect();
        Self { own, ..Self::default() }
    }

    /// Looks at the machine.
    pub async fn look(&mut self) -> Readings {
        let now = SystemTime::now();
        let since = |at: SystemTime| now.duration_since(at).map_or(0, |d| d.as_secs());
        let keyboard = small(Path::new("/proc/interrupts")).and_then(|text| keyboard_interrupts(&text));
        let keyboard = keyboard.and_then(|count| match self.keyboard {
            Some((before, at)) if before == count => Some(since(at)),
            Some(_) => {
                self.keyboard = Some((count, now));
                Some(0)
            }
            // the first count tells nothing yet
            None => {
                self.keyboard = Some((count, UNIX_EPOCH));
                None
            }
        });
        if self.looks.is_multiple_of(SEAT_LOOKS) {
            self.seat = seat(now).await.map(|idle| (idle, now));
        }
        self.looks = self.looks.wrapping_add(1);
        let seat = self.seat.map(|(idle, at)| if idle == 0 { 0 } else { idle.saturating_add(since(at)) });
        let terminals = terminals_untouched_s(Path::new("/dev"), &self.own, now);
        Readings {
            on_battery: on_battery(Path::new("/sys/class/power_supply")),
            untouched_s: [keyboard, seat, terminals].into_iter().flatten().min(),
            others_cpu_percent: self.others_cpu(),
        }
    }

    /// Since the last look.
    fn others_cpu(&mut self) -> Option<u32> {
        let (busy, all) = cpu_ticks(&small(Path::new("/proc/stat"))?)?;
        let own = own_ticks(&small(Path::new("/proc/self/stat"))?)?;
        let (busy0, all0, own0) = self.cpu.replace((busy, all, own))?;
        let others = busy.saturating_sub(busy0).saturating_sub(own.saturating_sub(own0));
        u32::try_from(others.saturating_mul(100).checked_div(all.saturating_sub(all0))?).ok()
    }
}

async fn seat(now: SystemTime) -> Option<u64> {
    let asked = tokio::process::Command::new("loginctl")
        .args(["show-seat", "seat0", "--property=ActiveSession", "--property=IdleHint", "--property=IdleSinceHint"])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SEAT_TIMEOUT, asked).await.ok()?.ok()?;
    let now_us = u64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()?;
    seat_idle_s(std::str::from_utf8(&output.stdout).ok()?, now_us)
}

/// Memory this process holds, bytes, and that of the machine, from text like /proc/self/status and /proc/meminfo.
pub fn kib_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory this process holds now, bytes.
pub fn resident_bytes() -> Option<u64> {
    kib_of(&small(Path::new("/proc/self/status"))?, "VmRSS")
}

/// Memory of the machine, bytes.
pub fn memory_bytes() -> Option<u64> {
    kib_of(&small(Path::new("/proc/meminfo"))?, "MemTotal")
}

fn small(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.take(MAX_ENTRIES).map(|e| e.path()).collect()
}
