//! Which reports are fetched from the box, and how.
//!
//! One POSIX script looks and prints; one function reads what it printed. Each file comes with its length under a nonce
//! that the box cannot guess beforehand, so no report can pass for another one.

use std::fmt::Write as _;

use super::{MAX_FILE_BYTES, ResultFile};
use crate::command::quote;

/// File names that discovery looks for.
pub const NAME_PATTERNS: [&str; 3] = ["junit*.xml", "TEST-*.xml", "results.xml"];

/// Directories that discovery does not enter.
pub const PRUNED_DIRECTORIES: [&str; 2] = ["node_modules", ".git"];

/// Empty file, relative to the workdir, that is touched before the command; older reports are not this run's.
pub const MARKER_FILE: &str = ".crabbox/results-start";

/// Discovered reports per run.
pub const AUTO_MAX_FILES: usize = 50;

/// Bytes of discovered reports per run.
pub const AUTO_MAX_TOTAL_BYTES: u64 = 64 << 20;

/// Which reports are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Paths relative to the workdir.
    pub explicit: Vec<String>,
    /// Also look for reports that the command wrote.
    pub auto: bool,
}

/// What came from the box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Reports.
    pub files: Vec<ResultFile>,
    /// Reports that could not be fetched, one line each.
    pub warnings: Vec<String>,
}

impl Discovery {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.explicit.is_empty() && !self.auto
    }

    /// A POSIX script, run in the workdir before the command, that touches the marker.
    pub fn marker_script() -> String {
        format!("mkdir -p .crabbox && rm -f {MARKER_FILE} && : > {MARKER_FILE}")
    }

    /// A POSIX script, run in the workdir after the command, that prints the reports for [`Discovery::read`].
    ///
    /// A named report must be a regular file inside the workdir once every symlink is followed, judged by what was opened
    /// and not by its name. Of discovered reports, those with failures come first.
    pub fn collect_script(&self, nonce: &str) -> String {
        let mut script = FUNCTIONS
            .replace("@NONCE@", &quote(nonce))
            .replace("@LIMIT@", &MAX_FILE_BYTES.to_string());
        for path in &self.explicit {
            // A leading dash would be an option.
            let path = if path.starts_with('/') {
                path.clone()
            } else {
                format!("./{path}")
            };
            // Writing to a string cannot fail.
            let _ = writeln!(script, "named {}", quote(&path));
        }
        if self.auto {
            let either = |names: &[&str]| {
                names
                    .iter()
                    .map(|name| format!("-name {}", quote(name)))
                    .collect::<Vec<_>>()
                    .join(" -o ")
            };
            script.push_str(
                &AUTO
                    .replace("@PRUNED@", &either(&PRUNED_DIRECTORIES))
                    .replace("@NAMES@", &either(&NAME_PATTERNS))
                    .replace("@MARKER@", MARKER_FILE)
                    .replace("@FILES@", &AUTO_MAX_FILES.to_string())
                    .replace("@TOTAL@", &AUTO_MAX_TOTAL_BYTES.to_string()),
            );
        }
        script
    }

    /// Bytes that the script can print at most, for the caller's limit.
    pub fn max_output_bytes(&self) -> u64 {
        let named = (self.explicit.len() as u64).saturating_mul(MAX_FILE_BYTES as u64);
        named.saturating_add(AUTO_MAX_TOTAL_BYTES).saturating_add(1 << 20)
    }

    /// Reads what the script printed. Output that was cut off ends in a warning.
    pub fn read(nonce: &str, output: &[u8]) -> Collected {
        let mut collected = Collected::default();
        let mut rest = output;
        while !rest.is_empty() {
            let line_end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = String::from_utf8_lossy(&rest[..line_end]).into_owned();
            rest = rest.get(line_end + 1..).unwrap_or_default();
            let Some(line) = line.strip_prefix(nonce).and_then(|line| line.strip_prefix(' ')) else {
                // Whatever a login profile printed.
                continue;
            };
            match line.split_once(' ') {
                Some(("warning", reason)) => collected.warnings.push(warning(reason)),
                Some((kind @ ("named" | "auto"), header)) => {
                    let Some((size, name)) = header.split_once(' ') else {
                        break;
                    };
                    let Ok(size) = size.parse::<usize>() else { break };
                    let Some(bytes) = rest.get(..size) else {
                        collected
                            .warnings
                            .push(warning(&format!("{name}: the box did not send all of it")));
                        break;
                    };
                    rest = &rest[size..];
                    let name = name.strip_prefix("./").unwrap_or(name).to_owned();
                    collected.files.push(ResultFile {
                        name,
                        bytes: bytes.to_vec(),
                        explicit: kind == "named",
                    });
                }
                _ => break,
            }
        }
        collected
    }
}

