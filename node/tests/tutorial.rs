//! `docs/tutorial.md` as a reader would follow it: its commands make the data, its file is the model, and what `oda` says
//! of them is what the page shows. The second half needs a network: `testnet/tests` plays it with other models.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tutorial.md");

/// The blocks in a language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}");
    let mut out = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line == open {
            out.push(lines.by_ref().take_while(|l| *l != "```").collect::<Vec<_>>().join("\n"));
        }
    }
    out
}

/// Runs a line in a folder; what it said.
fn shell(dir: &Path, line: &str) -> String {
    let oda = Path::new(env!("CARGO_BIN_EXE_oda")).parent().unwrap();
    let path = format!("{}:{}", oda.display(), std::env::var("PATH").unwrap_or_default());
    let out = Command::new("sh").args(["-c", line]).current_dir(dir).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{line}: {said}");
    said
}

/// The word after a heading, in what `oda` says.
fn of<'a>(said: &'a str, heading: &str) -> Vec<&'a str> {
    let line = said.lines().find(|l| l.starts_with(heading)).unwrap_or_else(|| panic!("no {heading}: {said}"));
    line.split_whitespace().collect()
}

#[test]
fn the_tutorial_does_what_it_says() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (commands, models) = (blocks(&page, "sh"), blocks(&page, "toml"));
    let [data, add, demo] = commands.as_slice() else { panic!("three commands to be run: {commands:?}") };
    let [model] = models.as_slice() else { panic!("one model: {models:?}") };
    assert!(data.ends_with("> rings.csv") && demo.starts_with("testnet demo --model rings.toml"), "{commands:?}");

    shell(dir.path(), data);
    let rows = std::fs::read_to_string(dir.path().join("rings.csv")).unwrap();
    assert_eq!((rows.lines().count(), rows.lines().next()), (12_001, Some("x,y,ring")));
    std::fs::write(dir.path().join("rings.toml"), model).unwrap();
    let said = shell(dir.path(), add);
    // which rows there are depends on the awk, so figures are not compared, but what they mean is
    assert_eq!(of(&said, "train")[1..3], ["6000", "samples,"]);
    let gain: f64 = of(&said, "new head")[3].parse().unwrap();
    assert!(gain > 0.1 && said.contains("beyond doubt"), "{said}");
    assert!(said.contains("nothing is kept without --datadir"), "{said}");

    // the page promises a clear word to who gets it wrong
    let wrong = model.replace("label = \"ring\"", "label = \"circle\"");
    std::fs::write(dir.path().join("wrong.toml"), wrong).unwrap();
    let said = shell(dir.path(), "! oda model add wrong.toml");
    assert!(
        said.contains("circle") && said.contains("ring"),
        "it names the column that is missing, and those there are: {said}"
    );
}
