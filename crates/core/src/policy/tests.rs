use proptest::prelude::*;
use relay_proto::{
    Code, SigningKey,
    event::{Draft, Tags, rotation_text},
};

use super::*;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

fn by(n: u8) -> Principal {
    Principal::Key(id(n))
}

fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

fn rule(pattern: &str, who: &[Who], allow: &[Op], deny: &[Op]) -> Rule {
    Rule {
        ns: pattern.parse().unwrap(),
        who: who.to_vec(),
        allow: allow.iter().copied().collect(),
        deny: deny.iter().copied().collect(),
    }
}

/// 1 is the relay's key; 2 an admin of `forge/**`; 3 may write there.
fn config() -> AclConfig {
    AclConfig {
        admins: vec![id(1)],
        rules: vec![
            rule("forge/**", &[Who::Key(id(2))], &[Op::Read, Op::Admin], &[]),
            rule("forge/**", &[Who::Group("forge".into())], &[Op::Read, Op::Write], &[]),
        ],
        groups: Groups::from([("forge".to_owned(), vec![id(3)])]),
        rotation: Vec::new(),
    }
}

fn signed(author: u8, kind: u16, at: u64, tags: &[[&str; 2]], content: String) -> Event {
    let tags: Tags = tags.iter().collect();
    Draft { kind, created_at_ns: at, tags, content }.sign(&key(author)).unwrap()
}

fn document(author: u8, at: u64, rules: &[Rule]) -> Event {
    let content = PolicyDocument { rules: rules.to_vec(), groups: Groups::new() };
    let content = serde_json::to_string(&content).unwrap();
    signed(author, reserved::ACL_POLICY, at, &[["d", "main"]], content)
}

fn rotation(old: u8, new: u8, at: u64) -> Event {
    let proof = key(new).sign(rotation_text(&id(old), &id(new), at).as_bytes());
    let hex: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
    let content = format!("{{\"proof\":\"{hex}\"}}");
    let new = id(new).to_string();
    signed(old, reserved::KEY_ROTATION, at, &[["delegate", &new]], content)
}

fn approval(author: u8, rotation: &Event) -> Event {
    let id = rotation.id().to_string();
    signed(author, reserved::ROTATION_APPROVAL, 9, &[["e", &id]], String::new())
}

#[test]
fn a_fresh_relay_is_open_in_default_only() {
    let policy = Policy::new(AclConfig { admins: vec![id(1)], ..AclConfig::default() });
    for who in [Principal::Anonymous, by(7)] {
        let rights: Vec<_> = policy.rights(&who, &ns("default")).iter().collect();
        assert_eq!(rights, [Op::Read, Op::Write, Op::Lock]);
        assert_eq!(policy.rights(&who, &ns("default/x")), Ops::NONE);
    }
    assert_eq!(policy.rights(&by(1), &ns("any/where")), Ops::ALL);
    policy.reconfigure(config());
    assert_eq!(policy.rights(&by(7), &ns("default")), Ops::NONE);
}

