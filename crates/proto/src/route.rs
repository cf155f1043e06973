//! Where a message goes next (`federation.md`, Message; advice in the same words: a spoke has one way,
//! up; a hub has its spokes and its peers).
//!
//! At most spoke → hub → hub → spoke: what came from a hub is never sent to another hub, so loops
//! cannot form whatever hubs are told about each other. The hop limit and the routing path are the
//! belt to that. Identities are those that links proved, never those that messages claim.

use std::time::Duration;

use crate::{
    address::{NodeAddress, RelayId},
    call::{CallError, RpcCode},
    link::{NodeRef, NodeType},
};

/// The hops of a message whose sender names none.
pub const DEFAULT_TTL: u8 = 4;
/// The longest routing path that is read; our own routes pass three relays.
pub const MAX_PATH: usize = 16;

/// Where a message came into this relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// It was made here.
    Here,
    /// Over the link of a spoke of this hub, or of a client that is one.
    Spoke(RelayId),
    /// Over the link to another hub; for a spoke, its own hub.
    Hub(RelayId),
}

impl From {
    pub const fn link(&self) -> Option<&RelayId> {
        match self {
            Self::Here => None,
            Self::Spoke(relay) | Self::Hub(relay) => Some(relay),
        }
    }
}

/// The members of a message that routing reads and writes.
#[derive(Debug, Clone)]
pub struct Header {
    pub source: Option<NodeRef>,
    /// The relays it passed before this one.
    pub path: Vec<RelayId>,
    pub ttl: u8,
}

/// Checks a message that came in and corrects what it says about itself: the sender at the first
/// hub, the path at every one.
///
/// Afterwards `path` ends with the relay it came from, by its proven name.
///
/// # Errors
/// Loop, where it has been here or has no hops left.
pub fn arrive(
    me: &RelayId,
    from: &From,
    header: &mut Header,
    ways: &impl Ways,
) -> Result<(), CallError> {
    match from {
        From::Here => {
            header.source = None;
            header.path.clear();
            return Ok(());
        }
        From::Spoke(spoke) => {
            // The first hub: what a spoke says about its past is not believed, it has none.
            header.source = Some(NodeRef {
                node_type: NodeType::Home,
                id: spoke.clone(),
                main_relay: Some(me.clone()),
            });
            if header.path.contains(me) {
                return Err(loop_detected(me));
            }
            header.path.clear();
            header.path.push(spoke.clone());
        }
        From::Hub(hub) => {
            if header.path.contains(me) {
                return Err(loop_detected(me));
            }
            if header.path.len() >= MAX_PATH {
                return Err(CallError::new(RpcCode::Loop, "the message passed too many relays"));
            }
            header.source = Some(believed(hub, header.source.take(), ways));
            if header.path.last() != Some(hub) {
                header.path.push(hub.clone());
            }
        }
    }
    if header.ttl == 0 {
        return Err(CallError::new(RpcCode::Loop, "the message has no hops left"));
    }
    Ok(())
}

/// Who sent a message that came over the link to `hub`, as far as that hub may say.
///
/// A spoke takes its own hub's word. Among hubs each speaks for itself and its own spokes: what the
/// registry knows to be another hub's spoke does not count.
fn believed(hub: &RelayId, source: Option<NodeRef>, ways: &impl Ways) -> NodeRef {
    let of_hub = NodeRef { node_type: NodeType::Main, id: hub.clone(), main_relay: None };
    let Some(source) = source else { return of_hub };
    if ways.is_own_hub(hub) {
        return source;
    }
    let elsewhere = ways.hub_of(&source.id).is_some_and(|other| other != *hub);
    if source.node_type == NodeType::Main || elsewhere {
        return of_hub;
    }
    NodeRef { main_relay: Some(hub.clone()), ..source }
}

/// The refusal of a message that has been at `relay` before.
pub fn loop_detected(relay: &RelayId) -> CallError {
    CallError::new(RpcCode::Loop, format!("the message came back to '{relay}'"))
        .with("node", relay.as_str())
}

