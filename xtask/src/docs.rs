//! Documentation: rustdoc without warnings, and prose whose links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::files;
use crate::process::{self, say};
use crate::workspace::Workspace;

/// Builds the API documentation, unless only links are asked for, and checks every link of every Markdown file.
///
/// # Errors
/// When rustdoc warns or a link leads nowhere.
pub fn run(workspace: &Workspace, links_only: bool) -> Result<()> {
    let broken = check_links(&workspace.root)?;
    for link in &broken {
        say(&format!("error: {link}"));
    }
    if !broken.is_empty() {
        bail!("{} links lead nowhere", broken.len());
    }
    if links_only {
        return Ok(());
    }
    let mut cargo = process::command(process::cargo_program(), &workspace.root);
    cargo.env("RUSTDOCFLAGS", "--deny warnings");
    cargo.args([
        "doc",
        "--workspace",
        "--all-features",
        "--no-deps",
        "--locked",
        "--quiet",
    ]);
    process::run(cargo)
}

/// Every link of the checkout's Markdown files that names a missing file or heading, as `file: link`.
///
/// # Errors
/// When a file cannot be read.
pub fn check_links(root: &Path) -> Result<Vec<String>> {
    let tracked = files::tracked(root)?;
    let mut pages: BTreeMap<PathBuf, Page> = BTreeMap::new();
    for path in &tracked {
        if path.extension().is_some_and(|extension| extension == "md") && !path.starts_with("xtask/templates") {
            pages.insert(path.clone(), Page::parse(&files::read(&root.join(path))?));
        }
    }
    let mut known: BTreeSet<PathBuf> = tracked.into_iter().collect();
    let directories: Vec<PathBuf> = known
        .iter()
        .flat_map(|path| path.ancestors().skip(1).map(PathBuf::from))
        .collect();
    known.extend(directories);
    let mut broken = Vec::new();
    for (path, page) in &pages {
        for link in &page.links {
            if leads_nowhere(path, link, &known, &pages) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    Ok(broken)
}

fn leads_nowhere(from: &Path, link: &str, known: &BTreeSet<PathBuf>, pages: &BTreeMap<PathBuf, Page>) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return false;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        Some(from.to_path_buf())
    } else {
        resolve(from, file)
    };
    let Some(target) = target.filter(|target| known.contains(target)) else {
        return true;
    };
    !anchor.is_empty() && pages.get(&target).is_some_and(|page| !page.anchors.contains(anchor))
}

/// The path a relative link means, or `None` when it leaves the checkout or is absolute.
fn resolve(from: &Path, link: &str) -> Option<PathBuf> {
    let mut target = from.parent()?.to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !target.pop() {
                    return None;
                }
            }
            Component::Normal(name) => target.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(target)
}

/// What one Markdown file offers and asks for.
#[derive(Debug, Default)]
struct Page {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap_or_default());
                    let repeated = (1..).map(|count| format!("{slug}-{count}"));
                    let free = std::iter::once(slug.clone())
                        .chain(repeated)
                        .find(|slug| !page.anchors.contains(slug));
                    page.anchors.extend(free);
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// The anchor that code hosts give a heading.
fn slug(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
    kept.map(|character| if character == ' ' { '-' } else { character })
        .collect::<String>()
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Page, check_links, slug};

    use crate::files;

    #[test]
    fn headings_become_the_anchors_that_links_use() {
        assert_eq!(slug("`run --id`: reuse, or not?"), "run---id-reuse-or-not");
        let page = Page::parse("# One\n## Two words\n## One\n");
        assert_eq!(
            page.anchors.iter().map(String::as_str).collect::<Vec<_>>(),
            ["one", "one-1", "two-words"]
        );
    }

    #[test]
    fn missing_files_headings_and_escapes_are_found() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        files::write(
            &root.path().join("README.md"),
            "[a](docs/a.md#there) [b](docs/a.md#gone) [d](docs/) [w](https://x.test)",
        )
        .unwrap();
        files::write(
            &root.path().join("docs/a.md"),
            "# There\n[up](../README.md) [out](../../x.md) [no](b.md) [self](#there)\n`[code](c.md)`",
        )
        .unwrap();
        assert_eq!(
            check_links(root.path()).unwrap(),
            ["README.md: docs/a.md#gone", "docs/a.md: ../../x.md", "docs/a.md: b.md"]
        );
    }
}
