//! What a provider is, as data.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, Result};

macro_rules! words {
    ($(#[$doc:meta])* $vis:vis enum $name:ident as $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, weakest or first first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in files, flags and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let word = text.trim().to_ascii_lowercase();
                Self::ALL.iter().copied().find(|value| value.as_str() == word).ok_or_else(|| {
                    let known = Self::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", ");
                    Error::usage(format!(concat!("unknown ", $what, ": `{}`"), text.escape_debug()))
                        .with_hint(format!("choose one of: {known}"))
                })
            }
        }
    };
}

words! {
    /// Who owns the steps of a run.
    pub enum ProviderKind as "provider kind" {
        /// The engine reaches a machine over SSH and owns sync, run and evidence.
        SshLease = "ssh-lease",
        /// The provider executes commands through its own API.
        DelegatedRun = "delegated-run",
        /// A hosted service that can be listed and stopped but runs nothing.
        ServiceControl = "service-control",
    }
}

words! {
    /// Operating system of a box.
    pub enum OperatingSystem as "target" {
        /// Linux.
        Linux = "linux",
        /// macOS.
        Macos = "macos",
        /// Windows.
        Windows = "windows",
        /// A module runtime without an operating system of its own.
        WorkerRuntime = "worker-runtime",
    }
}

words! {
    /// How commands reach a Windows box.
    pub enum WindowsMode as "windows mode" {
        /// PowerShell.
        Normal = "normal",
        /// A Linux distribution inside Windows.
        Wsl2 = "wsl2",
    }
}

words! {
    /// What separates a box from its host and its neighbours, weakest first.
    pub enum IsolationLevel as "isolation level" {
        /// Nothing: commands run as the user who started them.
        None = "none",
        /// A process with reduced rights: another user, seccomp, Landlock or an OS sandbox profile.
        Process = "process",
        /// Kernel namespaces with a private root, such as a container.
        Container = "container",
        /// A kernel of its own in user space.
        UserspaceKernel = "userspace-kernel",
        /// A virtual machine.
        VirtualMachine = "vm",
        /// A machine that nobody else uses.
        Dedicated = "dedicated",
    }
}

words! {
    /// How long what a box wrote can live.
    pub enum Persistence as "persistence" {
        /// Gone with the box.
        Ephemeral = "ephemeral",
        /// Kept across pause and resume or by checkpoints.
        Checkpoint = "checkpoint",
        /// Kept until somebody deletes it.
        Durable = "durable",
    }
}

words! {
    /// What a box can reach, most confined first.
    pub enum Egress as "egress" {
        /// Nothing.
        None = "none",
        /// What an allowlist names.
        Allowlist = "allowlist",
        /// The whole network.
        Open = "open",
    }
}

words! {
    /// Who ends a box whose client has gone.
    pub enum TtlEnforcement as "ttl enforcement" {
        /// Nobody but `crabbox cleanup`.
        None = "none",
        /// A timer on the box.
        Box = "box",
        /// The vendor, or a process of its own that outlives the client.
        Provider = "provider",
    }
}

words! {
    /// Whether a coordinator can lease this provider on the user's behalf.
    pub enum CoordinatorMode as "coordinator mode" {
        /// Never.
        Never = "never",
        /// When one is configured.
        Supported = "supported",
    }
}

words! {
    /// What a provider advertises. Derived from what it implements; see [`crate::backend::Capabilities`].
    pub enum Feature as "feature" {
        /// Reached over SSH.
        Ssh = "ssh",
        /// The engine syncs the checkout.
        CrabboxSync = "crabbox-sync",
        /// The engine syncs the checkout as one archive through the provider's own API.
        ArchiveSync = "archive-sync",
        /// Expired boxes can be swept.
        Cleanup = "cleanup",
        /// A graphical desktop.
        Desktop = "desktop",
        /// A browser.
        Browser = "browser",
        /// A web editor.
        Code = "code",
        /// Joins a tailnet.
        Tailscale = "tailscale",
        /// Publishes ports as URLs.
        UrlBridge = "url-bridge",
        /// Checkpoints of a workspace.
        WorkspaceCheckpoint = "workspace-checkpoint",
        /// New boxes from a checkpoint.
        WorkspaceFork = "workspace-fork",
        /// A checkpoint restored in place.
        WorkspaceRestore = "workspace-restore",
        /// The vendor's own snapshots.
        ProviderSnapshot = "provider-snapshot",
        /// Persistent cache volumes.
        CacheVolume = "cache-volume",
        /// Run proofs.
        RunProof = "run-proof",
        /// A reusable session handle.
        RunSession = "run-session",
        /// Files collected by pattern.
        RunArtifacts = "run-artifacts",
        /// Single files fetched after a run.
        RunDownloads = "run-downloads",
        /// Runs a module instead of a command.
        ModuleRun = "module-run",
        /// Pause and resume.
        PauseResume = "pause-resume",
        /// MCP servers attached to a box.
        McpAttachments = "mcp-attachments",
    }
}

/// A set of features, iterated in output order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureSet(u32);

impl FeatureSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// A set of the given features.
    pub const fn of(features: &[Feature]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < features.len() {
            bits |= 1 << features[index] as u32;
            index += 1;
        }
        Self(bits)
    }

    /// Whether the feature is in the set.
    pub const fn contains(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u32) != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The features, in output order.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL
            .iter()
            .copied()
            .filter(move |feature| self.contains(*feature))
    }
}

