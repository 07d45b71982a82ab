//! Whether the host that answers is the right one.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::Preferred;
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate};

use crate::destination::{Destination, HostKeyPolicy};
use crate::failure::{ConnectFailure, Phase};
use crate::known_hosts::{self, Entry, Marker};

/// Judges the key of one host on one port.
#[derive(Debug)]
pub(crate) struct HostKeyCheck {
    policy: HostKeyPolicy,
    pinned: Option<PublicKey>,
    /// Lines about the host, the preferred name first.
    known: Vec<Entry>,
    /// Lines about the bare host where the port is not 22: they may vouch, but not contradict.
    bare: Vec<Entry>,
    /// Where a new key is written, under which name.
    learn: Option<PathBuf>,
    name: String,
    host: String,
    place: String,
}

impl HostKeyCheck {
    /// Reads what is known about a host.
    ///
    /// # Errors
    /// A host-key failure when a pin or a file makes no sense.
    pub(crate) fn prepare(destination: &Destination, port: u16) -> Result<Self, ConnectFailure> {
        let place = destination.place(port);
        let refuse = |detail: String| ConnectFailure::new(Phase::HostKey, &place, detail).with_port(port);
        let names = destination.names(port);
        let name = names.first().cloned().unwrap_or_default();
        let entries = match destination.host_keys {
            HostKeyPolicy::Unchecked | HostKeyPolicy::Pinned(_) => Vec::new(),
            _ => known_hosts::read(&destination.known_hosts)
                .map_err(|cause| refuse(format!("cannot read the known hosts file: {cause}")))?,
        };
        let pinned = match &destination.host_keys {
            HostKeyPolicy::Pinned(key) => Some(
                PublicKey::from_openssh(key.trim())
                    .map_err(|_| refuse("the pinned host key is malformed".to_owned()))?,
            ),
            HostKeyPolicy::PinnedFile => {
                let [entry] = entries.as_slice() else {
                    return Err(refuse(format!(
                        "the pinned known hosts file must have exactly one key, it has {}",
                        entries.len()
                    )));
                };
                if entry.marker != Marker::Host || !names.iter().any(|name| entry.is_about(name)) {
                    return Err(refuse("the pinned key is of another host".to_owned()));
                }
                Some(entry.key.clone())
            }
            _ => None,
        };
        let about = |name: Option<&String>| -> Vec<Entry> {
            let Some(name) = name else { return Vec::new() };
            entries.iter().filter(|entry| entry.is_about(name)).cloned().collect()
        };
        Ok(Self {
            policy: destination.host_keys.clone(),
            pinned,
            known: about(names.first()),
            bare: about(names.get(1)),
            learn: destination.known_hosts.first().cloned(),
            name,
            host: destination
                .host_key_alias
                .clone()
                .unwrap_or_else(|| destination.host.clone())
                .to_lowercase(),
            place,
        })
    }

    /// Algorithms by which the host may prove itself: those of the keys that are known come first, so that a host with
    /// several keys shows the one we can judge; a pin allows no other.
    pub(crate) fn preferred(&self) -> Preferred {
        let all = [
            Algorithm::Ed25519,
            Algorithm::Ecdsa {
                curve: russh::keys::EcdsaCurve::NistP256,
            },
            Algorithm::Ecdsa {
                curve: russh::keys::EcdsaCurve::NistP384,
            },
            Algorithm::Ecdsa {
                curve: russh::keys::EcdsaCurve::NistP521,
            },
            Algorithm::Rsa {
                hash: Some(HashAlg::Sha512),
            },
            Algorithm::Rsa {
                hash: Some(HashAlg::Sha256),
            },
        ];
        let same = |left: &Algorithm, right: &Algorithm| match (left, right) {
            (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
            (left, right) => left == right,
        };
        let hosts = |entries: &[Entry]| -> Vec<Algorithm> {
            entries
                .iter()
                .filter(|entry| entry.marker == Marker::Host)
                .map(|entry| entry.key.algorithm())
                .collect()
        };
        let wanted = match (&self.pinned, hosts(&self.known)) {
            (Some(key), _) => vec![key.algorithm()],
            (None, known) if known.is_empty() => hosts(&self.bare),
            (None, known) => known,
        };
        let (mut first, rest): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|algorithm| wanted.iter().any(|wanted| same(wanted, algorithm)));
        if self.pinned.is_none() {
            first.extend(rest);
        }
        let authority = self
            .known
            .iter()
            .chain(&self.bare)
            .any(|entry| entry.marker == Marker::Authority);
        Preferred {
            host_key_certificates: if authority {
                Cow::Owned(first.clone())
            } else {
                Cow::Borrowed(&[])
            },
            key: Cow::Owned(first),
            // AES-GCM is the fastest on every processor with AES instructions, and every OpenSSH has it.
            cipher: Cow::Borrowed(&[
                russh::cipher::AES_256_GCM,
                russh::cipher::AES_128_GCM,
                russh::cipher::CHACHA20_POLY1305,
                russh::cipher::AES_256_CTR,
                russh::cipher::AES_192_CTR,
                russh::cipher::AES_128_CTR,
            ]),
            compression: Cow::Borrowed(&[russh::compression::NONE]),
            ..Preferred::DEFAULT
        }
    }

