//! A full disk: a clear error that names the path, and everything stored before is intact.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;

use crate::child::Role;
use crabbox_core::{Error, ErrorKind, LeaseId, Result};
use crabbox_state::claims::{ClaimStore, Expected};
use crabbox_state::journal::{Intent, Journal, Purpose};
use crabbox_state::lock::Wait;
use crabbox_state::process::Client;
use crabbox_state::runs::{RunRecord, RunStore, Stream};
use crabbox_state::{Dirs, Disk, KeyStore, random};

fn lease() -> LeaseId {
    "cbx_abcdef123456".parse().unwrap()
}

fn write_claim(dirs: &Dirs, note: &str) -> Result<()> {
    let change = |claim: &mut crabbox_state::claims::ClaimRecord| {
        claim.labels.insert("note".to_owned(), note.to_owned());
        Ok(())
    };
    ClaimStore::new(dirs, Disk::new())
        .update(&lease(), Expected::Anything, &Wait::forever(), change)
        .map(drop)
}

fn note(dirs: &Dirs) -> String {
    ClaimStore::new(dirs, Disk::new())
        .read(&lease())
        .unwrap()
        .unwrap()
        .labels["note"]
        .clone()
}

fn assert_clear(error: &Error, path: &Path) {
    let text = error.to_string();
    assert!(text.contains(&format!("`{}`", path.display())), "{text}");
    assert!(
        text.contains("No space left") || text.contains("File too large"),
        "{text}"
    );
    assert_eq!(
        error.hint(),
        Some("free some disk space and try again; what was stored before is unchanged")
    );
    assert_eq!(error.kind(), ErrorKind::Other);
}

/// More than either limit below, less than the largest claim.
fn large() -> String {
    "x".repeat(300 << 10)
}

#[test]
#[ignore = "a child process of the tests beside it"]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    if role.name == "mounted" {
        mount_small(&role.root);
    }
    let dirs = role.dirs();
    let claims = ClaimStore::new(&dirs, Disk::new());
    if role.name == "mounted" {
        write_claim(&dirs, "before").unwrap();
    }
    assert_clear(&write_claim(&dirs, &large()).unwrap_err(), &claims.path(&lease()));
    assert_eq!(note(&dirs), "before");
    assert_eq!(
        fs::read_dir(dirs.state.join("claims")).unwrap().count(),
        1,
        "a temporary file is left"
    );
    // There is room for a small claim again.
    write_claim(&dirs, "after").unwrap();

    // A run loses its log, is told so once, and goes on.
    let now = std::sync::Arc::new(|| "2026-01-02T03:04:05Z".parse().unwrap());
    let runs = RunStore::new(&dirs, Disk::new(), Client::current(), now);
    let id = random::run_id().unwrap();
    let writer = runs
        .create(RunRecord::new(
            id.clone(),
            vec!["yes".to_owned()],
            "2026-01-02T03:04:05Z".parse().unwrap(),
        ))
        .unwrap();
    let error = (0..20)
        .find_map(|_| writer.append_log(Stream::Stdout, large().as_bytes()).err())
        .unwrap();
    assert!(error.hint().is_some(), "{error}");
    writer.append_log(Stream::Stdout, b"more").unwrap();
    drop(fs::File::create(runs.run_directory(&id).join("log")).unwrap());
    let record = writer.finish(crabbox_state::runs::Finish::default()).unwrap();
    assert!(record.log_truncated);

    if role.name == "mounted" {
        fill(&role.root);
        let journal = Journal::new(&dirs, Disk::new(), Client::current());
        let intent = Intent {
            lease: lease(),
            slug: String::new(),
            provider: "local".to_owned(),
            provider_scope: String::new(),
            purpose: Purpose::OneShot,
            attempt: random::attempt_token().unwrap(),
        };
        let error = journal
            .prepare(intent, "2026-01-02T03:04:05Z".parse().unwrap())
            .unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        assert!(journal.list().unwrap().0.is_empty());
        let keys = KeyStore::new(&dirs, Disk::new());
        assert!(keys.ensure(&lease()).unwrap_err().hint().is_some());
        assert_eq!(keys.get(&lease()).unwrap(), None);
        assert_eq!(note(&dirs), "after");
    }
}

#[cfg(not(target_os = "linux"))]
fn mount_small(_: &Path) {
    unreachable!("only the Linux test asks for it");
}

/// Gives this process alone a file system of 256 KiB.
#[cfg(target_os = "linux")]
fn mount_small(root: &Path) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    #[expect(unsafe_code, reason = "unshare has no safe form")]
    // SAFETY: a mount namespace of its own affects no memory and no open file.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS).unwrap();
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("tmpfs", root, "tmpfs", MountFlags::empty(), Some(c"size=256k")).unwrap();
}

fn fill(root: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(root.join("filler")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0]).is_ok() {}
}

#[test]
fn a_file_size_limit_acts_like_a_full_disk() {
    let root = tempfile::tempdir().unwrap();
    write_claim(&Dirs::under(root.path()), "before").unwrap();
    let child = crate::child::command("full_disk::child", "limited", root.path());
    // The signal that comes with the limit is ignored, so that the write fails as on a full disk.
    #[expect(clippy::disallowed_methods, reason = "a shell sets the limit")]
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\""])
        .arg(child.get_program())
        .args(child.get_args());
    child.get_envs().for_each(|(name, value)| {
        shell.env(name, value.unwrap());
    });
    let status: ExitStatus = shell.stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success());
    assert_eq!(note(&Dirs::under(root.path())), "after");
}

#[cfg(target_os = "linux")]
#[test]
fn a_really_full_file_system() {
    // Only root may mount; others have the test above.
    if rustix::process::geteuid().is_root() {
        let root = tempfile::tempdir().unwrap();
        assert!(crate::child::run("full_disk::child", "mounted", root.path()).success());
    }
}
