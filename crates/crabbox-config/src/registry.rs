//! Which paths of a file mean which declared key.

use std::collections::BTreeMap;

use crabbox_core::section::{KeySchema, SectionSchema};

use crate::generic::{NAMED, SINGLE};
use crate::known::PROVIDER_SECTIONS;

/// Stands for any name in the path of a section.
const ANY: &str = "*";

/// A section with the place it has in a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Segments of its path; `*` stands for any name.
    pub(crate) path: Vec<&'static str>,
    pub(crate) schema: &'static SectionSchema,
}

/// A declared key at one of its paths.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) key: &'static KeySchema,
    place: Vec<&'static str>,
    /// 0 for the name, then the aliases in order.
    pub(crate) rank: usize,
}

impl Leaf {
    /// The path of the key under its own name, with the names that stood for `*`.
    pub(crate) fn canonical(&self, names: &[String]) -> Vec<String> {
        let mut names = names.iter();
        let section = self.place.iter().map(|segment| match *segment {
            ANY => names.next().cloned().unwrap_or_default(),
            segment => segment.to_owned(),
        });
        section.chain(self.key.name.split('.').map(str::to_owned)).collect()
    }
}

/// A node of the tree of all paths.
#[derive(Debug, Default)]
pub(crate) struct Branch {
    pub(crate) leaf: Option<Leaf>,
    pub(crate) children: BTreeMap<&'static str, Self>,
    pub(crate) any: Option<Box<Self>>,
}

/// Every section, and the tree of their paths.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) places: Vec<Place>,
    pub(crate) root: Branch,
}

impl Registry {
    /// The generic sections, and those of the providers of this build.
    pub(crate) fn new(providers: &[&'static SectionSchema]) -> Self {
        let singles = SINGLE.iter().chain(providers).map(|schema| (schema.name, *schema));
        let places = singles.chain(NAMED.iter().copied()).map(|(path, schema)| Place {
            path: split(path),
            schema,
        });
        let mut registry = Self {
            places: Vec::new(),
            root: Branch::default(),
        };
        for place in places {
            registry.insert(&place);
            registry.places.push(place);
        }
        registry
    }

    fn insert(&mut self, place: &Place) {
        for key in place.schema.keys.iter() {
            if key.no_file {
                continue;
            }
            for (rank, name) in std::iter::once(&key.name).chain(key.aliases).enumerate() {
                let path = match name.strip_prefix('/') {
                    Some(absolute) => split(absolute),
                    None => place.path.iter().copied().chain(split(name)).collect(),
                };
                let mut branch = &mut self.root;
                for segment in path {
                    branch = match segment {
                        ANY => branch.any.get_or_insert_default(),
                        segment => branch.children.entry(segment).or_default(),
                    };
                }
                branch.leaf = Some(Leaf {
                    key,
                    place: place.path.clone(),
                    rank,
                });
            }
        }
    }
}

/// Whether a top-level key belongs to a provider that this build does not know.
pub(crate) fn is_foreign_section(name: &str) -> bool {
    PROVIDER_SECTIONS.binary_search(&name).is_ok()
}

/// The known name that a mistyped one most likely means.
pub(crate) fn nearest<'name>(wrong: &str, known: impl Iterator<Item = &'name str>) -> Option<&'name str> {
    let lower = wrong.to_lowercase();
    let limit = (wrong.chars().count() / 3).max(1);
    known
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        // Among equals, the one that keeps most of what was typed, in order.
        .min_by(|(left, one), (right, other)| {
            let alike = |name: &str| strsim::jaro(&lower, &name.to_lowercase());
            left.cmp(right).then_with(|| alike(other).total_cmp(&alike(one)))
        })
        .map(|(_, name)| name)
}

fn split(path: &'static str) -> Vec<&'static str> {
    path.split('.').filter(|segment| !segment.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generic_declaration_is_sound() {
        for schema in SINGLE.iter().copied().chain(NAMED.iter().map(|(_, schema)| *schema)) {
            schema.check().unwrap();
        }
    }

    #[test]
    fn no_two_keys_share_a_variable_or_flag() {
        let mut seen = BTreeMap::new();
        for schema in SINGLE {
            for key in schema.keys {
                let flag = key.flag.map(|flag| format!("--{flag}"));
                for name in key.environment.iter().map(|name| (*name).to_owned()).chain(flag) {
                    assert_eq!(seen.insert(name.clone(), key.path(schema.name)), None, "{name}");
                }
            }
        }
    }

    #[test]
    fn aliases_lead_to_the_name() {
        let registry = Registry::new(&[]);
        let leaf = registry.root.children["coordinator"].leaf.as_ref().unwrap();
        assert_eq!(leaf.canonical(&[]), ["broker", "url"]);
        let profile = registry.root.children["profiles"].any.as_ref().unwrap();
        let leaf = profile.children["env"].children["allow"].leaf.as_ref().unwrap();
        assert_eq!(leaf.canonical(&["my.ci".to_owned()]), ["profiles", "my.ci", "envAllow"]);
    }

    #[test]
    fn near_misses_are_named() {
        let known = ["timeout", "exclude", "include"];
        assert_eq!(nearest("timout", known.into_iter()), Some("timeout"));
        assert_eq!(nearest("Timeout", known.into_iter()), Some("timeout"));
        assert_eq!(nearest("exlcude", known.into_iter()), Some("exclude"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(
            nearest("profils", ["profile", "profiles"].into_iter()),
            Some("profiles")
        );
    }
}
