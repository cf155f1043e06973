//! `relay chat`: end-to-end encrypted conversations, for people and for bots.

mod govern;
mod keyring;
mod meet;
mod open;
mod opening;
mod passphrase;
mod read;
mod room;
mod show;
mod write;

use clap::{Args, Subcommand};

use crate::{app::App, error::Outcome};

pub use opening::{OrFail, connected, current, opened};
pub use read::to_json;

#[derive(Debug, Args)]
pub struct ChatGroup {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List your conversations and invitations
    #[command(after_help = read::LS_EXAMPLES)]
    Ls(read::Ls),
    /// Write to one person, beginning a conversation where there is none
    #[command(after_help = write::DM_EXAMPLES)]
    Dm(write::Dm),
    /// Print a line by which others can write to you
    #[command(after_help = meet::LINK_EXAMPLES)]
    Link(meet::Link),
    /// Write to whoever gave you such a line
    #[command(after_help = meet::MEET_EXAMPLES)]
    Meet(meet::Meet),
    /// Make a room
    #[command(after_help = write::NEW_EXAMPLES)]
    New(write::New),
    /// Send a message
    #[command(after_help = write::SEND_EXAMPLES)]
    Send(write::Send),
    /// Send a file
    #[command(after_help = write::FILE_EXAMPLES)]
    File(write::SendFile),
    /// Save the file of a message
    #[command(after_help = write::SAVE_EXAMPLES)]
    Save(write::Save),
    /// Change the words of a message of yours
    #[command(after_help = write::EDIT_EXAMPLES)]
    Edit(write::Edit),
    /// Ask everybody to forget a message of yours
    #[command(after_help = write::DELETE_EXAMPLES)]
    Delete(write::Delete),
    /// React to a message
    #[command(after_help = write::REACT_EXAMPLES)]
    React(write::React),
    /// Talk in a conversation, line by line: for every terminal and for screen readers
    #[command(after_help = open::EXAMPLES)]
    Open(open::Open),
    /// Follow what comes, in one conversation or in all
    #[command(after_help = read::TAIL_EXAMPLES)]
    Tail(read::Tail),
    /// Show a conversation's messages
    #[command(after_help = read::HISTORY_EXAMPLES)]
    History(read::History),
    /// Find messages by words
    #[command(after_help = read::SEARCH_EXAMPLES)]
    Search(read::Search),
    /// Write all messages that are here as JSON lines
    #[command(after_help = read::EXPORT_EXAMPLES)]
    Export(read::Export),
    /// What waits to be sent
    #[command(after_help = write::OUTBOX_EXAMPLES)]
    Outbox(write::Outbox),
    /// Mark as read
    #[command(after_help = room::READ_EXAMPLES)]
    Read(room::Read),
    /// Answer an invitation with yes
    #[command(after_help = room::ACCEPT_EXAMPLES)]
    Accept(room::One),
    /// Leave a conversation, or answer an invitation with no
    #[command(after_help = room::LEAVE_EXAMPLES)]
    Leave(room::One),
    /// Who is in a conversation
    #[command(after_help = read::MEMBERS_EXAMPLES)]
    Members(read::Members),
    /// Take people into a room
    #[command(after_help = room::INVITE_EXAMPLES)]
    Invite(room::People),
    /// Take people out of a room
    #[command(after_help = room::REMOVE_EXAMPLES)]
    Remove(room::People),
    /// Take people out of a room and keep them out; without people, list whom it keeps out
    #[command(after_help = govern::BAN_EXAMPLES)]
    Ban(govern::Ban),
    /// Let people be invited again
    #[command(after_help = govern::UNBAN_EXAMPLES)]
    Unban(room::People),
    /// Let somebody in again whose device has lost its state; without a person, list who asks
    #[command(after_help = govern::READMIT_EXAMPLES)]
    Readmit(govern::Readmit),
    /// Begin a new conversation in the place of one that is stuck
    #[command(after_help = govern::RESTART_EXAMPLES)]
    Restart(room::One),
    /// Make somebody an admin of a room, or a plain member again
    #[command(after_help = room::PROMOTE_EXAMPLES)]
    Promote(room::Promote),
    /// Name a room and say what it is about
    #[command(after_help = room::TITLE_EXAMPLES)]
    Title(room::Title),
    /// Give a conversation a name that only you see
    #[command(after_help = room::LABEL_EXAMPLES)]
    Label(room::Label),
    /// Keep a conversation at the top of the list
    #[command(after_help = room::PIN_EXAMPLES)]
    Pin(room::Switch),
    /// Announce nothing of a conversation
    #[command(after_help = room::MUTE_EXAMPLES)]
    Mute(room::Switch),
    /// Take a conversation out of the list
    #[command(after_help = room::ARCHIVE_EXAMPLES)]
    Archive(room::Switch),
    /// Compare safety numbers with somebody
    #[command(after_help = room::VERIFY_EXAMPLES)]
    Verify(room::Verify),
    /// Give people names, and list those you know
    #[command(after_help = room::NAME_EXAMPLES)]
    Name(room::Name),
    /// Protect what is stored here with a passphrase, or change it
    #[command(after_help = passphrase::EXAMPLES)]
    Passphrase(passphrase::Passphrase),
}

/// Talks in a conversation line by line.
#[cfg(feature = "tui")]
pub async fn line_mode(app: &App, conversation: String) -> Outcome {
    open::Open::of(conversation).run(app).await
}

impl ChatGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb.unwrap_or(Verb::Ls(read::Ls::default())) {
            Verb::Ls(verb) => verb.run(app).await,
            Verb::Dm(verb) => verb.run(app).await,
            Verb::Link(verb) => verb.run(app).await,
            Verb::Meet(verb) => verb.run(app).await,
            Verb::New(verb) => verb.run(app).await,
            Verb::Send(verb) => verb.run(app).await,
            Verb::File(verb) => verb.run(app).await,
            Verb::Save(verb) => verb.run(app).await,
            Verb::Edit(verb) => verb.run(app).await,
            Verb::Delete(verb) => verb.run(app).await,
            Verb::React(verb) => verb.run(app).await,
            Verb::Open(verb) => verb.run(app).await,
            Verb::Tail(verb) => verb.run(app).await,
            Verb::History(verb) => verb.run(app).await,
            Verb::Search(verb) => verb.run(app).await,
            Verb::Export(verb) => verb.run(app).await,
            Verb::Outbox(verb) => verb.run(app).await,
            Verb::Read(verb) => verb.run(app).await,
            Verb::Accept(verb) => verb.accept(app).await,
            Verb::Leave(verb) => verb.leave(app).await,
            Verb::Members(verb) => verb.run(app).await,
            Verb::Invite(verb) => verb.invite(app).await,
            Verb::Remove(verb) => verb.remove(app).await,
            Verb::Ban(verb) => verb.run(app).await,
            Verb::Unban(verb) => verb.unban(app).await,
            Verb::Readmit(verb) => verb.run(app).await,
            Verb::Restart(verb) => verb.restart(app).await,
            Verb::Promote(verb) => verb.run(app).await,
            Verb::Title(verb) => verb.run(app).await,
            Verb::Label(verb) => verb.run(app).await,
            Verb::Pin(verb) => verb.pin(app).await,
            Verb::Mute(verb) => verb.mute(app).await,
            Verb::Archive(verb) => verb.archive(app).await,
            Verb::Verify(verb) => verb.run(app).await,
            Verb::Name(verb) => verb.run(app).await,
            Verb::Passphrase(verb) => verb.run(app).await,
        }
    }
}
