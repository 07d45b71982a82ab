//! The archive that a failed run leaves: what was run, how long it took, what it printed, and what it wrote.
//!
//! The command is redacted and variables are named without values. Logs and files of the box are **not** redacted; the
//! line about the bundle says so.

mod remote;

pub use remote::{MAX_REMOTE_BYTES, MAX_REMOTE_ENTRIES, remote_script};

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use crabbox_core::{ErrorKind, IntoError as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::Serialize;
use tar::{Builder, EntryType, Header};

use crate::env::{Allowlist, is_secret_name};
use crate::json;
use crate::private_file::PrivateFile;
use crate::redact::Redactor;
use crate::timing::TimingReport;

const ROOT: &str = "crabbox-artifacts";

/// Bytes of one stream in a bundle.
pub const MAX_STREAM_BYTES: u64 = 16 << 20;

const README: &str = "This archive stays on this machine until you share it.\n\
\n\
The command line was redacted, and variables are listed without their values. Logs and files of the box were not\n\
redacted: look for secrets in them before you send this archive to anybody.\n";

/// What the bundle says about the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunDescription {
    /// The Actions run behind a hydrated workspace.
    pub actions_run_url: String,
    /// `--capture-on-fail` was given.
    pub capture_on_fail_flag: bool,
    /// The command; redacted when the bundle is written.
    pub command: String,
    /// Exit code of the run.
    pub exit_code: i32,
    /// Lease.
    pub lease_id: String,
    /// Provider's name.
    pub provider: String,
    /// Run record.
    pub run_id: String,
    /// The lease's slug.
    pub slug: String,
    /// Directory on the box.
    pub workdir: String,
}

/// Settings that the bundle names. Empty ones stay empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the value of the key of the same name")]
pub struct ConfigDescription {
    pub provider: String,
    pub target: String,
    pub windows_mode: String,
    pub class: String,
    pub server_type: String,
    pub idle_timeout: String,
    pub ttl: String,
    pub work_root: String,
    pub sync_base_ref: String,
}

impl ConfigDescription {
    fn to_text(&self) -> String {
        let fields = [
            ("provider", &self.provider),
            ("target", &self.target),
            ("windows_mode", &self.windows_mode),
            ("class", &self.class),
            ("server_type", &self.server_type),
            ("idle_timeout", &self.idle_timeout),
            ("ttl", &self.ttl),
            ("work_root", &self.work_root),
            ("sync_base_ref", &self.sync_base_ref),
        ];
        fields
            .into_iter()
            .map(|(name, value)| format!("{name}={}\n", crate::text::hostile(value)))
            .collect()
    }
}

/// Everything that goes into a bundle.
pub struct Bundle<'a> {
    /// The run.
    pub run: RunDescription,
    /// Its timing.
    pub timing: &'a TimingReport,
    /// Text of [`env_report`].
    pub env: String,
    /// Its settings.
    pub config: ConfigDescription,
    /// Standard output: a spool or a capture.
    pub stdout: Option<Box<dyn Read + 'a>>,
    /// Standard error: a spool or a capture.
    pub stderr: Option<Box<dyn Read + 'a>>,
    /// What [`remote_script`] printed.
    pub remote: Option<Box<dyn Read + 'a>>,
}

/// A bundle that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenBundle {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// What is missing from it, one line each.
    pub warnings: Vec<String>,
}

impl WrittenBundle {
    /// The line that tells about it.
    pub fn line(&self) -> String {
        let path = self.path.display().to_string();
        format!(
            "failure-bundle local={} bytes={} secret_risk=caller-redacts-before-sharing",
            crate::text::field(&path),
            self.size_bytes
        )
    }
}

/// Where the bundle of a run goes: `.crabbox/captures/<id>-<YYYYMMDDTHHMMSSZ>.tar.gz`. Characters that do not belong into
/// a file name become `-`.
pub fn bundle_path(directory: &Path, id: &str, at: Timestamp) -> PathBuf {
    let id: String = id
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() || "-_.".contains(character) {
                character
            } else {
                '-'
            }
        })
        .collect();
    let id = if id.trim_matches(['.', '-']).is_empty() {
        "run"
    } else {
        id.as_str()
    };
    directory
        .join(".crabbox/captures")
        .join(format!("{id}-{}.tar.gz", at.strftime("%Y%m%dT%H%M%SZ")))
}

