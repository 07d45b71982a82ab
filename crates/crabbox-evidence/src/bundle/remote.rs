//! Files of the box in a failure bundle.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use tar::EntryType;

use super::{Archive, ROOT};

/// Bytes of the box's files in a bundle.
pub const MAX_REMOTE_BYTES: u64 = 256 << 20;

/// Entries of the box in a bundle.
pub const MAX_REMOTE_ENTRIES: usize = 20_000;

const DIRECTORY: &str = "remote";

/// A POSIX script, run in the workdir, that prints a gzipped tar of what helps to understand a failure: test reports,
/// coverage, logs, uploaded scripts. It prints nothing when there is nothing, and leaves nothing behind.
pub fn remote_script() -> &'static str {
    r#"set -f
gateway=''
for file in /tmp/crabbox-gateway.log /tmp/gateway.log gateway.log logs/gateway.log .crabbox/gateway.log; do
  if [ -f "$file" ]; then gateway=$file; break; fi
done
tail=.crabbox/gateway-log-tail.txt
list=.crabbox/capture-manifest.$$
trap 'rm -f "$list" ${gateway:+"$tail"}' EXIT
mkdir -p .crabbox || exit 1
if [ -n "$gateway" ]; then tail -n 400 "$gateway" > "$tail" 2>/dev/null; fi
{
  for path in test-results playwright-report coverage junit.xml results.xml .crabbox/scripts \
    .crabbox/capture-manifest.txt .crabbox/gateway-log-tail.txt; do
    if [ -e "$path" ]; then printf '%s\n' "$path"; fi
  done
  set +f
  for path in ./*.log ./*/*.log ./*/*/*.log ./junit*.xml ./*/junit*.xml ./*/*/junit*.xml \
    ./TEST-*.xml ./*/TEST-*.xml ./*/*/TEST-*.xml; do
    case $path in ./test-results/*|./playwright-report/*|./coverage/*|./node_modules/*|./junit.xml) continue;; esac
    if [ -f "$path" ]; then printf '%s\n' "$path"; fi
  done
} > "$list"
if [ -s "$list" ]; then tar -cf - -T "$list" 2>/dev/null | gzip -c; fi
"#
}

impl Archive {
    /// Copies the archive of the box below `remote/`. Names that would leave it and anything that is neither file,
    /// directory nor link are dropped.
    pub(super) fn add_remote(&mut self, stream: Box<dyn Read + '_>) -> io::Result<()> {
        let mut archive = tar::Archive::new(GzDecoder::new(stream).take(MAX_REMOTE_BYTES));
        let mut entries = match archive.entries() {
            Ok(entries) => entries,
            Err(error) => return self.note_incomplete(&error.to_string()),
        };
        let mut symlinks = BTreeSet::new();
        // A sparse file can claim any size, so what is written counts, not only what is read.
        let mut left = MAX_REMOTE_BYTES;
        for count in 0.. {
            let mut entry = match entries.next() {
                None => break,
                Some(Ok(entry)) => entry,
                Some(Err(error)) => return self.note_incomplete(&error.to_string()),
            };
            if count == MAX_REMOTE_ENTRIES {
                return self.note_incomplete("too many files");
            }
            let kind = entry.header().entry_type();
            let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
            let Some(name) = name else { continue };
            // Through a symlink, a name means another place than it says.
            if name.ancestors().skip(1).any(|parent| symlinks.contains(parent)) {
                continue;
            }
            let target = Path::new(ROOT).join(DIRECTORY).join(&name);
            let link = entry
                .link_name_bytes()
                .map(|link| String::from_utf8_lossy(&link).into_owned());
            match kind {
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                    let Some(rest) = left.checked_sub(entry.size()) else {
                        return self.note_incomplete("too many bytes");
                    };
                    left = rest;
                    let mut header = self.header(EntryType::Regular, entry.size());
                    // An entry that breaks off is padded: the archive must stay readable.
                    let mut content = Padded {
                        inner: &mut entry,
                        left: header.size()?,
                        broken: None,
                    };
                    self.tar.append_data(&mut header, &target, &mut content)?;
                    if let Some(reason) = content.broken {
                        return self.note_incomplete(&reason);
                    }
                }
                EntryType::Symlink => {
                    if let Some(link) = link.filter(|link| stays_inside(&name, link)) {
                        let mut header = self.header(EntryType::Symlink, 0);
                        self.tar.append_link(&mut header, &target, link)?;
                        symlinks.insert(name);
                    }
                }
                EntryType::Link => {
                    if let Some(link) = link.as_deref().and_then(clean) {
                        let mut header = self.header(EntryType::Link, 0);
                        self.tar
                            .append_link(&mut header, &target, Path::new(ROOT).join(DIRECTORY).join(link))?;
                    }
                }
                // Directories come with their files; devices and pipes do not come at all.
                _ => {}
            }
        }
        Ok(())
    }

    fn note_incomplete(&mut self, reason: &str) -> io::Result<()> {
        self.warnings.push(format!(
            "files of the box are incomplete in the failure bundle: {reason}"
        ));
        Ok(())
    }
}

/// A relative path without `.`, or nothing when it is absolute, has a drive, or leaves its root.
fn clean(name: &str) -> Option<PathBuf> {
    let name = name.replace('\\', "/");
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    if name.starts_with('/') || name.contains('\0') || drive {
        return None;
    }
    let mut path = PathBuf::new();
    for component in Path::new(&name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Whether a symlink leads to a path below the same root.
fn stays_inside(name: &Path, link: &str) -> bool {
    let link = link.replace('\\', "/");
    let parent = name.parent().unwrap_or(Path::new(""));
    // `..` after a name that is itself a link would mean another place than it says.
    let mut parts = link
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .skip_while(|part| *part == "..");
    if parts.any(|part| part == "..") {
        return false;
    }
    !link.starts_with('/') && clean(format!("{}/{link}", parent.display()).trim_start_matches('/')).is_some()
}

/// Reads exactly as many bytes as the header promised.
struct Padded<R> {
    inner: R,
    left: u64,
    broken: Option<String>,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..limit];
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.broken.is_none() {
            match self.inner.read(buffer) {
                Ok(count) if count > 0 => {
                    self.left -= count as u64;
                    return Ok(count);
                }
                Ok(_) => self.broken = Some("a file ended too early".to_owned()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => self.broken = Some(error.to_string()),
            }
        }
        buffer.fill(0);
        self.left -= buffer.len() as u64;
        Ok(buffer.len())
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::{ProptestConfig, any, prop, proptest};
    use tar::{Builder, EntryType, Header};

    use super::{clean, remote_script, stays_inside};
    use crate::bundle::tests::{bundle, entries};
    use crate::private_file::write_private;
    use crate::redact::Redactor;
    use crate::timing::TimingReport;

    fn hostile_archive() -> Vec<u8> {
        let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut add = |name: &str, kind: EntryType, link: Option<&str>, content: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o4777);
            header.set_size(content.len() as u64);
            // `set_path` would refuse what an attacker writes.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            if let Some(link) = link {
                header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            }
            header.set_cksum();
            tar.append(&header, content).unwrap();
        };
        add("./logs/a.log", EntryType::Regular, None, b"a");
        add("win\\b.log", EntryType::Regular, None, b"b");
        for name in ["/etc/passwd", "../up", "a/../../up", "C:/x", "c:\\y"] {
            add(name, EntryType::Regular, None, b"bad");
        }
        add("logs/in", EntryType::Symlink, Some("../win/b.log"), b"");
        add("logs/out", EntryType::Symlink, Some("../../etc"), b"");
        add("logs/in/file", EntryType::Regular, None, b"through a symlink");
        add("logs/later", EntryType::Symlink, Some("in/../../../x"), b"");
        add("logs/abs", EntryType::Symlink, Some("/etc"), b"");
        add("logs/hard", EntryType::Link, Some("./logs/a.log"), b"");
        add("logs/hard-out", EntryType::Link, Some("/etc/passwd"), b"");
        add("fifo", EntryType::Fifo, None, b"");
        add("device", EntryType::Char, None, b"");
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn remote_entries(content: &[u8]) -> (Vec<(String, u32, String)>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar.gz");
        let timing = TimingReport::new("local");
        let mut with_remote = bundle(&timing);
        with_remote.remote = Some(Box::new(content));
        let written = with_remote.write_to(&path, &Redactor::default()).unwrap();
        let listed = entries(&path)
            .into_iter()
            .filter(|(name, ..)| name.contains("/remote/"))
            .collect();
        (listed, written.warnings)
    }

    #[test]
    fn hostile_archives_are_tamed() {
        let (listed, warnings) = remote_entries(&hostile_archive());
        let listed: Vec<String> = listed
            .into_iter()
            .map(|(name, mode, text)| format!("{name} {mode:o} {text}"))
            .collect();
        assert!(warnings.is_empty());
        insta::assert_snapshot!(listed.join("\n"), @r#"
        crabbox-artifacts/remote/logs/a.log 600 a
        crabbox-artifacts/remote/win/b.log 600 b
        crabbox-artifacts/remote/logs/in 600 -> ../win/b.log
        crabbox-artifacts/remote/logs/hard 600 -> crabbox-artifacts/remote/logs/a.log
        "#);
    }

    #[test]
    fn an_archive_that_breaks_off_keeps_what_came() {
        let mut content = hostile_archive();
        content.truncate(content.len() / 2);
        let (_, warnings) = remote_entries(&content);
        assert_eq!(warnings.len(), 1);
        let (listed, warnings) = remote_entries(b"not gzip at all");
        assert_eq!((listed.len(), warnings.len()), (0, 1));
    }

    #[test]
    fn a_file_that_claims_too_much_is_refused() {
        let mut header = Header::new_gnu();
        header.set_path("huge.log").unwrap();
        header.set_size(super::MAX_REMOTE_BYTES + 1);
        header.set_cksum();
        let mut tar = GzEncoder::new(Vec::new(), Compression::fast());
        tar.write_all(header.as_bytes()).unwrap();
        let (listed, warnings) = remote_entries(&tar.finish().unwrap());
        assert!(listed.is_empty());
        assert_eq!(
            warnings,
            ["files of the box are incomplete in the failure bundle: too many bytes"]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
        #[test]
        fn damage_never_spoils_the_bundle(position in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut tar = Vec::new();
            std::io::copy(&mut flate2::read::GzDecoder::new(&hostile_archive()[..]), &mut tar).unwrap();
            let position = position.index(tar.len());
            tar[position] = byte;
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&tar).unwrap();
            let (listed, _) = remote_entries(&encoder.finish().unwrap());
            for (name, ..) in listed {
                proptest::prop_assert!(name.starts_with("crabbox-artifacts/remote/") && !name.contains("/../"));
            }
        }
    }

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean("./a/./b/../c").as_deref(), Some(Path::new("a/c")));
        for name in ["", ".", "..", "a/../..", "/a", "\\a", "Z:\\a"] {
            assert_eq!(clean(name), None, "{name}");
        }
        assert!(stays_inside(Path::new("a"), "b") && stays_inside(Path::new("a/b"), "../c"));
        assert!(!stays_inside(Path::new("a"), "../c") && !stays_inside(Path::new("a/b"), "/c"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests compare with the real shell")]
    fn the_script_collects_with_a_real_shell() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in [
            "a b.log",
            "x/y/deep.log",
            "x/y/z/too-deep.log",
            "test-results/r.png",
            "junit-1.xml",
            "src/main.rs",
            "gateway.log",
        ] {
            write_private(&root.join(path), path.as_bytes()).unwrap();
        }
        let output = std::process::Command::new("sh")
            .args(["-c", remote_script()])
            .current_dir(root)
            .output()
            .unwrap();
        let (listed, warnings) = remote_entries(&output.stdout);
        assert_eq!((warnings.len(), output.stderr.len()), (0, 0));
        let mut names: Vec<&str> = listed
            .iter()
            .map(|(name, ..)| name.trim_start_matches("crabbox-artifacts/remote/"))
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                ".crabbox/gateway-log-tail.txt",
                "a b.log",
                "gateway.log",
                "junit-1.xml",
                "test-results/r.png",
                "x/y/deep.log"
            ]
        );
        assert_eq!(std::fs::read_dir(root.join(".crabbox")).unwrap().count(), 0);

        let empty = tempfile::tempdir().unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", remote_script()])
            .current_dir(empty.path())
            .output()
            .unwrap();
        assert!(output.stdout.is_empty() && output.status.success());
    }
}
