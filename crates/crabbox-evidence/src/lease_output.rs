//! How other programs find a lease again, and how people give it back.

use std::path::Path;

use crabbox_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::command::quote_if_needed;
use crate::{json, private_file};

/// The file of `--lease-output`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseOutput {
    /// Provider's name.
    pub provider: String,
    /// Lease.
    pub lease_id: String,
    /// The lease's slug.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// The lease existed before this run.
    pub reused: bool,
    /// The lease stays after this run.
    pub kept: bool,
    /// The Actions run behind a hydrated workspace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actions_url: String,
    /// Run record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run_id: String,
    /// The command that gives the lease back.
    pub cleanup_command: String,
}

impl LeaseOutput {
    /// Checks what a provider returned.
    ///
    /// # Errors
    ///
    /// `Remote` when provider, lease or cleanup command is missing.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("provider", &self.provider),
            ("leaseId", &self.lease_id),
            ("cleanupCommand", &self.cleanup_command),
        ];
        match fields.into_iter().find(|(_, value)| value.trim().is_empty()) {
            None => Ok(()),
            Some((name, _)) => Err(
                Error::remote(format!("session handle of the provider lacks a field: {name}"))
                    .with_hint("report this to the provider's maintainers; the lease is still in `crabbox list`"),
            ),
        }
    }

    /// Writes the file: indented JSON, mode 0644, replaced at once.
    ///
    /// # Errors
    ///
    /// `Usage` when it cannot be written; as [`validate`](Self::validate) otherwise.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        self.validate()?;
        private_file::write_shared(path, json::pretty(self)?.as_bytes())
    }
}

/// What the command that gives a lease back names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopCommand {
    /// Provider's name.
    pub provider: String,
    /// Operating system of the box.
    pub target: String,
    /// `normal` or `wsl2`; left out when empty.
    pub windows_mode: String,
    /// Host of a machine that is not leased; left out when empty, as are the next three.
    pub static_host: String,
    /// User there.
    pub static_user: String,
    /// Port there.
    pub static_port: String,
    /// Work root there.
    pub static_work_root: String,
    /// Flags that lead to the right account or endpoint, as name without dashes and value. Never secrets.
    pub routing: Vec<(String, String)>,
    /// Variables that the command needs, such as `KUBECONFIG`. Never secrets.
    pub environment: Vec<(String, String)>,
    /// Lease.
    pub lease_id: String,
    /// The lease's slug; preferred over its id when it is not empty.
    pub slug: String,
    /// The provider knows ids only.
    pub by_id_only: bool,
}

/// One line for a shell. Userinfo is removed from URLs.
impl std::fmt::Display for StopCommand {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.environment {
            write!(formatter, "{name}={} ", quote_if_needed(&without_userinfo(value)))?;
        }
        formatter.write_str("crabbox stop")?;
        let named = [
            ("provider", &self.provider),
            ("target", &self.target),
            ("windows-mode", &self.windows_mode),
            ("static-host", &self.static_host),
            ("static-user", &self.static_user),
            ("static-port", &self.static_port),
            ("static-work-root", &self.static_work_root),
        ];
        let routing = self.routing.iter().map(|(name, value)| (name.as_str(), value));
        for (name, value) in named.into_iter().chain(routing).filter(|(_, value)| !value.is_empty()) {
            write!(formatter, " --{name} {}", quote_if_needed(&without_userinfo(value)))?;
        }
        let id = if self.by_id_only || self.slug.is_empty() {
            &self.lease_id
        } else {
            &self.slug
        };
        write!(formatter, " --id {}", quote_if_needed(id))
    }
}

fn without_userinfo(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return value.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{LeaseOutput, StopCommand};

    #[test]
    fn the_file_is_what_other_programs_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease.json");
        let output = LeaseOutput {
            provider: "local".into(),
            lease_id: "cbx_0123456789ab".into(),
            slug: "amber-crab".into(),
            kept: true,
            cleanup_command: "crabbox stop --id amber-crab".into(),
            ..LeaseOutput::default()
        };
        output.write_to(&path).unwrap();
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
        {
          "provider": "local",
          "leaseId": "cbx_0123456789ab",
          "slug": "amber-crab",
          "reused": false,
          "kept": true,
          "cleanupCommand": "crabbox stop --id amber-crab"
        }
        "#);
    }

    #[test]
    fn a_handle_without_its_parts_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease.json");
        let output = LeaseOutput {
            provider: "x".into(),
            lease_id: "y".into(),
            ..LeaseOutput::default()
        };
        let error = output.write_to(&path).unwrap_err();
        assert_eq!(
            error.message(),
            "session handle of the provider lacks a field: cleanupCommand"
        );
        assert!(!path.exists());
    }

    #[test]
    fn stop_commands_can_be_copied() {
        let mut stop = StopCommand {
            provider: "ssh".into(),
            target: "linux".into(),
            static_host: "h.test".into(),
            static_work_root: "/work dir".into(),
            routing: vec![
                ("acme-url".into(), "https://u:p@w@h.test/x@y".into()),
                ("empty".into(), String::new()),
            ],
            environment: vec![("KUBECONFIG".into(), "/k c".into())],
            lease_id: "cbx_0123456789ab".into(),
            slug: "amber-crab".into(),
            ..StopCommand::default()
        };
        assert_eq!(
            stop.to_string(),
            "KUBECONFIG='/k c' crabbox stop --provider ssh --target linux --static-host h.test --static-work-root '/work dir' \
             --acme-url https://h.test/x@y --id amber-crab"
        );
        stop.by_id_only = true;
        assert!(stop.to_string().ends_with(" --id cbx_0123456789ab"));
    }
}
