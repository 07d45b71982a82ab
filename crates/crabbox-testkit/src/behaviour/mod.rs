//! The behaviours of the contract, one public function each.
//!
//! Every `# Behaviour` line in `crabbox-core` is a case here. A case drives the provider's [`Backend`] directly, as the
//! engine does: names and labels allocated beforehand, a [`Journal`](crabbox_core::Journal) at its side, and nothing
//! destroyed but through a [`VerifiedBinding`](crabbox_core::VerifiedBinding) minted under a held lock. When a case ends,
//! passed or not, its boxes are destroyed and it is checked that nothing is left.
//!
//! ```ignore
//! // tests/behaviour.rs of a provider
//! crabbox_testkit::delegated_behaviour!(fixture::start);
//! ```

mod bench;
mod boundaries;
mod checkpoints;
mod commands;
mod endings;
mod files;
mod lifecycle;
mod ownership;
mod sinks;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crabbox_core::backend::{Backend, Provider, open};
use crabbox_core::runtime::Runtime;
use crabbox_core::settings::Settings;
use crabbox_core::spec::{IsolationLevel, ProviderSpec, TtlEnforcement};

pub use boundaries::{
    host_processes_are_not_seen, host_variables_are_not_seen, host_workspaces_are_the_workspace,
    host_workspaces_follow_no_links, links_lead_no_download_out, links_lead_no_upload_out, secrets_are_seen_nowhere,
};
pub use checkpoints::{
    a_checkpoint_in_use_is_not_pulled_away, checkpoints_keep_what_was_there, checkpoints_outlive_their_box,
    forks_are_isolated, restoring_discards_what_came_after, unknown_checkpoints_are_refused,
};
pub use commands::{
    arguments_arrive_untouched, big_output_needs_little_memory, commands_are_started_once,
    commands_run_at_the_same_time, exit_codes_are_data, input_arrives, missing_directories_are_errors,
    output_comes_as_it_is_written, programs_that_do_not_exist_are_data, signals_are_data,
    slow_readers_slow_the_command, streams_stay_apart, unread_input_blocks_nothing, variables_arrive_untouched,
};
pub use endings::{
    a_cancelled_request_starts_nothing, a_failing_sink_ends_the_command, cancelling_ends_the_stubborn,
    cancelling_ends_the_whole_tree, leftover_processes_hold_nobody_up, pausing_stops_everything, time_runs_out,
};
pub use files::{
    downloads_bring_regular_files_only, downloads_bring_what_is_there, uploads_arrive_with_their_mode,
    uploads_belong_to_the_box, uploads_of_any_size_arrive,
};
pub use lifecycle::{
    boxes_are_created_at_the_same_time, doctor_changes_nothing, expired_boxes_end_by_themselves, labels_are_replaced,
    labels_are_there_from_the_first_moment, lists_are_complete, looking_tells_present_from_absent,
    lost_ids_are_found_by_label, the_journal_knows_first, unfit_requirements_are_refused,
};
pub use ownership::{
    a_failing_journal_leaves_nothing_unknown, cancelled_creates_leave_nothing_unknown, destroying_ends_every_process,
    destroying_twice_is_harmless, foreign_boxes_are_refused, recreated_boxes_are_refused,
};

/// What a provider brings to be tested with.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The provider.
    fn provider(&self) -> Arc<dyn Provider>;

    /// What it is connected with.
    fn settings(&self) -> Settings;

    /// What it may use of the outside. `directories` are the test's own, `executable` serves the provider's helper.
    fn runtime(&self) -> Arc<Runtime>;

    /// An empty directory of this machine for the suite's own files, outside `runtime().directories`.
    fn scratch(&self) -> &Path;

    /// Cases that this provider cannot pass, with the reason. They appear in the reviewed list.
    fn skips(&self) -> &[(&'static str, &'static str)] {
        &[]
    }

    /// Longest that one case may take, and then the destruction of what it made.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }

    /// What is left behind once every box of a case is destroyed, one line each.
    async fn leftovers(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a case needs of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// [`Files`](crabbox_core::backend::Files).
    Files,
    /// [`HostWorkspace`](crabbox_core::backend::HostWorkspace).
    HostWorkspace,
    /// [`Pause`](crabbox_core::backend::Pause).
    Pause,
    /// [`Checkpoints`](crabbox_core::backend::Checkpoints).
    Checkpoints,
    /// Boxes with a file system and processes of their own.
    Isolation,
    /// Boxes that end although nobody asks.
    Reaper,
}

