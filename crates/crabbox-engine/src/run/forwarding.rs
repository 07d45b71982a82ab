//! Which variables of this machine reach a command.

use std::collections::{BTreeMap, BTreeSet};

use crabbox_core::Result;
use crabbox_evidence::env::{Allowlist, Author, Forwarding, Profile, Selection};

use crate::api::RunRequest;
use crate::engine::Engine;

impl Engine {
    /// Which variables may travel, and on whose word.
    pub(super) fn allowlist(&self, extra: &[String]) -> Result<Allowlist> {
        let config = &self.shared.config.config;
        let mut allowlist = Allowlist::new(self.credential_names());
        // The config has dropped what a repository file may not allow.
        allowlist.allow(config.environment_allow(), Author::Operator);
        allowlist.allow(
            extra.iter().flat_map(|list| crabbox_evidence::env::parse_names(list)),
            Author::Operator,
        );
        Ok(allowlist)
    }

    /// Names of variables that hold a credential of any provider of this build or of a known vendor.
    fn credential_names(&self) -> BTreeSet<String> {
        let sections = self.shared.registry.specs();
        let of_providers = sections
            .iter()
            .flat_map(|spec| spec.section.keys)
            .filter(|key| key.secret)
            .flat_map(|key| key.environment)
            .map(|name| (*name).to_owned());
        of_providers
            .chain(self.shared.config.config.secret_variables().map(str::to_owned))
            .collect()
    }

    pub(super) fn forwarding(
        &self,
        request: &RunRequest,
        allowlist: &Allowlist,
        preset: BTreeMap<String, String>,
    ) -> Result<(Forwarding, Vec<String>)> {
        let mut profile = Profile::default();
        for path in &request.env_from_profile {
            let loaded = Profile::read(&self.shared.directory.join(path))?;
            for skipped in &loaded.skipped {
                self.warn(format!(
                    "{}:{}: skipped: {}",
                    path.display(),
                    skipped.line,
                    skipped.reason
                ));
            }
            profile.merge(loaded);
        }
        let environment = &self.shared.runtime.environment;
        let config_profile = self
            .shared
            .config
            .config
            .profile()
            .map(|profile| profile.env.clone())
            .unwrap_or_default();
        let selection = Selection {
            local: environment
                .text()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            profile,
            config_profile,
            preset,
            denied: BTreeSet::new(),
        };
        let forwarding = selection.choose(allowlist);
        for name in &forwarding.refused {
            self.warn(format!(
                "not forwarded: {name} holds a credential and only a repository file allows it; use --allow-env {name}"
            ));
        }
        let mut secrets = crabbox_evidence::env::secret_values(&forwarding.effective());
        let credentials = self.credential_names();
        secrets.extend(
            environment
                .text()
                .filter(|(name, _)| credentials.contains(*name))
                .map(|(_, value)| value.to_owned()),
        );
        Ok((forwarding, secrets))
    }

    /// What is said about forwarding: only when somebody asked for more than the default.
    pub(super) fn forwarding_lines(
        &self,
        request: &RunRequest,
        forwarding: &Forwarding,
        allowlist: &Allowlist,
    ) -> Vec<String> {
        let asked = !request.allow_env.is_empty()
            || !request.env_from_profile.is_empty()
            || self.shared.runtime.environment.get("CRABBOX_ENV_ALLOW").is_some();
        if !asked {
            return Vec::new();
        }
        let provider = self.selected().map_or("-", |(provider, _)| provider.spec().name);
        vec![crabbox_evidence::env::summary_line(
            provider,
            "forwarded",
            &forwarding.effective(),
            allowlist,
        )]
    }
}