/// What this relay knows of the way to a node.
pub trait Ways {
    /// Whether `relay` is a spoke linked to this hub.
    fn is_spoke(&self, relay: &RelayId) -> bool;

    /// Whether there is a link to the hub `relay`.
    fn is_peer(&self, relay: &RelayId) -> bool;

    /// The hub that `relay` is attached to, as the registry knows.
    fn hub_of(&self, relay: &RelayId) -> Option<RelayId>;

    /// For a spoke: the hub its link goes to.
    fn up(&self) -> Option<RelayId>;

    /// For a spoke: whether `hub` is one it dialled, in use or being left, whose word it takes.
    fn is_own_hub(&self, hub: &RelayId) -> bool;
}

/// Where a message goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is for this relay.
    Here,
    /// Over the link to this spoke.
    Spoke(RelayId),
    /// Over the link to this hub: a peer of this hub, or this spoke's own.
    Hub(RelayId),
}

/// Finds the next hop on a hub.
///
/// # Errors
/// Unreachable, at once, naming the hop that is missing.
pub fn on_hub(
    me: &RelayId,
    from: &From,
    to: &NodeAddress,
    ways: &impl Ways,
) -> Result<Next, CallError> {
    if to.relay == *me {
        return Ok(Next::Here);
    }
    if ways.is_spoke(&to.relay) {
        return Ok(Next::Spoke(to.relay.clone()));
    }
    if ways.is_peer(&to.relay) {
        return to_hub(from, &to.relay, to);
    }
    // The registry knows better than the address where a spoke is now.
    let hub = ways.hub_of(&to.relay).filter(|hub| hub != me).or_else(|| to.hub.clone());
    match hub {
        Some(hub) if hub == *me => Err(unreachable(to, "it is not linked to this hub", me)),
        Some(hub) if ways.is_peer(&hub) => to_hub(from, &hub, to),
        Some(hub) => Err(unreachable(to, &format!("there is no link to its hub '{hub}'"), me)),
        None => Err(unreachable(to, "no hub knows it", me)),
    }
}

fn to_hub(from: &From, hub: &RelayId, to: &NodeAddress) -> Result<Next, CallError> {
    match from {
        From::Hub(came) => {
            let why = format!("a hub carries nothing from one hub ('{came}') to another ('{hub}')");
            Err(unreachable(to, &why, came))
        }
        From::Here | From::Spoke(_) => Ok(Next::Hub(hub.clone())),
    }
}

/// Finds the next hop on a spoke: here, or up.
///
/// # Errors
/// Unreachable, where there is no link to a hub or the hub sent what is not for this node.
pub fn on_spoke(
    me: &RelayId,
    from: &From,
    to: Option<&NodeAddress>,
    ways: &impl Ways,
) -> Result<Next, CallError> {
    let up = ways.up();
    let for_me = to.is_none_or(|to| to.relay == *me);
    match (from, up) {
        (From::Here, _) if to.is_some_and(|to| to.relay == *me) => Ok(Next::Here),
        (From::Here, Some(hub)) => Ok(Next::Hub(hub)),
        (From::Here, None) => {
            let error = CallError::new(RpcCode::NodeUnreachable, "there is no link to a hub");
            Err(error.with("node", me.as_str()))
        }
        (From::Spoke(_) | From::Hub(_), _) if for_me => Ok(Next::Here),
        (From::Spoke(_) | From::Hub(_), _) => {
            let to = to.map(ToString::to_string).unwrap_or_default();
            let message = format!("node '{to}' cannot be reached: '{me}' is not on the way to it");
            Err(CallError::new(RpcCode::NodeUnreachable, message).with("node", me.as_str()))
        }
    }
}

fn unreachable(to: &NodeAddress, why: &str, at: &RelayId) -> CallError {
    let message = format!("node '{to}' cannot be reached: {why}");
    CallError::new(RpcCode::NodeUnreachable, message).with("node", at.as_str())
}

