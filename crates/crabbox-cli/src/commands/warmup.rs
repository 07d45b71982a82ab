//! `crabbox warmup`

use std::time::Instant;

use clap::{ArgAction, Args};
use crabbox_core::duration;
use crabbox_engine::api::WarmupRequest;
use crabbox_engine::event::LeaseInfo;
use crabbox_evidence::timing::{TimingReport, warmup_complete_line};

use super::flags::{LeaseFlags, heading};
use super::run::provider_name;
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Gets a box and leaves it running for later commands.
#[derive(Args, Clone, Debug)]
pub(crate) struct WarmupArgs {
    #[command(flatten)]
    lease: LeaseFlags,
    /// Leave the box to nobody but its expiry and `crabbox stop`; on unless `--keep=false`.
    #[arg(
        long,
        action = ArgAction::Set, num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "true",
        value_parser = crate::grammar::go_boolean,
        help_heading = heading::LEASE
    )]
    keep: bool,
    /// Take over a lease that another checkout has claimed.
    #[arg(long, help_heading = heading::LEASE)]
    reclaim: bool,
    /// Print the times as one line of JSON at the end of standard error.
    #[arg(long, help_heading = heading::OUTPUT)]
    timing_json: bool,
}

/// Runs it.
pub(crate) async fn run(args: WarmupArgs, session: &Session) -> anyhow::Result<Ending> {
    let (begun, timing_json) = (Instant::now(), args.timing_json);
    let mut provider = String::new();
    match attempt(args, session, &mut provider).await {
        // Programs count on the times whichever stage failed.
        Err(failure) if timing_json => {
            Ending::timed_failure(failure, "warmup", TimingReport::new(provider), begun.elapsed())
        }
        ended => ended,
    }
}

async fn attempt(args: WarmupArgs, session: &Session, provider: &mut String) -> anyhow::Result<Ending> {
    let engine = session.engine(Renderer::plain(session))?;
    *provider = provider_name(&engine);
    let mut request = WarmupRequest::default();
    request.slug = args.lease.slug;
    request.keep = args.keep;
    request.reclaim = args.reclaim;
    let outcome = engine.warmup(request).await?;
    session.output.line(leased(&outcome.lease))?;
    session.output.line(format!(
        "ready ssh=- network=auto workroot={}",
        value(&outcome.lease.work_root)
    ))?;
    session.output.line(warmup_complete_line(outcome.timing.total))?;
    let last_line = if args.timing_json {
        Some(outcome.timing.to_json()?)
    } else {
        None
    };
    Ok(Ending::success().with_last_line(last_line))
}

/// The line that other programs look for: `^leased\s+(\S+)\s`.
fn leased(lease: &LeaseInfo) -> String {
    format!(
        "leased {} slug={} provider={} server={} type={} ip={} idle_timeout={} expires={}",
        lease.lease,
        value(lease.slug.as_ref().map_or("", |slug| slug.as_str())),
        value(&lease.provider),
        value(&lease.server),
        value(&lease.server_type),
        value(&lease.host),
        duration::format(lease.idle_timeout),
        lease.expires_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
    )
}
