//! The named steps of a lease's life: the points at which a crash must leave nothing that cleanup cannot find.

macro_rules! steps {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// A named step of acquire, sync, run or release. Reported as an event right after its effect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Step { $($(#[$doc])* $variant),+ }

        impl Step {
            /// Every step, in the order in which a run reaches them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The step's name in logs and tests.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

steps! {
    /// The journal holds the intent to create a box.
    Prepared = "acquire.prepared",
    /// The claim exists, without a resource.
    Claimed = "acquire.claimed",
    /// The journal knows the resource id.
    ResourceKnown = "acquire.resource-known",
    /// The provider's create call has returned.
    Created = "acquire.created",
    /// The claim names the resource and the journal says acquired.
    Acquired = "acquire.acquired",
    /// This client holds the workspace.
    WorkspaceLocked = "sync.workspace-locked",
    /// The manifest is complete; nothing has travelled.
    Manifested = "sync.manifested",
    /// The workspace equals the checkout.
    Synced = "sync.synced",
    /// The command has been handed to the box.
    CommandStarted = "run.command-started",
    /// The command has ended.
    CommandFinished = "run.command-finished",
    /// Results and downloads are on this machine.
    Collected = "run.collected",
    /// The run record is complete.
    Recorded = "run.recorded",
    /// The claim is locked for release.
    ReleaseLocked = "release.locked",
    /// The journal holds the intent to destroy the box.
    Releasing = "release.releasing",
    /// Claim and resource were compared and agree.
    Verified = "release.verified",
    /// The provider has destroyed the box.
    Destroyed = "release.destroyed",
    /// Claim and key are gone.
    Forgotten = "release.forgotten",
    /// The journal entry is gone.
    Released = "release.released",
}

impl std::fmt::Display for Step {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.as_str())
    }
}
