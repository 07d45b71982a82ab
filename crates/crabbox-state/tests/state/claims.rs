//! Claims: the shared format, hostile files, two processes, kills.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::child::Role;
use crabbox_core::{ErrorKind, LeaseId};
use crabbox_state::claims::{ClaimRecord, ClaimStore, Expected, Filter, Found};
use crabbox_state::lock::Wait;
use crabbox_state::{Dirs, Disk, ProblemCode};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

const LEASE: &str = "cbx_abcdef123456";

/// Every field, in the order and with the escapes of Go's `json.MarshalIndent`.
const FULL: &str = include_str!("fixtures/claim-full.json");

fn lease(text: &str) -> LeaseId {
    text.parse().unwrap()
}

fn store(root: &Path) -> ClaimStore {
    ClaimStore::new(&Dirs::under(root), Disk::new())
}

fn plant(root: &Path, name: &str, content: &str) {
    let directory = root.join("state/claims");
    fs::create_dir_all(&directory).unwrap();
    #[expect(clippy::disallowed_methods, reason = "somebody else writes this file")]
    fs::write(directory.join(name), content).unwrap();
}

fn forever() -> Wait<'static> {
    Wait::at_most(Duration::from_secs(60))
}

fn put(store: &ClaimStore, id: &str, change: impl FnOnce(&mut ClaimRecord)) -> ClaimRecord {
    store
        .update(&lease(id), Expected::Anything, &forever(), |claim| {
            change(claim);
            Ok(())
        })
        .unwrap()
}

#[test]
fn a_claim_of_the_go_implementation_keeps_every_byte() {
    let root = tempfile::tempdir().unwrap();
    plant(root.path(), &format!("{LEASE}.json"), FULL);
    let store = store(root.path());
    let claim = store.read(&lease(LEASE)).unwrap().unwrap();
    assert!(
        claim.unknown.is_empty(),
        "the fixture has only known fields: {:?}",
        claim.unknown
    );
    assert_eq!(claim.labels["note"], "a<b>&c\u{2028}");
    let written = store
        .update(&lease(LEASE), Expected::Exactly(&claim), &forever(), |_| Ok(()))
        .unwrap();
    let text = fs::read_to_string(store.path(&lease(LEASE))).unwrap();
    assert_ne!(written.revision, claim.revision);
    assert_eq!(text, FULL.replace(&claim.revision, &written.revision));
}

#[test]
fn unknown_fields_survive_a_rewrite() {
    let root = tempfile::tempdir().unwrap();
    let content = "{\"leaseID\":\"cbx_abcdef123456\",\"future\":{\"a\":[1,null]},\"repoRoot\":\"\",\"claimedAt\":\"\",\
                   \"lastUsedAt\":\"\",\"fixedCreateIntent\":{\"version\":1,\"more\":true}}";
    plant(root.path(), &format!("{LEASE}.json"), content);
    let store = store(root.path());
    put(&store, LEASE, |claim| claim.slug = "blue-prawn".to_owned());
    let text = fs::read_to_string(store.path(&lease(LEASE))).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["future"], serde_json::json!({"a": [1, null]}));
    assert_eq!(value["fixedCreateIntent"]["more"], serde_json::json!(true));
    assert_eq!(value["slug"], "blue-prawn");
}

