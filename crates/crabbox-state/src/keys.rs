//! SSH keys, one pair per lease, in `testboxes/<leaseID>/` inside the config directory.

use std::path::{Path, PathBuf};

use crabbox_core::{Error, LeaseId, Result};
use ed25519_dalek::SigningKey;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::Ed25519PublicKey;
use ssh_key::{LineEnding, PrivateKey, PublicKey};

use crate::dirs::Dirs;
use crate::disk::Disk;
use crate::guard;
use crate::known_hosts::{self, ACCEPTED_KEY_TYPES, HostKey};
use crate::lock::{self, Wait};
use crate::random;
use crate::read;

/// The private key, whatever its type: the name is shared with the Go implementation.
const PRIVATE: &str = "id_ed25519";
const PUBLIC: &str = "id_ed25519.pub";
const KNOWN_HOSTS: &str = "known_hosts";

/// Most bytes of a key file: a large RSA key is a tenth of this.
const KEY_LIMIT: u64 = 64 << 10;

/// Generating a key takes milliseconds, so a longer wait means a stopped process.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// The keys of one user on this machine.
#[derive(Clone, Debug)]
pub struct KeyStore {
    disk: Disk,
    directory: PathBuf,
    trusted: Vec<PathBuf>,
}

/// The key pair of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseKey {
    /// Private key in OpenSSH format, mode 0600.
    pub private_path: PathBuf,
    /// Public key in OpenSSH format.
    pub public_path: PathBuf,
    /// The public key: `<type> <base64> <comment>`.
    pub public: String,
    /// Where the lease's host key is kept; may not exist yet.
    pub known_hosts_path: PathBuf,
}

/// A host key that is written down and the name it is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinnedHost {
    /// `HostKeyAlias`.
    pub alias: String,
    /// `UserKnownHostsFile`, holding exactly this key.
    pub path: PathBuf,
    /// The key and its algorithms.
    pub key: HostKey,
}

impl KeyStore {
    /// Opens the keys in a config directory. Nothing is created before a key is.
    pub fn new(dirs: &Dirs, disk: Disk) -> Self {
        Self {
            disk,
            directory: dirs.config.join("testboxes"),
            trusted: dirs.trusted.clone(),
        }
    }

    /// Finds the key of a lease or makes one: ed25519, comment `crabbox <leaseID>`, no passphrase.
    ///
    /// A pair that is complete and readable is used again, whatever its type. A missing or unfit public half is made
    /// from the private one.
    ///
    /// # Errors
    /// `Identity` when a directory on the way is a symbolic link; `Usage` or `Other` when the disk refuses or there is
    /// no randomness.
    pub fn ensure(&self, lease: &LeaseId) -> Result<LeaseKey> {
        let directory = self.lease_directory(lease);
        guard::create_directory(&self.disk, &directory, &self.trusted)?;
        // Two processes may ensure the key of one lease; the second must find what the first made.
        let _guard = self.lock(&directory)?;
        if let Some(key) = self.load(&directory)? {
            return Ok(key);
        }
        let (private_path, public_path) = (directory.join(PRIVATE), directory.join(PUBLIC));
        let key = match read_private(&private_path)? {
            Some(key) => key,
            None => {
                let key = generate(&format!("crabbox {lease}"))?;
                let text = key
                    .to_openssh(LineEnding::LF)
                    .map_err(|cause| encode_error(&private_path, cause))?;
                self.disk.replace(&private_path, text.as_bytes())?;
                key
            }
        };
        let public = key
            .public_key()
            .to_openssh()
            .map_err(|cause| encode_error(&public_path, cause))?;
        self.disk.replace(&public_path, format!("{public}\n").as_bytes())?;
        Ok(LeaseKey {
            private_path,
            public_path,
            public,
            known_hosts_path: directory.join(KNOWN_HOSTS),
        })
    }

    /// Finds the key of a lease; `None` unless both halves are there and readable.
    ///
    /// # Errors
    /// `Identity` when a directory or file on the way is a link; `Usage` or `Other` when the disk refuses.
    pub fn get(&self, lease: &LeaseId) -> Result<Option<LeaseKey>> {
        let directory = self.lease_directory(lease);
        if !guard::check_directory(&directory, &self.trusted)? {
            return Ok(None);
        }
        self.load(&directory)
    }