#[test]
fn groups_patterns_and_the_deciding_rule() {
    let policy = Policy::new(config());
    assert!(policy.allows(&by(3), &ns("forge/site"), Op::Write));
    assert!(!policy.allows(&by(3), &ns("forge/site"), Op::Lock));
    assert!(!policy.allows(&by(3), &ns("other"), Op::Write));
    let why = policy.explain(&by(3), &ns("forge/site"), Op::Write);
    assert_eq!(why.rule.unwrap().source, Source::Config { n: 2 });
    let refusal = policy.check(&by(3), &ns("other"), Op::Write).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[test]
fn an_explicit_deny_wins_over_every_allow() {
    let mut config = config();
    config.rules.push(rule("forge/locked", &[Who::Anyone], &[], &[Op::Write]));
    let policy = Policy::new(config);
    assert!(policy.allows(&by(3), &ns("forge/open"), Op::Write));
    assert!(!policy.allows(&by(3), &ns("forge/locked"), Op::Write));
    assert!(!policy.allows(&by(1), &ns("forge/locked"), Op::Write));
    let why = policy.explain(&by(3), &ns("forge/locked"), Op::Write);
    assert_eq!(why.rule.unwrap().source, Source::Config { n: 3 });
}

#[test]
fn an_admin_rules_by_event_over_its_own_namespaces_only() {
    let policy = Policy::new(config());
    let grant = |pattern| [rule(pattern, &[Who::Key(id(5))], &[Op::Write], &[])];
    for outside in ["**", "other", "forger"] {
        let event = document(2, 1, &grant(outside));
        assert_eq!(policy.check_change(&event).unwrap_err().code, Code::Forbidden);
        policy.apply([&event]);
        assert!(!policy.allows(&by(5), &ns("other"), Op::Write));
    }
    let event = document(2, 2, &grant("forge/a"));
    policy.check_change(&event).unwrap();
    policy.apply([&event]);
    assert!(policy.allows(&by(5), &ns("forge/a"), Op::Write));
    let stranger = document(3, 3, &grant("forge/a"));
    assert_eq!(policy.check_change(&stranger).unwrap_err().code, Code::Forbidden);
}

#[test]
fn the_latest_document_counts_in_whatever_order_they_come() {
    let first = document(2, 1, &[rule("forge/a", &[Who::Key(id(5))], &[Op::Write], &[])]);
    let empty = document(2, 2, &[]);
    for order in [[&first, &empty], [&empty, &first]] {
        let policy = Policy::new(config());
        policy.apply(order);
        assert!(!policy.allows(&by(5), &ns("forge/a"), Op::Write));
    }
}

#[test]
fn an_event_cannot_make_admins_that_rule_by_event() {
    let policy = Policy::new(config());
    policy.apply([&document(2, 1, &[rule("forge/a", &[Who::Key(id(5))], &[Op::Admin], &[])])]);
    assert!(policy.allows(&by(5), &ns("forge/a"), Op::Admin));
    let event = document(5, 2, &[rule("forge/a", &[Who::Key(id(6))], &[Op::Write], &[])]);
    assert_eq!(policy.check_change(&event).unwrap_err().code, Code::Forbidden);
}

#[test]
fn who_administers_what() {
    let policy = Policy::new(config());
    let all = Pattern::All;
    let forge: Pattern = "forge/**".parse().unwrap();
    assert!(policy.administers(&Principal::Operator, &all));
    assert!(policy.administers(&by(1), &all));
    assert!(policy.administers(&by(2), &forge) && !policy.administers(&by(2), &all));
    assert!(
        !policy.administers(&by(3), &forge) && !policy.administers(&Principal::Anonymous, &forge)
    );
    policy.apply([&rotation(2, 12, 1)]);
    assert!(!policy.administers(&by(2), &forge) && policy.administers(&by(12), &forge));
}

#[test]
fn malformed_policy_is_refused() {
    let policy = Policy::new(config());
    let unknown_group = [rule("forge/a", &[Who::Group("none".into())], &[Op::Read], &[])];
    for event in [
        document(2, 1, &unknown_group),
        signed(2, reserved::ACL_POLICY, 1, &[["d", "x"]], "{}".into()),
        signed(2, reserved::ACL_POLICY, 1, &[["d", "x"]], r#"{"rules":[],"ruels":[]}"#.into()),
        signed(2, reserved::ACL_POLICY, 1, &[["expiration", "99"]], r#"{"rules":[]}"#.into()),
        signed(2, reserved::ROTATION_APPROVAL, 1, &[["e", "x"]], String::new()),
    ] {
        assert_eq!(policy.check_change(&event).unwrap_err().code, Code::InvalidRequest);
    }
}

#[test]
fn a_new_key_has_what_the_old_one_had_and_the_old_one_reads() {
    let policy = Policy::new(config());
    policy.apply([&rotation(3, 13, 1)]);
    policy.apply([&rotation(13, 23, 2)]);
    for old in [3, 13] {
        assert!(!policy.allows(&by(old), &ns("forge/a"), Op::Write));
        assert!(policy.allows(&by(old), &ns("forge/a"), Op::Read));
        assert!(!policy.explain(&by(old), &ns("forge/a"), Op::Write).allowed);
    }
    assert!(policy.allows(&by(23), &ns("forge/a"), Op::Write));
    let circle = policy.check_change(&rotation(23, 3, 3)).unwrap_err();
    assert_eq!(circle.code, Code::InvalidRequest);
}

#[test]
fn an_admin_takes_its_documents_along() {
    let policy = Policy::new(config());
    policy.apply([&document(2, 1, &[rule("forge/a", &[Who::Key(id(5))], &[Op::Write], &[])])]);
    policy.apply([&rotation(2, 12, 2)]);
    assert!(policy.allows(&by(5), &ns("forge/a"), Op::Write), "still in force");
    let replaced = document(12, 3, &[]);
    policy.check_change(&replaced).unwrap();
    policy.apply([&replaced]);
    assert!(!policy.allows(&by(5), &ns("forge/a"), Op::Write), "replaced by the heir");
}

#[test]
fn a_rotation_waits_for_approval_where_the_namespace_says_so() {
    let mut config = config();
    config.rotation = vec![
        ("forge/**".parse().unwrap(), RotationMode::Approval),
        ("forge/quick".parse().unwrap(), RotationMode::Auto),
    ];
    let policy = Policy::new(config);
    let rotated = rotation(3, 13, 1);
    policy.apply([&rotated]);
    assert!(policy.allows(&by(3), &ns("forge/a"), Op::Write), "not yet approved");
    assert!(!policy.allows(&by(13), &ns("forge/a"), Op::Write));
    assert!(policy.allows(&by(13), &ns("forge/quick"), Op::Write), "here nobody has to");

    let stranger = approval(7, &rotated);
    assert_eq!(policy.check_change(&stranger).unwrap_err().code, Code::Forbidden);
    policy.apply([&stranger]);
    assert!(!policy.allows(&by(13), &ns("forge/a"), Op::Write));

    let approved = approval(2, &rotated);
    policy.check_change(&approved).unwrap();
    policy.apply([&approved]);
    assert!(policy.allows(&by(13), &ns("forge/a"), Op::Write));
    assert!(!policy.allows(&by(3), &ns("forge/a"), Op::Write));
}

#[test]
fn a_stolen_admin_key_gains_nothing_by_an_unapproved_rotation() {
    let mut config = config();
    config.rotation = vec![("forge/**".parse().unwrap(), RotationMode::Approval)];
    let policy = Policy::new(config);
    policy.apply([&rotation(2, 12, 1)]);
    let event = document(12, 2, &[rule("forge/a", &[Who::Key(id(5))], &[Op::Write], &[])]);
    assert_eq!(policy.check_change(&event).unwrap_err().code, Code::Forbidden);
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let pattern = prop::sample::select(vec!["a", "a/b", "a/*", "a/**", "a/b/**", "b/*", "**"]);
    let who = prop_oneof![
        3 => (1u8..6).prop_map(|n| Who::Key(id(n))),
        1 => Just(Who::Anyone),
        1 => Just(Who::Group("g".into())),
    ];
    let ops = || prop::collection::vec(prop::sample::select(Op::ALL.to_vec()), 0..3);
    (pattern, prop::collection::vec(who, 1..3), ops(), ops(), prop::bool::weighted(0.2)).prop_map(
        |(pattern, who, allow, deny, denies)| {
            rule(pattern, &who, &allow, if denies { &deny } else { &[] })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// What the compiled tree answers is what reading the rules one by one says.
    #[test]
    fn the_tree_and_the_list_agree(
        rules in prop::collection::vec(any_rule(), 0..8),
        turns in prop::collection::vec((1u8..6, 1u8..6), 0..3),
        waits in any::<bool>(),
    ) {
        let groups = Groups::from([("g".to_owned(), vec![id(2), id(4)])]);
        let mode = if waits { RotationMode::Approval } else { RotationMode::Auto };
        let rotation_modes = vec![("a/b/**".parse().unwrap(), mode)];
        let policy = Policy::new(AclConfig {
            admins: vec![id(1)], rules, groups, rotation: rotation_modes,
        });
        for (old, new) in turns {
            if old != new {
                policy.apply([&rotation(old, new, 1)]);
            }
        }
        let callers = (1u8..7).map(by).chain([Principal::Anonymous, Principal::Operator]);
        for who in callers {
            for name in ["a", "a/b", "a/c", "a/b/c", "b", "b/c", "default"] {
                for op in Op::ALL {
                    let explained = policy.explain(&who, &ns(name), op).allowed;
                    prop_assert_eq!(policy.allows(&who, &ns(name), op), explained);
                }
            }
        }
    }
}
