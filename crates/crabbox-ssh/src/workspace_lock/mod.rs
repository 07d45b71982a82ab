//! One client at a time changes a workspace.
//!
//! The lock lives on the box, in `$HOME/.crabbox/workspace-owners/`, and is the same for every Crabbox client. Its
//! holder has a token that nobody can guess and must renew it; whoever lost it can neither renew it nor start a command.
//! The command that runs under it is recorded: when a client is lost, the next one waits until that command has ended,
//! however long ago the lock expired. State that cannot be read is an error and never a reason to take over.

mod remote;
mod script;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crabbox_core::id::hex;
use crabbox_core::remote::{Capture, ExecRequest};
use crabbox_core::runtime::{Clock, NoticeLevel, Notices};
use crabbox_core::{Error, Remote, Result};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use remote::LockedRemote;

use crate::random;

/// Longest run of one call.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Seconds that every call but the first waits for the gate.
const GATE_WAIT_SECS: u64 = 5;

/// What the box says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The lock is ours and nobody had it before.
    Acquired,
    /// The lock is ours; its last holder let it expire.
    Recovered,
    /// Somebody holds it.
    Busy,
    /// It has expired, but the command of its last holder still runs.
    Child,
    /// It is ours for another while.
    Renewed,
    /// It is ours.
    Owned,
    /// It is nobody's.
    Released,
    /// A command has been recorded.
    Started,
    /// It is somebody else's, or nobody's.
    Mismatch,
    /// It was ours and has expired.
    Expired,
    /// The state on the box makes no sense.
    Ambiguous,
    /// The box has neither `flock` nor `lockf`.
    Unlockable,
}

/// Each reply, its word and the exit statuses that may go with it.
const REPLIES: [(Reply, &str, &[i32]); 12] = [
    (Reply::Acquired, "ACQUIRED", &[0]),
    (Reply::Recovered, "RECOVERED", &[0]),
    (Reply::Busy, "BUSY", &[0]),
    (Reply::Child, "CHILD", &[0, 75]),
    (Reply::Renewed, "RENEWED", &[0]),
    (Reply::Owned, "OWNED", &[0]),
    (Reply::Released, "RELEASED", &[0]),
    (Reply::Started, "STARTED", &[0]),
    (Reply::Mismatch, "MISMATCH", &[75]),
    (Reply::Expired, "EXPIRED", &[75]),
    (Reply::Ambiguous, "AMBIGUOUS", &[74]),
    (Reply::Unlockable, "UNLOCKABLE", &[73]),
];

impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = REPLIES
            .iter()
            .find(|(reply, _, _)| reply == self)
            .map_or("", |(_, word, _)| word);
        formatter.write_str(word)
    }
}

impl FromStr for Reply {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        REPLIES
            .iter()
            .find(|(_, word, _)| *word == text)
            .map(|(reply, _, _)| *reply)
            .ok_or_else(|| unexpected(text))
    }
}

fn unexpected(text: &str) -> Error {
    let text: String = text.chars().take(200).collect();
    Error::remote(format!(
        "the workspace lock on the box answered: `{}`",
        text.trim().escape_debug()
    ))
    .with_hint("look at ~/.crabbox/workspace-owners on the box")
}

/// Times of the lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LockOptions {
    /// Time after which a lock that nobody renewed expires.
    pub ttl: Duration,
    /// Time between renewals.
    pub renew: Duration,
    /// Longest wait for a lock that somebody holds.
    pub wait: Duration,
    /// Time between tries.
    pub poll: Duration,
    /// Time between messages while waiting.
    pub progress: Duration,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(45),
            renew: Duration::from_secs(10),
            wait: Duration::from_secs(120),
            poll: Duration::from_secs(1),
            progress: Duration::from_secs(10),
        }
    }
}

/// The name of a lease's lock on the box: hexadecimal SHA-256 of a prefix, a NUL and the lease id.
pub fn lock_key(lease: &str) -> String {
    hex(&Sha256::digest(format!("crabbox-workspace-owner-v1\0{lease}")))
}

