//! How long a run took, as JSON and as lines.

mod lines;
mod record;

pub use lines::{ContextLines, DetailsLine, warmup_complete_line};
pub use record::{Benchmark, RECORD_SCHEMA_VERSION, TimingRecord, command_fingerprint, repository_fingerprint};

use std::time::Duration;

use crabbox_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::classify::{BlockedStage, Resource, Retry};
use crate::json;
use crate::stream::Phase;

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }

    /// Whether the number is zero, and hence left out.
    pub(super) fn is_zero(duration: &Duration) -> bool {
        duration.as_millis() == 0
    }
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// Exit status 0.
    Succeeded,
    /// Any other end.
    Failed,
    /// A deadline passed.
    TimedOut,
    /// The user ended it.
    Canceled,
}

/// Why a run did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunErrorKind {
    /// The command's exit status is not 0.
    CommandExit,
    /// A deadline passed.
    Timeout,
    /// The user ended it.
    Canceled,
    /// Anything else.
    ProviderError,
}

/// Where the exit code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ExitSource {
    /// The command exited with it.
    Command,
    /// A signal ended the command.
    Signal,
    /// Crabbox itself: a step around the command failed, or a policy overrode the command's success.
    Crabbox,
}

/// One step of the sync, or one phase of the command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTiming {
    /// Name, such as `manifest` or `user-command`.
    pub name: String,
    /// How long it took.
    #[serde(rename = "ms", default, with = "millis", skip_serializing_if = "millis::is_zero")]
    pub duration: Duration,
    /// It did not run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skipped: bool,
    /// Why it did not run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl PhaseTiming {
    /// A phase that ran.
    pub fn ran(name: impl Into<String>, duration: Duration) -> Self {
        Self {
            name: name.into(),
            duration,
            ..Self::default()
        }
    }

    /// A phase that did not run.
    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            skipped: true,
            reason: reason.into(),
            ..Self::default()
        }
    }
}

impl From<Phase> for PhaseTiming {
    fn from(phase: Phase) -> Self {
        Self::ran(phase.name, phase.duration)
    }
}

/// A file that a run left on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Kind, such as `delegated-download`, `proof` or `receipt`.
    pub kind: String,
    /// Where it is.
    pub path: String,
    /// Template it was made from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// Its size.
    #[serde(rename = "bytes", default, skip_serializing_if = "is_zero")]
    pub size_bytes: u64,
}

/// Result of validating one artifact against a schema.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaValidation {
    /// The artifact's path on the box.
    pub artifact: String,
    /// The schema's path on this machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schema: String,
    /// Whether the artifact follows the schema.
    pub valid: bool,
    /// What it violates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<String>,
    /// Why it could not be validated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// The timing JSON of one run. Fields stand in the order in which they are written; those that are empty or zero are left
