//! Flags, variables and files become one config.

use crabbox_config::{FlagValue, Loaded, Loader};
use crabbox_core::Result;
use crabbox_core::section::{Section as _, SectionSchema};

use crate::program::EMBEDDED_PROVIDER;
use crate::session::Session;

/// Sections that belong to no provider and have flags.
const GENERIC: &[&SectionSchema] = &[
    crabbox_config::Selection::SCHEMA,
    crabbox_config::Broker::SCHEMA,
    crabbox_config::Ssh::SCHEMA,
    crabbox_config::Sync::SCHEMA,
    crabbox_config::Run::SCHEMA,
    crabbox_config::Forwarding::SCHEMA,
    crabbox_config::Results::SCHEMA,
    crabbox_config::Shard::SCHEMA,
    crabbox_config::Capacity::SCHEMA,
    crabbox_config::Actions::SCHEMA,
    crabbox_config::Tailscale::SCHEMA,
    crabbox_config::Static::SCHEMA,
    crabbox_config::Cache::SCHEMA,
];

impl Session {
    /// Reads the config and prints what is probably not meant.
    pub(crate) fn config(&self) -> Result<Loaded> {
        self.config_with(Vec::new())
    }

    /// As [`Session::config`], with settings that are weaker than flags and stronger than everything else.
    pub(crate) fn config_with(&self, settings: Vec<FlagValue>) -> Result<Loaded> {
        let loaded = self.load(settings)?;
        for warning in &loaded.warnings {
            self.output.warning(&format!("{warning} ({})", warning.hint));
        }
        let selected = loaded
            .config
            .provider
            .as_ref()
            .map_or(EMBEDDED_PROVIDER, |provider| &provider.name);
        for (flag, provider) in self.idle_flags(selected) {
            self.output.warning(&format!(
                "--{flag} belongs to provider {provider} and changes nothing here"
            ));
        }
        Ok(loaded)
    }

    /// Reads the config and says nothing.
    pub(crate) fn load(&self, settings: Vec<FlagValue>) -> Result<Loaded> {
        Loader::new(self.environment.clone(), &self.directory)
            .providers(self.schemas())
            .flags(settings)
            .flags(self.flag_values())
            .load()
    }

    /// Given flags that belong to other providers only, with one of those.
    fn idle_flags(&self, selected: &str) -> Vec<(&str, &'static str)> {
        let specs = self.registry.specs();
        let has = |schema: &SectionSchema, name: &str| schema.keys.iter().any(|key| key.flag == Some(name));
        self.given
            .iter()
            .filter_map(|(name, _)| {
                let owner = specs.iter().find(|spec| has(spec.section, name))?;
                let used = GENERIC.iter().any(|schema| has(schema, name))
                    || specs
                        .iter()
                        .any(|spec| spec.answers_to(selected) && has(spec.section, name));
                (!used).then_some((name, owner.name))
            })
            .collect()
    }

    fn schemas(&self) -> Vec<&'static SectionSchema> {
        self.registry.specs().into_iter().map(|spec| spec.section).collect()
    }

    /// The flags that set a key, with the key.
    fn flag_values(&self) -> Vec<FlagValue> {
        let schemas: Vec<_> = GENERIC.iter().copied().chain(self.schemas()).collect();
        let declared = |name: &str| {
            let keys = schemas
                .iter()
                .flat_map(|schema| schema.keys.iter().map(|key| (schema.name, key)));
            keys.into_iter()
                .find(|(_, key)| key.flag == Some(name))
                .map(|(section, key)| (section, key.name))
        };
        self.given
            .iter()
            .filter_map(|(name, values)| {
                let (section, key) = declared(name)?;
                Some(FlagValue {
                    section: section.to_owned(),
                    key: key.to_owned(),
                    values: values.to_vec(),
                })
            })
            .collect()
    }
}
