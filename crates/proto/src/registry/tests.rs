mod convergence;

use std::collections::BTreeMap;

use super::*;
use crate::event::SigningKey;

fn id(text: &str) -> RelayId {
    text.parse().unwrap()
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n + 1; 32])
}

fn service(text: &str) -> ServiceRecord {
    ServiceRecord::new(name(text), "1.2.0")
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn hub(text: &str, incarnation: u64) -> Registry {
    Registry::new(id(text), incarnation, Timing::default(), Limits::default())
}

/// Attaches with the home's signature.
fn attach(
    at: &mut Registry,
    now: Duration,
    home: &str,
    key: &SigningKey,
    epoch: u64,
) -> Result<u64, Refusal> {
    let proof = Proof::sign(key, &id(home), &at.me.clone(), epoch);
    at.attach(now, &id(home), NodeType::Home, key.node_id(), Some(epoch), Some(proof))
}

/// Hands everything two linked hubs say to each other across, until both are quiet.
fn talk(now: Duration, a: &mut Registry, b: &mut Registry) -> Vec<Output> {
    let mut other = Vec::new();
    for _ in 0..1000 {
        let mut quiet = true;
        for turn in 0..2 {
            let (from, to) = if turn == 0 { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
            while let Some(output) = from.poll() {
                quiet = false;
                match output {
                    Output::Send(peer, gossip) => {
                        assert_eq!(peer, to.me);
                        let text = serde_json::to_string(&gossip).unwrap();
                        to.receive(now, &from.me.clone(), serde_json::from_str(&text).unwrap());
                    }
                    output => other.push(output),
                }
            }
        }
        if quiet {
            return other;
        }
    }
    panic!("two hubs never fall silent");
}

fn link(now: Duration, a: &mut Registry, b: &mut Registry) {
    a.peer_up(now, &b.me.clone());
    b.peer_up(now, &a.me.clone());
    a.tick(now);
    b.tick(now);
    talk(now, a, b);
}

/// What a hub would route by: home → (hub, its services).
fn view(hub: &Registry) -> BTreeMap<String, (String, Vec<String>)> {
    let entry = |claim: &Claim| {
        let attachment = &claim.attachment;
        let services =
            attachment.services.iter().map(|s| format!("{}:{}", s.service_name, s.is_healthy));
        (attachment.home.to_string(), (claim.main.to_string(), services.collect()))
    };
    hub.all_homes().map(entry).collect()
}

#[test]
fn a_registration_is_on_the_peer_at_once_and_gone_with_the_link() {
    let (mut a, mut b) = (hub("a", 1), hub("b", 2));
    link(s(0), &mut a, &mut b);
    let epoch = attach(&mut a, s(1), "alice.home", &key(0), 7).unwrap();
    a.register(s(1), &id("alice.home"), vec![service("blog"), service("shop")], true).unwrap();
    talk(s(1), &mut a, &mut b);
    let found = b.instances(&name("blog"));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].home.as_str(), found[0].main.as_str()), ("alice.home", "a"));
    a.set_health(s(2), &id("alice.home"), &[(name("blog"), false), (name("unknown"), false)]);
    talk(s(2), &mut a, &mut b);
    assert!(!b.instances(&name("blog"))[0].record.is_healthy);
    // What is said of one service leaves the others.
    a.register(s(3), &id("alice.home"), vec![service("blog")], false).unwrap();
    assert_eq!(a.instances(&name("shop")).len(), 1);
    a.register(s(3), &id("alice.home"), vec![service("blog")], true).unwrap();
    assert_eq!(a.instances(&name("shop")).len(), 0);
    a.detach(s(4), &id("alice.home"), epoch);
    talk(s(4), &mut a, &mut b);
    assert!(b.instances(&name("blog")).is_empty() && b.home(&id("alice.home")).is_none());
    assert_eq!(b.counters().repairs, 1, "only the first synchronisation");
}

#[test]
fn the_newer_attachment_wins_everywhere_and_the_older_dies() {
    let (mut a, mut b) = (hub("a", 1), hub("b", 2));
    link(s(0), &mut a, &mut b);
    attach(&mut a, s(1), "h", &key(0), 1).unwrap();
    a.register(s(1), &id("h"), vec![service("blog")], true).unwrap();
    talk(s(1), &mut a, &mut b);
    // It turns up at b; a has not noticed that it left.
    attach(&mut b, s(2), "h", &key(0), 2).unwrap();
    b.register(s(2), &id("h"), vec![service("blog")], true).unwrap();
    let outputs = talk(s(2), &mut a, &mut b);
    assert!(
        matches!(&outputs[..], [Output::Superseded { home, epoch: 1, .. }] if home.as_str() == "h")
    );
    for hub in [&a, &b] {
        assert_eq!(hub.home(&id("h")).unwrap().main.as_str(), "b");
        assert_eq!(hub.instances(&name("blog")).len(), 1);
    }
    // The end of the old link comes late and means nothing.
    a.detach(s(3), &id("h"), 1);
    talk(s(3), &mut a, &mut b);
    assert_eq!(a.home(&id("h")).unwrap().main.as_str(), "b");
    assert_eq!(attach(&mut a, s(4), "h", &key(0), 2), Err(Refusal::Stale { newest: 2 }));
    assert_eq!(attach(&mut a, s(4), "h", &key(0), 3), Ok(3));
}

