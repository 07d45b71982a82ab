//! The end of a run: evidence, record, release, verdict. Nothing here gives up half-way.

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::remote::ExecStatus;
use crabbox_core::{Error, ErrorKind, Result};
use crabbox_evidence::classify::{Classification, FailureEvidence, FailureFact, classify};
use crabbox_evidence::junit;
use crabbox_evidence::redact::Redactor;
use crabbox_evidence::timing::{ExitSource, PhaseTiming};
use crabbox_state::runs::Finish;

use super::Run;
use crate::api::{RunOutcome, StopAfter};
use crate::event::Event;
use crate::step::Step;

/// Exit status of a run that the user interrupted while its command ran.
const INTERRUPTED: u8 = 255;

/// How the run stands once its command is over.
pub(super) struct Verdict {
    pub(super) code: i32,
    pub(super) source: ExitSource,
    pub(super) error: Option<Error>,
    pub(super) out_of_memory: bool,
}

impl Run<'_> {
    /// Collects, records, releases and judges.
    pub(super) async fn finish(mut self, ended: Result<Option<ExecStatus>>) -> RunOutcome {
        let mut verdict = self.judge(ended).await;
        self.engine.step(Step::Collected);
        let classification = self.complete_timing(&verdict).await;
        if let Err(error) = self.finish_record(&verdict, classification.as_ref()) {
            self.engine
                .warn(format!("the record of this run is incomplete: {error}"));
        }
        self.engine.step(Step::Recorded);
        self.summarise(&verdict);
        let bundle = self.explain(&verdict, classification.as_ref()).await;
        drop(self.workspace.take());
        let released = self.release(&mut verdict).await;
        self.set_exit(&verdict);
        self.append_timing(&mut verdict);

        RunOutcome {
            exit_code: u8::try_from(verdict.code).unwrap_or(INTERRUPTED),
            exit_source: verdict.source,
            run: self.plan.run.clone(),
            workdir: Some(self.workdir.to_string()),
            executed_tree: Some(self.timing.executed_tree.clone()).filter(|tree| !tree.is_empty()),
            lease: Some(self.lease.info),
            timing: self.timing,
            results: self.results,
            bundle,
            released,
            error: verdict.error,
        }
    }

    /// Whose exit status counts: the command's, unless a step around it or a policy says otherwise.
    async fn judge(&mut self, ended: Result<Option<ExecStatus>>) -> Verdict {
        let status = match ended {
            Ok(Some(status)) => status,
            Ok(None) => ExecStatus::exited(0),
            Err(error) => {
                // A sink that gives up also ends the command, but only the user interrupts.
                let interrupted = self.engine.shared.cancel.is_cancelled() && self.output.is_some();
                let code = if interrupted {
                    INTERRUPTED
                } else {
                    error.kind().exit_code()
                };
                return Verdict {
                    code: code.into(),
                    source: ExitSource::Crabbox,
                    error: Some(error),
                    out_of_memory: false,
                };
            }
        };
        self.collect_results().await;
        let source = if status.signal.is_some() {
            ExitSource::Signal
        } else {
            ExitSource::Command
        };
        let mut verdict = Verdict {
            code: status.code,
            source,
            error: None,
            out_of_memory: status.out_of_memory,
        };
        if !status.success() {
            return verdict;
        }
        let failure = match self.collect_downloads().await {
            Err(error) => Some(error),
            Ok(()) => self.test_policy(),
        };
        if let Some(error) = failure {
            verdict.code = error.kind().exit_code().into();
            verdict.source = ExitSource::Crabbox;
            verdict.error = Some(error);
        }
        verdict
    }

    fn test_policy(&self) -> Option<Error> {
        let summary = self.results.as_ref().filter(|summary| summary.has_failures())?;
        if !self.plan.results.fail_on_failures {
            return None;
        }
        self.engine.info(junit::policy_line(summary));
        Some(Error::other(junit::policy_message(summary)).with_hint(format!("see `crabbox results {}`", self.plan.run)))
    }

    /// Fills in everything but the exit status, which the release may still change.
    async fn complete_timing(&mut self, verdict: &Verdict) -> Option<Classification> {
        let now = self.engine.monotonic();
        self.timing.total = now.saturating_sub(self.leased);
        self.timing.end_to_end = now.saturating_sub(self.begun);
        self.set_exit(verdict);
        self.timing.artifacts.clone_from(&self.artifacts);
        if let Some(output) = &self.output {
            self.timing.command_phases = output
                .phases
                .iter()
                .map(|phase| PhaseTiming::ran(&phase.name, phase.duration))
                .collect();
            for warning in &output.warnings {
                self.engine.warn(warning.clone());
            }
        }
        if let Some(tree) = self.tree.take() {
            match tree.await {
                Ok(Ok(hash)) => self.timing.executed_tree = hash,
                Ok(Err(error)) => self.engine.warn(format!("the executed tree has no hash: {error}")),
                Err(_) => self.engine.warn("the executed tree has no hash: hashing was ended"),
            }
        }
        if verdict.code == 0 {
            return None;
        }
        let classification = self.classify(verdict);
        self.timing.blocked_stage = Some(classification.blocked_stage);
        self.timing.retry_likely = Some(classification.retry_likely);
        self.timing.resource_exhaustion = classification.resource_exhaustion;
        Some(classification)
    }

    fn set_exit(&mut self, verdict: &Verdict) {
        match &verdict.error {
            Some(error) => self.timing.set_error(verdict.code, error),
            None => self.timing.set_exit(verdict.code, verdict.source),
        }
    }

    fn classify(&self, verdict: &Verdict) -> Classification {
        let mut facts = Vec::new();
        if verdict.out_of_memory {
            facts.push(FailureFact::MemoryExhausted);
        }
        if verdict
            .error
            .as_ref()
            .is_some_and(|error| error.kind() == ErrorKind::Sync)
        {
            facts.push(FailureFact::SyncIncomplete);
        }
        let mut log = self
            .output
            .as_ref()
            .map(|output| output.log.to_text())
            .unwrap_or_default();
        if let Some(error) = &verdict.error {
            log.push_str(&error.to_string());
        }
        let last_phase = self.output.as_ref().and_then(|output| output.phases.last());
        classify(&FailureEvidence {
            facts: &facts,
            log: &log,
            last_phase: last_phase.map_or("", |phase| phase.name.as_str()),
            test_policy_failed: verdict.source == ExitSource::Crabbox
                && verdict.error.is_some()
                && self.results.as_ref().is_some_and(junit::Summary::has_failures),
        })
    }

    fn finish_record(&self, verdict: &Verdict, classification: Option<&Classification>) -> Result<()> {
        if let (Some(error), None) = (&verdict.error, &self.output) {
            return self.record.fail(error.to_string()).map(drop);
        }
        let results = self.results.as_ref().map(serde_json::to_value).transpose();
        let finish = Finish {
            exit_code: verdict.code,
            exit_source: match verdict.source {
                ExitSource::Command => "command",
                ExitSource::Signal => "signal",
                _ => "crabbox",
            }
            .to_owned(),
            sync_ms: Some(milliseconds(self.timing.sync)),
            command_ms: Some(milliseconds(self.timing.command)),
            blocked_stage: classification
                .map(|class| class.blocked_stage.as_str().to_owned())
                .unwrap_or_default(),
            retry_likely: classification
                .map(|class| class.retry_likely.as_str().to_owned())
                .unwrap_or_default(),
            results: results.map_err(|error| Error::other("encode test results").with_source(error))?,
            telemetry: None,
        };
        self.record.finish(finish).map(drop)
    }

    fn summarise(&self, verdict: &Verdict) {
        let mut lines = Vec::new();
        if self.output.is_some() && verdict.error.is_none() {
            lines.push(self.timing.complete_line());
        }
        lines.push(self.timing.summary_line());
        lines.push(self.timing.details_line());
        self.engine.emit(Event::Summary { lines });
    }

    pub(super) fn will_release(&self, failed: bool) -> bool {
        match self.plan.stop_after {
            StopAfter::Always => true,
            StopAfter::Never => false,
            StopAfter::Success => !failed,
            StopAfter::Failure => failed,
            StopAfter::Auto => self.created() && !self.plan.keep && !(self.plan.keep_on_failure && failed),
        }
    }

    /// Gives the box back, or says that it stays. Returns whether it is gone.
    async fn release(&mut self, verdict: &mut Verdict) -> bool {
        let failed = verdict.code != 0;
        // A new box whose handle nobody could read would stay for nobody.
        let handle_lost = self.plan.lease_output.is_some() && !self.handle_written;
        let releases = self.will_release(failed) || (self.created() && handle_lost);
        if !releases {
            if let Err(error) = self.keep_lease(failed).await {
                self.engine
                    .warn(format!("the lease stays but its record does not say so: {error}"));
            }
            return false;
        }
        let policy = self.plan.stop_after.as_str();
        let backend = Arc::clone(&self.lease.backend);
        match self
            .engine
            .release_lease(self.lease.spec, backend, self.lease.id().clone(), policy)
            .await
        {
            Ok(outcome) => {
                self.timing.lease_stopped = Some(true);
                let mut event = crabbox_state::runs::EventInput::new("lease.released");
                event.lease_id = self.lease.id().to_string();
                if let Err(error) = self.record.event(event) {
                    self.engine
                        .warn(format!("the record of this run is incomplete: {error}"));
                }
                outcome.outcome.is_gone()
            }
            Err(error) => {
                self.timing.lease_stopped = Some(false);
                self.timing.lease_stop_error = error.to_string();
                if verdict.code == 0 {
                    let kind = if error.kind() == ErrorKind::Other {
                        ErrorKind::Remote
                    } else {
                        error.kind()
                    };
                    verdict.code = ErrorKind::Remote.exit_code().into();
                    verdict.source = ExitSource::Crabbox;
                    verdict.error = Some(
                        error
                            .with_kind(kind)
                            .context("the command succeeded but its box was not released"),
                    );
                } else {
                    self.engine.warn(format!(
                        "lease cleanup stopped=false policy={policy} lease={}: {error}",
                        self.lease.id()
                    ));
                }
                false
            }
        }
    }

    async fn keep_lease(&mut self, failed: bool) -> Result<()> {
        let engine = self.engine;
        if self.created() {
            engine.keep(&mut self.lease)?;
            let id = self
                .lease
                .info
                .slug
                .as_ref()
                .map_or_else(|| self.lease.id().to_string(), ToString::to_string);
            let mut hints = vec![format!("inspect: crabbox inspect --id {id}")];
            if failed {
                hints.push(format!("again: crabbox run --id {id} -- <command>"));
            }
            hints.push(format!("stop: {}", self.timing.stop_command));
            engine.emit(Event::Kept {
                lease: self.lease.id().clone(),
                hints,
            });
        }
        engine.touch(&self.lease, "ready", None).await.map(drop)
    }

    fn append_timing(&self, verdict: &mut Verdict) {
        let Some(path) = &self.plan.timing_record else { return };
        let appended = self.benchmark().and_then(|record| record.append_to(path));
        if let Err(error) = appended {
            if verdict.code == 0 {
                verdict.code = ErrorKind::Usage.exit_code().into();
                verdict.source = ExitSource::Crabbox;
                verdict.error = Some(error);
            } else {
                self.engine.warn(format!("the timing record was not written: {error}"));
            }
        }
    }

    fn benchmark(&self) -> Result<crabbox_evidence::timing::TimingRecord> {
        use crabbox_evidence::timing::{Benchmark, TimingRecord, command_fingerprint, repository_fingerprint};
        let command = self.plan.command.as_ref();
        let recorded = command.map(|command| command.recorded().to_vec()).unwrap_or_default();
        let source = &self.plan.checkout.source;
        let remote = source.remote().map(|remote| remote.address.clone()).unwrap_or_default();
        let head = source.head().unwrap_or_default();
        let spec = self.lease.spec;
        let benchmark = Benchmark {
            command_fingerprint: command_fingerprint(&recorded)?,
            command_display: Redactor::new(&self.plan.secrets)
                .redact(command.map(|command| command.display()).unwrap_or_default()),
            repo_fingerprint: repository_fingerprint(source.name(), &remote, head),
            repo_name: source.name().to_owned(),
            repo_head: head.to_owned(),
            provider_family: spec.family.to_owned(),
            provider_kind: spec.kind.as_str().to_owned(),
            provider_category: spec.catalog.category.to_owned(),
            cold_run: Some(self.created()),
            ..Benchmark::default()
        };
        Ok(TimingRecord::new(
            self.engine.now(),
            "run",
            benchmark,
            self.timing.clone(),
        ))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