    /// Judges what the host showed; a new key may be written down.
    ///
    /// # Errors
    /// A host-key failure that says why.
    pub(crate) fn judge(&self, shown: &PublicKeyOrCertificate) -> Result<(), ConnectFailure> {
        let refuse = |detail: String| ConnectFailure::new(Phase::HostKey, &self.place, detail);
        let key = shown.public_key();
        if self.policy == HostKeyPolicy::Unchecked {
            return Ok(());
        }
        if let Some(pinned) = &self.pinned {
            if same_key(pinned, &key) {
                return Ok(());
            }
            return Err(refuse(format!(
                "it shows {} instead of the pinned {}",
                fingerprint(&key),
                fingerprint(pinned)
            ))
            .with_hint("the provider vouches for another key: somebody else may answer at this address"));
        }
        let lines = || self.known.iter().chain(&self.bare);
        let authority_key = shown
            .certificate()
            .map(|certificate| certificate.signature_key().clone());
        if let Some(entry) = lines().find(|entry| {
            entry.marker == Marker::Revoked
                && (same_key(&entry.key, &key) || authority_key.as_ref() == Some(entry.key.key_data()))
        }) {
            return Err(refuse(format!(
                "the key is revoked by {}:{}",
                entry.file.display(),
                entry.line
            )));
        }
        if let Some(certificate) = shown.certificate() {
            return self.judge_certificate(certificate);
        }
        if lines().any(|entry| entry.marker == Marker::Host && same_key(&entry.key, &key)) {
            return Ok(());
        }
        if let Some(entry) = self.known.iter().find(|entry| entry.marker == Marker::Host) {
            return Err(self.changed(entry, &key));
        }
        if self.policy != HostKeyPolicy::AcceptNew {
            return Err(refuse(format!("the host is not known and shows {}", fingerprint(&key)))
                .with_hint("add the host's key to the known hosts file after checking its fingerprint"));
        }
        let Some(path) = &self.learn else {
            return Err(refuse("there is no file to keep the new key in".to_owned()));
        };
        let written = known_hosts::learn(path, &self.name, &key)
            .map_err(|cause| refuse(format!("cannot write {}: {cause}", path.display())))?;
        if written
            .iter()
            .any(|entry| entry.marker == Marker::Host && same_key(&entry.key, &key))
        {
            return Ok(());
        }
        match written.first() {
            Some(entry) => Err(self.changed(entry, &key)),
            None => Err(refuse("the new key was not kept".to_owned())),
        }
    }

    fn changed(&self, entry: &Entry, key: &PublicKey) -> ConnectFailure {
        let file = entry.file.display();
        ConnectFailure::new(
            Phase::HostKey,
            &self.place,
            format!("the key changed: it shows {}, {file}:{} says {}", fingerprint(key), entry.line, fingerprint(&entry.key)),
        )
        .with_hint(format!(
            "if the box was rebuilt on purpose, remove line {} of {file}; if not, somebody else answers at this address",
            entry.line
        ))
    }

    fn judge_certificate(&self, certificate: &russh::keys::Certificate) -> Result<(), ConnectFailure> {
        let refuse = |detail: String| ConnectFailure::new(Phase::HostKey, &self.place, detail);
        let authorities: Vec<_> = self
            .known
            .iter()
            .chain(&self.bare)
            .filter(|entry| entry.marker == Marker::Authority)
            .map(|entry| entry.key.fingerprint(HashAlg::Sha256))
            .collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        certificate
            .validate_at(now, &authorities)
            .map_err(|cause| refuse(format!("the host's certificate is not valid: {cause}")))?;
        if !certificate.cert_type().is_host() {
            return Err(refuse("the certificate is not one of a host".to_owned()));
        }
        let principals = certificate.valid_principals();
        if !principals
            .iter()
            .any(|name| known_hosts::wildcard(&name.to_lowercase(), &self.host))
        {
            return Err(refuse(format!("the certificate is not for {}", self.host)));
        }
        Ok(())
    }
}

