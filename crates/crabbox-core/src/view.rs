//! What `list`, `status` and `inspect` show. Backends return machines; the engine makes views; nobody else prints.

use std::collections::BTreeMap;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::machine::Machine;

/// One row of `list`.
///
/// Its JSON is the shape of the Go implementation's direct `list --json` (`CloudID`, `Provider`, `HostID`, `id`, `name`,
/// `status`, `labels`, …) with `leaseId`, `slug`, `target`, `isolation` and `expiresAt` added.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LeaseView {
    /// The machine as its provider reports it; labels as the claim has them where the provider keeps none.
    pub machine: Machine,
    /// Why a machine has no live lease: `missing-lease-label` or `no-active-lease`.
    pub orphan: Option<&'static str>,
}

impl LeaseView {
    /// A row for a machine.
    pub fn new(machine: Machine) -> Self {
        let orphan = machine.labels.get("lease").is_none().then_some("missing-lease-label");
        Self { machine, orphan }
    }
}

impl Serialize for LeaseView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let machine = &self.machine;
        let address = |host: &Option<String>| {
            BTreeMap::from([("ipv4", BTreeMap::from([("ip", host.clone().unwrap_or_default())]))])
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("CloudID", &machine.resource.id)?;
        map.serialize_entry("Provider", &machine.provider)?;
        map.serialize_entry("HostID", "")?;
        map.serialize_entry("id", &machine.resource.id.parse::<i64>().unwrap_or(0))?;
        map.serialize_entry("name", &machine.name)?;
        map.serialize_entry("status", machine.state.as_str())?;
        map.serialize_entry("labels", &machine.labels)?;
        if !machine.metadata.is_empty() {
            map.serialize_entry("provider_metadata", &machine.metadata)?;
        }
        map.serialize_entry("public_net", &address(&machine.host))?;
        map.serialize_entry("private_net", &address(&machine.private_host))?;
        let mut server_type = BTreeMap::from([("name", machine.server_type.as_str())]);
        if let Some(architecture) = &machine.architecture {
            server_type.insert("architecture", architecture);
        }
        map.serialize_entry("server_type", &server_type)?;
        if let Some(location) = &machine.location {
            map.serialize_entry("location", &BTreeMap::from([("name", location)]))?;
        }
        map.serialize_entry("leaseId", machine.labels.get("lease").unwrap_or_default())?;
        map.serialize_entry("slug", machine.labels.get("slug").unwrap_or_default())?;
        map.serialize_entry("target", &machine.target.to_string())?;
        map.serialize_entry("isolation", &machine.isolation)?;
        if let Some(at) = machine.labels.expires_at() {
            map.serialize_entry("expiresAt", &at.to_string())?;
        }
        if let Some(orphan) = self.orphan {
            map.serialize_entry("orphan", orphan)?;
        }
        map.end()
    }
}

/// What `status` and `inspect` show of one lease.
///
/// Field names and omissions are those of the Go implementation; `isolation` is added. Durations are Go text such as
/// `30m0s`, times RFC 3339 in UTC.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StatusView {
    /// Lease identity.
    pub id: String,
    /// Friendly name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Canonical provider name.
    pub provider: String,
    /// Operating system.
    pub target: String,
    /// Only for Windows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub windows_mode: String,
    /// State now.
    pub state: String,
    /// Resource id at the provider.
    pub server_id: String,
    /// Machine type.
    pub server_type: String,
    /// Address or name.
    pub host: String,
    /// Peer group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pond: String,
    /// How it is reached: `auto`, `public`, `tailscale`.
    pub network: String,
    /// Address for SSH.
    pub ssh_host: String,
    /// Pinned host key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssh_host_key: String,
    /// User for SSH; `<token>` where it is a credential.
    pub ssh_user: String,
    /// Port for SSH, as text.
    pub ssh_port: String,
    /// Ports to try next, as text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh_fallback_ports: Vec<String>,
    /// Private key file.
    pub ssh_key: String,
    /// Last use.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_touched_at: String,
    /// Time since the last use.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub idle_for: String,
    /// Longest idle time.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub idle_timeout: String,
    /// When it expires.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expires_at: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further facts of the provider.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub provider_metadata: BTreeMap<String, String>,
    /// Whether there is an address.
    pub has_host: bool,
    /// Whether commands can run now.
    pub ready: bool,
    /// Isolation that this very box has.
    pub isolation: String,
}

impl StatusView {
    /// A view of a machine, with labels for identity and times.
    pub fn of(machine: &Machine, now: jiff::Timestamp) -> Self {
        let labels = &machine.labels;
        let text = |key: &str| labels.get(key).unwrap_or_default().to_owned();
        let go = crate::duration::format;
        let idle_for = labels.last_touched_at().map(|at| {
            let seconds = (now.as_second() - at.as_second()).max(0);
            go(std::time::Duration::from_secs(seconds.unsigned_abs()))
        });
        Self {
            id: text("lease"),
            slug: text("slug"),
            provider: machine.provider.clone(),
            target: machine.target.os.to_string(),
            windows_mode: machine
                .target
                .windows_mode
                .map(|mode| mode.to_string())
                .unwrap_or_default(),
            state: machine.state.to_string(),
            server_id: machine.resource.id.clone(),
            server_type: machine.server_type.clone(),
            host: machine.host.clone().unwrap_or_default(),
            pond: text("pond"),
            network: "auto".to_owned(),
            last_touched_at: labels.last_touched_at().map(|at| at.to_string()).unwrap_or_default(),
            idle_for: idle_for.unwrap_or_default(),
            idle_timeout: labels.idle_timeout().map(go).unwrap_or_default(),
            expires_at: labels.expires_at().map(|at| at.to_string()).unwrap_or_default(),
            labels: labels.as_map().clone(),
            provider_metadata: machine.metadata.clone(),
            has_host: machine.host.is_some(),
            ready: machine.state == crate::machine::MachineState::Ready,
            isolation: machine.isolation.to_string(),
            ..Self::default()
        }
    }
}
