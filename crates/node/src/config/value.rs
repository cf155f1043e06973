//! The types that settings have, each with one way to be written.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::{
    reader::{Reader, Setting, Shape},
    source::{self, Node, Raw},
};

// === plain types ===

impl Setting for bool {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.raw {
            Raw::Bool(flag) => Some(*flag),
            Raw::Untyped(text) if text == "true" || text == "1" => Some(true),
            Raw::Untyped(text) if text == "false" || text == "0" => Some(false),
            _ => reader.wrong(node, "true or false"),
        }
    }

    fn show(&self) -> toml::Value {
        (*self).into()
    }

    fn shape() -> Shape {
        Shape::Leaf(json!({"type": "boolean"}))
    }
}

impl Setting for u64 {
    const NONE: &str = "0";

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let number = match &node.raw {
            Raw::Integer(number) => (*number).try_into().ok(),
            Raw::Untyped(text) => text.trim().parse().ok(),
            _ => None,
        };
        // JSON carries numbers below 2^53 without loss.
        match number.filter(|number| *number < 1 << 53) {
            Some(number) => Some(number),
            None => reader.wrong(node, "a whole number from 0"),
        }
    }

    fn show(&self) -> toml::Value {
        toml::Value::Integer((*self).try_into().unwrap_or(i64::MAX))
    }

    fn shape() -> Shape {
        Shape::Leaf(json!({"type": "integer", "minimum": 0}))
    }
}

impl Setting for String {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.text(node, "text").map(str::to_owned)
    }

    fn show(&self) -> toml::Value {
        self.as_str().into()
    }

    fn shape() -> Shape {
        Shape::Leaf(json!({"type": "string"}))
    }
}

impl Setting for PathBuf {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.text(node, "a path").map(Self::from)
    }

    fn show(&self) -> toml::Value {
        self.display().to_string().into()
    }

    fn shape() -> Shape {
        String::shape()
    }
}

impl Setting for SocketAddr {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        const WANTED: &str = "an address and port such as \"127.0.0.1:8080\"";
        let text = reader.text(node, WANTED)?;
        text.trim().parse().ok().or_else(|| reader.wrong(node, WANTED))
    }

    fn show(&self) -> toml::Value {
        self.to_string().into()
    }

    fn shape() -> Shape {
        String::shape()
    }
}

// === units ===

/// Milliseconds of each unit of time.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Setting for Duration {
    const NONE: &str = "0";

    /// `"30s"`, `"1h30m"`, `"0"`.
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        const WANTED: &str = "a duration such as \"500ms\", \"30s\", \"15m\", \"1h\", \"90d\"";
        let text = reader.text(node, WANTED)?;
        let millis = parse_units(text, &TIME_UNITS);
        millis.map(Self::from_millis).or_else(|| reader.wrong(node, WANTED))
    }

    fn show(&self) -> toml::Value {
        let millis = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        show_unit(millis, &TIME_UNITS).into()
    }

    fn shape() -> Shape {
        Shape::Leaf(json!({"type": "string", "pattern": r"^(0|(\d+(ms|s|m|h|d))+)$"}))
    }
}

/// A number of bytes, written `"128KiB"` or `"10GB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_unit(self.0, &SIZE_UNITS))
    }
}

impl std::str::FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_units(text, &SIZE_UNITS).map(Self).ok_or(SIZE_WANTED)
    }
}

const SIZE_WANTED: &str = "a size such as \"512B\", \"128KiB\", \"64MB\", \"10GB\"";

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

impl Setting for Size {
    const NONE: &str = "0";

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.text(node, SIZE_WANTED)?;
        text.parse().ok().or_else(|| reader.wrong(node, SIZE_WANTED))
    }

    fn show(&self) -> toml::Value {
        show_unit(self.0, &SIZE_UNITS).into()
    }

    fn shape() -> Shape {
        Shape::Leaf(json!({"type": "string", "pattern": r"^(0|\d+(B|KB|KiB|MB|MiB|GB|GiB))$"}))
    }
}

/// The sum of numbers with units; `"0"` needs none.
fn parse_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(0);
    }
    let mut sum = None;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (_, factor) = units.iter().find(|(unit, _)| *unit == &rest[..end])?;
        rest = &rest[end..];
        sum = Some(u64::checked_add(sum.unwrap_or(0), number.checked_mul(*factor)?)?);
    }
    sum
}

