//! One run: plan, lease, sync, command, evidence, release.
//!
//! Nothing is created before the plan stands. From then on every failure becomes part of the outcome: evidence is collected
//! as far as possible and the box is given back as the policy says, also when the operation is cancelled.

mod collect;
mod command;
mod explain;
mod finish;
mod forwarding;
mod output;
mod plan;
mod preflight;
pub(crate) mod timing;

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::remote::{ExecRequest, ExecStatus, OutputSink, RemotePath};
use crabbox_core::{Error, Remote, Result};
use crabbox_evidence::junit::Summary;
use crabbox_evidence::lease_output::LeaseOutput;
use crabbox_evidence::stream::OutputEvidence;
use crabbox_evidence::timing::{Artifact, TimingReport};
use crabbox_state::lock::LockGuard;
use crabbox_state::runs::{EventInput, RunRecord, RunWriter};
use tokio::task::JoinHandle;

use crate::acquire::Wanted;
use crate::api::{RunOutcome, RunRequest, StopAfter};
use crate::checkout::Look;
use crate::engine::{Engine, blocking};
use crate::event::{Event, RunContext};
use crate::lease::Lease;
use crate::run::plan::{Choice, RunPlan};
use crate::step::Step;

/// A run in progress: everything that was found out so far.
struct Run<'a> {
    engine: &'a Engine,
    plan: RunPlan,
    lease: Lease,
    remote: Arc<dyn Remote>,
    workdir: RemotePath,
    record: Arc<RunWriter>,
    timing: TimingReport,
    /// Monotonic times: when the run was asked for, and when its box was there.
    begun: Duration,
    leased: Duration,
    workspace: Option<LockGuard>,
    /// The session handle is where the user wants it.
    handle_written: bool,
    tree: Option<JoinHandle<Result<String>>>,
    output: Option<OutputEvidence>,
    results: Option<Summary>,
    artifacts: Vec<Artifact>,
}

impl Engine {
    /// Runs a command in a box, new or existing, and streams its output into `output`.
    ///
    /// # Errors
    /// Only when nothing is left behind: the request was refused, or getting the box failed and was undone. Everything
    /// later is in the outcome.
    pub async fn run(&self, request: RunRequest, output: &mut dyn OutputSink) -> Result<RunOutcome> {
        let begun = self.monotonic();
        let mut plan = self.plan_run(request)?;
        if let Some((reader, args)) = plan.script.take() {
            let script = self.unless_cancelled(blocking(move || reader.read())).await?;
            plan.command = Some(plan::script_command(script, &args)?);
        }
        let mut look = match plan.sync {
            Some(_) => Some(Arc::new(
                self.look_at(&plan.checkout, plan.force_large, plan.whole).await?,
            )),
            None => None,
        };
        if let (Some(seen), Choice::New { plan: lease_plan, .. }) = (&look, &plan.choice)
            && lease_plan.backend.host_workspace().is_none()
        {
            // A box that is not on this machine gets an archive, and that must succeed before the box is paid for.
            let (packed, archive) = self.pack(Arc::clone(seen)).await?;
            if let Ok(mut slot) = packed.archive.lock() {
                *slot = Some(archive);
            }
            look = Some(packed);
        }
        self.step(Step::Manifested);
        let asked = self.monotonic();
        let (lease, record) = match plan.choice {
            // A lease that does not exist is a refusal like any other, and leaves no record.
            Choice::Existing(_) => {
                let lease = self.lease_for(&mut plan).await?;
                (lease, self.record_run(&plan)?)
            }
            Choice::New { .. } => {
                let record = self.record_run(&plan)?;
                match self.lease_for(&mut plan).await {
                    Ok(lease) => (lease, record),
                    Err(error) => {
                        self.record_failure(&record, &error);
                        return Err(error);
                    }
                }
            }
        };
        let lease_id = lease.id().clone();
        match self.start(plan, lease, Arc::clone(&record), (begun, asked)) {
            Ok(run) => Ok(run.execute(look, output).await),
            // Nothing on the box was touched, so a box of ours goes back at once.
            Err((error, lease, created)) => {
                self.record_failure(&record, &error);
                if created {
                    self.release_lease(lease.spec, lease.backend, lease_id, "auto").await?;
                }
                Err(error)
            }
        }
    }

    /// A record that cannot be written must not hide why the run failed.
    fn record_failure(&self, record: &RunWriter, error: &Error) {
        if let Err(unwritten) = record.fail(error.to_string()) {
            self.warn(format!("the record of this run is incomplete: {unwritten}"));
        }
    }

