//! serde by text: the types of the library are stored by the names that people type.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes a value as its `Display` text.
pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Reads a value with its `FromStr`.
pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// The same for a list of values.
pub(crate) mod list {
    use super::*;

    /// Writes every value as its `Display` text.
    pub(crate) fn serialize<T: Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    /// Reads every value with its `FromStr`.
    pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|t| t.parse().map_err(D::Error::custom)).collect()
    }
}

/// The same for a chain: `(a,b,c,d)(a,b,c,d)…`.
pub(crate) mod chain {
    use kronsparse::{ChainPattern, ChainSpec};

    use super::*;

    /// Writes the patterns left to right.
    pub(crate) fn serialize<S: Serializer>(chain: &ChainPattern, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(chain)
    }

    /// Reads what `serialize` wrote.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChainPattern, D::Error> {
        match String::deserialize(deserializer)?.parse::<ChainSpec>().map_err(D::Error::custom)? {
            ChainSpec::Explicit(chain) => Ok(chain),
            other => Err(D::Error::custom(format!("expected (a,b,c,d)(a,b,c,d)…, found {other}"))),
        }
    }
}
