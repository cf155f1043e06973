//! Names that people type and see.

use relay_proto::NodeId;

/// Reads a key as canonical text, as a line of OpenSSH, or as the path of a public key file.
pub fn parse_key(text: &str) -> Result<NodeId, String> {
    let bad = || format!("'{text}' is no public key; write ed25519:… or the path of a .pub file");
    if let Ok(id) = relay_client::keys::parse_public(text) {
        return Ok(id);
    }
    if !text.contains(['/', '.']) {
        return Err(bad());
    }
    let line = std::fs::read_to_string(text).map_err(|error| format!("{text}: {error}"))?;
    relay_client::keys::parse_public(&line).map_err(|_| bad())
}

/// Cuts the middle of long ids: `ed25519:3f2a…91c0`.
pub fn short(id: &str) -> String {
    let (prefix, digits) =
        id.split_once(':').map_or(("", id), |(_, digits)| (&id[..id.len() - digits.len()], digits));
    if digits.len() < 20 || !digits.is_ascii() {
        return id.to_owned();
    }
    format!("{prefix}{}…{}", &digits[..4], &digits[digits.len() - 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ids_lose_their_middle() {
        assert_eq!(short(&format!("ed25519:3f2a{}91c0", "0".repeat(56))), "ed25519:3f2a…91c0");
        assert_eq!(short(&"ab".repeat(32)), "abab…abab");
        assert_eq!(short("db/main"), "db/main");
    }
}
