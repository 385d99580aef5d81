use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// A duration in a configuration: a number of seconds, or text such as `"1h"`, `"90s"`, `"2days 3h"`, `"250ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A size in a configuration: a number of bytes, or text such as `"64MiB"` (2^20) or `"64MB"` (10^6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const DURATION_HINT: &str = "a duration: a number of seconds, or text like \"90s\", \"1h\" or \"2days\"";
const SIZE_HINT: &str = "a size: a number of bytes, or text like \"512KiB\", \"64MiB\" or \"1GB\"";

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<f64>() {
            return Self::from_seconds(seconds);
        }
        humantime::parse_duration(text).map(Self).map_err(|_| bad(text, DURATION_HINT))
    }
}

impl HumanDuration {
    fn from_seconds(seconds: f64) -> Result<Self, String> {
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| bad(&seconds.to_string(), DURATION_HINT))
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim()
            .parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| bad(text, SIZE_HINT))
    }
}

fn bad(text: &str, hint: &str) -> String {
    format!("{} is not {hint}", crate::escape(text))
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bytesize::ByteSize(self.0).display().iec().fmt(f)
    }
}

struct NumberOrText<T> {
    hint: &'static str,
    number: fn(f64) -> Result<T, String>,
    whole: fn(u64) -> T,
}

impl<T: FromStr<Err = String>> Visitor<'_> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hint)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Ok((self.whole)(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        u64::try_from(number).map(self.whole).map_err(|_| E::custom(bad(&number.to_string(), self.hint)))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.number)(number).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText {
            hint: DURATION_HINT,
            number: Self::from_seconds,
            whole: |seconds| Self(Duration::from_secs(seconds)),
        })
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText {
            hint: SIZE_HINT,
            number: |number| Err(bad(&number.to_string(), SIZE_HINT)),
            whole: Self,
        })
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

macro_rules! schema {
    ($type:ident, $hint:expr) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["number", "string"], "description": $hint })
            }
        }
    };
}

schema!(HumanDuration, DURATION_HINT);
schema!(ByteSize, SIZE_HINT);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts() {
        let duration = |json: &str| serde_json::from_str::<HumanDuration>(json).map(|d| d.0);
        assert_eq!(duration("3600").unwrap(), Duration::from_secs(3600));
        assert_eq!(duration("0.25").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("\"1h 30m\"").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("\"3600\"").unwrap(), Duration::from_secs(3600));
        for bad in ["-1", "\"-1s\"", "\"soon\"", "1e300", "\"\"", "true"] {
            assert!(duration(bad).unwrap_err().to_string().contains("a duration"), "{bad}");
        }
        let size = |json: &str| serde_json::from_str::<ByteSize>(json).map(|s| s.0);
        assert_eq!(size("1024").unwrap(), 1024);
        assert_eq!(size("\"64MiB\"").unwrap(), 64 << 20);
        assert_eq!(size("\"64MB\"").unwrap(), 64_000_000);
        for bad in ["-1", "1.5", "\"big\"", "\"\"", "null"] {
            assert!(size(bad).unwrap_err().to_string().contains("a size"), "{bad}");
        }
    }
}
