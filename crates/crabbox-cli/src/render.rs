//! Events become lines, bytes become output.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{OutputSink, OutputStream};
use crabbox_core::{Error, duration};
use crabbox_engine::event::{Event, EventSink, LeaseInfo};
use crabbox_evidence::timing::ContextLines;

use crate::output::{Output, value};
use crate::session::Session;

/// Prints what happens while the engine works.
pub(crate) struct Renderer {
    output: Arc<Output>,
    what: What,
}

/// What the reader of the lines is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A run; its release is part of the story unless the times, which tell it too, must be last.
    Run { tell_release: bool },
    /// Something whose outcome is printed as data.
    Other,
    /// Many things at once: what only one run would say is left out.
    Many,
}

impl Renderer {
    /// Renders a run.
    pub(crate) fn for_run(session: &Session, timing_json: bool) -> Arc<dyn EventSink> {
        Arc::new(Self {
            output: Arc::clone(&session.output),
            what: What::Run {
                tell_release: !timing_json,
            },
        })
    }

    /// Renders everything else.
    pub(crate) fn plain(session: &Session) -> Arc<dyn EventSink> {
        Arc::new(Self {
            output: Arc::clone(&session.output),
            what: What::Other,
        })
    }

    /// Renders what happens to several boxes at once.
    pub(crate) fn terse(session: &Session) -> Arc<dyn EventSink> {
        Arc::new(Self {
            output: Arc::clone(&session.output),
            what: What::Many,
        })
    }

    fn info(&self, line: &str) {
        if self.what != What::Many {
            self.output.info(line);
        }
    }
}

impl EventSink for Renderer {
    fn event(&self, event: &Event) {
        let go = |elapsed: &std::time::Duration| duration::format(duration::round_to_milliseconds(*elapsed));
        match event {
            Event::Notice { level, line } => self.output.notice(*level, line),
            Event::DefaultProvider { provider } => self.info(&format!(
                "no provider selected, using `{provider}` (choose one with --provider, CRABBOX_PROVIDER or `provider:` in .crabbox.yaml)"
            )),
            Event::Recording { run } => self.info(&format!("recording run {run}")),
            Event::Leasing { lease, slug, provider } => {
                self.output.progress(&format!("leasing {lease} slug={slug} provider={provider}"));
            }
            Event::SyncStarted { root, destination } => {
                self.info(&format!("syncing {} -> {destination}", root.display()));
            }
            Event::SyncCandidate { line } => self.info(line),
            Event::SyncProgress { elapsed } => self.info(&format!("still syncing after {}...", go(elapsed))),
            Event::SyncFinished { elapsed, skipped: true, .. } => {
                self.info(&format!("No changes detected, skipping sync ({})", go(elapsed)));
            }
            Event::SyncFinished { elapsed, .. } => self.info(&format!("sync complete in {}", go(elapsed))),
            Event::WorkspaceBusy { elapsed } => {
                self.info(&format!("waiting for another run in this workspace ({})", go(elapsed)));
            }
            Event::Context(context) => {
                let logs = format!("crabbox logs {}", context.run);
                context_lines(&context.lease, context.run.as_str(), &logs, &context.workdir)
                    .iter()
                    .for_each(|line| self.info(line));
            }
            Event::EnvironmentForwarded { lines }
            | Event::FailureDigest { lines }
            | Event::Summary { lines }
            | Event::Kept { hints: lines, .. } => lines.iter().for_each(|line| self.info(line)),
            Event::CommandStarted { host, display } => self.info(&format!("running on {host} {display}")),
            Event::Released { lease, slug, gone, policy, .. } if self.what == (What::Run { tell_release: true }) => {
                let slug = slug.as_ref().map_or("", |slug| slug.as_str());
                let slug = value(slug);
                self.info(&format!("lease cleanup stopped={gone} policy={policy} lease={lease} slug={slug}"));
            }
            // Steps are for programs; what else the engine wants said, it says in notices.
            _ => {}
        }
    }
}