/// The names of variables that may travel, and of those that did: `N=missing`, `N=present` or
/// `N=present len=12 secret=true`; `env_allow=empty` when no name may.
pub fn env_report(allowlist: &Allowlist, forwarded: &BTreeMap<String, String>) -> String {
    let mut names: BTreeMap<&str, Option<&String>> = allowlist.exact_names().map(|name| (name, None)).collect();
    names.extend(forwarded.iter().map(|(name, value)| (name.as_str(), Some(value))));
    if names.is_empty() {
        return "env_allow=empty\n".to_owned();
    }
    let row = |(name, value): (&str, Option<&String>)| match value {
        None => format!("{name}=missing\n"),
        Some(value) if is_secret_name(name) => format!("{name}=present len={} secret=true\n", value.len()),
        Some(_) => format!("{name}=present\n"),
    };
    names.into_iter().map(row).collect()
}

impl Bundle<'_> {
    /// Writes the bundle for its owner alone. A stream or remote archive that breaks off costs only its own rest.
    ///
    /// # Errors
    ///
    /// `Usage` when the file itself cannot be written.
    pub fn write_to(mut self, path: &Path, redactor: &Redactor) -> Result<WrittenBundle> {
        let words = || format!("write failure bundle `{}`", path.display());
        self.run.command = redactor.redact(&self.run.command);
        let file = PrivateFile::create(path)?;
        let modified = Timestamp::now().as_second().unsigned_abs();
        let mut archive = Archive {
            tar: Builder::new(GzEncoder::new(BufWriter::new(file), Compression::default())),
            modified,
            warnings: Vec::new(),
        };
        let timings = redactor.redact(&json::pretty(self.timing)?);
        let texts = [
            ("crabbox-run.json", json::pretty(&self.run)?),
            ("timings.json", timings),
            ("env.redacted.txt", self.env),
            ("config.redacted.txt", redactor.redact(&self.config.to_text())),
            ("README.txt", README.to_owned()),
        ];
        for (name, text) in texts {
            archive.add(name, text.as_bytes()).or_error(ErrorKind::Usage, words)?;
        }
        for (name, stream) in [("stdout.log", self.stdout), ("stderr.log", self.stderr)] {
            archive.add_stream(name, stream).or_error(ErrorKind::Usage, words)?;
        }
        if let Some(remote) = self.remote {
            archive.add_remote(remote).or_error(ErrorKind::Usage, words)?;
        }
        let Archive { tar, warnings, .. } = archive;
        let file = tar
            .into_inner()
            .and_then(GzEncoder::finish)
            .and_then(|mut file| file.flush().map(|()| file))
            .or_error(ErrorKind::Usage, words)?
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .or_error(ErrorKind::Usage, words)?;
        let size_bytes = file.finish()?;
        Ok(WrittenBundle {
            path: path.to_path_buf(),
            size_bytes,
            warnings,
        })
    }
}

struct Archive {
    tar: Builder<GzEncoder<BufWriter<PrivateFile>>>,
    modified: u64,
    warnings: Vec<String>,
}

