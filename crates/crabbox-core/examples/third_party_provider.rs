//! A provider outside this repository: everything it needs is in `crabbox-core`.
//!
//! The vendor is a made-up service whose boxes are rows of a table and whose only command is `echo`. A real crate talks to
//! its vendor through [`Runtime::http`] where this one touches the table, and has nothing else to add: claims, labels,
//! retries, sync, evidence and rendering are the engine's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::backend::{Capabilities, DelegatedRunBackend, Lifecycle};
use crabbox_core::machine::{Absence, Binding, Inventory, Machine, Observed, Outcome, ResourceId, Scope};
use crabbox_core::remote::{ExecRequest, ExecStatus, OutputSink, OutputStream, RemotePath, Upload};
use crabbox_core::request::{Check, CheckStatus, DoctorReport, ListQuery, Probe, Requirements};
use crabbox_core::secret::{Origin, Secret};
use crabbox_core::spec::{
    CatalogFacts, CoordinatorMode, Egress, FeatureSet, IsolationLevel, Persistence, TtlEnforcement,
};
use crabbox_core::{
    Backend, CreateLease, Error, Journal, Labels, Provider, ProviderKind, ProviderSpec, Result, Runtime, Section,
    Settings, Target, VerifiedBinding,
};

/// Section `echoes`: from this one declaration come YAML keys, variables, flags, help, redaction and trust.
#[derive(Clone, Debug, Section)]
#[section(name = "echoes")]
struct EchoesConfig {
    /// Control-plane origin.
    #[key(env = "CRABBOX_ECHOES_API_URL", default = "https://api.echoes.test", trust = operator)]
    api_url: Origin,
    /// API token; redacted, never a flag.
    #[key(env = ["CRABBOX_ECHOES_TOKEN", "ECHOES_TOKEN"], secret)]
    token: Option<Secret>,
}

static SPEC: ProviderSpec = ProviderSpec {
    name: "echoes",
    aliases: &[],
    family: "echoes",
    kind: ProviderKind::DelegatedRun,
    targets: &[Target::LINUX],
    capabilities: Capabilities {
        delegated: true,
        ..Capabilities::NONE
    },
    extra_features: FeatureSet::EMPTY,
    isolation_level: IsolationLevel::Container,
    persistence: Persistence::Ephemeral,
    egress: Egress::Open,
    ttl: TtlEnforcement::Provider,
    coordinator: CoordinatorMode::Never,
    classes: None,
    work_root: "/work/crabbox",
    section: EchoesConfig::SCHEMA,
    immutable_labels: &[],
    outlives_host: true,
    catalog: CatalogFacts {
        category: "delegated-sandbox",
        location: "provider-managed",
        summary: "Repeats what it hears",
    },
};

/// Names the provider and opens it.
#[derive(Debug, Default)]
struct Echoes {
    table: Arc<Mutex<BTreeMap<String, Machine>>>,
}

impl Provider for Echoes {
    fn spec(&self) -> &'static ProviderSpec {
        &SPEC
    }

    fn connect(&self, settings: Settings, _runtime: Arc<Runtime>) -> Result<Box<dyn Backend>> {
        let config: EchoesConfig = settings.section()?;
        if config.token.is_none() {
            return Err(Error::prerequisite("echoes needs an API token").with_hint("set ECHOES_TOKEN"));
        }
        Ok(Box::new(Connection {
            scope: Scope(format!("endpoint:{}", config.api_url)),
            table: Arc::clone(&self.table),
        }))
    }
}

struct Connection {
    scope: Scope,
    table: Arc<Mutex<BTreeMap<String, Machine>>>,
}

impl Connection {
    fn with_table<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Machine>) -> T) -> Result<T> {
        let mut table = self
            .table
            .lock()
            .map_err(|_| Error::other("the table of boxes is broken"))?;
        Ok(work(&mut table))
    }
}

#[async_trait]
impl Backend for Connection {
    fn scope(&self) -> Scope {
        self.scope.clone()
    }

