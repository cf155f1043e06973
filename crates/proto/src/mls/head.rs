//! The head of an `MLSMessage` (`mls-profile.md` 6.1).

use super::{MlsError, decode_base64, reader::Reader};

/// What the relay learns of a message. It never looks further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    Public { group_id: [u8; 32], epoch: u64, sender: Sender, content: Content },
    Private { group_id: [u8; 32], epoch: u64, content: Content },
    Welcome,
    GroupInfo,
    KeyPackage,
}

/// Who a PublicMessage says that it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Member,
    External,
    NewMemberProposal,
    NewMemberCommit,
}

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Application,
    Proposal,
    Commit,
}

/// What a message may be handed in as; everything else is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    Application,
    Proposal,
    Commit,
    /// By somebody who is not in the group yet, or not any longer with this leaf.
    ExternalCommit,
    Welcome,
    KeyPackage,
    /// Only inside the seal of the published GroupInfo, never bare.
    GroupInfo,
}

impl Accepted {
    /// The `accept_as` of the vectors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Proposal => "proposal",
            Self::Commit => "commit",
            Self::ExternalCommit => "external_commit",
            Self::Welcome => "welcome",
            Self::KeyPackage => "key_package",
            Self::GroupInfo => "group_info_only_inside_seal",
        }
    }
}

impl Head {
    /// Reads the head of a message.
    ///
    /// # Errors
    /// [`MlsError`] for what is malformed.
    pub fn parse(message: &[u8]) -> Result<Self, MlsError> {
        let mut reader = Reader::new(message);
        if reader.u16()? != 1 {
            return Err(MlsError::Version);
        }
        match reader.u16()? {
            1 => Self::public(reader),
            2 => Self::private(reader),
            3 => Ok(Self::Welcome),
            4 => Ok(Self::GroupInfo),
            5 => Ok(Self::KeyPackage),
            _ => Err(MlsError::WireFormat),
        }
    }

    /// Reads the head of a message in base64.
    ///
    /// # Errors
    /// [`MlsError`].
    pub fn of_base64(env: &str) -> Result<Self, MlsError> {
        Self::parse(&decode_base64(env)?)
    }

    /// What the message may be handed in as, if the profile lets it through at all.
    pub fn accepted(&self) -> Option<Accepted> {
        match self {
            Self::Private { content, .. } => Some(match content {
                Content::Application => Accepted::Application,
                Content::Proposal => Accepted::Proposal,
                Content::Commit => Accepted::Commit,
            }),
            Self::Public { sender: Sender::NewMemberCommit, content: Content::Commit, .. } => {
                Some(Accepted::ExternalCommit)
            }
            Self::Public { .. } => None,
            Self::Welcome => Some(Accepted::Welcome),
            Self::GroupInfo => Some(Accepted::GroupInfo),
            Self::KeyPackage => Some(Accepted::KeyPackage),
        }
    }

    /// Group and epoch, of those messages that name them.
    pub fn place(&self) -> Option<(&[u8; 32], u64)> {
        match self {
            Self::Public { group_id, epoch, .. } | Self::Private { group_id, epoch, .. } => {
                Some((group_id, *epoch))
            }
            _ => None,
        }
    }

    fn private(mut reader: Reader<'_>) -> Result<Self, MlsError> {
        let group_id = group_id(&mut reader)?;
        Ok(Self::Private { group_id, epoch: reader.u64()?, content: content(&mut reader)? })
    }

    fn public(mut reader: Reader<'_>) -> Result<Self, MlsError> {
        let group_id = group_id(&mut reader)?;
        let epoch = reader.u64()?;
        let sender = match reader.u8()? {
            1 => Sender::Member,
            2 => Sender::External,
            3 => Sender::NewMemberProposal,
            4 => Sender::NewMemberCommit,
            _ => return Err(MlsError::SenderType),
        };
        if matches!(sender, Sender::Member | Sender::External) {
            reader.bytes(4)?;
        }
        reader.vector()?;
        Ok(Self::Public { group_id, epoch, sender, content: content(&mut reader)? })
    }
}

fn group_id(reader: &mut Reader<'_>) -> Result<[u8; 32], MlsError> {
    reader.vector()?.try_into().map_err(|_| MlsError::GroupId)
}

fn content(reader: &mut Reader<'_>) -> Result<Content, MlsError> {
    match reader.u8()? {
        1 => Ok(Content::Application),
        2 => Ok(Content::Proposal),
        3 => Ok(Content::Commit),
        _ => Err(MlsError::ContentType),
    }
}