/// The number in the greatest unit that leaves no rest.
fn show_unit(number: u64, units: &[(&str, u64)]) -> String {
    let fits =
        units.iter().filter(|(_, factor)| number.is_multiple_of(*factor)).max_by_key(|unit| unit.1);
    match fits {
        Some((unit, factor)) if number > 0 => format!("{}{unit}", number / factor),
        _ => "0".into(),
    }
}

// === files ===

/// A file that must exist when the configuration is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingFile(pub PathBuf);

impl Setting for ExistingFile {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let path = PathBuf::read(node, reader)?;
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => return Some(Self(path)),
            Ok(_) => reader.problem(&node.origin, format!("{} is not a file", path.display())),
            Err(error) => {
                let reason = source::reason(&error);
                reader.problem(&node.origin, format!("{}: {reason}", path.display()));
            }
        }
        None
    }

    fn show(&self) -> toml::Value {
        self.0.show()
    }

    fn shape() -> Shape {
        String::shape()
    }
}

/// A file that holds a secret: it must exist and be closed to other users.
///
/// A bare name (no `/`) is looked up in systemd's credentials directory where there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile(pub PathBuf);

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretFile(<file>)")
    }
}

impl Setting for SecretFile {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let given = PathBuf::read(node, reader)?;
        let path = match &reader.credentials {
            Some(dir) if given.components().count() == 1 => dir.join(&given),
            _ => given,
        };
        let message = match fs::metadata(&path) {
            Ok(meta) if !meta.is_file() => format!("{} is not a file", path.display()),
            Ok(meta) if open_to_others(&meta) => {
                format!("the secret file {0} may be read by others: chmod 600 {0}", path.display())
            }
            Ok(_) => return Some(Self(path)),
            Err(error) => format!("{}: {}", path.display(), source::reason(&error)),
        };
        reader.problem(&node.origin, message);
        None
    }

    fn show(&self) -> toml::Value {
        "<file>".into()
    }

    fn shape() -> Shape {
        String::shape()
    }
}

impl SecretFile {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(unix)]
fn open_to_others(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o007 != 0
}

#[cfg(not(unix))]
fn open_to_others(_: &fs::Metadata) -> bool {
    false
}

// === networks ===

/// A range of addresses: `"10.0.0.0/8"`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.trim().parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok())?;
        (prefix <= longest).then_some(Self { address, prefix })
    }

    /// Whether the address lies in the range. A v4 address mapped into v6 counts as v4.
    pub fn contains(&self, address: IpAddr) -> bool {
        fn bits(address: IpAddr) -> (u128, u32) {
            match address.to_canonical() {
                IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
                IpAddr::V6(v6) => (u128::from(v6), 128),
            }
        }
        let ((ours, width), (theirs, their_width)) = (bits(self.address), bits(address));
        let host_bits = width.saturating_sub(u32::from(self.prefix));
        width == their_width
            && ours.checked_shr(host_bits).unwrap_or(0)
                == theirs.checked_shr(host_bits).unwrap_or(0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Setting for Network {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        const WANTED: &str = "an address or a range such as \"10.0.0.0/8\"";
        let text = reader.text(node, WANTED)?;
        Self::parse(text.trim()).or_else(|| reader.wrong(node, WANTED))
    }

    fn show(&self) -> toml::Value {
        self.to_string().into()
    }

    fn shape() -> Shape {
        String::shape()
    }
}

// === compound types ===

/// Optional: `None` is written `""` for text and `0` for amounts, where it means "no limit".
impl<T: Setting> Setting for Option<T> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.raw {
            Raw::Text(text) | Raw::Untyped(text) if text.trim() == T::NONE => Some(None),
            Raw::Integer(0) if T::NONE == "0" => Some(None),
            _ => T::read(node, reader).map(Some),
        }
    }

    fn show(&self) -> toml::Value {
        match (self, T::shape()) {
            (Some(value), _) => value.show(),
            (None, Shape::Leaf(schema)) if schema["type"] == "integer" => 0.into(),
            (None, _) => T::NONE.into(),
        }
    }

    fn shape() -> Shape {
        T::shape()
    }
}

/// A setting of one tenant that falls back to the general one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherit<T>(pub Option<T>);

impl<T: Copy> Inherit<T> {
    /// The tenant's own value, or the general one.
    pub fn or(&self, general: T) -> T {
        self.0.unwrap_or(general)
    }
}