impl Need {
    /// What is missing, unless the provider has it.
    fn missing(self, spec: &ProviderSpec) -> Option<&'static str> {
        let has = spec.capabilities;
        let (present, what) = match self {
            Self::Files => (has.files, "no files capability"),
            Self::HostWorkspace => (has.host_workspace, "no host workspace"),
            Self::Pause => (has.pause, "no pause and resume"),
            Self::Checkpoints => (has.checkpoints, "no checkpoints"),
            Self::Isolation => (
                spec.isolation_level >= IsolationLevel::Container,
                "no isolated file system",
            ),
            Self::Reaper => (spec.ttl == TtlEnforcement::Provider, "nobody ends its boxes"),
        };
        (!present).then_some(what)
    }
}

/// What a case does while it runs.
pub type CaseFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One behaviour.
#[derive(Clone, Copy)]
pub struct Case {
    /// Name of the function.
    pub name: &'static str,
    /// What it needs of the provider.
    pub needs: &'static [Need],
    run: for<'a> fn(&'a dyn Fixture) -> CaseFuture<'a>,
}

impl Case {
    /// Why a fixture's provider cannot run it, if it cannot.
    pub fn skipped(&self, fixture: &dyn Fixture) -> Option<String> {
        let excused = fixture
            .skips()
            .iter()
            .find(|(name, _)| *name == self.name)
            .map(|(_, reason)| *reason);
        let provider = fixture.provider();
        let missing = || self.needs.iter().find_map(|need| need.missing(provider.spec()));
        excused.or_else(missing).map(str::to_owned)
    }

