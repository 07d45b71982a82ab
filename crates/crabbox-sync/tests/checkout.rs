//! Named cases of the manifest, each held against git where git has an answer.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "tests write files and start the oracles as they like"
)]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use crabbox_core::ErrorKind;
use crabbox_sync::{EntryKind, Manifest, Rules, Source, SourceKind, SourceOptions, StatCache};
use support::{Name, Repository, answer, git_in, no_rules};

fn agrees(repository: &Repository) {
    let rules = no_rules();
    assert_eq!(repository.answer(&rules), repository.oracle(&rules));
}

#[test]
fn an_empty_repository_has_only_untracked_files() {
    let repository = Repository::new();
    agrees(&repository);
    repository.write("a/b", "1");
    repository.write("c", "1");
    repository.git(&["add", "c"]);
    agrees(&repository);
    assert_eq!(repository.manifest(&no_rules()).unwrap().changed_paths(), 2);
}

#[test]
fn staged_and_unstaged_deletions_and_renames() {
    let repository = Repository::new();
    for name in [
        "kept", "gone", "staged", "uncached", "renamed", "d/one", "d/two", "e/file",
    ] {
        repository.write(name, name);
    }
    repository.commit_all();
    agrees(&repository);
    assert_eq!(repository.manifest(&no_rules()).unwrap().changed_paths(), 0);
    std::fs::remove_file(repository.path("gone")).unwrap();
    repository.git(&["rm", "-q", "staged"]);
    repository.git(&["rm", "-q", "--cached", "uncached"]);
    repository.git(&["mv", "renamed", "moved"]);
    std::fs::remove_dir_all(repository.path("d")).unwrap();
    repository.write("d", "now a file");
    repository.git(&["rm", "-rqf", "e"]);
    repository.write("e/file/below", "now a directory");
    agrees(&repository);
    let manifest = repository.manifest(&no_rules()).unwrap();
    let deleted: Vec<&[u8]> = manifest.deleted().collect();
    assert_eq!(
        deleted,
        [&b"d/one"[..], b"d/two", b"e/file", b"gone", b"renamed", b"staged"]
    );
}

#[test]
fn submodules_and_nested_repositories_are_opaque() {
    let repository = Repository::new();
    let other = repository.outside("other");
    std::fs::create_dir(&other).unwrap();
    git_in(&other, &["init".as_ref(), "-q".as_ref()]);
    git_in(
        &other,
        &[
            "commit".as_ref(),
            "-q".as_ref(),
            "--allow-empty".as_ref(),
            "-m".as_ref(),
            "m".as_ref(),
        ],
    );
    repository.git(&["submodule", "--quiet", "add", "../other", "module"]);
    repository.write("nested/file", "1");
    git_in(&repository.path("nested"), &["init".as_ref(), "-q".as_ref()]);
    repository.write("fake/.git/file", "1");
    repository.write("fake/file", "1");
    repository.write("module/inside", "1");
    agrees(&repository);
    repository.git(&["commit", "-qm", "m"]);
    agrees(&repository);
    let files = repository.answer(&no_rules()).files;
    assert!(files.contains(&Name(b"fake/file".to_vec())) && !files.contains(&Name(b"nested/file".to_vec())));
    std::fs::remove_dir_all(repository.path("module")).unwrap();
    agrees(&repository);
}

#[test]
fn tracked_files_in_ignored_directories_travel() {
    let repository = Repository::new();
    repository.write("out/tracked", "1");
    repository.write("out/deep/tracked", "1");
    repository.commit_all();
    repository.write(".gitignore", "out\n");
    repository.write("out/untracked", "1");
    repository.write("out/deep/untracked", "1");
    repository.write("out/deep/tracked", "2");
    agrees(&repository);
    std::fs::remove_file(repository.path("out/deep/tracked")).unwrap();
    agrees(&repository);
    std::fs::remove_dir_all(repository.path("out")).unwrap();
    symlink("elsewhere", repository.path("out")).unwrap();
    agrees(&repository);
}

