//! Numbers that neither an `int` nor a `double` of CEL holds: they are passed on digit for digit, and never rounded.

use std::sync::Arc;

use cel::common::types::{CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::objects::Opaque;
use cel::{ExecutionError, Value};

/// What CEL calls the type.
const TYPE: &str = "sagabox.number";

/// A number as it was written. CEL has no operator for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digits(pub(super) String);

impl Opaque for Digits {
    fn runtime_type_name(&self) -> &str {
        TYPE
    }
}

impl Digits {
    /// As a value that expressions pass on.
    pub(super) fn into_value(self) -> Box<dyn Val> {
        // An opaque value is one of those that `cel` takes: it never fails.
        Box::<dyn Val>::try_from(Value::Opaque(Arc::new(self)))
            .unwrap_or_else(|_| Box::new(cel::common::types::CelNull))
    }

    /// The number that a value is, if it is one of these.
    pub(super) fn of(value: &Value) -> Option<&Digits> {
        match value {
            Value::Opaque(opaque) => opaque.downcast_ref(),
            _ => None,
        }
    }

    /// The type, for functions that take such numbers.
    pub(super) fn cel_type() -> Type {
        Type::new_opaque_type(TYPE)
    }
}

/// `string()` of such a number.
pub(super) fn string<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = arguments.first().map(|argument| Value::try_from(argument.as_ref())).transpose()?;
    let digits = value.as_ref().and_then(Digits::of).ok_or(ExecutionError::MissingArgumentOrTarget)?;
    Ok(CowVal::owned(CelString::from(digits.0.clone())))
}

/// Whether a double that was read from `digits` says the same number again.
pub(super) fn is_exactly(double: f64, digits: &str) -> bool {
    let read = Decimal::of(digits);
    read.is_some() && read == Decimal::of(&format!("{double:e}"))
}

/// A decimal number in a form that no other spelling of it has.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    /// Without zeros at either end.
    digits: String,
    /// Of the last digit.
    exponent: i64,
}

impl Decimal {
    /// Of the text of a JSON number.
    fn of(text: &str) -> Option<Decimal> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
        let (is_negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        let zeros = i64::try_from(all.len().checked_sub(digits.len())?).ok()?;
        let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(zeros)?;
        let digits = digits.trim_start_matches('0');
        // Zero is zero, whatever its exponent is; its sign a double keeps.
        Some(Decimal { is_negative, digits: digits.to_owned(), exponent: if digits.is_empty() { 0 } else { exponent } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_is_exact_where_it_is_written_as_it_was_read() {
        for digits in [
            "0.0",
            "-0.0",
            "0e9",
            "1.5",
            "100.00",
            "1E5",
            "1e+5",
            "0.1",
            "1.10",
            "9007199254740993e0",
            "5e-324",
            "1.7976931348623157e308",
        ] {
            let is_beyond = digits.starts_with("9007199254740993");
            assert_eq!(is_exactly(digits.parse().unwrap(), digits), !is_beyond, "{digits}");
        }
        for digits in
            ["12345678901234567.89", "100000000000000000123", "18446744073709551615", "1e-400", "0.1000000000000000055"]
        {
            assert!(!is_exactly(digits.parse().unwrap(), digits), "{digits}");
        }
    }
}
