//! Forks: several boxes from one checkpoint, in parallel, each with its own command.

use std::sync::Arc;

use crabbox_core::remote::{OutputSink, RemotePath};
use crabbox_core::{Error, Outcome, Result, Slug};
use crabbox_state::checkpoints::CheckpointRecord;
use futures_util::StreamExt as _;

use super::{ARCHIVE, RECIPE, native, recipe_only};
use crate::acquire::{LeasePlan, Wanted};
use crate::api::{CheckpointForkRequest, CommandSource, ForkOutcome, RunRequest, StopAfter};
use crate::checkout::Checkout;
use crate::engine::Engine;
use crate::lease::Lease;

/// Boxes that are being made at the same time.
const PARALLEL: usize = 16;

/// Most forks of one request.
const MAX_FORKS: usize = 1_000;

/// Makes the sink for the output of one fork's command, by its 1-based index.
pub type ForkOutput<'a> = &'a (dyn Fn(usize) -> Box<dyn OutputSink> + Sync);

impl Engine {
    /// Makes boxes from a checkpoint, bounded in parallel, and runs a command in each.
    ///
    /// Every fork is tried; what failed is in its outcome. Outcomes are in order of their index.
    ///
    /// # Errors
    /// Only when nothing was created: the checkpoint does not exist, cannot be forked, or the request was refused.
    pub async fn checkpoint_fork(
        &self,
        request: CheckpointForkRequest,
        output: ForkOutput<'_>,
    ) -> Result<Vec<ForkOutcome>> {
        let record = self.checkpoints().require(&request.checkpoint)?;
        if record.kind == RECIPE {
            return Err(recipe_only(&request.checkpoint));
        }
        if request.count == 0 || request.count > MAX_FORKS {
            return Err(Error::usage(format!(
                "--count must be between 1 and {MAX_FORKS}: `{}`",
                request.count
            )));
        }
        let slug: Option<Slug> = request.slug.as_deref().map(str::parse).transpose()?;
        let checkout = self.source()?;
        let plan = self.fork_plan(&record)?;
        let taken = Arc::new(self.slugs_in_use(&plan, slug.is_some()).await?);
        let fork = Fork {
            engine: self,
            request: &request,
            record: &record,
            plan: &plan,
            checkout: &checkout,
            slug,
            taken,
        };
        if request.dry_run {
            return Ok((1..=request.count).map(|index| fork.dry(index)).collect());
        }
        let mut outcomes: Vec<ForkOutcome> = futures_util::stream::iter(1..=request.count)
            .map(|index| fork.one(index, output))
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        outcomes.sort_by_key(|outcome| outcome.index);
        self.checkpoints().touch(&request.checkpoint, self.now())?;
        Ok(outcomes)
    }

    /// A native checkpoint can only be forked where it is.
    fn fork_plan(&self, record: &CheckpointRecord) -> Result<LeasePlan> {
        let mut plan = self.lease_plan()?;
        if record.kind != ARCHIVE && plan.spec().name != record.provider {
            let provider = Arc::clone(self.shared.registry.get(&record.provider)?);
            plan.backend = self.connect(&*provider)?;
            plan.backend.admit(&plan.requirements)?;
            plan.provider = provider;
        }
        Ok(plan)
    }
}

struct Fork<'a> {
    engine: &'a Engine,
    request: &'a CheckpointForkRequest,
    record: &'a CheckpointRecord,
    plan: &'a LeasePlan,
    checkout: &'a Checkout,
    slug: Option<Slug>,
    taken: Arc<Vec<Slug>>,
}

