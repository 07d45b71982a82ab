//! Why a run failed: the digest for people, and a bundle for whoever looks closer.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_core::remote::{Capture, ExecRequest};
use crabbox_core::{Error, Result};
use crabbox_evidence::bundle::{Bundle, ConfigDescription, RunDescription, WrittenBundle, bundle_path, remote_script};
use crabbox_evidence::classify::Classification;
use crabbox_evidence::digest::{Digest, Tail, tail_lines};
use crabbox_evidence::redact::Redactor;
use crabbox_evidence::stream::StreamEvidence;

use super::Run;
use super::finish::Verdict;
use crate::event::Event;

/// Longest time for fetching the box's files for a bundle.
const BUNDLE_LIMIT: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// Says why a run failed and leaves a bundle for whoever looks closer.
    pub(super) async fn explain(
        &mut self,
        verdict: &Verdict,
        classification: Option<&Classification>,
    ) -> Option<PathBuf> {
        let classification = classification?;
        self.digest(verdict, classification);
        // A command that never started left nothing that the message does not say.
        self.output.as_ref()?;
        let bundle = self.leave_bundle().await;
        self.tails(verdict);
        bundle
    }

    async fn leave_bundle(&mut self) -> Option<PathBuf> {
        match self.bundle().await {
            Ok(written) => {
                self.engine.info(written.line());
                for warning in &written.warnings {
                    self.engine.warn(warning.clone());
                }
                self.engine.emit(Event::Collected {
                    kind: "failure-bundle",
                    path: written.path.clone(),
                    bytes: written.size_bytes,
                });
                Some(written.path)
            }
            Err(error) => {
                self.engine.warn(format!("no failure bundle was written: {error}"));
                None
            }
        }
    }

    fn digest(&self, verdict: &Verdict, classification: &Classification) {
        let Some(output) = &self.output else {
            if let Some(line) = classification.line() {
                self.engine.info(line);
            }
            return;
        };
        let run = self.plan.run.as_str();
        let names: Vec<&str> = output.phases.iter().map(|phase| phase.name.as_str()).collect();
        let next = self.next_commands();
        let tail = if output.stderr.tail.is_empty() {
            &output.stdout.tail
        } else {
            &output.stderr.tail
        };
        let hint = verdict.error.as_ref().and_then(Error::hint);
        let lines = Digest {
            phase: "command",
            classification: *classification,
            hint,
            run_id: Some(run),
            failed_phase: names.last().copied().unwrap_or_default(),
            observed_phases: &names,
            shell_text: self.plan.command.as_ref().and_then(|command| command.shell_text()),
            results: self.results.as_ref(),
            next: &next,
            tail,
        }
        .lines();
        self.engine.emit(Event::FailureDigest { lines });
    }

    fn tails(&self, verdict: &Verdict) {
        let Some(output) = &self.output else { return };
        let mut lines = Vec::new();
        if verdict.code == 127 {
            lines.push("hint: exit 127 means that the program was not found on the box".to_owned());
        }
        for (name, stream) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let tail = match &stream.captured {
                Some(path) => Tail::Captured(path),
                None => Tail::Lines(&stream.tail),
            };
            lines.extend(tail_lines(name, tail));
        }
        self.engine.emit(Event::FailureDigest { lines });
    }

    fn next_commands(&self) -> Vec<(&'static str, String)> {
        let run = &self.plan.run;
        let mut next = vec![
            ("logs", format!("crabbox logs {run}")),
            ("events", format!("crabbox events {run}")),
        ];
        if !self.will_release(true) {
            next.push(("stop", self.timing.stop_command.clone()));
        }
        next
    }

    async fn bundle(&mut self) -> Result<WrittenBundle> {
        let remote = self.remote_evidence().await;
        let path = bundle_path(self.plan.checkout.root(), self.plan.run.as_str(), self.engine.now());
        let config = &self.engine.shared.config.config.selection;
        let command = self
            .plan
            .command
            .as_ref()
            .map(|command| command.display().to_owned())
            .unwrap_or_default();
        let env = crabbox_evidence::bundle::env_report(
            &crabbox_evidence::env::Allowlist::default(),
            &self.plan.forwarding.effective(),
        );
        let reader = |stream: &mut StreamEvidence| -> Option<Box<dyn Read>> {
            if let Some(path) = &stream.captured {
                return Some(Box::new(std::fs::File::open(path).ok()?));
            }
            Some(stream.spool.take()?.into_reader().ok()?)
        };
        let (stdout, stderr) = match &mut self.output {
            Some(output) => (reader(&mut output.stdout), reader(&mut output.stderr)),
            None => (None, None),
        };
        let bundle = Bundle {
            run: RunDescription {
                actions_run_url: String::new(),
                capture_on_fail_flag: self.plan.capture_on_fail,
                command,
                exit_code: self.timing.exit_code,
                lease_id: self.timing.lease_id.clone(),
                provider: self.timing.provider.clone(),
                run_id: self.timing.run_id.clone(),
                slug: self.timing.slug.clone(),
                workdir: self.timing.workdir.clone(),
            },
            timing: &self.timing,
            env,
            config: ConfigDescription {
                provider: self.timing.provider.clone(),
                target: self.lease.info.target.to_string(),
                class: config.class.clone(),
                server_type: config.server_type.clone().unwrap_or_default(),
                idle_timeout: crabbox_core::duration::format(config.idle_timeout),
                ttl: crabbox_core::duration::format(config.ttl),
                work_root: self.lease.info.work_root.clone(),
                ..ConfigDescription::default()
            },
            stdout,
            stderr,
            remote,
        };
        bundle.write_to(&path, &Redactor::new(&self.plan.secrets))
    }

    /// What the box itself can say: reports, logs, uploaded scripts. Nothing when it does not answer in time.
    async fn remote_evidence(&self) -> Option<Box<dyn Read>> {
        if self.engine.shared.cancel.is_cancelled() {
            return None;
        }
        let mut capture = Capture::new(usize::try_from(crabbox_evidence::bundle::MAX_REMOTE_BYTES).ok()?);
        let request = ExecRequest::script(remote_script(), [""; 0])
            .in_dir(self.workdir.clone())
            .with_timeout(Some(BUNDLE_LIMIT));
        match self.remote.exec(request, &mut capture).await {
            Ok(status) if status.success() && !capture.stdout().is_empty() => {
                Some(Box::new(std::io::Cursor::new(capture.stdout().to_vec())))
            }
            Ok(_) => None,
            Err(error) => {
                self.engine
                    .warn(format!("the failure bundle has no files of the box: {error}"));
                None
            }
        }
    }
}
