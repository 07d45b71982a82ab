//! Profiles, presets, proof templates and jobs: blocks under names of the user's choice.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_core::spec::{Egress, IsolationLevel, OperatingSystem, Persistence, TtlEnforcement, WindowsMode};
use crabbox_core::{Section, choices};

use super::selection::{Architecture, DesktopEnvironment, Network};

/// What a kind of run brings along and demands.
#[derive(Clone, Debug, Section)]
#[section(name = "profiles.*")]
#[non_exhaustive]
pub struct Profile {
    /// Variables of the command, with their values.
    #[key]
    pub env: BTreeMap<String, String>,
    /// Variables that are forwarded besides `env.allow`. A repository file cannot name a credential.
    #[key(alias = "env.allow", merge = append_unique)]
    pub env_allow: Vec<String>,
    /// Files that are collected after the command.
    #[key]
    pub artifact_globs: Vec<String>,
    /// Whether `doctor` checks what follows.
    #[key(name = "doctor.enabled")]
    pub doctor_enabled: bool,
    /// Tools that the box must have.
    #[key(name = "doctor.tools")]
    pub doctor_tools: Vec<String>,
    /// Major version of Node that the box must have.
    #[key(name = "doctor.nodeMajor")]
    pub doctor_node_major: Option<u32>,
    /// Free gigabytes that the box must have.
    #[key(name = "doctor.minDiskGB")]
    pub doctor_min_disk_gb: Option<u64>,
    /// Whether the box must have Docker.
    #[key(name = "doctor.requireDocker")]
    pub doctor_require_docker: bool,
    /// Whether the box must have Docker Compose.
    #[key(name = "doctor.requireCompose")]
    pub doctor_require_compose: bool,
    /// Weakest isolation that is accepted.
    #[key(name = "require.isolation")]
    pub require_isolation: Option<IsolationLevel>,
    /// Widest egress that is accepted.
    #[key(name = "require.egress")]
    pub require_egress: Option<Egress>,
    /// How long what a box wrote must be able to live.
    #[key(name = "require.persistence")]
    pub require_persistence: Option<Persistence>,
    /// Who must end a box whose client has gone.
    #[key(name = "require.ttl")]
    pub require_ttl: Option<TtlEnforcement>,
}

/// A command with placeholders.
#[derive(Clone, Debug, Section)]
#[section(name = "presets.*")]
#[non_exhaustive]
pub struct Preset {
    /// The command; `{{name}}` is replaced by a variable.
    #[key]
    pub command: Option<String>,
    /// Whether the command is one line for the shell.
    #[key]
    pub shell: bool,
    /// Variables of the command; they win over the profile's.
    #[key]
    pub env: BTreeMap<String, String>,
    /// Whether the preflight runs first.
    #[key]
    pub preflight: bool,
    /// Files that are collected after the command.
    #[key]
    pub artifact_globs: Vec<String>,
    /// Proof template that belongs to it.
    #[key]
    pub proof_template: Option<String>,
}

/// Words for a run's proof.
#[derive(Clone, Debug, Section)]
#[section(name = "proofTemplates.*")]
#[non_exhaustive]
pub struct ProofTemplate {
    /// What behaviour the run is about.
    #[key]
    pub behavior_addressed: Option<String>,
    /// Which real environment was used.
    #[key]
    pub real_environment_tested: Option<String>,
    /// What was done.
    #[key]
    pub exact_steps: Option<String>,
    /// What was seen.
    #[key]
    pub observed_result: Option<String>,
    /// What was not tried.
    #[key]
    pub not_tested: Option<String>,
}

choices! {
    /// When a job gives its lease back.
    pub enum StopPolicy {
        /// When the job created it.
        Auto = "auto",
        /// Always.
        Always = "always",
        /// After success.
        Success = "success",
        /// After failure.
        Failure = "failure",
        /// Never.
        Never = "never",
    }
}

/// A named sequence: lease, hydrate, run, stop.
#[derive(Clone, Debug, Section)]
#[section(name = "jobs.*")]
#[non_exhaustive]
pub struct Job {
    /// Provider.
    #[key]
    pub provider: Option<String>,
    /// Operating system of the box.
    #[key(alias = "targetOS")]
    pub target: Option<OperatingSystem>,
    /// How commands reach a Windows box.
    #[key(name = "windows.mode")]
    pub windows_mode: Option<WindowsMode>,
    /// Profile.
    #[key]
    pub profile: Option<String>,
    /// Machine class.
    #[key]
    pub class: Option<String>,
    /// Processor family.
    #[key]
    pub architecture: Option<Architecture>,
    /// Exact machine type.
    #[key(alias = "type")]
    pub server_type: Option<String>,
    /// Market that machines are bought on.
    #[key(alias = "capacity.market")]
    pub market: Option<String>,
    /// Longest life of the lease.
    #[key]
    pub ttl: Option<Duration>,
    /// How long the lease may be idle.
    #[key]
    pub idle_timeout: Option<Duration>,
    /// Whether the box has a desktop.
    #[key]
    pub desktop: Option<bool>,
    /// Which desktop.
    #[key]
    pub desktop_env: Option<DesktopEnvironment>,
    /// Whether the box has a browser.
    #[key]
    pub browser: Option<bool>,
    /// Whether the box has a web editor.
    #[key]
    pub code: Option<bool>,
    /// Which address of the box is used.
    #[key]
    pub network: Option<Network>,
    /// Whether a GitHub Actions workflow prepares the box.
    #[key(name = "hydrate.actions")]
    pub hydrate_actions: bool,
    /// Whether the box becomes a GitHub runner for that.
    #[key(name = "hydrate.githubRunner")]
    pub hydrate_github_runner: bool,
    /// Longest wait for the workflow.
    #[key(name = "hydrate.waitTimeout")]
    pub hydrate_wait_timeout: Option<Duration>,
    /// Minutes that the workflow keeps the box prepared.
    #[key(name = "hydrate.keepAliveMinutes")]
    pub hydrate_keep_alive_minutes: Option<u32>,
    /// Repository of the workflow.
    #[key(name = "actions.repo")]
    pub actions_repo: Option<String>,
    /// Workflow file.
    #[key(name = "actions.workflow")]
    pub actions_workflow: Option<String>,
    /// Job of the workflow.
    #[key(name = "actions.job")]
    pub actions_job: Option<String>,
    /// Git ref that the workflow runs on.
    #[key(name = "actions.ref")]
    pub actions_ref: Option<String>,
    /// Inputs of the workflow, each `name=value`.
    #[key(name = "actions.fields")]
    pub actions_fields: Vec<String>,
    /// Whether the command is one line for the shell.
    #[key]
    pub shell: bool,
    /// The command; without `shell` it is split at spaces.
    #[key]
    pub command: Option<String>,
    /// Whether nothing is synced.
    #[key]
    pub no_sync: bool,
    /// Whether the job only syncs.
    #[key]
    pub sync_only: bool,
    /// Whether content is compared instead of size and time.
    #[key]
    pub checksum: Option<bool>,
    /// Whether the sync limits only warn.
    #[key]
    pub force_sync_large: bool,
    /// JUnit files on the box.
    #[key]
    pub junit: Vec<String>,
    /// Label of the run.
    #[key]
    pub label: Option<String>,
    /// Files that are collected after the command.
    #[key]
    pub artifact_globs: Vec<String>,
    /// Files that must be there after the command.
    #[key]
    pub required_artifacts: Vec<String>,
    /// Single files that are fetched, each `remote=local`.
    #[key]
    pub downloads: Vec<String>,
    /// When the lease is given back.
    #[key(default = "auto")]
    pub stop: StopPolicy,
}
