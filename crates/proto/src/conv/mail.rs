//! What relays tell the homes of users (`federation.md`, Homes): the home of a conversation those of who is in it,
//! the home of somebody who blocks those of who is blocked.

use serde::{Deserialize, Serialize};

use super::ConvId;
use crate::{NodeId, auth::DeviceId};

/// News for one user. Whose conversation it is about is not said: it is that of the relay that tells. Whoever blocks
/// lives there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mail {
    /// The user is in a conversation.
    Joined {
        conv_id: ConvId,
        /// Who brought them in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<NodeId>,
    },
    /// And is in it no longer.
    Left { conv_id: ConvId },
    /// For a device's inbox; worth something only if the inviter was given the KeyPackage.
    Welcome {
        device_id: DeviceId,
        conv_id: ConvId,
        conv_seq: u64,
        inviter: NodeId,
        /// Hexadecimal.
        key_package_ref: String,
        env: String,
    },
    /// For the inbox of every device: a member's device wants to be removed and added again.
    RejoinRequest {
        conv_id: ConvId,
        /// Beside it lies the `user_id` of whom it is for.
        #[serde(rename = "asking_user_id")]
        user_id: NodeId,
        device_id: DeviceId,
    },
    /// Somebody blocks the user, or does so no longer.
    Blocked { by: NodeId, is_blocked: bool },
}

/// [`Mail`] with its number at the relay that tells; for one user the numbers rise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedMail {
    pub n: u64,
    pub user_id: NodeId,
    #[serde(flatten)]
    pub mail: Mail,
}
