//! Rules about files as text: module sizes, module layout, leftovers, paths of one machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Finding, Report};
use crate::workspace::Workspace;

const WANTED_LINES: usize = 500;
const MAXIMUM_LINES: usize = 900;

/// Words of unfinished work, written apart so that this file does not break its own rule.
const LEFTOVERS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// Directories that many programs share; their other entries say nothing about this machine.
const SHARED_PARENTS: [&str; 9] = [
    "/", "/home", "/mnt", "/opt", "/root", "/src", "/srv", "/tmp", "/var/tmp",
];

pub(super) fn check(workspace: &Workspace, tracked: &[PathBuf], report: &mut Report) -> Result<()> {
    let local_paths = local_paths(&workspace.root);
    for path in tracked {
        let name = slashed(path);
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        let is_text = matches!(extension, "rs" | "toml" | "md" | "sh" | "yml" | "yaml" | "snap")
            || name.starts_with("scripts/")
            || name.starts_with(".ci/");
        if !is_text {
            continue;
        }
        let Ok(text) = fs::read_to_string(workspace.root.join(path)) else {
            report.errors.push(Finding::new(name, "a text file must be UTF-8"));
            continue;
        };
        if extension == "rs" {
            size(&name, &text, report);
        }
        if name.starts_with("crates/providers/") && name.contains("/src/") {
            authority(&name, &text, report);
        }
        if extension != "snap" {
            leftovers(&name, &text, report);
        }
        machine_paths(&name, &text, &local_paths, report);
    }
    layout(tracked, report);
    Ok(())
}

fn size(name: &str, text: &str, report: &mut Report) {
    let lines = text.lines().count();
    if lines > MAXIMUM_LINES {
        report.errors.push(Finding::new(
            name,
            format!("a module of {lines} lines; split it below {MAXIMUM_LINES}"),
        ));
    } else if lines > WANTED_LINES {
        report.warnings.push(Finding::new(
            name,
            format!("a module of {lines} lines wants a split at {WANTED_LINES}"),
        ));
    }
}

fn leftovers(name: &str, text: &str, report: &mut Report) {
    for (index, line) in text.lines().enumerate() {
        for word in LEFTOVERS {
            if contains_word(line, word) {
                let message = format!("`{word}` is unfinished work: finish it or open an issue");
                report
                    .errors
                    .push(Finding::new(format!("{name}:{}", index + 1), message));
            }
        }
    }
}

/// A build of everything unifies features, so that the compiler alone does not keep a provider from the constructor.
fn authority(name: &str, text: &str, report: &mut Report) {
    for (index, line) in text.lines().enumerate() {
        if line.contains("authority::verify") || line.contains("HeldLock") {
            let message = "a provider never mints a binding: what may be destroyed is the engine's to say";
            report
                .errors
                .push(Finding::new(format!("{name}:{}", index + 1), message));
        }
    }
}

fn machine_paths(name: &str, text: &str, local_paths: &[String], report: &mut Report) {
    for (index, line) in text.lines().enumerate() {
        for path in local_paths {
            if contains_word(line, path) {
                let message = format!("`{path}` exists on this machine only: use a path relative to the checkout");
                report
                    .errors
                    .push(Finding::new(format!("{name}:{}", index + 1), message));
            }
        }
    }
}

/// A directory of modules has a root that a reader finds: `name/mod.rs` inside it or `name.rs` beside it.
fn layout(tracked: &[PathBuf], report: &mut Report) {
    let names: BTreeSet<String> = tracked.iter().map(|path| slashed(path)).collect();
    let mut directories = BTreeSet::new();
    for name in &names {
        let Some((directory, file)) = name.rsplit_once('/') else {
            continue;
        };
        if directory.contains("/src/") && !directory.contains("/src/bin") && file.ends_with(".rs") {
            directories.insert(directory);
        }
    }
    for directory in directories {
        if !names.contains(&format!("{directory}.rs")) && !names.contains(&format!("{directory}/mod.rs")) {
            report
                .errors
                .push(Finding::new(directory, "a directory of modules needs a mod.rs"));
        }
    }
}

/// The checkout's own path and those beside it.
fn local_paths(root: &Path) -> Vec<String> {
    let mut paths = vec![slashed(root)];
    let Some(parent) = root.parent() else { return paths };
    if SHARED_PARENTS.iter().any(|shared| parent == Path::new(shared)) {
        return paths;
    }
    let siblings = fs::read_dir(parent).into_iter().flatten().flatten();
    paths.extend(siblings.map(|entry| slashed(&entry.path())));
    paths.sort();
    paths.dedup();
    paths
}

/// Whether `word` stands in `line` with no letter, digit or underscore continuing it on either side.
fn contains_word(line: &str, word: &str) -> bool {
    let continues = |character: char| character.is_alphanumeric() || character == '_';
    let bounded_after = word.ends_with(continues);
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        let continued = before.is_some_and(continues) || (bounded_after && after.is_some_and(continues));
        !continued
    })
}

fn slashed(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{LEFTOVERS, Report, authority, contains_word, layout, leftovers, machine_paths, size};

    #[test]
    fn a_long_module_warns_then_fails() {
        let mut report = Report::default();
        size("a.rs", &"\n".repeat(500), &mut report);
        assert!(report.errors.is_empty() && report.warnings.is_empty());
        size("a.rs", &"\n".repeat(501), &mut report);
        assert_eq!((report.errors.len(), report.warnings.len()), (0, 1));
        size("a.rs", &"\n".repeat(901), &mut report);
        assert_eq!((report.errors.len(), report.warnings.len()), (1, 1));
    }

    #[test]
    fn every_leftover_is_found_and_longer_words_are_not() {
        for word in LEFTOVERS {
            let mut report = Report::default();
            leftovers("a.rs", &format!("x\n// {word} later"), &mut report);
            assert_eq!(report.errors.len(), 1, "{word}");
            assert_eq!(report.errors[0].place, "a.rs:2");
        }
        assert!(!contains_word("MASTODONS", LEFTOVERS[0]));
        assert!(!contains_word("mktemp XXXXXX", LEFTOVERS[2]));
    }

    #[test]
    fn a_provider_that_mints_a_binding_is_found() {
        let mut report = Report::default();
        authority(
            "p.rs",
            "use crabbox_core::authority;\nlet all = authority::verify(lock);\nimpl HeldLock for X {}",
            &mut report,
        );
        let places: Vec<_> = report.errors.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["p.rs:2", "p.rs:3"]);
    }

    #[test]
    fn a_path_of_this_machine_is_found_with_its_line() {
        let mut report = Report::default();
        machine_paths(
            "a.md",
            "ok\nsee /home/me/src/box/file",
            &["/home/me/src/box".to_owned()],
            &mut report,
        );
        machine_paths(
            "b.md",
            "see /home/me/src/boxes",
            &["/home/me/src/box".to_owned()],
            &mut report,
        );
        assert_eq!(report.errors.len(), 1);
        assert_eq!(report.errors[0].place, "a.md:2");
    }

    #[test]
    fn module_directories_need_a_root() {
        let mut report = Report::default();
        let tracked = [
            "c/src/good/mod.rs",
            "c/src/good/a.rs",
            "c/src/bad/a.rs",
            "c/src/twin.rs",
            "c/src/twin/a.rs",
        ];
        layout(&tracked.map(PathBuf::from), &mut report);
        let places: Vec<_> = report.errors.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["c/src/bad"]);
    }
}
