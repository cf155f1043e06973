//! MLS as the relay reads it: the profile's vectors, and KeyPackages that break one rule each.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use relay_proto::{
    SigningKey,
    key::parse_hex,
    mls::{BindingError, DeviceBinding, Head, KeyPackage, KeyPackageError, decode_base64},
};
use relay_testkit::mls::MlsDevice;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/mls-vectors.json")).unwrap()
}

fn hex<const N: usize>(value: &Value) -> [u8; N] {
    parse_hex(value.as_str().unwrap()).unwrap()
}

#[test]
fn device_bindings_are_judged_as_the_vectors_say() {
    let vectors = vectors();
    for case in vectors["device_binding"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let leaf: [u8; 32] = hex(&case["leaf_signature_key"]);
        let identity: Vec<u8> = {
            let text = case["identity"].as_str().unwrap();
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        let now = case["check_time"].as_u64().unwrap();
        let judged = DeviceBinding::verify(&identity, &leaf).and_then(|found| {
            found.check_time(now)?;
            Ok(found)
        });
        assert_eq!(judged.is_ok(), case["valid"].as_bool().unwrap(), "{name}: {judged:?}");
        if let Ok(found) = judged {
            let user = SigningKey::from_seed(hex(&case["user_seed"]));
            assert_eq!(found.user, user.node_id(), "{name}");
            assert_eq!(found.device, hex::<16>(&case["device_id"]), "{name}");
            assert_eq!(
                found.to_be_signed(&leaf),
                {
                    let text = case["to_be_signed"].as_str().unwrap();
                    (0..text.len())
                        .step_by(2)
                        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                        .collect::<Vec<u8>>()
                },
                "{name}"
            );
        }
    }
}

#[test]
fn heads_are_read_as_the_vectors_say() {
    let vectors = vectors();
    for case in vectors["ds_header"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let expect = &case["expect"];
        let head = Head::of_base64(case["message"].as_str().unwrap());
        if expect["error"] == true {
            assert!(head.is_err(), "{name}: {head:?}");
            continue;
        }
        let head = head.unwrap_or_else(|error| panic!("{name}: {error}"));
        let accepted = head.accepted().map(|kind| kind.name());
        assert_eq!(accepted, expect["accept_as"].as_str(), "{name}");
        if let Some(group) = expect.get("group_id") {
            let (found, epoch) = head.place().unwrap();
            assert_eq!(*found, hex::<32>(group), "{name}");
            assert_eq!(epoch, expect["epoch"].as_u64().unwrap(), "{name}");
        }
    }
}

const NOW: u64 = 1_767_000_000;

#[test]
fn a_key_package_is_good_for_its_device_and_time() {
    let mut alice = MlsDevice::new(1, 2);
    let bytes = decode_base64(&alice.key_package(NOW)).unwrap();
    let package = KeyPackage::parse(&bytes).unwrap();
    let (user, device) = (alice.user_id(), alice.device);
    assert_eq!(package.check(&user, &device, NOW), Ok(()));
    let bob = MlsDevice::new(3, 2).user_id();
    assert_eq!(package.check(&bob, &device, NOW), Err(KeyPackageError::OtherUser));
    assert_eq!(package.check(&user, &[9; 16], NOW), Err(KeyPackageError::OtherDevice));
    assert_eq!(package.check(&user, &device, NOW + 28 * 86_400), Err(KeyPackageError::NotNow));
    assert_eq!(package.check(&user, &device, NOW - 4_000), Err(KeyPackageError::NotNow));
    assert_eq!(KeyPackage::expiry_of(&bytes), Some(NOW + 28 * 86_400));
    let again = KeyPackage::parse(&decode_base64(&alice.key_package(NOW)).unwrap()).unwrap();
    assert_ne!(package.reference, again.reference);
}

#[test]
fn lifetimes_are_bounded() {
    let mut alice = MlsDevice::new(1, 2);
    let (user, device) = (alice.user_id(), alice.device);
    for (not_before, not_after, expected) in [
        (NOW - 3_600, NOW + 84 * 86_400, Ok(())),
        (NOW - 3_600, NOW + 84 * 86_400 + 1, Err(KeyPackageError::Lifetime)),
        (NOW, NOW, Err(KeyPackageError::Lifetime)),
        (0, u64::MAX, Err(KeyPackageError::Lifetime)),
        (NOW + 299, NOW + 600, Ok(())),
        (NOW + 301, NOW + 600, Err(KeyPackageError::NotNow)),
    ] {
        let bytes = alice.key_package_with(not_before, not_after, NOW);
        let package = KeyPackage::parse(&bytes).unwrap();
        assert_eq!(package.check(&user, &device, NOW), expected, "{not_before} {not_after}");
    }
}

#[test]
fn an_old_binding_is_refused_although_the_package_is_new() {
    let binding = DeviceBinding {
        user: SigningKey::from_seed([1; 32]).node_id(),
        device: [1; 16],
        not_before: 100,
        not_after: 200,
    };
    assert_eq!(binding.check_time(200), Err(BindingError::NotNow));
    assert_eq!(binding.check_time(199), Ok(()));
    assert_eq!(binding.check_time(0), Ok(()), "clocks may differ by five minutes");
}

#[test]
fn every_byte_of_a_key_package_counts() {
    let mut alice = MlsDevice::new(1, 2);
    let good = alice.key_package_with(NOW - 60, NOW + 60, NOW);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let checked = KeyPackage::parse(&bad)
            .and_then(|package| package.check(&alice.user_id(), &alice.device, NOW));
        assert!(checked.is_err(), "byte {at} of {} may be anything", good.len());
        assert!(KeyPackage::parse(&good[..at]).is_err());
    }
    let longer = [&good[..], &[0]].concat();
    assert!(KeyPackage::parse(&longer).is_err());
    assert_eq!(KeyPackage::parse(&vec![0; 5_000]), Err(KeyPackageError::TooLarge));
}

proptest! {
    /// Nothing that comes in makes the readers panic, and a head is the same however it is written.
    #[test]
    fn anything_can_be_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = KeyPackage::parse(&bytes);
        let _ = KeyPackage::expiry_of(&bytes);
        let text = STANDARD.encode(&bytes);
        prop_assert_eq!(Head::of_base64(&text), Head::parse(&bytes));
        prop_assert_eq!(decode_base64(text.trim_end_matches('=')).unwrap(), bytes);
    }
}
