//! The leaves of a group: who they say they are, and what is checked before that is believed.

use std::collections::{BTreeMap, BTreeSet};

use openmls::{
    group::MlsGroup,
    prelude::{BasicCredential, Credential, LeafNode, LeafNodeIndex, Sender},
};
use relay_proto::{NodeId, conv::ConvKind, mls::DeviceBinding};

use super::MAX_LEAVES;
use crate::{
    error::{Hostile, Result},
    mls::context::RelayConversation,
};

/// One device in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub index: LeafNodeIndex,
    pub user: NodeId,
    pub device: [u8; 16],
}

/// Every device in the group.
pub(crate) fn leaves(group: &MlsGroup) -> Result<Vec<Leaf>> {
    group.members().map(|member| Ok(leaf_of(member.index, &member.credential)?)).collect()
}

/// How many devices each user has.
pub(crate) fn count_users(leaves: &[Leaf]) -> BTreeMap<NodeId, usize> {
    let mut users = BTreeMap::new();
    for leaf in leaves {
        *users.entry(leaf.user).or_default() += 1;
    }
    users
}

/// Reads who a leaf says it is. The binding was verified when the leaf came into view.
pub(super) fn leaf_of(
    index: LeafNodeIndex,
    credential: &Credential,
) -> std::result::Result<Leaf, Hostile> {
    let (user, device) = identity_of(credential)?;
    Ok(Leaf { index, user, device })
}

pub(super) fn identity_of(
    credential: &Credential,
) -> std::result::Result<(NodeId, [u8; 16]), Hostile> {
    let bad = |why: &str| Hostile::Binding(why.to_owned());
    let basic = BasicCredential::try_from(credential.clone())
        .map_err(|_| bad("the credential is not basic"))?;
    let identity = basic.identity();
    let user: [u8; 32] = identity
        .get(4..36)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| bad("the identity ends early"))?;
    let device: [u8; 16] = identity
        .get(36..52)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| bad("the identity ends early"))?;
    let user = NodeId::from_bytes(user).map_err(|error| bad(&error.to_string()))?;
    Ok((user, device))
}

pub(super) fn check_leaf(leaf: &LeafNode, now_s: Option<u64>) -> Result<DeviceBinding> {
    let binding = check_binding(leaf.credential(), leaf.signature_key().as_slice())?;
    if let Some(now_s) = now_s {
        binding.check_time(now_s)?;
    }
    Ok(binding)
}

pub(super) fn check_binding(credential: &Credential, key: &[u8]) -> Result<DeviceBinding> {
    let basic = BasicCredential::try_from(credential.clone())
        .map_err(|_| Hostile::Binding("the credential is not basic".into()))?;
    let key: &[u8; 32] = key
        .try_into()
        .map_err(|_| Hostile::Binding("the signature key has not 32 bytes".into()))?;
    Ok(DeviceBinding::verify(basic.identity(), key)?)
}

pub(super) fn check_same_leaf(before: &[Leaf], sender: &Sender, new: &LeafNode) -> Result<()> {
    let binding = check_leaf(new, None)?;
    let Sender::Member(index) = sender else { return Err(Hostile::Stranger.into()) };
    let same = before.iter().any(|leaf| {
        leaf.index == *index && (leaf.user, leaf.device) == (binding.user, binding.device)
    });
    if same { Ok(()) } else { Err(Hostile::Binding("a member changed who it is".into()).into()) }
}

/// Checks all leaves of a tree that comes into view, each binding and each device once.
pub(super) fn check_leaves(
    members: impl Iterator<Item = (LeafNodeIndex, Credential, Vec<u8>)>,
) -> Result<Vec<Leaf>> {
    let mut leaves = Vec::new();
    for (index, credential, key) in members {
        let binding = check_binding(&credential, &key)?;
        leaves.push(Leaf { index, user: binding.user, device: binding.device });
        if leaves.len() > MAX_LEAVES {
            return Err(Hostile::Profile("more than 1024 devices".into()).into());
        }
    }
    check_once(leaves.iter().map(|leaf| (leaf.user, leaf.device)))?;
    Ok(leaves)
}

pub(super) fn check_once(leaves: impl Iterator<Item = (NodeId, [u8; 16])>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for leaf in leaves {
        if !seen.insert(leaf) {
            return Err(Hostile::TwiceInGroup.into());
        }
    }
    Ok(())
}

pub(super) fn check_users(about: &RelayConversation, leaves: &[Leaf]) -> Result<()> {
    if about.kind == ConvKind::Dm && count_users(leaves).len() > 2 {
        return Err(Hostile::ThirdInDm.into());
    }
    Ok(())
}
