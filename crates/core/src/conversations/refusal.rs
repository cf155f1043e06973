//! What clients are told of refusals; the texts are part of the wire (`gateway.md` 2.2).

use relay_proto::{
    Code, Problem,
    conv::{EpochRefusal, Profile},
};
use relay_store::chat::{GovernRefusal, PostRefusal};

use crate::limits::Exceeded;

/// The one answer for conversations that are not there and conversations of others.
pub fn not_a_member() -> Problem {
    Problem::forbidden("not a member")
}

/// A count is at its limit; waiting does not help.
pub fn limit_exceeded(message: &str) -> Problem {
    Problem::new(Code::LimitExceeded, message).with("retry_after_s", 0)
}

fn exceeded(retry_after_ms: u64) -> Problem {
    Exceeded { retry_after_ms }.into()
}

pub(super) fn post(refusal: PostRefusal) -> Problem {
    match refusal {
        PostRefusal::NotMember => not_a_member(),
        PostRefusal::Muted => Problem::forbidden("muted"),
        PostRefusal::Exceeded(wait_ms) => exceeded(wait_ms),
        PostRefusal::Blocked => Problem::forbidden("blocked"),
        PostRefusal::MsgIdUsed => Problem::invalid("msg_id already used"),
        PostRefusal::OtherBytes { epoch, head_seq } => {
            let message = "the msg_id was used for other bytes";
            conflict(message, "msg_id_reused", epoch, head_seq)
        }
        PostRefusal::Mls(error) => Problem::invalid(format!("env: {error}")),
        PostRefusal::WrongKind => Problem::invalid("env is not a message of this kind"),
        PostRefusal::OtherGroup => Problem::invalid("env is of another group"),
        PostRefusal::Epoch { refusal, profile, epoch, head_seq } => {
            let reason = match refusal {
                EpochRefusal::Stale => "stale_epoch",
                EpochRefusal::Future => "future_epoch",
            };
            let problem = conflict(&refusal.to_string(), reason, epoch, head_seq);
            match profile {
                Profile::Opaque => problem.with("current_epoch", epoch),
                Profile::RelayMls1 => problem,
            }
        }
    }
}

fn conflict(message: &str, reason: &str, epoch: u64, head_seq: u64) -> Problem {
    Problem::new(Code::Conflict, message)
        .with("reason", reason)
        .with("epoch", epoch)
        .with("head_seq", head_seq)
}

pub(super) fn govern(refusal: GovernRefusal) -> Problem {
    match refusal {
        GovernRefusal::Forbidden => Problem::forbidden("forbidden"),
        GovernRefusal::NotARoom => Problem::invalid("not a room"),
        GovernRefusal::Blocked => Problem::forbidden("blocked"),
        GovernRefusal::Banned => Problem::forbidden("banned"),
        GovernRefusal::TooMany => limit_exceeded("too many members or conversations"),
        GovernRefusal::Exceeded(wait_ms) => exceeded(wait_ms),
    }
}
