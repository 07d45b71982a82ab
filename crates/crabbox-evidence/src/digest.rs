//! The few lines that tell why a run failed and what to do next.

use std::path::Path;

use crate::classify::{BlockedStage, Classification};
use crate::junit::Summary;
use crate::text::{field, hostile, quote, strip_ansi, without_auth_page};

const MAX_FAILED_TESTS: usize = 5;
const MAX_TAIL_LINES: usize = 8;

/// Part of the run that failed, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Credentials of the provider.
    ProviderAuth,
    /// The way to the box.
    SshConnectivity,
    /// Installation and setup on the box.
    InstallSetup,
    /// A limit of a language model or its tools.
    ModelToolProviderLimit,
    /// A resource of the box.
    ResourceExhaustion,
    /// Bringing the checkout to the box.
    Sync,
    /// The command.
    UserCommand,
}

impl Area {
    /// The area of a stage.
    pub const fn of(stage: BlockedStage) -> Self {
        match stage {
            BlockedStage::ProviderAuth => Self::ProviderAuth,
            BlockedStage::Ssh => Self::SshConnectivity,
            BlockedStage::Install => Self::InstallSetup,
            BlockedStage::ModelCall => Self::ModelToolProviderLimit,
            BlockedStage::ResourceExhaustion => Self::ResourceExhaustion,
            BlockedStage::Sync => Self::Sync,
            BlockedStage::Cleanup
            | BlockedStage::ActionsCancelled
            | BlockedStage::TestboxStalledAfterReady
            | BlockedStage::Test
            | BlockedStage::Unknown => Self::UserCommand,
        }
    }

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProviderAuth => "provider_auth",
            Self::SshConnectivity => "ssh_connectivity",
            Self::InstallSetup => "install_setup",
            Self::ModelToolProviderLimit => "model_tool_provider_limit",
            Self::ResourceExhaustion => "resource_exhaustion",
            Self::Sync => "sync",
            Self::UserCommand => "user_command",
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::ProviderAuth => "sign in to the provider again, then repeat the run",
            Self::SshConnectivity => "check the network and the lease with the doctor command, then repeat the run",
            Self::InstallSetup => "look at the first error of the installation; dependencies or disk may be at fault",
            Self::ModelToolProviderLimit => "wait for the limit to pass, or shorten what is sent to the model",
            Self::ResourceExhaustion => "choose a larger class, or run fewer things at once",
            Self::Sync => "repeat with --fresh-sync; look at the paths of the sync message",
            Self::UserCommand => "the command itself failed; its output says why",
        }
    }
}

/// What a digest tells. Empty fields are left out, except where said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Digest<'a> {
    /// The stage of the run that failed, such as `command` or `sync`.
    pub phase: &'a str,
    /// Where it got stuck.
    pub classification: Classification,
    /// A hint of the caller, instead of the one that the area has.
    pub hint: Option<&'a str>,
    /// The run record; `unavailable` when there is none.
    pub run_id: Option<&'a str>,
    /// The phase that the command named last.
    pub failed_phase: &'a str,
    /// Every phase that the command named, in order.
    pub observed_phases: &'a [&'a str],
    /// Shell text of the command, if a shell evaluated one.
    pub shell_text: Option<&'a str>,
    /// Test results.
    pub results: Option<&'a Summary>,
    /// What to do next, as label and command: `("logs", "crabbox logs run_…")`.
    pub next: &'a [(&'a str, String)],
    /// Last lines of standard error, or of standard output when there are none.
    pub tail: &'a [String],
}