    fn record_run(&self, plan: &RunPlan) -> Result<Arc<RunWriter>> {
        let command = plan
            .command
            .as_ref()
            .map(|command| command.recorded().to_vec())
            .unwrap_or_default();
        let mut record = RunRecord::new(plan.run.clone(), command, self.now());
        record.label.clone_from(&plan.label);
        record.class.clone_from(&self.shared.config.config.selection.class);
        let writer = self.stores().runs.create(record)?;
        writer.event(EventInput::new("leasing.started"))?;
        self.emit(Event::Recording { run: plan.run.clone() });
        Ok(Arc::new(writer))
    }

    async fn lease_for(&self, plan: &mut RunPlan) -> Result<Lease> {
        let repo_root = plan.checkout.root_text();
        match &mut plan.choice {
            Choice::Existing(id) => self.take(id, &repo_root, plan.reclaim).await,
            Choice::New { plan: lease_plan, slug } => {
                let keep = plan.keep || plan.stop_after == StopAfter::Never;
                let wanted = Wanted {
                    slug: slug.take(),
                    keep,
                    repo_root,
                    ..Wanted::default()
                };
                self.acquire(lease_plan, wanted).await
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the lease comes back so that it can be released")]
    fn start(
        &self,
        plan: RunPlan,
        lease: Lease,
        record: Arc<RunWriter>,
        (begun, asked): (Duration, Duration),
    ) -> std::result::Result<Run<'_>, (Error, Lease, bool)> {
        let created = matches!(plan.choice, Choice::New { .. });
        let prepared = lease.remote().and_then(|remote| {
            Ok((
                remote,
                plan.workdir
                    .clone()
                    .map_or_else(|| lease.workdir(plan.checkout.name()), Ok)?,
            ))
        });
        let (remote, workdir) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err((error, lease, created)),
        };
        let leased = self.monotonic();
        let mut timing = timing::for_lease(&lease, leased.saturating_sub(asked));
        timing.run_id = plan.run.to_string();
        timing.label.clone_from(&plan.label);
        timing.repo_path = plan.checkout.root_text();
        timing.workdir = workdir.to_string();
        Ok(Run {
            engine: self,
            plan,
            lease,
            remote,
            workdir,
            record,
            timing,
            begun,
            leased,
            workspace: None,
            handle_written: false,
            tree: None,
            output: None,
            results: None,
            artifacts: Vec::new(),
        })
    }
}

impl Run<'_> {
    /// Works and then finishes, whatever happened in between.
    async fn execute(mut self, look: Option<Arc<Look>>, output: &mut dyn OutputSink) -> RunOutcome {
        let ended = match self.set_idle_timeout().await {
            Ok(()) => {
                let heartbeat = self.engine.heartbeat_task(&self.lease);
                let ended = self.work(look, output).await;
                heartbeat.stop().await;
                ended
            }
            Err(error) => Err(error),
        };
        self.finish(ended).await
    }

    /// Gives a box that existed the idle timeout that was asked for. A new one was created with it.
    async fn set_idle_timeout(&mut self) -> Result<()> {
        let Some(idle_timeout) = self.plan.idle_timeout.filter(|_| !self.created()) else {
            return Ok(());
        };
        let touched = self.engine.touch(&self.lease, "running", Some(idle_timeout));
        let labels = self.engine.unless_cancelled(touched).await?;
        let text = crabbox_core::duration::format(idle_timeout);
        let expires = labels.expires_at();
        self.engine.info(format!(
            "updated idle_timeout={text} expires={}",
            expires.map_or_else(|| "-".to_owned(), |at| at.to_string())
        ));
        self.timing.idle_timeout = text;
        self.lease.info.idle_timeout = idle_timeout;
        self.lease.info.expires_at = expires;
        self.lease.machine.labels = labels;
        Ok(())
    }

    /// Everything up to the end of the command. `None` for a run that only syncs.
    async fn work(&mut self, look: Option<Arc<Look>>, output: &mut dyn OutputSink) -> Result<Option<ExecStatus>> {
        self.describe_lease()?;
        self.write_lease_output()?;
        if self.shares_workspace() {
            self.workspace = Some(self.engine.lock_workspace(&self.lease).await?);
        }
        self.prepare_workspace(look).await?;
        let Some(command) = self.plan.command.take() else {
            self.preflight().await?;
            return Ok(None);
        };
        self.engine.emit(Event::Context(RunContext {
            run: self.plan.run.clone(),
            lease: self.lease.info.clone(),
            workdir: self.workdir.to_string(),
        }));
        let started = self.engine.monotonic();
        let ended = self.command(&command, output).await;
        self.timing.command = self.engine.monotonic().saturating_sub(started);
        self.plan.command = Some(command);
        ended.map(Some)
    }

