//! Where a failed run got stuck, and whether another try may help.

use serde::{Deserialize, Serialize};

use crate::text::{is_auth_page, strip_ansi};

/// Where a run got stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockedStage {
    /// A resource of the box ran out.
    ResourceExhaustion,
    /// Giving the box back.
    Cleanup,
    /// Bringing the checkout to the box.
    Sync,
    /// The Actions job behind the box was cancelled.
    ActionsCancelled,
    /// The box was ready and then said nothing.
    TestboxStalledAfterReady,
    /// The box could not be reached.
    Ssh,
    /// An access gateway asked for a login.
    ProviderAuth,
    /// Installing dependencies.
    Install,
    /// Calling a language model.
    ModelCall,
    /// Tests failed although the command succeeded.
    Test,
    /// The command itself, or nothing known.
    Unknown,
}

impl BlockedStage {
    /// The stable name, such as `resource_exhaustion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ResourceExhaustion => "resource_exhaustion",
            Self::Cleanup => "cleanup",
            Self::Sync => "sync",
            Self::ActionsCancelled => "actions_cancelled",
            Self::TestboxStalledAfterReady => "testbox_stalled_after_ready",
            Self::Ssh => "ssh",
            Self::ProviderAuth => "provider_auth",
            Self::Install => "install",
            Self::ModelCall => "model_call",
            Self::Test => "test",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether another try may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// It may.
    #[serde(rename = "true")]
    Yes,
    /// It will not.
    #[serde(rename = "false")]
    No,
    /// Nobody can tell.
    #[serde(rename = "unknown")]
    Unknown,
}

impl Retry {
    /// `true`, `false` or `unknown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "true",
            Self::No => "false",
            Self::Unknown => "unknown",
        }
    }
}

/// A resource that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Memory.
    Memory,
}

impl Resource {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
        }
    }
}

/// What a provider or a step of the run knows about a failure, as a fact rather than as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureFact {
    /// The provider proved that the box ran out of memory.
    MemoryExhausted,
    /// The backend that owns the box was gone or could not be found.
    BackendLost,
    /// The sync was never confirmed as complete.
    SyncIncomplete,
    /// The Actions job behind the box was cancelled after the box was ready.
    ActionsCancelled,
    /// The box was ready and then said nothing.
    StalledAfterReady,
    /// The wait for SSH ran out.
    SshTimeout,
}

/// What is known about a failed run.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailureEvidence<'a> {
    /// Facts, in any order.
    pub facts: &'a [FailureFact],
    /// The end of the log, terminal sequences included, with the error message of the run.
    pub log: &'a str,
    /// Name of the last phase.
    pub last_phase: &'a str,
    /// The command succeeded, and the test policy failed the run.
    pub test_policy_failed: bool,
}

/// Where a run got stuck, and what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classification {
    /// Where it got stuck.
    pub blocked_stage: BlockedStage,
    /// Whether another try may succeed.
    pub retry_likely: Retry,
    /// The resource that ran out.
    pub resource_exhaustion: Option<Resource>,
}

impl Classification {
    const fn new(blocked_stage: BlockedStage, retry_likely: Retry) -> Self {
        Self {
            blocked_stage,
            retry_likely,
            resource_exhaustion: None,
        }
    }

    /// The line of a run that failed before its command; absent when nothing is known.
    pub fn line(&self) -> Option<String> {
        (self.blocked_stage != BlockedStage::Unknown).then(|| {
            format!(
                "failure classification blocked_stage={} retry_likely={}",
                self.blocked_stage.as_str(),
                self.retry_likely.as_str()
            )
        })
    }
}

const INSTALL_WORDS: [&str; 5] = [
    "exdev",
    "enomem",
    "package-import-method",
    "child-concurrency",
    "network-concurrency",
];
const MODEL_WORDS: [&str; 5] = [
    "model_call",
    "model call",
    "rate limit",
    "context length",
    "context window",
];
const INSTALL_PHASES: [&str; 3] = ["install", "hydrate", "setup"];

