//! What a lite node decides about its machine and its work, over readings and models of memory; and its first start.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use oda_consensus::epoch::Federation;
use oda_consensus::frost::EncryptionSecret;
use oda_consensus::genesis::{BitcoinNetwork, Genesis, Validator};
use oda_consensus::ids::{ModelId, NodeId};
use oda_consensus::keys::NodeKey;
use oda_node::config::{Config, Lite};
use oda_node::config_show::{self, Origin, Said};
use oda_node::lite::choose::{Candidate, pick};
use oda_node::lite::flags::LiteFlags;
use oda_node::lite::join::{self, JOIN_FILE};
use oda_node::lite::limits::{Ended, Pace, Valve, cpu_share, rest};
use oda_node::lite::machine::{Manners, Readings, Reason, decide};
use oda_node::lite::measure::Speeds;
use oda_node::lite::status::{LiteStatus, ModelStatus};
use oda_node::lite::{limits, machine};
use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

const MANNERS: Manners = Manners { pause_on_battery: true, pause_when_used: true, idle_s: 300, others_cpu_percent: 40 };

#[test]
fn it_pauses_on_battery_and_while_used_and_only_if_told_to() {
    let free = Readings { on_battery: Some(false), untouched_s: Some(301), others_cpu_percent: Some(40) };
    assert_eq!(decide(&MANNERS, &free, None), None);
    let battery = Readings { on_battery: Some(true), ..free };
    assert_eq!(decide(&MANNERS, &battery, None), Some(Reason::Battery));
    assert_eq!(decide(&Manners { pause_on_battery: false, ..MANNERS }, &battery, None), None);
    let used = Readings { untouched_s: Some(299), ..free };
    assert_eq!(decide(&MANNERS, &used, None), Some(Reason::Used));
    assert_eq!(decide(&Manners { pause_when_used: false, ..MANNERS }, &used, None), None);
    // resumes as soon as the reason is gone, whatever it was
    assert_eq!(decide(&MANNERS, &free, Some(Reason::Battery)), None);
    assert_eq!(decide(&MANNERS, &free, Some(Reason::Used)), None);
    // what no system tells is no reason to stop for ever
    assert_eq!(decide(&MANNERS, &Readings::default(), Some(Reason::Used)), None);
}

#[test]
fn a_pause_for_other_programs_ends_at_half_of_what_began_it() {
    let others = |percent| Readings { others_cpu_percent: Some(percent), ..Readings::default() };
    assert_eq!(decide(&MANNERS, &others(41), None), Some(Reason::Busy));
    assert_eq!(decide(&MANNERS, &others(21), None), None);
    assert_eq!(decide(&MANNERS, &others(21), Some(Reason::Busy)), Some(Reason::Busy));
    assert_eq!(decide(&MANNERS, &others(20), Some(Reason::Busy)), None);
    assert_eq!(decide(&Manners { others_cpu_percent: 0, ..MANNERS }, &others(100), None), None, "off");
}

fn supply(dir: &Path, name: &str, files: &[(&str, &str)]) {
    std::fs::create_dir_all(dir.join(name)).unwrap();
    files.iter().for_each(|(file, text)| std::fs::write(dir.join(name).join(file), format!("{text}\n")).unwrap());
}

#[test]
fn only_the_machines_own_battery_counts() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    assert_eq!(machine::on_battery(dir), None, "a desktop");
    assert_eq!(machine::on_battery(&dir.join("missing")), None);
    supply(dir, "hidpp_battery_0", &[("type", "Battery"), ("scope", "Device"), ("status", "Discharging")]);
    assert_eq!(machine::on_battery(dir), None, "a mouse");
    supply(dir, "BAT0", &[("type", "Battery"), ("status", "Full")]);
    assert_eq!(machine::on_battery(dir), Some(false));
    supply(dir, "BAT1", &[("type", "Battery"), ("status", "Discharging")]);
    assert_eq!(machine::on_battery(dir), Some(true), "one of two");
    supply(dir, "AC", &[("type", "Mains"), ("online", "0")]);
    assert_eq!(machine::on_battery(dir), Some(true));
    supply(dir, "AC", &[("type", "Mains"), ("online", "1")]);
    assert_eq!(machine::on_battery(dir), Some(false), "plugged in, though a battery still balances");
}