#[test]
fn a_stale_claim_stays_dead_when_the_newer_one_ends() {
    let (mut a, mut b, mut c) = (hub("a", 1), hub("b", 2), hub("c", 3));
    link(s(0), &mut a, &mut c);
    attach(&mut a, s(1), "h", &key(0), 1).unwrap();
    talk(s(1), &mut a, &mut c);
    link(s(1), &mut b, &mut c);
    attach(&mut b, s(2), "h", &key(0), 2).unwrap();
    talk(s(2), &mut b, &mut c);
    b.detach(s(3), &id("h"), 2);
    talk(s(3), &mut b, &mut c);
    assert!(c.home(&id("h")).is_none(), "a's claim is older than what c has seen");
}

#[test]
fn no_hub_takes_another_hubs_home() {
    let (mut a, mut b) = (hub("a", 1), hub("b", 2));
    link(s(0), &mut a, &mut b);
    attach(&mut a, s(1), "h", &key(0), 1).unwrap();
    a.register(s(1), &id("h"), vec![service("blog")], true).unwrap();
    talk(s(1), &mut a, &mut b);
    let still_a = |a: &Registry| assert_eq!(a.home(&id("h")).unwrap().main.as_str(), "a");
    let lie = |key: NodeId, proof: Option<Proof>, version: u64| {
        let attachment = Attachment {
            home: id("h"),
            node_type: NodeType::Home,
            key,
            epoch: 99,
            proof,
            services: vec![],
        };
        let attachment = Some(Arc::new(attachment));
        let changes = vec![gossip::Change { home: id("h"), version, attachment }];
        let (everything, more) = (true, false);
        Gossip::Delta(gossip::Delta {
            incarnation: 2,
            from: 0,
            to: version,
            everything,
            more,
            changes,
        })
    };
    // Its own key, the home's key without its signature, a signature for another hub.
    let elsewhere = Proof::sign(&key(0), &id("h"), &id("c"), 99);
    for (n, (claimed, proof)) in
        [(key(9), None), (key(0), None), (key(0), Some(elsewhere))].into_iter().enumerate()
    {
        a.receive(s(2), &id("b"), lie(claimed.node_id(), proof, n as u64 + 1));
        still_a(&a);
        assert_eq!(a.counters().claims_refused, n as u64 + 1);
    }
    assert_eq!(
        b.attach(s(2), &id("h"), NodeType::Home, key(9).node_id(), Some(5), None),
        Err(Refusal::Conflict)
    );
    let true_one = Proof::sign(&key(0), &id("h"), &id("b"), 99);
    a.receive(s(3), &id("b"), lie(key(0).node_id(), Some(true_one), 9));
    assert_eq!(a.home(&id("h")).unwrap().main.as_str(), "b");
}

#[test]
fn a_silent_hub_is_suspect_then_forgotten_then_back() {
    let (mut a, mut b) = (hub("a", 1), hub("b", 2));
    link(s(0), &mut a, &mut b);
    attach(&mut b, s(1), "h", &key(0), 1).unwrap();
    talk(s(1), &mut a, &mut b);
    assert!(!a.is_suspect(s(15), &id("b")));
    assert!(a.is_suspect(s(16), &id("b")));
    a.peer_heard(s(17), &id("b"));
    assert!(!a.is_suspect(s(18), &id("b")));
    a.peer_down(&id("b"));
    assert!(a.is_suspect(s(18), &id("b")), "no link: at once");
    a.tick(s(46));
    assert!(a.home(&id("h")).is_some());
    a.tick(s(47));
    assert!(a.home(&id("h")).is_none());
    b.touch(s(50), &id("h"));
    link(s(50), &mut a, &mut b);
    assert!(a.home(&id("h")).is_some());
}

#[test]
fn an_own_home_that_says_nothing_expires() {
    let mut a = hub("a", 1);
    attach(&mut a, s(0), "h", &key(0), 1).unwrap();
    a.touch(s(20), &id("h"));
    a.tick(s(64));
    assert!(a.attached(&id("h")).is_some());
    a.tick(s(65));
    assert!(a.attached(&id("h")).is_none() && a.home(&id("h")).is_none());
    assert_eq!(a.counters().expired, 1);
    let output = a.poll();
    assert!(matches!(output, Some(Output::Expired { epoch: 1, .. })), "{output:?}");
}

