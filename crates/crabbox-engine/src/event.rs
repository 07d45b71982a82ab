//! What happens while the engine works, as typed events. CLI, logs and traces all render from these.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crabbox_core::runtime::{NoticeLevel, Notices};
use crabbox_core::{LeaseId, RunId, Slug};

use crate::step::Step;

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A named step was reached; its effect is complete.
    Step(Step),
    /// A line for people from a provider or a step without an event of its own.
    Notice {
        /// How much it matters.
        level: NoticeLevel,
        /// The line, without newline.
        line: String,
    },
    /// Nobody selected a provider, so the embedded default serves.
    DefaultProvider {
        /// Its name.
        provider: String,
    },
    /// A run record exists.
    Recording {
        /// Its id.
        run: RunId,
    },
    /// A box is being created.
    Leasing {
        /// Lease identity.
        lease: LeaseId,
        /// Friendly name.
        slug: Slug,
        /// Canonical provider name.
        provider: String,
    },
    /// A box is ready, created or found.
    Leased(LeaseInfo),
    /// Sync begins.
    SyncStarted {
        /// Checkout on this machine.
        root: PathBuf,
        /// Workspace on the box, with the box's name before it.
        destination: String,
    },
    /// What would travel, in the fixed form `sync candidate: …`.
    SyncCandidate {
        /// The line.
        line: String,
    },
    /// Sync is still going.
    SyncProgress {
        /// Time so far.
        elapsed: Duration,
    },
    /// Sync is done.
    SyncFinished {
        /// Time it took.
        elapsed: Duration,
        /// Nothing had changed.
        skipped: bool,
        /// Files that travelled.
        written: u64,
        /// Files that went.
        deleted: u64,
        /// Bytes that travelled.
        bytes: u64,
    },
    /// Waiting for another run on the same workspace.
    WorkspaceBusy {
        /// Time so far.
        elapsed: Duration,
    },
    /// Facts about the run, known before the command starts.
    Context(RunContext),
    /// Which variables are forwarded, never their values.
    EnvironmentForwarded {
        /// The lines, in the fixed form `env forwarding …`.
        lines: Vec<String>,
    },
    /// The command starts.
    CommandStarted {
        /// Where, for people.
        host: String,
        /// What, quoted for people.
        display: String,
    },
    /// The command has ended.
    CommandFinished {
        /// Its exit status.
        code: i32,
        /// Time it took.
        elapsed: Duration,
    },
    /// A file of evidence is on this machine.
    Collected {
        /// What it is: `download`, `capture`, `failure-bundle`, …
        kind: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Lines that explain a failure, in order.
    FailureDigest {
        /// The lines.
        lines: Vec<String>,
    },
    /// Lines at the end of a run: summary and details.
    Summary {
        /// The lines.
        lines: Vec<String>,
    },
    /// A box was given back, or kept.
    Released {
        /// Lease identity.
        lease: LeaseId,
        /// Friendly name.
        slug: Option<Slug>,
        /// Resource id at the provider.
        server: String,
        /// Whether it is gone.
        gone: bool,
        /// Which policy decided: `auto`, `always`, `success`, `failure`, `never`, `stop`, `cleanup`.
        policy: &'static str,
    },
    /// A box is kept although a run that could have released it has ended.
    Kept {
        /// Lease identity.
        lease: LeaseId,
        /// Commands for people: inspect, run again, stop.
        hints: Vec<String>,
    },
}

/// A box as the engine knows it once it is ready.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// Lease identity.
    pub lease: LeaseId,
    /// Friendly name.
    pub slug: Option<Slug>,
    /// Canonical provider name.
    pub provider: String,
    /// Resource id at the provider.
    pub server: String,
    /// Machine type.
    pub server_type: String,
    /// Address or name; empty for boxes without one.
    pub host: String,
    /// Operating system.
    pub target: crabbox_core::Target,
    /// Whether it existed before.
    pub reused: bool,
    /// Whether it outlives this operation.
    pub kept: bool,
    /// Longest idle time.
    pub idle_timeout: Duration,
    /// When it expires.
    pub expires_at: Option<jiff::Timestamp>,
    /// Absolute directory on the box below which workspaces live.
    pub work_root: String,
    /// Time it took to get it.
    pub elapsed: Duration,
}

/// Facts about a run, known before its command starts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunContext {
    /// Run record.
    pub run: RunId,
    /// The box.
    pub lease: LeaseInfo,
    /// Workspace on the box.
    pub workdir: String,
}

/// Takes events. Called from within the engine's own steps: it must return quickly.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> EventSink for F {
    fn event(&self, event: &Event) {
        self(event);
    }
}

/// Discards events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl EventSink for Silent {
    fn event(&self, _event: &Event) {}
}

/// Makes a provider's notices events.
#[derive(Clone)]
pub(crate) struct NoticesAsEvents(pub(crate) Arc<dyn EventSink>);

impl Notices for NoticesAsEvents {
    fn notice(&self, level: NoticeLevel, line: &str) {
        self.0.event(&Event::Notice {
            level,
            line: line.to_owned(),
        });
    }
}
