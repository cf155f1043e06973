//! Kinds and their classes.

/// What a kind means for storage and for queries (`events.md`, Kinds).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Every event stands for itself.
    Normal,
    /// The latest of (author, kind, d) is current.
    Replaceable,
    /// Never stored.
    Ephemeral,
    /// The latest of the coordinate `kind:pubkey:d` is current; `d` is required.
    Addressable,
}

/// The class of a kind.
pub const fn class_of(kind: u16) -> Class {
    match kind {
        10_000..=19_999 => Class::Replaceable,
        20_000..=29_999 => Class::Ephemeral,
        30_000..=39_999 => Class::Addressable,
        _ => Class::Normal,
    }
}

/// Kinds with a meaning of their own.
pub mod reserved {
    pub const KEY_ROTATION: u16 = 10_100;
    pub const ROTATION_APPROVAL: u16 = 10_101;
    pub const ACL_POLICY: u16 = 10_200;
    /// The author's chat device, base64url in `d`, is not theirs any more.
    pub const DEVICE_REVOCATION: u16 = 30_300;
    pub const REQUEST: u16 = 21_000;
    pub const RESPONSE: u16 = 21_001;
    /// Signed HTTP requests; never accepted by publishing.
    pub const HTTP_AUTH: u16 = 27_235;
}
