//! Archives are deterministic and unpack to what was packed; hostile ones write nothing outside.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "tests write files and start the oracles as they like"
)]

mod support;

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crabbox_core::ErrorKind;
use crabbox_sync::archive::{ArchiveFormat, ArchiveOptions, write_archive};
use crabbox_sync::extract::{ExtractOptions, ExtractReport, LinkPolicy, extract};
use crabbox_sync::{Manifest, Source, SourceOptions, StatCache};
use support::no_rules;
use tar::{EntryType, Header};

fn look(root: &Path) -> Manifest {
    let options = SourceOptions {
        directory: true,
        ..SourceOptions::default()
    };
    let source = Source::discover(root, &options).unwrap();
    Manifest::build(&source, &no_rules(), &StatCache::in_memory()).unwrap()
}

fn pack(root: &Path, format: ArchiveFormat) -> Vec<u8> {
    let options = ArchiveOptions {
        format,
        ..ArchiveOptions::default()
    };
    write_archive(root, &look(root), &options, Vec::new()).unwrap().0
}

fn sample() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(150));
    for (path, content) in [
        ("a", "alpha".to_owned()),
        ("empty", String::new()),
        ("sub/big", "x".repeat(700_000)),
        (&long, "l".to_owned()),
    ] {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000))
            .unwrap();
    }
    std::fs::set_permissions(tree.path().join("a"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../a", tree.path().join("sub/link")).unwrap();
    symlink("t".repeat(140), tree.path().join("long-link")).unwrap();
    tree
}

#[test]
fn what_is_packed_is_unpacked() {
    let tree = sample();
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst] {
        let archive = pack(tree.path(), format);
        let target = tempfile::tempdir().unwrap();
        let report = extract(archive.as_slice(), target.path(), &ExtractOptions::default()).unwrap();
        assert_eq!(
            report,
            ExtractReport {
                files: 4,
                directories: 0,
                links: 2,
                bytes: 700_006
            }
        );
        let [before, after] = [look(tree.path()), look(target.path())];
        assert_eq!(before.len(), after.len());
        for (left, right) in before.iter().zip(after.iter()) {
            assert_eq!(
                (left.path, left.kind, left.mode, left.size),
                (right.path, right.kind, right.mode, right.size)
            );
            if left.kind == crabbox_sync::EntryKind::File {
                assert_eq!(left.mtime_ns, right.mtime_ns);
                assert_eq!(
                    std::fs::read(tree.path().join(std::str::from_utf8(left.path).unwrap())).unwrap(),
                    std::fs::read(target.path().join(std::str::from_utf8(left.path).unwrap())).unwrap()
                );
            }
        }
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let [one, other] = [sample(), sample()];
    for link in ["sub/link", "long-link"] {
        for tree in [&one, &other] {
            let time = rustix::fs::Timespec {
                tv_sec: 1_700_000_000,
                tv_nsec: 0,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(
                rustix::fs::CWD,
                tree.path().join(link),
                &times,
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
        }
    }
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst] {
        assert_eq!(pack(one.path(), format), pack(other.path(), format));
    }
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::io::Cursor::new(pack(
        one.path(),
        ArchiveFormat::TarGz,
    ))));
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
        assert_eq!(entry.header().username().unwrap(), Some(""));
    }
}

#[test]
fn the_systems_tar_agrees() {
    let tree = sample();
    let target = tempfile::tempdir().unwrap();
    let archive = target.path().join("archive.tgz");
    std::fs::write(&archive, pack(tree.path(), ArchiveFormat::TarGz)).unwrap();
    let unpacked = target.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let status = std::process::Command::new("tar")
        .args(["-xzf"])
        .arg(&archive)
        .arg("-C")
        .arg(&unpacked)
        .status()
        .unwrap();
    assert!(status.success());
    let paths = |root: &Path| {
        look(root)
            .iter()
            .map(|entry| (entry.path.to_vec(), entry.mode, entry.size))
            .collect::<Vec<_>>()
    };
    assert_eq!(paths(tree.path()), paths(&unpacked));
}