#[test]
fn what_is_typed_elsewhere_counts_and_on_the_own_terminal_not() {
    let tmp = tempfile::tempdir().unwrap();
    let dev = tmp.path();
    std::fs::create_dir(dev.join("pts")).unwrap();
    let now = SystemTime::now();
    let typed = |name: &str, ago_s: u64| {
        let file = File::create(dev.join(name)).unwrap();
        file.set_times(FileTimes::new().set_accessed(now - Duration::from_secs(ago_s))).unwrap();
    };
    let none = BTreeSet::new();
    assert_eq!(machine::terminals_untouched_s(dev, &none, now), None);
    typed("tty1", 5000);
    typed("pts/0", 700);
    typed("pts/1", 20);
    typed("ttyprintk", 1);
    typed("pts/ptmx", 1);
    let about = |own: &BTreeSet<_>| machine::terminals_untouched_s(dev, own, now).unwrap();
    assert!((20..=21).contains(&about(&none)));
    let own = BTreeSet::from([dev.join("pts/1")]);
    assert!((700..=701).contains(&about(&own)));
}

#[test]
fn what_the_system_tells_is_read() {
    let interrupts = "           CPU0       CPU1\n  1:       9       11   IO-APIC    1-edge      i8042\n 12:      80        0   \
                      IO-APIC   12-edge      i8042\n 16:   7   7  IO-APIC  16-fasteoi   ehci_hcd:usb1\n";
    assert_eq!(machine::keyboard_interrupts(interrupts), Some(100));
    assert_eq!(machine::keyboard_interrupts(" 16:   7   7  IO-APIC  16-fasteoi   ehci_hcd:usb1\n"), None);
    assert_eq!(machine::seat_idle_s("ActiveSession=2\nIdleHint=no\nIdleSinceHint=0\n", 9), Some(0));
    assert_eq!(machine::seat_idle_s("ActiveSession=2\nIdleHint=yes\nIdleSinceHint=4000000\n", 10_000_000), Some(6));
    assert_eq!(machine::seat_idle_s("ActiveSession=\nIdleHint=no\nIdleSinceHint=0\n", 9), None, "nobody is there");
    assert_eq!(machine::seat_idle_s("", 9), None);
    assert_eq!(machine::cpu_ticks("cpu  10 20 30 400 40 5 5 0 7 7\ncpu0 1 1 1 1\n"), Some((70, 510)));
    assert_eq!(machine::cpu_ticks("cpu0 1\n"), None);
    assert_eq!(machine::own_ticks("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 110 22 0 0"), Some(132));
    assert_eq!(machine::kib_of("Name: x\nVmRSS:\t  2 kB\n", "VmRSS"), Some(2048));
    for noise in ["", "cpu", "1 (x", "\u{0}"] {
        assert_eq!((machine::cpu_ticks(noise), machine::own_ticks(noise)), (None, None));
    }
}

#[test]
fn threads_and_working_time_stay_below_the_share() {
    let share = |cores, percent, wanted| {
        let s = cpu_share(cores, percent, wanted);
        (s.threads, s.duty_milli)
    };
    assert_eq!(share(8, 50, 0), (4, 1000));
    assert_eq!(share(2, 50, 2), (2, 500));
    assert_eq!(share(1, 50, 0), (1, 500));
    assert_eq!(share(8, 1, 0), (1, 80));
    assert_eq!(share(8, 100, 1), (1, 1000));
    for cores in [1, 2, 3, 7, 64] {
        for percent in [1, 10, 33, 50, 99, 100] {
            for wanted in [0, 1, 2, 100] {
                let (threads, duty) = share(cores, percent, wanted);
                // a thousandth of the time is the least
                assert!(threads * duty <= (cores * percent * 10).max(threads), "{cores} {percent} {wanted}");
                assert!(threads > 0 && (1..=1000).contains(&duty));
            }
        }
    }
    assert_eq!(rest(Duration::from_millis(10), 1000), Duration::ZERO);
    assert_eq!(rest(Duration::from_millis(10), 250), Duration::from_millis(30));
}

#[test]
fn training_ends_when_told_to_and_when_it_takes_too_much_memory() {
    let (valve, stop) = (Valve::new(1000, 0), AtomicBool::new(false));
    let mut pace = Pace::new(&valve, &stop);
    pace.step();
    assert_eq!((pace.ended, pace.step_us().is_some()), (None, true));
    // held, and then ended: it must not wait for ever
    valve.hold(true);
    stop.store(true, Ordering::Relaxed);
    pace.step();
    assert_eq!(pace.ended, Some(Ended::Stale));
    let (valve, stop) = (Valve::new(1000, 1), AtomicBool::new(false));
    let mut pace = Pace::new(&valve, &stop);
    pace.step();
    assert_eq!((pace.ended, stop.load(Ordering::Relaxed)), (Some(Ended::Memory), true));
}

fn id(byte: u8) -> ModelId {
    serde_json::from_value(hex::encode([byte; 32]).into()).unwrap()
}