    fn admit(&self, requirements: &Requirements) -> Result<()> {
        match requirements.egress {
            Some(Egress::None) => Err(Error::prerequisite("echoes cannot cut the network")),
            _ => Ok(()),
        }
    }

    async fn doctor(&self, _probe: Probe) -> Result<DoctorReport> {
        Ok(DoctorReport {
            checks: vec![Check::new("control-plane", CheckStatus::Ok, "answers")],
        })
    }

    async fn list(&self, _query: ListQuery) -> Result<Inventory> {
        self.with_table(|table| Inventory::complete(table.values().cloned().collect()))
    }

    fn delegated(&self) -> Option<&dyn DelegatedRunBackend> {
        Some(self)
    }
}

#[async_trait]
impl Lifecycle for Connection {
    async fn create(&self, request: &CreateLease, journal: &mut dyn Journal) -> Result<Machine> {
        let resource = ResourceId::new(request.name.as_str());
        // The vendor has said what the box is called: from here on a crash leaves enough to find it again.
        journal.resource_known(&resource).await?;
        let machine = Machine::new(SPEC.name, resource, request.labels.clone(), request.target);
        self.with_table(|table| table.insert(request.name.clone(), machine.clone()))?;
        Ok(machine)
    }

    async fn inspect(&self, binding: &Binding) -> Result<Observed> {
        self.with_table(|table| {
            let by_lease = || {
                table
                    .values()
                    .find(|machine| machine.lease().as_ref() == Some(&binding.lease))
            };
            let found = match &binding.resource {
                Some(resource) => table.get(&resource.id),
                None => by_lease(),
            };
            found.map_or(Observed::Absent(Absence::NotFound), |machine| {
                Observed::Present(Box::new(machine.clone()))
            })
        })
    }

    async fn update_labels(&self, machine: &Machine, labels: &Labels) -> Result<()> {
        self.with_table(|table| {
            if let Some(row) = table.get_mut(&machine.resource.id) {
                row.labels = labels.clone();
            }
        })
    }

    async fn destroy(&self, binding: &VerifiedBinding<'_>) -> Result<Outcome> {
        let removed = self.with_table(|table| table.remove(&binding.resource().id))?;
        Ok(if removed.is_some() {
            Outcome::Deleted
        } else {
            Outcome::AlreadyGone
        })
    }
}

#[async_trait]
impl DelegatedRunBackend for Connection {
    async fn exec(&self, _machine: &Machine, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        let [program, words @ ..] = request.argv.as_slice() else {
            return Err(Error::usage("no command to run"));
        };
        if program != "echo" {
            let message = format!("{program}: not found\n");
            output.write(OutputStream::Stderr, Bytes::from(message)).await?;
            return Ok(ExecStatus::exited(127));
        }
        output
            .write(OutputStream::Stdout, Bytes::from(words.join(" ") + "\n"))
            .await?;
        Ok(ExecStatus::exited(0))
    }

    async fn upload(&self, _machine: &Machine, destination: &RemotePath, _upload: Upload) -> Result<()> {
        Err(Error::remote(format!("echoes keeps no files: `{destination}`")))
    }
}

fn main() -> Result<()> {
    // What the engine does with it: read the declaration, settle the config, open the backend.
    let provider = Echoes::default();
    let settings = Settings::builder()
        .section(EchoesConfig::SCHEMA)
        .set(
            EchoesConfig::SCHEMA,
            "token",
            "not-a-real-token",
            crabbox_core::settings::Layer::Environment,
        )
        .build()?;
    let directories = crabbox_core::runtime::Directories {
        config: "/nonexistent/config".into(),
        state: "/nonexistent/state".into(),
        cache: "/nonexistent/cache".into(),
    };
    let runtime = Runtime::new(directories, "/nonexistent/crabbox".into(), Default::default());
    let backend = crabbox_core::backend::open(&provider, settings, Arc::new(runtime))?;
    assert!(backend.delegated().is_some() && backend.pause().is_none());
    assert_eq!(backend.scope().to_string(), "endpoint:https://api.echoes.test");
    Ok(())
}
