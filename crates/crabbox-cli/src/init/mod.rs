//! What `crabbox init` writes.

mod detect;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crabbox_config::Template;

pub(crate) use detect::{Detected, detect};

/// Renders the config file for a repository of a name.
pub(crate) fn render(name: &str, jobs: &[Detected]) -> String {
    let template = Template {
        repository: slug(name),
        command: (!jobs.is_empty()).then(|| jobs.iter().map(Detected::at_root).collect::<Vec<_>>().join(" && ")),
        ..Template::default()
    };
    let mut text = template.render();
    if jobs.len() > 1 {
        // The job of all of them is the last block of the file, and these stand beside it.
        let mut names = BTreeMap::new();
        for job in jobs {
            let count = names.entry(job.tool).or_insert(0_usize);
            *count += 1;
            let name = if *count == 1 {
                job.tool.to_owned()
            } else {
                format!("{}-{count}", job.tool)
            };
            // A JSON string is a YAML double-quoted scalar.
            let command = serde_json::Value::from(job.at_root());
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "  {name}:\n    shell: true\n    command: {command}\n    stop: auto\n"
            );
        }
    }
    text
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

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn names_become_words() {
        assert_eq!(slug("My Repo!"), "my-repo");
        assert_eq!(slug("¡"), "repository");
    }
}
