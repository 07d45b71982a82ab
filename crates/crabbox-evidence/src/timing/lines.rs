//! The lines of a run that people read and scripts parse.

use std::fmt::Write as _;
use std::time::Duration;

use crabbox_core::duration;

use super::{PhaseTiming, TimingReport};
use crate::text::{field, quote};

fn elapsed(value: Duration) -> String {
    duration::format(duration::round_to_milliseconds(value))
}

fn phases(list: &[PhaseTiming]) -> String {
    let parts: Vec<String> = list
        .iter()
        .map(|phase| match (phase.skipped, phase.reason.is_empty()) {
            (false, _) => format!("{}:{}", phase.name, elapsed(phase.duration)),
            (true, true) => format!("{}:skipped", phase.name),
            (true, false) => format!(
                "{}:skipped_{}",
                phase.name,
                phase.reason.replace(char::is_whitespace, "_")
            ),
        })
        .collect();
    parts.join(",")
}

impl TimingReport {
    /// The `run summary` line.
    pub fn summary_line(&self) -> String {
        let mut line = format!(
            "run summary lease={} bootstrap={} sync={} command={} total={} end_to_end={} sync_skipped={} exit={}",
            elapsed(self.lease),
            elapsed(self.bootstrap),
            elapsed(self.sync),
            elapsed(self.command),
            elapsed(self.total),
            elapsed(self.end_to_end),
            self.sync_skipped,
            self.exit_code
        );
        // Writing to a string cannot fail.
        for (name, list) in [
            ("sync_steps", &self.sync_phases),
            ("command_phases", &self.command_phases),
        ] {
            if !list.is_empty() {
                let _ = write!(line, " {name}={}", phases(list));
            }
        }
        if let Some(stage) = self.blocked_stage {
            let _ = write!(line, " blocked_stage={}", stage.as_str());
        }
        if let Some(resource) = self.resource_exhaustion {
            let _ = write!(line, " resource_exhaustion={}", resource.as_str());
        }
        if let Some(retry) = self.retry_likely {
            let _ = write!(line, " retry_likely={}", retry.as_str());
        }
        line
    }

    /// The `command complete` line.
    pub fn complete_line(&self) -> String {
        format!(
            "command complete in {} total={}",
            elapsed(self.command),
            elapsed(self.total)
        )
    }

    /// The `run summary` line of a provider that runs commands itself.
    pub fn delegated_summary_line(&self) -> String {
        format!(
            "{} run summary sync={} command={} total={} exit={}",
            self.provider,
            elapsed(self.sync),
            elapsed(self.command),
            elapsed(self.total),
            self.exit_code
        )
    }

    /// The `run details` line.
    pub fn details_line(&self) -> String {
        DetailsLine {
            provider: &self.provider,
            lease_id: &self.lease_id,
            slug: &self.slug,
            run_id: &self.run_id,
            label: &self.label,
            machine_type: &self.machine_type,
            repo_path: &self.repo_path,
            workdir: &self.workdir,
            actions_url: &self.actions_run_url,
            stop_command: &self.stop_command,
            idle_timeout: &self.idle_timeout,
        }
        .to_string()
    }
}

/// Fields of the `run details` line. Empty ones print `-`; an empty label is left out.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "each field is the value of the key of the same name")]
pub struct DetailsLine<'a> {
    pub provider: &'a str,
    pub lease_id: &'a str,
    pub slug: &'a str,
    pub run_id: &'a str,
    pub label: &'a str,
    pub machine_type: &'a str,
    pub repo_path: &'a str,
    pub workdir: &'a str,
    pub actions_url: &'a str,
    pub stop_command: &'a str,
    pub idle_timeout: &'a str,
}

impl std::fmt::Display for DetailsLine<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "run details provider={} lease={} slug={} run={}",
            field(self.provider),
            field(self.lease_id),
            field(self.slug),
            field(self.run_id)
        )?;
        if !self.label.is_empty() {
            write!(formatter, " label={}", quote(self.label))?;
        }
        write!(
            formatter,
            " type={} repo={} workdir={} actions={} stop_command={} idle_timeout={}",
            field(self.machine_type),
            field(self.repo_path),
            field(self.workdir),
            field(self.actions_url),
            quote(self.stop_command),
            field(self.idle_timeout)
        )
    }
}