    fn created(&self) -> bool {
        matches!(self.plan.choice, Choice::New { .. })
    }

    /// Whether another run could use the same workspace. A fresh box that goes with its run is nobody else's.
    fn shares_workspace(&self) -> bool {
        !self.created()
            || self.plan.keep
            || self.plan.keep_on_failure
            || !matches!(self.plan.stop_after, StopAfter::Auto | StopAfter::Always)
    }

    fn describe_lease(&self) -> Result<()> {
        let info = &self.lease.info;
        self.record.update(|record| {
            record.lease_id = info.lease.to_string();
            record.slug = info.slug.as_ref().map(ToString::to_string).unwrap_or_default();
            record.provider.clone_from(&info.provider);
            record.target = info.target.os.to_string();
            record.windows_mode = info
                .target
                .windows_mode
                .map(|mode| mode.to_string())
                .unwrap_or_default();
            record.server_type.clone_from(&info.server_type);
        })?;
        let mut event = EventInput::new("lease.created");
        event.lease_id = info.lease.to_string();
        event.provider.clone_from(&info.provider);
        self.record.event(event)
    }

    fn write_lease_output(&mut self) -> Result<()> {
        let Some(path) = &self.plan.lease_output else {
            return Ok(());
        };
        let info = &self.lease.info;
        LeaseOutput {
            provider: info.provider.clone(),
            lease_id: info.lease.to_string(),
            slug: info.slug.as_ref().map(ToString::to_string).unwrap_or_default(),
            reused: info.reused,
            kept: true,
            actions_url: String::new(),
            run_id: self.plan.run.to_string(),
            cleanup_command: self.timing.stop_command.clone(),
        }
        .write_to(path)?;
        self.handle_written = true;
        Ok(())
    }

    /// Makes the workspace equal to the checkout, or at least makes it.
    async fn prepare_workspace(&mut self, look: Option<Arc<Look>>) -> Result<()> {
        let (Some(wish), Some(look)) = (self.plan.sync, look) else {
            self.timing.sync_skipped = true;
            let made = async {
                // Asking for a directory of this machine makes it, without a command on the box.
                if self.remote.host_directory(&self.workdir).await?.is_some() {
                    return Ok(());
                }
                let request = ExecRequest::script(r#"mkdir -p -- "$1""#, [self.workdir.as_str()]);
                self.remote.output(request).await.map(drop)
            };
            return self
                .engine
                .unless_cancelled(made)
                .await
                .map_err(|error| error.context("make the workdir"));
        };
        self.record.event(EventInput::new("sync.started"))?;
        let destination = format!("{}:{}", self.lease.info.host_or_provider(), self.workdir);
        let outcome = self
            .engine
            .sync(&self.remote, &self.workdir, look, destination, wish)
            .await?;
        let look = outcome.look;
        self.record.event(EventInput::new("sync.finished"))?;
        self.timing.sync = outcome.elapsed;
        self.timing.sync_phases = outcome.phases;
        self.timing.sync_skipped = outcome.skipped;
        // Under the workspace lock, and beside the command: what the command sees is what was just synced.
        self.tree = Some(tokio::spawn(blocking(move || {
            let hash = look.tree_hash()?.to_string();
            if !look.cache.is_clean() {
                look.cache.save(&look.manifest)?;
            }
            Ok(hash)
        })));
        Ok(())
    }

    async fn preflight(&self) -> Result<()> {
        let Some(tools) = &self.plan.preflight else {
            return Ok(());
        };
        if tools.is_empty() {
            return Ok(());
        }
        match self
            .engine
            .unless_cancelled(preflight::look(&*self.remote, &self.workdir, tools))
            .await
        {
            Ok(lines) => lines.into_iter().for_each(|line| self.engine.info(line)),
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => self.engine.warn(format!("remote preflight failed: {error}")),
        }
        self.engine.info(format!(
            "remote preflight workspace=raw workdir={} hydrate_supported=false",
            self.workdir
        ));
        Ok(())
    }
}