#[test]
fn a_home_that_changes_too_often_is_announced_less_often_but_never_lost() {
    let (mut a, mut b) = (hub("a", 1), hub("b", 2));
    link(s(0), &mut a, &mut b);
    attach(&mut a, s(20), "h", &key(0), 1).unwrap();
    a.register(s(20), &id("h"), vec![service("blog")], true).unwrap();
    let mut announced = 0;
    for n in 1..60_u64 {
        let now = s(20) + Duration::from_millis(500) * n as u32;
        a.set_health(now, &id("h"), &[(name("blog"), n % 2 == 0)]);
        a.tick(now);
        let seen = view(&b);
        talk(now, &mut a, &mut b);
        announced += u32::from(view(&b) != seen);
        assert_eq!(
            a.instances(&name("blog"))[0].record.is_healthy,
            n % 2 == 0,
            "known here at once"
        );
    }
    assert!(announced <= 5 + 3, "{announced} announcements of 59 changes");
    assert!(a.counters().damped > 40);
    a.tick(s(90));
    talk(s(90), &mut a, &mut b);
    assert_eq!(view(&a), view(&b));
    // A withdrawal is never held back.
    a.detach(s(90), &id("h"), 1);
    talk(s(90), &mut a, &mut b);
    assert!(b.home(&id("h")).is_none());
}

#[test]
fn registrations_out_of_bounds_change_nothing() {
    let mut a = Registry::new(
        id("a"),
        1,
        Timing::default(),
        Limits { own_homes: 1, services: 2, ..Limits::default() },
    );
    let home = id("h");
    assert_eq!(a.register(s(0), &home, vec![], true), Err(Refusal::NotAttached));
    attach(&mut a, s(0), "h", &key(0), 1).unwrap();
    assert_eq!(attach(&mut a, s(0), "h2", &key(1), 1), Err(Refusal::Full));
    a.register(s(0), &home, vec![service("blog")], true).unwrap();
    let bad = |change: fn(&mut ServiceRecord)| {
        let mut record = service("x");
        change(&mut record);
        record
    };
    let record_errors = [
        bad(|r| r.version = "one".into()),
        bad(|r| r.visibility = "private".into()),
        bad(|r| r.methods = vec!["a b".into()]),
        bad(|r| r.methods = vec!["m".into(); record::MAX_METHODS + 1]),
        bad(|r| {
            r.metadata.insert("x".into(), "y".repeat(record::MAX_METADATA).into());
        }),
    ];
    for record in record_errors {
        let refused = a.register(s(0), &home, vec![record.clone()], true);
        assert!(matches!(refused, Err(Refusal::Record(_))), "{record:?}");
    }
    let twice = a.register(s(0), &home, vec![service("x"), service("x")], true);
    assert!(matches!(twice, Err(Refusal::Record(RecordError::Twice { .. }))));
    let many = a.register(s(0), &home, vec![service("x"), service("y")], false);
    assert!(matches!(many, Err(Refusal::Record(RecordError::TooMany { most: 2 }))));
    assert_eq!(a.instances(&name("blog")).len(), 1);
    assert!(a.instances(&name("x")).is_empty());
}

#[test]
fn a_peer_is_believed_only_so_many_homes() {
    let mut a =
        Registry::new(id("a"), 1, Timing::default(), Limits { peer_homes: 3, ..Limits::default() });
    let mut b = hub("b", 2);
    for n in 0..10 {
        attach(&mut b, s(0), &format!("h{n}"), &key(n), 1).unwrap();
    }
    link(s(0), &mut a, &mut b);
    assert_eq!(a.all_homes().count(), 3);
    assert!(a.counters().over_limit > 0);
    // It is not asked again and again for what is not taken.
    let repairs = a.counters().repairs;
    a.tick(s(15));
    b.tick(s(15));
    talk(s(15), &mut a, &mut b);
    assert_eq!(a.counters().repairs, repairs);
}

#[test]
fn everything_comes_in_pieces_and_a_restart_is_noticed() {
    let (mut a, mut b) = (hub("a", 1), hub("b", 2));
    b.limits.delta_bytes = 2000;
    for n in 0..100 {
        let home = format!("h{n}");
        attach(&mut b, s(0), &home, &key(n), 1).unwrap();
        b.register(s(0), &id(&home), vec![service("blog")], true).unwrap();
    }
    link(s(0), &mut a, &mut b);
    assert_eq!(a.instances(&name("blog")).len(), 100);
    // The same hub after a restart, with one home.
    let mut b = hub("b", 3);
    attach(&mut b, s(1), "h0", &key(0), 2).unwrap();
    link(s(1), &mut a, &mut b);
    assert_eq!(a.all_homes().count(), 1);
    assert_eq!(view(&a), view(&b));
}

#[test]
fn more_withdrawals_than_are_remembered_cost_one_full_pull() {
    let (mut a, mut b) = (hub("a", 1), hub("b", 2));
    attach(&mut b, s(0), "stays", &key(0), 1).unwrap();
    attach(&mut b, s(0), "goes", &key(1), 1).unwrap();
    link(s(0), &mut a, &mut b);
    a.peer_down(&id("b"));
    b.peer_down(&id("a"));
    b.detach(s(1), &id("goes"), 1);
    for n in 0..5000_u64 {
        attach(&mut b, s(1), &format!("h{n}"), &key(2), 1).unwrap();
        b.detach(s(1), &id(&format!("h{n}")), 1);
    }
    link(s(2), &mut a, &mut b);
    assert_eq!(view(&a), view(&b));
    assert_eq!(a.all_homes().count(), 1);
}
