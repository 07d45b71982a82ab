//! What cases do to boxes, with everything undone in the end.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::authority::{HeldLock, verify};
use crabbox_core::backend::{Backend, Checkpoints, DelegatedRunBackend, Files, Lifecycle};
use crabbox_core::error::{Error, Result};
use crabbox_core::id::{LeaseId, Slug};
use crabbox_core::labels::{ATTEMPT, LabelInputs, Labels};
use crabbox_core::machine::{Binding, Machine, Observed, Outcome, ResourceId};
use crabbox_core::remote::{ExecRequest, ExecStatus, OutputSink, RemotePath, Stdin, Upload};
use crabbox_core::request::{CreateCheckpoint, CreateLease, Journal, ListQuery, NativeCheckpoint};
use crabbox_core::spec::ProviderSpec;
use futures_util::FutureExt as _;
use jiff::Timestamp;

use super::sinks::{Forward, Keep};
use super::{Fixture, connect};
use crate::random_hex;

/// How long a box may live, should a case be killed.
const LIFE: Duration = Duration::from_secs(600);

/// One connected provider, with a list of everything a case made.
pub(super) struct Bench<'a> {
    pub(super) fixture: &'a dyn Fixture,
    pub(super) backend: Box<dyn Backend>,
    made: Mutex<Vec<Attempt>>,
    checkpoints: Mutex<Vec<NativeCheckpoint>>,
}

/// One create attempt, whatever became of it.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    lease: LeaseId,
    token: String,
    required: BTreeMap<String, String>,
}

/// A box and what was recorded about it.
#[derive(Clone, Debug)]
pub(super) struct Boxed {
    pub(super) machine: Machine,
    pub(super) binding: Binding,
}

/// How a command ended and what it wrote.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    pub(super) status: ExecStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    /// Standard output of a command that succeeded.
    #[track_caller]
    pub(super) fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }
}

impl<'a> Bench<'a> {
    /// Runs a case, destroys what it made, and checks that nothing is left, even when the case failed.
    pub(super) async fn with(fixture: &'a dyn Fixture, case: impl AsyncFnOnce(&Self)) {
        let bench = Self {
            fixture,
            backend: connect(fixture),
            made: Mutex::default(),
            checkpoints: Mutex::default(),
        };
        let patience = fixture.patience();
        let timed = async {
            let ended = tokio::time::timeout(patience, case(&bench)).await;
            assert!(ended.is_ok(), "the case did not end within {patience:?}");
        };
        let result = AssertUnwindSafe(timed).catch_unwind().await;
        let clean = async {
            let ended = tokio::time::timeout(patience, bench.clean()).await;
            assert!(
                ended.is_ok(),
                "what the case made cannot be destroyed within {patience:?}"
            );
        };
        let cleaned = AssertUnwindSafe(clean).catch_unwind().await;
        // What failed first explains what failed then.
        if let Err(panic) = result.and(cleaned) {
            resume_unwind(panic);
        }
    }

    async fn clean(&self) {
        let made = std::mem::take(&mut *self.made.lock().expect("no case panics while it holds this"));
        for attempt in &made {
            // A lease that was created again is another attempt's to undo.
            let listed = self.listed(&attempt.lease).await;
            let is_other = |machine: &Machine| machine.labels.get(ATTEMPT) != Some(&attempt.token);
            if listed.is_empty() || !listed.iter().all(is_other) {
                self.undo(&attempt.binding(self)).await;
            }
        }
        let checkpoints = std::mem::take(&mut *self.checkpoints.lock().expect("no case panics while it holds this"));
        for checkpoint in checkpoints {
            // The case may have deleted it.
            let _gone = self.checkpoints().delete(&checkpoint).await;
        }
        let inventory = self
            .backend
            .list(ListQuery::refreshed())
            .await
            .expect("boxes can be listed");
        let ours = |machine: &&Machine| {
            machine
                .lease()
                .is_some_and(|lease| made.iter().any(|made| made.lease == lease))
        };
        let left: Vec<String> = inventory
            .machines
            .iter()
            .filter(ours)
            .map(|machine| machine.name.clone())
            .collect();
        assert!(
            left.is_empty(),
            "boxes are listed although they were destroyed: {left:?}"
        );
        let left = self.fixture.leftovers().await;
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }

