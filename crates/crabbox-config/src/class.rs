//! Classes become machine types.

use crabbox_core::spec::ClassTable;
use crabbox_core::{Error, Result};

use crate::generic::Selection;

/// Names of classes that mean the same everywhere, smallest first.
pub const CLASSES: [&str; 6] = ["tiny", "small", "standard", "fast", "large", "beast"];

/// The machine types to try, first choice first.
///
/// An explicit type is used as it is, alone. A class is looked up in the provider's table. Any other word is a machine type
/// of the provider's own. Without a table a class is only a label, and the list is empty.
///
/// # Errors
///
/// `Usage` when the provider maps classes, but not this one.
pub fn machine_types(selection: &Selection, provider: &str, table: Option<&ClassTable>) -> Result<Vec<String>> {
    if let Some(server_type) = &selection.server_type {
        return Ok(vec![server_type.clone()]);
    }
    let class = selection.class.as_str();
    let owned = |types: &[&str]| types.iter().map(|name| (*name).to_owned()).collect();
    match (table, table.and_then(|table| table.types(class))) {
        (_, Some(types)) => Ok(owned(types)),
        (Some(table), None) if CLASSES.contains(&class) => {
            let known: Vec<&str> = table.classes.iter().map(|(name, _)| *name).collect();
            Err(Error::usage(format!(
                "provider={provider} has no class profile for class={class} target={} windowsMode={} architecture={}",
                selection.target, selection.windows_mode, selection.architecture
            ))
            .with_hint(format!(
                "choose one of {}, or give a machine type with `--type`",
                known.join(", ")
            )))
        }
        (Some(_), None) => Ok(vec![class.to_owned()]),
        (None, None) => Ok(if CLASSES.contains(&class) {
            Vec::new()
        } else {
            vec![class.to_owned()]
        }),
    }
}

#[cfg(test)]
mod tests {
    use crabbox_core::runtime::Environment;

    use super::*;
    use crate::Loader;

    const TABLE: ClassTable = ClassTable {
        classes: &[("tiny", &["t1"]), ("beast", &["b3", "b2"])],
    };

    fn types(flags: &[(&str, &str)], table: Option<&ClassTable>) -> Result<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let loader = Loader::new(Environment::default(), directory.path());
        let loader = flags
            .iter()
            .fold(loader, |loader, (key, value)| loader.flag("", key, [*value]));
        machine_types(&loader.load().unwrap().config.selection, "acme", table)
    }

    #[test]
    fn classes_become_types() {
        assert_eq!(types(&[], Some(&TABLE)).unwrap(), ["b3", "b2"]);
        assert_eq!(types(&[("class", "tiny")], Some(&TABLE)).unwrap(), ["t1"]);
        assert_eq!(types(&[("class", "m9.huge")], Some(&TABLE)).unwrap(), ["m9.huge"]);
        assert_eq!(
            types(&[("class", "tiny"), ("serverType", "x")], Some(&TABLE)).unwrap(),
            ["x"]
        );
        assert!(types(&[], None).unwrap().is_empty());
        assert_eq!(types(&[("class", "own")], None).unwrap(), ["own"]);
        assert_eq!(
            types(&[("class", "fast")], Some(&TABLE)).unwrap_err().to_string(),
            "provider=acme has no class profile for class=fast target=linux windowsMode=normal architecture=amd64"
        );
    }
}
