//! A thing read from the kernel: known, with where it was read, or unknown, with the reason.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// One datum of a snapshot.
///
/// `Known(None)` of a `Datum<Option<T>>` means the kernel said that there is no such thing (a TAP has no rings); that
/// is knowledge. Unknown means nobody could say, and never counts as fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Datum<T> {
    /// Read.
    Known {
        /// What was read.
        value: T,
        /// Where: a file, or a netlink question.
        source: String,
    },
    /// Not read.
    Unknown {
        /// Why not, in one clause.
        unknown: String,
    },
}

/// Why a question cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

impl<T> Datum<T> {
    /// Read from `source`.
    pub fn known(value: T, source: impl Into<String>) -> Self {
        let source = source.into();
        Self::Known { value, source }
    }

    /// Not read.
    pub fn unknown(reason: impl fmt::Display) -> Self {
        let unknown = reason.to_string();
        Self::Unknown { unknown }
    }

    /// The outcome of reading `source`.
    pub fn from_result<E: fmt::Display>(result: Result<T, E>, source: impl Into<String>) -> Self {
        let source = source.into();
        match result {
            Ok(value) => Self::Known { value, source },
            Err(error) => Self::unknown(format_args!("{source}: {error}")),
        }
    }

    /// The value, or why there is none.
    pub fn get(&self) -> Result<&T, Unknown> {
        match self {
            Self::Known { value, .. } => Ok(value),
            Self::Unknown { unknown } => Err(Unknown(unknown.clone())),
        }
    }

    /// The value, where its absence only means that less can be said.
    pub fn ok(&self) -> Option<&T> {
        match self {
            Self::Known { value, .. } => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    /// Where it was read; empty when it was not.
    pub fn source(&self) -> &str {
        match self {
            Self::Known { source, .. } => source,
            Self::Unknown { .. } => "",
        }
    }

    /// The same place, another view of the value.
    pub fn map<U>(self, view: impl FnOnce(T) -> U) -> Datum<U> {
        match self {
            Self::Known { value, source } => Datum::Known {
                value: view(value),
                source,
            },
            Self::Unknown { unknown } => Datum::Unknown { unknown },
        }
    }
}

/// How a datum is written. Not serde's own untagged form, which cannot read maps with numbers as keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>"))]
struct Form<T> {
    #[serde(default, deserialize_with = "given")]
    value: Option<T>,
    source: Option<String>,
    unknown: Option<String>,
}

/// A `null` that is there is a value; only what is left out is none.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Datum<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(from)?;
        match (form.value, form.source, form.unknown) {
            (Some(value), Some(source), None) => Ok(Self::Known { value, source }),
            (None, None, Some(unknown)) => Ok(Self::Unknown { unknown }),
            _ => Err(D::Error::custom("a datum has value and source, or unknown")),
        }
    }
}

impl<T> Default for Datum<T> {
    /// Nobody asked.
    fn default() -> Self {
        Self::unknown("not read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datum_survives_json_with_its_source_or_its_reason() {
        let known = Datum::known(3u32, "/proc/three");
        let text = serde_json::to_string(&known).expect("written");
        assert_eq!(text, r#"{"value":3,"source":"/proc/three"}"#);
        assert_eq!(
            serde_json::from_str::<Datum<u32>>(&text).expect("read"),
            known
        );
        let unknown: Datum<u32> = Datum::unknown("no permission");
        let text = serde_json::to_string(&unknown).expect("written");
        assert_eq!(text, r#"{"unknown":"no permission"}"#);
        assert_eq!(
            serde_json::from_str::<Datum<u32>>(&text).expect("read"),
            unknown
        );
    }

    #[test]
    fn known_to_be_absent_is_not_unknown() {
        let absent: Datum<Option<u32>> = Datum::known(None, "RINGS_GET");
        let text = serde_json::to_string(&absent).expect("written");
        let read: Datum<Option<u32>> = serde_json::from_str(&text).expect("read");
        assert_eq!(read.get(), Ok(&None));
    }
}