/// A held lock. Dropping it stops renewing and leaves it to expire; [`WorkspaceLock::release`] gives it back.
pub struct WorkspaceLock {
    calls: Arc<Calls>,
    options: LockOptions,
    recovered: bool,
    lost: CancellationToken,
    reason: Arc<OnceLock<String>>,
    keeper: JoinHandle<()>,
}

impl WorkspaceLock {
    /// Takes the lock of a lease's workspace and keeps renewing it.
    ///
    /// # Errors
    /// `Remote` when somebody holds it for too long, the box has no way to lock, or its state makes no sense; a
    /// cancelled error.
    pub async fn acquire(
        remote: Arc<dyn Remote>,
        lease: &str,
        options: LockOptions,
        clock: Arc<dyn Clock>,
        notices: &dyn Notices,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let calls = Arc::new(Calls {
            remote,
            key: lock_key(lease),
            token: random::token::<32>()?,
            ttl: options.ttl,
        });
        let start = clock.monotonic();
        let mut told = Duration::ZERO;
        let recovered = loop {
            let reply = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::cancelled("wait for the workspace cancelled")),
                reply = calls.call("acquire", 0) => reply?,
            };
            let waited = clock.monotonic().saturating_sub(start);
            let state = match reply {
                Reply::Acquired => break false,
                Reply::Recovered => break true,
                Reply::Busy => "busy",
                Reply::Child => "child",
                other => return Err(refused("take the workspace", other)),
            };
            if waited >= options.wait {
                return Err(
                    Error::remote(format!("the workspace is in use after {} s: {state}", waited.as_secs()))
                        .with_hint("wait for the other run to end, or use another lease")
                        .with_facts(|facts| facts.retryable = true),
                );
            }
            if waited >= told + options.progress {
                told = waited;
                let line = format!(
                    "waiting for reusable workspace owner elapsed={}s state={state}",
                    waited.as_secs()
                );
                notices.notice(NoticeLevel::Progress, &line);
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::cancelled("wait for the workspace cancelled")),
                () = clock.sleep(options.poll) => {}
            }
        };
        let waited = clock.monotonic().saturating_sub(start);
        let line = format!(
            "workspace owner acquired wait={}ms recovered={recovered}",
            waited.as_millis()
        );
        notices.notice(NoticeLevel::Info, &line);
        let lost = CancellationToken::new();
        let reason = Arc::new(OnceLock::new());
        let keeper = tokio::spawn(keep(
            Arc::clone(&calls),
            options.clone(),
            clock,
            lost.clone(),
            Arc::clone(&reason),
        ));
        Ok(Self {
            calls,
            options,
            recovered,
            lost,
            reason,
            keeper,
        })
    }

    /// Whether the last holder had let it expire.
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The fencing token.
    pub fn token(&self) -> &str {
        &self.calls.token
    }

    /// Cancelled when the lock is lost. Whatever changes the workspace must stop.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Why it was lost, if it was.
    pub fn loss(&self) -> Option<Error> {
        self.lost.is_cancelled().then(|| {
            let reason = self.reason.get().map_or("unknown reason", String::as_str);
            Error::remote(format!("remote workspace owner renewal failed closed: {reason}"))
                .with_hint("run again: the workspace may have been changed by another run meanwhile")
        })
    }

    /// The same box, where every command runs under the lock, one at a time, and is ended when the lock is lost.
    pub fn remote(&self) -> LockedRemote {
        LockedRemote::new(Arc::clone(&self.calls), self.lost.clone())
    }

    /// Asks the box about the lock: [`Reply::Owned`] or [`Reply::Child`].
    ///
    /// # Errors
    /// `Remote` when it is not ours any more or its state makes no sense.
    pub async fn inspect(&self) -> Result<Reply> {
        match self.calls.call("inspect", GATE_WAIT_SECS).await? {
            reply @ (Reply::Owned | Reply::Child) => Ok(reply),
            other => Err(refused("inspect the workspace lock", other)),
        }
    }

    /// Renews it now.
    ///
    /// # Errors
    /// `Remote` when it is not ours any more.
    pub async fn renew(&self) -> Result<()> {
        self.calls.renew().await
    }

    /// Gives it back.
    ///
    /// # Errors
    /// `Remote` when it is not ours any more, or while a command runs under it.
    pub async fn release(self) -> Result<()> {
        self.keeper.abort();
        match self.calls.call("release", GATE_WAIT_SECS).await? {
            Reply::Released => Ok(()),
            other => Err(refused("release the workspace", other)),
        }
    }
}

