//! A box in the hands of one operation.

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::labels::WORKSPACE;
use crabbox_core::remote::RemotePath;
use crabbox_core::{Backend, LeaseId, Machine, ProviderSpec, Remote, Result, Slug};
use crabbox_state::claims::ClaimRecord;

use crate::event::LeaseInfo;
use crate::remote::DelegatedRemote;

/// A box in the hands of one operation: found or created, claimed, its identity verified.
pub(crate) struct Lease {
    pub(crate) spec: &'static ProviderSpec,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) machine: Machine,
    pub(crate) claim: ClaimRecord,
    pub(crate) info: LeaseInfo,
}

impl Lease {
    /// Identity of the lease.
    pub(crate) fn id(&self) -> &LeaseId {
        &self.info.lease
    }

    /// A way to act on the box.
    pub(crate) fn remote(&self) -> Result<Arc<dyn Remote>> {
        Ok(Arc::new(DelegatedRemote::new(
            Arc::clone(&self.backend),
            self.machine.clone(),
        )?))
    }

    /// The canonical workspace: `<work root>/<lease>/<repository>`, or that of the lease whose checkpoint the box was made of.
    pub(crate) fn workdir(&self, repository: &str) -> Result<RemotePath> {
        let root: RemotePath = self.info.work_root.parse()?;
        let directory = self.machine.labels.get(WORKSPACE).unwrap_or(self.id().as_str());
        root.join(directory)?.join(&safe_name(repository))
    }
}

/// A repository's name as one part of a path.
fn safe_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| if c == '/' || c.is_control() { '-' } else { c })
        .collect();
    match safe.trim() {
        "" | "." | ".." => "workspace".to_owned(),
        name => name.to_owned(),
    }
}

/// Describes a machine for people.
pub(crate) fn describe(
    spec: &ProviderSpec,
    machine: &Machine,
    lease: LeaseId,
    slug: Option<Slug>,
    reused: bool,
    elapsed: Duration,
) -> LeaseInfo {
    let work_root = if machine.work_root.is_empty() {
        spec.work_root
    } else {
        &machine.work_root
    };
    LeaseInfo {
        lease,
        slug,
        provider: spec.name.to_owned(),
        server: machine.resource.id.clone(),
        server_type: machine.server_type.clone(),
        host: machine.host.clone().unwrap_or_default(),
        target: machine.target,
        reused,
        kept: machine.labels.keep(),
        idle_timeout: machine
            .labels
            .idle_timeout()
            .unwrap_or(crabbox_core::labels::DEFAULT_IDLE_TIMEOUT),
        expires_at: machine.labels.expires_at(),
        work_root: work_root.to_owned(),
        elapsed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_repository_name_is_one_part_of_a_path() {
        assert_eq!(safe_name("a/b\nc"), "a-b-c");
        assert_eq!(safe_name(".."), "workspace");
        assert_eq!(safe_name(" "), "workspace");
        assert_eq!(safe_name("my repo"), "my repo");
    }
}