fn context_lines(lease: &LeaseInfo, run: &str, logs: &str, workdir: &str) -> Vec<String> {
    let target = lease.target.to_string();
    ContextLines {
        run_id: run,
        logs,
        lease_id: lease.lease.as_str(),
        slug: lease.slug.as_ref().map_or("", |slug| slug.as_str()),
        provider: &lease.provider,
        target: &target,
        machine_type: &lease.server_type,
        ip: &lease.host,
        workdir,
        ..ContextLines::default()
    }
    .lines()
}

/// Hands a command's output on as it comes.
pub(crate) struct Streams {
    output: Arc<Output>,
}

impl Streams {
    /// To this process's own streams.
    pub(crate) fn new(session: &Session) -> Self {
        Self {
            output: Arc::clone(&session.output),
        }
    }
}

#[async_trait]
impl OutputSink for Streams {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> crabbox_core::Result<()> {
        let output = Arc::clone(&self.output);
        write_away(output, stream, chunk).await
    }
}

async fn write_away(output: Arc<Output>, stream: OutputStream, chunk: Bytes) -> crabbox_core::Result<()> {
    // A reader that does not read must slow the command down, never the engine's other tasks.
    let written = tokio::task::spawn_blocking(move || match stream {
        OutputStream::Stdout => output.data(&chunk),
        OutputStream::Stderr => {
            output.error_data(&chunk);
            Ok(())
        }
    });
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(Error::cancelled(failure.to_string())),
        Err(_) => Err(Error::cancelled("interrupted")),
    }
}

/// Longest line that is kept back until it ends.
const LONGEST_LINE: usize = 64 * 1024;

/// Hands on whole lines, each with the index of its box before it.
pub(crate) struct PrefixedStreams {
    output: Arc<Output>,
    prefix: String,
    pending: [Vec<u8>; 2],
}

impl PrefixedStreams {
    /// For one of several boxes.
    pub(crate) fn new(session: &Session, index: usize, count: usize) -> Self {
        let width = count.to_string().len();
        let prefix = format!("[{index:>width$}/{count}] ");
        Self {
            output: Arc::clone(&session.output),
            prefix,
            pending: [Vec::new(), Vec::new()],
        }
    }
}

/// Takes what can be shown out of `pending`: whole lines, and a line that has become too long to wait for.
fn whole_lines(prefix: &str, pending: &mut Vec<u8>) -> Vec<u8> {
    let mut shown = Vec::new();
    let mut start = 0;
    while let Some(length) = pending[start..].iter().position(|byte| *byte == b'\n') {
        shown.extend_from_slice(prefix.as_bytes());
        shown.extend_from_slice(&pending[start..=start + length]);
        start += length + 1;
    }
    pending.drain(..start);
    if pending.len() > LONGEST_LINE {
        shown.extend_from_slice(prefix.as_bytes());
        shown.append(pending);
        shown.push(b'\n');
    }
    shown
}

#[async_trait]
impl OutputSink for PrefixedStreams {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> crabbox_core::Result<()> {
        let pending = &mut self.pending[usize::from(stream == OutputStream::Stderr)];
        pending.extend_from_slice(&chunk);
        let shown = whole_lines(&self.prefix, pending);
        if shown.is_empty() {
            return Ok(());
        }
        write_away(Arc::clone(&self.output), stream, Bytes::from(shown)).await
    }
}

/// A last line without its end is still output.
impl Drop for PrefixedStreams {
    fn drop(&mut self) {
        for (stream, pending) in self.pending.iter_mut().enumerate() {
            if pending.is_empty() {
                continue;
            }
            let mut line = self.prefix.clone().into_bytes();
            line.append(pending);
            line.push(b'\n');
            if stream == 0 {
                // Whoever closed standard output knows.
                let _ = self.output.data(&line);
            } else {
                self.output.error_data(&line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_whole() {
        let mut pending = b"one\ntwo\nthr".to_vec();
        assert_eq!(whole_lines("[1/2] ", &mut pending), b"[1/2] one\n[1/2] two\n");
        assert_eq!(pending, b"thr");
        pending.extend(std::iter::repeat_n(b'x', LONGEST_LINE));
        let shown = whole_lines("[1/2] ", &mut pending);
        assert!(shown.starts_with(b"[1/2] thrxxx") && shown.ends_with(b"x\n") && pending.is_empty());
    }
}
