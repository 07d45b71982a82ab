//! The merged configuration in its Rust types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crabbox_core::section::{Section, SectionSchema, SettingValue};
use crabbox_core::settings::{Layer, Provenance, SectionValues, Settings};
use crabbox_core::spec::{OperatingSystem, WindowsMode};
use crabbox_core::{Error, Result, choices};

use crate::generic::{
    Actions, Broker, BrokerMode, Cache, Capacity, Forwarding, Job, Preset, Profile, ProofTemplate, Results, Run,
    Selection, Shard, Ssh, Static, Sync, Tailscale,
};
use crate::known::CREDENTIAL_VARIABLES;
use crate::load::Sections;
use crate::registry::nearest;
use crate::trust::forwards_credential;

choices! {
    /// What chose the provider.
    pub enum ProviderSource {
        /// Nothing.
        CompiledDefault = "compiled_default",
        /// The user's own file.
        UserConfig = "user_config",
        /// A repository file.
        RepoConfig = "repo_config",
        /// A variable.
        Environment = "environment",
        /// A flag.
        Flag = "flag",
        /// The run that is being continued.
        RecordedRun = "recorded_run",
        /// The lease that is being used.
        LeaseContext = "lease_context",
    }
}

impl ProviderSource {
    const fn of(layer: Layer) -> Self {
        match layer {
            Layer::Default => Self::CompiledDefault,
            Layer::UserFile => Self::UserConfig,
            Layer::RepositoryFile => Self::RepoConfig,
            Layer::Environment => Self::Environment,
            Layer::Flag => Self::Flag,
        }
    }
}

/// The provider that the configuration chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProviderSelection {
    /// Name or alias, trimmed and in lower case.
    pub name: String,
    /// What chose it.
    pub source: ProviderSource,
    /// Whether it was chosen only as the coordinator's provider.
    pub from_broker: bool,
}

/// The merged configuration.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// What to lease, and for how long.
    pub selection: Selection,
    /// The provider, if anything chose one.
    pub provider: Option<ProviderSelection>,
    /// How boxes are reached.
    pub ssh: Ssh,
    /// What travels to a box.
    pub sync: Sync,
    /// What happens around the command.
    pub run: Run,
    /// Which local variables reach the command; see [`Config::environment_allow`].
    pub forwarding: Forwarding,
    /// What is read from test reports.
    pub results: Results,
    /// How a run is split.
    pub shard: Shard,
    /// Which machines are asked for.
    pub capacity: Capacity,
    /// The workflow that prepares a box.
    pub actions: Actions,
    /// How boxes join a tailnet.
    pub tailscale: Tailscale,
    /// A machine that is already there.
    pub static_host: Static,
    /// Caches that outlive a box.
    pub cache: Cache,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Profile>,
    /// Presets outside profiles by name; see [`Config::preset`].
    pub presets: BTreeMap<String, Preset>,
    /// Proof templates outside profiles by name; see [`Config::proof_template`].
    pub proof_templates: BTreeMap<String, ProofTemplate>,
    /// Jobs by name.
    pub jobs: BTreeMap<String, Job>,
    profile_presets: BTreeMap<(String, String), Preset>,
    profile_proof_templates: BTreeMap<(String, String), ProofTemplate>,
    broker: Broker,
    sections: Sections,
    providers: Vec<&'static SectionSchema>,
    /// `CRABBOX_ENV_ALLOW` was set, and so stands for the profile's list as well.
    allow_from_environment: bool,
}