#[test]
fn user_and_repository_wide_excludes() {
    let repository = Repository::new();
    let user = repository.outside("user-ignore");
    std::fs::write(&user, "*.user\n!both\n").unwrap();
    repository.git(&["config", "core.excludesFile", user.to_str().unwrap()]);
    repository.write(".git/info/exclude", "*.repo\nboth\n");
    repository.write("a/.gitignore", "!keep.user\n");
    for name in ["x.user", "x.repo", "both", "a/keep.user", "a/other.user", "plain"] {
        repository.write(name, "1");
    }
    agrees(&repository);
    assert_eq!(repository.manifest(&no_rules()).unwrap().len(), 3);
}

#[test]
fn symbolic_links_are_entries_and_never_followed() {
    let repository = Repository::new();
    repository.write("real/file", "1");
    repository.commit_all();
    symlink("real", repository.path("link")).unwrap();
    symlink("/etc/passwd", repository.path("absolute")).unwrap();
    symlink("missing", repository.path("dangling")).unwrap();
    std::fs::rename(repository.path("real"), repository.outside("moved")).unwrap();
    symlink(repository.outside("moved"), repository.path("real")).unwrap();
    agrees(&repository);
    let manifest = repository.manifest(&no_rules()).unwrap();
    assert_eq!(manifest.len(), 4);
    assert!(manifest.iter().all(|entry| entry.kind == EntryKind::Symlink));
    assert_eq!(manifest.deleted().collect::<Vec<_>>(), [b"real/file"]);
    assert_eq!(
        manifest.bytes() as usize,
        "real".len() + "/etc/passwd".len() + "missing".len() + repository.outside("moved").as_os_str().len()
    );
}

#[test]
fn conflicts_travel_as_they_are_on_disk() {
    let repository = Repository::new();
    repository.write("file", "base\n");
    repository.write("removed", "base\n");
    repository.commit_all();
    repository.git(&["checkout", "-qb", "side"]);
    repository.write("file", "side\n");
    repository.git(&["rm", "-q", "removed"]);
    repository.commit_all();
    repository.git(&["checkout", "-q", "main"]);
    repository.write("file", "main\n");
    repository.write("removed", "main\n");
    repository.commit_all();
    assert!(!repository.try_git(&["merge", "side"]).status.success());
    agrees(&repository);
    std::fs::remove_file(repository.path("removed")).unwrap();
    agrees(&repository);
}

#[test]
fn a_conflict_between_file_and_submodule_is_refused() {
    let repository = Repository::new();
    repository.write("x", "1");
    repository.commit_all();
    let blob = String::from_utf8(repository.git(&["hash-object", "-w", "x"])).unwrap();
    let head = String::from_utf8(repository.git(&["rev-parse", "HEAD"])).unwrap();
    let input = format!("100644 {} 2\tboth\n160000 {} 3\tboth\n", blob.trim(), head.trim());
    let list = repository.outside("list");
    std::fs::write(&list, input).unwrap();
    let script = format!("git update-index --index-info < {}", list.display());
    repository.git(&["-c", &format!("alias.feed=!{script}"), "feed"]);
    let error = repository.manifest(&no_rules()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sync);
    assert!(
        error
            .message()
            .contains("verify sync manifest scope: conflict between a file and a submodule: `both`")
    );
}

#[test]
fn skip_worktree_paths_that_are_absent_are_refused_unless_excluded() {
    let repository = Repository::new();
    repository.write("a/kept", "1");
    repository.write("b/left", "1");
    repository.commit_all();
    repository.git(&["update-index", "--skip-worktree", "b/left"]);
    agrees(&repository);
    std::fs::remove_dir_all(repository.path("b")).unwrap();
    let error = repository.manifest(&no_rules()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sync);
    assert!(error.message().contains("b/left"), "{error}");
    assert_eq!(repository.answer(&Rules::new(["b"], [""; 0])).files.len(), 1);
    assert_eq!(repository.answer(&Rules::new([""; 0], ["a"])).files.len(), 1);
}

