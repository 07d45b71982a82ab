//! `crabbox providers`

use clap::{Args, Subcommand};
use crabbox_core::section::{KeySchema, Kind, Merge};
use crabbox_core::spec::FeatureSet;
use crabbox_core::{Error, ProviderKind, ProviderSpec};
use serde_json::{Value, json};

use super::flags::JsonFlag;
use crate::ending::Ending;
use crate::session::Session;

/// Lists the providers of this build.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ProvidersArgs {
    #[command(flatten)]
    output: JsonFlag,
    #[command(subcommand)]
    command: Option<ProvidersCommand>,
}

#[derive(Clone, Debug, Subcommand)]
enum ProvidersCommand {
    /// Shows what one provider can do and which flags it has.
    Describe(DescribeArgs),
}

#[derive(Args, Clone, Debug)]
struct DescribeArgs {
    /// Name or alias.
    #[arg(value_name = "PROVIDER")]
    provider: String,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) fn run(args: ProvidersArgs, session: &Session) -> anyhow::Result<Ending> {
    match args.command {
        None => list(args.output.json, session),
        Some(ProvidersCommand::Describe(args)) => describe(&args, session),
    }
}

fn list(as_json: bool, session: &Session) -> anyhow::Result<Ending> {
    let specs = session.registry.specs();
    if as_json {
        session
            .output
            .json(&specs.iter().map(|spec| entry(spec)).collect::<Vec<_>>())?;
        return Ok(Ending::success());
    }
    for spec in specs {
        session.output.line(spec.name)?;
        for (key, text) in facts(spec) {
            session.output.line(format!("  {key}: {text}"))?;
        }
    }
    Ok(Ending::success())
}

fn describe(args: &DescribeArgs, session: &Session) -> anyhow::Result<Ending> {
    let spec = session.registry.get(&args.provider)?.spec();
    if spec.kind == ProviderKind::ServiceControl {
        return Err(
            Error::usage(format!("provider controls a service and runs nothing: `{}`", spec.name))
                .with_hint("`crabbox providers` lists the providers that run commands")
                .into(),
        );
    }
    if args.output.json {
        session.output.json(&description(spec, args.provider.trim()))?;
        return Ok(Ending::success());
    }
    session.output.line(spec.name)?;
    for (key, text) in facts(spec) {
        session.output.line(format!("  {key}: {text}"))?;
    }
    for key in spec.section.keys {
        if let Some(flag) = key.flag {
            session
                .output
                .line(format!("  --{flag} <{}>: {}", key.kind.word(), key.help))?;
        }
    }
    Ok(Ending::success())
}

fn targets(spec: &ProviderSpec) -> Vec<String> {
    spec.targets.iter().map(ToString::to_string).collect()
}

fn words(features: FeatureSet) -> Vec<&'static str> {
    features.iter().map(|feature| feature.as_str()).collect()
}

fn facts(spec: &ProviderSpec) -> Vec<(&'static str, String)> {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        ("summary", spec.catalog.summary.to_owned()),
        ("family", spec.family.to_owned()),
        ("kind", spec.kind.to_string()),
        ("category", spec.catalog.category.to_owned()),
        ("location", spec.catalog.location.to_owned()),
        ("targets", targets(spec).join(", ")),
        ("features", words(spec.features()).join(", ")),
        ("isolation", spec.isolation_level.to_string()),
        ("persistence", spec.persistence.to_string()),
        ("egress", spec.egress.to_string()),
        ("ttl", spec.ttl.to_string()),
        ("coordinator", spec.coordinator.to_string()),
        ("aliases", or_dash(spec.aliases.join(", "))),
    ]
}

fn entry(spec: &ProviderSpec) -> Value {
    json!({
        "provider": spec.name,
        "family": spec.family,
        "aliases": spec.aliases,
        "kind": spec.kind,
        "category": spec.catalog.category,
        "location": spec.catalog.location,
        "summary": spec.catalog.summary,
        "targets": targets(spec),
        "features": spec.features(),
        "coordinator": spec.coordinator,
        "isolationLevel": spec.isolation_level,
        "persistence": spec.persistence,
        "egress": spec.egress,
        "ttl": spec.ttl,
        "classes": spec.classes.map(|table| table.classes.iter().map(|(name, _)| *name).collect::<Vec<_>>()).unwrap_or_default(),
    })
}

fn description(spec: &ProviderSpec, requested: &str) -> Value {
    let alias = !spec.name.eq_ignore_ascii_case(requested);
    json!({
        "schemaVersion": 2,
        "provider": {
            "requested": requested,
            "canonical": spec.name,
            "inputAlias": alias,
            "aliases": spec.aliases,
            "deprecated": false,
            "replacement": "",
        },
        "runnable": true,
        "kind": spec.kind,
        "family": spec.family,
        "targets": targets(spec),
        "capabilities": {
            "features": spec.features(),
            "coordinator": spec.coordinator,
            "isolationLevel": spec.isolation_level,
            "persistence": spec.persistence,
            "egress": spec.egress,
            "ttl": spec.ttl,
        },
        "providerFlags": spec.section.keys.iter().filter_map(flag).collect::<Vec<_>>(),
    })
}

fn flag(key: &KeySchema) -> Option<Value> {
    let kind = match key.kind {
        Kind::Boolean => "bool",
        Kind::Integer | Kind::Bytes => "int",
        Kind::Float => "float",
        Kind::Duration | Kind::DurationOrZero => "duration",
        Kind::List => "list",
        _ => "string",
    };
    Some(json!({
        "name": key.flag?,
        "type": kind,
        "valueShape": key.kind.word(),
        "default": key.default.unwrap_or_default(),
        "repeatable": key.flag_appends || matches!(key.merge, Merge::Append | Merge::AppendUnique),
        "usage": key.help,
        "deprecated": false,
        "replacement": "",
    }))
}
