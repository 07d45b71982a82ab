//! Keys: OpenSSH reads what we write and we read what it writes; nothing follows a planted link.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Output;

use crate::child::Role;
use crabbox_core::{ErrorKind, LeaseId};
use crabbox_state::{Dirs, Disk, KeyStore, known_hosts};

fn lease() -> LeaseId {
    "cbx_abcdef123456".parse().unwrap()
}

fn store(root: &Path) -> KeyStore {
    KeyStore::new(&Dirs::under(root), Disk::new())
}

#[expect(clippy::disallowed_methods, reason = "OpenSSH is the judge")]
fn ssh_keygen(arguments: &[&str]) -> Output {
    let output = std::process::Command::new("ssh-keygen")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn openssh_reads_our_key() {
    let root = tempfile::tempdir().unwrap();
    let key = store(root.path()).ensure(&lease()).unwrap();
    assert!(
        key.public.starts_with("ssh-ed25519 ") && key.public.ends_with(" crabbox cbx_abcdef123456"),
        "{}",
        key.public
    );
    assert_eq!(text(&key.public_path), format!("{}\n", key.public));
    let derived = ssh_keygen(&["-y", "-P", "", "-f", key.private_path.to_str().unwrap()]);
    assert_eq!(String::from_utf8(derived.stdout).unwrap().trim(), key.public);
    assert_eq!(
        (mode(&key.private_path), mode(key.private_path.parent().unwrap())),
        (0o600, 0o700)
    );
    assert_eq!(
        key.known_hosts_path,
        root.path().join("config/testboxes/cbx_abcdef123456/known_hosts")
    );
}

#[test]
fn keys_of_openssh_are_used_again_whatever_their_type() {
    for (key_type, bits) in [("ed25519", "256"), ("rsa", "2048"), ("ecdsa", "384")] {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let directory = store.lease_directory(&lease());
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("id_ed25519");
        ssh_keygen(&[
            "-q",
            "-t",
            key_type,
            "-b",
            bits,
            "-N",
            "",
            "-C",
            "theirs",
            "-f",
            path.to_str().unwrap(),
        ]);
        let before = text(&path);
        let key = store.ensure(&lease()).unwrap();
        assert_eq!(text(&path), before, "{key_type}");
        assert!(key.public.ends_with(" theirs"));
        assert_eq!(store.get(&lease()).unwrap(), Some(key));
    }
}

#[test]
fn each_lease_has_its_own_key_and_asking_again_gives_the_same() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let first = store.ensure(&lease()).unwrap();
    assert_eq!(store.ensure(&lease()).unwrap(), first);
    let other = store.ensure(&"cbx_000000000001".parse().unwrap()).unwrap();
    assert_ne!(other.public, first.public);
    assert_eq!(store.get(&"cbx_000000000002".parse().unwrap()).unwrap(), None);
}

#[test]
fn a_half_is_completed_and_rubbish_replaced() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let first = store.ensure(&lease()).unwrap();
    fs::remove_file(&first.public_path).unwrap();
    assert_eq!(store.get(&lease()).unwrap(), None);
    assert_eq!(store.ensure(&lease()).unwrap(), first);
    // The public half of another key.
    let other = store.ensure(&"cbx_000000000001".parse().unwrap()).unwrap();
    fs::copy(&other.public_path, &first.public_path).unwrap();
    assert_eq!(store.get(&lease()).unwrap(), None);
    assert_eq!(store.ensure(&lease()).unwrap(), first);
    fs::File::create(&first.private_path).unwrap();
    assert_ne!(store.ensure(&lease()).unwrap().public, first.public);
}

