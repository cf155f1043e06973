//! Which relay is the home of a namespace (`federation.md`, Homes), and the door by which requests
//! of other relays come in.

pub mod sse;
pub mod wire;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use relay_actors::BodyStream;
use relay_core::policy::Pattern;
use relay_fed::local::Forward;
use relay_proto::{Caller, Code, Namespace, Problem, RelayId, call::Json};

use crate::{config::Config, node::Node, start::StartError};

/// The homes of namespaces, by the first `[[namespace]]` that matches.
#[derive(Debug, Default)]
pub struct Homes {
    /// `None` is this relay. Empty where everything is at home here, which is asked on each request.
    rules: Vec<(Pattern, Option<RelayId>)>,
}

impl Homes {
    /// Reads them from the configuration of the relay `me`.
    pub(crate) fn new(config: &Config, me: &str) -> Result<Self, StartError> {
        let bad = |error: &dyn fmt::Display| StartError::Setting(format!("namespace: {error}"));
        let mut rules = Vec::with_capacity(config.namespace.len());
        for policy in &config.namespace {
            let pattern = policy.r#match.parse().map_err(|error| bad(&error))?;
            let home = match policy.home.as_str() {
                "self" => None,
                home if home == me => None,
                home => Some(home.parse().map_err(|error| bad(&error))?),
            };
            rules.push((pattern, home));
        }
        if rules.iter().all(|(_, home)| home.is_none()) {
            rules.clear();
        }
        Ok(Self { rules })
    }

    /// Whether this relay is the home of everything.
    pub fn all_here(&self) -> bool {
        self.rules.is_empty()
    }

    /// The home of a namespace; `None` when it is this relay.
    pub fn of(&self, ns: &Namespace) -> Option<&RelayId> {
        let rule = self.rules.iter().find(|(pattern, _)| pattern.matches(ns));
        rule.and_then(|(_, home)| home.as_ref())
    }

    /// All other homes, each once, in the order of the configuration.
    pub fn others(&self) -> Vec<&RelayId> {
        let mut others = Vec::new();
        for home in self.rules.iter().filter_map(|(_, home)| home.as_ref()) {
            if !others.contains(&home) {
                others.push(home);
            }
        }
        others
    }
}

/// Serves what other relays forward here; the doors of the program implement it.
pub trait Door: Send + Sync {
    /// Answers a request that `from` forwarded; `body` is what did not fit into it.
    fn forwarded(
        &self,
        from: RelayId,
        forward: Forward,
        body: Option<BodyStream>,
    ) -> BoxFuture<'static, Answered>;
}

/// The answer of a home, and more of it in pieces.
pub type Answered = Result<(Json, Option<BodyStream>), Problem>;

/// Where the door hangs while it is open. It holds the node, so whoever hung it takes it off again.
#[derive(Clone, Default)]
pub(crate) struct DoorFrame(Arc<Mutex<Option<Arc<dyn Door>>>>);

impl DoorFrame {
    fn set(&self, door: Option<Arc<dyn Door>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = door;
    }

    fn door(&self) -> Option<Arc<dyn Door>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn forwarded(
        &self,
        from: RelayId,
        forward: Forward,
        body: Option<BodyStream>,
    ) -> BoxFuture<'static, Answered> {
        match self.door() {
            Some(door) => door.forwarded(from, forward, body),
            None => {
                let problem = Problem::new(Code::HomeUnreachable, "the home is not open");
                Box::pin(std::future::ready(Err(problem)))
            }
        }
    }
}

impl fmt::Debug for DoorFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorFrame").field("open", &self.door().is_some()).finish()
    }
}

impl Node {
    /// Sends a request to its home, its body in pieces where it is a long one, and gives back the home's answer. Nothing
    /// is kept here.
    ///
    /// # Errors
    /// The home's own problem; `home_unreachable` where there is no way to it or the way broke, and
    /// `timeout` where no answer came in time: both may be tried again with the same id.
    pub async fn forward(
        &self,
        home: &RelayId,
        operation: &str,
        request: Json,
        body: Option<BodyStream>,
        grant: Option<String>,
        patience: Duration,
    ) -> Answered {
        let forward =
            Forward { operation: operation.to_owned(), request, caller: Caller::local(), grant };
        let federated = self.federated();
        let answered = federated.federation.forward(home.clone(), forward, body, patience).await;
        answered.map_err(|problem| match problem.code {
            // The way there, not the thing asked for.
            Code::HomeUnreachable | Code::NotFound if problem.extra.contains_key("rpc_code") => {
                unreachable(home)
            }
            Code::HomeUnreachable => unreachable(home),
            _ => problem,
        })
    }

    /// From now on requests of other relays are served.
    pub fn open_door(&self, door: Arc<dyn Door>) {
        self.door.set(Some(door));
    }

    /// From now on they are not.
    pub fn close_door(&self) {
        self.door.set(None);
    }
}

fn unreachable(home: &RelayId) -> Problem {
    let message = format!("the home relay '{home}' cannot be reached; try again with the same id");
    Problem::new(Code::HomeUnreachable, message).with("home", home.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    fn homes(text: &str) -> Homes {
        Homes::new(&load_text("test.toml", text).unwrap().config, "me").unwrap()
    }

    fn of<'a>(homes: &'a Homes, ns: &str) -> Option<&'a str> {
        homes.of(&ns.parse().unwrap()).map(RelayId::as_str)
    }

    #[test]
    fn the_first_rule_that_fits_names_the_home() {
        let homes = homes(
            "[[namespace]]\nmatch = \"forge/local/**\"\n\
             [[namespace]]\nmatch = \"forge/**\"\nhome = \"hub-b\"\n\
             [[namespace]]\nmatch = \"mine\"\nhome = \"me\"\n",
        );
        assert_eq!(of(&homes, "forge/x"), Some("hub-b"));
        assert_eq!(of(&homes, "forge"), Some("hub-b"));
        assert_eq!(of(&homes, "forge/local/x"), None);
        assert_eq!(of(&homes, "mine"), None);
        assert_eq!(of(&homes, "default"), None);
        assert_eq!(homes.others(), [&"hub-b".parse::<RelayId>().unwrap()]);
    }

    #[test]
    fn a_relay_that_is_the_home_of_all_has_nothing_to_look_up() {
        assert!(homes("").all_here());
        assert!(homes("[[namespace]]\nmatch = \"a/**\"\nkeep_versions = 3\n").all_here());
        assert!(homes("[[namespace]]\nmatch = \"a\"\nhome = \"me\"\n").all_here());
        assert!(!homes("[[namespace]]\nmatch = \"a\"\nhome = \"you\"\n").all_here());
    }
}
