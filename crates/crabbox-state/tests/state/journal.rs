//! The journal: its stages, kills between any two effects, two cleaners at once.

use std::fs;
use std::path::Path;

use crate::child::Role;
use crabbox_core::{ErrorKind, LeaseId};
use crabbox_state::journal::{Entry, Intent, Journal, Purpose, Resource, Stage, client_is_alive};
use crabbox_state::process::Client;
use crabbox_state::{Dirs, Disk, ProblemCode};

const LEASE: &str = "cbx_abcdef123456";

fn lease() -> LeaseId {
    LEASE.parse().unwrap()
}

fn journal(root: &Path) -> Journal {
    Journal::new(&Dirs::under(root), Disk::new(), Client::current())
}

fn intent() -> Intent {
    Intent {
        lease: lease(),
        slug: "blue-prawn".to_owned(),
        provider: "local".to_owned(),
        provider_scope: String::new(),
        purpose: Purpose::OneShot,
        attempt: "cat_00112233445566778899aabbccddeeff".to_owned(),
    }
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn path(root: &Path) -> std::path::PathBuf {
    root.join(format!("state/journal/{LEASE}.json"))
}

#[expect(clippy::disallowed_methods, reason = "somebody else writes this file")]
fn plant(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_lease_goes_through_its_stages_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let journal = journal(root.path());
    assert!(journal.list().unwrap().0.is_empty());
    let mut handle = journal.prepare(intent(), now()).unwrap();
    assert_eq!(
        journal.prepare(intent(), now()).unwrap_err().kind(),
        ErrorKind::Identity
    );
    handle.record_resource(Resource::new("box-1", "")).unwrap();
    handle.record_resource(Resource::new("box-1", "uid-1")).unwrap();
    handle.record_resource(Resource::new("box-1", "uid-1")).unwrap();
    for other in [Resource::new("box-2", "uid-1"), Resource::new("box-1", "uid-2")] {
        assert_eq!(handle.record_resource(other).unwrap_err().kind(), ErrorKind::Identity);
    }
    handle.acquired().unwrap();
    handle.keep().unwrap();
    let (entries, problems) = journal.list().unwrap();
    assert!(problems.is_empty());
    assert_eq!(entries, [handle.entry().clone()]);
    assert_eq!((entries[0].state, entries[0].purpose), (Stage::Acquired, Purpose::Kept));
    assert!(client_is_alive(&entries[0]));
    handle.releasing().unwrap();
    assert!(handle.acquired().is_err());
    handle.finish().unwrap();
    handle.finish().unwrap();
    assert!(handle.releasing().is_err());
    assert_eq!(fs::read_dir(root.path().join("state/journal")).unwrap().count(), 0);
}

#[test]
fn the_entry_has_a_stable_shape() {
    let root = tempfile::tempdir().unwrap();
    let mut handle = journal(root.path()).prepare(intent(), now()).unwrap();
    handle.record_resource(Resource::new("box-1", "uid-1")).unwrap();
    let text = fs::read_to_string(path(root.path())).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "schemaVersion",
            "revision",
            "state",
            "leaseId",
            "slug",
            "provider",
            "purpose",
            "attempt",
            "createdAt",
            "client",
            "resource"
        ]
    );
    assert_eq!(value["schemaVersion"], 1);
    assert_eq!(value["state"], "prepared");
    assert_eq!(value["purpose"], "one-shot");
    assert_eq!(value["createdAt"], "2026-01-02T03:04:05Z");
    assert_eq!(
        value["resource"],
        serde_json::json!({"id": "box-1", "immutableId": "uid-1"})
    );
    assert_eq!(value["client"]["pid"], std::process::id());
}

#[test]
fn fields_of_other_versions_survive_and_newer_formats_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let journal = journal(root.path());
    journal.prepare(intent(), now()).unwrap();
    let text = fs::read_to_string(path(root.path())).unwrap();
    let with_more = text
        .replacen('{', "{\n  \"more\": {\"a\": 1},", 1)
        .replacen("\"pid\"", "\"cell\": 7, \"pid\"", 1);
    plant(&path(root.path()), &with_more);
    let mut handle = journal.open(&lease()).unwrap().unwrap();
    handle.acquired().unwrap();
    let value: serde_json::Value = serde_json::from_str(&fs::read_to_string(path(root.path())).unwrap()).unwrap();
    assert_eq!((&value["more"]["a"], &value["client"]["cell"]), (&1.into(), &7.into()));

    let newer = "{\"schemaVersion\": 2, \"leaseId\": {\"changed\": \"shape\"}}";
    plant(&path(root.path()), newer);
    assert_eq!(journal.open(&lease()).unwrap_err().kind(), ErrorKind::Prerequisite);
    assert!(handle.releasing().is_err());
    assert!(handle.finish().is_err());
    assert_eq!(journal.list().unwrap().1[0].code, ProblemCode::UnsupportedVersion);
    assert_eq!(fs::read_to_string(path(root.path())).unwrap(), newer);
}

