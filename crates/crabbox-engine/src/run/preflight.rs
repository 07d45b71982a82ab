//! What tools a box has, in one look.

use std::time::Duration;

use crabbox_core::remote::{ExecRequest, RemotePath};
use crabbox_core::{Error, Remote, Result};

/// Tools that are looked at when nobody names others, on POSIX boxes.
const DEFAULT: &[&str] = &[
    "git",
    "tar",
    "node",
    "npm",
    "corepack",
    "pnpm",
    "yarn",
    "bun",
    "docker",
    "sudo",
    "apt",
    "bubblewrap",
];

/// Tools that can be asked for in addition, and those of other systems, which POSIX boxes skip.
const KNOWN: &[&str] = &["bwrap", "cargo", "cmake", "go", "make", "python", "python3", "uv"];
const ELSEWHERE: &[&str] = &["powershell", "execution_policy", "longpaths", "temp", "pwsh"];

/// Longest look.
const LIMIT: Duration = Duration::from_secs(30);

/// Prints `name=first line of its version` or `name=missing` for each parameter. A program that waits for input gets none.
const SCRIPT: &str = r#"
echo "user=$(id -un 2>/dev/null || id -u)"
echo "cwd=$(pwd)"
for tool in "$@"; do
  program=$tool
  case $tool in
    apt) program=apt-get ;;
    bubblewrap) program=bwrap ;;
  esac
  if command -v "$program" >/dev/null 2>&1; then
    case $tool in
      go) line=$(go version </dev/null 2>/dev/null | head -n 1) ;;
      sudo) line=$(sudo -n true </dev/null >/dev/null 2>&1 && echo passwordless || echo password) ;;
      *) line=$("$program" --version </dev/null 2>/dev/null | head -n 1) ;;
    esac
    echo "$tool=${line:-present}"
  else
    echo "$tool=missing"
  fi
done
"#;

/// Resolves a list of tools: `default` expands in place, `none` alone disables.
///
/// # Errors
/// `Usage` for an unknown tool.
pub(crate) fn tools(wanted: &[String]) -> Result<Vec<String>> {
    if wanted.len() == 1 && wanted[0] == "none" {
        return Ok(Vec::new());
    }
    let mut tools: Vec<String> = Vec::new();
    let mut add = |tool: &str| {
        if !tools.iter().any(|known| known == tool) {
            tools.push(tool.to_owned());
        }
    };
    if wanted.is_empty() {
        DEFAULT.iter().for_each(|tool| add(tool));
    }
    for tool in wanted {
        match tool.as_str() {
            "default" | "defaults" => DEFAULT.iter().for_each(|tool| add(tool)),
            tool if DEFAULT.contains(&tool) || KNOWN.contains(&tool) => add(tool),
            tool if ELSEWHERE.contains(&tool) => {}
            tool => {
                let known: Vec<_> = DEFAULT.iter().chain(KNOWN).copied().collect();
                return Err(
                    Error::usage(format!("unknown preflight tool: `{}`", tool.escape_debug()))
                        .with_hint(format!("use `default`, `none`, or any of: {}", known.join(", "))),
                );
            }
        }
    }
    Ok(tools)
}

/// Looks at a box and returns the lines `remote preflight name=value`.
pub(crate) async fn look(remote: &dyn Remote, workdir: &RemotePath, tools: &[String]) -> Result<Vec<String>> {
    let request = ExecRequest::script(SCRIPT, tools.iter().map(String::as_str))
        .in_dir(workdir.clone())
        .with_timeout(Some(LIMIT));
    let output = remote.output(request).await?;
    let text = String::from_utf8_lossy(&output);
    Ok(text
        .lines()
        .map(|line| format!("remote preflight {}", crabbox_evidence::text::hostile(line)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn lists_expand_in_place() {
        assert_eq!(tools(&list(&["none"])).unwrap(), Vec::<String>::new());
        assert_eq!(tools(&[]).unwrap().len(), DEFAULT.len());
        let expanded = tools(&list(&["cargo", "default", "git"])).unwrap();
        assert_eq!(expanded[0], "cargo");
        assert_eq!(expanded.len(), DEFAULT.len() + 1);
        assert_eq!(tools(&list(&["pwsh", "make"])).unwrap(), ["make"]);
        assert!(
            tools(&list(&["nonsense"]))
                .unwrap_err()
                .hint()
                .unwrap()
                .contains("default")
        );
    }
}
