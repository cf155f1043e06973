//! MLS messages as a device makes them, as far as a relay looks at them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use relay_proto::{
    NodeId, SigningKey,
    mls::{DeviceBinding, key_package::sign_content},
};

/// A device of the profile: its user's key, its id, its leaf key.
#[derive(Debug)]
pub struct MlsDevice {
    pub user: SigningKey,
    pub device: [u8; 16],
    pub leaf: SigningKey,
    made: u64,
}

impl MlsDevice {
    pub fn new(user: u8, device: u8) -> Self {
        let leaf = SigningKey::from_seed([user ^ 0xa5, device].repeat(16).try_into().unwrap());
        Self { user: SigningKey::from_seed([user; 32]), device: [device; 16], leaf, made: 0 }
    }

    pub fn user_id(&self) -> NodeId {
        self.user.node_id()
    }

    /// The `device_id` of the wire.
    pub fn device_id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.device)
    }

    fn identity(&self, now_s: u64) -> [u8; 132] {
        let binding = DeviceBinding {
            user: self.user_id(),
            device: self.device,
            not_before: now_s - 3_600,
            not_after: now_s + 300 * 86_400,
        };
        let signed = binding.to_be_signed(self.leaf.node_id().as_bytes());
        binding.identity(&self.user.sign(&signed))
    }

    /// A new KeyPackage, good for 28 days from `now_s`, in base64.
    pub fn key_package(&mut self, now_s: u64) -> String {
        STANDARD.encode(self.key_package_with(now_s - 3_600, now_s + 28 * 86_400, now_s))
    }

    /// A KeyPackage of any lifetime.
    pub fn key_package_with(&mut self, not_before: u64, not_after: u64, now_s: u64) -> Vec<u8> {
        self.made += 1;
        let mut random = [self.device[0]; 32];
        random[..8].copy_from_slice(&self.made.to_be_bytes());
        let mut leaf = Vec::new();
        vector(&mut leaf, &[self.user_id().as_bytes()[0]; 32]);
        vector(&mut leaf, self.leaf.node_id().as_bytes());
        leaf.extend(1_u16.to_be_bytes());
        vector(&mut leaf, &self.identity(now_s));
        for list in [&[1_u16][..], &[1], &[0x0a0a, 0x000a, 0xf1a0], &[], &[1]] {
            let bytes: Vec<u8> = list.iter().flat_map(|number| number.to_be_bytes()).collect();
            vector(&mut leaf, &bytes);
        }
        leaf.push(1);
        leaf.extend(not_before.to_be_bytes());
        leaf.extend(not_after.to_be_bytes());
        vector(&mut leaf, &[]);
        let signature = self.leaf.sign(&sign_content("LeafNodeTBS", &leaf));
        vector(&mut leaf, &signature);
        let mut package = Vec::new();
        package.extend([0, 1, 0, 1]);
        vector(&mut package, &random);
        package.extend(leaf);
        vector(&mut package, &[]);
        let signature = self.leaf.sign(&sign_content("KeyPackageTBS", &package));
        vector(&mut package, &signature);
        [&[0, 1, 0, 5][..], &package].concat()
    }
}

/// A PrivateMessage of a group: 1 application, 2 proposal, 3 commit. Base64.
pub fn private_message(group: &[u8; 32], epoch: u64, content: u8, payload: &[u8]) -> String {
    let mut out = vec![0, 1, 0, 2];
    vector(&mut out, group);
    out.extend(epoch.to_be_bytes());
    out.push(content);
    out.extend(payload);
    STANDARD.encode(out)
}

/// A PublicMessage of a new member's own commit. Base64.
pub fn external_commit(group: &[u8; 32], epoch: u64) -> String {
    let mut out = vec![0, 1, 0, 1];
    vector(&mut out, group);
    out.extend(epoch.to_be_bytes());
    out.extend([4, 0, 3, 0]);
    STANDARD.encode(out)
}

/// Something that begins like a Welcome. Base64.
pub fn welcome() -> String {
    STANDARD.encode([0, 1, 0, 3, 0, 1, 0, 0])
}

fn vector(out: &mut Vec<u8>, value: &[u8]) {
    match value.len() {
        length @ 0..64 => out.push(length as u8),
        length => out.extend((length as u16 | 0x4000).to_be_bytes()),
    }
    out.extend(value);
}
