//! Run records: shapes, bounds, readers while a run goes on, kills.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::child::Role;
use crabbox_core::{ErrorKind, RunId};
use crabbox_state::process::Client;
use crabbox_state::runs::{
    EVENT_OUTPUT_LIMIT, EventInput, EventQuery, Finish, LOG_LIMIT, Now, Retention, RunFilter, RunRecord, RunState,
    RunStore, Stream,
};
use crabbox_state::{Dirs, Disk, ProblemCode};
use jiff::{SignedDuration, Timestamp};

fn start() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// A clock that moves one millisecond per look.
fn clock() -> Now {
    let ticks = AtomicI64::new(0);
    Arc::new(move || start() + SignedDuration::from_millis(ticks.fetch_add(1, Ordering::SeqCst)))
}

fn store(root: &Path) -> RunStore {
    RunStore::new(&Dirs::under(root), Disk::new(), Client::current(), clock())
}

fn id(number: u32) -> RunId {
    format!("run_{number:012x}").parse().unwrap()
}

fn record(number: u32) -> RunRecord {
    RunRecord::new(
        id(number),
        vec!["make".to_owned(), "<all>".to_owned()],
        start() + SignedDuration::from_secs(number.into()),
    )
}

fn plain_finish(exit_code: i32) -> Finish {
    Finish {
        exit_code,
        ..Finish::default()
    }
}

#[test]
fn a_run_has_the_shape_of_the_coordinator() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let writer = store.create(record(0)).unwrap();
    writer
        .update(|run| {
            run.lease_id = "cbx_abcdef123456".to_owned();
            run.slug = "blue-prawn".to_owned();
            run.provider = "local".to_owned();
            run.state = RunState::Succeeded;
        })
        .unwrap();
    writer.event(EventInput::new("sync.started")).unwrap();
    writer.append_log(Stream::Stdout, b"hello\n").unwrap();
    writer.append_log(Stream::Stderr, b"oops\n").unwrap();
    let results = serde_json::json!({"format": "junit", "tests": 3});
    let finish = Finish {
        exit_code: 3,
        exit_source: "command".to_owned(),
        sync_ms: Some(5),
        command_ms: Some(7),
        results: Some(results),
        ..Finish::default()
    };
    let finished = writer.finish(finish).unwrap();
    assert_eq!(store.read(&id(0)).unwrap().unwrap(), finished);
    assert_eq!(
        serde_json::to_string(&finished).unwrap(),
        "{\"id\":\"run_000000000000\",\"leaseID\":\"cbx_abcdef123456\",\"slug\":\"blue-prawn\",\"owner\":\"\",\
         \"org\":\"\",\"provider\":\"local\",\"class\":\"\",\"serverType\":\"\",\"command\":[\"make\",\"<all>\"],\
         \"state\":\"failed\",\"phase\":\"failed\",\"exitCode\":3,\"exitSource\":\"command\",\"syncMs\":5,\
         \"commandMs\":7,\"durationMs\":5,\"logBytes\":11,\"logTruncated\":false,\"results\":{\"format\":\"junit\",\
         \"tests\":3},\"startedAt\":\"2026-01-02T03:04:05.000Z\",\"lastEventAt\":\"2026-01-02T03:04:05.004Z\",\
         \"eventCount\":5,\"endedAt\":\"2026-01-02T03:04:05.005Z\"}"
    );
    let events = fs::read_to_string(store.run_directory(&id(0)).join("events.jsonl")).unwrap();
    assert_eq!(
        events.lines().nth(2).unwrap(),
        "{\"runID\":\"run_000000000000\",\"seq\":3,\"type\":\"stdout\",\"phase\":\"command\",\"stream\":\"stdout\",\
         \"data\":\"hello\\n\",\"createdAt\":\"2026-01-02T03:04:05.002Z\"}"
    );
    assert_eq!(store.log(&id(0), None).unwrap().content, b"hello\noops\n");
    assert_eq!(store.log(&id(0), Some(1)).unwrap().content, b"oops\n");
    // After the end the lease may go, and nothing else happens.
    writer.event(EventInput::new("lease.released")).unwrap();
    assert!(writer.event(EventInput::new("sync.started")).is_err());
    assert!(writer.finish(plain_finish(0)).is_err());
    let released = store.read(&id(0)).unwrap().unwrap();
    assert_eq!(
        (released.state, released.phase.as_str()),
        (RunState::Failed, "released")
    );
}

