//! The suite itself: a plain provider passes it, and each of its defects fails the case that is about it.
#![cfg(target_os = "linux")]

mod plain;

use std::panic::catch_unwind;

use crabbox_testkit::behaviour::run_case;
use plain::{Defect, start};

crabbox_testkit::delegated_behaviour!(start);

/// Makes a test of each defect: the case that is about it must fail.
macro_rules! defects {
    ($($name:ident: $defect:ident in $case:literal,)*) => {$(
        #[test]
        fn $name() {
            let found = catch_unwind(|| run_case($case, async || plain::with(Some(Defect::$defect)).await));
            assert!(found.is_err(), "{:?} passes {}", Defect::$defect, $case);
        }
    )*};
}

mod defects {
    use super::{Defect, catch_unwind, plain, run_case};

    defects! {
        journal_forgotten: JournalForgotten in "the_journal_knows_first",
        journal_ignored: JournalIgnored in "a_failing_journal_leaves_nothing_unknown",
        labels_late: LabelsLate in "labels_are_there_from_the_first_moment",
        labels_added: LabelsAdded in "labels_are_replaced",
        list_forgets: ListForgets in "lists_are_complete",
        label_lookup_missing: LabelLookupMissing in "lost_ids_are_found_by_label",
        anything_present: AnythingPresent in "looking_tells_present_from_absent",
        admits_anything: AdmitsAnything in "unfit_requirements_are_refused",
        destroy_leaves_processes: DestroyLeavesProcesses in "destroying_ends_every_process",
        destroy_fails_twice: DestroyFailsTwice in "destroying_twice_is_harmless",
        status_lost: StatusLost in "exit_codes_are_data",
        signals_unknown: SignalsUnknown in "signals_are_data",
        arguments_through_shell: ArgumentsThroughShell in "arguments_arrive_untouched",
        environment_leaks: EnvironmentLeaks in "host_variables_are_not_seen",
        streams_merged: StreamsMerged in "streams_stay_apart",
        output_buffered: OutputBuffered in "output_comes_as_it_is_written",
        output_buffered_again: OutputBuffered in "big_output_needs_little_memory",
        output_buffered_still: OutputBuffered in "slow_readers_slow_the_command",
        waits_for_stdin: WaitsForStdin in "unread_input_blocks_nothing",
        cancel_ends_leader_only: CancelEndsLeaderOnly in "cancelling_ends_the_whole_tree",
        cancel_polite_only: CancelPoliteOnly in "cancelling_ends_the_stubborn",
        cancel_ignored: CancelIgnored in "a_cancelled_request_starts_nothing",
        pause_forgotten: PauseForgotten in "pausing_stops_everything",
        mode_lost: ModeLost in "uploads_arrive_with_their_mode",
        downloads_anything: DownloadsAnything in "downloads_bring_regular_files_only",
        checkpoint_shared: CheckpointShared in "checkpoints_keep_what_was_there",
        restore_adds: RestoreAdds in "restoring_discards_what_came_after",
        secrets_in_arguments: SecretsInArguments in "secrets_are_seen_nowhere",
    }
}