fn same_key(left: &PublicKey, right: &PublicKey) -> bool {
    left.key_data() == right.key_data()
}

fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn shown(key: &str) -> PublicKeyOrCertificate {
        PublicKey::from_openssh(key).unwrap().into()
    }

    fn check(policy: HostKeyPolicy, file: &std::path::Path) -> HostKeyCheck {
        let mut destination = Destination::new("box.test", "u");
        destination.host_keys = policy;
        destination.known_hosts = vec![file.to_owned()];
        HostKeyCheck::prepare(&destination, 2222).unwrap()
    }

    #[test]
    fn accept_new_learns_once_and_then_refuses_another_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        check(HostKeyPolicy::AcceptNew, &file).judge(&shown(KEY)).unwrap();
        check(HostKeyPolicy::AcceptNew, &file).judge(&shown(KEY)).unwrap();
        check(HostKeyPolicy::Strict, &file).judge(&shown(KEY)).unwrap();
        let failure = check(HostKeyPolicy::AcceptNew, &file).judge(&shown(OTHER)).unwrap_err();
        assert_eq!(failure.phase(), Phase::HostKey);
        assert!(failure.to_string().starts_with("the key changed: "), "{failure}");
        check(HostKeyPolicy::Unchecked, &file).judge(&shown(OTHER)).unwrap();
    }

    #[test]
    fn strict_refuses_the_unknown_and_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        assert!(check(HostKeyPolicy::Strict, &file).judge(&shown(KEY)).is_err());
        assert!(!file.exists());
    }

    #[test]
    fn a_pin_accepts_one_key() {
        let file = std::path::Path::new("/nonexistent");
        let pin = check(HostKeyPolicy::Pinned(format!("{KEY} comment")), file);
        pin.judge(&shown(KEY)).unwrap();
        assert!(pin.judge(&shown(OTHER)).is_err());
        assert_eq!(pin.preferred().key.as_ref(), [Algorithm::Ed25519]);
        let mut destination = Destination::new("b", "u");
        destination.host_keys = HostKeyPolicy::Pinned("nonsense".into());
        assert!(HostKeyCheck::prepare(&destination, 22).is_err());
    }

    #[test]
    fn a_pinned_file_has_exactly_one_line_about_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let mut destination = Destination::new("box.test", "u");
        destination.host_keys = HostKeyPolicy::PinnedFile;
        destination.known_hosts = vec![file.clone()];
        destination.host_key_alias = Some("crabbox-lease-1".into());
        let tries = [
            (String::new(), false),
            (format!("crabbox-lease-1 {KEY}\n"), true),
            (format!("crabbox-lease-2 {KEY}\n"), false),
            (format!("crabbox-lease-1 {KEY}\ncrabbox-lease-1 {OTHER}\n"), false),
            (format!("@revoked crabbox-lease-1 {KEY}\n"), false),
        ];
        for (text, valid) in tries {
            std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), text.as_bytes()).unwrap();
            assert_eq!(HostKeyCheck::prepare(&destination, 22).is_ok(), valid, "{text:?}");
        }
    }

    #[test]
    fn revoked_keys_and_bare_names() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let text = format!("@revoked * {KEY}\nbox.test {OTHER}\n");
        std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), text.as_bytes()).unwrap();
        let check = check(HostKeyPolicy::AcceptNew, &file);
        assert!(check.judge(&shown(KEY)).unwrap_err().to_string().contains("revoked"));
        // The bare name vouches for other ports, as OpenSSH has it.
        check.judge(&shown(OTHER)).unwrap();
    }

    #[test]
    fn known_types_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDPuHDkJlQvSvNTqGJJ2JIqVnZlPvPqGxqJyTsmvPbzuZjYpzkJdSEEbVCD9XIjvvRzWQZKU0sL2vjgCnIzYqDIYrhcRqVnBfNG4mvTkZQmQ6IpC+0mBZK0RYYQ+Fs4qEFuOxhXkY1EUXh0wNYtnjYdVFZT4CrYe8Ht3u2nwPWRrQ==";
        let text = format!("[box.test]:2222 {rsa}\n");
        std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), text.as_bytes()).unwrap();
        let preferred = check(HostKeyPolicy::AcceptNew, &file).preferred();
        assert_eq!(
            preferred.key[0],
            Algorithm::Rsa {
                hash: Some(HashAlg::Sha512)
            }
        );
        assert_eq!(preferred.key.len(), 6);
    }
}