    /// Moves a key to the id that a coordinator chose instead.
    ///
    /// # Errors
    /// `Usage` when the other id has a key already; `Identity` when a directory on the way is a link; `Other` when the
    /// disk fails or there is no key.
    pub fn rename(&self, from: &LeaseId, to: &LeaseId) -> Result<()> {
        if from == to {
            return Ok(());
        }
        for lease in [from, to] {
            guard::check_directory(&self.lease_directory(lease), &self.trusted)?;
        }
        self.disk.rename(&self.lease_directory(from), &self.lease_directory(to))
    }

    /// Removes key, known hosts and everything else kept for a lease; `false` when there was nothing. Only for a
    /// lease whose destruction is proven.
    ///
    /// # Errors
    /// `Identity` when a directory on the way is a link; `Usage` or `Other` when the disk refuses.
    pub fn remove(&self, lease: &LeaseId) -> Result<bool> {
        let directory = self.lease_directory(lease);
        if !guard::check_directory(&directory, &self.trusted)? {
            return Ok(false);
        }
        self.disk.remove_directory(&directory)
    }

    /// Where the host keys of a lease are kept; the file may not exist yet.
    pub fn known_hosts_path(&self, lease: &LeaseId) -> PathBuf {
        self.lease_directory(lease).join(KNOWN_HOSTS)
    }

    /// Writes down the one host key that an authority vouched for, under the lease's alias.
    ///
    /// # Errors
    /// As [`known_hosts::parse_host_key`] and [`KeyStore::ensure`].
    pub fn pin_host_key(&self, lease: &LeaseId, key: &str) -> Result<PinnedHost> {
        let key = known_hosts::parse_host_key(key).map_err(|error| error.with_lease(lease.as_str()))?;
        let directory = self.lease_directory(lease);
        guard::create_directory(&self.disk, &directory, &self.trusted)?;
        let (alias, path) = (known_hosts::alias(lease), directory.join(KNOWN_HOSTS));
        self.disk
            .replace(&path, format!("{alias} {}\n", key.openssh).as_bytes())?;
        Ok(PinnedHost { alias, path, key })
    }

    /// The directory of a lease; may not exist.
    pub fn lease_directory(&self, lease: &LeaseId) -> PathBuf {
        self.directory.join(lease.as_str())
    }

    fn lock(&self, directory: &Path) -> Result<lock::LockGuard> {
        lock::lock_in_place(directory, &Wait::at_most(LONGEST_WAIT))?
            .ok_or_else(|| Error::other(format!("key directory vanished: `{}`", directory.display())))
    }

    fn load(&self, directory: &Path) -> Result<Option<LeaseKey>> {
        let (private_path, public_path) = (directory.join(PRIVATE), directory.join(PUBLIC));
        let (Some(private), Some(public)) = (read_private(&private_path)?, read_text(&public_path)?) else {
            return Ok(None);
        };
        let public = public.trim().to_owned();
        let fits = accepted(&public)
            && PublicKey::from_openssh(&public).is_ok_and(|key| key.key_data() == private.public_key().key_data());
        let known_hosts_path = directory.join(KNOWN_HOSTS);
        Ok(fits.then_some(LeaseKey {
            private_path,
            public_path,
            public,
            known_hosts_path,
        }))
    }
}

/// Makes an ed25519 key from the operating system's randomness.
fn generate(comment: &str) -> Result<PrivateKey> {
    let signing = SigningKey::from_bytes(&random::bytes::<32>()?);
    let pair = Ed25519Keypair {
        public: Ed25519PublicKey(signing.verifying_key().to_bytes()),
        private: Ed25519PrivateKey::from_bytes(signing.as_bytes()),
    };
    PrivateKey::new(KeypairData::Ed25519(pair), comment)
        .map_err(|cause| Error::other("generate ssh key").with_source(cause))
}

/// Reads a private key; `None` when there is none or it is of no use, as one that a killed `ssh-keygen` left.
fn read_private(path: &Path) -> Result<Option<PrivateKey>> {
    let key = read_text(path)?.and_then(|text| PrivateKey::from_openssh(&text).ok());
    Ok(key.filter(|key| !key.is_encrypted()))
}

fn read_text(path: &Path) -> Result<Option<String>> {
    let content = read::bounded(path, KEY_LIMIT).map_err(|failure| failure.into_error("read key", path))?;
    Ok(content.and_then(|content| String::from_utf8(content).ok()))
}

fn accepted(public: &str) -> bool {
    public
        .split(' ')
        .next()
        .is_some_and(|key_type| ACCEPTED_KEY_TYPES.contains(&key_type))
}

fn encode_error(path: &Path, cause: ssh_key::Error) -> Error {
    Error::other(format!("encode ssh key: `{}`", path.display())).with_source(cause)
}
