//! The providers of a build.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use crabbox_core::{Error, Provider, ProviderSpec, Result};

use crate::known::PROVIDERS;

/// The providers of a build, in the order in which they were added.
#[derive(Clone, Default)]
pub struct Registry {
    providers: Vec<Arc<dyn Provider>>,
    fallback: Option<&'static str>,
}

impl Registry {
    /// A registry without providers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a provider.
    ///
    /// # Panics
    /// When its name or one of its aliases is taken: a defect of the build.
    #[must_use]
    pub fn with(mut self, provider: impl Provider + 'static) -> Self {
        let spec = provider.spec();
        for name in std::iter::once(&spec.name).chain(spec.aliases) {
            assert!(self.find(name).is_none(), "two providers answer to `{name}`");
        }
        self.providers.push(Arc::new(provider));
        self
    }

    /// Names the provider that serves when nobody selected one. It is ignored when it is not in this build.
    #[must_use]
    pub fn with_fallback(mut self, name: &'static str) -> Self {
        self.fallback = Some(name);
        self
    }

    /// The provider that serves when nobody selected one.
    ///
    /// # Errors
    /// `Usage` when this build has none.
    pub fn fallback(&self) -> Result<&Arc<dyn Provider>> {
        self.fallback.and_then(|name| self.find(name)).ok_or_else(|| {
            Error::usage("no provider selected").with_hint(format!(
                "choose one with --provider, CRABBOX_PROVIDER or `provider:` in .crabbox.yaml; this build has: {}",
                self.names()
            ))
        })
    }

    /// The provider with a name or alias.
    ///
    /// # Errors
    /// `Usage` when this build does not have it, with the nearest name or the cure.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Provider>> {
        self.find(name).ok_or_else(|| self.unknown(name))
    }

    /// Accepts the name of any provider there is, in this build or not.
    ///
    /// # Errors
    /// `Usage` for a name that stands for none, with the nearest one.
    pub fn require_known(&self, name: &str) -> Result<()> {
        if self.find(name).is_some() || is_known(name) {
            return Ok(());
        }
        Err(self.unknown(name))
    }

    /// Every provider.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Provider>> {
        self.providers.iter()
    }

    /// Every provider's spec, sorted by name.
    pub fn specs(&self) -> Vec<&'static ProviderSpec> {
        let mut specs: Vec<_> = self.providers.iter().map(|provider| provider.spec()).collect();
        specs.sort_by_key(|spec| spec.name);
        specs
    }

    /// Runs a provider's hidden entry point if the first argument names one. Called first thing in `main`, before any
    /// thread exists.
    pub fn dispatch_helper(&self, arguments: &[OsString]) -> Option<ExitCode> {
        let (word, rest) = arguments.split_first()?;
        let helper = self
            .providers
            .iter()
            .filter_map(|provider| provider.helper())
            .find(|helper| word == helper.word)?;
        Some((helper.main)(rest))
    }

    fn find(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.providers.iter().find(|provider| provider.spec().answers_to(name))
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.specs().iter().map(|spec| spec.name).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let name = name.trim();
        if is_known(name) {
            return Error::usage(format!("provider not in this build: `{name}`")).with_hint(format!(
                "rebuild with `--features provider-{name}`; this build has: {}",
                self.names()
            ));
        }
        let nearest = self
            .specs()
            .into_iter()
            .map(|spec| (strsim::jaro_winkler(spec.name, name), spec.name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(similarity, _)| *similarity > 0.8);
        let hint = match nearest {
            Some((_, nearest)) => format!("did you mean `{nearest}`? this build has: {}", self.names()),
            None => format!("this build has: {}", self.names()),
        };
        Error::usage(format!("unknown provider: `{}`", name.escape_debug())).with_hint(hint)
    }
}

fn is_known(name: &str) -> bool {
    PROVIDERS.contains(&name.trim().to_ascii_lowercase().as_str())
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_list()
            .entries(self.providers.iter().map(|provider| provider.spec().name))
            .finish()
    }
}
