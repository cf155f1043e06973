//! `relay_conversation`, the extension that every group of the profile carries (`mls-profile.md` 2).

use relay_proto::{NodeId, conv::ConvKind};

use crate::error::Hostile;

/// Its number, from the range for private use.
pub(crate) const EXTENSION: u16 = 0xf1a0;
const VERSION: u8 = 1;

/// What the members of a group have agreed on for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelayConversation {
    pub kind: ConvKind,
    /// The relay that orders its messages.
    pub home: String,
    /// Seals the published GroupInfo.
    pub rejoin_key: [u8; 32],
    pub creator: NodeId,
}

impl RelayConversation {
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            ConvKind::Dm => 1,
            ConvKind::Room => 2,
        };
        let mut out = vec![VERSION, kind];
        // The id of a relay has at most 128 bytes, so its length takes one or two.
        match self.home.len() as u16 {
            length @ 0..64 => out.push(length as u8),
            length => out.extend_from_slice(&(length | 0x4000).to_be_bytes()),
        }
        out.extend_from_slice(self.home.as_bytes());
        out.extend_from_slice(&self.rejoin_key);
        out.extend_from_slice(self.creator.as_bytes());
        out
    }

    /// Reads it strictly: what a later version might add is refused, for its rules are not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, Hostile> {
        let bad = |why: &str| Hostile::Profile(format!("relay_conversation: {why}"));
        let short = || bad("it ends early");
        let (&[version, kind], rest) = bytes.split_first_chunk::<2>().ok_or_else(short)?;
        if version != VERSION {
            return Err(bad("its version is not known"));
        }
        let kind = match kind {
            1 => ConvKind::Dm,
            2 => ConvKind::Room,
            _ => return Err(bad("its kind is not known")),
        };
        let (&first, rest) = rest.split_first().ok_or_else(short)?;
        let (length, rest) = match first >> 6 {
            0 => (usize::from(first), rest),
            1 => {
                let (&second, rest) = rest.split_first().ok_or_else(short)?;
                let length = usize::from(first & 0x3f) << 8 | usize::from(second);
                if length < 64 {
                    return Err(bad("a length is not in its shortest form"));
                }
                (length, rest)
            }
            _ => return Err(bad("the home is too long")),
        };
        let (home, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let home = std::str::from_utf8(home).map_err(|_| bad("the home is no text"))?.to_owned();
        let (&rejoin_key, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        let (&creator, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        if !rest.is_empty() {
            return Err(bad("bytes follow its end"));
        }
        let creator = NodeId::from_bytes(creator).map_err(|error| bad(&error.to_string()))?;
        Ok(Self { kind, home, rejoin_key, creator })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_proto::SigningKey;

    use super::*;

    fn sample(home: &str) -> RelayConversation {
        RelayConversation {
            kind: ConvKind::Room,
            home: home.to_owned(),
            rejoin_key: [7; 32],
            creator: SigningKey::from_seed([1; 32]).node_id(),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        for home in ["gw_local", &"x".repeat(100)] {
            let encoded = sample(home).encode();
            assert_eq!(RelayConversation::decode(&encoded), Ok(sample(home)));
            for end in 0..encoded.len() {
                assert!(RelayConversation::decode(&encoded[..end]).is_err());
            }
            assert!(RelayConversation::decode(&[&encoded[..], &[0]].concat()).is_err());
        }
        let mut later = sample("a").encode();
        later[0] = 2;
        assert!(RelayConversation::decode(&later).is_err());
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = RelayConversation::decode(&bytes);
        }
    }
}
