//! Who we are: key files, certificates and the agent.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle, Handler};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};

use crate::destination::Destination;
use crate::failure::{ConnectFailure, Phase};

/// Most bytes of a key file: a large RSA key is a tenth of this.
const KEY_LIMIT: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
enum KeyFailure {
    #[error("{0} does not exist")]
    Missing(PathBuf),
    #[error("{0} can be read by others; ssh keys need mode 0600")]
    Permissions(PathBuf),
    #[error("{0} is encrypted; add it to an agent")]
    Encrypted(PathBuf),
    #[error("{0} is not a private key that can be used")]
    Malformed(PathBuf),
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
}

/// What is offered, in order, and what could not be.
#[derive(Default)]
struct Offers {
    keys: Vec<(Arc<PrivateKey>, Vec<Certificate>)>,
    /// Public halves of the identities, by which agent keys are chosen.
    named: Vec<PublicKey>,
    certificates: Vec<Certificate>,
    problems: Vec<String>,
}

/// Proves who we are with the first credential that the box accepts.
///
/// # Errors
/// An authentication failure that names what was tried; a handshake failure when the connection was lost meanwhile.
pub(crate) async fn authenticate<H: Handler>(
    handle: &mut Handle<H>,
    destination: &Destination,
    port: u16,
) -> Result<(), ConnectFailure> {
    let mut attempt = Attempt {
        handle,
        user: &destination.user,
        place: destination.place(port),
        port,
        tried: Vec::new(),
        rsa: None,
    };
    let mut offers = load(destination);
    if attempt.agent(destination, &offers).await? || attempt.files(&offers).await? {
        return Ok(());
    }
    let mut words = attempt.tried.clone();
    words.append(&mut offers.problems);
    let detail = if words.is_empty() {
        "there is no key to offer".to_owned()
    } else {
        format!("tried {}", words.join(", "))
    };
    let failure = ConnectFailure::new(Phase::Authentication, &attempt.place, detail).with_port(port);
    Err(if offers.keys.is_empty() && attempt.tried.is_empty() {
        failure.with_hint("name a private key with `ssh.key`, or start an agent that holds one")
    } else {
        failure
    })
}

struct Attempt<'a, H: Handler> {
    handle: &'a mut Handle<H>,
    user: &'a str,
    place: String,
    port: u16,
    tried: Vec<String>,
    /// The box's choice of RSA signatures, asked for once.
    rsa: Option<Option<HashAlg>>,
}

