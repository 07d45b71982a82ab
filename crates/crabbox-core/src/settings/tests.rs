use super::*;
use crate::secret::{Origin, Secret};

#[derive(Clone, Debug, crate::Section)]
#[section(name = "acme")]
struct Acme {
    /// Region.
    #[key(env = "CRABBOX_ACME_REGION", default = "eu1")]
    region: String,
    /// Address.
    #[key(env = "CRABBOX_ACME_API_URL", flag = "acme-url", default = "https://api.acme.test")]
    api_url: Origin,
    /// Token.
    #[key(env = ["CRABBOX_ACME_TOKEN", "ACME_TOKEN"], secret)]
    token: Option<Secret>,
    /// Port.
    #[key(default = 22)]
    port: u16,
    /// Disk, in bytes.
    #[key(kind = bytes, default = "5GiB")]
    disk: u64,
    /// Program.
    #[key(trust = operator)]
    cli_path: Option<String>,
    /// Size.
    #[key(values = ["small|s", "large"], default = "small")]
    size: String,
    /// Project.
    #[key(name = "projectID", env = "CRABBOX_ACME_PROJECT", alias = "project")]
    project: String,
}

fn with(pairs: &[(&str, &str, Layer)]) -> Result<Acme> {
    let start = Settings::builder()
        .provider("acme-box")
        .set(Acme::SCHEMA, "projectID", "p", Layer::Flag);
    pairs
        .iter()
        .fold(start, |builder, (key, text, layer)| {
            builder.set(Acme::SCHEMA, key, text, *layer)
        })
        .build()?
        .section()
}

#[test]
fn the_declaration_is_complete() {
    Acme::SCHEMA.check().unwrap();
    let keys: Vec<_> = Acme::SCHEMA.keys.iter().map(|key| key.name).collect();
    assert_eq!(
        keys,
        [
            "region",
            "apiUrl",
            "token",
            "port",
            "disk",
            "cliPath",
            "size",
            "projectID"
        ]
    );
    let token = Acme::SCHEMA.key("token").unwrap();
    assert!(token.secret && token.flag.is_none());
    assert_eq!(token.environment, ["CRABBOX_ACME_TOKEN", "ACME_TOKEN"]);
    assert!(Acme::SCHEMA.key("apiUrl").unwrap().destination);
    assert_eq!(
        Acme::SCHEMA.key("cliPath").unwrap().trust,
        crate::section::Trust::Operator
    );
    assert_eq!(Acme::SCHEMA.key("region").unwrap().help, "Region.");
    assert_eq!(Acme::SCHEMA.key("projectID").unwrap().aliases, ["project"]);
}

#[test]
fn values_arrive_in_their_types() {
    let acme = with(&[
        ("size", "S", Layer::UserFile),
        ("port", "2222", Layer::Flag),
        ("token", " t ", Layer::Environment),
    ])
    .unwrap();
    assert_eq!(
        (acme.region.as_str(), acme.port, acme.disk, acme.size.as_str()),
        ("eu1", 2222, 5 << 30, "small")
    );
    assert_eq!(acme.token.as_ref().map(Secret::expose), Some("t"));
    assert_eq!((acme.cli_path, acme.project.as_str()), (None, "p"));
    assert_eq!(acme.api_url.as_str(), "https://api.acme.test");
}

#[test]
fn errors_name_the_place() {
    let mut values = SectionValues::defaults(Acme::SCHEMA).unwrap();
    values
        .set(
            "port",
            SettingValue::Integer(99_999),
            Provenance::new(Layer::UserFile, "/c.yaml:3"),
        )
        .unwrap();
    let error = Settings::default().with_section(values).section::<Acme>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "parse config /c.yaml:3: acme.port: number out of range: 99999"
    );
    let error = Settings::default().section::<Acme>().unwrap_err();
    assert_eq!(error.to_string(), "setting is required: `acme.projectID`");
    assert_eq!(
        error.hint(),
        Some("set `CRABBOX_ACME_PROJECT` or it in your config file")
    );
    assert!(with(&[("nope", "1", Layer::Flag)]).is_err());
}

#[test]
fn an_operators_credential_never_goes_where_a_repository_points() {
    let destination = ("apiUrl", "https://evil.test", Layer::RepositoryFile);
    let error = with(&[destination, ("token", "t", Layer::Environment)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "provider=acme-box refuses repository-configured apiUrl with inherited credentials"
    );
    assert_eq!(
        error.hint(),
        Some("set `CRABBOX_ACME_API_URL` or `--acme-url` to approve the destination")
    );
    assert_eq!(error.kind().exit_code(), 2);
    // Self-contained in the repository, or approved by the operator: allowed.
    with(&[destination, ("token", "t", Layer::RepositoryFile)]).unwrap();
    with(&[
        ("apiUrl", "https://evil.test", Layer::Flag),
        ("token", "t", Layer::Environment),
    ])
    .unwrap();
    // Credentials from elsewhere, such as the vendor's own store.
    let settings = Settings::builder()
        .set(Acme::SCHEMA, "apiUrl", "https://evil.test", Layer::RepositoryFile)
        .build()
        .unwrap();
    assert!(settings.guard_destination("acme", "apiUrl", Layer::UserFile).is_err());
    assert!(settings.guard_destination("acme", "region", Layer::UserFile).is_ok());
}

#[test]
fn settings_never_show_values() {
    let settings = Settings::from_pairs(Acme::SCHEMA, &[("token", "hunter2")]).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}