impl Archive {
    fn header(&self, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o600);
        header.set_mtime(self.modified);
        header.set_size(size);
        header
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let mut header = self.header(EntryType::Regular, bytes.len() as u64);
        self.tar.append_data(&mut header, format!("{ROOT}/{name}"), bytes)
    }

    /// A tar entry states its size first, so the stream is counted in a temp file.
    fn add_stream(&mut self, name: &str, stream: Option<Box<dyn Read + '_>>) -> std::io::Result<()> {
        let Some(stream) = stream else {
            return self.add(name, b"");
        };
        let mut spool = crate::stream::Spool::default();
        let mut buffer = vec![0; 64 << 10];
        let mut limited = stream.take(MAX_STREAM_BYTES + 1);
        loop {
            match limited.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => spool.push(&buffer[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.warnings
                        .push(format!("{name} of the failure bundle is incomplete: {error}"));
                    break;
                }
            }
        }
        let mut header = self.header(EntryType::Regular, spool.len());
        self.tar
            .append_data(&mut header, format!("{ROOT}/{name}"), spool.into_reader()?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::path::{Path, PathBuf};

    use jiff::Timestamp;

    use super::{Bundle, ConfigDescription, RunDescription, bundle_path, env_report};
    use crate::env::{Allowlist, Author};
    use crate::redact::Redactor;
    use crate::timing::TimingReport;

    pub(super) fn bundle(timing: &TimingReport) -> Bundle<'_> {
        Bundle {
            run: RunDescription {
                command: "curl -H 'Authorization: Bearer abc' hunter2".into(),
                exit_code: 3,
                provider: "local".into(),
                ..RunDescription::default()
            },
            timing,
            env: "env_allow=empty\n".into(),
            config: ConfigDescription {
                provider: "local".into(),
                ttl: "2h0m0s".into(),
                ..ConfigDescription::default()
            },
            stdout: Some(Box::new(&b"out\n"[..])),
            stderr: None,
            remote: None,
        }
    }

    /// Name, mode and content of every entry.
    pub(super) fn entries(path: &Path) -> Vec<(String, u32, String)> {
        let file = std::fs::File::open(path).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                if let Some(link) = entry.link_name().unwrap() {
                    text = format!("-> {}", link.display());
                }
                (
                    entry.path().unwrap().display().to_string(),
                    entry.header().mode().unwrap(),
                    text,
                )
            })
            .collect()
    }

    #[test]
    fn everything_is_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".crabbox/captures/x.tar.gz");
        let mut timing = TimingReport::new("local");
        timing.label = "hunter2".into();
        let written = bundle(&timing).write_to(&path, &Redactor::new(["hunter2"])).unwrap();
        assert_eq!(written.size_bytes, std::fs::metadata(&path).unwrap().len());
        assert!(written.warnings.is_empty());
        let listed = entries(&path);
        assert!(listed.iter().all(|(_, mode, _)| *mode == 0o600));
        let text: String = listed
            .iter()
            .map(|(name, _, text)| format!("== {name}\n{text}"))
            .collect();
        assert!(!text.contains("hunter2") && !text.contains("abc'"));
        insta::assert_snapshot!(text);
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("connection lost"))
        }
    }

    #[test]
    fn a_broken_stream_costs_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar.gz");
        let timing = TimingReport::new("local");
        let mut broken = bundle(&timing);
        broken.stdout = Some(Box::new((&b"half"[..]).chain(Broken)));
        broken.stderr = Some(Box::new(std::io::repeat(b'x')));
        broken.remote = Some(Box::new(Broken));
        let written = broken.write_to(&path, &Redactor::default()).unwrap();
        assert_eq!(
            written.warnings,
            [
                "stdout.log of the failure bundle is incomplete: connection lost",
                "files of the box are incomplete in the failure bundle: connection lost"
            ]
        );
        let listed = entries(&path);
        assert_eq!(listed[5].2, "half");
        assert!(listed[6].2.ends_with("\n[crabbox: truncated after 16777216 bytes]\n"));
    }

    #[test]
    fn paths_and_lines_are_stable() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let path = bundle_path(Path::new("dir"), "run_0123456789ab", at);
        assert_eq!(
            path,
            PathBuf::from("dir/.crabbox/captures/run_0123456789ab-20260102T030405Z.tar.gz")
        );
        assert_eq!(
            bundle_path(Path::new(""), "../x", at),
            PathBuf::from(".crabbox/captures/..-x-20260102T030405Z.tar.gz")
        );
        let written = super::WrittenBundle {
            path: "a.tar.gz".into(),
            size_bytes: 7,
            warnings: Vec::new(),
        };
        assert_eq!(
            written.line(),
            "failure-bundle local=a.tar.gz bytes=7 secret_risk=caller-redacts-before-sharing"
        );
    }

    #[test]
    fn variables_are_named_without_values() {
        let mut allowlist = Allowlist::new::<&str>([]);
        assert_eq!(env_report(&allowlist, &BTreeMap::new()), "env_allow=empty\n");
        allowlist.allow(["CI", "NODE_OPTIONS", "NPM_*"], Author::Operator);
        let forwarded = [("CI", "1"), ("NPM_TOKEN", "abcdef")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(
            env_report(&allowlist, &forwarded),
            "CI=present\nNODE_OPTIONS=missing\nNPM_TOKEN=present len=6 secret=true\n"
        );
    }
}