fn model(byte: u8, train_ms: u64, others_msat: &[u64]) -> Candidate {
    Candidate {
        model: id(byte),
        is_funded: true,
        most_msat: 15_000_000,
        others_msat: others_msat.to_vec(),
        own_msat: Vec::new(),
        train_ms,
        round_ms: Some(60_000),
        is_done: false,
        next_ms: None,
    }
}

#[test]
fn the_model_that_pays_best_for_this_machine_is_picked() {
    assert_eq!(pick(&[]), None);
    // twice the pay
    let (a, b) = (model(1, 30_000, &[1_000_000]), model(2, 30_000, &[2_000_000]));
    assert_eq!(pick(&[a.clone(), b.clone()]), Some(id(2)));
    // but not for a machine that needs three rounds for it
    assert_eq!(pick(&[a.clone(), Candidate { train_ms: 180_000, ..b.clone() }]), Some(id(1)));
    // nor when nobody pays for it any more, nor when the own claims on it earn nothing
    assert_eq!(pick(&[a.clone(), Candidate { is_funded: false, ..b.clone() }]), Some(id(1)));
    assert_eq!(pick(&[a.clone(), Candidate { own_msat: vec![0; 8], ..b.clone() }]), Some(id(1)));
    // claims that were rejected count
    assert_eq!(pick(&[a.clone(), Candidate { others_msat: vec![2_000_000, 0, 0], ..b.clone() }]), Some(id(1)));
    // a new model is tried
    assert_eq!(pick(&[a.clone(), model(3, 30_000, &[])]), Some(id(3)));
    // equal ones: always the same
    assert_eq!(pick(&[model(2, 1, &[7]), model(1, 1, &[7])]), pick(&[model(1, 1, &[7]), model(2, 1, &[7])]));
}

#[test]
fn between_two_rounds_only_what_ends_in_time_is_begun() {
    let best = Candidate { is_done: true, next_ms: Some(20_000), ..model(1, 30_000, &[9_000_000]) };
    assert_eq!(pick(&[best.clone(), model(2, 19_000, &[1_000_000])]), Some(id(2)));
    assert_eq!(pick(&[best.clone(), model(2, 21_000, &[1_000_000])]), None);
    let unknown = Candidate { next_ms: None, ..best.clone() };
    assert_eq!(pick(&[unknown, model(2, 21_000, &[1_000_000])]), Some(id(2)));
    assert_eq!(pick(&[best]), None, "its round is done");
}

#[test]
fn an_hour_is_worth_what_claims_bring_and_no_more_than_rounds_allow() {
    let c = model(1, 1_000, &[1_000_000, 3_000_000]);
    assert_eq!(c.expected_msat(), 2_000_000);
    assert_eq!(c.msat_per_hour(), 120_000_000, "sixty rounds, however fast the machine");
    assert_eq!(Candidate { train_ms: 120_000, ..c.clone() }.msat_per_hour(), 30_000_000, "half as often, half in time");
    let own = Candidate { own_msat: vec![5_000_000; 3], ..c.clone() };
    assert_eq!(own.expected_msat(), 3_500_000, "three own claims weigh as much as the rest");
    let older = Candidate { own_msat: [vec![0; 100], vec![5_000_000; 8]].concat(), ..c };
    assert!(older.expected_msat() > 4_000_000, "only the last count");
    assert_eq!(model(1, 1, &[]).expected_msat(), 7_500_000, "nobody tried it: half of the most");
    assert_eq!(model(1, 1, &[0, 0]).expected_msat(), 2_500_000, "two tried in vain");
    let huge = Candidate { others_msat: vec![u64::MAX; 9], own_msat: vec![u64::MAX; 9], ..model(1, 1, &[]) };
    assert!(huge.msat_per_hour() > 0);
}

#[test]
fn what_was_measured_is_remembered_for_the_same_threads_and_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("speeds.json");
    let mut speeds = Speeds::open(&path, 2, "cpu");
    speeds.keep(id(1), 1_000).unwrap();
    assert_eq!(Speeds::open(&path, 2, "cpu").step_us(id(1)), Some(1_000));
    assert_eq!(Speeds::open(&path, 1, "cpu").step_us(id(1)), None);
    assert_eq!(Speeds::open(&path, 2, "cuda").step_us(id(1)), None);
    speeds.keep(id(1), 3_000).unwrap();
    assert_eq!(speeds.step_us(id(1)), Some(2_000), "one slow run does not make a machine slow");
    std::fs::write(&path, "{").unwrap();
    assert_eq!(Speeds::open(&path, 2, "cpu").step_us(id(1)), None, "a damaged file is as none");
}

