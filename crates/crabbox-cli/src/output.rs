//! Where words go: data to standard output, everything for people to standard error.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crabbox_core::runtime::{Environment, NoticeLevel};
use serde::Serialize;

/// Exit status of a program whose reader has gone, as shells report the end by `SIGPIPE`.
pub(crate) const READER_GONE: u8 = 141;

/// Standard output has no reader any more. Nobody is told: whoever closed it knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("standard output was closed")
    }
}

impl std::error::Error for ReaderGone {}

/// How an error is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ErrorFormat {
    /// A hint and a message.
    #[default]
    Text,
    /// One JSON object as the last line.
    Json,
}

/// What the streams are connected to.
#[derive(Clone, Copy, Debug, Default)]
struct Terminal {
    /// Standard error is a terminal that understands control sequences.
    stderr: bool,
    /// Standard output is a terminal, so that a status line must be taken away before data is written.
    stdout: bool,
    /// Colour is welcome.
    colour: bool,
}

impl Terminal {
    fn detect(environment: &Environment) -> Self {
        let capable = environment.get("TERM").is_some_and(|name| name != "dumb") || cfg!(windows);
        let stderr = io::stderr().is_terminal() && capable;
        let colour = stderr && environment.get("NO_COLOR").is_none();
        Self {
            stderr,
            stdout: io::stdout().is_terminal(),
            colour,
        }
    }
}

/// Both streams of this process. Lines of several threads never mix.
#[derive(Debug)]
pub(crate) struct Output {
    terminal: Terminal,
    quiet: bool,
    closed: AtomicBool,
    /// Whether a status line stands on the terminal. Also orders writers.
    status: Mutex<bool>,
}

impl Output {
    /// Looks at the streams.
    pub(crate) fn new(environment: &Environment, quiet: bool) -> Self {
        Self {
            terminal: Terminal::detect(environment),
            quiet,
            closed: AtomicBool::new(false),
            status: Mutex::new(false),
        }
    }

    /// Whether the reader of standard output has gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes a line of data.
    ///
    /// # Errors
    /// [`ReaderGone`], or what the stream reports.
    pub(crate) fn line(&self, line: impl fmt::Display) -> anyhow::Result<()> {
        self.data(format!("{line}\n").as_bytes())
    }

    /// Writes one value as a compact line of JSON.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn json(&self, value: &(impl Serialize + ?Sized)) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(value)?;
        text.push('\n');
        self.data(text.as_bytes())
    }

    /// Writes data as it is and does not keep it back.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn data(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut status = self.writer();
        if self.terminal.stdout {
            self.clear(&mut status);
        }
        let mut stream = io::stdout().lock();
        stream.write_all(bytes).and_then(|()| stream.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.closed.store(true, Ordering::Relaxed);
                anyhow::Error::new(ReaderGone)
            } else {
                anyhow::Error::new(error).context("cannot write to standard output")
            }
        })
    }

    /// Writes a command's own standard error as it is. Nobody reading it is no reason to stop.
    pub(crate) fn error_data(&self, bytes: &[u8]) {
        let mut status = self.writer();
        self.clear(&mut status);
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// Writes a line for people.
    pub(crate) fn notice(&self, level: NoticeLevel, line: &str) {
        match level {
            NoticeLevel::Progress => self.progress(line),
            NoticeLevel::Info => self.info(line),
            NoticeLevel::Warning => self.warning(line),
        }
    }

    /// Writes a line for people unless they asked for silence.
    pub(crate) fn info(&self, line: &str) {
        if !self.quiet {
            self.error_line(&escape(line));
        }
    }

    /// Writes a warning.
    pub(crate) fn warning(&self, line: &str) {
        self.error_line(&format!("{} {}", self.paint("33", "warning:"), escape(line)));
    }

    /// Shows what is going on in place of what was shown before, on a terminal only.
    pub(crate) fn progress(&self, line: &str) {
        if self.quiet || !self.terminal.stderr {
            return;
        }
        let mut status = self.writer();
        self.clear(&mut status);
        let shown: String = escape(line).chars().take(78).collect();
        let mut stream = io::stderr().lock();
        let _ = write!(stream, "{}", self.paint("2", &shown)).and_then(|()| stream.flush());
        *status = true;
    }

    /// Takes the status line away.
    pub(crate) fn finish_progress(&self) {
        self.clear(&mut self.writer());
    }

    /// Writes one of the last lines, whatever people asked for.
    pub(crate) fn last_line(&self, line: &str) {
        self.error_line(line);
    }

    /// Marks text with a colour where that is welcome.
    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        if self.terminal.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn error_line(&self, line: &str) {
        let mut status = self.writer();
        self.clear(&mut status);
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    fn writer(&self) -> MutexGuard<'_, bool> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self, status: &mut bool) {
        if std::mem::take(status) {
            let mut stream = io::stderr().lock();
            let _ = stream.write_all(b"\r\x1b[K").and_then(|()| stream.flush());
        }
    }
}

/// Text for a terminal: what could move the cursor, begin a line or turn the direction of writing is written out.
pub(crate) fn escape(text: &str) -> String {
    if !text.chars().any(misleads) {
        return text.to_owned();
    }
    text.chars()
        .map(|character| {
            if misleads(character) {
                character.escape_default().to_string()
            } else {
                character.to_string()
            }
        })
        .collect()
}

fn misleads(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    turns || (character.is_control() && character != '\t')
}

/// A value of a `key=value` line: `-` when it is empty, and never more than one line.
pub(crate) fn value(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { escape(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(escape("a\u{1b}[31m\tb\n"), "a\\u{1b}[31m\tb\\n");
        assert_eq!(escape("é\u{202e}fdp.exe"), "é\\u{202e}fdp.exe");
        assert_eq!(value(""), "-");
        assert_eq!(value("x y"), "x y");
    }

    #[test]
    fn nothing_is_painted_off_a_terminal() {
        let output = Output::new(&Environment::new([("TERM", "xterm"), ("NO_COLOR", "1")]), false);
        assert_eq!(output.paint("31", "x"), "x");
    }
}