    pub(super) fn spec(&self) -> &'static ProviderSpec {
        self.fixture.provider().spec()
    }

    pub(super) fn lifecycle(&self) -> &dyn Lifecycle {
        self.backend.lifecycle().expect("the provider leases boxes")
    }

    pub(super) fn delegated(&self) -> &dyn DelegatedRunBackend {
        self.backend.delegated().expect("the suite is for delegated providers")
    }

    pub(super) fn checkpoints(&self) -> &dyn Checkpoints {
        self.backend.checkpoints().expect("the case needs checkpoints")
    }

    pub(super) fn files(&self) -> &dyn Files {
        self.backend.files().expect("the case needs files")
    }

    /// A request with names of its own.
    pub(super) fn request(&self) -> CreateLease {
        let lease: LeaseId = format!("cbx_{}", random_hex(6))
            .parse()
            .expect("12 hex digits are a lease id");
        self.request_for(lease)
    }

    /// A new attempt to create a lease.
    pub(super) fn request_for(&self, lease: LeaseId) -> CreateLease {
        let slug = Slug::for_lease(&lease).with_suffix(lease.as_str());
        let attempt = format!("cat_{}", random_hex(16));
        let spec = self.spec();
        let target = spec.targets[0];
        let inputs = LabelInputs {
            lease: &lease,
            slug: &slug,
            provider: spec.name,
            profile: "default",
            class: "standard",
            server_type: "",
            target,
            provider_key: &lease.provider_key_name(),
            keep: false,
            ttl: LIFE,
            idle_timeout: LIFE,
            attempt: &attempt,
        };
        let labels = Labels::for_lease(&inputs, Timestamp::now());
        let mut request = CreateLease::new(lease, slug, attempt, labels, target);
        request.class = "standard".to_owned();
        request.ttl = LIFE;
        request.idle_timeout = LIFE;
        request
    }

    /// Remembers an attempt, so that it is undone, and says how its box is recognised before its id is known.
    pub(super) fn attempt(&self, request: &CreateLease) -> Binding {
        let fixed = self.spec().immutable_labels.iter();
        let required = fixed
            .filter_map(|key| Some(((*key).to_owned(), request.labels.get(key)?.to_owned())))
            .collect();
        let attempt = Attempt {
            lease: request.lease.clone(),
            token: request.attempt.clone(),
            required,
        };
        let binding = attempt.binding(self);
        self.made
            .lock()
            .expect("no case panics while it holds this")
            .push(attempt);
        binding
    }

    pub(super) async fn try_create(&self, request: &CreateLease) -> Result<Boxed> {
        let binding = self.attempt(request);
        let mut journal = Notebook::default();
        let machine = self.lifecycle().create(request, &mut journal).await?;
        let known = journal.known.last().expect("the journal is told the resource id");
        let binding = known_as(&binding, known);
        Ok(Boxed { machine, binding })
    }

    pub(super) async fn create(&self) -> Boxed {
        self.try_create(&self.request()).await.expect("a box can be created")
    }

    /// Creates a box from a checkpoint.
    pub(super) async fn fork(&self, checkpoint: &NativeCheckpoint) -> Result<Boxed> {
        let mut request = self.request();
        request.restore_from = Some(checkpoint.clone());
        self.try_create(&request).await
    }

    /// Takes a checkpoint that is deleted with the case.
    pub(super) async fn checkpoint(&self, boxed: &Boxed) -> NativeCheckpoint {
        let id = format!("chk_{}", random_hex(8))
            .parse()
            .expect("16 hex digits are a checkpoint id");
        let request = CreateCheckpoint::new(id, "suite", workspace(boxed));
        let checkpoint = self
            .checkpoints()
            .create(&boxed.machine, &request)
            .await
            .expect("a checkpoint can be taken");
        self.checkpoints
            .lock()
            .expect("no case panics while it holds this")
            .push(checkpoint.clone());
        checkpoint
    }

    pub(super) async fn look(&self, binding: &Binding) -> Observed {
        self.lifecycle().inspect(binding).await.expect("looking works")
    }

    /// The machine that a binding names.
    pub(super) async fn present(&self, binding: &Binding) -> Machine {
        match self.look(binding).await {
            Observed::Present(machine) => *machine,
            other => panic!("{binding:?} is not present: {other:?}"),
        }
    }

    pub(super) async fn is_absent(&self, binding: &Binding) -> bool {
        match self.look(binding).await {
            Observed::Absent(_) => true,
            Observed::Present(_) => false,
            Observed::Unknown(error) => panic!("nobody can tell whether {binding:?} is there: {error}"),
        }
    }

    /// Compares and destroys under the lease's lock, as the engine does.
    pub(super) async fn destroy(&self, binding: &Binding, observed: Machine) -> Result<Outcome> {
        let lock = ClaimLock::hold(self.fixture, &binding.lease);
        let verified = verify(&lock, binding, &self.backend.scope(), observed)?;
        self.lifecycle().destroy(&verified).await
    }

    /// Destroys what a binding names, if it is there, and waits until it is gone.
    pub(super) async fn undo(&self, binding: &Binding) {
        for _ in 0..200 {
            let machine = match self.look(binding).await {
                Observed::Absent(_) => return,
                Observed::Present(machine) => *machine,
                Observed::Unknown(error) => panic!("nobody can tell whether {binding:?} is there: {error}"),
            };
            let outcome = self
                .destroy(binding, machine)
                .await
                .expect("what was made can be destroyed");
            match outcome {
                Outcome::Deleted | Outcome::AlreadyGone => {
                    assert!(
                        self.is_absent(binding).await,
                        "{binding:?} is still there after {outcome:?}"
                    );
                    return;
                }
                Outcome::Pending => tokio::time::sleep(Duration::from_millis(50)).await,
                Outcome::Stopped | Outcome::Retained => panic!("{binding:?} was to be destroyed, not {outcome:?}"),
            }
        }
        panic!("{binding:?} is still there after many requests to destroy it");
    }

    /// Machines in the list that belong to a lease.
    pub(super) async fn listed(&self, lease: &LeaseId) -> Vec<Machine> {
        let inventory = self
            .backend
            .list(ListQuery::refreshed())
            .await
            .expect("boxes can be listed");
        inventory
            .machines
            .into_iter()
            .filter(|machine| machine.lease().as_ref() == Some(lease))
            .collect()
    }

    pub(super) async fn exec_into(
        &self,
        boxed: &Boxed,
        request: ExecRequest,
        sink: &mut dyn OutputSink,
    ) -> Result<ExecStatus> {
        self.delegated().exec(&boxed.machine, request, sink).await
    }

    /// Runs a command whose output somebody else waits for, who sees its end when the command ends.
    pub(super) async fn exec_for(&self, boxed: &Boxed, request: ExecRequest, mut sink: Forward) -> Result<ExecStatus> {
        let ended = self.exec_into(boxed, request, &mut sink).await;
        drop(sink);
        ended
    }

    pub(super) async fn exec(&self, boxed: &Boxed, request: ExecRequest) -> Result<Ran> {
        let mut sink = Keep::default();
        let status = self.exec_into(boxed, request, &mut sink).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran {
            status,
            stdout: text(sink.stdout),
            stderr: text(sink.stderr),
        })
    }

    /// Runs a shell script with parameters.
    pub(super) async fn script<const N: usize>(&self, boxed: &Boxed, script: &str, parameters: [&str; N]) -> Ran {
        self.exec(boxed, ExecRequest::script(script, parameters))
            .await
            .expect("a script can be run")
    }

    /// Makes the directory that cases work in.
    pub(super) async fn make_workspace(&self, boxed: &Boxed) -> RemotePath {
        let workspace = workspace(boxed);
        self.script(boxed, "mkdir -p \"$1\"", [workspace.as_str()]).await.ok();
        workspace
    }

    pub(super) async fn upload(&self, boxed: &Boxed, path: &RemotePath, content: &[u8], mode: u32) -> Result<()> {
        let upload = Upload::from_bytes(Bytes::copy_from_slice(content), mode);
        self.delegated().upload(&boxed.machine, path, upload).await
    }

    /// Command lines of the box's processes that are exactly the given words.
    pub(super) async fn count_in_box(&self, boxed: &Boxed, line: &str) -> usize {
        const SCRIPT: &str =
            "for file in /proc/[0-9]*/cmdline; do { tr '\\0' ' ' < \"$file\"; } 2>/dev/null; echo; done; true";
        let all = self.script(boxed, SCRIPT, []).await.ok();
        all.lines().filter(|found| found.trim_end() == line).count()
    }
}