#[test]
fn events_are_read_in_order_and_filtered() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let writer = store.create(record(0)).unwrap();
    for kind in [
        "leasing.started",
        "lease.created",
        "telemetry",
        "sync.started",
        "sync.finished",
    ] {
        writer.event(EventInput::new(kind).with_message("x")).unwrap();
    }
    let kinds = |query| {
        let events = store.events(&id(0), &query).unwrap();
        events
            .iter()
            .map(|event| format!("{} {} {}", event.seq, event.input.kind, event.input.phase))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        kinds(EventQuery {
            after: 1,
            limit: Some(3),
            ..EventQuery::default()
        }),
        [
            "2 leasing.started leasing",
            "3 lease.created leased",
            "4 telemetry leased"
        ]
    );
    assert_eq!(
        kinds(EventQuery {
            phase: Some("leased".to_owned()),
            ..EventQuery::default()
        })
        .len(),
        2
    );
    assert_eq!(
        kinds(EventQuery {
            kind: Some("sync.finished".to_owned()),
            ..EventQuery::default()
        }),
        ["6 sync.finished synced"]
    );
    assert_eq!(
        store.events(&id(9), &EventQuery::default()).unwrap_err().kind(),
        ErrorKind::Identity
    );
}

#[test]
fn output_beyond_the_limit_is_in_the_log_only_and_said_so_once() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let writer = store.create(record(0)).unwrap();
    // The euro sign is cut by every chunk, and by the limits.
    let output = "€".repeat(40_000).into_bytes();
    for chunk in output.chunks(1000) {
        writer.append_log(Stream::Stdout, chunk).unwrap();
    }
    writer.finish(plain_finish(0)).unwrap();
    let events = store.events(&id(0), &EventQuery::default()).unwrap();
    let data: String = events.iter().map(|event| event.input.data.as_str()).collect();
    assert!(
        data.len() <= EVENT_OUTPUT_LIMIT && data.len() + 3 > EVENT_OUTPUT_LIMIT,
        "{}",
        data.len()
    );
    assert!(data.chars().all(|character| character == '€'));
    assert_eq!(
        events
            .iter()
            .filter(|event| event.input.kind == "output.truncated")
            .count(),
        1
    );
    assert_eq!(store.log(&id(0), None).unwrap().content, output);
}

#[test]
fn a_long_log_keeps_its_tail() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let writer = store.create(record(0)).unwrap();
    let chunk = [b'x'; 1 << 20];
    for _ in 0..20 {
        writer.append_log(Stream::Stdout, &chunk).unwrap();
    }
    writer.append_log(Stream::Stdout, b"\nlast\n").unwrap();
    let finished = writer.finish(plain_finish(0)).unwrap();
    assert_eq!((finished.log_bytes, finished.log_truncated), (LOG_LIMIT, true));
    let log = store.log(&id(0), None).unwrap();
    assert!(log.truncated && log.content.len() as u64 == LOG_LIMIT && log.content.ends_with(b"\nlast\n"));
    assert_eq!(store.log(&id(0), Some(1)).unwrap().content, b"last\n");
}

#[test]
fn a_line_that_was_cut_off_is_ignored() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let writer = store.create(record(0)).unwrap();
    let path = store.run_directory(&id(0)).join("events.jsonl");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"rubbish\n").unwrap();
    writer.event(EventInput::new("sync.started")).unwrap();
    file.write_all(b"{\"runID\":\"run_000000000000\",\"seq\":3,\"ty")
        .unwrap();
    let events = store.events(&id(0), &EventQuery::default()).unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(store.read(&id(0)).unwrap().unwrap().event_count, Some(2));
}