impl Fork<'_> {
    fn dry(&self, index: usize) -> ForkOutcome {
        let mut outcome = self.planned(index);
        let words = self.words(index, "<lease>", outcome.slug.as_ref());
        outcome.command = crabbox_evidence::command::join(words);
        outcome.workdir.clone_from(&self.record.workdir);
        outcome
    }

    /// What is known of a fork before anything was done for it.
    fn planned(&self, index: usize) -> ForkOutcome {
        ForkOutcome {
            index,
            provider: self.plan.spec().name.to_owned(),
            resource: self.record.native.image_id.clone(),
            slug: self.slug(index),
            lease: None,
            workdir: String::new(),
            command: String::new(),
            exit_code: None,
            error: None,
        }
    }

    async fn one(&self, index: usize, output: ForkOutput<'_>) -> ForkOutcome {
        let mut outcome = self.planned(index);
        if let Err(error) = self.fork(index, output, &mut outcome).await {
            outcome.error = Some(error);
        }
        outcome
    }

    async fn fork(&self, index: usize, output: ForkOutput<'_>, outcome: &mut ForkOutcome) -> Result<()> {
        let native = (self.record.kind != ARCHIVE).then(|| native(self.record));
        let wanted = Wanted {
            slug: outcome.slug.clone(),
            keep: self.request.keep,
            repo_root: self.checkout.root_text(),
            restore_from: native,
            workspace: self.workspace(),
            taken: Some(Arc::clone(&self.taken)),
        };
        let mut lease = self.engine.acquire(self.plan, wanted).await?;
        let placed = self.place(&lease).await;
        outcome.lease = Some(lease.info.clone());
        let ran = match placed {
            Ok(workdir) => {
                outcome.workdir = workdir.to_string();
                self.command(&lease, index, output, outcome).await
            }
            Err(error) => Err(error),
        };
        // A fork that could not be filled is worth nothing, kept or not.
        if ran.is_err() && outcome.workdir.is_empty() || !self.request.keep {
            self.release(&lease).await?;
        } else {
            self.engine.keep(&mut lease)?;
        }
        ran
    }

    /// Directory below the work root that a native checkpoint brings its workspace in.
    fn workspace(&self) -> Option<String> {
        if self.record.kind == ARCHIVE || self.request.workdir.is_some() {
            return None;
        }
        let below = self
            .record
            .workdir
            .strip_prefix(self.plan.spec().work_root)?
            .strip_prefix('/')?;
        let (directory, name) = below.split_once('/')?;
        let safe = crabbox_core::labels::sanitize_value(directory) == directory && !name.contains('/');
        safe.then(|| directory.to_owned())
    }

    /// Puts the checkpoint's workspace where the new lease looks for it.
    async fn place(&self, lease: &Lease) -> Result<RemotePath> {
        let name = if self.record.repo.name.is_empty() {
            self.checkout.name()
        } else {
            &self.record.repo.name
        };
        let workdir: RemotePath = match &self.request.workdir {
            Some(path) => path.parse()?,
            None => lease.workdir(name)?,
        };
        let work = async {
            if self.record.kind == ARCHIVE {
                self.engine
                    .restore_archive(lease, &self.request.checkpoint, &workdir, true)
                    .await
            } else {
                self.engine.place(lease, self.record, &workdir).await
            }
        };
        self.engine.unless_cancelled(work).await?;
        Ok(workdir)
    }

    async fn command(
        &self,
        lease: &Lease,
        index: usize,
        output: ForkOutput<'_>,
        outcome: &mut ForkOutcome,
    ) -> Result<()> {
        if self.request.command.is_empty() {
            return Ok(());
        }
        let words = self.words(index, lease.id().as_str(), lease.info.slug.as_ref());
        outcome.command = crabbox_evidence::command::join(&words);
        let run = RunRequest {
            command: CommandSource::Words(words),
            id: Some(lease.id().to_string()),
            stop_after: StopAfter::Never,
            label: Some(format!("fork {index}/{}", self.request.count)),
            workdir: Some(outcome.workdir.clone()),
            // The checkpoint is the workspace; the checkout of another repository must not replace it.
            no_sync: self.record.repo.root != self.checkout.root_text() || self.request.workdir.is_some(),
            ..RunRequest::default()
        };
        let mut sink = output(index);
        // A run inside a fork is a run like any other; boxing breaks the recursion of the futures' types.
        let ended = Box::pin(self.engine.run(run, &mut *sink)).await?;
        outcome.exit_code = Some(i32::from(ended.exit_code));
        match ended.error {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<Outcome> {
        let backend = Arc::clone(&lease.backend);
        let released = self
            .engine
            .release_lease(lease.spec, backend, lease.id().clone(), "auto")
            .await?;
        Ok(released.outcome)
    }

    fn slug(&self, index: usize) -> Option<Slug> {
        let slug = self.slug.as_ref()?;
        Some(if self.request.count == 1 {
            slug.clone()
        } else {
            slug.numbered(index, self.request.count)
        })
    }

    fn words(&self, index: usize, lease: &str, slug: Option<&Slug>) -> Vec<String> {
        let fill = |word: &String| {
            word.replace("{{index}}", &index.to_string())
                .replace("{{total}}", &self.request.count.to_string())
                .replace("{{lease}}", lease)
                .replace("{{slug}}", slug.map(Slug::as_str).unwrap_or_default())
        };
        self.request.command.iter().map(fill).collect()
    }
}
