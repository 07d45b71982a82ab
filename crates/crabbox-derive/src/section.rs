//! Reads the attributes and writes the implementation.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::meta::ParseNestedMeta;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, ExprArray, ExprLit, Field, Fields, Ident, Lit, LitStr, Meta, Result,
};

#[derive(Default)]
struct Key {
    name: Option<String>,
    aliases: Vec<String>,
    environment: Vec<String>,
    flag: Option<LitStr>,
    default: Option<String>,
    trust: Option<Ident>,
    secret: bool,
    destination: bool,
    no_file: bool,
    values: Vec<String>,
    kind: Option<Ident>,
    merge: Option<Ident>,
    flag_appends: bool,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "a section is a struct"));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new_spanned(&input.ident, "a section has named fields"));
    };
    let name = section_name(input)?;
    let section_help = documentation(&input.attrs);
    let type_name = &input.ident;
    let (generics, type_generics, where_clause) = input.generics.split_for_impl();

    let mut schemas = Vec::new();
    let mut assignments = Vec::new();
    for field in &fields.named {
        let Some(identifier) = &field.ident else { continue };
        let key = Key::read(field)?;
        let key_name = key.name.clone().unwrap_or_else(|| camel_case(&identifier.to_string()));
        schemas.push(key.schema(field, &key_name)?);
        assignments.push(quote! { #identifier: values.get(#key_name)? });
    }
    Ok(quote! {
        #[automatically_derived]
        impl #generics ::crabbox_core::section::Section for #type_name #type_generics #where_clause {
            const SCHEMA: &'static ::crabbox_core::section::SectionSchema = &::crabbox_core::section::SectionSchema {
                name: #name,
                help: #section_help,
                keys: &[#(#schemas),*],
            };

            fn from_values(values: &::crabbox_core::settings::SectionValues) -> ::crabbox_core::Result<Self> {
                ::core::result::Result::Ok(Self { #(#assignments),* })
            }
        }
    })
}

fn section_name(input: &DeriveInput) -> Result<String> {
    let mut name = None;
    for attribute in input
        .attrs
        .iter()
        .filter(|attribute| attribute.path().is_ident("section"))
    {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                name = Some(meta.value()?.parse::<LitStr>()?.value());
                Ok(())
            } else {
                Err(meta.error("expected `name`"))
            }
        })?;
    }
    name.ok_or_else(|| Error::new_spanned(&input.ident, "missing `#[section(name = \"…\")]`"))
}

