//! Conversations and all that their members' devices need, in the product's verbs (`gateway.md` 5 to 13, 15).
//!
//! Every verb is one transaction. Whatever depends on the state of a conversation is decided under the lock of its
//! row, so that `seq`, epoch and membership change in one order.

mod blobs;
mod commit;
mod contacts;
mod conversations;
mod govern;
mod inbox;
mod key_packages;
mod mail;
mod personal;
mod post;
mod push;
mod read;
mod retention;
mod users;

pub use blobs::{BlobRefusal, BlobRow};
pub use commit::{CommitBundle, Committed as CommitOutcome, InboxPost, WelcomeFor};
pub use contacts::{ContactChange, ContactKind, ContactOutcome};
pub use conversations::{ConversationRow, CreateOutcome, MemberRow, NewConversation};
pub use govern::{GovernOutcome, GovernRefusal, Governing};
pub use inbox::{InboxEntry, InboxPage};
pub use key_packages::{Fetch, Fetched, FetchedDevice, NewKeyPackage, PoolRow, Publish, Published};
pub use mail::{BlockHeard, MailTake, MailTaken, Place, RejoinAsked};
pub use personal::{ConversationView, MarkOutcome, PersonalChange, PersonalOutcome};
pub use post::{NewMessage, PostBatch, PostRefusal, Posted};
pub use push::PushTarget;
pub use read::{LogPage, LogQuery, LogWindow};
pub use retention::{ConversationRetention, Pruned};
pub use users::UserRow;

use std::{fmt, sync::Arc};

/// Asked in the middle of a decision, in the order of `gateway.md` 5: may this go on as far as rates are concerned?
/// `Err` holds the milliseconds to wait. Must be quick.
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn() -> Result<(), u64> + Send + Sync>);

impl Gate {
    pub fn new(ask: impl Fn() -> Result<(), u64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Lets everything pass.
    pub fn open() -> Self {
        Self::new(|| Ok(()))
    }

    fn ask(&self) -> Result<(), u64> {
        (self.0)()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}