#[test]
fn line_endings_and_attributes_count_as_git_stores_them() {
    let repository = Repository::new();
    repository.write(
        ".gitattributes",
        "*.txt text eol=crlf\n*.id ident\n*.drv filter=never\n",
    );
    repository.write("a.txt", "one\r\ntwo\r\n");
    repository.write("b.id", "$Id$\n");
    repository.write("c.drv", "plain\n");
    repository.write("d", "x\r\n");
    repository.commit_all();
    for name in ["a.txt", "b.id", "c.drv", "d"] {
        let content = std::fs::read(repository.path(name)).unwrap();
        repository.write(name, content);
    }
    agrees(&repository);
    assert_eq!(repository.manifest(&no_rules()).unwrap().changed_paths(), 0);
    repository.write("a.txt", "one\ntwo\n");
    repository.write("d", "x\n");
    agrees(&repository);
}

#[test]
fn a_change_in_the_tick_of_the_index_is_found() {
    let repository = Repository::new();
    repository.write("a", "one");
    repository.commit_all();
    repository.git(&["config", "core.trustCTime", "false"]);
    repository.git(&["config", "core.checkStat", "minimal"]);
    let time = repository.path("a").metadata().unwrap().modified().unwrap();
    repository.write("a", "two");
    for path in ["a", ".git/index"] {
        let file = std::fs::File::options()
            .write(true)
            .open(repository.path(path))
            .unwrap();
        file.set_modified(time).unwrap();
    }
    agrees(&repository);
    assert_eq!(repository.manifest(&no_rules()).unwrap().changed_paths(), 1);
}

#[test]
fn no_configured_program_runs() {
    let repository = Repository::new();
    let witness = repository.outside("witness");
    let program = format!("touch {}; cat", witness.display());
    repository.write(".gitattributes", "* filter=evil diff=evil\n");
    repository.write("file", "1\n");
    repository.commit_all();
    for (key, value) in [
        ("filter.evil.clean", program.clone()),
        ("filter.evil.process", program.clone()),
        ("filter.evil.required", "true".to_owned()),
        ("core.fsmonitor", program.clone()),
        ("diff.evil.command", program.clone()),
        ("core.hooksPath", repository.outside("hooks").display().to_string()),
    ] {
        repository.git(&["config", key, &value]);
    }
    repository.write("file", "2\n");
    let manifest = repository.manifest(&no_rules()).unwrap();
    assert_eq!(manifest.changed_paths(), 1);
    assert!(!witness.exists());
}

#[test]
fn protected_tracked_files_are_reported() {
    let repository = Repository::new();
    repository.write("dist/tracked.js", "1");
    repository.write("node_modules/tracked.js", "1");
    repository.git(&["add", "-f", "."]);
    repository.git(&["commit", "-qm", "m"]);
    repository.write("dist/untracked.js", "1");
    agrees(&repository);
    let manifest = repository.manifest(&no_rules()).unwrap();
    assert_eq!(manifest.protected_tracked().len(), 1);
    assert_eq!(manifest.protected_tracked()[0].path, "dist/tracked.js");
    assert_eq!(manifest.protected_tracked()[0].pattern, "dist");
    repository.git(&["rm", "-q", "dist/tracked.js"]);
    agrees(&repository);
    assert_eq!(repository.manifest(&no_rules()).unwrap().deleted().count(), 1);
}