/// out where the name ends in `?`:
///
/// `provider, leaseId?, slug?, leaseMs?, bootstrapMs?, syncMs, syncPhases?, syncSkipped, syncDelegated?, hydrateMs?,
/// probeMs?, commandMs, commandPhases?, totalMs, endToEndMs, exitCode, runStatus?, errorKind?, actionsRunUrl?, runId?,
/// label?, machineType?, repoPath?, workdir?, stopCommand?, idleTimeout?, blockedStage?, resourceExhaustion?,
/// retryLikely?, artifacts?, schemaValidations?, leaseStopped?, leaseStopError?, exitSource?, executedTree?`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TimingReport {
    /// Provider's name.
    pub provider: String,
    /// Lease.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lease_id: String,
    /// The lease's slug.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Getting the lease.
    #[serde(
        rename = "leaseMs",
        default,
        with = "millis",
        skip_serializing_if = "millis::is_zero"
    )]
    pub lease: Duration,
    /// Waiting until the box could be reached.
    #[serde(
        rename = "bootstrapMs",
        default,
        with = "millis",
        skip_serializing_if = "millis::is_zero"
    )]
    pub bootstrap: Duration,
    /// Bringing the checkout to the box.
    #[serde(rename = "syncMs", default, with = "millis")]
    pub sync: Duration,
    /// Steps of the sync.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sync_phases: Vec<PhaseTiming>,
    /// Nothing had to travel.
    #[serde(default)]
    pub sync_skipped: bool,
    /// The provider moved the checkout itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sync_delegated: bool,
    /// Hydration.
    #[serde(
        rename = "hydrateMs",
        default,
        with = "millis",
        skip_serializing_if = "millis::is_zero"
    )]
    pub hydrate: Duration,
    /// Probing the box.
    #[serde(
        rename = "probeMs",
        default,
        with = "millis",
        skip_serializing_if = "millis::is_zero"
    )]
    pub probe: Duration,
    /// The command, and what prepares it.
    #[serde(rename = "commandMs", default, with = "millis")]
    pub command: Duration,
    /// Phases that the command named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command_phases: Vec<PhaseTiming>,
    /// Everything after the lease.
    #[serde(rename = "totalMs", default, with = "millis")]
    pub total: Duration,
    /// Everything, from asking for the lease.
    #[serde(rename = "endToEndMs", default, with = "millis")]
    pub end_to_end: Duration,
    /// Exit code of the run.
    #[serde(default)]
    pub exit_code: i32,
    /// How the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_status: Option<RunStatus>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<RunErrorKind>,
    /// The Actions run behind a hydrated workspace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actions_run_url: String,
    /// Run record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run_id: String,
    /// Label of the user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// The vendor's machine type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_type: String,
    /// Root of the repository on this machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repo_path: String,
    /// Directory on the box.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workdir: String,
    /// How to give the box back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_command: String,
    /// The lease's idle timeout, as `30m0s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub idle_timeout: String,
    /// Where the run got stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_stage: Option<BlockedStage>,
    /// The resource that ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_exhaustion: Option<Resource>,
    /// Whether another try may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_likely: Option<Retry>,
    /// Files that the run left on this machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Artifacts that were validated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schema_validations: Vec<SchemaValidation>,
    /// Whether the lease was given back; absent when nothing tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_stopped: Option<bool>,
    /// Why giving it back failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lease_stop_error: String,
    /// Where the exit code comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_source: Option<ExitSource>,
    /// Hash of the tree that the command saw.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub executed_tree: String,
}