#[test]
fn this_machine_is_measured_on_noise() {
    let mut manifest = oda_consensus::fuzzing::sample_manifest("measured");
    manifest.training.batch = 32;
    let valve = Valve::new(1000, 0);
    let step_us = oda_node::lite::measure::measure(&manifest, 1, "cpu", &valve).unwrap();
    assert!(step_us > 0);
    assert!(limits::training_bytes(&manifest) >= manifest.parameters() * 4);
}

fn network() -> Genesis {
    static MADE: LazyLock<Genesis> = LazyLock::new(|| {
        let validator = |byte: u8| {
            let key = NodeKey::from_secret(&[byte; 32]);
            Validator { node: key.id(), encryption: EncryptionSecret::derive(&key.secret()).public() }
        };
        let genesis = Genesis {
            name: "lite-test".into(),
            bitcoin: BitcoinNetwork::Regtest,
            time_ms: 1,
            block_interval_ms: 500,
            validators: vec![validator(1), validator(2)],
            federation: Federation { committee: 2, ..Federation::default() },
            first_committee: Vec::new(),
        };
        Genesis::ceremony(genesis, &mut rand_core::OsRng).unwrap().0
    });
    MADE.clone()
}

fn named(dir: &Path) -> std::path::PathBuf {
    let join = serde_json::json!({
        "genesis": network(),
        "peers": ["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWMnT1wpTzXnH8bUqaXXVkC8LLV21NtjcWd5CvWtB9RmCh"],
        "lightning": {
            "trusted": ["02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"],
            "chain": {"kind": "bitcoind", "address": "127.0.0.1:18443", "user": "u", "password": "hush"},
        },
    });
    let path = dir.join(JOIN_FILE);
    std::fs::write(&path, join.to_string()).unwrap();
    path
}

