//! JSON in which no object has the same member twice.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};

/// Reads `json`, refusing repeated members at any depth. Unknown members are ignored.
pub(super) fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<Unrepeated>(json)?;
    serde_json::from_slice(json)
}

/// Any JSON value; fails to be read where a member repeats.
struct Unrepeated;

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Unrepeated;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated members")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }
    fn visit_str<E>(self, _: &str) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }
    fn visit_unit<E>(self) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unrepeated, A::Error> {
        while list.next_element::<Unrepeated>()?.is_some() {}
        Ok(Unrepeated)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unrepeated, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Unrepeated>()?;
            if !names.insert(name) {
                return Err(A::Error::custom("a member repeats"));
            }
        }
        Ok(Unrepeated)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn repeats_are_refused_at_any_depth() {
        assert!(from_slice::<Value>(br#"{"a":1,"b":{"a":[null,true,-1,1.5,"x"]}}"#).is_ok());
        assert!(from_slice::<Value>(br#"{"a":1,"a":1}"#).is_err());
        assert!(from_slice::<Value>(br#"{"a":1,"\u0061":1}"#).is_err());
        assert!(from_slice::<Value>(br#"{"b":[{"a":1,"a":2}]}"#).is_err());
        assert!(from_slice::<Value>(br#"{"a":1} "#).is_ok());
        assert!(from_slice::<Value>(br#"{"a":1}x"#).is_err());
    }
}