impl<H: Handler> Attempt<'_, H> {
    fn lost(&self, cause: impl std::fmt::Display) -> ConnectFailure {
        // A server that counts attempts hangs up after too many, which is a refusal.
        let phase = if self.tried.is_empty() {
            Phase::Handshake
        } else {
            Phase::Authentication
        };
        let detail = if self.tried.is_empty() {
            format!("connection lost: {cause}")
        } else {
            format!("the box hung up ({cause}) after {}", self.tried.join(", "))
        };
        ConnectFailure::new(phase, &self.place, detail).with_port(self.port)
    }

    /// The hash to sign with for an RSA key; `None` means that the box takes SHA-1 only, which we refuse.
    async fn rsa_hash(&mut self) -> Result<Option<HashAlg>, ConnectFailure> {
        if let Some(known) = self.rsa {
            return Ok(known);
        }
        let hash = match self.handle.best_supported_rsa_hash().await {
            Ok(Some(hash)) => hash,
            // The box does not say: SHA-512 is what every server of the last ten years takes.
            Ok(None) => Some(HashAlg::Sha512),
            Err(cause) => return Err(self.lost(cause)),
        };
        self.rsa = Some(hash);
        Ok(hash)
    }

    async fn files(&mut self, offers: &Offers) -> Result<bool, ConnectFailure> {
        for (key, certificates) in &offers.keys {
            let hash = match key.algorithm() {
                Algorithm::Rsa { .. } => match self.rsa_hash().await? {
                    Some(hash) => Some(hash),
                    None => {
                        let words = format!("{} (the box takes SHA-1 signatures only)", describe(key.public_key()));
                        self.tried.push(words);
                        continue;
                    }
                },
                _ => None,
            };
            for certificate in certificates {
                self.tried.push(format!("certificate `{}`", certificate.key_id()));
                let mut signer = KeySigner { key: Arc::clone(key) };
                let answer = self
                    .handle
                    .authenticate_certificate_with(self.user, certificate.clone(), hash, &mut signer)
                    .await;
                if self.signer_accepted(answer)? {
                    return Ok(true);
                }
            }
            self.tried.push(describe(key.public_key()));
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
            let answer = self.handle.authenticate_publickey(self.user, key).await;
            if self.accepted(answer)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn accepted(&self, answer: Result<AuthResult, russh::Error>) -> Result<bool, ConnectFailure> {
        match answer {
            Ok(answer) if answer.success() => Ok(true),
            Ok(_) if self.handle.is_closed() => Err(self.lost("disconnected")),
            Ok(_) => Ok(false),
            Err(cause) => Err(self.lost(cause)),
        }
    }

    #[cfg(unix)]
    async fn agent(&mut self, destination: &Destination, offers: &Offers) -> Result<bool, ConnectFailure> {
        let Some(socket) = &destination.agent else {
            return Ok(false);
        };
        let Ok(mut agent) = AgentClient::connect_uds(socket).await else {
            self.tried.push(format!("agent at {} (no answer)", socket.display()));
            return Ok(false);
        };
        let Ok(identities) = agent.request_identities().await else {
            self.tried
                .push(format!("agent at {} (no identities)", socket.display()));
            return Ok(false);
        };
        for identity in order(identities, offers, destination.identities_only) {
            let key = match &identity {
                AgentIdentity::PublicKey { key, .. } => key.clone(),
                AgentIdentity::Certificate { certificate, .. } => {
                    PublicKey::new(certificate.public_key().clone(), certificate.key_id())
                }
            };
            let hash = match key.algorithm() {
                Algorithm::Rsa { .. } => match self.rsa_hash().await? {
                    Some(hash) => Some(hash),
                    None => continue,
                },
                _ => None,
            };
            let own = match &identity {
                AgentIdentity::Certificate { certificate, .. } => Some(certificate),
                AgentIdentity::PublicKey { .. } => offers
                    .certificates
                    .iter()
                    .find(|certificate| certificate.public_key() == key.key_data()),
            };
            if let Some(certificate) = own {
                self.tried
                    .push(format!("certificate `{}` of the agent", certificate.key_id()));
                let answer = self
                    .handle
                    .authenticate_certificate_with(self.user, certificate.clone(), hash, &mut agent)
                    .await;
                if self.signer_accepted(answer)? {
                    return Ok(true);
                }
            }
            if matches!(identity, AgentIdentity::PublicKey { .. }) {
                self.tried.push(format!("{} of the agent", describe(&key)));
                let answer = self
                    .handle
                    .authenticate_publickey_with(self.user, key, hash, &mut agent)
                    .await;
                if self.signer_accepted(answer)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    #[cfg(not(unix))]
    async fn agent(&mut self, destination: &Destination, _offers: &Offers) -> Result<bool, ConnectFailure> {
        if destination.agent.is_some() {
            self.tried.push("agent (only reached through a Unix socket)".to_owned());
        }
        Ok(false)
    }

    fn signer_accepted<E: std::fmt::Display>(&self, answer: Result<AuthResult, E>) -> Result<bool, ConnectFailure> {
        match answer {
            Ok(answer) if answer.success() => Ok(true),
            _ if self.handle.is_closed() => Err(self.lost("disconnected")),
            // It would not sign; the next key may do.
            Ok(_) | Err(_) => Ok(false),
        }
    }
}

/// Signs with a key of ours. The library's own way of using certificates signs with SHA-1 for RSA keys.
struct KeySigner {
    key: Arc<PrivateKey>,
}

#[derive(Debug, thiserror::Error)]
enum SignFailure {
    #[error("connection lost")]
    Lost,
    #[error(transparent)]
    Key(#[from] russh::keys::ssh_key::Error),
}

impl From<russh::SendError> for SignFailure {
    fn from(_: russh::SendError) -> Self {
        Self::Lost
    }
}

impl russh::Signer for KeySigner {
    type Error = SignFailure;

    async fn auth_sign(
        &mut self,
        _identity: &AgentIdentity,
        hash: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let signed = match self.key.key_data() {
            KeypairData::Rsa(pair) => (pair, hash).try_sign(&to_sign),
            pair => pair.try_sign(&to_sign),
        };
        let signature = signed.map_err(russh::keys::ssh_key::Error::from)?;
        let mut blob = Vec::new();
        signature.encode(&mut blob).map_err(russh::keys::ssh_key::Error::from)?;
        blob.encode(&mut to_sign).map_err(russh::keys::ssh_key::Error::from)?;
        Ok(to_sign)
    }
}

/// Agent keys in the order they are tried: those that the user named first, and only those when asked.
fn order(identities: Vec<AgentIdentity>, offers: &Offers, named_only: bool) -> Vec<AgentIdentity> {
    let named = |identity: &AgentIdentity| {
        let key = match identity {
            AgentIdentity::PublicKey { key, .. } => key.key_data(),
            AgentIdentity::Certificate { certificate, .. } => certificate.public_key(),
        };
        offers.named.iter().any(|known| known.key_data() == key)
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = identities.into_iter().partition(|identity| named(identity));
    if !named_only {
        first.extend(rest);
    }
    first
}

/// Reads every key and certificate that is named. What cannot be read becomes words for the message.
fn load(destination: &Destination) -> Offers {
    let mut offers = Offers::default();
    let mut seen = BTreeSet::new();
    for path in &destination.certificates {
        match certificate(path) {
            Some(certificate) => offers.certificates.push(certificate),
            None => offers.problems.push(format!("{} is not a certificate", path.display())),
        }
    }
    for path in &destination.identities {
        if !seen.insert(path.clone()) {
            continue;
        }
        offers.certificates.extend(certificate(&beside(path, "-cert.pub")));
        offers.named.extend(public_key(&beside(path, ".pub")));
        match private_key(path) {
            Ok(key) => {
                offers.named.push(key.public_key().clone());
                offers.keys.push((Arc::new(key), Vec::new()));
            }
            Err(problem) => offers.problems.push(problem.to_string()),
        }
    }
    for (key, certificates) in &mut offers.keys {
        let own = offers
            .certificates
            .iter()
            .filter(|certificate| certificate.public_key() == key.public_key().key_data());
        certificates.extend(own.cloned());
    }
    offers
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn certificate(path: &Path) -> Option<Certificate> {
    Certificate::from_openssh(text(path).ok()?.trim()).ok()
}

fn public_key(path: &Path) -> Option<PublicKey> {
    PublicKey::from_openssh(text(path).ok()?.trim()).ok()
}

fn text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(KEY_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

fn private_key(path: &Path) -> Result<PrivateKey, KeyFailure> {
    let failed = |cause: std::io::Error| match cause.kind() {
        std::io::ErrorKind::NotFound => KeyFailure::Missing(path.to_owned()),
        std::io::ErrorKind::InvalidData => KeyFailure::Malformed(path.to_owned()),
        _ => KeyFailure::Io(path.to_owned(), cause),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).map_err(failed)?;
        // The rule of OpenSSH: a key of ours that others can read is not used.
        if metadata.uid() == rustix::process::getuid().as_raw() && metadata.mode() & 0o077 != 0 {
            return Err(KeyFailure::Permissions(path.to_owned()));
        }
    }
    let text = text(path).map_err(failed)?;
    match russh::keys::decode_secret_key(&text, None) {
        Ok(key) if key.is_encrypted() => Err(KeyFailure::Encrypted(path.to_owned())),
        Ok(key) => Ok(key),
        Err(russh::keys::Error::KeyIsEncrypted) => Err(KeyFailure::Encrypted(path.to_owned())),
        Err(_) => Err(KeyFailure::Malformed(path.to_owned())),
    }
}

fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}
