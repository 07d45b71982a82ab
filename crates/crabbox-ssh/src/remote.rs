//! A box reached over SSH as a [`Remote`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crabbox_core::remote::{ByteWriter, ExecRequest, ExecStatus, OutputSink, RemotePath, Upload};
use crabbox_core::spec::Target;
use crabbox_core::{Error, Remote, Result};

use crate::channel::Transport;
use crate::exec;
use crate::files;
use crate::openssh::OpenSsh;
use crate::session::{Purpose, Session};

/// Time between the polite and the forced end of a cancelled command.
const GRACE: Duration = Duration::from_secs(5);

/// A box reached over SSH.
///
/// Commands are delivered through their standard input, so that neither arguments nor variables stand in an argument
/// list of the box. Cancelling a command ends all its processes from a second channel: those of its session and process
/// group, and those that left them but inherited the command's own `CRABBOX_EXEC_ID`.
#[derive(Clone)]
pub struct SshRemote {
    transport: Arc<dyn Transport>,
    target: Target,
    grace: Duration,
}

impl SshRemote {
    /// Commands over a session of our own.
    ///
    /// # Errors
    /// `Usage` when the box has no POSIX shell to talk to.
    pub fn new(session: Session) -> Result<Self> {
        let target = session.destination().target;
        Self::over(Arc::new(session), target)
    }

    /// Commands over the system's SSH client.
    ///
    /// # Errors
    /// `Usage` when the box has no POSIX shell to talk to.
    pub fn openssh(client: OpenSsh) -> Result<Self> {
        let target = client.destination().target;
        Self::over(Arc::new(client), target)
    }

    /// Sets the time between the polite and the forced end of a cancelled command; 5 s unless set.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    fn over(transport: Arc<dyn Transport>, target: Target) -> Result<Self> {
        if !target.is_posix() || target == Target::WSL2 {
            return Err(Error::usage(format!(
                "commands over SSH need a POSIX login shell, which this target has not: {target}"
            ))
            .with_hint("use a Linux or macOS box"));
        }
        Ok(Self {
            transport,
            target,
            grace: GRACE,
        })
    }
}

impl std::fmt::Debug for SshRemote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SshRemote")
            .field("place", &self.transport.place())
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Remote for SshRemote {
    fn target(&self) -> Target {
        self.target
    }

    async fn exec(&self, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        exec::run(&self.transport, request, output, self.grace, Purpose::Command).await
    }

    async fn upload(&self, destination: &RemotePath, upload: Upload) -> Result<()> {
        files::upload(self, destination, upload).await
    }

    async fn download(&self, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64> {
        files::download(self, source, destination).await
    }
}
