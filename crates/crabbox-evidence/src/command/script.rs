//! Scripts of `--script` and `--script-stdin`.

use std::fmt::Write as _;
use std::path::Path;

use crabbox_core::{Error, Result};
use sha2::{Digest as _, Sha256};

use super::quote;

const DIRECTORY: &str = ".crabbox/scripts";
const MAX_NAME_BYTES: usize = 100;

/// Where a script came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptSource {
    /// A file, as the user named it.
    File(String),
    /// Standard input.
    Stdin,
}

/// A script that is uploaded before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    source: ScriptSource,
    bytes: Vec<u8>,
    remote_path: String,
}

impl Script {
    /// Takes the script's content.
    ///
    /// # Errors
    ///
    /// `Usage` when it is empty.
    pub fn new(source: ScriptSource, bytes: Vec<u8>) -> Result<Self> {
        let shown = match &source {
            ScriptSource::File(path) => path.as_str(),
            ScriptSource::Stdin => "standard input",
        };
        if bytes.is_empty() {
            return Err(
                Error::usage(format!("script is empty: {shown}")).with_hint("write at least one command into it")
            );
        }
        let digest = Sha256::digest(&bytes)
            .iter()
            .take(6)
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
        let name = match &source {
            ScriptSource::File(path) => file_name(path),
            ScriptSource::Stdin => "script.sh".to_owned(),
        };
        Ok(Self {
            source,
            bytes,
            remote_path: format!("{DIRECTORY}/{digest}-{name}"),
        })
    }

    /// Where it came from.
    pub fn source(&self) -> &ScriptSource {
        &self.source
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it goes, relative to the workdir: `.crabbox/scripts/<12 hex digits of its SHA-256>-<name>`.
    pub fn remote_path(&self) -> &str {
        &self.remote_path
    }

    /// Whether it names its own interpreter.
    pub fn has_shebang(&self) -> bool {
        self.bytes.starts_with(b"#!")
    }

    /// A POSIX script, run in the workdir, that stores its standard input as the script.
    pub fn upload_script(&self) -> String {
        let path = quote(&self.remote_path);
        format!(
            "umask 077 && mkdir -p {} && cat > {path} && chmod 700 {path}",
            quote(DIRECTORY)
        )
    }
}

fn file_name(path: &str) -> String {
    let name = Path::new(path)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let clean: String = name
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-') {
                character
            } else {
                '-'
            }
        })
        .take(MAX_NAME_BYTES)
        .collect();
    if clean.trim_matches(['.', '-']).is_empty() {
        "script.sh".to_owned()
    } else {
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::{Script, ScriptSource};

    #[test]
    fn the_remote_path_names_content_and_file() {
        let script = Script::new(ScriptSource::File("dir/my tést.sh".into()), b"echo\n".to_vec()).unwrap();
        // sha256("echo\n").
        assert_eq!(script.remote_path(), ".crabbox/scripts/86b0c5a1e2b7-my-t-st.sh");
        let script = Script::new(ScriptSource::Stdin, b"#!/bin/sh\n".to_vec()).unwrap();
        assert!(script.remote_path().ends_with("-script.sh") && script.has_shebang());
        let script = Script::new(ScriptSource::File("..".into()), b"x".to_vec()).unwrap();
        assert!(script.remote_path().ends_with("-script.sh"));
    }

    #[test]
    fn an_empty_script_is_refused() {
        let error = Script::new(ScriptSource::Stdin, Vec::new()).unwrap_err();
        assert_eq!(
            (error.kind().exit_code(), error.message()),
            (2, "script is empty: standard input")
        );
    }
}
