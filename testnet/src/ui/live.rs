//! The part of the terminal that is redrawn. indicatif knows the width, cuts long lines and keeps
//! printed lines above.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Most lines of the redrawn area: more would not fit on a screen.
const MAX_LINES: usize = 30;

/// The redrawn area.
pub(super) struct Live {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { all: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()), lines: Vec::new() }
    }

    /// A line that stays, above the area.
    pub(super) fn print(&self, line: &str) {
        let _ = self.all.println(line);
    }

    /// Replaces the area.
    pub(super) fn draw(&mut self, lines: &[String]) {
        let lines = lines.get(..MAX_LINES).unwrap_or(lines);
        while self.lines.len() > lines.len() {
            if let Some(bar) = self.lines.pop() {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
        }
        for (i, line) in lines.iter().enumerate() {
            if self.lines.len() <= i {
                let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
                self.lines.push(self.all.add(ProgressBar::new(1).with_style(style)));
            }
            if let Some(bar) = self.lines.get(i) {
                bar.set_message(line.clone());
            }
        }
    }
}