impl Digest<'_> {
    /// The lines, safe to show.
    pub fn lines(&self) -> Vec<String> {
        let Classification {
            blocked_stage,
            retry_likely,
            resource_exhaustion,
        } = self.classification;
        let area = Area::of(blocked_stage);
        let mut lines = vec!["failure digest".to_owned()];
        let mut add = |name: &str, value: &str| lines.push(format!("  {name}: {}", hostile(value)));
        add("phase", &field(self.phase));
        add("area", area.as_str());
        add("retryable", retry_likely.as_str());
        if let Some(resource) = resource_exhaustion {
            add("resource_exhaustion", resource.as_str());
        }
        add("hint", self.hint.unwrap_or(area.hint()));
        add("run_history", self.run_id.unwrap_or("unavailable"));
        if !self.failed_phase.is_empty() {
            add("failed_phase", self.failed_phase);
        }
        if !self.observed_phases.is_empty() {
            add("observed_phases", &self.observed_phases.join(","));
        }
        let chain = self.shell_text.map(shell_chain).unwrap_or_default();
        if let [_, skipped @ ..] = chain.as_slice()
            && !skipped.is_empty()
        {
            add("shell_chain", &chain.join(" && "));
            add("would_skip_if_left_failed", &skipped.join("; "));
            add("chain_semantics", "each command runs only if the one before it exits 0");
        }
        if let Some(results) = self.results {
            add("test_results", results.run_line().trim_start_matches("test results "));
            for failed in results.failed.iter().take(MAX_FAILED_TESTS) {
                add("failed_test", &failed.row());
            }
            let more =
                (results.failed.len().saturating_sub(MAX_FAILED_TESTS) as u64).saturating_add(results.failed_omitted);
            if more > 0 {
                add("failed_test", &format!("+{more} more"));
            }
        }
        for (label, command) in self.next {
            add("next", &format!("{label}: {command}"));
        }
        let tail = clean_tail(self.tail);
        let start = tail.len().saturating_sub(MAX_TAIL_LINES);
        for line in &tail[start..] {
            add("tail", line);
        }
        lines
    }
}

