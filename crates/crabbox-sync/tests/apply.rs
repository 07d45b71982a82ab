//! A destination becomes what the manifest says, whatever was planted in it.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "tests write files and start the oracles as they like"
)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crabbox_core::remote::HostDirectory;
use crabbox_core::{ErrorKind, Result};
use crabbox_sync::apply::{ApplyOptions, ApplyReport, apply_to_directory, apply_until};
use crabbox_sync::{Manifest, Source, SourceOptions, StatCache};
use proptest::prelude::{Just, Strategy as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use proptest::{collection, prop_oneof, sample};
use support::no_rules;

struct Pair {
    _directory: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    outside: PathBuf,
}

impl Pair {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [source, target, outside] = ["source", "target", "outside"].map(|name| directory.path().join(name));
        for path in [&source, &target, &outside] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(outside.join("victim"), "untouched").unwrap();
        Self {
            _directory: directory,
            source,
            target,
            outside,
        }
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn manifest(&self) -> Manifest {
        let options = SourceOptions {
            directory: true,
            ..SourceOptions::default()
        };
        let source = Source::discover(&self.source, &options).unwrap();
        Manifest::build(&source, &no_rules(), &StatCache::in_memory()).unwrap()
    }

    fn try_apply(&self, options: &ApplyOptions) -> Result<ApplyReport> {
        apply_to_directory(&self.source, &self.manifest(), &self.target, options)
    }

    fn apply(&self) -> ApplyReport {
        self.try_apply(&ApplyOptions::default()).unwrap()
    }

    fn assert_equal(&self) {
        assert_eq!(tree(&self.source), tree(&self.target));
        assert_eq!(
            std::fs::read_to_string(self.outside.join("victim")).unwrap(),
            "untouched"
        );
        assert_eq!(std::fs::read_dir(&self.outside).unwrap().count(), 1);
    }
}

/// Files and links below a directory with content, permissions and time; `.crabbox` is left out.
fn tree(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, i64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            let path = entry.path().strip_prefix(root).unwrap().to_path_buf();
            if metadata.is_dir() {
                if path != Path::new(".crabbox") {
                    open.push(entry.path());
                }
                continue;
            }
            let content = if metadata.is_symlink() {
                entry.path().read_link().unwrap().into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(entry.path()).unwrap()
            };
            let time = if metadata.is_symlink() {
                0
            } else {
                metadata.mtime_nsec()
            };
            found.insert(path, (content, metadata.mode(), time));
        }
    }
    found
}

fn stored(pair: &Pair) -> String {
    String::from_utf8(std::fs::read(pair.target.join(".crabbox/sync-manifest")).unwrap()).unwrap()
}

