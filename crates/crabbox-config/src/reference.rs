//! The reference page of every key, made from the declarations.

use std::fmt::Write as _;

use crabbox_core::section::{KeySchema, Kind, SectionSchema, Trust};

use crate::generic::{NAMED, SINGLE};

const HEAD: &str = "\
# Configuration keys

Generated from the declarations in the code; do not edit.

Later layers win: defaults, the user's file, `crabbox.yaml` and `.crabbox.yaml` from the root of the repository down to the
working directory, variables, flags. `CRABBOX_CONFIG` replaces all files by one. Mappings merge per key. A list replaces the
one before it, unless its key says otherwise. Nothing, `0` and an empty list leave the earlier value, unless the key says
otherwise. Durations are Go's: `90m`, `1h30m`, `1.5s`.

*Operator only* keys have no effect in a repository file. *Secret* keys are never shown and never flags.
";

/// The reference page as Markdown: generic sections first, then the given provider sections.
pub fn reference(providers: &[&'static SectionSchema]) -> String {
    let mut page = HEAD.to_owned();
    for schema in SINGLE {
        let title = if schema.name.is_empty() {
            "Top level".to_owned()
        } else {
            format!("`{}`", schema.name)
        };
        section(&mut page, &title, schema.name, schema);
    }
    for (path, schema) in NAMED {
        let shown = path.replace('*', "<name>");
        // A block that stands in two places is described once.
        match NAMED
            .iter()
            .find(|(other, known)| known.name == schema.name && !other.starts_with("profiles.*."))
        {
            Some((first, _)) if first != path => {
                let _ = write!(
                    page,
                    "\n## `{shown}`\n\nAs [`{}`](#{}).\n",
                    first.replace('*', "<name>"),
                    anchor(first)
                );
            }
            _ => section(&mut page, &format!("`{shown}`"), "", schema),
        }
    }
    for schema in providers {
        section(
            &mut page,
            &format!("Provider section `{}`", schema.name),
            schema.name,
            schema,
        );
    }
    page
}

/// Every key that has a flag, with its section: what a command line offers, and what [`FlagValue`](crate::FlagValue) names.
pub fn flag_keys(providers: &[&'static SectionSchema]) -> impl Iterator<Item = (&'static str, &'static KeySchema)> {
    let sections = SINGLE.iter().copied().chain(providers.iter().copied());
    let keys = sections.flat_map(|schema| schema.keys.iter().map(move |key| (schema.name, key)));
    keys.filter(|(_, key)| key.flag.is_some())
}

fn anchor(path: &str) -> String {
    let text = path.replace('*', "<name>").to_lowercase();
    text.chars().filter(|character| character.is_alphanumeric()).collect()
}

fn section(page: &mut String, title: &str, prefix: &str, schema: &SectionSchema) {
    // Writing to a text cannot fail.
    let _ = write!(page, "\n## {title}\n");
    if !schema.help.is_empty() {
        let _ = write!(page, "\n{}\n", schema.help);
    }
    if schema.keys.is_empty() {
        return;
    }
    page.push_str("\n| Key | Kind | Default | Variables | Flag | Meaning |\n|---|---|---|---|---|---|\n");
    for key in schema.keys {
        let name = if key.no_file {
            "–".to_owned()
        } else {
            names(prefix, key)
        };
        let kind = kind(key.kind);
        let default = key.default.map_or_else(|| "–".to_owned(), code);
        let variables = join(key.environment.iter().map(|name| code(name)));
        let flag = key
            .flag
            .map_or_else(|| "–".to_owned(), |flag| code(&format!("--{flag}")));
        let _ = writeln!(
            page,
            "| {name} | {kind} | {default} | {variables} | {flag} | {} |",
            cell(&meaning(key))
        );
    }
}

fn names(prefix: &str, key: &KeySchema) -> String {
    let aliases = key.aliases.iter().map(|alias| match alias.strip_prefix('/') {
        Some(absolute) => absolute.to_owned(),
        None if prefix.is_empty() => (*alias).to_owned(),
        None => format!("{prefix}.{alias}"),
    });
    join(std::iter::once(key.path(prefix)).chain(aliases).map(|name| code(&name)))
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Choice(choices) => join(choices.iter().map(|choice| code(choice.name))),
        kind => kind.word().to_owned(),
    }
}

fn meaning(key: &KeySchema) -> String {
    let mut text = key.help.replace("\n\n", " ");
    for (holds, note) in [
        (key.secret, " *Secret.*"),
        (key.trust == Trust::Operator, " *Operator only.*"),
        (
            key.trust == Trust::OnlyTrue,
            " *A repository file can only turn it on.*",
        ),
        (
            key.trust == Trust::OnlyFalse,
            " *A repository file can only turn it off.*",
        ),
        (key.trust == Trust::AtMost, " *A repository file can only lower it.*"),
        (
            key.merge == crabbox_core::section::Merge::ReplaceWhenPresent,
            " An empty value counts.",
        ),
        (
            matches!(
                key.merge,
                crabbox_core::section::Merge::Append | crabbox_core::section::Merge::AppendUnique
            ),
            " Later layers add to it.",
        ),
        (key.flag_appends, " The flag adds to it."),
    ] {
        if holds {
            text.push_str(note);
        }
    }
    text
}

fn join(texts: impl Iterator<Item = String>) -> String {
    let joined = texts.collect::<Vec<_>>().join(", ");
    if joined.is_empty() { "–".to_owned() } else { joined }
}

fn code(text: &str) -> String {
    format!("`{}`", cell(text))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
