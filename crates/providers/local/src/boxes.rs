//! Boxes as directories: made, looked at, listed, removed.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::labels::Labels;
use crabbox_core::machine::{Machine, MachineState, ResourceId};
use crabbox_core::request::CreateLease;
use crabbox_core::spec::IsolationLevel;
use jiff::Timestamp;

use crate::plan::Plan;
use crate::store::{self, BoxRecord, Found, Layers, RunRecord, Store};
use crate::{SPEC, tree};

/// How old a draft must be before it counts as left behind by a crash.
const STALE_SECONDS: i64 = 600;

/// How long a box without a supervisor may still be starting.
const STARTING_SECONDS: i64 = 30;

/// A new box, as the backend decided it.
#[derive(Debug)]
pub(crate) struct NewBox<'a> {
    pub(crate) id: &'a str,
    pub(crate) request: &'a CreateLease,
    pub(crate) now: Timestamp,
    /// `None` for a box without isolation.
    pub(crate) plan: Option<&'a Plan>,
    pub(crate) layers: Layers,
}

/// Makes the directory of a box, complete from the moment it has its name.
pub(crate) fn make(store: &Store, new: &NewBox<'_>) -> Result<PathBuf> {
    store.prepare()?;
    let draft = store.draft(new.id);
    let directory = store.directory(new.id)?;
    let _drafting = store.hold_drafts()?;
    let made = fill(&draft, &directory, new).and_then(|()| {
        fs::rename(&draft, &directory).or_error(ErrorKind::Other, || format!("make {}", directory.display()))
    });
    if made.is_err() {
        let _ = tree::remove(&draft);
    }
    made.map(|()| directory)
}

fn fill(draft: &Path, directory: &Path, new: &NewBox<'_>) -> Result<()> {
    store::make_private(draft)?;
    let work_root = match new.plan {
        Some(_) => SPEC.work_root.to_owned(),
        None => text_of(&directory.join(&new.layers.upper))?,
    };
    let record = BoxRecord {
        name: new.request.name.clone(),
        created_at: new.now,
        isolation: if new.plan.is_some() { "container" } else { "none" }.to_owned(),
        network: match new.plan {
            Some(plan) if plan.isolate_network => "none",
            _ => "host",
        }
        .to_owned(),
        work_root,
        labels: new.request.labels.clone(),
    };
    store::replace(draft, "box.json", &record)?;
    store::replace(draft, "layers.json", &new.layers)?;
    let mut written = vec!["home".to_owned(), new.layers.upper.clone()];
    if !new.layers.lower.is_empty() {
        written.push(format!("{}.work", new.layers.upper));
    }
    if let Some(plan) = new.plan {
        store::replace(draft, "plan.json", plan)?;
        store::make_private(&draft.join("root"))?;
        for name in written {
            make_owned(&draft.join(name), plan)?;
        }
    } else {
        written.push("tmp".to_owned());
        for name in written {
            store::make_private(&draft.join(name))?;
        }
    }
    Ok(())
}

/// Makes a directory that belongs to the user of the box.
pub(crate) fn make_owned(path: &Path, plan: &Plan) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let failed = || format!("make {}", path.display());
    fs::create_dir(path).or_error(ErrorKind::Other, failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).or_error(ErrorKind::Other, failed)?;
    if plan.privileged {
        let (user, group) = plan.outer;
        chown(path, Some(user), Some(group)).or_error(ErrorKind::Other, failed)?;
    }
    Ok(())
}

fn text_of(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("the state directory is not UTF-8: {}", path.display()))
            .with_hint("choose another with CRABBOX_STATE_DIR")
    })
}

/// Looks at one box; `None` when there is none of this id.
pub(crate) fn look(store: &Store, id: &str, now: Timestamp) -> Result<Option<Machine>> {
    let directory = store.directory(id)?;
    match store.find(id)? {
        Found::Nothing => Ok(None),
        Found::Damaged(labels) => {
            let mut machine = Machine::new(SPEC.name, ResourceId::new(id), labels, SPEC.targets[0]);
            machine.state = MachineState::Failed;
            machine.metadata.insert("fault".into(), "damaged record".into());
            Ok(Some(machine))
        }
        Found::Whole(record) => Ok(Some(machine(&directory, id, *record, now))),
    }
}