#[test]
fn changes_limits_and_cancellation_stop_packing() {
    let tree = sample();
    let manifest = look(tree.path());
    let with = |options: ArchiveOptions| write_archive(tree.path(), &manifest, &options, Vec::new()).unwrap_err();
    assert!(
        with(ArchiveOptions {
            max_files: 5,
            ..ArchiveOptions::default()
        })
        .message()
        .contains("more files than 5: 6")
    );
    assert!(
        with(ArchiveOptions {
            max_bytes: 9,
            ..ArchiveOptions::default()
        })
        .message()
        .contains("more bytes than 9")
    );
    let cancel = Some(Arc::new(AtomicBool::new(true)));
    assert!(
        with(ArchiveOptions {
            cancel,
            ..ArchiveOptions::default()
        })
        .is_cancelled()
    );
    for content in ["short", &"y".repeat(700_001)] {
        std::fs::write(tree.path().join("sub/big"), content).unwrap();
        let error = with(ArchiveOptions::default());
        assert_eq!(error.kind(), ErrorKind::Sync);
        assert!(error.message().ends_with("`sub/big`"), "{error}");
    }
    std::fs::remove_file(tree.path().join("sub/big")).unwrap();
    assert_eq!(with(ArchiveOptions::default()).kind(), ErrorKind::Sync);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.path().join("sub/big"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert_eq!(with(ArchiveOptions::default()).kind(), ErrorKind::Sync);
}

/// A writer that fails after some bytes must not leave the reading thread waiting.
#[test]
fn a_full_disk_ends_packing() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let tree = tempfile::tempdir().unwrap();
    let mut state = 1_u64;
    for file in 0..40 {
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .take(600_000)
        .collect();
        std::fs::write(tree.path().join(format!("{file}")), noise).unwrap();
    }
    let manifest = look(tree.path());
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst] {
        let options = ArchiveOptions {
            format,
            ..ArchiveOptions::default()
        };
        let error = write_archive(tree.path(), &manifest, &options, Full(200_000))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sync);
    }
}

/// One raw entry, its name unchecked.
fn entry(archive: &mut Vec<u8>, name: &[u8], kind: EntryType, link: &[u8], content: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o6777);
    header.set_mtime(1);
    header.set_cksum();
    archive.write_all(header.as_bytes()).unwrap();
    archive.write_all(content).unwrap();
    archive.resize(archive.len().next_multiple_of(512), 0);
}

struct Ground {
    _directory: tempfile::TempDir,
    target: std::path::PathBuf,
    victim: std::path::PathBuf,
}

fn ground() -> Ground {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let victim = directory.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    Ground {
        _directory: directory,
        target,
        victim,
    }
}

impl Ground {
    fn is_unharmed(&self) -> bool {
        std::fs::read_dir(self.target.parent().unwrap()).unwrap().count() == 2
            && std::fs::read(&self.victim).unwrap() == b"untouched"
    }
}

#[test]
fn hostile_entries_are_refused() {
    let cases: &[(&[u8], EntryType, &[u8])] = &[
        (b"../evil", EntryType::Regular, b""),
        (b"/tmp/evil-absolute", EntryType::Regular, b""),
        (b"a/../../evil", EntryType::Regular, b""),
        (b"a//b", EntryType::Regular, b""),
        (b"..", EntryType::Directory, b""),
        (b"", EntryType::Regular, b""),
        (b"device", EntryType::Char, b""),
        (b"device", EntryType::Block, b""),
        (b"pipe", EntryType::Fifo, b""),
        (b"sparse", EntryType::GNUSparse, b""),
        (b"unknown", EntryType::new(b'Z'), b""),
        (b"link", EntryType::Symlink, b"../victim"),
        (b"link", EntryType::Symlink, b"/etc/passwd"),
        (b"link", EntryType::Symlink, b""),
        (b"hard", EntryType::Link, b"../victim"),
        (b"hard", EntryType::Link, b"/etc/passwd"),
        (b"hard", EntryType::Link, b"missing"),
        (b"hard", EntryType::Link, b"hard"),
    ];
    for (name, kind, link) in cases {
        let ground = ground();
        let mut archive = Vec::new();
        entry(&mut archive, name, *kind, link, b"");
        let error = extract(archive.as_slice(), &ground.target, &ExtractOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sync, "{} {kind:?}", name.escape_ascii());
        assert!(ground.is_unharmed());
        assert_eq!(
            std::fs::read_dir(&ground.target).unwrap().count(),
            0,
            "{}",
            name.escape_ascii()
        );
    }
}