impl Config {
    pub(crate) fn new(
        sections: Sections,
        providers: &[&'static SectionSchema],
        allow_from_environment: bool,
    ) -> Result<Self> {
        let mut config = Self {
            selection: typed(&sections, "")?,
            provider: None,
            ssh: typed(&sections, "ssh")?,
            sync: typed(&sections, "sync")?,
            run: typed(&sections, "run")?,
            forwarding: typed(&sections, "env")?,
            results: typed(&sections, "results")?,
            shard: typed(&sections, "shard")?,
            capacity: typed(&sections, "capacity")?,
            actions: typed(&sections, "actions")?,
            tailscale: typed(&sections, "tailscale")?,
            static_host: typed(&sections, "static")?,
            cache: typed(&sections, "cache")?,
            profiles: named(&sections, "profiles")?,
            presets: named(&sections, "presets")?,
            proof_templates: named(&sections, "proofTemplates")?,
            jobs: named(&sections, "jobs")?,
            profile_presets: BTreeMap::new(),
            profile_proof_templates: BTreeMap::new(),
            broker: typed(&sections, "broker")?,
            sections,
            providers: providers.to_vec(),
            allow_from_environment,
        };
        config.profile_presets = nested(&config.sections, "presets")?;
        config.profile_proof_templates = nested(&config.sections, "proofTemplates")?;
        config.provider = config.select_provider();
        config.validate()?;
        Ok(config)
    }

    /// Where the value at a path of a file came from, such as `sync.timeout`, by any of its names; `None` for an unknown
    /// path and for a value that nothing set.
    pub fn provenance(&self, path: &str) -> Option<&Provenance> {
        self.sections.iter().find_map(|(section, values)| {
            let section = section.join(".");
            let full = |name: &str| match name.strip_prefix('/') {
                Some(absolute) => absolute.to_owned(),
                None if section.is_empty() => name.to_owned(),
                None => format!("{section}.{name}"),
            };
            let mut keys = values.schema().keys.iter();
            let key = keys.find(|key| {
                std::iter::once(&key.name)
                    .chain(key.aliases)
                    .any(|name| full(name) == path)
            })?;
            values.sourced(key.name).map(|sourced| &sourced.provenance)
        })
    }

    /// Whether anything but the declaration set the value at a path.
    pub fn is_set(&self, path: &str) -> bool {
        self.provenance(path)
            .is_some_and(|provenance| provenance.layer != Layer::Default)
    }

    /// What a provider is connected with.
    ///
    /// # Errors
    ///
    /// `Other` when the loader was not given the section.
    pub fn provider_settings(&self, provider: &str, schema: &'static SectionSchema) -> Result<Settings> {
        let values = self
            .values(schema.name)
            .ok_or_else(|| Error::other(format!("section was not loaded: `{}`", schema.name)))?;
        Ok(Settings::default().with_section(values.clone()).for_provider(provider))
    }

    /// The coordinator, ready to be talked to.
    ///
    /// # Errors
    ///
    /// `Usage` when a repository file chose its address and a credential of the operator would go there.
    pub fn broker(&self) -> Result<Broker> {
        self.broker_settings().section()
    }

    /// The coordinator's values for reports, without the check that [`Config::broker`] makes.
    pub(crate) fn unchecked_broker(&self) -> &Broker {
        &self.broker
    }

    fn broker_settings(&self) -> Settings {
        let values = self.values("broker").cloned();
        values
            .into_iter()
            .fold(Settings::default().for_provider("coordinator"), Settings::with_section)
    }

    /// The private key for the static host.
    ///
    /// A host that a repository file chose may only be met with a key of that repository: a regular file inside it, named by
    /// a relative path.
    ///
    /// # Errors
    ///
    /// `Usage` when a repository file chose the host and the key is not the repository's own.
    pub fn static_key(&self, repository_root: &Path) -> Result<PathBuf> {
        let chosen_by_repository = self
            .values("static")
            .is_some_and(|values| values.layer("host") == Layer::RepositoryFile);
        if !chosen_by_repository {
            return Ok(self.ssh.key.clone());
        }
        let own = self
            .values("ssh")
            .is_some_and(|values| values.layer("key") == Layer::RepositoryFile)
            && self.ssh.key.is_relative();
        let resolved = std::fs::canonicalize(repository_root)
            .and_then(|root| Ok((std::fs::canonicalize(root.join(&self.ssh.key))?, root)))
            .ok()
            .filter(|(key, root)| own && key.starts_with(root) && key.is_file());
        resolved.map(|(key, _)| key).ok_or_else(|| {
            self.refuse(
                "static.host",
                "repository-configured static.host needs a key inside the repository".to_owned(),
            )
            .with_hint(
                "set `CRABBOX_STATIC_HOST` or `--static-host` to approve the host, or a relative `ssh.key` in the file",
            )
        })
    }

    /// The selected profile; `None` when its name has no block.
    pub fn profile(&self) -> Option<&Profile> {
        self.profiles.get(&self.selection.profile)
    }

    /// A preset of the selected profile, else one outside profiles.
    pub fn preset(&self, name: &str) -> Option<&Preset> {
        let own = self
            .profile_presets
            .get(&(self.selection.profile.clone(), name.to_owned()));
        own.or_else(|| self.presets.get(name))
    }

    /// A proof template of the selected profile, else one outside profiles.
    pub fn proof_template(&self, name: &str) -> Option<&ProofTemplate> {
        let own = self
            .profile_proof_templates
            .get(&(self.selection.profile.clone(), name.to_owned()));
        own.or_else(|| self.proof_templates.get(name))
    }

    /// A job.
    ///
    /// # Errors
    ///
    /// `Usage`, naming the nearest job, when there is none of that name.
    pub fn job(&self, name: &str) -> Result<&Job> {
        self.jobs.get(name).ok_or_else(|| {
            let hint = match nearest(name, self.jobs.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None if self.jobs.is_empty() => "define jobs below `jobs:` in `.crabbox.yaml`".to_owned(),
                None => format!(
                    "choose one of: {}",
                    self.jobs.keys().cloned().collect::<Vec<_>>().join(", ")
                ),
            };
            Error::usage(format!("unknown job: `{}`", name.escape_debug())).with_hint(hint)
        })
    }

    /// Names of the local variables that may reach the command: exact, or a prefix that ends with `*`.
    ///
    /// `env.allow` and the profile's `envAllow`; `CRABBOX_ENV_ALLOW` stands for both; `--allow-env` adds. A bare `*` and
    /// what is no variable's name are left out.
    pub fn environment_allow(&self) -> Vec<String> {
        let mut names = self.forwarding.allow.clone();
        if let (false, Some(profile)) = (self.allow_from_environment, self.profile()) {
            names.extend(profile.env_allow.iter().cloned());
        }
        let mut seen: Vec<String> = Vec::new();
        for name in names {
            let bare = name.strip_suffix('*').unwrap_or(&name);
            if is_variable_name(bare) && !seen.contains(&name) {
                seen.push(name);
            }
        }
        seen
    }

    /// Whether an allowlist entry names a credential of a known provider or of the coordinator.
    pub fn is_credential_variable(&self, entry: &str) -> bool {
        let own: Vec<&str> = self.secret_variables().collect();
        forwards_credential(entry, &own)
    }

    /// Variables that hold the secrets of the sections of this build. Children that did not ask for them must not see them.
    pub fn secret_variables(&self) -> impl Iterator<Item = &'static str> {
        let keys = self.sections.values().flat_map(|values| values.schema().keys);
        keys.filter(|key| key.secret)
            .flat_map(|key| key.environment.iter().copied())
    }