fn warning(reason: &str) -> String {
    format!(
        "skip junit {}",
        crate::text::hostile(reason.strip_prefix("./").unwrap_or(reason))
    )
}

/// `emit KIND NAME` prints descriptor 3; `named NAME` checks and opens a file that the user named.
const FUNCTIONS: &str = r#"LC_ALL=C; export LC_ALL
nonce=@NONCE@ limit=@LIMIT@ total=0
root=$(pwd -P) || exit 1
nl='
'
say() { printf '%s warning %s\n' "$nonce" "$1"; }
emit() {
  size=$(wc -c < "$2" 2>/dev/null | tr -d ' ')
  case $size in ''|*[!0-9]*) say "$2: cannot be read"; return 1;; esac
  if [ "$size" -gt "$limit" ]; then say "$2: larger than $((limit / 1048576)) MiB"; return 1; fi
  printf '%s %s %s %s\n' "$nonce" "$1" "$size" "$2"
  head -c "$size" <&3
  total=$((total + size))
}
opened() {
  if [ -e /proc/self/fd/3 ]; then readlink /proc/self/fd/3
  elif command -v lsof >/dev/null 2>&1; then lsof -a -p $$ -d 3 -Fn 2>/dev/null | sed -n 's/^n//p'
  fi
}
named() {
  case $1 in *"$nl"*) say "a name contains a line break"; return;; esac
  if [ ! -e "$1" ]; then say "$1: not found"; return; fi
  if [ ! -f "$1" ]; then say "$1: not a regular file"; return; fi
  { exec 3< "$1"; } 2>/dev/null || { say "$1: cannot be read"; return; }
  case $(opened) in
    "$root"/*) emit named "$1";;
    '') say "$1: cannot tell where it is (neither /proc nor lsof)";;
    *) say "$1: outside of the workspace";;
  esac
  exec 3<&-
}
"#;

const AUTO: &str = r#"list=$(mktemp 2>/dev/null) || list=$(pwd -P)/.crabbox/results-list.$$
trap 'rm -f "$list"' EXIT
find . -type d \( @PRUNED@ \) -prune -o -type f \( @NAMES@ \) -print 2>/dev/null | while IFS= read -r file; do
  if [ -e @MARKER@ ] && [ @MARKER@ -nt "$file" ]; then continue; fi
  head -c 4096 "$file" 2>/dev/null | grep -q -e '<testsuite' || continue
  if head -c 1048576 "$file" 2>/dev/null | grep -q -e '<failure' -e '<error'; then rank=0; else rank=1; fi
  printf '%s %s\n' "$rank" "$file"
done | sort > "$list"
count=0
while IFS= read -r file; do
  file=${file#? }
  if [ "$count" -ge @FILES@ ]; then say "$file: more than @FILES@ reports"; break; fi
  size=$(wc -c < "$file" 2>/dev/null | tr -d ' ')
  if [ $((total + ${size:-0})) -gt @TOTAL@ ]; then say "$file: more than $((@TOTAL@ / 1048576)) MiB of reports"; continue; fi
  { exec 3< "$file"; } 2>/dev/null || { say "$file: cannot be read"; continue; }
  emit auto "$file" && count=$((count + 1))
  exec 3<&-
done < "$list"
"#;

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{Collected, Discovery};
    use crate::private_file::write_private;

    #[expect(clippy::disallowed_methods, reason = "tests compare with the real shell")]
    fn run(directory: &Path, script: &str) -> Vec<u8> {
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn names(collected: &Collected) -> Vec<&str> {
        collected.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn fresh_reports_are_found_failures_first() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write_private(&root.join("junit-old.xml"), b"<testsuite/>").unwrap();
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::options()
            .write(true)
            .open(root.join("junit-old.xml"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        run(root, &Discovery::marker_script());
        for (path, content) in [
            ("a/junit.xml", "<testsuite/>\nnonce auto 3 fake\n"),
            ("b dir/TEST-it's.xml", "<testsuites><failure/>"),
            ("results.xml", "<other/>"),
            ("node_modules/x/junit.xml", "<testsuite/>"),
            ("other.xml", "<testsuite/>"),
        ] {
            write_private(&root.join(path), content.as_bytes()).unwrap();
        }
        let discovery = Discovery {
            explicit: Vec::new(),
            auto: true,
        };
        let output = run(root, &discovery.collect_script("nonce"));
        let collected = Discovery::read("nonce", &output);
        assert_eq!(names(&collected), ["b dir/TEST-it's.xml", "a/junit.xml"]);
        assert_eq!(collected.files[1].bytes, b"<testsuite/>\nnonce auto 3 fake\n");
        assert!(collected.warnings.is_empty() && !collected.files[0].explicit);
        assert!(output.len() as u64 <= discovery.max_output_bytes());
    }

    #[test]
    fn named_reports_cannot_leave_the_workspace() {
        let outside = tempfile::tempdir().unwrap();
        write_private(&outside.path().join("secret"), b"secret").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write_private(&root.join("-r.xml"), b"<testsuite/>").unwrap();
        symlink("-r.xml", root.join("inside.xml")).unwrap();
        symlink(outside.path().join("secret"), root.join("escape.xml")).unwrap();
        symlink(outside.path(), root.join("dir")).unwrap();
        let explicit = ["-r.xml", "inside.xml", "escape.xml", "dir/secret", "absent.xml", "."]
            .map(str::to_owned)
            .to_vec();
        let output = run(root, &Discovery { explicit, auto: false }.collect_script("n"));
        let collected = Discovery::read("n", &output);
        assert_eq!(names(&collected), ["-r.xml", "inside.xml"]);
        assert!(
            collected
                .files
                .iter()
                .all(|file| file.explicit && file.bytes == b"<testsuite/>")
        );
        assert_eq!(
            collected.warnings,
            [
                "skip junit escape.xml: outside of the workspace",
                "skip junit dir/secret: outside of the workspace",
                "skip junit absent.xml: not found",
                "skip junit .: not a regular file",
            ]
        );
    }

    #[test]
    fn too_many_reports_are_cut_off_with_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..60 {
            write_private(
                &directory.path().join(format!("junit-{number:02}.xml")),
                b"<testsuite/>",
            )
            .unwrap();
        }
        let output = run(
            directory.path(),
            &Discovery {
                explicit: Vec::new(),
                auto: true,
            }
            .collect_script("n"),
        );
        let collected = Discovery::read("n", &output);
        assert_eq!(collected.files.len(), 50);
        assert_eq!(collected.warnings, ["skip junit junit-50.xml: more than 50 reports"]);
    }

    #[test]
    fn broken_output_is_survived() {
        assert_eq!(Discovery::read("n", b""), Collected::default());
        assert_eq!(Discovery::read("n", b"motd\nn auto x y\n"), Collected::default());
        let collected = Discovery::read("n", b"motd\nn auto 10 a.xml\nshort");
        assert_eq!(collected.warnings, ["skip junit a.xml: the box did not send all of it"]);
    }
}
