//! Whether this machine and the selected provider are ready.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crabbox_core::request::{Check, CheckStatus, Probe};
use crabbox_core::settings::Layer;
use crabbox_core::{Error, ErrorKind, Provider};

use crate::api::{DoctorOutcome, DoctorRequest};
use crate::engine::Engine;

/// Longest look at one provider.
const PROVIDER_LIMIT: Duration = Duration::from_secs(10);

impl Engine {
    /// Checks this machine and the selected provider, or every provider of this build.
    pub async fn doctor(&self, request: DoctorRequest) -> Vec<DoctorOutcome> {
        let machine = self.machine_checks();
        if request.all {
            let mut outcomes = Vec::new();
            for provider in self.shared.registry.iter() {
                outcomes.push(self.provider_outcome(provider, machine.clone(), request.deep).await);
            }
            return outcomes;
        }
        match self.selected() {
            Ok((provider, by_default)) => {
                let mut checks = machine;
                if by_default {
                    let line = format!("none selected; {} serves", provider.spec().name);
                    checks.push(Check::new("provider-selection", CheckStatus::Ok, line));
                }
                vec![self.provider_outcome(&provider, checks, request.deep).await]
            }
            Err(error) => {
                let mut checks = machine;
                checks.push(problem("provider-selection", &error));
                vec![outcome(String::new(), checks)]
            }
        }
    }

    async fn provider_outcome(
        &self,
        provider: &Arc<dyn Provider>,
        mut checks: Vec<Check>,
        deep: bool,
    ) -> DoctorOutcome {
        let name = provider.spec().name;
        let mut probe = Probe::default();
        probe.deep = deep;
        match self.connect(&**provider) {
            Err(error) => checks.push(problem("provider", &error)),
            Ok(backend) => match tokio::time::timeout(PROVIDER_LIMIT, backend.doctor(probe)).await {
                Ok(Ok(report)) => checks.extend(report.checks),
                Ok(Err(error)) => checks.push(problem("provider", &error)),
                Err(_) => {
                    let line = format!("no answer within {} s", PROVIDER_LIMIT.as_secs());
                    checks.push(Check::new("provider", CheckStatus::Failed, line));
                }
            },
        }
        outcome(name.to_owned(), checks)
    }

    fn machine_checks(&self) -> Vec<Check> {
        let mut checks = vec![self.config_check()];
        checks.push(self.state_check());
        checks.push(match self.stores().claims.listing() {
            Ok(listing) if listing.problems.is_empty() => {
                Check::new("claims", CheckStatus::Ok, format!("{} claims", listing.claims.len()))
            }
            Ok(listing) => {
                let line = format!("{} damaged claims; see `crabbox claims list`", listing.problems.len());
                Check::new("claims", CheckStatus::Warning, line)
            }
            Err(error) => problem("claims", &error),
        });
        checks.push(
            match self.source().and_then(|checkout| checkout.source.require_syncable()) {
                Ok(()) => Check::new("checkout", CheckStatus::Ok, "this directory can be synced"),
                Err(error) => Check {
                    status: CheckStatus::Warning,
                    ..problem("checkout", &error)
                },
            },
        );
        checks
    }

    fn config_check(&self) -> Check {
        // The user's own file may hold credentials; those of a repository cannot.
        let mut own = self.shared.config.files.iter();
        let shared = own.find(|file| file.found && file.layer == Layer::UserFile && is_shared(&file.path));
        if let Some(file) = shared {
            let path = file.path.display();
            let line = format!("config file is open to others: `{path}`; run `chmod 600 {path}`");
            return Check::new("config", CheckStatus::Failed, line);
        }
        match self.shared.config.check() {
            Ok(()) => Check::new(
                "config",
                CheckStatus::Ok,
                "every file can be read and every key is known",
            ),
            Err(error) => Check {
                status: CheckStatus::Warning,
                ..problem("config", &error)
            },
        }
    }

    fn state_check(&self) -> Check {
        let state = &self.shared.runtime.directories.state;
        let probe = self.shared.stores.probe.create_directory(state);
        match probe {
            Ok(()) => Check::new("state", CheckStatus::Ok, format!("{}", state.display())),
            Err(error) => problem("state", &error),
        }
    }
}

/// Whether anybody but its owner can do anything with a file.
#[cfg(unix)]
fn is_shared(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_shared(_path: &Path) -> bool {
    false
}

fn problem(name: &str, error: &Error) -> Check {
    let status = match error.kind() {
        ErrorKind::Prerequisite => CheckStatus::Missing,
        _ => CheckStatus::Failed,
    };
    let message = match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    };
    Check::new(name, status, message)
}

fn outcome(provider: String, checks: Vec<Check>) -> DoctorOutcome {
    DoctorOutcome {
        ok: !checks.iter().any(|check| check.status.is_problem()),
        provider,
        checks,
    }
}
