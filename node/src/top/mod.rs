//! `oda top`: a full node's view of the network on a terminal, kept up to date.
//!
//! The obvious way, drawing while asking, freezes the keys whenever the node is slow. Here asking is a task of its own;
//! the screen is drawn from [`App`], which answers, keys and the clock change. The terminal is given back as it was
//! however this ends: by a key, a signal, an error or a panic.

mod app;
mod draw;
mod fetch;

pub use app::{Answer, App, Ask, Key, Point, curve, phase, plain, sat, short, span};
pub use draw::{SMALLEST, draw};
pub use fetch::Fetcher;

use anyhow::{Context, Result, bail};
use jsonrpsee::core::client::Error;
use jsonrpsee::http_client::HttpClientBuilder;
use ratatui_core::terminal::Terminal;
use ratatui_termion::TermionBackend;
use ratatui_termion::termion;
use std::io::{IsTerminal as _, Write as _};
use termion::event::Key as Pressed;
use termion::input::TermRead as _;
use termion::raw::IntoRawMode as _;
use termion::screen::IntoAlternateScreen as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, timeout};

/// Pause between two questions.
const POLL: Duration = Duration::from_secs(2);
/// Pause between two drawings when nothing happens: ages are in seconds.
const TICK: Duration = Duration::from_secs(1);
/// How long one round of questions may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys pressed and not yet handled.
const MAX_KEYS: usize = 32;

type Said = Result<Answer, String>;

/// What a key means.
fn meaning(key: &Pressed) -> Option<Key> {
    Some(match key {
        Pressed::Up | Pressed::BackTab | Pressed::Char('k') => Key::Up,
        Pressed::Down | Pressed::Char('\t' | 'j') => Key::Down,
        Pressed::Left | Pressed::Char('h') => Key::Left,
        Pressed::Right | Pressed::Char('l') => Key::Right,
        Pressed::Char('n') => Key::Now,
        Pressed::Char('?') => Key::Help,
        Pressed::Char('q') | Pressed::Ctrl('c' | 'd') | Pressed::Esc => Key::Quit,
        _ => return None,
    })
}

async fn ask_on(mut fetcher: Fetcher, mut ask: watch::Receiver<Ask>, said: mpsc::Sender<Said>) {
    loop {
        let now = *ask.borrow_and_update();
        let answer = match timeout(PATIENCE, fetcher.ask(now)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Error::Call(error))) => Err(format!("it says: {}", error.message())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("nothing within {} s", PATIENCE.as_secs())),
        };
        if said.send(answer).await.is_err() {
            return;
        }
        // sooner if something else was chosen
        if let Ok(Err(_)) = timeout(POLL, ask.changed()).await {
            return;
        }
    }
}

/// Reads keys until nobody wants them. A thread of its own: a terminal can only be read by waiting for it.
fn read_keys(keys: mpsc::Sender<Key>) {
    for pressed in std::io::stdin().keys() {
        let Ok(pressed) = pressed else { return };
        if let Some(key) = meaning(&pressed)
            && keys.blocking_send(key).is_err()
        {
            return;
        }
    }
}

/// A panic's message belongs on the screen that was there before.
fn show_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let (main, cursor) = (termion::screen::ToMainScreen, termion::cursor::Show);
        let _ = write!(std::io::stdout(), "{main}{cursor}").and_then(|()| std::io::stdout().flush());
        hook(info);
    }));
}

/// Shows the screen until it is left or the process is asked to stop.
///
/// # Errors
/// If there is no terminal, or it cannot be used.
pub async fn run(url: &str, mut stop: watch::Receiver<bool>) -> Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        bail!("`oda top` draws on a terminal: use `oda status --json` or JSON-RPC in a script");
    }
    let client = HttpClientBuilder::default()
        .request_timeout(PATIENCE)
        .build(url)
        .with_context(|| format!("{url} is not an RPC address: use http://HOST:PORT"))?;
    let mut app = App::new(url, crate::clock::now_ms());
    let (ask, asked) = watch::channel(app.ask);
    let (said, mut answers) = mpsc::channel(1);
    let (pressed, mut keys) = mpsc::channel(MAX_KEYS);
    let asking = tokio::spawn(ask_on(Fetcher::new(client), asked, said));

    show_panics();
    let screen = std::io::stdout().into_raw_mode().context("the terminal cannot be set to raw mode")?;
    let mut terminal = Terminal::new(TermionBackend::new(screen.into_alternate_screen()?))?;
    std::thread::spawn(move || read_keys(pressed));
    let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
    let mut tick = tokio::time::interval(TICK);
    let end = loop {
        terminal.draw(|frame| draw(frame, &app))?;
        tokio::select! {
            _ = stop.changed() => break Ok(()),
            _ = resized.recv() => {}
            _ = tick.tick() => {}
            key = keys.recv() => match key {
                Some(key) => {
                    if app.key(key) {
                        let _ = ask.send(app.ask);
                    }
                }
                None => break Ok(()), // the terminal is gone
            },
            answer = answers.recv() => match answer {
                Some(Ok(answer)) => app.answered(answer, crate::clock::now_ms()),
                Some(Err(why)) => app.failed(&why, crate::clock::now_ms()),
                None => break Err(anyhow::anyhow!("the task that asks the node ended")),
            },
        }
        app.now_ms = crate::clock::now_ms();
        if app.quit {
            break Ok(());
        }
    };
    asking.abort();
    let _ = terminal.show_cursor();
    end
}