impl Drop for WorkspaceLock {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for WorkspaceLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WorkspaceLock")
            .field("key", &self.calls.key)
            .field("recovered", &self.recovered)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Renews until it fails. A box that cannot be reached is tried again as long as the lock cannot have expired.
async fn keep(
    calls: Arc<Calls>,
    options: LockOptions,
    clock: Arc<dyn Clock>,
    lost: CancellationToken,
    reason: Arc<OnceLock<String>>,
) {
    let safe = options.ttl.saturating_sub(options.renew);
    let mut renewed = clock.monotonic();
    let mut pause = options.renew;
    loop {
        clock.sleep(pause).await;
        let asked = clock.monotonic();
        let left = safe.saturating_sub(asked.saturating_sub(renewed));
        let answer = tokio::select! {
            biased;
            answer = calls.call("renew", GATE_WAIT_SECS) => answer.map_err(|error| error.to_string()),
            () = clock.sleep(left.max(options.poll)) => Err("the box did not answer in time".to_owned()),
        };
        let (failed, fatal) = match answer {
            Ok(Reply::Renewed) => {
                renewed = asked;
                pause = options.renew;
                continue;
            }
            Ok(other) => (other.to_string(), true),
            Err(error) => (error, clock.monotonic().saturating_sub(renewed) >= safe),
        };
        if fatal {
            // Set before the token, so that whoever is woken finds it.
            let _ = reason.set(failed);
            lost.cancel();
            return;
        }
        pause = options.poll;
    }
}

/// The calls that a holder makes.
pub(crate) struct Calls {
    remote: Arc<dyn Remote>,
    key: String,
    token: String,
    ttl: Duration,
}

impl Calls {
    fn parameters(&self, action: &str, wait_secs: u64) -> Vec<String> {
        vec![
            script::BODY.to_owned(),
            action.to_owned(),
            self.key.clone(),
            self.token.clone(),
            self.ttl.as_secs().max(1).to_string(),
            wait_secs.to_string(),
        ]
    }

    async fn call(&self, action: &str, wait_secs: u64) -> Result<Reply> {
        let request =
            ExecRequest::script(script::CALL, self.parameters(action, wait_secs)).with_timeout(Some(CALL_LIMIT));
        let mut capture = Capture::new(64 << 10);
        let status = self.remote.exec(request, &mut capture).await?;
        let text = String::from_utf8_lossy(capture.stdout()).into_owned();
        let reply: Reply = text.trim_end().parse()?;
        let fits = REPLIES
            .iter()
            .any(|(known, _, codes)| *known == reply && codes.contains(&status.code));
        if fits {
            Ok(reply)
        } else {
            Err(unexpected(&format!("{reply} with status {}", status.code)))
        }
    }

    async fn renew(&self) -> Result<()> {
        match self.call("renew", GATE_WAIT_SECS).await? {
            Reply::Renewed => Ok(()),
            other => Err(refused("renew the workspace lock", other)),
        }
    }
}

/// The error of a reply that is not the wanted one.
fn refused(what: &str, reply: Reply) -> Error {
    let hint = match reply {
        Reply::Unlockable => "install `flock` (util-linux) on the box",
        Reply::Ambiguous => {
            "look at ~/.crabbox/workspace-owners on the box; remove the files only if nothing runs there"
        }
        Reply::Child => "a command still runs under the lock; wait for it or stop it",
        _ => "another run has taken the workspace over; run again",
    };
    Error::remote(format!("{what}: {reply}")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_the_published_vector() {
        assert_eq!(
            lock_key("cbx_abcdef123456"),
            "641f30dcec2b4981dd2b3510a410b8391858b7f984afdc80e3a135d50d5c7ff5"
        );
    }

    #[test]
    fn every_reply_has_one_word() {
        for (reply, word, _) in REPLIES {
            assert_eq!(reply.to_string(), word);
            assert_eq!(word.parse::<Reply>().unwrap(), reply);
        }
        assert!("acquired".parse::<Reply>().is_err());
        assert!("".parse::<Reply>().is_err());
    }
}