impl TimingReport {
    /// A report with nothing but the provider.
    pub fn new(provider: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            ..Self::default()
        }
    }

    /// The one JSON line, without its line break.
    ///
    /// # Errors
    ///
    /// `Other` when encoding fails, which no field can cause.
    pub fn to_json(&self) -> Result<String> {
        json::line(self)
    }

    /// Status and kind of a command that ended by itself.
    pub fn set_exit(&mut self, exit_code: i32, source: ExitSource) {
        self.exit_code = exit_code;
        self.exit_source = Some(source);
        (self.run_status, self.error_kind) = match (exit_code, source) {
            (0, _) => (Some(RunStatus::Succeeded), None),
            (_, ExitSource::Command | ExitSource::Signal) => (Some(RunStatus::Failed), Some(RunErrorKind::CommandExit)),
            (_, ExitSource::Crabbox) => (Some(RunStatus::Failed), Some(RunErrorKind::ProviderError)),
        };
    }

    /// Status and kind of a run that an error of ours ended.
    pub fn set_error(&mut self, exit_code: i32, error: &Error) {
        self.set_exit(exit_code, ExitSource::Crabbox);
        if error.is_cancelled() {
            self.run_status = Some(RunStatus::Canceled);
            self.error_kind = Some(RunErrorKind::Canceled);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use crabbox_core::Error;

    use super::{Artifact, ExitSource, PhaseTiming, RunErrorKind, RunStatus, SchemaValidation, TimingReport};
    use crate::classify::{BlockedStage, Resource, Retry};

    pub(crate) fn full() -> TimingReport {
        TimingReport {
            provider: "local".into(),
            lease_id: "cbx_0123456789ab".into(),
            slug: "amber-crab".into(),
            lease: Duration::from_millis(1_500),
            bootstrap: Duration::from_millis(250),
            sync: Duration::from_micros(61_234_567),
            sync_phases: vec![
                PhaseTiming::ran("manifest", Duration::from_millis(12)),
                PhaseTiming::skipped("git_hydrate", "not needed here"),
                PhaseTiming::ran("finalize", Duration::from_micros(300)),
            ],
            sync_skipped: false,
            sync_delegated: true,
            hydrate: Duration::from_secs(3),
            probe: Duration::from_millis(4),
            command: Duration::from_secs(3_723),
            command_phases: vec![PhaseTiming::ran("user-command", Duration::from_secs(3_723))],
            total: Duration::from_secs(3_800),
            end_to_end: Duration::from_secs(3_801),
            exit_code: 137,
            run_status: Some(RunStatus::Failed),
            error_kind: Some(RunErrorKind::CommandExit),
            actions_run_url: "https://actions.test/1".into(),
            run_id: "run_0123456789ab".into(),
            label: "a \"label\" <&>\u{2028}".into(),
            machine_type: "m.large".into(),
            repo_path: "/home/me/repo".into(),
            workdir: "/work/repo".into(),
            stop_command: "crabbox stop --provider local --target linux --id amber-crab".into(),
            idle_timeout: "30m0s".into(),
            blocked_stage: Some(BlockedStage::ResourceExhaustion),
            resource_exhaustion: Some(Resource::Memory),
            retry_likely: Some(Retry::No),
            artifacts: vec![Artifact {
                kind: "proof".into(),
                path: "p.md".into(),
                template: "t".into(),
                size_bytes: 9,
            }],
            schema_validations: vec![SchemaValidation {
                artifact: "a.json".into(),
                valid: false,
                violations: vec!["x".into()],
                ..SchemaValidation::default()
            }],
            lease_stopped: Some(true),
            lease_stop_error: "gone".into(),
            exit_source: Some(ExitSource::Signal),
            executed_tree: "tree:abc".into(),
        }
    }

    #[test]
    fn the_json_has_every_field_in_its_place() {
        insta::assert_snapshot!(full().to_json().unwrap(), @r#"{"provider":"local","leaseId":"cbx_0123456789ab","slug":"amber-crab","leaseMs":1500,"bootstrapMs":250,"syncMs":61234,"syncPhases":[{"name":"manifest","ms":12},{"name":"git_hydrate","skipped":true,"reason":"not needed here"},{"name":"finalize"}],"syncSkipped":false,"syncDelegated":true,"hydrateMs":3000,"probeMs":4,"commandMs":3723000,"commandPhases":[{"name":"user-command","ms":3723000}],"totalMs":3800000,"endToEndMs":3801000,"exitCode":137,"runStatus":"failed","errorKind":"command-exit","actionsRunUrl":"https://actions.test/1","runId":"run_0123456789ab","label":"a \"label\" <&>\u2028","machineType":"m.large","repoPath":"/home/me/repo","workdir":"/work/repo","stopCommand":"crabbox stop --provider local --target linux --id amber-crab","idleTimeout":"30m0s","blockedStage":"resource_exhaustion","resourceExhaustion":"memory","retryLikely":"false","artifacts":[{"kind":"proof","path":"p.md","template":"t","bytes":9}],"schemaValidations":[{"artifact":"a.json","valid":false,"violations":["x"]}],"leaseStopped":true,"leaseStopError":"gone","exitSource":"signal","executedTree":"tree:abc"}"#);
    }

    #[test]
    fn empty_fields_are_left_out() {
        insta::assert_snapshot!(TimingReport::new("local").to_json().unwrap(), @r#"{"provider":"local","syncMs":0,"syncSkipped":false,"commandMs":0,"totalMs":0,"endToEndMs":0,"exitCode":0}"#);
    }

    #[test]
    fn what_is_written_is_read_back_and_written_the_same() {
        let text = full().to_json().unwrap();
        let report: TimingReport = serde_json::from_str(&text).unwrap();
        assert_eq!(report.to_json().unwrap(), text);
        let old: TimingReport = serde_json::from_str(r#"{"provider":"x","syncMs":1,"unknown":{}}"#).unwrap();
        assert_eq!((old.sync, old.exit_source), (Duration::from_millis(1), None));
    }

    #[test]
    fn the_exit_decides_the_status() {
        let mut report = TimingReport::new("local");
        report.set_exit(0, ExitSource::Command);
        assert_eq!(
            (report.run_status, report.error_kind),
            (Some(RunStatus::Succeeded), None)
        );
        report.set_exit(3, ExitSource::Command);
        assert_eq!(
            (report.run_status, report.error_kind),
            (Some(RunStatus::Failed), Some(RunErrorKind::CommandExit))
        );
        report.set_exit(1, ExitSource::Crabbox);
        assert_eq!(report.error_kind, Some(RunErrorKind::ProviderError));
        report.set_error(255, &Error::cancelled("interrupted"));
        assert_eq!(
            (report.exit_code, report.run_status, report.error_kind),
            (255, Some(RunStatus::Canceled), Some(RunErrorKind::Canceled))
        );
        report.set_error(6, &Error::sync("no space"));
        assert_eq!(report.error_kind, Some(RunErrorKind::ProviderError));
    }
}
