//! `crabbox cp`

use std::path::Path;

use clap::Args;
use crabbox_core::{Error, Result};
use crabbox_engine::api::{CopyPath, CopyRequest};

use super::flags::{TargetFlags, heading};
use crate::ending::Ending;
use crate::render::Renderer;
use crate::session::Session;

/// What marks the side of a copy that is on the box. Case does not matter.
const MARK: &str = "sandbox:";

/// Copies files between this machine and a box.
///
/// One side starts with `SANDBOX:`; what follows is a path on the box, absolute or relative to the workspace.
#[derive(Args, Clone, Debug)]
pub(crate) struct CpArgs {
    /// What to copy.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to copy it.
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Lease id or slug.
    #[arg(long, value_name = "LEASE", required = true, help_heading = heading::LEASE)]
    id: String,
    /// Follow symbolic links of this machine.
    #[arg(short = 'L')]
    follow_links: bool,
    #[command(flatten)]
    target: TargetFlags,
}

/// Runs it.
pub(crate) async fn run(args: CpArgs, session: &Session) -> anyhow::Result<Ending> {
    let (source, destination) = sides(&args.source, &args.destination, &session.directory)?;
    let engine = session.engine(Renderer::plain(session))?;
    let mut request = CopyRequest::new(args.id, source, destination);
    request.follow_links = args.follow_links;
    engine.copy(request).await?;
    Ok(Ending::success())
}

fn sides(source: &str, destination: &str, directory: &Path) -> Result<(CopyPath, CopyPath)> {
    let sides = (side(source, directory)?, side(destination, directory)?);
    match sides {
        (CopyPath::Here(_), CopyPath::Box(_)) | (CopyPath::Box(_), CopyPath::Here(_)) => Ok(sides),
        _ => Err(Error::usage(format!(
            "exactly one side must be on the box: `{} {}`",
            source.escape_debug(),
            destination.escape_debug()
        ))
        .with_hint("write `SANDBOX:` before the path on the box, such as `SANDBOX:target/report.xml`")),
    }
}

fn side(text: &str, directory: &Path) -> Result<CopyPath> {
    match text.get(..MARK.len()) {
        Some(mark) if mark.eq_ignore_ascii_case(MARK) => match &text[MARK.len()..] {
            "" => Err(Error::usage(format!("path on the box is empty: `{text}`"))
                .with_hint("write a path after `SANDBOX:`; `SANDBOX:.` is the workspace")),
            path => Ok(CopyPath::Box(path.to_owned())),
        },
        _ => Ok(CopyPath::Here(directory.join(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_side_is_on_the_box() {
        let directory = Path::new("/here");
        assert_eq!(
            sides("a", "sandbox:b/c", directory).unwrap(),
            (CopyPath::Here("/here/a".into()), CopyPath::Box("b/c".into()))
        );
        assert_eq!(
            sides("SANDBOX:/x", "/abs", directory).unwrap(),
            (CopyPath::Box("/x".into()), CopyPath::Here("/abs".into()))
        );
        for (source, destination) in [("a", "b"), ("SANDBOX:a", "SANDBOX:b"), ("SANDBOX:", "b")] {
            assert_eq!(sides(source, destination, directory).unwrap_err().kind().exit_code(), 2);
        }
    }
}
