//! Checkpoint records: the shared format, reservation, kills.

use std::fs;
use std::path::Path;

use crate::child::Role;
use crabbox_core::{CheckpointId, ErrorKind};
use crabbox_state::checkpoints::{CheckpointRecord, CheckpointStore};
use crabbox_state::{Dirs, Disk, ProblemCode};
use jiff::Timestamp;

const FULL: &str = include_str!("fixtures/checkpoint-full.json");

fn store(root: &Path) -> CheckpointStore {
    CheckpointStore::new(&Dirs::under(root), Disk::new())
}

fn id(text: &str) -> CheckpointId {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05.9Z".parse().unwrap()
}

fn record(text: &str) -> CheckpointRecord {
    CheckpointRecord::new(&id(text), "workspace-archive", now())
}

#[expect(clippy::disallowed_methods, reason = "somebody else writes this file")]
fn plant(root: &Path, name: &str, content: &str) {
    let directory = root.join("state/checkpoints").join(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("checkpoint.json"), content).unwrap();
}

#[test]
fn a_record_keeps_every_byte_and_unknown_fields() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path(), "chk_0123456789abcdef", FULL);
    let store = store(root.path());
    let record = store.require(&id("chk_0123456789abcdef")).unwrap();
    assert!(record.unknown.is_empty() && record.native.unknown.is_empty() && record.repo.unknown.is_empty());
    store.write(&record).unwrap();
    let path = root
        .path()
        .join("state/checkpoints/chk_0123456789abcdef/checkpoint.json");
    assert_eq!(fs::read_to_string(&path).unwrap(), FULL);
    let more = FULL.replacen("\"kind\"", "\"later\": [1],\n  \"kind\"", 1).replacen(
        "\"imageId\"",
        "\"soon\": 1, \"imageId\"",
        1,
    );
    plant(root.path(), "chk_0123456789abcdef", &more);
    store.touch(&id("chk_0123456789abcdef"), now()).unwrap();
    let value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((&value["later"][0], &value["native"]["soon"]), (&1.into(), &1.into()));
    assert_eq!(value["lastUsedAt"], "2026-01-02T03:04:05Z");
}

#[test]
fn an_id_is_reserved_once() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let reserved = store.reserve(&record("chk_one")).unwrap();
    let error = store.reserve(&record("chk_one")).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::Usage, "checkpoint exists already: `chk_one`".to_owned())
    );
    assert_eq!(
        store.archive_path(&reserved),
        root.path().join("state/checkpoints/chk_one/workspace.tar.gz")
    );
    assert_eq!(fs::read_dir(root.path().join("state/checkpoints")).unwrap().count(), 1);
    assert!(
        store
            .write(&record("chk_two"))
            .unwrap_err()
            .to_string()
            .contains("no such checkpoint: `chk_two`")
    );
    let winners = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| store.reserve(&record("chk_race")).is_ok()))
            .collect();
        tries
            .into_iter()
            .map(|one| one.join().unwrap())
            .filter(|won| *won)
            .count()
    });
    assert_eq!(winners, 1);
}

#[test]
fn records_are_listed_newest_first() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    for (name, created) in [
        ("chk_a", "2026-01-02T00:00:00Z"),
        ("chk_b", "2026-01-03T00:00:00Z"),
        ("chk_c", "2026-01-02T00:00:00Z"),
    ] {
        let mut record = record(name);
        created.clone_into(&mut record.created_at);
        store.reserve(&record).unwrap();
    }
    let (records, problems) = store.list().unwrap();
    assert!(problems.is_empty());
    assert_eq!(
        records.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(),
        ["chk_b", "chk_c", "chk_a"]
    );
}

#[test]
fn gaps_are_filled_and_damage_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    plant(
        root.path(),
        "chk_gaps",
        "{\"kind\":\"recipe\",\"createdAt\":\"2026-01-01T00:00:00Z\"}",
    );
    let filled = store.require(&id("chk_gaps")).unwrap();
    assert_eq!(
        (filled.id.as_str(), filled.last_used_at.as_str()),
        ("chk_gaps", "2026-01-01T00:00:00Z")
    );
    plant(
        root.path(),
        "chk_other",
        "{\"id\":\"chk_gaps\",\"createdAt\":\"2026-01-01T00:00:00Z\"}",
    );
    plant(root.path(), "chk_time", "{\"createdAt\":\"yesterday\"}");
    plant(
        root.path(),
        "chk_path",
        "{\"createdAt\":\"2026-01-01T00:00:00Z\",\"archivePath\":\"../../x\"}",
    );
    plant(root.path(), "not a checkpoint", "{}");
    fs::create_dir(root.path().join("state/checkpoints/chk_void")).unwrap();
    let (records, problems) = store.list().unwrap();
    assert_eq!(records, [filled]);
    let found: Vec<_> = problems
        .iter()
        .map(|problem| (problem.file.as_str(), problem.code))
        .collect();
    assert_eq!(
        found,
        [
            ("chk_other", ProblemCode::LeaseIdMismatch),
            ("chk_path", ProblemCode::InvalidClaim),
            ("chk_time", ProblemCode::InvalidClaim),
            ("chk_void", ProblemCode::InvalidJson),
            ("not a checkpoint", ProblemCode::InvalidFilename),
        ]
    );
    // What cannot be read can still be forgotten.
    assert!(store.remove(&id("chk_void")).unwrap());
    assert!(store.remove(&id("chk_time")).unwrap());
    assert!(!store.remove(&id("chk_time")).unwrap());
}

#[test]
fn parallel_forks_lose_no_change() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let reserved = store.reserve(&record("chk_forks")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    store
                        .change(&reserved, |record| {
                            record.archive_bytes += 1;
                            Ok(())
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(store.require(&reserved).unwrap().archive_bytes, 40);
}

#[test]
#[ignore = "a child process of the tests beside it"]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let store = CheckpointStore::new(&role.dirs(), role.disk());
    let reserved = store.reserve(&record("chk_life")).unwrap();
    fs::File::create(store.archive_path(&reserved)).unwrap();
    store
        .change(&reserved, |record| {
            record.archive_path = "workspace.tar.gz".to_owned();
            Ok(())
        })
        .unwrap();
    store.remove(&reserved).unwrap();
}

#[test]
fn killed_anywhere_a_checkpoint_is_whole_or_absent() {
    let kills = crate::child::kill_at_every_step(
        "checkpoints::child",
        "life",
        |_| {},
        |dirs, step| {
            let store = CheckpointStore::new(dirs, Disk::new());
            let (records, problems) = store.list().unwrap();
            assert!(problems.is_empty(), "step {step}: {problems:?}");
            for record in records {
                let archive = store.archive_path(&id(&record.id));
                assert!(record.archive_path.is_empty() || archive.exists(), "step {step}");
                assert!(store.remove(&id(&record.id)).unwrap());
            }
            store.reserve(&record("chk_life")).unwrap();
        },
    );
    assert!(kills > 10, "only {kills} effects were seen");
}
