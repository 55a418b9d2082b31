//! Durations, sizes and whole numbers, as they are written in a configuration.

use std::time::Duration;

use deserr::{Deserr, IntoValue, Value, ValuePointerRef};

use super::error::quote;
use super::located::Faults;

/// What an error says of a duration.
const DURATION: &str = "a duration such as 250ms, 0.25s, 2s or 1m30s: whole milliseconds, from 1ms to 2147483647ms";
/// What an error says of a size.
const SIZE: &str = "a size such as 512KiB, 1MiB or a number of bytes, from 1 to 4294967295";

/// A duration of whole milliseconds: Envoy drops parts of one, and takes a timeout of 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

/// A number without a fraction; `201.0` is one, because numbers in a `google.protobuf.Struct` are doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole(pub(super) u64);

impl Deserr<Faults> for Period {
    fn deserialize_from_value<V: IntoValue>(value: Value<V>, location: ValuePointerRef) -> Result<Self, Faults> {
        match value {
            Value::String(text) => {
                parse_duration(&text).map(Self).ok_or_else(|| Faults::one(location, quote(&text), DURATION))
            }
            other => Err(Faults::wrong(location, other, DURATION)),
        }
    }
}

impl Deserr<Faults> for Size {
    fn deserialize_from_value<V: IntoValue>(value: Value<V>, location: ValuePointerRef) -> Result<Self, Faults> {
        let bytes = match &value {
            Value::String(text) => parse_size(text),
            Value::Integer(number) => Some(*number),
            Value::Float(number) => whole(*number),
            _ => None,
        };
        // Memory of a Wasm module is addressed with 32 bits.
        match bytes.and_then(|bytes| u32::try_from(bytes).ok()).and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(Faults::wrong(location, value, SIZE)),
        }
    }
}

impl Deserr<Faults> for Whole {
    fn deserialize_from_value<V: IntoValue>(value: Value<V>, location: ValuePointerRef) -> Result<Self, Faults> {
        let number = match &value {
            Value::Integer(number) => Some(*number),
            Value::Float(number) => whole(*number),
            _ => None,
        };
        number.map(Self).ok_or_else(|| Faults::wrong(location, value, "a whole number"))
    }
}

/// The integer that a double stands for, if it stands for one exactly.
fn whole(number: f64) -> Option<u64> {
    /// From here on doubles skip integers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && (0.0..=EXACT).contains(&number)).then_some(number as u64)
}

/// Reads `250ms`, `0.25s`, `2s`, `1m30s`: hours, minutes, seconds and milliseconds, each at most once and in this order.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut milliseconds: u64 = 0;
    let mut largest_unit = u64::MAX;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(number_end)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end)?;
        let unit = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        if unit >= largest_unit {
            return None;
        }
        largest_unit = unit;
        milliseconds = milliseconds.checked_add(parse_decimal(number, unit)?)?;
        rest = after;
    }
    // Envoy takes the timeout of a callout as a signed number of 32 bits.
    let milliseconds = u64::from(i32::try_from(milliseconds).ok()?.unsigned_abs());
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

/// `number` times `unit`, if that is a whole number. Decimal arithmetic, because 0.29 s is 290 ms and not 289.
fn parse_decimal(number: &str, unit: u64) -> Option<u64> {
    let (integer, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let digits = |text: &str| -> Option<u64> {
        let only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        only_digits.then(|| text.parse().ok()).flatten()
    };
    let mut sum = digits(integer)?.checked_mul(unit)?;
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let scaled = digits(fraction)?.checked_mul(unit)?;
        if scaled.checked_rem(scale)? != 0 {
            return None;
        }
        sum = sum.checked_add(scaled.checked_div(scale)?)?;
    }
    Some(sum)
}

/// Reads `512KiB`, `1MiB`, `1GiB` or a plain number of bytes.
fn parse_size(text: &str) -> Option<u64> {
    let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number, *unit)))
        .unwrap_or((text, 1));
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A duration as it is written in a configuration, in the largest units that tell it exactly.
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let whole = units.into_iter().find(|(_, unit)| milliseconds.is_multiple_of(*unit));
    let (unit, size) = whole.unwrap_or(("ms", 1));
    format!("{}{unit}", milliseconds.checked_div(size).unwrap_or(milliseconds))
}

#[cfg(feature = "schema")]
mod schema {
    use super::{Period, Size, Whole};
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use std::borrow::Cow;

    /// A fraction may follow the number of any unit.
    const DURATION_PATTERN: &str =
        r"^(?=.)([0-9]+(\.[0-9]+)?h)?([0-9]+(\.[0-9]+)?m)?([0-9]+(\.[0-9]+)?s)?([0-9]+(\.[0-9]+)?ms)?$";

    impl JsonSchema for Period {
        fn inline_schema() -> bool {
            true
        }
        fn schema_name() -> Cow<'static, str> {
            "Duration".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "string", "pattern": DURATION_PATTERN})
        }
    }

    impl JsonSchema for Size {
        fn inline_schema() -> bool {
            true
        }
        fn schema_name() -> Cow<'static, str> {
            "Size".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": ["string", "integer"],
                "pattern": "^[0-9]+([KMG]iB)?$",
                "minimum": 1,
                "maximum": u32::MAX
            })
        }
    }

    impl JsonSchema for Whole {
        fn inline_schema() -> bool {
            true
        }
        fn schema_name() -> Cow<'static, str> {
            "Whole".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "integer", "minimum": 0})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let cases = [
            ("250ms", 250),
            ("0.25s", 250),
            ("0.29s", 290),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1.5h", 5_400_000),
            ("1m0.5s1ms", 60_501),
            ("1ms", 1),
            ("001ms", 1),
            ("1.000ms", 1),
            ("2147483647ms", 2_147_483_647),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_of_whole_milliseconds_is_refused() {
        let cases = [
            "",
            "0s",
            "0ms",
            "5",
            "s",
            ".5s",
            "5.s",
            "1..5s",
            "1.5.5s",
            "-1s",
            "+1s",
            "1 s",
            "1s ",
            "1S",
            "1us",
            "1d",
            "30s1m",
            "1s1s",
            "0.5ms",
            "0.2505s",
            "4294967296ms",
            "99999999999999999999h",
            "1e3ms",
            "1s2",
            "١s",
        ];
        for text in cases {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let cases = [
            ("1", Some(1)),
            ("512KiB", Some(524_288)),
            ("1MiB", Some(1_048_576)),
            ("2GiB", Some(2_147_483_648)),
            ("", None),
            ("KiB", None),
            ("1KB", None),
            ("1 MiB", None),
            ("1.5MiB", None),
            ("-1", None),
            ("99999999999GiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn only_a_double_without_a_fraction_is_a_whole_number() {
        assert_eq!(whole(201.0), Some(201));
        assert_eq!(whole(-0.0), Some(0));
        for number in [201.5, -1.0, 1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(whole(number), None, "{number}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_would_be_written() {
        for text in ["250ms", "1500ms", "2s", "90s", "2m", "90m", "24h"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Some(text));
        }
    }
}