impl<T: Setting> Setting for Inherit<T> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.raw {
            Raw::Text(text) | Raw::Untyped(text) if text == "inherit" => Some(Self(None)),
            _ => T::read(node, reader).map(|value| Self(Some(value))),
        }
    }

    fn show(&self) -> toml::Value {
        self.0.as_ref().map_or("inherit".into(), Setting::show)
    }

    fn shape() -> Shape {
        match T::shape() {
            Shape::Leaf(schema) => Shape::Leaf(json!({"anyOf": [schema, {"const": "inherit"}]})),
            other => other,
        }
    }
}

impl<T: Setting> Setting for Vec<T> {
    /// From the environment a list is JSON, or separated by commas.
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let from_text;
        let items = match &node.raw {
            Raw::List(items) => items,
            Raw::Untyped(text) => {
                from_text = split_list(text, node);
                &from_text
            }
            _ => return reader.wrong(node, "a list"),
        };
        let read = |(index, item)| {
            reader.below(&format!("[{index}]"), item, |reader| T::read(item, reader))
        };
        // Every item is read even when one is wrong, so that all problems are told.
        let values: Vec<Option<T>> = items.iter().enumerate().map(read).collect();
        values.into_iter().collect()
    }

    fn show(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(Setting::show).collect())
    }

    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
}

fn split_list(text: &str, node: &Node) -> Vec<Node> {
    if let Some(Node { raw: Raw::List(items), .. }) = source::from_json(text, &node.origin) {
        return items;
    }
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| Node { origin: node.origin.clone(), raw: Raw::Untyped(item.to_owned()) })
        .collect()
}

impl<T: Setting> Setting for BTreeMap<String, T> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Raw::Table(entries) = &node.raw else { return reader.wrong(node, "a table") };
        let mut map = Self::new();
        for entry in entries {
            if let Some(value) = reader.entry(entries, &entry.key) {
                map.insert(entry.key.clone(), value);
            }
        }
        Some(map)
    }

    fn show(&self) -> toml::Value {
        let pairs = self.iter().map(|(key, value)| (key.clone(), value.show()));
        toml::Value::Table(pairs.collect())
    }

    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
}

/// Defines a setting that is one of a few words.
macro_rules! choice {
    ($(#[doc = $doc:literal])* pub enum $name:ident { $( $(#[doc = $variant_doc:literal])* $variant:ident = $word:literal, )* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $variant_doc])* $variant, )* }

        impl $name {
            const WORDS: &[(&str, Self)] = &[$( ($word, Self::$variant) ),*];

            /// The word in the file.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl $crate::config::reader::Setting for $name {
            fn read(
                node: &$crate::config::source::Node,
                reader: &mut $crate::config::reader::Reader,
            ) -> Option<Self> {
                let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| *word).collect();
                let wanted = format!("one of {}", words.join(", "));
                let text = reader.text(node, &wanted)?;
                let found = Self::WORDS.iter().find(|(word, _)| *word == text);
                found.map(|(_, value)| *value).or_else(|| reader.wrong(node, &wanted))
            }

            fn show(&self) -> toml::Value {
                self.as_str().into()
            }

            fn shape() -> $crate::config::reader::Shape {
                let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| *word).collect();
                $crate::config::reader::Shape::Leaf(serde_json::json!({"enum": words}))
            }
        }
    };
}
pub(super) use choice;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_shown() {
        for (text, millis) in [("30s", 30_000), ("1h30m", 5_400_000), ("500ms", 500), ("0", 0)] {
            assert_eq!(parse_units(text, &TIME_UNITS), Some(millis), "{text}");
        }
        for text in ["", "30", "s", "1 h", "-1s", "1h30", "99999999999999999999s", "1y"] {
            assert_eq!(parse_units(text, &TIME_UNITS), None, "{text}");
        }
        assert_eq!(show_unit(5_400_000, &TIME_UNITS), "90m");
        assert_eq!(show_unit(128 << 10, &SIZE_UNITS), "128KiB");
        assert_eq!(show_unit(10_000_000_000, &SIZE_UNITS), "10GB");
        assert_eq!(show_unit(0, &SIZE_UNITS), "0");
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("2001:db8::/32", "2001:db8:1::1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(!contains("127.0.0.1", "127.0.0.2"));
        assert!(Network::parse("10.0.0.0/33").is_none());
    }
}
