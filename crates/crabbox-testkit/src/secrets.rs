//! What must be seen nowhere.

use std::path::Path;

use base64::Engine as _;

use crate::processes::{self, contains};
use crate::random_hex;

/// Random values that stand for secrets, and the search for them.
///
/// A value is found as it is and in base64, so that a copy in a header or an encoded script does not escape.
#[derive(Debug, Default)]
pub struct SecretScan {
    canaries: Vec<(String, String)>,
    findings: Vec<String>,
}

impl SecretScan {
    /// Without secrets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a secret. The value is random each time, so that nothing can know it beforehand.
    pub fn canary(&mut self, name: &str) -> String {
        let value = format!("canary{}", random_hex(16));
        self.canaries.push((name.to_owned(), value.clone()));
        value
    }

    /// Searches bytes, such as a command's output.
    pub fn bytes(&mut self, place: &str, content: &[u8]) {
        for (name, value) in &self.canaries {
            let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(value);
            // The last characters depend on what follows in the encoded text.
            let stable = &encoded[..encoded.len() - 2];
            if contains(content, value.as_bytes()) || contains(content, stable.as_bytes()) {
                self.findings.push(format!("{name} in {place}"));
            }
        }
    }

    /// Searches every file below a directory, and the names of the files.
    pub fn directory(&mut self, root: &Path) {
        let mut pending = vec![root.to_owned()];
        while let Some(directory) = pending.pop() {
            let Ok(children) = std::fs::read_dir(directory) else {
                continue;
            };
            for child in children.flatten() {
                let path = child.path();
                let place = path.display().to_string();
                self.bytes(&format!("the name of {place}"), place.as_bytes());
                match child.file_type() {
                    Ok(kind) if kind.is_dir() => pending.push(path),
                    Ok(kind) if kind.is_file() => self.bytes(&place, &std::fs::read(&path).unwrap_or_default()),
                    _ => {}
                }
            }
        }
    }

    /// Searches the arguments of every process of this machine, which every user can read.
    pub fn arguments(&mut self) {
        for process in processes::all() {
            let line = process.argv.join("\0");
            self.bytes(&format!("the arguments of process {}", process.pid), line.as_bytes());
        }
    }

    /// Checks that no secret was found.
    ///
    /// # Panics
    /// With the places, when one was. Values are not repeated.
    pub fn assert_none(&self) {
        assert!(!self.canaries.is_empty(), "nothing was searched for");
        assert!(
            self.findings.is_empty(),
            "secrets were seen:\n  {}",
            self.findings.join("\n  ")
        );
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a secret is spilled by hand")]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_wherever_they_are() {
        let mut scan = SecretScan::new();
        let secret = scan.canary("token");
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        std::fs::write(root.path().join("a/plain"), "nothing here").unwrap();
        scan.directory(root.path());
        scan.bytes("output", b"nothing here");
        scan.assert_none();
        std::fs::write(root.path().join("a/file"), format!("x={secret}")).unwrap();
        scan.directory(root.path());
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{secret}:more"));
        scan.bytes("header", format!("Basic {encoded}").as_bytes());
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", &secret])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        scan.arguments();
        drop(child.stdin.take());
        child.wait().unwrap();
        let file = root.path().join("a/file");
        assert_eq!(
            scan.findings,
            [
                format!("token in {}", file.display()),
                "token in header".to_owned(),
                format!("token in the arguments of process {}", child.id()),
            ]
        );
    }
}