    /// Every variable that is known to hold a credential: those of this build, of other providers and of the coordinator.
    pub fn credential_variables(&self) -> BTreeSet<&'static str> {
        self.secret_variables()
            .chain(CREDENTIAL_VARIABLES.iter().copied())
            .collect()
    }

    /// The merged values of a section by its path in a file; empty for the top level.
    pub fn values(&self, section: &str) -> Option<&SectionValues> {
        self.sections.get(&segments(section))
    }

    /// Every section's values with the segments of its path in a file.
    pub fn sections(&self) -> impl Iterator<Item = (&[String], &SectionValues)> {
        self.sections.iter().map(|(path, values)| (path.as_slice(), values))
    }

    /// The provider sections of this build.
    pub fn provider_sections(&self) -> &[&'static SectionSchema] {
        &self.providers
    }

    fn select_provider(&self) -> Option<ProviderSelection> {
        let own = self.values("")?.sourced("provider");
        let broker = self.values("broker")?.sourced("provider");
        let (chosen, from_broker) = match (own, broker) {
            // In one layer the plain key is the more specific choice.
            (Some(own), Some(broker)) if broker.provenance.layer > own.provenance.layer => (broker, true),
            (Some(own), _) => (own, false),
            (None, Some(broker)) => (broker, true),
            (None, None) => return None,
        };
        let SettingValue::Text(name) = &chosen.value else {
            return None;
        };
        let name = name.trim().to_lowercase();
        (!name.is_empty()).then(|| ProviderSelection {
            name,
            source: ProviderSource::of(chosen.provenance.layer),
            from_broker,
        })
    }

    fn validate(&self) -> Result<()> {
        let selection = &self.selection;
        if selection.windows_mode != WindowsMode::Normal && selection.target != OperatingSystem::Windows {
            return Err(self
                .refuse(
                    "windows.mode",
                    format!("windows mode needs target windows: `{}`", selection.windows_mode),
                )
                .with_hint("set `target: windows`, or remove the windows mode"));
        }
        if selection.desktop_env.as_str() != "xfce"
            && self.is_set("desktopEnv")
            && selection.target != OperatingSystem::Linux
        {
            return Err(self
                .refuse(
                    "desktopEnv",
                    format!("desktop environment needs target linux: `{}`", selection.desktop_env),
                )
                .with_hint("set `target: linux`, or remove the desktop environment"));
        }
        if self.broker.mode == BrokerMode::Registered && self.broker.url.is_none() {
            return Err(
                Error::usage("broker.mode=registered requires broker.url or coordinator")
                    .with_hint("set `broker.url` or `CRABBOX_COORDINATOR`"),
            );
        }
        if let Some(url) = &self.broker.url {
            let usable = ["https://", "http://"]
                .iter()
                .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
            if !usable {
                return Err(self
                    .refuse("broker.url", "coordinator is not an http or https URL".to_owned())
                    .with_hint("write it as `https://host`"));
            }
        }
        self.cache.all_volumes()?;
        Ok(())
    }

    fn refuse(&self, path: &str, message: String) -> Error {
        let error = Error::usage(message);
        match self.provenance(path) {
            Some(provenance) if !provenance.place.is_empty() => error.context(provenance),
            _ => error,
        }
    }
}