#[test]
fn reading_creates_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    assert_eq!(store.read(&lease(LEASE)).unwrap(), None);
    assert_eq!(
        store.find("blue-prawn", &Filter::default()).unwrap(),
        (Found::None, vec![])
    );
    assert!(store.listing().unwrap().claims.is_empty());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_misfiled_claim_is_an_error_never_a_fallback() {
    let root = tempfile::tempdir().unwrap();
    let other = FULL.replace(LEASE, "cbx_000000000001");
    plant(root.path(), &format!("{LEASE}.json"), &other);
    let store = store(root.path());
    let error = store.read(&lease(LEASE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Identity);
    assert!(store.find(LEASE, &Filter::default()).is_err());
    let mut txn = store.lock(&lease(LEASE), &forever()).unwrap();
    assert!(txn.remove(Expected::Anything).is_err());
    let foreign = ClaimRecord::new(&lease("cbx_000000000001"), "", "2026-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(txn.write(foreign).unwrap_err().kind(), ErrorKind::Identity);
    assert_eq!(fs::read_to_string(store.path(&lease(LEASE))).unwrap(), other);
}

#[test]
fn a_changed_claim_is_not_written_or_removed() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let first = put(&store, LEASE, |_| {});
    let second = put(&store, LEASE, |_| {});
    // Equal content written twice is still a change.
    assert_ne!(first.revision, second.revision);
    for expected in [
        Expected::Exactly(&first),
        Expected::Revision(&first.revision),
        Expected::Absent,
        Expected::Revision(""),
    ] {
        let error = store
            .update(&lease(LEASE), expected, &forever(), |_| Ok(()))
            .unwrap_err();
        assert_eq!(error.to_string(), "lease cbx_abcdef123456 claim changed; retry");
        assert_eq!(error.kind(), ErrorKind::Usage);
        let mut txn = store.lock(&lease(LEASE), &forever()).unwrap();
        assert!(txn.remove(expected).is_err());
    }
    // Who only cares for the resource does not mind; another resource, or none, is another matter.
    let second = store
        .update(&lease(LEASE), Expected::SameResource(&first), &forever(), |_| Ok(()))
        .unwrap();
    let mut moved = first.clone();
    moved.cloud_id = "another".to_owned();
    for (id, expected) in [(LEASE, &moved), ("cbx_000000000007", &first)] {
        let error = store
            .update(&lease(id), Expected::SameResource(expected), &forever(), |_| Ok(()))
            .unwrap_err();
        assert!(error.is_retryable());
    }
    let mut txn = store.lock(&lease(LEASE), &forever()).unwrap();
    assert!(store.try_lock(&lease(LEASE)).unwrap().is_none());
    assert!(txn.remove(Expected::Revision(&second.revision)).unwrap());
    assert!(!txn.remove(Expected::Absent).unwrap());
    drop(txn);
    assert_eq!(store.read(&lease(LEASE)).unwrap(), None);
    assert!(
        root.path()
            .join(format!("state/claim-locks/{LEASE}.json.lock"))
            .exists()
    );
}

#[test]
fn identifiers_are_resolved_by_id_then_by_slug() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let slugs = [
        ("cbx_000000000001", "one"),
        ("cbx_000000000002", "two"),
        ("cbx_000000000003", "two"),
        ("isb_9", "nine"),
    ];
    for (id, slug) in slugs {
        put(&store, id, |claim| {
            slug.clone_into(&mut claim.slug);
            claim.provider = if id.starts_with("isb") {
                "islo".to_owned()
            } else {
                "aws-fixed-v1".to_owned()
            };
        });
    }
    // A slug that looks like a canonical id is never found by it, and a tombstone has no slug.
    put(&store, "cbx_000000000004", |claim| {
        claim.slug = "cbx_00000000ffff".to_owned()
    });
    put(&store, "cbx_000000000005", |claim| {
        claim.slug = "one".to_owned();
        let intent = serde_json::json!({"version": 1, "state": "released"});
        claim.fixed_create_intent = Some(serde_json::from_value(intent).unwrap());
    });
    let find = |text: &str, provider| {
        let (found, problems) = store
            .find(
                text,
                &Filter {
                    provider,
                    provider_scope: None,
                },
            )
            .unwrap();
        assert!(problems.is_empty());
        match found {
            Found::Exact(claim) => format!("exact {}", claim.lease_id),
            Found::Alias(claim) => format!("alias {}", claim.lease_id),
            Found::Ambiguous(claims) => format!("ambiguous {}", claims.len()),
            Found::None => "none".to_owned(),
        }
    };
    assert_eq!(find("cbx_000000000001", None), "exact cbx_000000000001");
    assert_eq!(find("isb_9", Some("islo")), "exact isb_9");
    assert_eq!(find("isb_9", Some("aws")), "none");
    assert_eq!(find("One", Some("aws")), "alias cbx_000000000001");
    assert_eq!(find("one", Some("islo")), "none");
    assert_eq!(find("two", None), "ambiguous 2");
    assert_eq!(find("cbx_00000000ffff", None), "none");
    assert_eq!(find("../../etc/passwd", None), "none");
    assert_eq!(find("", None), "none");
}

#[test]
fn a_slug_is_free_only_if_every_claim_says_so() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    put(&store, LEASE, |claim| claim.slug = "blue-prawn".to_owned());
    put(&store, "cbx_000000000001", |_| {});
    assert_eq!(
        store.slugs(true).unwrap().into_iter().collect::<Vec<_>>(),
        ["blue-prawn"]
    );
    plant(root.path(), "bad.json", "");
    assert_eq!(store.slugs(false).unwrap().len(), 1);
    let error = store.slugs(true).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (
            ErrorKind::Identity,
            "claim is unreadable, its slug unknown: `bad.json`".to_owned()
        )
    );
}