#[test]
fn the_cache_spares_reading_a_copied_checkout() {
    let repository = Repository::new();
    repository.write("a", "1");
    repository.commit_all();
    // Another inode with the same content: the index cannot tell, the cache can.
    std::fs::remove_file(repository.path("a")).unwrap();
    repository.write("a", "1");
    std::thread::sleep(std::time::Duration::from_millis(150));
    let source = repository.source();
    let file = StatCache::file_for(repository.root.parent().unwrap(), source.root());
    let cache = StatCache::load(&file, source.root());
    let manifest = Manifest::build(&source, &no_rules(), &cache).unwrap();
    assert_eq!(manifest.changed_paths(), 0);
    assert!(!cache.is_clean());
    cache.save(&manifest).unwrap();
    let cache = StatCache::load(&file, source.root());
    assert_eq!(
        answer(&Manifest::build(&source, &no_rules(), &cache).unwrap()),
        answer(&manifest)
    );
    assert!(cache.is_clean(), "nothing was read again");
    repository.write("a", "2");
    assert_eq!(
        Manifest::build(&source, &no_rules(), &cache).unwrap().changed_paths(),
        1
    );
}

fn discover(start: &Path) -> Source {
    Source::discover(start, &SourceOptions::default()).unwrap()
}

#[test]
fn discovery_takes_the_nearest_marker() {
    let repository = Repository::new();
    repository.write("a/b/file", "1");
    repository.commit_all();
    repository.git(&[
        "remote",
        "add",
        "origin",
        "https://user:token@github.com/owner/project.git",
    ]);
    let source = discover(&repository.path("a/b"));
    assert_eq!(source.kind(), SourceKind::Git);
    assert_eq!(source.root(), repository.root);
    assert_eq!(source.name(), "project");
    assert_eq!(source.remote().unwrap().address, "https://github.com/owner/project.git");
    assert!(source.remote().unwrap().has_credentials);
    assert_eq!(source.branch(), Some("main"));
    assert_eq!(source.base_ref(), Some("main"));
    assert_eq!(source.head().map(str::len), Some(40));
    let tree = String::from_utf8(repository.git(&["rev-parse", "HEAD^{tree}"])).unwrap();
    assert_eq!(source.head_tree().as_deref(), Some(tree.trim()));
    repository.git(&["update-ref", "refs/remotes/origin/trunk", "HEAD"]);
    repository.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk"]);
    assert_eq!(discover(&repository.root).base_ref(), Some("trunk"));

    let jujutsu = repository.path("a/.jj");
    std::fs::create_dir(&jujutsu).unwrap();
    let native = discover(&repository.path("a/b"));
    assert_eq!(native.kind(), SourceKind::None);
    let error = native.require_syncable().unwrap_err();
    assert!(error.message().starts_with("build sync file list: ") && error.message().contains("native Jujutsu"));
    std::fs::remove_dir(&jujutsu).unwrap();
    std::fs::create_dir(repository.path(".jj")).unwrap();
    assert_eq!(discover(&repository.root).kind(), SourceKind::JujutsuColocated);
    agrees(&repository);
}

#[test]
fn ceilings_and_explicit_directories() {
    let repository = Repository::new();
    repository.write("a/b/file", "1");
    repository.commit_all();
    let below = repository.path("a/b");
    let at = |ceiling: &Path| SourceOptions {
        ceilings: vec![ceiling.to_path_buf()],
        ..SourceOptions::default()
    };
    let kind = |options: &SourceOptions| Source::discover(&below, options).unwrap().kind();
    assert_eq!(kind(&at(&repository.path("a"))), SourceKind::None);
    assert_eq!(kind(&at(&repository.root)), SourceKind::None);
    assert_eq!(kind(&at(repository.root.parent().unwrap())), SourceKind::Git);
    assert_eq!(kind(&at(&below)), SourceKind::Git);

    let elsewhere = repository.outside("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let explicit = SourceOptions {
        git_dir: Some("../checkout/.git".into()),
        ..SourceOptions::default()
    };
    let source = Source::discover(&elsewhere, &explicit).unwrap();
    assert_eq!((source.kind(), source.root()), (SourceKind::Git, elsewhere.as_path()));
    let manifest = Manifest::build(&source, &no_rules(), &StatCache::in_memory()).unwrap();
    assert_eq!(manifest.deleted().count(), 1);
    let both = SourceOptions {
        git_work_tree: Some("../checkout".into()),
        ..explicit
    };
    let source = Source::discover(&elsewhere, &both).unwrap();
    assert_eq!(source.root(), repository.root);
    assert_eq!(
        Manifest::build(&source, &no_rules(), &StatCache::in_memory())
            .unwrap()
            .changed_paths(),
        0
    );

    let outside = Source::discover(&elsewhere, &SourceOptions::default()).unwrap();
    assert_eq!(outside.kind(), SourceKind::None);
    assert_eq!(outside.require_syncable().unwrap_err().kind(), ErrorKind::Sync);
    assert!(Source::discover(&repository.outside("missing"), &SourceOptions::default()).is_err());
}