#[test]
fn a_key_moves_to_another_id_and_goes_with_its_lease() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let other: LeaseId = "cbx_000000000001".parse().unwrap();
    let key = store.ensure(&lease()).unwrap();
    store.rename(&lease(), &other).unwrap();
    assert_eq!(store.get(&lease()).unwrap(), None);
    assert_eq!(store.get(&other).unwrap().unwrap().public, key.public);
    store.ensure(&lease()).unwrap();
    assert_eq!(store.rename(&lease(), &other).unwrap_err().kind(), ErrorKind::Usage);
    assert!(store.remove(&other).unwrap());
    assert!(!store.remove(&other).unwrap());
    assert!(store.get(&lease()).unwrap().is_some());
    assert_eq!(fs::read_dir(root.path().join("config/testboxes")).unwrap().count(), 1);
}

#[test]
fn planted_links_are_refused_and_their_targets_untouched() {
    for planted in ["config", "config/testboxes", "config/testboxes/cbx_abcdef123456"] {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::File::create(outside.join("precious")).unwrap();
        let link = root.path().join(planted);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&outside, &link).unwrap();
        for error in [
            store.ensure(&lease()).unwrap_err(),
            store.get(&lease()).unwrap_err(),
            store.remove(&lease()).unwrap_err(),
            store
                .rename(&lease(), &"cbx_000000000001".parse().unwrap())
                .unwrap_err(),
            store.pin_host_key(&lease(), &text_of_a_key()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Identity, "{planted}: {error}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{planted}");
    }
    // A private key that is a link to something else is not read.
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let key = store.ensure(&lease()).unwrap();
    fs::rename(&key.private_path, root.path().join("moved")).unwrap();
    symlink(root.path().join("moved"), &key.private_path).unwrap();
    assert_eq!(store.get(&lease()).unwrap_err().kind(), ErrorKind::Identity);
}

fn text_of_a_key() -> String {
    let root = tempfile::tempdir().unwrap();
    store(root.path()).ensure(&lease()).unwrap().public
}

#[test]
fn a_pinned_host_is_one_line_that_openssh_finds_by_the_alias() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let key = text_of_a_key();
    store.pin_host_key(&lease(), &text_of_a_key()).unwrap();
    let pinned = store.pin_host_key(&lease(), &key).unwrap();
    assert_eq!(pinned.alias, known_hosts::alias(&lease()));
    assert_eq!(pinned.path, store.known_hosts_path(&lease()));
    let bare = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(text(&pinned.path), format!("{} {bare}\n", pinned.alias));
    let found = ssh_keygen(&["-F", &pinned.alias, "-f", pinned.path.to_str().unwrap()]);
    assert!(String::from_utf8(found.stdout).unwrap().contains(&bare));
    assert_eq!(pinned.key.algorithms, ["ssh-ed25519"]);
    assert_eq!(mode(&pinned.path), 0o600);
}

#[test]
fn an_rsa_host_proves_itself_with_modern_signatures_only() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("rsa");
    ssh_keygen(&["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", path.to_str().unwrap()]);
    let key = known_hosts::parse_host_key(&text(&path.with_extension("pub"))).unwrap();
    assert_eq!(key.algorithms, ["rsa-sha2-512", "rsa-sha2-256"]);
}

#[test]
#[ignore = "a child process of the tests beside it"]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let store = KeyStore::new(&role.dirs(), role.disk());
    store.ensure(&lease()).unwrap();
    store.rename(&lease(), &"cbx_000000000001".parse().unwrap()).unwrap();
    store.remove(&"cbx_000000000001".parse().unwrap()).unwrap();
}

#[test]
fn killed_anywhere_a_key_is_whole_or_made_again() {
    let kills = crate::child::kill_at_every_step(
        "keys::child",
        "life",
        |_| {},
        |dirs, step| {
            let store = KeyStore::new(dirs, Disk::new());
            for id in [lease(), "cbx_000000000001".parse().unwrap()] {
                let found = store.get(&id).unwrap();
                let key = store.ensure(&id).unwrap();
                assert!(found.is_none_or(|found| found == key), "step {step}");
            }
        },
    );
    assert!(kills > 12, "only {kills} effects were seen");
}