    /// Runs it.
    ///
    /// # Panics
    /// When the provider does not behave, or when the case takes longer than the fixture's patience.
    pub async fn run(&self, fixture: &dyn Fixture) {
        (self.run)(fixture).await;
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Case")
            .field("name", &self.name)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

/// Hands the list of cases of the delegated shape to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __delegated_cases {
    ($callback:ident, $($start:path)?) => {
        $crate::$callback! { [$($start)?]
            the_journal_knows_first [],
            labels_are_there_from_the_first_moment [],
            labels_are_replaced [],
            lists_are_complete [],
            looking_tells_present_from_absent [],
            lost_ids_are_found_by_label [],
            boxes_are_created_at_the_same_time [],
            unfit_requirements_are_refused [],
            doctor_changes_nothing [],
            expired_boxes_end_by_themselves [Reaper],
            destroying_twice_is_harmless [],
            destroying_ends_every_process [],
            foreign_boxes_are_refused [],
            recreated_boxes_are_refused [],
            cancelled_creates_leave_nothing_unknown [],
            a_failing_journal_leaves_nothing_unknown [],
            exit_codes_are_data [],
            commands_are_started_once [],
            signals_are_data [],
            programs_that_do_not_exist_are_data [],
            arguments_arrive_untouched [],
            variables_arrive_untouched [],
            input_arrives [],
            unread_input_blocks_nothing [],
            streams_stay_apart [],
            output_comes_as_it_is_written [],
            slow_readers_slow_the_command [],
            big_output_needs_little_memory [],
            commands_run_at_the_same_time [],
            missing_directories_are_errors [],
            cancelling_ends_the_whole_tree [],
            cancelling_ends_the_stubborn [],
            a_cancelled_request_starts_nothing [],
            time_runs_out [],
            a_failing_sink_ends_the_command [],
            leftover_processes_hold_nobody_up [],
            pausing_stops_everything [Pause],
            uploads_arrive_with_their_mode [],
            uploads_belong_to_the_box [],
            uploads_of_any_size_arrive [],
            downloads_bring_what_is_there [Files],
            downloads_bring_regular_files_only [Files],
            host_workspaces_are_the_workspace [HostWorkspace],
            host_workspaces_follow_no_links [HostWorkspace, Isolation],
            links_lead_no_upload_out [Isolation],
            links_lead_no_download_out [Files, Isolation],
            host_variables_are_not_seen [],
            host_processes_are_not_seen [Isolation],
            secrets_are_seen_nowhere [],
            checkpoints_keep_what_was_there [Checkpoints],
            checkpoints_outlive_their_box [Checkpoints],
            restoring_discards_what_came_after [Checkpoints],
            forks_are_isolated [Checkpoints],
            a_checkpoint_in_use_is_not_pulled_away [Checkpoints],
            unknown_checkpoints_are_refused [Checkpoints],
        }
    };
}

/// Makes the table of cases.
#[doc(hidden)]
#[macro_export]
macro_rules! __case_table {
    ([] $($name:ident [$($need:ident),*],)*) => {
        &[$($crate::behaviour::Case {
            name: stringify!($name),
            needs: &[$($crate::behaviour::Need::$need),*],
            run: |fixture| Box::pin($crate::behaviour::$name(fixture)),
        }),*]
    };
}

/// Makes a test of each case.
#[doc(hidden)]
#[macro_export]
macro_rules! __case_tests {
    ([$start:path] $($name:ident [$($need:ident),*],)*) => {
        $(
            #[test]
            fn $name() {
                $crate::behaviour::run_case(stringify!($name), $start);
            }
        )*

        /// The list of what runs and what does not, and why: a skipped case is a change that somebody reviews.
        #[test]
        fn cases() {
            $crate::insta::assert_snapshot!("cases", $crate::behaviour::list_of_cases($start));
        }
    };
}

/// Makes one test of each behaviour of a delegated provider, and a snapshot of which run.
///
/// Takes the path of an `async fn() -> impl Fixture`.
#[macro_export]
macro_rules! delegated_behaviour {
    ($start:path) => {
        $crate::__delegated_cases! { __case_tests, $start }
    };
}

/// Every behaviour of a delegated provider.
pub const DELEGATED: &[Case] = crate::__delegated_cases! { __case_table, };

/// Runs a case by its name with a fixture of its own, in a runtime of its own. Tells why when it is skipped.
///
/// # Panics
/// When the provider does not behave.
pub fn run_case<F: Fixture>(name: &str, start: impl AsyncFnOnce() -> F) {
    let case = DELEGATED
        .iter()
        .find(|case| case.name == name)
        .expect("the macro lists what the table lists");
    block_on(async {
        let fixture = start().await;
        match case.skipped(&fixture) {
            Some(reason) => tell(&format!("skip {name}: {reason}")),
            None => case.run(&fixture).await,
        }
    });
}

/// One line for each case: `run` or `skip`, its name, and why it is skipped.
pub fn list_of_cases<F: Fixture>(start: impl AsyncFnOnce() -> F) -> String {
    block_on(async {
        let fixture = start().await;
        let line = |case: &Case| match case.skipped(&fixture) {
            Some(reason) => format!("skip {}: {reason}\n", case.name),
            None => format!("run  {}\n", case.name),
        };
        DELEGATED.iter().map(line).collect()
    })
}

#[expect(clippy::print_stdout, reason = "a skipped test says so where its output is read")]
fn tell(line: &str) {
    println!("{line}");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(future)
}

/// Opens a fixture's provider.
fn connect(fixture: &dyn Fixture) -> Box<dyn Backend> {
    open(&*fixture.provider(), fixture.settings(), fixture.runtime()).expect("the provider connects")
}