fn machine(directory: &Path, id: &str, record: BoxRecord, now: Timestamp) -> Machine {
    let run: RunRecord = store::load(directory, "run.json").ok().flatten().unwrap_or_default();
    let isolation = record.isolation_level();
    let age = now.duration_since(record.created_at).as_secs();
    let (state, fault) = if isolation == IsolationLevel::None {
        (MachineState::Ready, None)
    } else if !store::is_supervised(directory) {
        if run.supervisor.is_none() && age < STARTING_SECONDS {
            (MachineState::Provisioning, None)
        } else {
            (MachineState::Failed, Some("its supervisor has ended"))
        }
    } else if let Some(first) = run.first.filter(|_| !run.broken) {
        if !is_alive(first) {
            (MachineState::Failed, Some("its processes have ended"))
        } else if run.paused {
            (MachineState::Paused, None)
        } else {
            (MachineState::Ready, None)
        }
    } else if run.broken {
        (MachineState::Failed, Some("its processes have ended"))
    } else {
        (MachineState::Provisioning, None)
    };
    let mut machine = Machine::new(SPEC.name, ResourceId::new(id), record.labels, SPEC.targets[0]);
    machine.name = record.name;
    machine.state = state;
    machine.isolation = isolation;
    machine.created_at = Some(record.created_at);
    machine.work_root = record.work_root;
    machine.architecture = Some(architecture().to_owned());
    machine.metadata.insert("network".into(), record.network);
    if let Some(fault) = fault {
        machine.metadata.insert("fault".into(), fault.into());
    }
    machine
}

#[cfg(target_os = "linux")]
fn is_alive(process: store::ProcessRecord) -> bool {
    crate::linux::is_alive(process)
}

#[cfg(not(target_os = "linux"))]
fn is_alive(_process: store::ProcessRecord) -> bool {
    false
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Every box.
pub(crate) fn list(store: &Store, now: Timestamp) -> Result<Vec<Machine>> {
    let mut machines = Vec::new();
    for id in store.ids()? {
        // Names that cannot be ids were put there by somebody else.
        if store.directory(&id).is_ok()
            && let Some(machine) = look(store, &id, now)?
        {
            machines.push(machine);
        }
    }
    Ok(machines)
}

/// Replaces the labels of a box.
pub(crate) fn relabel(store: &Store, id: &str, labels: &Labels) -> Result<()> {
    let directory = store.directory(id)?;
    match store.find(id)? {
        Found::Whole(mut record) => {
            record.labels = labels.clone();
            store::replace(&directory, "box.json", &*record)
        }
        Found::Damaged(_) => {
            Err(Error::other(format!("the record of the box is damaged: {id}"))
                .with_hint("stop the box and start another"))
        }
        Found::Nothing => Err(gone(id)),
    }
}

/// No such box any more.
pub(crate) fn gone(id: &str) -> Error {
    Error::identity(format!("the box is gone: {id}"))
        .with_hint("it was stopped or its time was over; start another with `crabbox warmup`")
}

/// Removes the directory of a box whose processes have ended, and what an earlier, interrupted removal left.
pub(crate) fn discard(store: &Store, id: &str) -> Result<()> {
    let directory = store.directory(id)?;
    let discarded = store.discarded(id);
    let failed = || format!("remove {}", directory.display());
    remove(&discarded)?;
    match fs::rename(&directory, &discarded) {
        Ok(()) => remove(&discarded)?,
        Err(error) if error.kind() == IoKind::NotFound => {}
        Err(error) => return Err(Error::other(failed()).with_source(error)),
    }
    remove(&store.draft(id))
}

fn remove(path: &Path) -> Result<()> {
    tree::remove(path).map_err(|error| {
        Error::other(format!("remove {}", path.display()))
            .with_source(error)
            .with_hint("remove the directory by hand, or try again")
    })
}

/// Removes what an interrupted making or removal left of a box that is not there: it is not gone as long as that remains.
/// Returns whether the box is there after all, since somebody was just making it.
///
/// # Errors
/// `Other` when something that is left cannot be removed.
pub(crate) fn clear_remains(store: &Store, id: Option<&str>) -> Result<bool> {
    let appeared = || id.map_or(Ok(false), |id| Ok(store.directory(id)?.is_dir()));
    if store.drafts()?.is_empty() {
        if appeared()? {
            return Ok(true);
        }
    } else {
        let _alone = store.hold_drafts_alone()?;
        if appeared()? {
            return Ok(true);
        }
        for draft in store.drafts()? {
            remove(&draft)?;
        }
    }
    // Somebody may be removing it at this moment, too; both come to the same end.
    id.map_or(Ok(()), |id| remove(&store.discarded(id)))?;
    Ok(false)
}

/// Removes drafts and half-removed boxes that a crash left behind. Failures wait for the next time.
pub(crate) fn sweep(store: &Store, now: Timestamp) {
    for name in store::names(&store.boxes()).unwrap_or_default() {
        let path = store.boxes().join(&name);
        let stale = || {
            let changed = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified());
            changed
                .ok()
                .and_then(|time| Timestamp::try_from(time).ok())
                .is_some_and(|time| now.duration_since(time).as_secs() > STALE_SECONDS)
        };
        if (name.starts_with(".gone-") || name.starts_with(".new-")) && stale() {
            let _ = tree::remove(&path);
        }
    }
}
