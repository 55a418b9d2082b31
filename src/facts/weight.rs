//! What a body takes in memory once it is parsed, found out without parsing it to a tree.
//!
//! Small values cost far more than their text: `{"":0}` is 6 bytes, and a map of one member takes a whole node of a B-tree,
//! 408 bytes in WebAssembly. So nothing is parsed before it is known that there is room for what comes of it.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::NUMBER_TOKEN;

/// Most values that a body may have, those inside of others and members counted, but not their names. As small maps they take about 8 MiB.
pub const MAX_VALUES: usize = 20_000;

/// A node of the maps of a tree: of 11 members, with its links.
const NODE: usize = 11 * (size_of::<String>() + size_of::<Json>()) + 2 * size_of::<usize>();
/// A node that is split leaves at least five members in each half, and the nodes above take a fifth of that.
const MEMBER: usize = NODE / 5 + NODE / 20;
/// What an allocation takes beyond what was asked for, at most.
const ALLOCATION: usize = 16;
/// A list grows by doubling.
const ELEMENT: usize = 2 * size_of::<Json>();
/// What five bytes of text can become, the smallest that begin and end a map of one member inside of another: `{"":}`.
const OF_FIVE_BYTES: usize = ELEMENT + NODE + 2 * ALLOCATION;

/// What a body takes once it is parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of the tree, or of the text if it is no JSON; rather more than less.
    pub bytes: usize,
    /// It has more than [`MAX_VALUES`] values: it is not to be parsed.
    pub has_too_many_values: bool,
}

impl Weight {
    /// Of a body. Only where it might weigh more than `plenty`, or have too many values, is it read for that.
    pub fn of(body: &[u8], plenty: usize) -> Weight {
        let most = Weight { bytes: most(body.len()), has_too_many_values: false };
        // Each value but the first has a comma, a colon or a bracket of its own.
        let may_have_too_many = body.len() / 2 >= MAX_VALUES;
        if most.bytes <= plenty && !may_have_too_many {
            return most;
        }
        Weight::exactly_of(body)
    }

    /// Of a body, which is read.
    pub fn exactly_of(body: &[u8]) -> Weight {
        let mut scale = Scale::default();
        let mut json = serde_json::Deserializer::from_slice(body);
        let is_json = Value(&mut scale).deserialize(&mut json).is_ok() && json.end().is_ok();
        // A byte that is no UTF-8 becomes three of text. Until it turns out to be no JSON it is parsed all the same.
        let of_text = if is_json { 0 } else { body.len().saturating_mul(3).saturating_add(ALLOCATION) };
        Weight { bytes: scale.bytes.max(of_text), has_too_many_values: scale.values > MAX_VALUES }
    }
}

/// The most that a body of this length can weigh.
fn most(length: usize) -> usize {
    length.saturating_mul(OF_FIVE_BYTES.div_ceil(5)).saturating_add(NODE)
}

#[derive(Debug, Default)]
struct Scale {
    bytes: usize,
    values: usize,
}

impl Scale {
    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn add_text<E>(&mut self, text: &str) -> Result<(), E> {
        if !text.is_empty() {
            self.add(text.len().saturating_add(ALLOCATION));
        }
        Ok(())
    }
}

/// A value that is weighed, and nothing else.
struct Value<'a>(&'a mut Scale);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.values = self.0.values.saturating_add(1);
        if self.0.values > MAX_VALUES {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _value: bool) -> Result<(), E> {
        Ok(())
    }

    // A number is kept as its digits.
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.add_text(&value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.add_text(&value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.add_text(&value.to_string())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.add_text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut is_first = true;
        loop {
            // A list that is not empty takes room for four at once.
            let grows_by = if is_first { 4 * size_of::<Json>() + ALLOCATION } else { ELEMENT };
            if elements.next_element_seed(Value(self.0))?.is_none() {
                return Ok(());
            }
            self.0.add(grows_by);
            is_first = false;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut count = 0_usize;
        while let Some(name) = members.next_key_seed(Name(self.0))? {
            // Only there does the parser take it for that.
            if name == Kind::Number && count == 0 {
                return self.0.add_text(&members.next_value::<String>()?);
            }
            count = count.saturating_add(1);
            self.0.add(match count {
                1 => NODE + ALLOCATION,
                2..=11 => 0,
                // The node is split, and another one above both.
                12 => 2 * (NODE + ALLOCATION) + 12 * size_of::<usize>(),
                _ => MEMBER,
            });
            members.next_value_seed(Value(self.0))?;
        }
        Ok(())
    }
}

/// The name of a member, without the place that it has in the map's node.
struct Name<'a>(&'a mut Scale);

/// What has a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Member,
    /// The parser hands over the digits of a number.
    Number,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Kind, E> {
        if name == NUMBER_TOKEN {
            return Ok(Kind::Number);
        }
        self.0.add_text(name)?;
        Ok(Kind::Member)
    }
}
