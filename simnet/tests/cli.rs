//! The command as somebody types it: what it prints, and how it says no.

use std::process::{Command, Output};

fn simnet(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simnet")).args(arguments).output().expect("simnet")
}

fn said(out: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn list_shows_what_there_is() {
    let (code, out, _) = said(&simnet(&["list"]));
    assert_eq!(code, Some(0));
    for name in ["honest", "adversarial", "scale", "noise", "lazy_validator", "stopped by", "row 3"] {
        assert!(out.contains(name), "{name} is missing:\n{out}");
    }
}

#[test]
fn bad_input_names_the_limit_and_ends_with_2() {
    for (arguments, named) in [
        (&["run", "nothing"] as &[&str], "simnet list"),
        (&["run", "no/such/file.toml"], "no/such/file.toml"),
        (&["run", "honest", "--attackers", "martian"], "there are"),
        (&["run", "honest", "--attackers", "noise:many"], "name:count"),
        (&["run", "honest", "--attackers", "lazy_validator:6"], "bears f = 1"),
        (&["run", "honest", "--nodes", "3"], "fixed by the scenario"),
        (&["run", "honest", "--nodes", "900000"], "at most 5000"),
        (&["run", "honest", "--minutes", "0"], "1 to 100000"),
        (&["report", "no/such/attacks.json"], "simnet sweep"),
        (&["sweep", "--scenario", "nothing"], "simnet list"),
        (&["fly"], "unrecognized subcommand"),
    ] {
        let (code, out, err) = said(&simnet(arguments));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(err.contains(named), "{arguments:?} says: {err}");
    }
}

#[test]
fn one_seed_is_one_report() {
    let run = |seed: &str| {
        let (code, out, err) =
            said(&simnet(&["run", "honest", "--seed", seed, "--minutes", "12", "--attackers", "noise", "--json"]));
        assert_eq!(code, Some(0), "{out} {err}");
        out
    };
    let (first, again, other) = (run("3"), run("3"), run("4"));
    assert_eq!(first, again, "no wall time, no order by chance");
    let json: serde_json::Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!((&json["seed"], &json["found"]), (&3.into(), &0.into()));
    assert_eq!(json["parties"][0]["kind"], "honest");
    assert_eq!(json["parties"][1]["kind"], "noise");
    assert_ne!(json["trace"], serde_json::from_str::<serde_json::Value>(&other).expect("JSON")["trace"]);
}

#[test]
fn a_trace_tells_blocks_and_claims_and_a_summary_says_how_it_ended() {
    let (code, out, err) = said(&simnet(&["run", "honest", "--minutes", "12", "--trace"]));
    assert_eq!(code, Some(0), "{out}");
    for word in ["block ", "claim ", "outcome "] {
        assert!(err.contains(word), "{word}");
    }
    for word in ["Who tried what", "Honest trainers", "Checks", "Held:"] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    assert!(!out.contains('\u{1b}'), "colour is for terminals");
}

#[test]
fn a_sweep_becomes_a_page_that_needs_nothing_else() {
    let dir = std::env::temp_dir().join(format!("simnet-cli-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("folder");
    let scenario = dir.join("tiny.toml");
    let text =
        "name = \"<tiny>\"\nabout = \"small & quick\"\nminutes = 12\ntrainers = 2\n[[attackers]]\nname = \"noise\"\n";
    std::fs::write(&scenario, text).expect("written");
    let at = |name: &str| dir.join(name).to_str().expect("a path").to_owned();
    let (code, out, err) =
        said(&simnet(&["sweep", "--seeds", "1", "--scenario", &at("tiny.toml"), "--write", &at("out")]));
    assert_eq!(code, Some(0), "{out} {err}");
    assert!(out.contains("| check |") && err.contains("seed   1"), "{out} {err}");
    let (code, _, err) = said(&simnet(&["report", &at("out/attacks.json"), "-o", &at("page.html")]));
    assert_eq!(code, Some(0), "{err}");
    let page = std::fs::read_to_string(dir.join("page.html")).expect("a page");
    for external in ["http://", "https://", "src=", "<script", "url(", "@import", "<tiny>"] {
        assert!(!page.contains(external), "{external} in the page");
    }
    assert!(page.contains("&lt;tiny&gt;") && page.contains("<svg") && page.contains("prefers-color-scheme: dark"));
    std::fs::remove_dir_all(&dir).expect("cleaned up");
}