#[test]
fn links_are_never_written_through() {
    let any = ExtractOptions {
        links: LinkPolicy::Any,
        ..ExtractOptions::default()
    };
    // A link of the archive as directory, as file, and one that was there before.
    for (link, then) in [("dir", "dir/victim"), ("victim-link", "victim-link")] {
        let ground = ground();
        let target = if link == "dir" {
            ground.victim.parent().unwrap()
        } else {
            &ground.victim
        };
        let mut archive = Vec::new();
        entry(
            &mut archive,
            link.as_bytes(),
            EntryType::Symlink,
            target.as_os_str().as_encoded_bytes(),
            b"",
        );
        entry(&mut archive, then.as_bytes(), EntryType::Regular, b"", b"evil");
        let _ = extract(archive.as_slice(), &ground.target, &any);
        assert!(ground.is_unharmed(), "{link}");

        let mut archive = Vec::new();
        entry(&mut archive, then.as_bytes(), EntryType::Regular, b"", b"evil");
        std::fs::remove_dir_all(&ground.target).unwrap();
        std::fs::create_dir(&ground.target).unwrap();
        symlink(target, ground.target.join(link)).unwrap();
        let _ = extract(archive.as_slice(), &ground.target, &any);
        assert!(ground.is_unharmed(), "{link} before");
    }
    // A hard link to a link, and writing through a hard link.
    let ground = ground();
    let mut archive = Vec::new();
    entry(
        &mut archive,
        b"link",
        EntryType::Symlink,
        ground.victim.as_os_str().as_encoded_bytes(),
        b"",
    );
    entry(&mut archive, b"hard", EntryType::Link, b"link", b"");
    assert!(extract(archive.as_slice(), &ground.target, &any).is_err());
    let mut archive = Vec::new();
    entry(&mut archive, b"one", EntryType::Regular, b"", b"1");
    entry(&mut archive, b"two", EntryType::Link, b"one", b"");
    entry(&mut archive, b"two", EntryType::Regular, b"", b"2");
    extract(archive.as_slice(), &ground.target, &any).unwrap();
    assert_eq!(std::fs::read(ground.target.join("one")).unwrap(), b"1");
    assert_eq!(std::fs::read(ground.target.join("two")).unwrap(), b"2");
    assert_eq!(
        ground.target.join("two").metadata().unwrap().permissions().mode() & 0o7777,
        0o777,
        "no set-id bits"
    );
    // The destination itself.
    let link = ground.target.parent().unwrap().join("elsewhere");
    symlink(&ground.target, &link).unwrap();
    assert!(extract(&[][..], &link, &any).is_err());
}

#[test]
fn inner_links_and_directories_are_welcome() {
    let ground = ground();
    let mut archive = Vec::new();
    entry(&mut archive, b"./", EntryType::Directory, b"", b"");
    entry(&mut archive, b"./d/", EntryType::Directory, b"", b"");
    entry(&mut archive, b"./d/file", EntryType::Regular, b"", b"1");
    entry(&mut archive, b"d/link", EntryType::Symlink, b"../d/file", b"");
    let report = extract(archive.as_slice(), &ground.target, &ExtractOptions::default()).unwrap();
    assert_eq!(
        report,
        ExtractReport {
            files: 1,
            directories: 1,
            links: 1,
            bytes: 1
        }
    );
    assert_eq!(std::fs::read(ground.target.join("d/link")).unwrap(), b"1");
}

#[test]
fn limits_hold() {
    let ground = ground();
    let mut archive = Vec::new();
    for name in [&b"a"[..], b"b", b"c"] {
        entry(&mut archive, name, EntryType::Regular, b"", &[b'x'; 1000]);
    }
    let defaults = ExtractOptions::default;
    for options in [
        ExtractOptions {
            max_entries: 2,
            ..defaults()
        },
        ExtractOptions {
            max_bytes: 2999,
            ..defaults()
        },
        ExtractOptions {
            max_path_length: 0,
            ..defaults()
        },
    ] {
        assert_eq!(
            extract(archive.as_slice(), &ground.target, &options)
                .unwrap_err()
                .kind(),
            ErrorKind::Sync
        );
    }
    extract(
        archive.as_slice(),
        &ground.target,
        &ExtractOptions {
            max_entries: 3,
            max_bytes: 3000,
            ..defaults()
        },
    )
    .unwrap();
    for length in [1, 511, 600, 1400] {
        assert!(
            extract(&archive[..length], &ground.target, &defaults()).is_err(),
            "cut at {length}"
        );
    }
    // A name of a gigabyte, compressed to nearly nothing.
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 30);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    bomb.write_all(&vec![b'x'; 8 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(
        extract(bomb.as_slice(), &ground.target, &defaults())
            .unwrap_err()
            .message()
            .contains("extended header")
    );
    // Endless padding after one entry of unlimited content.
    let mut zeros = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..1].copy_from_slice(b"z");
    header.set_entry_type(EntryType::Regular);
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_cksum();
    zeros.write_all(header.as_bytes()).unwrap();
    zeros.write_all(&vec![0; 8 << 20]).unwrap();
    let zeros = zeros.finish().unwrap();
    let options = ExtractOptions {
        max_bytes: 1 << 20,
        ..defaults()
    };
    assert!(
        extract(zeros.as_slice(), &ground.target, &options)
            .unwrap_err()
            .message()
            .contains("more bytes")
    );
    assert!(ground.is_unharmed());
}
