//! Host keys, one file per lease, so that an address used again by another lease never collides.

use crabbox_core::id::hex;
use crabbox_core::{Error, LeaseId, Result};
use sha2::{Digest as _, Sha256};
use ssh_key::PublicKey;

/// Key types that may sign for a host or a user.
pub const ACCEPTED_KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The name under which a lease's host key is known: `crabbox-lease-` and 32 hex digits.
pub fn alias(lease: &LeaseId) -> String {
    format!(
        "crabbox-lease-{}",
        &hex(&Sha256::digest(lease.as_str().as_bytes()))[..32]
    )
}

/// A host key that an authority vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostKey {
    /// `<type> <base64>`, without comment.
    pub openssh: String,
    /// Signature algorithms by which the host may prove it.
    pub algorithms: Vec<&'static str>,
}

/// Parses a public key in OpenSSH format, with or without a comment.
///
/// # Errors
/// `Identity` when it is more than one line, malformed, or of a type that is not accepted.
pub fn parse_host_key(text: &str) -> Result<HostKey> {
    let refuse = |why: String| {
        Error::identity(format!("host key refused: {why}"))
            .with_hint("the provider's host key must be one line: type and base64 of an ed25519, ecdsa or rsa key")
    };
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err(refuse("more than one line".to_owned()));
    }
    let key_type = text.split(' ').next().unwrap_or_default();
    let Some(known) = ACCEPTED_KEY_TYPES.iter().find(|accepted| **accepted == key_type) else {
        return Err(refuse(format!("key type `{}`", key_type.escape_debug())));
    };
    let mut key =
        PublicKey::from_openssh(text).map_err(|cause| refuse("malformed key".to_owned()).with_source(cause))?;
    key.set_comment("");
    let openssh = key
        .to_openssh()
        .map_err(|cause| refuse("malformed key".to_owned()).with_source(cause))?;
    let algorithms = if *known == "ssh-rsa" {
        vec!["rsa-sha2-512", "rsa-sha2-256"]
    } else {
        vec![*known]
    };
    Ok(HostKey {
        openssh: openssh.trim_end().to_owned(),
        algorithms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn the_alias_follows_the_published_vector() {
        let lease = "cbx_abcdef123456".parse().unwrap();
        assert_eq!(alias(&lease), "crabbox-lease-f1876f7884e69c6e03f8941d954021d1");
    }

    #[test]
    fn a_key_loses_its_comment_and_keeps_its_algorithm() {
        let key = parse_host_key(&format!(" {ED25519} root@box\n")).unwrap();
        assert_eq!(key.openssh, ED25519);
        assert_eq!(key.algorithms, ["ssh-ed25519"]);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-dss AAAAB3NzaC1kc3MAAACB",
            &format!("* {ED25519}"),
            &format!("{ED25519}\n* {ED25519}"),
            &ED25519.replace("ssh-ed25519", "ecdsa-sha2-nistp256"),
            "ssh-ed25519-cert-v01@openssh.com AAAA",
        ] {
            let error = parse_host_key(bad).unwrap_err();
            assert!(error.to_string().starts_with("host key refused: "), "{bad:?}: {error}");
        }
    }
}