/// Fields of the `run context` block. Empty ones print `-`.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "each field is the value of the key of the same name")]
pub struct ContextLines<'a> {
    pub run_id: &'a str,
    pub portal: &'a str,
    pub logs: &'a str,
    pub lease_id: &'a str,
    pub slug: &'a str,
    pub provider: &'a str,
    pub target: &'a str,
    pub machine_type: &'a str,
    /// `user@host:port`.
    pub ssh: &'a str,
    pub ip: &'a str,
    pub workdir: &'a str,
    /// The workspace was prepared by an Actions job.
    pub actions_hydrated: bool,
    pub actions_url: &'a str,
}

impl ContextLines<'_> {
    /// The block, one line per element.
    pub fn lines(&self) -> Vec<String> {
        let workspace = if self.actions_hydrated {
            "actions-hydrated"
        } else {
            "raw"
        };
        vec![
            "run context:".to_owned(),
            format!(
                "  run={} portal={} logs={}",
                field(self.run_id),
                field(self.portal),
                field(self.logs)
            ),
            format!(
                "  lease={} slug={} provider={} target={} type={}",
                field(self.lease_id),
                field(self.slug),
                field(self.provider),
                field(self.target),
                field(self.machine_type)
            ),
            format!("  ssh={} ip={}", field(self.ssh), field(self.ip)),
            format!(
                "  workdir={} workspace={workspace} actions={}",
                field(self.workdir),
                field(self.actions_url)
            ),
        ]
    }
}

/// The last line of `warmup` on standard output.
pub fn warmup_complete_line(total: Duration) -> String {
    format!("warmup complete total={}", elapsed(total))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ContextLines, warmup_complete_line};
    use crate::timing::TimingReport;
    use crate::timing::tests::full;

    #[test]
    fn lines_are_stable() {
        let report = full();
        let lines = [
            report.summary_line(),
            report.complete_line(),
            report.delegated_summary_line(),
            report.details_line(),
            TimingReport::new("local").summary_line(),
            TimingReport::new("local").details_line(),
            warmup_complete_line(Duration::from_micros(1_234_567)),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        run summary lease=1.5s bootstrap=250ms sync=1m1.235s command=1h2m3s total=1h3m20s end_to_end=1h3m21s sync_skipped=false exit=137 sync_steps=manifest:12ms,git_hydrate:skipped_not_needed_here,finalize:0s command_phases=user-command:1h2m3s blocked_stage=resource_exhaustion resource_exhaustion=memory retry_likely=false
        command complete in 1h2m3s total=1h3m20s
        local run summary sync=1m1.235s command=1h2m3s total=1h3m20s exit=137
        run details provider=local lease=cbx_0123456789ab slug=amber-crab run=run_0123456789ab label="a \"label\" <&>\u2028" type=m.large repo=/home/me/repo workdir=/work/repo actions=https://actions.test/1 stop_command="crabbox stop --provider local --target linux --id amber-crab" idle_timeout=30m0s
        run summary lease=0s bootstrap=0s sync=0s command=0s total=0s end_to_end=0s sync_skipped=false exit=0
        run details provider=local lease=- slug=- run=- type=- repo=- workdir=- actions=- stop_command="" idle_timeout=-
        warmup complete total=1.235s
        "#);
    }

    #[test]
    fn the_context_names_what_is_known() {
        let context = ContextLines {
            run_id: "run_1",
            lease_id: "cbx_1",
            provider: "local",
            ssh: "me@h:22",
            ..ContextLines::default()
        };
        insta::assert_snapshot!(context.lines().join("\n"), @r#"
        run context:
          run=run_1 portal=- logs=-
          lease=cbx_1 slug=- provider=local target=- type=-
          ssh=me@h:22 ip=-
          workdir=- workspace=raw actions=-
        "#);
    }
}
