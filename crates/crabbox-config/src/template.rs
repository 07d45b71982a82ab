//! The repository file that `init` writes.

use std::fmt::Write as _;

use crabbox_core::section::KeySchema;
use serde_json::Value as Json;

use crate::edit::scalar;
use crate::registry::Registry;

/// Columns of a comment.
const LINE_WIDTH: usize = 100;

/// What `init` found out about a repository.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// Name of the repository; the profile is called after it.
    pub repository: String,
    /// Actions workflow that prepares a box, relative to the repository.
    pub workflow: Option<String>,
    /// Patterns that stay here besides the usual ones.
    pub excludes: Vec<String>,
    /// Tools that the preflight looks for.
    pub preflight_tools: Vec<String>,
    /// Command of the job `detected`.
    pub command: Option<String>,
}

impl Template {
    /// The file's text. Every comment is the help of the key below it.
    pub fn render(&self) -> String {
        let registry = Registry::new(&[]);
        let mut text =
            "# Configuration of Crabbox for this repository. `crabbox config show` prints what is in effect.\n"
                .to_owned();
        let mut open: Vec<String> = Vec::new();
        for (path, value) in self.values() {
            let segments: Vec<&str> = path.split('.').collect();
            let (last, parents) = segments.split_last().unwrap_or((&"", &[]));
            let shared = open
                .iter()
                .zip(parents)
                .take_while(|(known, parent)| known == *parent)
                .count();
            if parents.is_empty() || shared == 0 {
                text.push('\n');
            }
            for (depth, parent) in parents.iter().enumerate().skip(shared) {
                let _ = writeln!(text, "{}{parent}:", "  ".repeat(depth));
            }
            open = parents.iter().map(|parent| (*parent).to_owned()).collect();
            let indent = "  ".repeat(parents.len());
            if let Some(key) = declared(&registry, &segments) {
                let help = key.help.split("\n\n").next().unwrap_or_default();
                for line in wrap(help, LINE_WIDTH - indent.len()) {
                    let _ = writeln!(text, "{indent}# {line}");
                }
            }
            let _ = writeln!(text, "{indent}{last}: {}", scalar(&value));
        }
        text
    }

    fn values(&self) -> Vec<(&'static str, Json)> {
        let mut excludes: Vec<String> = [".cache", ".turbo", "dist", "node_modules"].map(str::to_owned).into();
        excludes.extend(
            self.excludes
                .iter()
                .filter(|pattern| !excludes.contains(pattern))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let mut values: Vec<(&'static str, Json)> = vec![
            ("profile", format!("{}-check", self.repository).into()),
            ("class", "beast".into()),
            ("capacity.market", "spot".into()),
            ("capacity.strategy", "most-available".into()),
            ("capacity.fallback", "on-demand-after-120s".into()),
        ];
        if let Some(workflow) = &self.workflow {
            values.extend([
                ("actions.workflow", Json::from(workflow.as_str())),
                ("actions.job", "hydrate".into()),
                ("actions.runnerLabels", vec!["crabbox"].into()),
                ("actions.runnerVersion", "latest".into()),
                ("actions.ephemeral", true.into()),
            ]);
        }
        values.extend([
            ("sync.delete", true.into()),
            ("sync.checksum", false.into()),
            ("sync.gitSeed", true.into()),
            ("sync.fingerprint", true.into()),
            ("sync.timeout", "15m".into()),
            ("sync.warnFiles", 50_000.into()),
            ("sync.warnBytes", 5_368_709_120_u64.into()),
            ("sync.failFiles", 150_000.into()),
            ("sync.failBytes", 21_474_836_480_u64.into()),
            ("sync.exclude", excludes.into()),
        ]);
        if !self.preflight_tools.is_empty() {
            values.push(("run.preflightTools", self.preflight_tools.clone().into()));
        }
        values.extend([
            ("env.allow", vec!["CI", "NODE_OPTIONS"].into()),
            ("ssh.user", "crabbox".into()),
            ("ssh.port", 2222.into()),
            ("ssh.fallbackPorts", vec!["22"].into()),
            ("cache.volumes", Json::Array(Vec::new())),
        ]);
        if let Some(command) = &self.command {
            values.extend([
                ("jobs.detected.shell", true.into()),
                ("jobs.detected.command", command.as_str().into()),
                ("jobs.detected.stop", "auto".into()),
            ]);
        }
        values
    }
}

fn declared(registry: &Registry, path: &[&str]) -> Option<&'static KeySchema> {
    let branch = path.iter().try_fold(&registry.root, |branch, segment| {
        branch.children.get(segment).or(branch.any.as_deref())
    });
    branch?.leaf.as_ref().map(|leaf| leaf.key)
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines
            .last_mut()
            .filter(|line| line.is_empty() || line.len() + word.len() < width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}