#[test] // K1
fn one_file_makes_a_node_and_its_words_are_for_a_terminal_only() {
    let tmp = tempfile::tempdir().unwrap();
    let (file, datadir) = (named(tmp.path()), tmp.path().join("home/lite"));
    let made = join::prepare(&datadir, Some(&file)).unwrap().unwrap();
    let words = made.words.as_ref().unwrap().to_string();
    assert!(join::welcome(&made, &datadir, true).contains(&words));
    let logged = join::welcome(&made, &datadir, false);
    assert!(!logged.contains(&words) && logged.contains("--show-mnemonic"), "{logged}");
    assert_eq!(std::fs::read_to_string(datadir.join("keys/mnemonic")).unwrap().trim(), words);
    for private in ["oda.toml", "keys/mnemonic"] {
        let mode = std::fs::metadata(datadir.join(private)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{private}");
    }
    let config = Config::load(&datadir).unwrap();
    assert_eq!(config.genesis(&datadir).unwrap().chain(), network().chain());
    assert_eq!(config.network, BitcoinNetwork::Regtest);
    let lightning = config.lightning.unwrap();
    assert!(lightning.chain.is_some() && lightning.trusted.len() == 1 && lightning.listen.port() != 0);
    assert!(lightning.listen.ip().is_loopback(), "its peers are on this machine");
    assert_eq!(config.lite, Lite::default());
    assert!(config.lite.pause_on_battery && config.lite.pause_when_used && config.lite.max_cpu_percent < 100);
    // from then on it needs no file, and keeps what it has
    assert!(join::prepare(&datadir, None).unwrap().is_none());
    assert!(join::prepare(&datadir, Some(tmp.path())).unwrap().is_none(), "the directory of the same file");
    assert_eq!(std::fs::read_to_string(datadir.join("keys/mnemonic")).unwrap().trim(), words);
}

#[test]
fn a_first_start_says_what_is_missing() {
    let tmp = tempfile::tempdir().unwrap();
    let datadir = tmp.path().join("lite");
    let refused = |named: Option<&Path>| format!("{:#}", join::prepare(&datadir, named).err().unwrap());
    assert!(refused(None).contains("--join"), "{}", refused(None));
    assert!(refused(Some(&tmp.path().join("nothing"))).contains(JOIN_FILE));
    assert!(!datadir.exists(), "nothing is made of nothing");
    let file = named(tmp.path());
    let good = std::fs::read_to_string(&file).unwrap();
    for (bad, why) in [
        (good.replace("/p2p/", "/q2q/"), "peer"),
        (good.replace("\"peers\"", "\"pears\""), "pears"),
        ("{}".into(), "names no network"),
    ] {
        std::fs::write(&file, bad).unwrap();
        assert!(refused(Some(&file)).contains(why), "{why}: {}", refused(Some(&file)));
    }
    assert!(!datadir.exists());
    // a wallet whose words are lost is not given new ones
    std::fs::write(&file, good).unwrap();
    std::fs::create_dir_all(datadir.join("lightning")).unwrap();
    assert!(refused(Some(&file)).contains("restore"));
    std::fs::remove_dir(datadir.join("lightning")).unwrap();
    // another network does not take over the directory of one
    join::prepare(&datadir, Some(&file)).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    other["genesis"]["name"] = "another".into();
    std::fs::write(&file, other.to_string()).unwrap();
    let said = refused(Some(&file));
    assert!(said.contains("another network") || said.contains("names no network"), "{said}");
}

#[test]
fn every_setting_tells_who_said_so_and_secrets_stay_hidden() {
    let tmp = tempfile::tempdir().unwrap();
    join::prepare(tmp.path(), Some(&named(tmp.path()))).unwrap();
    let text = std::fs::read_to_string(tmp.path().join("oda.toml")).unwrap() + "\n[lite]\nmax_disk_mb = 7\n";
    std::fs::write(tmp.path().join("oda.toml"), &text).unwrap();
    let mut config = Config::load(tmp.path()).unwrap();
    let flags = LiteFlags { max_cpu_percent: Some(20), pause_when_used: Some(false), ..LiteFlags::default() };
    flags.apply(&mut config.lite);
    let said = Said::from([("lite.max_cpu_percent", Origin::Flag), ("lite.pause_when_used", Origin::Environment)]);
    let settings = config_show::settings(&config, &text, &said).unwrap();
    let of = |key: &str| settings.iter().find(|s| s.key == key).map(|s| (s.value.to_string(), s.origin)).unwrap();
    assert_eq!(of("lite.max_cpu_percent"), ("20".into(), Origin::Flag));
    assert_eq!(of("lite.pause_when_used"), ("false".into(), Origin::Environment));
    assert_eq!(of("lite.max_disk_mb"), ("7".into(), Origin::File));
    assert_eq!(of("lite.pause_on_battery"), ("true".into(), Origin::Default));
    assert_eq!(of("rpc.listen").1, Origin::Default);
    assert_eq!(of("lightning.chain.user"), ("\"u\"".into(), Origin::File));
    assert!(settings.iter().all(|s| !s.value.to_string().contains("hush")), "a password is shown");
}

#[test]
fn a_command_line_tells_flags_from_its_environment() {
    use clap::CommandFactory as _;
    let parse = |line: &str| oda_node::cli::Cli::command().try_get_matches_from(line.split(' ')).unwrap();
    let said = config_show::said(Some(&parse(
        "oda --network regtest config --max-cpu-percent 9 show --datadir d --max-disk-mb 7",
    )));
    let flag = |key| (key, Origin::Flag);
    assert_eq!(said, Said::from(["network", "lite.max_cpu_percent", "lite.max_disk_mb"].map(flag)));
    assert!(config_show::said(Some(&parse("oda config --datadir d show"))).is_empty());
    assert!(config_show::said(None).is_empty());
}

#[test]
fn the_owner_reads_what_was_earned_whether_it_runs_or_not() {
    let tmp = tempfile::tempdir().unwrap();
    assert!(format!("{:#}", LiteStatus::read(tmp.path()).unwrap_err()).contains("no lite node was started"));
    let status = LiteStatus {
        time_ms: 100_000,
        started_ms: 0,
        node: NodeId([7; 32]),
        doing: "training round 5 of model ab".into(),
        is_paused: false,
        earned_msat: 1_234_567_000,
        earned_since_start_msat: 1_000,
        paid_claims: 12,
        unpaid_claims: 3,
        open_claims: 1,
        lightning_msat: 2_000_000,
        channels: 1,
        peers: 5,
        threads: 4,
        duty_milli: 500,
        models: vec![ModelStatus {
            model: id(1),
            name: "m".into(),
            is_funded: true,
            round: 5,
            step_us: Some(10),
            train_ms: 1_500,
            round_ms: None,
            msat_per_hour: 5_000_000,
            refused: None,
        }],
    };
    status.write(tmp.path()).unwrap();
    let read = LiteStatus::read(tmp.path()).unwrap();
    assert_eq!(read, status);
    let text = read.text(101_000);
    for said in ["training round 5", "1,234,567 sat for 12 claims", "2 s a round", "5,000 sat an hour"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(read.is_running(101_000) && !read.is_running(200_000));
    assert!(read.text(200_000).contains("not running since 100 s"));
    std::fs::write(tmp.path().join("status.json"), "{").unwrap();
    assert!(LiteStatus::read(tmp.path()).is_err());
}