#[test]
fn only_differences_are_written() {
    let pair = Pair::new();
    pair.write("a/one", "1");
    pair.write("a/two", "22");
    pair.write("big", &"x".repeat(300_000));
    std::fs::set_permissions(pair.source.join("a/two"), std::fs::Permissions::from_mode(0o750)).unwrap();
    symlink("a/one", pair.source.join("link")).unwrap();
    let first = pair.apply();
    assert_eq!((first.written, first.unchanged, first.deleted), (4, 0, 0));
    pair.assert_equal();
    assert_eq!(stored(&pair), "a/one\0a/two\0big\0link\0");
    let second = pair.apply();
    assert_eq!((second.written, second.unchanged, second.bytes), (0, 4, 0));
    pair.write("a/two", "33");
    std::fs::set_permissions(pair.source.join("a/one"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(pair.source.join("link")).unwrap();
    symlink("big", pair.source.join("link")).unwrap();
    let third = pair.apply();
    assert_eq!((third.written, third.unchanged), (3, 1));
    pair.assert_equal();
}

#[test]
fn paths_that_left_are_removed_and_the_boxes_own_stay() {
    let pair = Pair::new();
    for path in ["keep", "gone", "d/e/gone", "d/gone", "f/gone"] {
        pair.write(path, "1");
    }
    pair.apply();
    std::fs::create_dir(pair.target.join("build")).unwrap();
    std::fs::write(pair.target.join("build/output"), "o").unwrap();
    std::fs::write(pair.target.join("f/output"), "o").unwrap();
    for path in ["gone", "d/e/gone", "d/gone", "f/gone"] {
        std::fs::remove_file(pair.source.join(path)).unwrap();
    }
    let kept = pair
        .try_apply(&ApplyOptions {
            delete: false,
            ..ApplyOptions::default()
        })
        .unwrap();
    assert_eq!(kept.deleted, 0);
    assert!(pair.target.join("d/e/gone").exists());
    let report = pair.apply();
    assert_eq!(report.deleted, 4);
    assert!(!pair.target.join("d").exists() && pair.target.join("f/output").exists());
    assert!(pair.target.join("build/output").exists());
    assert_eq!(stored(&pair), "keep\0");
}

#[test]
fn files_and_directories_change_places() {
    let pair = Pair::new();
    pair.write("a", "file");
    pair.write("b/c/d", "1");
    pair.apply();
    std::fs::write(pair.target.join("b/own"), "o").unwrap();
    std::fs::remove_file(pair.source.join("a")).unwrap();
    std::fs::remove_dir_all(pair.source.join("b")).unwrap();
    pair.write("a/x/y", "1");
    pair.write("b", "file");
    pair.apply();
    pair.assert_equal();
}

#[test]
fn planted_links_pipes_and_directories_are_replaced_and_never_followed() {
    let pair = Pair::new();
    for path in ["file", "d/file", "d/e/file", "x/y", "pipe", "hard"] {
        pair.write(path, "1");
    }
    symlink("file", pair.source.join("link")).unwrap();
    pair.apply();
    for path in ["file", "pipe", "hard", "link"] {
        std::fs::remove_file(pair.target.join(path)).unwrap();
    }
    std::fs::remove_dir_all(pair.target.join("d/e")).unwrap();
    std::fs::remove_dir_all(pair.target.join("x")).unwrap();
    symlink(pair.outside.join("victim"), pair.target.join("file")).unwrap();
    symlink(&pair.outside, pair.target.join("d/e")).unwrap();
    symlink("../outside", pair.target.join("x")).unwrap();
    symlink(&pair.outside, pair.target.join("link")).unwrap();
    std::fs::hard_link(pair.outside.join("victim"), pair.target.join("hard")).unwrap();
    let pipe = pair.target.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    pair.apply();
    pair.assert_equal();

    // Deleting follows nothing either.
    pair.write("z/victim", "1");
    pair.apply();
    std::fs::remove_dir_all(pair.target.join("z")).unwrap();
    symlink(&pair.outside, pair.target.join("z")).unwrap();
    std::fs::remove_dir_all(pair.source.join("z")).unwrap();
    pair.apply();
    std::fs::remove_file(pair.target.join("z")).unwrap();
    pair.assert_equal();
}

#[test]
fn a_hostile_stored_manifest_removes_nothing_outside() {
    let pair = Pair::new();
    pair.write("a", "1");
    pair.apply();
    let stored = pair.target.join(".crabbox/sync-manifest");
    let absolute = pair.outside.join("victim");
    std::fs::write(
        &stored,
        format!(
            "a\0../outside/victim\0{}\0a/../../outside/victim\0\0.\0..\0",
            absolute.display()
        ),
    )
    .unwrap();
    pair.apply();
    pair.assert_equal();
    for planted in ["link", "directory", "pipe"] {
        std::fs::remove_file(&stored).unwrap();
        match planted {
            "link" => symlink(&absolute, &stored).unwrap(),
            "directory" => std::fs::create_dir_all(stored.join("below")).unwrap(),
            _ => rustix::fs::mknodat(
                rustix::fs::CWD,
                &stored,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RWXU,
                0,
            )
            .unwrap(),
        }
        pair.apply();
        pair.assert_equal();
        assert_eq!(std::fs::read(&stored).unwrap(), b"a\0", "{planted}");
    }
    std::fs::remove_dir_all(pair.target.join(".crabbox")).unwrap();
    symlink(&pair.outside, pair.target.join(".crabbox")).unwrap();
    pair.apply();
    pair.assert_equal();
    assert!(pair.target.join(".crabbox").symlink_metadata().unwrap().is_dir());
}

#[test]
fn a_stored_manifest_of_countless_paths_is_not_believed() {
    let pair = Pair::new();
    pair.write("a", "1");
    pair.apply();
    std::fs::write(pair.target.join("kept"), "by the box").unwrap();
    let mut stored = b"x\0".repeat(4 << 20);
    stored.extend(b"kept\0");
    std::fs::write(pair.target.join(".crabbox/sync-manifest"), stored).unwrap();
    pair.apply();
    assert!(pair.target.join("kept").exists());
    assert_eq!(
        std::fs::read(pair.target.join(".crabbox/sync-manifest")).unwrap(),
        b"a\0"
    );
}

#[test]
fn a_directory_in_the_way_is_removed_however_deep_it_is() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const DEPTH: usize = 2000;
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(512),
        ..limit
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let pair = Pair::new();
    pair.write("a", "1");
    let mut at = rustix::fs::open(&pair.target, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for name in std::iter::once("a").chain(std::iter::repeat_n("d", DEPTH)) {
        rustix::fs::mkdirat(&at, name, rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    // Names that removal could use are taken.
    for number in 0..3 {
        std::fs::create_dir_all(pair.target.join(format!("a/.crabbox-deep-{number}/below"))).unwrap();
    }
    let applied = pair.try_apply(&ApplyOptions::default());
    setrlimit(Resource::Nofile, limit).unwrap();
    applied.unwrap();
    pair.assert_equal();
}

#[test]
fn an_interrupted_apply_is_repaired() {
    let pair = Pair::new();
    pair.write("old", "1");
    pair.apply();
    pair.write("new", "2");
    pair.write("zz/unreadable", "3");
    let manifest = pair.manifest();
    std::fs::remove_file(pair.source.join("zz/unreadable")).unwrap();
    let error = apply_to_directory(&pair.source, &manifest, &pair.target, &ApplyOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sync);
    assert_eq!(stored(&pair), "new\0old\0zz/unreadable\0");
    std::fs::remove_file(pair.source.join("new")).unwrap();
    std::fs::remove_dir_all(pair.source.join("zz")).unwrap();
    // A file that was cut short has another time, so it is written again.
    std::fs::write(pair.target.join("old"), "").unwrap();
    pair.apply();
    pair.assert_equal();
    assert_eq!(stored(&pair), "old\0");
}

#[test]
fn cancellation_stops_and_is_repaired() {
    let pair = Pair::new();
    pair.write("a", "1");
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let manifest = pair.manifest();
    let options = ApplyOptions::default();
    let target = HostDirectory {
        path: pair.target.clone(),
        owner: None,
    };
    let error = apply_until(&pair.source, &manifest, &target, &options, &cancel).unwrap_err();
    assert!(error.is_cancelled());
    assert!(!pair.target.join("a").exists());
    pair.apply();
    pair.assert_equal();
}

#[test]
fn what_is_put_there_belongs_to_the_owner() {
    if !rustix::process::geteuid().is_root() {
        // Only root may give files away; giving them to oneself must work for everybody.
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        return owned_by(own);
    }
    owned_by((4321, 8765));
}

fn owned_by(owner: (u32, u32)) {
    let pair = Pair::new();
    pair.write("d/e/file", "1");
    symlink("file", pair.source.join("d/e/link")).unwrap();
    // A handle's path, as the engine passes for a box with namespaces of its own.
    let handle = std::fs::File::open(&pair.target).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle)));
    let path = if path.exists() { path } else { pair.target.clone() };
    let target = HostDirectory {
        path,
        owner: Some(owner),
    };
    let never = std::sync::atomic::AtomicBool::new(false);
    apply_until(
        &pair.source,
        &pair.manifest(),
        &target,
        &ApplyOptions::default(),
        &never,
    )
    .unwrap();
    for path in ["d", "d/e", "d/e/file", "d/e/link", ".crabbox", ".crabbox/sync-manifest"] {
        let metadata = pair.target.join(path).symlink_metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), owner, "{path}");
    }
    pair.assert_equal();
}

