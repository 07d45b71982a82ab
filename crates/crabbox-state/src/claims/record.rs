//! One claim, in the shape that both implementations share.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_core::{Error, LeaseId, Result};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::time::seconds;

/// Binds a lease to a checkout on this machine: the local half of every ownership check.
///
/// Fields, their order and the rules by which empty ones are left out are those of the Go implementation. Times are
/// RFC 3339, UTC, seconds. Fields that this version does not know stay in `unknown` and survive a rewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ClaimRecord {
    /// The lease; equals the file's stem. Empty in an unfinished reservation.
    #[serde(rename = "leaseID")]
    pub lease_id: String,
    /// 32 hex digits, new with every write.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Friendly name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Provider as stored; [`ClaimRecord::provider_name`] resolves markers and aliases.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Provider's id or name of the resource.
    #[serde(rename = "cloudID", skip_serializing_if = "String::is_empty")]
    pub cloud_id: String,
    /// Immutable number of the resource where `cloud_id` is a name that can be used again.
    #[serde(rename = "cloudNumericID", skip_serializing_if = "is_zero")]
    pub cloud_numeric_id: i64,
    /// Immutable text identity of the resource, for the same purpose.
    #[serde(rename = "cloudImmutableID", skip_serializing_if = "String::is_empty")]
    pub cloud_immutable_id: String,
    /// Account, endpoint or project that owns the resource; opaque here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider_scope: String,
    /// Host of a static lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub static_host: String,
    /// User of a static lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub static_user: String,
    /// Port of a static lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub static_port: String,
    /// Work root of a static lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub static_work_root: String,
    /// Target system, for static and fixed-create claims.
    #[serde(rename = "targetOS", skip_serializing_if = "String::is_empty")]
    pub target_os: String,
    /// Windows mode, for static and fixed-create claims.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub windows_mode: String,
    /// Peer group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pond: String,
    /// Absolute root of the checkout that owns the lease; empty when none does.
    pub repo_root: String,
    /// When this checkout took the lease.
    pub claimed_at: String,
    /// When the lease was last used.
    pub last_used_at: String,
    /// Idle budget for local cleanup, in seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub idle_timeout_seconds: i64,
    /// Tailnet address.
    #[serde(rename = "tailscaleIPv4", skip_serializing_if = "String::is_empty")]
    pub tailscale_ipv4: String,
    /// Tailnet name, fully qualified.
    #[serde(rename = "tailscaleFQDN", skip_serializing_if = "String::is_empty")]
    pub tailscale_fqdn: String,
    /// Tailnet host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tailscale_hostname: String,
    /// Tailnet tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tailscale_tags: Vec<String>,
    /// Where a person signs the box in to the tailnet.
    #[serde(rename = "tailscaleLoginURL", skip_serializing_if = "String::is_empty")]
    pub tailscale_login_url: String,
    /// Exit node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tailscale_exit_node: String,
    /// Whether the local network stays reachable past the exit node.
    #[serde(rename = "tailscaleExitLAN", skip_serializing_if = "is_false")]
    pub tailscale_exit_lan: bool,
    /// Last known SSH host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssh_host: String,
    /// Last known SSH port.
    #[serde(skip_serializing_if = "is_zero")]
    pub ssh_port: i64,
    /// Address of a bridge.
    #[serde(rename = "bridgeURL", skip_serializing_if = "String::is_empty")]
    pub bridge_url: String,
    /// Coordinator at which a direct lease is registered.
    #[serde(rename = "coordinatorRegistrationURL", skip_serializing_if = "String::is_empty")]
    pub coordinator_registration_url: String,
    /// Registration at a runtime adapter.
    #[serde(rename = "runtimeAdapterRegistrationID", skip_serializing_if = "String::is_empty")]
    pub runtime_adapter_registration_id: String,
    /// Registration at a runtime adapter that is not confirmed yet.
    #[serde(
        rename = "runtimeAdapterPendingRegistrationID",
        skip_serializing_if = "String::is_empty"
    )]
    pub runtime_adapter_pending_registration_id: String,
    /// Cache volumes on the lease, `key:path`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache_volumes: Vec<String>,
    /// Provider labels that prove ownership later.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Intent of a lease whose id the caller chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_create_intent: Option<FixedCreateIntent>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What was asked of a provider under an id that the caller chose, so that asking again is safe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct FixedCreateIntent {
    /// Format of the fingerprint.
    pub version: i64,
    /// Digest of every field that matters to the creation.
    pub fingerprint: String,
    /// Account, endpoint or project.
    pub provider_scope: String,
    /// Friendly name.
    pub slug: String,
    /// RFC 3339, UTC, nanoseconds.
    pub created_at: String,
    /// `prepared`, `acquired` or `released`.
    pub state: String,
    /// What the provider needs to find its attempt again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attempt: BTreeMap<String, String>,
    /// Attempts that are known to have failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed_attempts: Vec<String>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl ClaimRecord {
    /// Makes the claim of a checkout on a new lease.
    pub fn new(lease: &LeaseId, repo_root: impl Into<String>, now: Timestamp) -> Self {
        Self {
            lease_id: lease.to_string(),
            repo_root: repo_root.into(),
            claimed_at: seconds(now),
            last_used_at: seconds(now),
            ..Self::default()
        }
    }

    /// The lease, unless this is an unfinished reservation.
    pub fn lease(&self) -> Option<LeaseId> {
        self.lease_id.parse().ok()
    }

    /// Whether this is a reservation that names no lease yet.
    pub fn is_incomplete(&self) -> bool {
        self.lease_id.is_empty()
    }

    /// Whether this is the tombstone of a lease whose id the caller chose and whose resource is gone.
    pub fn is_released(&self) -> bool {
        self.fixed_create_intent
            .as_ref()
            .is_some_and(|intent| intent.state == "released")
    }

    /// Whether the provider field is a marker that older versions refuse.
    pub fn is_fixed_create(&self) -> bool {
        matches!(self.provider.as_str(), "aws-fixed-v1" | "machine0-fixed-v1")
    }

    /// Canonical name of the provider.
    pub fn provider_name(&self) -> &str {
        match self.provider.as_str() {
            "aws-fixed-v1" => "aws",
            "machine0-fixed-v1" => "machine0",
            "exec-provider" => "external",
            plain => plain,
        }
    }

    /// Gives the lease to a checkout. Another checkout keeps it unless `reclaim`.
    ///
    /// The claim time starts again when the owner changes or with `reclaim`.
    ///
    /// # Errors
    /// `Usage` when another checkout owns the lease.
    pub fn bind_repository(&mut self, repo_root: &str, reclaim: bool, now: Timestamp) -> Result<()> {
        let differs = self.repo_root != repo_root;
        if differs && !self.repo_root.is_empty() && !repo_root.is_empty() && !reclaim {
            return Err(Error::usage(format!(
                "lease {} is claimed by repo: `{}`",
                self.lease_id, self.repo_root
            ))
            .with_lease(self.lease_id.clone())
            .with_hint(format!("use --reclaim to claim it for {repo_root}")));
        }
        if self.claimed_at.is_empty() || reclaim || (differs && !repo_root.is_empty()) {
            self.claimed_at = seconds(now);
        }
        if !repo_root.is_empty() {
            repo_root.clone_into(&mut self.repo_root);
        }
        self.last_used_at = seconds(now);
        Ok(())
    }

    /// Sets provider, scope and peer group; an empty value keeps what is there, and a marker stays.
    pub fn set_identity(&mut self, provider: &str, provider_scope: &str, pond: &str) {
        if !self.is_fixed_create() {
            overwrite(&mut self.provider, provider);
        }
        overwrite(&mut self.provider_scope, provider_scope);
        overwrite(&mut self.pond, pond);
    }

    /// Everything that says which resource of which provider the claim is about.
    pub(super) fn resource(&self) -> impl PartialEq + use<'_> {
        (
            (
                self.lease_id.as_str(),
                self.provider_name(),
                self.provider_scope.as_str(),
            ),
            (
                self.cloud_id.as_str(),
                self.cloud_numeric_id,
                self.cloud_immutable_id.as_str(),
            ),
        )
    }

    /// Records where the box answers; an empty host and port 0 keep what is there.
    pub fn set_endpoint(&mut self, host: &str, port: u16) {
        overwrite(&mut self.ssh_host, host);
        if port != 0 {
            self.ssh_port = i64::from(port);
        }
    }

    /// Forgets where the box answered, as for one that is stopped, paused, deleted or being deleted.
    pub fn clear_endpoint(&mut self) {
        self.ssh_host.clear();
        self.ssh_port = 0;
    }

    /// Records a use. The idle budget changes only when one is given: a heartbeat must not shorten it.
    pub fn touch(&mut self, now: Timestamp, idle_timeout: Option<Duration>) {
        self.last_used_at = seconds(now);
        if let Some(idle_timeout) = idle_timeout {
            self.idle_timeout_seconds = i64::try_from(idle_timeout.as_secs()).unwrap_or(i64::MAX);
        }
    }

    /// When local cleanup may take the lease for idle: last use plus budget; `None` without a budget or a valid time.
    pub fn idle_deadline(&self) -> Option<Timestamp> {
        let last: Timestamp = self.last_used_at.parse().ok()?;
        (self.idle_timeout_seconds > 0)
            .then(|| {
                last.checked_add(SignedDuration::from_secs(self.idle_timeout_seconds))
                    .ok()
            })
            .flatten()
    }

    /// Why the values are impossible, if they are.
    pub(super) fn defect(&self) -> Option<&'static str> {
        let time = |text: &str| text.is_empty() || text.parse::<Timestamp>().is_ok();
        if !time(&self.claimed_at) {
            Some("claimedAt is not an rfc 3339 time")
        } else if !time(&self.last_used_at) {
            Some("lastUsedAt is not an rfc 3339 time")
        } else if self.idle_timeout_seconds < 0 {
            Some("idleTimeoutSeconds is negative")
        } else {
            None
        }
    }
}

