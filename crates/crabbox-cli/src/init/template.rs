//! The commented config file that `crabbox init` writes.

use std::collections::BTreeMap;

use super::Detected;

/// Renders the file for a repository of a name. Every line that is not a comment is read back by the config loader.
pub(crate) fn render(name: &str, jobs: &[Detected]) -> String {
    format!(
        "# Crabbox runs commands of this repository in disposable boxes: `crabbox run -- <command>`.
# `crabbox config show` prints the effective settings and `crabbox config check` what is wrong with them.

# Label of the runs, and the block below `profiles` that applies to them.
profile: {profile}

# Without a provider the embedded sandbox of this machine serves; `crabbox providers` lists the others.
# provider: local

# A box ends when it is idle, or old.
# idleTimeout: 30m
# ttl: 90m

sync:
  # Files that stay here, besides what git ignores. `!pattern` brings files back.
  exclude:
    - .cache
    - .turbo
    - dist
    - node_modules
  # Delete on the box what is gone here.
  delete: true
  # Compare contents instead of size and time.
  # checksum: false
  # A sync that is larger is refused unless --force-sync-large is given.
  # failFiles: 150000
  # failBytes: 20GiB

env:
  # Variables of this machine that commands may see: names, or prefixes that end with `*`.
  allow:
    - CI
    - NODE_OPTIONS

profiles:
  {profile}:
    # What a box must at least offer; a provider that cannot is refused before anything is paid for.
    require: {{}}
    #   isolation: container
    #   egress: none

{jobs}",
        profile = yaml_text(&format!("{}-check", slug(name))),
        jobs = job_lines(jobs),
    )
}

fn job_lines(jobs: &[Detected]) -> String {
    if jobs.is_empty() {
        return "# `crabbox job run test` runs one of these.
# jobs:
#   test:
#     command: make test
"
        .to_owned();
    }
    let mut text =
        "# `crabbox job run detected` runs everything below; the others run one part each.\njobs:\n".to_owned();
    let all = jobs.iter().map(Detected::from_root).collect::<Vec<_>>().join(" && ");
    push_job(&mut text, "detected", &all);
    if jobs.len() > 1 {
        let mut names = BTreeMap::new();
        for job in jobs {
            let count = names.entry(job.tool).or_insert(0_usize);
            *count += 1;
            let name = if *count == 1 {
                job.tool.to_owned()
            } else {
                format!("{}-{count}", job.tool)
            };
            push_job(&mut text, &name, &job.from_root());
        }
    }
    text
}

fn push_job(text: &mut String, name: &str, command: &str) {
    text.push_str(&format!(
        "  {name}:\n    shell: true\n    command: {}\n    stop: auto\n",
        yaml_text(command)
    ));
}

/// A repository's name as a word of a profile.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for character in name.chars().flat_map(char::to_lowercase) {
        if character.is_ascii_alphanumeric() {
            slug.push(character);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        "repository".to_owned()
    } else {
        slug.to_owned()
    }
}

/// Text as one YAML scalar.
fn yaml_text(text: &str) -> String {
    let word = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    let plain = text.starts_with(|character: char| character.is_ascii_alphabetic()) && text.chars().all(word);
    // A JSON string is a YAML double-quoted scalar.
    if plain {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_where_yaml_needs_it() {
        assert_eq!(yaml_text("my-repo-check"), "my-repo-check");
        assert_eq!(yaml_text("cargo test && echo \"hi\""), r#""cargo test && echo \"hi\"""#);
        assert_eq!(yaml_text("1.5"), "\"1.5\"");
        assert_eq!(slug("My Repo!"), "my-repo");
        assert_eq!(slug("¡"), "repository");
    }
}
