//! The derive behind Crabbox's config sections. Use it as `crabbox_core::Section`.

mod section;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `crabbox_core::section::Section` for a struct with named fields.
///
/// On the struct: `#[section(name = "acme")]`. On each field a doc comment, which becomes the help text, and
/// `#[key(…)]` with any of:
///
/// | Argument | Meaning |
/// |---|---|
/// | `name = "yamlKey"` | name in files; the field's name in camelCase otherwise |
/// | `alias = "other"` or `["a", "/b.c"]` | other names; a leading slash starts from the top of the file |
/// | `env = "VAR"` or `["A", "B"]` | variables, the first that is set wins |
/// | `flag = "acme-region"` | flag without dashes |
/// | `default = "eu1"` | default; text, number or boolean |
/// | `trust = operator` | who may set it: `anyone`, `operator`, `only_true`, `only_false`, `at_most` |
/// | `secret` | never shown, never a flag; implied by the type `Secret` |
/// | `destination` | receives the section's secrets; implied by the type `Origin` |
/// | `no_file` | has no place in files |
/// | `values = ["linux\|ubuntu", "macos"]` | accepted words, each with its other spellings |
/// | `kind = bytes` | other kind than the type's: `bytes`, `duration_or_zero`, `path`, `list`, `any` … |
/// | `merge = append` | how layers combine: `replace`, `replace_when_present`, `append`, `append_unique` |
/// | `flag_appends` | the flag adds to the list of the lower layers |
#[proc_macro_derive(Section, attributes(section, key))]
pub fn derive_section(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    section::expand(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