/// What is left of a deadline after `spent` at this hop, for the next one.
///
/// # Errors
/// Timeout, where nothing is: a message that nobody waits for is not sent on.
pub fn shrink(left: Duration, spent: Duration) -> Result<Duration, CallError> {
    let left = left.saturating_sub(spent);
    if left.is_zero() { Err(CallError::timeout()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Map {
        spokes: Vec<RelayId>,
        peers: Vec<RelayId>,
        known: HashMap<RelayId, RelayId>,
        up: Option<RelayId>,
    }

    impl Ways for Map {
        fn is_spoke(&self, relay: &RelayId) -> bool {
            self.spokes.contains(relay)
        }
        fn is_peer(&self, relay: &RelayId) -> bool {
            self.peers.contains(relay)
        }
        fn hub_of(&self, relay: &RelayId) -> Option<RelayId> {
            self.known.get(relay).cloned()
        }
        fn up(&self) -> Option<RelayId> {
            self.up.clone()
        }
        fn is_own_hub(&self, hub: &RelayId) -> bool {
            self.up.as_ref() == Some(hub)
        }
    }

    fn id(text: &str) -> RelayId {
        text.parse().unwrap()
    }

    fn node(text: &str) -> NodeAddress {
        text.parse().unwrap()
    }

    fn hub() -> Map {
        Map {
            spokes: vec![id("alice")],
            peers: vec![id("hub-b"), id("hub-c")],
            known: [(id("bob"), id("hub-b")), (id("dan"), id("hub-x"))].into(),
            up: None,
        }
    }

    fn header(source: Option<NodeRef>, path: &[&str], ttl: u8) -> Header {
        Header { source, path: path.iter().map(|p| id(p)).collect(), ttl }
    }

    #[test]
    fn a_hub_knows_its_spokes_and_asks_the_registry_for_the_rest() {
        let (me, ways) = (id("hub-a"), hub());
        let next = |from: &From, to: &str| on_hub(&me, from, &node(to), &ways);
        let spoke = From::Spoke(id("alice"));
        assert_eq!(next(&spoke, "hub-a"), Ok(Next::Here));
        assert_eq!(next(&spoke, "alice@hub-a"), Ok(Next::Spoke(id("alice"))));
        assert_eq!(next(&spoke, "bob"), Ok(Next::Hub(id("hub-b"))));
        assert_eq!(next(&spoke, "hub-b"), Ok(Next::Hub(id("hub-b"))));
        assert_eq!(next(&From::Here, "bob@hub-b"), Ok(Next::Hub(id("hub-b"))));
        // It has moved since the address was written down.
        assert_eq!(next(&spoke, "bob@hub-c"), Ok(Next::Hub(id("hub-b"))));
        assert_eq!(next(&spoke, "alice@hub-b"), Ok(Next::Spoke(id("alice"))));
        // Unknown here, but its hub is named.
        assert_eq!(next(&spoke, "eve@hub-c"), Ok(Next::Hub(id("hub-c"))));
        for (to, why) in [
            ("eve", "no hub knows it"),
            ("eve@hub-a", "not linked to this hub"),
            ("eve@hub-z", "no link to its hub 'hub-z'"),
            ("dan", "no link to its hub 'hub-x'"),
        ] {
            let error = next(&spoke, to).unwrap_err();
            assert_eq!(error.code, RpcCode::NodeUnreachable);
            assert!(error.message.contains(why), "{to}: {}", error.message);
        }
    }

    #[test]
    fn nothing_goes_from_hub_to_hub_to_hub() {
        let (me, ways) = (id("hub-a"), hub());
        let from = From::Hub(id("hub-c"));
        assert_eq!(on_hub(&me, &from, &node("alice"), &ways), Ok(Next::Spoke(id("alice"))));
        for to in ["bob", "hub-b", "eve@hub-b"] {
            let error = on_hub(&me, &from, &node(to), &ways).unwrap_err();
            assert!(error.message.contains("carries nothing"), "{}", error.message);
        }
    }

    #[test]
    fn a_spoke_has_one_way() {
        let me = id("alice");
        let ways = Map { up: Some(id("hub-a")), ..Map::default() };
        let bob = node("bob");
        assert_eq!(on_spoke(&me, &From::Here, Some(&bob), &ways), Ok(Next::Hub(id("hub-a"))));
        assert_eq!(on_spoke(&me, &From::Here, None, &ways), Ok(Next::Hub(id("hub-a"))));
        let from = From::Hub(id("hub-a"));
        assert_eq!(on_spoke(&me, &from, None, &ways), Ok(Next::Here));
        assert_eq!(on_spoke(&me, &from, Some(&node("alice@hub-b")), &ways), Ok(Next::Here));
        assert!(on_spoke(&me, &from, Some(&bob), &ways).is_err(), "not sent back up");
        let error = on_spoke(&me, &From::Here, None, &Map::default()).unwrap_err();
        assert_eq!(error.code, RpcCode::NodeUnreachable);
    }

    #[test]
    fn what_a_message_says_of_its_sender_is_overwritten_at_the_first_hub() {
        let lie = NodeRef { node_type: NodeType::Main, id: id("hub-b"), main_relay: None };
        let mut message = header(Some(lie.clone()), &["hub-b", "someone"], 4);
        let ways = hub();
        arrive(&id("hub-a"), &From::Spoke(id("mallory")), &mut message, &ways).unwrap();
        let source = message.source.clone().unwrap();
        assert_eq!((source.id, source.main_relay), (id("mallory"), Some(id("hub-a"))));
        assert_eq!(message.path, [id("mallory")]);
        // A hub speaks for its spokes, and otherwise for itself.
        arrive(&id("hub-b"), &From::Hub(id("hub-a")), &mut message, &ways).unwrap();
        assert_eq!(message.source.as_ref().unwrap().id, id("mallory"));
        assert_eq!(message.path, [id("mallory"), id("hub-a")]);
        let mut message = header(Some(lie), &[], 4);
        arrive(&id("hub-c"), &From::Hub(id("hub-a")), &mut message, &ways).unwrap();
        assert_eq!(message.source.unwrap().id, id("hub-a"), "no hub speaks as another hub");
        let home = |hub: &str| NodeRef {
            node_type: NodeType::Home,
            id: id("bob"),
            main_relay: Some(id(hub)),
        };
        for (claimed, from, believed) in
            [("hub-b", "hub-b", "bob"), ("hub-b", "hub-c", "hub-c"), ("hub-c", "hub-b", "bob")]
        {
            let mut message = header(Some(home(claimed)), &[], 4);
            arrive(&id("hub-a"), &From::Hub(id(from)), &mut message, &ways).unwrap();
            let source = message.source.unwrap();
            assert_eq!(source.id, id(believed), "{from} speaks of a spoke of hub-b");
        }
        // A spoke has only its hub to ask.
        let ways = Map { up: Some(id("hub-a")), ..Map::default() };
        let mut message = header(Some(home("hub-b")), &["bob", "hub-b"], 2);
        arrive(&id("alice"), &From::Hub(id("hub-a")), &mut message, &ways).unwrap();
        assert_eq!(message.source.unwrap(), home("hub-b"));
    }

    #[test]
    fn loops_and_spent_messages_are_refused() {
        let me = id("hub-a");
        let from = From::Hub(id("hub-b"));
        let ways = hub();
        let code = |mut header: Header, from: &From| {
            arrive(&me, from, &mut header, &ways).unwrap_err().code
        };
        assert_eq!(code(header(None, &["alice", "hub-a"], 4), &from), RpcCode::Loop);
        assert_eq!(code(header(None, &["hub-a"], 4), &From::Spoke(id("m"))), RpcCode::Loop);
        assert_eq!(code(header(None, &["alice"], 0), &from), RpcCode::Loop);
        let long: Vec<String> = (0..MAX_PATH).map(|n| format!("r{n}")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        assert_eq!(code(header(None, &long, 4), &from), RpcCode::Loop);
    }

    #[test]
    fn deadlines_shrink() {
        let ms = Duration::from_millis;
        assert_eq!(shrink(ms(100), ms(30)), Ok(ms(70)));
        assert_eq!(shrink(ms(100), ms(100)).unwrap_err().code, RpcCode::Timeout);
    }
}