impl Key {
    fn read(field: &Field) -> Result<Self> {
        let mut key = Self::default();
        for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("key")) {
            if matches!(attribute.meta, Meta::Path(_)) {
                continue;
            }
            attribute.parse_nested_meta(|meta| key.argument(&meta))?;
        }
        if let (true, Some(flag)) = (key.secret, &key.flag) {
            return Err(Error::new_spanned(
                flag,
                "a secret is never a flag: arguments are visible to other processes",
            ));
        }
        if !key.values.is_empty()
            && let Some(kind) = &key.kind
        {
            return Err(Error::new_spanned(kind, "`values` already says the kind"));
        }
        Ok(key)
    }

    fn argument(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let Some(argument) = meta.path.get_ident() else {
            return Err(meta.error("unknown argument"));
        };
        match argument.to_string().as_str() {
            "name" => self.name = Some(meta.value()?.parse::<LitStr>()?.value()),
            "alias" => self.aliases = texts(meta)?,
            "env" => self.environment = texts(meta)?,
            "flag" => self.flag = Some(meta.value()?.parse()?),
            "default" => self.default = Some(literal(meta)?),
            "trust" => self.trust = Some(meta.value()?.parse()?),
            "values" => self.values = texts(meta)?,
            "kind" => self.kind = Some(meta.value()?.parse()?),
            "merge" => self.merge = Some(meta.value()?.parse()?),
            "secret" => self.secret = true,
            "destination" => self.destination = true,
            "no_file" => self.no_file = true,
            "flag_appends" => self.flag_appends = true,
            _ => return Err(meta.error("unknown argument")),
        }
        Ok(())
    }

    fn schema(&self, field: &Field, name: &str) -> Result<TokenStream> {
        let help = documentation(&field.attrs);
        if help.is_empty() {
            return Err(Error::new_spanned(
                field,
                "a key needs a doc comment: it is the help text",
            ));
        }
        let field_type = &field.ty;
        let from_setting = quote! { <#field_type as ::crabbox_core::section::FromSetting> };
        let kind = self.kind_tokens(&from_setting)?;
        let secret = self.secret;
        let mut schema = quote! {
            ::crabbox_core::section::KeySchema::new(#name, #kind, #help)
                .secret(#secret || #from_setting::SECRET)
                .validate(::crabbox_core::section::fits::<#field_type>)
        };
        if !self.aliases.is_empty() {
            let aliases = &self.aliases;
            schema = quote! { #schema.aliases(&[#(#aliases),*]) };
        }
        if !self.environment.is_empty() {
            let environment = &self.environment;
            schema = quote! { #schema.environment(&[#(#environment),*]) };
        }
        if let Some(flag) = &self.flag {
            schema = quote! { #schema.flag({
                assert!(!#from_setting::SECRET, "a secret is never a flag");
                #flag
            }) };
        }
        if let Some(default) = &self.default {
            schema = quote! { #schema.default(#default) };
        }
        if let Some(trust) = &self.trust {
            let variant = word(trust, &["anyone", "operator", "only_true", "only_false", "at_most"])?;
            schema = quote! { #schema.trust(::crabbox_core::section::Trust::#variant) };
        }
        if let Some(merge) = &self.merge {
            let variant = word(merge, &["replace", "replace_when_present", "append", "append_unique"])?;
            schema = quote! { #schema.merge(::crabbox_core::section::Merge::#variant) };
        }
        if self.destination {
            schema = quote! { #schema.destination() };
        }
        if self.no_file {
            schema = quote! { #schema.no_file() };
        }
        if self.flag_appends {
            schema = quote! { #schema.flag_appends() };
        }
        Ok(schema)
    }

    fn kind_tokens(&self, from_setting: &TokenStream) -> Result<TokenStream> {
        if !self.values.is_empty() {
            let choices = self.values.iter().map(|value| {
                let mut spellings = value.split('|').map(str::trim);
                let name = spellings.next().unwrap_or_default();
                quote! { ::crabbox_core::section::Choice { name: #name, aliases: &[#(#spellings),*] } }
            });
            return Ok(quote! { ::crabbox_core::section::Kind::Choice(&[#(#choices),*]) });
        }
        let Some(kind) = &self.kind else {
            return Ok(quote! { #from_setting::KIND });
        };
        let kinds = [
            "text",
            "boolean",
            "integer",
            "float",
            "duration",
            "duration_or_zero",
            "bytes",
            "list",
            "map",
            "origin",
            "path",
            "any",
        ];
        let variant = word(kind, &kinds)?;
        Ok(quote! { ::crabbox_core::section::Kind::#variant })
    }
}

/// The variant that a snake_case word names.
fn word(given: &Ident, known: &[&str]) -> Result<Ident> {
    let text = given.to_string();
    if !known.contains(&text.as_str()) {
        return Err(Error::new_spanned(
            given,
            format!("expected one of: {}", known.join(", ")),
        ));
    }
    let variant: String = text.split('_').map(capitalize).collect();
    Ok(format_ident!("{variant}"))
}

fn texts(meta: &ParseNestedMeta<'_>) -> Result<Vec<String>> {
    match meta.value()?.parse::<Expr>()? {
        Expr::Array(ExprArray { elems, .. }) => elems.iter().map(text).collect(),
        other => Ok(vec![text(&other)?]),
    }
}

fn text(expression: &Expr) -> Result<String> {
    match expression {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text), ..
        }) => Ok(text.value()),
        other => Err(Error::new_spanned(other, "expected a string")),
    }
}

fn literal(meta: &ParseNestedMeta<'_>) -> Result<String> {
    match meta.value()?.parse::<Lit>()? {
        Lit::Str(text) => Ok(text.value()),
        Lit::Int(number) => Ok(number.base10_digits().to_owned()),
        Lit::Float(number) => Ok(number.base10_digits().to_owned()),
        Lit::Bool(value) => Ok(value.value.to_string()),
        other => Err(Error::new_spanned(other, "expected text, a number or a boolean")),
    }
}

/// Doc comment lines joined into paragraphs.
fn documentation(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes {
        let Meta::NameValue(pair) = &attribute.meta else {
            continue;
        };
        let Expr::Lit(ExprLit {
            lit: Lit::Str(line), ..
        }) = &pair.value
        else {
            continue;
        };
        if !pair.path.is_ident("doc") {
            continue;
        }
        let line = line.value();
        match line.trim() {
            "" if !text.is_empty() => text.push_str("\n\n"),
            line => {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push(' ');
                }
                text.push_str(line);
            }
        }
    }
    text.trim().to_owned()
}

fn camel_case(name: &str) -> String {
    let mut words = name.trim_start_matches("r#").split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| text + &capitalize(word))
}

fn capitalize(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_ascii_uppercase().to_string() + characters.as_str()
    })
}