/// Classifies a failed run: facts first, then the words of its log, then its last phase.
pub fn classify(evidence: &FailureEvidence<'_>) -> Classification {
    let has = |fact| evidence.facts.contains(&fact);
    if has(FailureFact::MemoryExhausted) {
        let found = Classification::new(BlockedStage::ResourceExhaustion, Retry::No);
        return Classification {
            resource_exhaustion: Some(Resource::Memory),
            ..found
        };
    }
    if evidence.test_policy_failed {
        return Classification::new(BlockedStage::Test, Retry::No);
    }
    let facts = [
        (FailureFact::BackendLost, BlockedStage::Cleanup),
        (FailureFact::SyncIncomplete, BlockedStage::Sync),
        (FailureFact::ActionsCancelled, BlockedStage::ActionsCancelled),
        (FailureFact::StalledAfterReady, BlockedStage::TestboxStalledAfterReady),
        (FailureFact::SshTimeout, BlockedStage::Ssh),
    ];
    if let Some((_, stage)) = facts.into_iter().find(|(fact, _)| has(*fact)) {
        return Classification::new(stage, Retry::Yes);
    }
    let log = strip_ansi(evidence.log).to_lowercase();
    let contains = |words: &[&str]| words.iter().any(|word| log.contains(word));
    let phase = evidence.last_phase.to_lowercase();
    if log.contains("timed out waiting for ssh") {
        Classification::new(BlockedStage::Ssh, Retry::Yes)
    } else if is_auth_page(&log) {
        Classification::new(BlockedStage::ProviderAuth, Retry::No)
    } else if contains(&INSTALL_WORDS) {
        Classification::new(BlockedStage::Install, Retry::Unknown)
    } else if contains(&MODEL_WORDS) || (log.contains("tokens") && log.contains("maximum")) {
        Classification::new(BlockedStage::ModelCall, Retry::Unknown)
    } else if INSTALL_PHASES.iter().any(|word| phase.contains(word)) {
        Classification::new(BlockedStage::Install, Retry::Unknown)
    } else {
        Classification::new(BlockedStage::Unknown, Retry::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::{BlockedStage, Classification, FailureEvidence, FailureFact, Resource, Retry, classify};

    fn from_log(log: &str, last_phase: &str) -> (BlockedStage, Retry) {
        let found = classify(&FailureEvidence {
            log,
            last_phase,
            ..FailureEvidence::default()
        });
        (found.blocked_stage, found.retry_likely)
    }

    #[test]
    fn the_first_match_wins() {
        let table = [
            (
                "Timed out waiting for \u{1b}[1mSSH\u{1b}[0m; rate limit",
                "",
                BlockedStage::Ssh,
                Retry::Yes,
            ),
            (
                "<html><title>Cloudflare Access</title> EXDEV",
                "",
                BlockedStage::ProviderAuth,
                Retry::No,
            ),
            ("cf-access header", "", BlockedStage::Unknown, Retry::Unknown),
            ("npm ERR! EXDEV: rate limit", "", BlockedStage::Install, Retry::Unknown),
            ("429 Rate Limit", "install", BlockedStage::ModelCall, Retry::Unknown),
            ("Maximum of 8192 tokens", "", BlockedStage::ModelCall, Retry::Unknown),
            ("assertion failed", "npm-Install", BlockedStage::Install, Retry::Unknown),
            ("assertion failed", "test", BlockedStage::Unknown, Retry::Unknown),
        ];
        for (log, phase, stage, retry) in table {
            assert_eq!(from_log(log, phase), (stage, retry), "{log}");
        }
    }

    #[test]
    fn facts_come_before_words() {
        let evidence = FailureEvidence {
            log: "rate limit",
            test_policy_failed: true,
            ..FailureEvidence::default()
        };
        let with = |facts: &'static [FailureFact], test_policy_failed| {
            classify(&FailureEvidence {
                facts,
                test_policy_failed,
                ..evidence
            })
        };
        let memory = with(&[FailureFact::SshTimeout, FailureFact::MemoryExhausted], true);
        assert_eq!(
            memory,
            Classification {
                blocked_stage: BlockedStage::ResourceExhaustion,
                retry_likely: Retry::No,
                resource_exhaustion: Some(Resource::Memory)
            }
        );
        assert_eq!(with(&[], true).blocked_stage, BlockedStage::Test);
        assert_eq!(
            with(&[FailureFact::SyncIncomplete, FailureFact::BackendLost], false).blocked_stage,
            BlockedStage::Cleanup
        );
        assert_eq!(with(&[FailureFact::ActionsCancelled], false).retry_likely, Retry::Yes);
    }

    #[test]
    fn names_are_those_of_the_json() {
        for stage in [
            BlockedStage::TestboxStalledAfterReady,
            BlockedStage::ProviderAuth,
            BlockedStage::Unknown,
        ] {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.as_str());
        }
        for retry in [Retry::Yes, Retry::No, Retry::Unknown] {
            assert_eq!(serde_json::to_value(retry).unwrap(), retry.as_str());
        }
    }

    #[test]
    fn the_line_is_silent_about_nothing() {
        assert_eq!(Classification::new(BlockedStage::Unknown, Retry::Unknown).line(), None);
        assert_eq!(
            Classification::new(BlockedStage::Ssh, Retry::Yes).line().unwrap(),
            "failure classification blocked_stage=ssh retry_likely=true"
        );
    }
}