#[test]
fn checksums_find_what_sizes_and_times_hide() {
    let pair = Pair::new();
    pair.write("a", "right");
    pair.apply();
    let time = pair.source.join("a").metadata().unwrap().modified().unwrap();
    std::fs::write(pair.target.join("a"), "wrong").unwrap();
    std::fs::File::options()
        .write(true)
        .open(pair.target.join("a"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert_eq!(pair.apply().written, 0);
    let checksum = ApplyOptions {
        checksum: true,
        ..ApplyOptions::default()
    };
    assert_eq!(pair.try_apply(&checksum).unwrap().written, 1);
    pair.assert_equal();
    std::fs::File::options()
        .write(true)
        .open(pair.target.join("a"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(pair.try_apply(&checksum).unwrap().written, 0);
    pair.assert_equal();
}

#[test]
fn a_file_that_changed_since_the_manifest_is_an_error() {
    let pair = Pair::new();
    pair.write("a", "one");
    let manifest = pair.manifest();
    pair.write("a", "three");
    let error = apply_to_directory(&pair.source, &manifest, &pair.target, &ApplyOptions::default()).unwrap_err();
    assert!(error.is_retryable() && error.message().contains("changed while it was being synced"));
    assert!(!pair.target.join("a").exists());
}

#[test]
fn any_two_trees_in_a_row_end_equal() {
    let names =
        || collection::vec(sample::select(&["a", "b", "c", "sp ace"][..]), 1..4).prop_map(|parts| parts.join("/"));
    let content = || prop_oneof![Just("1"), Just("22"), Just("->a"), Just("+x")];
    let trees = collection::vec(collection::btree_map(names(), content(), 0..8), 2..4);
    let planted = collection::vec(names(), 0..3);
    let config = Config {
        cases: 120,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&(trees, planted), |(trees, planted)| {
            let pair = Pair::new();
            for wanted in trees {
                std::fs::remove_dir_all(&pair.source).unwrap();
                std::fs::create_dir(&pair.source).unwrap();
                for (path, content) in wanted {
                    let full = pair.source.join(&path);
                    if std::fs::create_dir_all(full.parent().unwrap()).is_err() || full.exists() {
                        continue;
                    }
                    match content {
                        "->a" => symlink("a", &full).unwrap(),
                        _ => std::fs::write(&full, content).unwrap(),
                    }
                    if content == "+x" {
                        std::fs::set_permissions(full, std::fs::Permissions::from_mode(0o755)).unwrap();
                    }
                }
                pair.apply();
                pair.assert_equal();
                for path in &planted {
                    let full = pair.target.join(path);
                    if full.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                        std::fs::remove_file(&full).unwrap();
                        symlink(&pair.outside, &full).unwrap();
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}
