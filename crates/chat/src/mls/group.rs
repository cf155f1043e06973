//! Groups: making them, joining them, changing them, and what is checked before any of it is believed.

mod leaves;

use std::collections::{BTreeMap, BTreeSet};

use openmls::{
    group::{
        CommitMessageBundle, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig,
        PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, ProcessedWelcome, StagedCommit, StagedWelcome,
    },
    prelude::{
        CredentialType, Extension, ExtensionType, Extensions, GroupId, KeyPackage, KeyPackageIn,
        LeafNodeIndex, LeafNodeParameters, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent,
        Proposal, ProtocolMessage, ProtocolVersion, QueuedProposal, RequiredCapabilitiesExtension,
        Sender, SenderRatchetConfiguration, UnknownExtension, tls_codec::Deserialize as _,
    },
};
use relay_proto::{NodeId, conv::ConvKind, mls::KeyPackage as CheckedKeyPackage};

pub(crate) use self::leaves::{Leaf, count_users, leaves};
use self::leaves::{
    check_leaf, check_leaves, check_once, check_same_leaf, check_users, identity_of, leaf_of,
};
use super::{
    Provider, SUITE,
    context::{self, RelayConversation},
    device::{Device, capabilities},
};
use crate::error::{Error, Hostile, Result};

/// Content is padded to multiples of this.
const PADDING: usize = 256;
/// What every identity of the profile begins with, before the user's key.
const IDENTITY_HEAD: &[u8] = b"RLY\x01";
/// Leaves of one group.
pub(crate) const MAX_LEAVES: usize = 1_024;

/// A commit of ours, ready to be sent.
#[derive(Debug)]
pub(crate) struct BuiltCommit {
    pub commit: Vec<u8>,
    pub welcome: Option<Vec<u8>>,
    /// The GroupInfo of the epoch that it begins, as an MLSMessage.
    pub group_info: Vec<u8>,
    pub new_epoch: u64,
}

/// Begins a group whose only member is this device.
pub(crate) fn create(
    provider: &Provider<'_>,
    device: &Device,
    group_id: &[u8; 32],
    about: &RelayConversation,
) -> Result<MlsGroup> {
    let required = RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(context::EXTENSION)],
        &[],
        &[CredentialType::Basic],
    );
    let extensions = Extensions::from_vec(vec![
        Extension::RequiredCapabilities(required),
        Extension::Unknown(context::EXTENSION, UnknownExtension(about.encode())),
    ])
    .map_err(mls)?;
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(SUITE)
        .capabilities(capabilities())
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .padding_size(PADDING)
        .max_past_epochs(1)
        .sender_ratchet_configuration(ratchet())
        .with_group_context_extensions(extensions)
        .build();
    MlsGroup::new_with_group_id(
        provider,
        device.signer(),
        &config,
        GroupId::from_slice(group_id),
        device.credential(),
    )
    .map_err(mls)
}

/// The group, as it was last stored.
pub(crate) fn load(provider: &Provider<'_>, group_id: &[u8; 32]) -> Result<Option<MlsGroup>> {
    MlsGroup::load(&provider.storage, &GroupId::from_slice(group_id)).map_err(mls)
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .padding_size(PADDING)
        .max_past_epochs(1)
        .sender_ratchet_configuration(ratchet())
        .build()
}

fn ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(32, 1_000)
}

// === joining ===

/// A group that this device was invited to, checked and stored.
#[derive(Debug)]
pub(crate) struct Joined {
    pub group: MlsGroup,
    pub about: RelayConversation,
    /// The user whose leaf signed the GroupInfo.
    pub inviter: NodeId,
}

/// Joins by a Welcome. `group_id` is the conversation that the relay says it is for.
pub(crate) fn join(
    provider: &Provider<'_>,
    group_id: &[u8; 32],
    welcome: &[u8],
    replace: bool,
) -> Result<Joined> {
    let MlsMessageBodyIn::Welcome(welcome) = parse(welcome)?.extract() else {
        return Err(malformed("not a Welcome").into());
    };
    let processed = ProcessedWelcome::new_from_welcome(provider, &join_config(), welcome)
        .map_err(|error| malformed(&error.to_string()))?;
    if processed.unverified_group_info().group_id().as_slice() != group_id {
        return Err(Hostile::OtherGroup.into());
    }
    let mut builder =
        openmls::group::JoinBuilder::new(provider, processed).skip_lifetime_validation();
    if replace {
        builder = builder.replace_old_group();
    }
    let staged: StagedWelcome = builder.build().map_err(|error| malformed(&error.to_string()))?;
    let about = about_of(staged.group_context().extensions())?;
    let leaves = check_leaves(
        staged.members().map(|member| (member.index, member.credential, member.signature_key)),
    )?;
    let signer = staged.welcome_sender_index();
    let inviter = leaves
        .iter()
        .find(|leaf| leaf.index == signer)
        .map(|leaf| leaf.user)
        .ok_or(Hostile::Inviter)?;
    check_users(&about, &leaves)?;
    let group = staged.into_group(provider).map_err(mls)?;
    Ok(Joined { group, about, inviter })
}

