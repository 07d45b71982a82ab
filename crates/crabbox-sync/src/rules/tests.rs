use proptest::prelude::{any, proptest};
use proptest::{collection, prop_assert_eq};

use super::*;

fn travels(excludes: &[&str], includes: &[&str], path: &str) -> bool {
    Rules::new(excludes, includes).judge_path(path.as_bytes(), false) == Verdict::Travels
}

#[test]
fn built_ins_apply_at_any_depth() {
    for path in [
        "node_modules/a",
        "a/node_modules/b/c",
        "._x",
        "a/._b",
        "x/target/y",
        "apps/web/.build/z",
        ".git",
    ] {
        assert!(!travels(&[], &[], path), "{path}");
    }
    for path in [
        "src/main.rs",
        "apps/web/build",
        "yarn/cache",
        "node_modules2/a",
        "a/.yarn/cache/x",
    ] {
        assert!(travels(&[], &[], path), "{path}");
    }
}

#[test]
fn the_last_matching_rule_wins() {
    assert!(travels(&["*.log", "!keep.log"], &[], "a/keep.log"));
    assert!(!travels(&["!keep.log", "*.log"], &[], "a/keep.log"));
    assert!(travels(&["!node_modules/kept"], &[], "node_modules/kept/x"));
    assert!(!travels(&["!node_modules/kept"], &[], "node_modules/other"));
    assert!(!travels(&["\\!odd"], &[], "a/!odd"));
    assert!(!travels(&["/docs/"], &[], "a/docs/x"));
    assert!(!travels(&["a/b"], &[], "a/b/c") && travels(&["a/b"], &[], "x/a/b"));
    assert!(!travels(&["a/*"], &[], "a/b/c") && !travels(&["[bad", "x"], &[], "x"));
}

#[test]
fn protected_paths_cannot_be_re_included() {
    for path in [".crabbox/env", ".crabbox/env/x", ".CRABBOX/Logs/y", ".crabbox/runs"] {
        assert!(!travels(&["!.crabbox", "!*", "!.crabbox/env"], &[], path), "{path}");
    }
    assert!(travels(&[], &[], ".crabbox/environment"));
    assert!(travels(&[], &[], "a/.crabbox/env"));
}

#[test]
fn ambiguous_built_ins_spare_tracked_regular_files() {
    let rules = Rules::new([""; 0], [""; 0]);
    let Verdict::Protected(index) = rules.judge_path(b"web/dist/app.js", true) else {
        panic!("not protected")
    };
    assert_eq!(rules.text(index), "dist");
    assert_eq!(rules.judge_path(b"web/dist/app.js", false), Verdict::Stays);
    assert_eq!(rules.judge_path(b"node_modules/dist/app.js", true), Verdict::Stays);
    let configured = Rules::new(["dist"], [""; 0]);
    assert_eq!(configured.judge_path(b"web/dist/app.js", true), Verdict::Stays);
}

#[test]
fn includes_are_relative_to_the_root() {
    assert!(travels(&[], &["src"], "src/a/b") && !travels(&[], &["src"], "lib/src"));
    assert!(travels(&[], &["src/*.rs"], "src/a.rs") && !travels(&[], &["src/*.rs"], "src/a/b.rs"));
    assert!(travels(&[], &["a/b"], "a/b") && !travels(&[], &["a/b"], "a/c"));
    assert!(!travels(&["secret"], &["src"], "src/secret"));
    assert!(!travels(&[], &["s*"], "src/a"));
}

#[test]
fn an_unreadable_rule_file_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Rules::load(directory.path(), &[], &[]).is_ok());
    std::fs::create_dir(directory.path().join(IGNORE_FILE)).unwrap();
    let error = Rules::load(directory.path(), &[], &[]).unwrap_err();
    assert_eq!(error.kind(), crabbox_core::ErrorKind::Usage);
}

/// The rules as they are written down, without any of the shortcuts.
fn plainly_excluded(excludes: &[String], path: &str) -> bool {
    let mut excluded = false;
    for text in BUILT_IN_EXCLUDES
        .iter()
        .copied()
        .chain(excludes.iter().map(String::as_str))
    {
        let (negated, pattern) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let pattern = pattern.trim_matches('/');
        if pattern.is_empty() {
            continue;
        }
        let glob = Glob::new(pattern.as_bytes());
        let base = path.rsplit('/').next().unwrap();
        let prefixes = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        let matched = path == pattern
            || path.starts_with(&format!("{pattern}/"))
            || (!pattern.contains('/')
                && path
                    .split('/')
                    .any(|part| part == pattern || glob.matches(part.as_bytes())))
            || glob.matches(base.as_bytes())
            || glob.matches(path.as_bytes())
            || prefixes.into_iter().any(|prefix| glob.matches(prefix.as_bytes()));
        if matched {
            excluded = !negated;
        }
    }
    excluded || is_protected(path.as_bytes())
}

proptest! {
    #[test]
    fn shortcuts_change_nothing(
        excludes in collection::vec("!?[ab*?/\\[\\]^.-]{1,5}", 0..5),
        path in "[ab.-]{1,2}(/[ab.-]{1,2}){0,3}",
    ) {
        let rules = Rules::new(&excludes, [""; 0]);
        let stays = rules.judge_path(path.as_bytes(), false) == Verdict::Stays;
        prop_assert_eq!(stays, plainly_excluded(&excludes, &path));
    }

    #[test]
    fn closed_directories_hold_nothing_that_travels(
        excludes in collection::vec("!?[ab*?/]{1,4}", 0..4),
        includes in collection::vec("[ab*/]{1,4}", 0..3),
        directory in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        below in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        tracked in any::<bool>(),
    ) {
        let rules = Rules::new(&excludes, &includes);
        let mut standing = rules.root();
        for (slash, _) in directory.match_indices('/') {
            standing = rules.enter(standing, &directory.as_bytes()[..slash]);
        }
        standing = rules.enter(standing, directory.as_bytes());
        let path = format!("{directory}/{below}");
        let shut = if tracked { rules.sealed(standing, directory.as_bytes()) } else { rules.closed(standing, directory.as_bytes()) };
        if shut {
            prop_assert_eq!(rules.judge_path(path.as_bytes(), tracked), Verdict::Stays);
        }
    }
}