/// The commands of an `&&` chain, split outside of quotes, parentheses and comments. One element when it is no chain, or
/// when other operators make its meaning less simple.
fn shell_chain(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut quoted) = (0, 0_usize, None);
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((position, byte)) = bytes.next() {
        match (quoted, byte) {
            (Some(b'\''), b'\'') | (Some(b'"'), b'"') => quoted = None,
            (Some(b'\''), _) => {}
            (_, b'\\') => drop(bytes.next()),
            (Some(_), _) => {}
            (None, b'\'' | b'"' | b'`') => {
                if byte == b'`' {
                    return vec![text];
                }
                quoted = Some(byte);
            }
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.saturating_sub(1),
            (None, b'&') if depth == 0 && bytes.peek().is_some_and(|(_, next)| *next == b'&') => {
                bytes.next();
                parts.push(text[start..position].trim());
                start = position + 2;
            }
            (None, b'\n' | b';' | b'#') if depth == 0 => return vec![text],
            (None, b'|') if depth == 0 && bytes.peek().is_some_and(|(_, next)| *next == b'|') => return vec![text],
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    if parts.iter().any(|part| part.is_empty()) {
        vec![text]
    } else {
        parts
    }
}

fn clean_tail(lines: &[String]) -> Vec<String> {
    let text = lines.join("\n");
    match without_auth_page(&text) {
        std::borrow::Cow::Owned(note) => vec![note],
        std::borrow::Cow::Borrowed(_) => lines
            .iter()
            .map(|line| strip_ansi(line).trim_end().to_owned())
            .filter(|line| !line.is_empty())
            .collect(),
    }
}

/// What is known about the end of a stream.
#[derive(Clone, Copy, Debug)]
pub enum Tail<'a> {
    /// Its last lines.
    Lines(&'a [String]),
    /// It went to a file.
    Captured(&'a Path),
}

/// The full tail of a stream, lines as the command wrote them except for terminal sequences and hostile characters.
pub fn tail_lines(stream: &str, tail: Tail<'_>) -> Vec<String> {
    match tail {
        Tail::Captured(path) => vec![format!("{stream} tail: captured at {}", quote_path(path))],
        Tail::Lines([]) => vec![format!("{stream} tail: empty")],
        Tail::Lines(lines) => {
            let text = lines.join("\n");
            let shown: Vec<String> = match without_auth_page(&text) {
                std::borrow::Cow::Owned(note) => vec![note],
                std::borrow::Cow::Borrowed(_) => lines.iter().map(|line| show_line(&strip_ansi(line))).collect(),
            };
            let mut output = vec![format!("{stream} tail last {} lines:", shown.len())];
            output.extend(shown);
            output
        }
    }
}

/// A line with its tabs, but without other control characters.
fn show_line(line: &str) -> String {
    line.split('\t')
        .map(|part| hostile(part).into_owned())
        .collect::<Vec<_>>()
        .join("\t")
}

fn quote_path(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains(char::is_whitespace) {
        quote(&text)
    } else {
        hostile(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Digest, Tail, shell_chain, tail_lines};
    use crate::classify::{BlockedStage, Classification, Resource, Retry};
    use crate::junit::read_reports;
    use crate::junit::tests::file;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_full_digest() {
        let cases: String = (0..7)
            .map(|number| format!("<testcase name='t{number}'><failure message='no'/></testcase>"))
            .collect();
        let report = format!("<testsuite name='s'>{cases}</testsuite>");
        let results = read_reports(vec![file("r.xml", &report, true)]).summary.unwrap();
        let tail = lines(&[
            "1",
            "2",
            "",
            "\u{1b}[31m3\u{1b}[0m",
            "4",
            "5",
            "6",
            "7",
            "8",
            "evil\u{202e}",
        ]);
        let digest = Digest {
            phase: "command",
            classification: Classification {
                blocked_stage: BlockedStage::ResourceExhaustion,
                retry_likely: Retry::No,
                resource_exhaustion: Some(Resource::Memory),
            },
            hint: None,
            run_id: Some("run_0123456789ab"),
            failed_phase: "test",
            observed_phases: &["user-command", "test"],
            shell_text: Some("npm ci && npm test && echo 'a && b'"),
            results: Some(&results),
            next: &[
                ("logs", "crabbox logs run_0123456789ab".to_owned()),
                ("stop", "crabbox stop amber-crab".to_owned()),
            ],
            tail: &tail,
        };
        insta::assert_snapshot!(digest.lines().join("\n"));
    }

    #[test]
    fn a_bare_digest() {
        let digest = Digest {
            phase: "",
            classification: Classification {
                blocked_stage: BlockedStage::Unknown,
                retry_likely: Retry::Unknown,
                resource_exhaustion: None,
            },
            hint: None,
            run_id: None,
            failed_phase: "",
            observed_phases: &[],
            shell_text: Some("ls"),
            results: None,
            next: &[],
            tail: &lines(&["<html>", "cf-access", "</html>"]),
        };
        insta::assert_snapshot!(digest.lines().join("\n"), @r#"
        failure digest
          phase: -
          area: user_command
          retryable: unknown
          hint: the command itself failed; its output says why
          run_history: unavailable
          tail: [redacted] HTML page of an access gateway
        "#);
    }

    #[test]
    fn chains_are_split_where_a_shell_splits_them() {
        assert_eq!(
            shell_chain("a && b 'x && y' && (c && d) && \"e \\\" && f\""),
            ["a", "b 'x && y'", "(c && d)", "\"e \\\" && f\""]
        );
        for text in [
            "a",
            "a || b && c",
            "a; b && c",
            "a && b # && c",
            "a\nb && c",
            "`a && b` && c",
            "a &&",
            "a \\&& b",
        ] {
            assert_eq!(shell_chain(text), [text]);
        }
        assert_eq!(shell_chain("a | b && c & d"), ["a | b", "c & d"]);
    }

    #[test]
    fn tails_are_shown_safely() {
        let mut shown = tail_lines("stderr", Tail::Lines(&lines(&["a\tb", "\u{1b}[1mbold\u{7}", ""])));
        shown.extend(tail_lines("stdout", Tail::Lines(&[])));
        shown.extend(tail_lines("stdout", Tail::Captured(Path::new("out dir/x"))));
        shown.extend(tail_lines(
            "stderr",
            Tail::Lines(&lines(&["<html>", "__cf_chl_token=abc"])),
        ));
        insta::assert_snapshot!(shown.join("\n"), @r#"
        stderr tail last 3 lines:
        a	b
        bold\u0007

        stdout tail: empty
        stdout tail: captured at "out dir/x"
        stderr tail last 1 lines:
        [redacted] HTML page of an access gateway
        "#);
    }
}
