//! The words and the JSON of a plan.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "tests write files and start the oracles as they like"
)]

mod support;

use crabbox_sync::guardrail::Limits;
use crabbox_sync::{Guardrail, Plan, Scope};
use support::{Repository, no_rules};

fn repository() -> Repository {
    let repository = Repository::new();
    repository.write("README", "x".repeat(2048));
    repository.write("src/a/b/one", "x".repeat(100));
    repository.write("src/a/two", "x".repeat(50));
    repository.write("dist/app.js", "x".repeat(10));
    repository.write("gone", "x");
    repository.commit_all();
    repository.git(&["add", "-f", "dist/app.js"]);
    repository.git(&["commit", "-qm", "m", "--allow-empty"]);
    std::fs::remove_file(repository.path("gone")).unwrap();
    repository.write("src/a/two", "y".repeat(60));
    repository
}

#[test]
fn text_and_json() {
    let manifest = repository().manifest(&no_rules()).unwrap();
    let limits = Limits {
        warn_files: 2,
        ..Limits::default()
    };
    let guardrail = Guardrail::new(&manifest, Scope::of(&manifest), limits, false);
    let plan = Plan::new(&manifest, &guardrail, 3);
    insta::assert_snapshot!(plan.text(), @r"
    sync candidate: 4 files, 2.2 KiB dirty_delta=2 files, 60 B
    warning: protected 1 tracked files from built-in artifact excludes: dist/app.js (dist)
    deleted tracked paths: 1
    top files:
      2.0 KiB    README
      100 B      src/a/b/one
      60 B       src/a/two
    top dirs:
      2.0 KiB    .
      160 B      src/a
      10 B       dist
    ");
    insta::assert_snapshot!(guardrail.lines().join("\n"), @r"
    warning: large sync dirty_delta: 2 files >= limit 2
    sync top dirs: .:1,src:1
    hint: exclude what the box does not need with .crabboxignore or sync.exclude; `crabbox sync-plan` lists the largest files
    ");
    insta::assert_json_snapshot!(plan);
}