#[test]
fn linked_worktrees_and_plain_directories() {
    let repository = Repository::new();
    repository.write("file", "1");
    repository.commit_all();
    let linked = repository.outside("linked");
    repository.git(&["worktree", "add", "-q", linked.to_str().unwrap(), "-b", "other"]);
    std::fs::write(linked.join("new"), "1").unwrap();
    let source = discover(&linked);
    assert_eq!(
        (source.kind(), source.root(), source.branch()),
        (SourceKind::Git, linked.as_path(), Some("other"))
    );
    let manifest = Manifest::build(&source, &no_rules(), &StatCache::in_memory()).unwrap();
    assert_eq!((manifest.len(), manifest.changed_paths()), (2, 1));

    repository.write(".gitignore", "ignored\n");
    repository.write("ignored", "1");
    repository.write("src/a", "1");
    let options = SourceOptions {
        directory: true,
        ..SourceOptions::default()
    };
    let plain = Source::discover(&repository.root, &options).unwrap();
    assert_eq!(plain.kind(), SourceKind::Directory);
    let everything = Manifest::build(&plain, &no_rules(), &StatCache::in_memory()).unwrap();
    assert!(everything.find(b"ignored").is_some() && everything.find(b".git/HEAD").is_none());
    let included = Manifest::build(&plain, &Rules::new([""; 0], ["src"]), &StatCache::in_memory()).unwrap();
    assert_eq!(included.iter().map(|entry| entry.path).collect::<Vec<_>>(), [b"src/a"]);
}

#[test]
fn hostile_index_paths_are_left_alone() {
    let repository = Repository::new();
    repository.write("x", "1");
    repository.commit_all();
    std::fs::write(repository.outside("secret"), "1").unwrap();
    let blob = String::from_utf8(repository.git(&["hash-object", "-w", "x"])).unwrap();
    // Git itself refuses to add such names, so they replace innocent ones of the same length.
    for name in ["aa/secret", "bbbbb/hooks"] {
        repository.git(&[
            "update-index",
            "--add",
            "--cacheinfo",
            &format!("100644,{},{name}", blob.trim()),
        ]);
    }
    let index = repository.path(".git/index");
    let mut bytes = std::fs::read(&index).unwrap();
    for (from, to) in [(&b"aa/secret"[..], &b"../secret"[..]), (b"bbbbb/hooks", b".git/hooksx")] {
        let place = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[place..place + to.len()].copy_from_slice(to);
    }
    // Drop the checksum's say: zero means that it was not computed.
    let end = bytes.len() - 20;
    bytes[end..].fill(0);
    std::fs::write(&index, bytes).unwrap();
    let manifest = repository.manifest(&Rules::new(["!.git"], [""; 0])).unwrap();
    assert_eq!(manifest.iter().map(|entry| entry.path).collect::<Vec<_>>(), [b"x"]);
    assert_eq!(manifest.deleted().count(), 0);
}
