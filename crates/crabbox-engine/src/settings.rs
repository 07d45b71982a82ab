//! What the engine reads from the config, in the terms in which it works.

use std::sync::Arc;
use std::time::Duration;

use crabbox_config::Config;
use crabbox_core::request::Requirements;
use crabbox_core::spec::OperatingSystem;
use crabbox_core::{Error, ProviderSpec, Result, Target};

use crate::acquire::LeasePlan;
use crate::engine::Engine;

/// A view of the config.
pub(crate) struct View<'a>(&'a Config);

/// How to sync, from the config.
#[derive(Clone)]
pub(crate) struct SyncSettings {
    pub(crate) exclude: Vec<String>,
    pub(crate) include: Vec<String>,
    pub(crate) plain: bool,
    pub(crate) delete: bool,
    pub(crate) checksum: bool,
    pub(crate) timeout: Duration,
    pub(crate) warn_files: u64,
    pub(crate) warn_bytes: u64,
    pub(crate) fail_files: u64,
    pub(crate) fail_bytes: u64,
    pub(crate) allow_large: bool,
}

impl SyncSettings {
    pub(crate) fn directory_only(&self) -> bool {
        self.plain
    }
}

impl View<'_> {
    pub(crate) fn sync(&self) -> SyncSettings {
        let sync = &self.0.sync;
        SyncSettings {
            exclude: sync.exclude.clone(),
            include: sync.include.clone(),
            plain: sync.source == crabbox_config::SyncSource::Directory,
            delete: sync.delete,
            checksum: sync.checksum,
            timeout: sync.timeout,
            warn_files: sync.warn_files,
            warn_bytes: sync.warn_bytes,
            fail_files: sync.fail_files,
            fail_bytes: sync.fail_bytes,
            allow_large: sync.allow_large,
        }
    }

    /// What the selected profile demands of a box.
    pub(crate) fn requirements(&self) -> Requirements {
        let mut requirements = Requirements::default();
        if let Some(profile) = self.0.profiles.get(&self.0.selection.profile) {
            requirements.isolation = profile.require_isolation;
            requirements.egress = profile.require_egress;
            requirements.persistence = profile.require_persistence;
            requirements.ttl = profile.require_ttl;
        }
        requirements
    }
}

impl Engine {
    pub(crate) fn settings(&self) -> View<'_> {
        View(&self.shared.config.config)
    }

    /// Settles what kind of box to get. Everything that can be refused is refused here, before anything is paid for.
    pub(crate) fn lease_plan(&self) -> Result<LeasePlan> {
        let (provider, by_default) = self.selected()?;
        let spec = provider.spec();
        let selection = &self.shared.config.config.selection;
        let target = target(spec, selection.target, selection.windows_mode)?;
        refuse_missing_capabilities(spec, selection.desktop, selection.browser, selection.code)?;
        let requirements = self.settings().requirements();
        honourable(spec, &requirements)?;
        let backend = self.connect(&*provider)?;
        backend.admit(&requirements)?;
        if by_default {
            self.emit(crate::event::Event::DefaultProvider {
                provider: spec.name.to_owned(),
            });
        }
        Ok(LeasePlan {
            provider: Arc::clone(&provider),
            backend,
            profile: selection.profile.clone(),
            class: selection.class.clone(),
            server_type: selection.server_type.clone(),
            target,
            ttl: selection.ttl,
            idle_timeout: selection.idle_timeout,
            requirements,
        })
    }
}

fn target(spec: &ProviderSpec, os: OperatingSystem, mode: crabbox_core::spec::WindowsMode) -> Result<Target> {
    let windows_mode = (os == OperatingSystem::Windows).then_some(mode);
    let wanted = Target { os, windows_mode };
    if spec.targets.contains(&wanted) {
        return Ok(wanted);
    }
    let known: Vec<_> = spec.targets.iter().map(ToString::to_string).collect();
    Err(
        Error::usage(format!("provider {} has no boxes with target: `{wanted}`", spec.name))
            .with_hint(format!("use --target with one of: {}", known.join(", "))),
    )
}

fn refuse_missing_capabilities(spec: &ProviderSpec, desktop: bool, browser: bool, code: bool) -> Result<()> {
    use crabbox_core::Feature;
    for (wanted, feature) in [
        (desktop, Feature::Desktop),
        (browser, Feature::Browser),
        (code, Feature::Code),
    ] {
        if wanted && !spec.features().contains(feature) {
            return Err(
                Error::usage(format!("provider {} does not support --{feature}", spec.name))
                    .with_hint("leave the option out or choose a provider that supports it"),
            );
        }
    }
    Ok(())
}

/// Compares what a profile demands with the best that a provider can give.
fn honourable(spec: &ProviderSpec, requirements: &Requirements) -> Result<()> {
    let refuse = |what: &str, wanted: &str, best: &str| {
        Err(
            Error::prerequisite(format!("provider {} cannot give {what}: `{wanted}`", spec.name)).with_hint(format!(
                "its best is `{best}`; choose another provider or change the profile's `require`"
            )),
        )
    };
    if let Some(isolation) = requirements.isolation
        && isolation > spec.isolation_level
    {
        return refuse("isolation", isolation.as_str(), spec.isolation_level.as_str());
    }
    if let Some(egress) = requirements.egress
        && egress < spec.egress
    {
        return refuse("egress", egress.as_str(), spec.egress.as_str());
    }
    if let Some(persistence) = requirements.persistence
        && persistence > spec.persistence
    {
        return refuse("persistence", persistence.as_str(), spec.persistence.as_str());
    }
    if let Some(ttl) = requirements.ttl
        && ttl > spec.ttl
    {
        return refuse("ttl enforcement", ttl.as_str(), spec.ttl.as_str());
    }
    Ok(())
}