/// The sections' keys with where they came from, without values.
impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("provider", &self.provider)
            .field("sections", &self.sections)
            .finish_non_exhaustive()
    }
}

/// Whether a text can be the name of a variable.
pub(crate) fn is_variable_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn typed<T: Section>(sections: &Sections, path: &str) -> Result<T> {
    match sections.get(&segments(path)) {
        Some(values) => T::from_values(values),
        None => T::from_values(&SectionValues::defaults(T::SCHEMA)?),
    }
}

fn segments(path: &str) -> Vec<String> {
    path.split('.')
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}

fn named<T: Section>(sections: &Sections, parent: &str) -> Result<BTreeMap<String, T>> {
    let named = sections.iter().filter_map(|(path, values)| match path.as_slice() {
        [first, name] if first == parent => Some((name, values)),
        _ => None,
    });
    named
        .map(|(name, values)| Ok((name.clone(), T::from_values(values)?)))
        .collect()
}

fn nested<T: Section>(sections: &Sections, middle: &str) -> Result<BTreeMap<(String, String), T>> {
    let nested = sections.iter().filter_map(|(path, values)| match path.as_slice() {
        [first, profile, kind, name] if first == "profiles" && kind == middle => Some(((profile, name), values)),
        _ => None,
    });
    nested
        .map(|((profile, name), values)| Ok(((profile.clone(), name.clone()), T::from_values(values)?)))
        .collect()
}
