//! The manifest agrees with git on generated repositories.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "tests write files and start the oracles as they like"
)]

mod support;

use std::os::unix::fs::{PermissionsExt as _, symlink};

use crabbox_sync::Rules;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use proptest::{collection, sample};
use support::{Repository, no_rules};

const NAMES: &[&[u8]] = &[
    b"a",
    b"A",
    b"b",
    b"a-b",
    b"a.log",
    b"keep.log",
    b"sp ace",
    b"new\nline",
    b"\xff\xfe",
    "é".as_bytes(),
    b"dist",
    b"x*y",
    b"q?",
    b"\"quoted\"",
];
const PATTERNS: &[&str] = &[
    "*.log",
    "!keep.log",
    "a",
    "/a",
    "b/",
    "!b/",
    "a/b",
    "**/b",
    "a/**",
    "*",
    "!*/",
    "!a",
    "sp*",
    "\\#c",
    "[ab]",
    "d*t",
    "/*/a",
    "!/a/",
    "trailing ",
    "trailing\\ ",
    "x\\*y",
    "A",
];

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>, u8),
    Link(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    RemoveTree(Vec<u8>),
    Executable(Vec<u8>),
    Touch(Vec<u8>),
    Ignore(Vec<u8>, Vec<&'static str>),
    Exclude(Vec<&'static str>),
    Nested(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    Add(Vec<u8>),
    AddAll,
    ForceAdd(Vec<u8>),
    Intend(Vec<u8>),
    Unstage(Vec<u8>),
    UnstageKeep(Vec<u8>),
    AssumeUnchanged(Vec<u8>),
    Commit,
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    collection::vec(sample::select(NAMES), 1..4).prop_map(|parts| parts.join(&b'/'))
}

fn patterns() -> impl Strategy<Value = Vec<&'static str>> {
    collection::vec(sample::select(PATTERNS), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (path(), 0..3_u8).prop_map(|(path, content)| Step::Write(path, content)),
        1 => (path(), path()).prop_map(|(path, target)| Step::Link(path, target)),
        2 => path().prop_map(Step::Remove),
        1 => path().prop_map(Step::RemoveTree),
        1 => path().prop_map(Step::Executable),
        1 => path().prop_map(Step::Touch),
        2 => (path(), patterns()).prop_map(|(path, patterns)| Step::Ignore(path, patterns)),
        1 => patterns().prop_map(Step::Exclude),
        1 => path().prop_map(Step::Nested),
        1 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => path().prop_map(Step::Add),
        3 => Just(Step::AddAll),
        1 => path().prop_map(Step::ForceAdd),
        1 => path().prop_map(Step::Intend),
        1 => path().prop_map(Step::Unstage),
        1 => path().prop_map(Step::UnstageKeep),
        1 => path().prop_map(Step::AssumeUnchanged),
        2 => Just(Step::Commit),
    ]
}

/// Carries out a step; one that does not apply to what is there changes nothing.
fn carry_out(repository: &Repository, step: &Step) {
    let existing = |path: &Vec<u8>| {
        let full = repository.path(path);
        full.starts_with(&repository.root)
            .then_some(full)
            .filter(|full| full.symlink_metadata().is_ok())
    };
    match step {
        Step::Write(path, content) => {
            let full = repository.path(path);
            if std::fs::create_dir_all(full.parent().unwrap()).is_ok() && !full.is_symlink() {
                let _ = std::fs::write(full, vec![b'0' + content; usize::from(*content) + 1]);
            }
        }
        Step::Link(path, target) => {
            let full = repository.path(path);
            if std::fs::create_dir_all(full.parent().unwrap()).is_ok() {
                let _ = symlink(repository.path(target).strip_prefix(&repository.root).unwrap(), full);
            }
        }
        Step::Remove(path) => {
            if let Some(full) = existing(path) {
                let _ = std::fs::remove_file(full);
            }
        }
        Step::RemoveTree(path) => {
            if let Some(full) = existing(path) {
                let _ = std::fs::remove_dir_all(full);
            }
        }
        Step::Executable(path) => {
            if let Some(full) = existing(path).filter(|full| full.is_file() && !full.is_symlink()) {
                std::fs::set_permissions(full, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        Step::Touch(path) => {
            if let Some(full) = existing(path).filter(|full| full.is_file() && !full.is_symlink()) {
                std::fs::File::open(full)
                    .unwrap()
                    .set_modified(std::time::SystemTime::now())
                    .unwrap();
            }
        }
        Step::Ignore(path, patterns) => {
            let directory = repository.path(path);
            let directory = if directory.is_dir() {
                directory
            } else {
                repository.root.clone()
            };
            let _ = std::fs::write(directory.join(".gitignore"), patterns.join("\n"));
        }
        Step::Exclude(patterns) => {
            std::fs::write(repository.root.join(".git/info/exclude"), patterns.join("\n")).unwrap();
        }
        Step::Nested(path) => {
            let full = repository.path(path);
            if std::fs::create_dir_all(&full).is_ok() {
                support::git_in(&full, &["init".as_ref(), "-q".as_ref()]);
                let _ = std::fs::write(full.join("inner"), "x");
            }
        }
        Step::Rename(from, to) => {
            if let Some(full) = existing(from) {
                let to = repository.path(to);
                if std::fs::create_dir_all(to.parent().unwrap()).is_ok() {
                    let _ = std::fs::rename(full, to);
                }
            }
        }
        Step::Add(path) => drop(repository.git_bytes(&[b"--literal-pathspecs", b"add", b"--", path])),
        Step::AddAll => drop(repository.try_git(&["add", "-A"])),
        Step::ForceAdd(path) => drop(repository.git_bytes(&[b"--literal-pathspecs", b"add", b"-f", b"--", path])),
        Step::Intend(path) => drop(repository.git_bytes(&[b"--literal-pathspecs", b"add", b"-N", b"--", path])),
        Step::Unstage(path) => {
            drop(repository.git_bytes(&[b"--literal-pathspecs", b"rm", b"-rqf", b"--", path]));
        }
        Step::UnstageKeep(path) => {
            drop(repository.git_bytes(&[b"--literal-pathspecs", b"rm", b"-rq", b"--cached", b"--", path]));
        }
        Step::AssumeUnchanged(path) => {
            drop(repository.git_bytes(&[b"update-index", b"--assume-unchanged", b"--", path]));
        }
        Step::Commit => drop(repository.try_git(&["commit", "-qm", "m"])),
    }
}

fn runner(cases: u32) -> TestRunner {
    let seed = RngSeed::Fixed(0x6372_6162);
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        rng_seed: seed,
        max_shrink_iters: 300,
        ..Config::default()
    })
}

#[test]
fn generated_repositories() {
    let rules = Rules::new(["!dist/keep.log", "q[?]"], [""; 0]);
    runner(150)
        .run(&collection::vec(step(), 1..22), |steps| {
            let repository = Repository::new();
            for step in &steps {
                carry_out(&repository, step);
            }
            proptest::prop_assert_eq!(repository.answer(&rules), repository.oracle(&rules));
            Ok(())
        })
        .unwrap();
}

#[test]
fn generated_sparse_checkouts() {
    let patterns = collection::vec(
        sample::select(
            &[
                "/*",
                "!/*/",
                "/a/",
                "/b/",
                "!/b/a/",
                "*.log",
                "!/A",
                "/a/b/",
                "a/**",
                "!keep.log",
            ][..],
        ),
        1..4,
    );
    let files = collection::btree_set(path(), 3..10);
    runner(60)
        .run(
            &(files, patterns, proptest::bool::ANY),
            |(files, patterns, with_index)| {
                let repository = Repository::new();
                for file in &files {
                    carry_out(&repository, &Step::Write(file.clone(), 1));
                }
                repository.commit_all();
                let sparse_index = if with_index {
                    "--sparse-index"
                } else {
                    "--no-sparse-index"
                };
                let mut arguments = vec!["sparse-checkout", "set"];
                if with_index {
                    arguments.extend(["--cone", sparse_index, "--skip-checks", "a"]);
                } else {
                    arguments.extend(["--no-cone", sparse_index, "--skip-checks"]);
                    arguments.extend(patterns.iter().copied());
                }
                repository.git(&arguments);
                let rules = no_rules();
                let tagged = repository.git(&["ls-files", "-t", "-z"]);
                let left_out: Vec<&[u8]> = tagged
                    .split(|byte| *byte == 0)
                    .filter_map(|line| line.strip_prefix(b"S "))
                    .collect();
                let in_scope = left_out
                    .iter()
                    .any(|path| rules.judge_path(path, true) != crabbox_sync::rules::Verdict::Stays);
                let manifest = repository.manifest(&rules);
                proptest::prop_assert_eq!(manifest.is_err(), in_scope, "{:?}", manifest.err());
                // The same patterns decide about a file whose bit was cleared.
                if !with_index && let Some(path) = left_out.first() {
                    repository.git_bytes(&[b"update-index", b"--no-skip-worktree", b"--", path]);
                    let cleared = repository.manifest(&rules);
                    proptest::prop_assert_eq!(cleared.is_err(), in_scope);
                }
                repository.git(&["sparse-checkout", "disable"]);
                proptest::prop_assert_eq!(repository.answer(&rules), repository.oracle(&rules));
                Ok(())
            },
        )
        .unwrap();
}