impl Serialize for FeatureSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// An operating system and, for Windows, how it is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Operating system.
    pub os: OperatingSystem,
    /// Only for Windows.
    pub windows_mode: Option<WindowsMode>,
}

impl Target {
    /// Linux.
    pub const LINUX: Self = Self {
        os: OperatingSystem::Linux,
        windows_mode: None,
    };
    /// macOS.
    pub const MACOS: Self = Self {
        os: OperatingSystem::Macos,
        windows_mode: None,
    };
    /// Windows through PowerShell.
    pub const WINDOWS: Self = Self {
        os: OperatingSystem::Windows,
        windows_mode: Some(WindowsMode::Normal),
    };
    /// Windows through a Linux distribution inside it.
    pub const WSL2: Self = Self {
        os: OperatingSystem::Windows,
        windows_mode: Some(WindowsMode::Wsl2),
    };

    /// Whether commands are run by a POSIX shell.
    pub const fn is_posix(self) -> bool {
        !matches!(self.windows_mode, Some(WindowsMode::Normal)) && !matches!(self.os, OperatingSystem::WorkerRuntime)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.windows_mode {
            Some(mode) => write!(formatter, "{}/{mode}", self.os),
            None => formatter.pad(self.os.as_str()),
        }
    }
}

/// Maps class names (`standard`, `fast`, `large`, `beast`) to a provider's own machine types, first choice first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassTable {
    /// Class name and its machine types in order of preference.
    pub classes: &'static [(&'static str, &'static [&'static str])],
}

impl ClassTable {
    /// The machine types of a class.
    pub fn types(&self, class: &str) -> Option<&'static [&'static str]> {
        self.classes
            .iter()
            .find(|(name, _)| *name == class)
            .map(|(_, types)| *types)
    }
}

/// What the catalog says about a provider beyond the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CatalogFacts {
    /// Group in listings, such as `direct-cloud` or `local-sandbox`.
    pub category: &'static str,
    /// Where boxes run: `local`, `self-hosted`, `provider-managed`.
    pub location: &'static str,
    /// One line for a person.
    pub summary: &'static str,
}

/// Names a provider and says what it can do, as data.
#[derive(Clone, Copy, Debug)]
pub struct ProviderSpec {
    /// Canonical kebab-case name.
    pub name: &'static str,
    /// Other accepted names.
    pub aliases: &'static [&'static str],
    /// Groups providers that can route to each other; usually the name.
    pub family: &'static str,
    /// Who owns the steps of a run.
    pub kind: ProviderKind,
    /// Operating systems of its boxes. The first is the default.
    pub targets: &'static [Target],
    /// Which capability traits its backend implements. Checked against the backend at every connect.
    pub capabilities: crate::backend::Capabilities,
    /// Features that no trait expresses.
    pub extra_features: FeatureSet,
    /// The strongest isolation it can give. A box reports what it really has.
    pub isolation_level: IsolationLevel,
    /// How long what a box wrote can live.
    pub persistence: Persistence,
    /// The most confined egress it can give.
    pub egress: Egress,
    /// Who ends a box whose client has gone.
    pub ttl: TtlEnforcement,
    /// Whether a coordinator can lease it.
    pub coordinator: CoordinatorMode,
    /// Class table, if classes are mapped.
    pub classes: Option<&'static ClassTable>,
    /// Absolute directory on the box below which workspaces live.
    pub work_root: &'static str,
    /// Its config section.
    pub section: &'static crate::section::SectionSchema,
    /// Label keys that never change after creation; verified before a box is destroyed.
    pub immutable_labels: &'static [&'static str],
    /// Whether its boxes can outlive a loss of power of this machine. Where they can, every record is flushed to disk before
    /// the effect it announces; where they cannot, surviving the death of the process is enough.
    pub outlives_host: bool,
    /// Catalog facts.
    pub catalog: CatalogFacts,
}

impl ProviderSpec {
    /// Whether a name or alias means this provider; case and surrounding space do not matter.
    pub fn answers_to(&self, name: &str) -> bool {
        let name = name.trim();
        self.name.eq_ignore_ascii_case(name) || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }

    /// Everything it advertises: features of its kind, of its capabilities, and the extra ones.
    pub fn features(&self) -> FeatureSet {
        self.capabilities.features(self.kind).union(self.extra_features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_what_they_print() {
        for feature in Feature::ALL {
            assert_eq!(feature.as_str().parse::<Feature>().unwrap(), *feature);
        }
        let error = " Docker".parse::<IsolationLevel>().unwrap_err();
        assert_eq!(error.to_string(), "unknown isolation level: ` Docker`");
        assert!(error.hint().unwrap().contains("container"));
    }

    #[test]
    fn isolation_is_ordered() {
        assert!(IsolationLevel::VirtualMachine > IsolationLevel::Container);
        assert!(Egress::None < Egress::Open);
    }

    #[test]
    fn feature_sets_iterate_in_output_order() {
        let set = FeatureSet::of(&[Feature::Cleanup, Feature::Ssh]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Feature::Ssh, Feature::Cleanup]);
        assert!(!set.contains(Feature::Desktop));
    }
}
