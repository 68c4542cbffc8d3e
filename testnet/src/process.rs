//! One child process: its log, its end, and the certainty that it has one.
//!
//! A child must not outlive the program that started it, even one that is killed. Its standard input
//! is a pipe that only we hold: whatever ends us closes it, and `oda` (told by `ODA_STOP_ON_EOF=1`)
//! takes that as the wish to stop. The same closing is how we ask for a clean stop, so no signal has
//! to be sent. Children run in their own process group, or Ctrl-C at the terminal would stop them all
//! at once and in no order.

use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long a node may take to stop cleanly before it is killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Read back from the end of a log.
const TAIL_BYTES: u64 = 16 << 10;
/// Lines shown of it, and characters of each.
const TAIL_LINES: usize = 12;
const TAIL_WIDTH: usize = 240;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, exit code 0.
    Clean,
    /// By itself, with an error.
    Failed(ExitStatus),
    /// It did not stop when asked to, and was killed.
    Killed,
}

/// A running child. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts a program. Standard error is appended to the file `log`; so is standard output, unless
    /// it is wanted here.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(
        name: &str,
        program: &Path,
        args: &[String],
        log: &Path,
        capture: bool,
    ) -> Result<(Self, Option<ChildStdout>)> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let stdout = if capture { Stdio::piped() } else { file.try_clone().context("sharing the log")?.into() };
        let mut command = Command::new(program);
        command.args(args).env("ODA_STOP_ON_EOF", "1").stdin(Stdio::piped()).stdout(stdout).stderr(file);
        if std::env::var_os("OMP_WAIT_POLICY").is_none() {
            command.env("OMP_WAIT_POLICY", "PASSIVE"); // spinning threads of one node slow all others tenfold
        }
        let mut child = command.kill_on_drop(true).process_group(0).spawn().with_context(|| {
            format!("{} cannot be started: build it first with `cargo build --release`", program.display())
        })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok((Self { name: name.to_string(), child, stdin, log: log.to_path_buf() }, stdout))
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails if it has ended, with the end of its log.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("waiting for a child")? {
            bail!(
                "{} ended unexpectedly ({status}); the end of {}:\n{}",
                self.name,
                self.log.display(),
                tail(&self.log)
            );
        }
        Ok(())
    }

    /// Asks it to stop and waits; kills it after [`STOP_TIMEOUT`].
    ///
    /// # Errors
    /// If the system does not let us wait for it.
    pub async fn stop(mut self) -> Result<Ended> {
        drop(self.stdin.take());
        if let Ok(status) = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            let status = status.with_context(|| format!("waiting for {}", self.name))?;
            return Ok(if status.success() { Ended::Clean } else { Ended::Failed(status) });
        }
        self.child.kill().await.with_context(|| format!("killing {}", self.name))?;
        Ok(Ended::Killed)
    }

    /// SIGKILL: it gets no chance to write anything (`kill -9`).
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn kill9(mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<VecDeque<String>> {
        let mut file = File::open(log)?;
        let skip = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(skip))?;
        let mut lines = VecDeque::new();
        for line in BufReader::new(file).split(b'\n') {
            if lines.len() == TAIL_LINES {
                lines.pop_front();
            }
            let shown: String = String::from_utf8_lossy(&line?).chars().take(TAIL_WIDTH).collect();
            lines.push_back(format!("    {shown}"));
        }
        Ok(lines)
    };
    match read() {
        Ok(lines) if lines.is_empty() => "    (empty)".into(),
        Ok(lines) => Vec::from(lines).join("\n"),
        Err(error) => format!("    ({}: {error})", log.display()),
    }
}

/// Makes sure `oda` starts at all, and says in one line what is missing if it does not.
///
/// # Errors
/// If it does not start.
pub async fn check_oda(oda: &Path) -> Result<()> {
    if !oda.exists() {
        bail!("{} is missing: build it with `make build`, or name it with --oda", oda.display());
    }
    let output = Command::new(oda)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("starting {}", oda.display()))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{}", start_failure(&String::from_utf8_lossy(&output.stderr)))
}

/// What the loader's complaint means.
fn start_failure(stderr: &str) -> String {
    let line = stderr.lines().next().unwrap_or("no message");
    let torch = ["libtorch", "libc10", "libgomp"].iter().any(|lib| line.contains(lib));
    if torch {
        "oda does not start: libtorch is missing; run `make setup` or set LIBTORCH".into()
    } else {
        format!("oda does not start: {line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_string()).collect()
    }

    #[test]
    fn a_missing_library_is_named() {
        let said =
            start_failure("oda: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file");
        assert!(said.contains("make setup") && said.contains("LIBTORCH"), "{said}");
        assert!(!start_failure("oda: error while loading shared libraries: libz.so.1").contains("LIBTORCH"));
    }

    #[tokio::test]
    async fn closing_its_input_stops_a_child() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (child, _) = Process::spawn("cat", Path::new("/bin/cat"), &[], &log, false).unwrap();
        assert_eq!(child.stop().await.unwrap(), Ended::Clean);
        let (child, _) =
            Process::spawn("false", Path::new("/bin/sh"), &args(&["-c", "cat; exit 3"]), &log, false).unwrap();
        assert!(matches!(child.stop().await.unwrap(), Ended::Failed(s) if s.code() == Some(3)));
    }

    #[tokio::test]
    async fn an_unexpected_end_shows_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (mut child, _) =
            Process::spawn("node-x", Path::new("/bin/sh"), &args(&["-c", "echo the reason >&2; exit 1"]), &log, false)
                .unwrap();
        let error = loop {
            if let Err(error) = child.check() {
                break error.to_string();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(error.contains("node-x") && error.contains("the reason"), "{error}");
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let text: String = (0..10_000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&log, text).unwrap();
        let end = tail(&log);
        assert_eq!(end.lines().count(), TAIL_LINES);
        assert!(end.ends_with("line 9999"));
    }
}