/// Lets this device in by an external commit, into the storage of `provider`.
pub(crate) fn join_externally(
    provider: &Provider<'_>,
    device: &Device,
    group_id: &[u8; 32],
    group_info: &[u8],
) -> Result<(MlsGroup, BuiltCommit, RelayConversation)> {
    let bad = |why: String| Hostile::GroupInfo(why);
    let MlsMessageBodyIn::GroupInfo(info) = parse(group_info)?.extract() else {
        return Err(bad("not a GroupInfo".into()).into());
    };
    if info.group_id().as_slice() != group_id {
        return Err(Hostile::OtherGroup.into());
    }
    // Only whose user has a leaf may come back this way; the others would refuse it and be stuck. The tree is inside.
    let own = [IDENTITY_HEAD, device.user.as_bytes()].concat();
    if !group_info.windows(own.len()).any(|bytes| bytes == own) {
        return Err(Hostile::Stranger.into());
    }
    let parameters = LeafNodeParameters::builder().with_capabilities(capabilities()).build();
    let (group, bundle) = MlsGroup::external_commit_builder()
        .with_config(join_config())
        .skip_lifetime_validation()
        .build_group(provider, info, device.credential())
        .map_err(|error| bad(error.to_string()))?
        .leaf_node_parameters(parameters)
        .load_psks(&provider.storage)
        .map_err(mls)?
        .use_ratchet_tree_extension(true)
        .build(provider.crypto, provider.crypto, device.signer(), |_| true)
        .map_err(mls)?
        .finalize(provider)
        .map_err(mls)?;
    let about = about_of(group.extensions())?;
    let members = group.members();
    let leaves = check_leaves(
        members.map(|member| (member.index, member.credential, member.signature_key)),
    )?;
    check_users(&about, &leaves)?;
    let epoch = group.epoch().as_u64();
    Ok((group, built(bundle, epoch)?, about))
}

fn about_of<T>(extensions: &Extensions<T>) -> Result<RelayConversation> {
    let bytes = extensions
        .unknown(context::EXTENSION)
        .ok_or_else(|| Hostile::Profile("relay_conversation is missing".into()))?;
    Ok(RelayConversation::decode(&bytes.0)?)
}

// === changing ===

/// Builds a commit and keeps it pending in the group's storage.
pub(crate) fn commit(
    provider: &Provider<'_>,
    device: &Device,
    group: &mut MlsGroup,
    adds: Vec<KeyPackage>,
    removes: Vec<LeafNodeIndex>,
) -> Result<BuiltCommit> {
    let new_epoch = group.epoch().as_u64() + 1;
    let bundle = group
        .commit_builder()
        .consume_proposal_store(true)
        .force_self_update(true)
        .propose_adds(adds)
        .propose_removals(removes)
        .load_psks(&provider.storage)
        .map_err(mls)?
        .use_ratchet_tree_extension(true)
        .build(provider.crypto, provider.crypto, device.signer(), |_| true)
        .map_err(mls)?
        .stage_commit(provider)
        .map_err(mls)?;
    built(bundle, new_epoch)
}

fn built(bundle: CommitMessageBundle, new_epoch: u64) -> Result<BuiltCommit> {
    let (commit, welcome, info) = bundle.into_messages();
    let info = info.ok_or_else(|| Error::Mls("a commit came without GroupInfo".into()))?;
    Ok(BuiltCommit {
        commit: commit.to_bytes().map_err(mls)?,
        welcome: welcome.map(|welcome| welcome.to_bytes()).transpose().map_err(mls)?,
        group_info: info.to_bytes().map_err(mls)?,
        new_epoch,
    })
}

/// Encrypts an application message in the present epoch. Its key is used up with the transaction.
pub(crate) fn encrypt(
    provider: &Provider<'_>,
    device: &Device,
    group: &mut MlsGroup,
    content: &[u8],
) -> Result<Vec<u8>> {
    let message = group.create_message(provider, device.signer(), content).map_err(mls)?;
    message.to_bytes().map_err(mls)
}