#[test]
fn hostile_files_are_problems_and_nothing_more() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    put(&store, LEASE, |claim| claim.repo_root = "/a\u{1b}[31m".to_owned());
    plant(root.path(), "CON.json", "{}");
    plant(root.path(), "a\nb.json", "{}");
    plant(root.path(), "bad.json", "{\"leaseID\":");
    plant(root.path(), "type.json", "{\"leaseID\":7}");
    plant(root.path(), "empty.json", "{}");
    plant(root.path(), "other.json", "{\"leaseID\":\"cbx_000000000001\"}");
    plant(
        root.path(),
        "time.json",
        "{\"leaseID\":\"time\",\"claimedAt\":\"yesterday\"}",
    );
    plant(root.path(), "large.json", &" ".repeat((1 << 20) + 1));
    plant(root.path(), ".cbx_abcdef123456.json.tmp-1", "half a cl");
    plant(root.path(), "README", "not a claim");
    let claims = root.path().join("state/claims");
    symlink(claims.join(format!("{LEASE}.json")), claims.join("link.json")).unwrap();
    fs::create_dir(claims.join("directory.json")).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "the standard library makes no pipes with names"
    )]
    let made = std::process::Command::new("mkfifo")
        .arg(claims.join("pipe.json"))
        .status()
        .unwrap();
    assert!(made.success());
    let listing = store.listing().unwrap();
    let found: Vec<_> = listing
        .problems
        .iter()
        .map(|problem| (problem.file.as_str(), problem.code))
        .collect();
    assert_eq!(
        found,
        [
            ("CON.json", ProblemCode::InvalidFilename),
            ("bad.json", ProblemCode::InvalidJson),
            ("directory.json", ProblemCode::NonRegularFile),
            ("empty.json", ProblemCode::EmptyLeaseId),
            ("large.json", ProblemCode::ClaimTooLarge),
            ("link.json", ProblemCode::NonRegularFile),
            ("other.json", ProblemCode::LeaseIdMismatch),
            ("pipe.json", ProblemCode::NonRegularFile),
            ("sha256:046ae3cd8534c0e7", ProblemCode::InvalidFilename),
            ("time.json", ProblemCode::InvalidClaim),
            ("type.json", ProblemCode::InvalidJson),
        ]
    );
    assert_eq!(listing.claims.len(), 1);
    assert!(!listing.to_text().contains('\u{1b}'));
    assert!(
        listing
            .to_text()
            .starts_with("# local claims on this machine; not verified with any provider\n")
    );
    for (id, kind) in [
        ("link", ErrorKind::Identity),
        ("pipe", ErrorKind::Identity),
        ("large", ErrorKind::Identity),
    ] {
        assert_eq!(store.read(&lease(id)).unwrap_err().kind(), kind);
    }
}

#[test]
fn the_listing_has_the_documented_shape_and_at_most_100_problems() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    put(&store, LEASE, |claim| {
        claim.provider = "aws-fixed-v1".to_owned();
        claim.repo_root = "/src/<a>".to_owned();
    });
    let json = store.listing().unwrap().to_json().unwrap();
    assert_eq!(
        json,
        "{\"version\":1,\"source\":\"local-claims\",\"claims\":[{\"leaseId\":\"cbx_abcdef123456\",\"slug\":\"\",\
         \"provider\":\"aws\",\"repoRoot\":\"/src/\\u003ca\\u003e\",\"pond\":\"\",\"targetOS\":\"\",\"windowsMode\":\"\",\
         \"claimedAt\":\"\",\"lastUsedAt\":\"\",\"idleTimeoutSeconds\":0}],\"problems\":[]}\n"
    );
    for number in 0..150 {
        plant(root.path(), &format!("bad{number:03}.json"), "");
    }
    let listing = store.listing().unwrap();
    assert_eq!(listing.problems.len(), 100);
    let last = listing.problems.last().unwrap();
    assert_eq!(
        (last.code, last.message.as_str()),
        (ProblemCode::ProblemsTruncated, "51 more problems")
    );
}

const ROUNDS: usize = 60;

#[test]
#[ignore = "a child process of the tests beside it"]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let store = ClaimStore::new(&role.dirs(), role.disk());
    match role.name.as_str() {
        "increment" => (0..ROUNDS).for_each(|_| increment(&store)),
        "hold" => {
            let _txn = store.lock(&lease(LEASE), &forever()).unwrap();
            fs::create_dir(role.root.join("held")).unwrap();
            std::thread::sleep(Duration::from_secs(600));
        }
        "life" => {
            let first = put(&store, LEASE, |claim| claim.slug = "first".to_owned());
            let second = store
                .update(&lease(LEASE), Expected::Exactly(&first), &forever(), |claim| {
                    claim.slug = "second".to_owned();
                    Ok(())
                })
                .unwrap();
            store
                .lock(&lease(LEASE), &forever())
                .unwrap()
                .remove(Expected::Exactly(&second))
                .unwrap();
        }
        other => panic!("unknown role: {other}"),
    }
}