#[test]
fn runs_are_listed_newest_first_and_filtered() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    for number in 0..4 {
        let mut record = record(number);
        record.slug = format!("slug-{}", number % 2);
        record.lease_id = format!("cbx_{number:012x}");
        store
            .create(record)
            .unwrap()
            .finish(plain_finish(i32::from(number == 3)))
            .unwrap();
    }
    let _running = store.create(record(4)).unwrap();
    let list = |filter: RunFilter| {
        let (runs, problems) = store.list(&filter).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        runs.iter()
            .map(|run| run.id.as_str()[15..].to_owned())
            .collect::<String>()
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(list(RunFilter::default()), "43210");
    assert_eq!(
        list(RunFilter {
            limit: Some(2),
            ..RunFilter::default()
        }),
        "43"
    );
    assert_eq!(
        list(RunFilter {
            lease: text("slug-1"),
            ..RunFilter::default()
        }),
        "31"
    );
    assert_eq!(
        list(RunFilter {
            lease: text("cbx_000000000002"),
            ..RunFilter::default()
        }),
        "2"
    );
    assert_eq!(
        list(RunFilter {
            state: text("failed"),
            ..RunFilter::default()
        }),
        "3"
    );
    assert_eq!(
        list(RunFilter {
            state: text("running"),
            ..RunFilter::default()
        }),
        "4"
    );
    assert_eq!(
        list(RunFilter {
            owner: text("eve"),
            ..RunFilter::default()
        }),
        ""
    );
    assert_eq!(store.create(record(4)).unwrap_err().kind(), ErrorKind::Identity);
}

#[test]
fn damaged_records_are_problems() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    store.create(record(0)).unwrap().finish(plain_finish(0)).unwrap();
    let runs = root.path().join("state/runs");
    fs::create_dir(runs.join(id(1).as_str())).unwrap();
    fs::create_dir(runs.join(id(2).as_str())).unwrap();
    fs::copy(
        runs.join(id(0).as_str()).join("record.json"),
        runs.join(id(2).as_str()).join("record.json"),
    )
    .unwrap();
    fs::create_dir(runs.join("other")).unwrap();
    let (found, problems) = store.list(&RunFilter::default()).unwrap();
    assert_eq!(found.len(), 1);
    let codes: Vec<_> = problems.iter().map(|problem| problem.code).collect();
    assert_eq!(
        codes,
        [
            ProblemCode::InvalidFilename,
            ProblemCode::InvalidJson,
            ProblemCode::LeaseIdMismatch
        ]
    );
    assert_eq!(store.read(&id(1)).unwrap_err().kind(), ErrorKind::Identity);
    assert_eq!(store.read(&id(7)).unwrap(), None);
}

#[test]
fn old_runs_go_and_running_ones_stay() {
    let root = tempfile::tempdir().unwrap();
    let bounds = Retention {
        records: 3,
        age: Duration::from_secs(3600),
        bytes: 1 << 20,
    };
    let store = store(root.path()).with_retention(bounds);
    let running = store.create(record(0)).unwrap();
    for number in 1..6 {
        store.create(record(number)).unwrap().finish(plain_finish(0)).unwrap();
    }
    store.prune().unwrap();
    let left = |store: &RunStore| {
        let (runs, _) = store.list(&RunFilter::default()).unwrap();
        runs.iter()
            .map(|run| run.id.as_str()[15..].to_owned())
            .collect::<String>()
    };
    assert_eq!(left(&store), "5430");
    // What does not fit goes with everything older.
    let writer = store.create(record(6)).unwrap();
    writer.append_log(Stream::Stdout, &vec![b'x'; 1 << 20]).unwrap();
    writer.finish(plain_finish(0)).unwrap();
    let small = store.with_retention(Retention {
        bytes: 2 << 20,
        records: 100,
        ..bounds
    });
    small
        .create(record(7))
        .unwrap()
        .append_log(Stream::Stdout, &vec![b'x'; 1 << 20])
        .unwrap();
    small.prune().unwrap();
    assert_eq!(left(&small), "70");
    let later: Now = Arc::new(|| start() + SignedDuration::from_hours(2));
    let later = RunStore::new(&Dirs::under(root.path()), Disk::new(), Client::current(), later).with_retention(bounds);
    later.prune().unwrap();
    assert_eq!(left(&later), "0");
    running.finish(plain_finish(0)).unwrap();
}

