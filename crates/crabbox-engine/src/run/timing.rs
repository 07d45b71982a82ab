//! Timing reports of leases and runs.

use std::time::Duration;

use crabbox_evidence::lease_output::StopCommand;
use crabbox_evidence::timing::{ExitSource, TimingReport};

use crate::event::LeaseInfo;
use crate::lease::Lease;

/// The report of a run whose box is there.
pub(crate) fn for_lease(lease: &Lease, elapsed: Duration) -> TimingReport {
    let info = &lease.info;
    let mut timing = TimingReport::new(&info.provider);
    timing.lease_id = info.lease.to_string();
    timing.slug = info.slug.as_ref().map(ToString::to_string).unwrap_or_default();
    timing.lease = elapsed;
    timing.machine_type.clone_from(&info.server_type);
    timing.stop_command = stop_command(info);
    timing.idle_timeout = crabbox_core::duration::format(info.idle_timeout);
    timing
}

/// The report of a warmup.
pub(crate) fn for_warmup(lease: &Lease, total: Duration) -> TimingReport {
    let mut timing = TimingReport::new(&lease.info.provider);
    timing.lease_id = lease.info.lease.to_string();
    timing.slug = lease.info.slug.as_ref().map(ToString::to_string).unwrap_or_default();
    timing.total = total;
    timing.set_exit(0, ExitSource::Crabbox);
    timing
}

/// The command line that gives a box back.
pub(crate) fn stop_command(info: &LeaseInfo) -> String {
    StopCommand {
        provider: info.provider.clone(),
        target: info.target.os.to_string(),
        windows_mode: info
            .target
            .windows_mode
            .map(|mode| mode.to_string())
            .unwrap_or_default(),
        lease_id: info.lease.to_string(),
        slug: info.slug.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..StopCommand::default()
    }
    .to_string()
}

impl LeaseInfo {
    /// How people name the box: its host, or its provider when it has none.
    pub fn host_or_provider(&self) -> &str {
        if self.host.is_empty() {
            &self.provider
        } else {
            &self.host
        }
    }
}