/// Proposes that this device be taken out.
pub(crate) fn propose_leaving(
    provider: &Provider<'_>,
    device: &Device,
    group: &mut MlsGroup,
) -> Result<Vec<u8>> {
    let message = group.leave_group(provider, device.signer()).map_err(mls)?;
    message.to_bytes().map_err(mls)
}

/// A KeyPackage that somebody else handed in: read and checked here, whatever the relay has checked.
pub(crate) fn key_package(
    provider: &Provider<'_>,
    bytes: &[u8],
    user: &NodeId,
    device: &[u8; 16],
    now_s: u64,
) -> Result<(KeyPackage, [u8; 32])> {
    let checked = CheckedKeyPackage::parse(bytes)?;
    checked.check(user, device, now_s)?;
    let MlsMessageBodyIn::KeyPackage(package) = parse(bytes)?.extract() else {
        return Err(Hostile::KeyPackage("not a KeyPackage".into()).into());
    };
    let package: KeyPackageIn = package;
    let package = package
        .validate(provider.crypto, ProtocolVersion::Mls10)
        .map_err(|error| Hostile::KeyPackage(error.to_string()))?;
    Ok((package, checked.reference))
}

// === receiving ===

/// What a message of the log turned out to be.
#[derive(Debug)]
pub(crate) enum Received {
    Application {
        from: Leaf,
        content: Vec<u8>,
    },
    Proposal {
        from: Leaf,
        proposal: Box<QueuedProposal>,
    },
    Commit {
        from: Committer,
        staged: Box<StagedCommit>,
    },
    /// Of this very device: nobody can decrypt what they encrypted themselves.
    Own,
}

/// Whose commit it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Committer {
    Member(NodeId, [u8; 16]),
    /// A device that lets itself in.
    External(NodeId, [u8; 16]),
}

impl Committer {
    pub fn user(&self) -> NodeId {
        match self {
            Self::Member(user, _) | Self::External(user, _) => *user,
        }
    }
}

/// Decrypts and verifies a message. The group's ratchet moves with it.
pub(crate) fn receive(
    provider: &Provider<'_>,
    group: &mut MlsGroup,
    env: &[u8],
) -> Result<Received> {
    let message: ProtocolMessage =
        parse(env)?.try_into_protocol_message().map_err(|error| malformed(&error.to_string()))?;
    if message.group_id() != group.group_id() {
        return Err(Hostile::OtherGroup.into());
    }
    let processed = group.process_message(provider, message).map_err(|error| {
        if has_ended(&error) { Hostile::KeysEnded } else { Hostile::Message(error.to_string()) }
    })?;
    let sender = processed.sender().clone();
    let from = |group: &MlsGroup| -> Result<Leaf> {
        let Sender::Member(index) = sender else { return Err(Hostile::Stranger.into()) };
        let member = group.member_at(index).ok_or(Hostile::Stranger)?;
        Ok(leaf_of(index, &member.credential)?)
    };
    match processed.into_content() {
        ProcessedMessageContent::ApplicationMessage(message) => {
            Ok(Received::Application { from: from(group)?, content: message.into_bytes() })
        }
        ProcessedMessageContent::ProposalMessage(proposal) => {
            Ok(Received::Proposal { from: from(group)?, proposal })
        }
        ProcessedMessageContent::StagedCommitMessage(staged) => {
            let from = match sender {
                Sender::NewMemberCommit => {
                    let leaf = staged.update_path_leaf_node().ok_or(Hostile::Stranger)?;
                    let (user, device) = identity_of(leaf.credential())?;
                    Committer::External(user, device)
                }
                _ => {
                    let leaf = from(group)?;
                    Committer::Member(leaf.user, leaf.device)
                }
            };
            Ok(Received::Commit { from, staged })
        }
        ProcessedMessageContent::OwnPrivateMessage => Ok(Received::Own),
        _ => Err(Hostile::Message("this kind of message is not part of the profile".into()).into()),
    }
}

/// Whether the library refuses a KeyPackage inside of a message for its age. It measures that by the clock of the machine,
/// which nobody can set, and wraps it in several errors, depending on where it looks; the innermost has this name in each.
fn has_ended(error: &impl std::fmt::Debug) -> bool {
    format!("{error:?}").contains("Expired {")
}

/// What a commit does, in people and devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    pub joined: BTreeSet<NodeId>,
    pub gone: BTreeSet<NodeId>,
    pub devices_added: BTreeSet<NodeId>,
    pub devices_removed: BTreeSet<NodeId>,
}