#[test]
fn damaged_and_misfiled_entries_are_problems() {
    let root = tempfile::tempdir().unwrap();
    let journal = journal(root.path());
    journal.prepare(intent(), now()).unwrap();
    let directory = root.path().join("state/journal");
    fs::copy(path(root.path()), directory.join("cbx_000000000001.json")).unwrap();
    plant(&directory.join("cbx_000000000002.json"), "{");
    plant(&directory.join("nul.json"), "{}");
    let (entries, problems) = journal.list().unwrap();
    assert_eq!(entries.len(), 1);
    let codes: Vec<_> = problems.iter().map(|problem| problem.code).collect();
    assert_eq!(
        codes,
        [
            ProblemCode::LeaseIdMismatch,
            ProblemCode::InvalidJson,
            ProblemCode::InvalidFilename
        ]
    );
    assert_eq!(
        journal.open(&"cbx_000000000001".parse().unwrap()).unwrap_err().kind(),
        ErrorKind::Identity
    );
}

#[test]
fn a_stale_handle_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let journal = journal(root.path());
    let mut first = journal.prepare(intent(), now()).unwrap();
    let mut second = journal.open(&lease()).unwrap().unwrap();
    second.acquired().unwrap();
    assert_eq!(first.releasing().unwrap_err().kind(), ErrorKind::Identity);
    assert_eq!(first.finish().unwrap_err().kind(), ErrorKind::Identity);
    assert_eq!(journal.open(&lease()).unwrap().unwrap().entry(), second.entry());
}

#[test]
#[ignore = "a child process of the tests beside it"]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let journal = Journal::new(&role.dirs(), role.disk(), Client::current());
    match role.name.as_str() {
        "life" => {
            let mut handle = journal.prepare(intent(), now()).unwrap();
            // A file per resource stands for the provider, who remembers what it was asked for.
            fs::create_dir_all(role.root.join("cloud/box-1")).unwrap();
            handle.record_resource(Resource::new("box-1", "uid-1")).unwrap();
            handle.acquired().unwrap();
            handle.keep().unwrap();
            handle.releasing().unwrap();
            fs::remove_dir(role.root.join("cloud/box-1")).unwrap();
            handle.finish().unwrap();
        }
        "prepare" => drop(journal.prepare(intent(), now()).unwrap()),
        other => panic!("unknown role: {other}"),
    }
}

#[test]
fn killed_anywhere_the_entry_tells_what_to_give_back() {
    let kills = crate::child::kill_at_every_step(
        "journal::child",
        "life",
        |_| {},
        |dirs, step| {
            let journal = Journal::new(dirs, Disk::new(), Client::current());
            let (entries, problems) = journal.list().unwrap();
            assert!(problems.is_empty(), "step {step}: {problems:?}");
            let root = dirs.state.parent().unwrap();
            let created = root.join("cloud/box-1");
            assert!(
                !created.exists() || entries.len() == 1,
                "step {step}: a resource without an entry"
            );
            let Some(entry) = entries.first() else { return };
            assert!(!client_is_alive(entry), "step {step}: the client was killed");
            assert!(entry.attempt.starts_with("cat_"));
            assert!(
                entry.resource.is_some() || entry.state == Stage::Prepared,
                "step {step}"
            );
            // Whoever cleans up takes the entry over and finishes the work.
            let mut handle = journal.open(&entry.lease_id).unwrap().unwrap();
            handle.adopt().unwrap();
            handle.releasing().unwrap();
            let _ = fs::remove_dir(&created);
            handle.finish().unwrap();
            assert!(journal.list().unwrap().0.is_empty());
        },
    );
    assert!(kills > 25, "only {kills} effects were seen");
}

#[test]
fn one_of_many_cleaners_takes_an_entry_over() {
    let root = tempfile::tempdir().unwrap();
    assert!(crate::child::run("journal::child", "prepare", root.path()).success());
    let winners: Vec<Entry> = std::thread::scope(|scope| {
        let cleaners: Vec<_> = (0..8)
            .map(|number| {
                let mut client = Client::current();
                // Cleaners are processes; here they differ by something that their identity ignores.
                client.unknown.insert("cleaner".to_owned(), number.into());
                let journal = Journal::new(&Dirs::under(root.path()), Disk::new(), client);
                scope.spawn(move || {
                    let mut handle = journal.open(&lease()).unwrap().unwrap();
                    handle.adopt().ok().map(|()| handle.entry().clone())
                })
            })
            .collect();
        cleaners
            .into_iter()
            .filter_map(|cleaner| cleaner.join().unwrap())
            .collect()
    });
    let stored = journal(root.path()).open(&lease()).unwrap().unwrap();
    assert_eq!(winners, [stored.entry().clone()]);
}

#[test]
fn the_entry_of_a_living_client_is_not_taken_over() {
    let root = tempfile::tempdir().unwrap();
    journal(root.path()).prepare(intent(), now()).unwrap();
    let mut other = Client::current();
    other.pid = 1;
    let cleaner = Journal::new(&Dirs::under(root.path()), Disk::new(), other);
    let mut handle = cleaner.open(&lease()).unwrap().unwrap();
    assert_eq!(handle.adopt().unwrap_err().kind(), ErrorKind::Identity);
    // Neither is one that cannot be looked at from here.
    let text = fs::read_to_string(path(root.path())).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["client"]["host"] = "elsewhere.example.test".into();
    value["client"]["pid"] = 1_u32.into();
    plant(&path(root.path()), &value.to_string());
    let mut handle = cleaner.open(&lease()).unwrap().unwrap();
    assert!(client_is_alive(handle.entry()));
    assert!(handle.adopt().is_err());
}