fn overwrite(field: &mut String, value: &str) {
    if !value.is_empty() {
        value.clone_into(field);
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05.678Z".parse().unwrap()
    }

    fn claim() -> ClaimRecord {
        ClaimRecord::new(&"cbx_abcdef123456".parse().unwrap(), "/repo/a", now())
    }

    #[test]
    fn required_fields_stay_and_empty_ones_go() {
        let text = String::from_utf8(json::pretty(&claim()).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\n  \"leaseID\": \"cbx_abcdef123456\",\n  \"repoRoot\": \"/repo/a\",\n  \"claimedAt\": \
             \"2026-01-02T03:04:05Z\",\n  \"lastUsedAt\": \"2026-01-02T03:04:05Z\"\n}\n"
        );
    }

    #[test]
    fn another_checkout_needs_reclaim() {
        let mut claim = claim();
        let later: Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        let error = claim.bind_repository("/repo/b", false, later).unwrap_err();
        assert_eq!(
            error.to_string(),
            "lease cbx_abcdef123456 is claimed by repo: `/repo/a`"
        );
        assert_eq!(error.hint(), Some("use --reclaim to claim it for /repo/b"));
        assert_eq!(error.kind().exit_code(), 2);
        claim.bind_repository("/repo/a", false, later).unwrap();
        assert_eq!(
            (claim.claimed_at.as_str(), claim.last_used_at.as_str()),
            ("2026-01-02T03:04:05Z", "2026-02-01T00:00:00Z")
        );
        claim.bind_repository("", false, later).unwrap();
        assert_eq!(
            (claim.repo_root.as_str(), claim.claimed_at.as_str()),
            ("/repo/a", "2026-01-02T03:04:05Z")
        );
        claim.bind_repository("/repo/b", true, later).unwrap();
        assert_eq!(
            (claim.repo_root.as_str(), claim.claimed_at.as_str()),
            ("/repo/b", "2026-02-01T00:00:00Z")
        );
    }

    #[test]
    fn identity_is_overwritten_by_values_only_and_markers_stay() {
        let mut claim = claim();
        claim.set_identity("local", "scope", "pond");
        claim.set_identity("", "", "");
        assert_eq!(
            (
                claim.provider.as_str(),
                claim.provider_scope.as_str(),
                claim.pond.as_str()
            ),
            ("local", "scope", "pond")
        );
        claim.provider = "aws-fixed-v1".to_owned();
        claim.set_identity("hetzner", "", "");
        assert_eq!(
            (claim.provider.as_str(), claim.provider_name()),
            ("aws-fixed-v1", "aws")
        );
    }

    #[test]
    fn a_heartbeat_keeps_the_idle_budget() {
        let mut claim = claim();
        claim.touch(now(), Some(Duration::from_secs(60)));
        claim.touch(now(), None);
        assert_eq!(claim.idle_timeout_seconds, 60);
        assert_eq!(claim.idle_deadline(), Some("2026-01-02T03:05:05Z".parse().unwrap()));
        claim.set_endpoint("10.0.0.1", 2222);
        claim.set_endpoint("", 0);
        assert_eq!((claim.ssh_host.as_str(), claim.ssh_port), ("10.0.0.1", 2222));
        claim.clear_endpoint();
        assert_eq!((claim.ssh_host.as_str(), claim.ssh_port), ("", 0));
    }
}