/// Optimistic: read without a lock, write only if nobody was faster.
fn increment(store: &ClaimStore) {
    loop {
        let seen = store.read(&lease(LEASE)).unwrap();
        let expected = seen.as_ref().map_or(Expected::Absent, Expected::Exactly);
        let result = store.update(&lease(LEASE), expected, &forever(), |claim| {
            claim.idle_timeout_seconds += 1;
            Ok(())
        });
        match result {
            Ok(_) => return,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

#[test]
fn two_processes_lose_no_update() {
    let root = tempfile::tempdir().unwrap();
    let mut children = [
        crate::child::start("claims::child", "increment", root.path()),
        crate::child::start("claims::child", "increment", root.path()),
    ];
    let store = store(root.path());
    // Whoever looks meanwhile sees whole claims only.
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        let (_, problems) = store.list().unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
    assert!(children.into_iter().all(|mut child| child.wait().unwrap().success()));
    let claim = store.read(&lease(LEASE)).unwrap().unwrap();
    assert_eq!(claim.idle_timeout_seconds, 2 * i64::try_from(ROUNDS).unwrap());
    assert_eq!(fs::read_dir(root.path().join("state/claims")).unwrap().count(), 1);
}

#[test]
fn a_lock_ends_with_the_process_that_held_it() {
    let root = tempfile::tempdir().unwrap();
    let mut child = crate::child::start("claims::child", "hold", root.path());
    let started = Instant::now();
    while !root.path().join("held").exists() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    let store = store(root.path());
    assert!(store.try_lock(&lease(LEASE)).unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(store.try_lock(&lease(LEASE)).unwrap().is_some());
}

#[test]
fn a_claim_survives_a_kill_between_any_two_effects() {
    let kills = crate::child::kill_at_every_step(
        "claims::child",
        "life",
        |_| {},
        |dirs, step| {
            let store = ClaimStore::new(dirs, Disk::new());
            let (claims, problems) = store.list().unwrap();
            assert!(problems.is_empty(), "step {step}: {problems:?}");
            assert!(
                claims
                    .iter()
                    .all(|claim| matches!(claim.slug.as_str(), "first" | "second"))
            );
            // And work goes on.
            put(&store, LEASE, |claim| claim.slug = "third".to_owned());
        },
    );
    assert!(kills > 12, "only {kills} effects were seen");
}

proptest! {
    #[test]
    fn any_claim_is_read_as_it_was_written(
        texts in proptest::collection::vec(any::<String>(), 5),
        number in any::<i64>(),
        labels in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4),
    ) {
        let mut claim = ClaimRecord::new(&lease(LEASE), texts[0].clone(), "2026-01-01T00:00:00Z".parse().unwrap());
        claim.slug.clone_from(&texts[1]);
        claim.cloud_id.clone_from(&texts[2]);
        claim.tailscale_tags = texts[3..].to_vec();
        claim.cloud_numeric_id = number;
        claim.labels = labels;
        let root = tempfile::tempdir().unwrap();
        let store = ClaimStore::new(&Dirs::under(root.path()), Disk::new().unsynced());
        let written = store.lock(&lease(LEASE), &forever()).unwrap().write(claim).unwrap();
        prop_assert_eq!(store.read(&lease(LEASE)).unwrap().unwrap(), written);
    }

    #[test]
    fn rubbish_is_an_error_not_a_panic(rubbish in proptest::collection::vec(any::<u8>(), 0..64)) {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        fs::create_dir_all(root.path().join("state/claims")).unwrap();
        fs::File::create(store.path(&lease(LEASE))).unwrap().write_all(&rubbish).unwrap();
        prop_assert!(store.read(&lease(LEASE)).is_err());
        prop_assert_eq!(store.listing().unwrap().problems.len(), 1);
    }
}

#[test]
fn what_a_killed_writer_left_is_swept_unless_somebody_writes() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    put(&store, LEASE, |_| {});
    plant(root.path(), &format!(".{LEASE}.json.tmp-XyZ012"), "{");
    let writer = store.lock(&lease(LEASE), &forever()).unwrap();
    assert_eq!(store.sweep(), 0);
    drop(writer);
    assert_eq!(store.sweep(), 1);
    let left: Vec<_> = fs::read_dir(root.path().join("state/claims")).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(store.read(&lease(LEASE)).unwrap().is_some());
}