impl Attempt {
    fn binding(&self, bench: &Bench<'_>) -> Binding {
        Binding::new(bench.spec().name, bench.backend.scope(), self.lease.clone(), None)
            .with_attempt(Some(self.token.clone()))
            .with_required_labels(self.required.clone())
    }
}

/// A binding of the same attempt to the resource that the journal was told.
pub(super) fn known_as(binding: &Binding, resource: &ResourceId) -> Binding {
    let mut binding = binding.clone();
    binding.resource = Some(resource.clone());
    binding
}

/// The directory that cases work in.
pub(super) fn workspace(boxed: &Boxed) -> RemotePath {
    let root: RemotePath = boxed
        .machine
        .work_root
        .parse()
        .expect("the work root is an absolute path");
    root.join("suite").expect("the name is plain")
}

/// Input that comes when the case says so.
pub(super) fn stdin_pipe() -> (tokio::io::DuplexStream, Stdin) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    (ours, Stdin::Stream(Box::pin(theirs)))
}

/// A number of seconds that nobody else sleeps, to find a process by.
pub(super) fn odd_seconds() -> String {
    let random = u32::from_str_radix(&random_hex(4), 16).expect("hex digits are a number");
    (1_000_000_000 + u64::from(random)).to_string()
}

/// Remembers what it is told.
#[derive(Debug, Default)]
pub(super) struct Notebook {
    pub(super) known: Vec<ResourceId>,
    /// Fails instead of remembering.
    pub(super) broken: bool,
}

#[async_trait]
impl Journal for Notebook {
    async fn resource_known(&mut self, resource: &ResourceId) -> Result<()> {
        if self.broken {
            return Err(Error::other("the journal cannot be written"));
        }
        self.known.push(resource.clone());
        Ok(())
    }

    async fn note(&mut self, _key: &str, _value: &str) -> Result<()> {
        if self.broken {
            return Err(Error::other("the journal cannot be written"));
        }
        Ok(())
    }
}

/// A lease's lock, held on a file as the engine holds it.
pub(super) struct ClaimLock {
    lease: LeaseId,
    _file: std::fs::File,
}

impl ClaimLock {
    fn hold(fixture: &dyn Fixture, lease: &LeaseId) -> Self {
        let file =
            std::fs::File::create(fixture.scratch().join(format!("{lease}.lock"))).expect("a lock file can be made");
        file.lock().expect("a file can be locked");
        Self {
            lease: lease.clone(),
            _file: file,
        }
    }
}

impl HeldLock for ClaimLock {
    fn lease(&self) -> &LeaseId {
        &self.lease
    }
}