/// Checks a commit by the rules of the profile (3, 7) before it is merged. `now_s` is when the relay took it.
pub(crate) fn check_commit(
    group: &MlsGroup,
    about: &RelayConversation,
    from: Committer,
    staged: &StagedCommit,
    now_s: u64,
    governs: impl Fn(&NodeId) -> bool,
) -> Result<Effect> {
    let before = leaves(group)?;
    let users = count_users(&before);
    let committer = from.user();
    let external = matches!(from, Committer::External(..));
    if external && !users.contains_key(&committer) {
        return Err(Hostile::Stranger.into());
    }
    let mut after: BTreeMap<u32, (NodeId, [u8; 16])> =
        before.iter().map(|leaf| (leaf.index.u32(), (leaf.user, leaf.device))).collect();
    let mut new = Vec::new();
    // A device that is taken out and in again is there afterwards: anybody may do that for a member (6.5).
    let mut added = BTreeSet::new();
    for queued in staged.queued_proposals() {
        if let Proposal::Add(add) = queued.proposal() {
            added.insert(identity_of(add.key_package().leaf_node().credential())?);
        }
    }
    for queued in staged.queued_proposals() {
        match queued.proposal() {
            Proposal::Remove(remove) => {
                let (user, device) = after
                    .remove(&remove.removed().u32())
                    .ok_or_else(|| Hostile::Commit("it removes a leaf that is not there".into()))?;
                let own_wish = match queued.sender() {
                    Sender::Member(index) => {
                        before.iter().any(|leaf| leaf.index == *index && leaf.user == user)
                    }
                    _ => user == committer,
                };
                let again = added.contains(&(user, device));
                if !(own_wish || again || user == committer || governs(&committer)) {
                    return Err(Hostile::NotAllowed(committer.to_string()).into());
                }
            }
            Proposal::Add(add) => {
                let binding = check_leaf(add.key_package().leaf_node(), Some(now_s))?;
                if !users.contains_key(&binding.user) {
                    if about.kind == ConvKind::Dm && users.len() >= 2 {
                        return Err(Hostile::ThirdInDm.into());
                    }
                    if !governs(&committer) {
                        return Err(Hostile::NotAllowed(committer.to_string()).into());
                    }
                }
                new.push((binding.user, binding.device));
            }
            Proposal::Update(update) => {
                check_same_leaf(&before, queued.sender(), update.leaf_node())?;
            }
            Proposal::ExternalInit(_) if external => {}
            _ => {
                return Err(Hostile::Commit(
                    "it holds a proposal that is not part of the profile".into(),
                )
                .into());
            }
        }
    }
    if let Some(leaf) = staged.update_path_leaf_node() {
        let binding = check_leaf(leaf, external.then_some(now_s))?;
        match from {
            Committer::External(user, device) => new.push((user, device)),
            // A leaf's identity never changes inside a group.
            Committer::Member(user, device) => {
                if (binding.user, binding.device) != (user, device) {
                    return Err(Hostile::Binding("a member changed who it is".into()).into());
                }
            }
        }
    }
    check_once(after.values().copied().chain(new.iter().copied()))?;
    if after.len() + new.len() > MAX_LEAVES {
        return Err(Hostile::Commit("the group would have more than 1024 devices".into()).into());
    }
    let mut now: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (user, _) in after.values().copied().chain(new) {
        *now.entry(user).or_default() += 1;
    }
    Ok(effect(&users, &now))
}

pub(crate) fn effect(before: &BTreeMap<NodeId, usize>, after: &BTreeMap<NodeId, usize>) -> Effect {
    let mut effect = Effect::default();
    for user in before.keys().chain(after.keys()) {
        let (was, is) =
            (before.get(user).copied().unwrap_or(0), after.get(user).copied().unwrap_or(0));
        match (was, is) {
            (0, 1..) => effect.joined.insert(*user),
            (1.., 0) => effect.gone.insert(*user),
            _ if is > was => effect.devices_added.insert(*user),
            _ if is < was => effect.devices_removed.insert(*user),
            _ => false,
        };
    }
    effect
}

// === the rest ===

/// The first 8 bytes of the authenticator of the epoch, hex.
pub(crate) fn check_of(group: &MlsGroup) -> String {
    let authenticator = group.epoch_authenticator().as_slice();
    hex::encode(authenticator.get(..8).unwrap_or(authenticator))
}

pub(super) fn parse(bytes: &[u8]) -> Result<MlsMessageIn> {
    let mut rest = bytes;
    let message =
        MlsMessageIn::tls_deserialize(&mut rest).map_err(|error| malformed(&error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("bytes follow the end of the message").into());
    }
    Ok(message)
}

fn malformed(why: &str) -> Hostile {
    Hostile::Malformed(why.to_owned())
}

fn mls(error: impl std::fmt::Display) -> Error {
    Error::Mls(error.to_string())
}