#[test]
fn a_run_whose_client_nobody_can_see_goes_when_it_is_old() {
    let root = tempfile::tempdir().unwrap();
    let mut elsewhere = Client::current();
    elsewhere.host = "a container that is gone".to_owned();
    let dirs = Dirs::under(root.path());
    let bounds = Retention {
        records: 0,
        age: Duration::from_secs(3600),
        bytes: 1 << 20,
    };
    let writer = RunStore::new(&dirs, Disk::new(), elsewhere, clock())
        .create(record(0))
        .unwrap();
    let young = store(root.path()).with_retention(bounds);
    assert_eq!(young.prune().unwrap(), 0);
    let old: Now = Arc::new(|| start() + SignedDuration::from_hours(2));
    let old = RunStore::new(&dirs, Disk::new(), Client::current(), old).with_retention(bounds);
    assert_eq!(old.prune().unwrap(), 1);
    // If its client lives after all, the end is on record.
    writer.finish(plain_finish(0)).unwrap();
    assert_eq!(old.read(&id(0)).unwrap().unwrap().state, RunState::Succeeded);
}

#[test]
fn records_stay_bounded_without_anybody_asking() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path()).with_retention(Retention {
        records: 5,
        ..Retention::default()
    });
    for number in 0..30 {
        store.create(record(number)).unwrap().finish(plain_finish(0)).unwrap();
        let (runs, _) = store.list(&RunFilter::default()).unwrap();
        assert!(runs.len() <= 8, "{} runs", runs.len());
        assert_eq!(runs[0].id, id(number));
    }
}

#[test]
fn a_dropped_writer_is_a_failed_run() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    drop(store.create(record(0)).unwrap());
    let run = store.read(&id(0)).unwrap().unwrap();
    assert_eq!(
        (run.state, run.phase.as_str(), run.exit_code),
        (RunState::Failed, "failed", None)
    );
    assert!(run.ended_at.is_some());
}

#[test]
#[ignore = "a child process of the tests beside it"]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let store = RunStore::new(&role.dirs(), role.disk(), Client::current(), clock());
    let writer = store.create(record(0)).unwrap();
    writer.update(|run| run.slug = "blue-prawn".to_owned()).unwrap();
    writer.append_log(Stream::Stdout, b"hello\n").unwrap();
    writer.finish(plain_finish(0)).unwrap();
    writer.event(EventInput::new("lease.released")).unwrap();
}

#[test]
fn killed_anywhere_a_run_is_readable_and_not_running() {
    let kills = crate::child::kill_at_every_step(
        "runs::child",
        "life",
        |_| {},
        |dirs, step| {
            let store = RunStore::new(dirs, Disk::new(), Client::current(), clock());
            let (runs, problems) = store.list(&RunFilter::default()).unwrap();
            assert!(problems.is_empty(), "step {step}: {problems:?}");
            let Some(run) = runs.first() else { return };
            assert_ne!(run.state, RunState::Running, "step {step}");
            let events = store.events(&run.id, &EventQuery::default()).unwrap();
            assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq));
            let written = events.iter().any(|event| event.input.kind == "stdout");
            assert!(!written || store.log(&run.id, None).unwrap().content == b"hello\n");
            let ended = events.iter().any(|event| event.input.kind == "command.finished");
            assert_eq!(run.exit_code, ended.then_some(0), "step {step}");
        },
    );
    assert!(kills > 12, "only {kills} effects were seen");
}
