//! Changes of an input that keep it JSON.

use std::sync::LazyLock;

use fastrand::Rng;
use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Map, Value};

use crate::forms::{from_struct, to_struct};

/// Names of fields and tokens of CEL, one a line in quotes: libFuzzer's own dictionary.
static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let lines = include_str!("../fuzz.dict").lines();
    let quoted = lines.filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'));
    quoted.map(|word| word.replace("\\\"", "\"").replace("\\\\", "\\")).collect()
});

/// Longest text that is changed or made.
const LONGEST_TEXT: usize = 1024;

/// What the inputs of a target may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Forms {
    /// JSON text.
    Json,
    /// JSON text or a serialized `google.protobuf.Struct`.
    JsonAndStruct,
}

/// Changes the first `size` bytes of `data` into another input of at most `max_size` bytes, and gives its length. The
/// same `seed` gives the same change.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, forms: Forms) -> usize {
    let mut rng = Rng::with_seed(seed.into());
    let input = &data[..size];
    let parsed = match serde_json::from_slice(input) {
        Ok(value) => Some((value, false)),
        Err(_) if forms == Forms::JsonAndStruct => from_struct(input).map(|value| (value, true)),
        Err(_) => None,
    };
    let Some((mut value, mut is_struct)) = parsed.filter(|_| rng.u8(..16) > 0) else {
        return fuzzer_mutate(data, size, max_size);
    };
    for _ in 0..=rng.usize(..3) {
        change(&mut value, &mut rng);
    }
    is_struct ^= forms == Forms::JsonAndStruct && rng.u8(..8) == 0;
    let text = || value.to_string().into_bytes();
    let output = if is_struct { to_struct(&value).unwrap_or_else(text) } else { text() };
    match data.get_mut(..output.len()) {
        Some(place) if output.len() <= max_size => {
            place.copy_from_slice(&output);
            output.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
}

/// Changes one node of `tree`.
fn change(tree: &mut Value, rng: &mut Rng) {
    let nodes = count(tree);
    let other = nth(tree, &mut rng.usize(..nodes)).map_or(Value::Null, |node| node.clone());
    let Some(node) = nth(tree, &mut rng.usize(..nodes)) else {
        return;
    };
    match node {
        _ if rng.u8(..8) == 0 => *node = leaf(rng),
        _ if rng.u8(..16) == 0 => *node = other,
        Value::String(text) => change_text(text, rng),
        Value::Array(items) => change_list(items, other, rng),
        Value::Object(fields) => change_object(fields, other, rng),
        _ => *node = leaf(rng),
    }
}

fn change_text(text: &mut String, rng: &mut Rng) {
    if rng.u8(..4) == 0 {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let at = places[rng.usize(..places.len())];
        text.insert_str(at, &word(rng));
        if rng.bool() {
            let until = places[rng.usize(..places.len())].max(at);
            let piece = text.get(at..until).unwrap_or_default().to_owned();
            text.push_str(&piece);
        }
    } else {
        let mut bytes = text.clone().into_bytes();
        let (length, longest) = (bytes.len(), (bytes.len() + 32).min(LONGEST_TEXT).max(bytes.len()));
        bytes.resize(longest, 0);
        let length = fuzzer_mutate(&mut bytes, length, longest);
        *text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    }
    while text.len() > LONGEST_TEXT {
        text.pop();
    }
}

fn change_list(items: &mut Vec<Value>, other: Value, rng: &mut Rng) {
    let place = rng.usize(..=items.len());
    match rng.u8(..5) {
        0 if place < items.len() => drop(items.remove(place)),
        1 if place < items.len() => items.insert(place, items[place].clone()),
        2 if place < items.len() => items.swap(0, place),
        3 => items.insert(place, other),
        _ => items.insert(place, leaf(rng)),
    }
}

fn change_object(fields: &mut Map<String, Value>, other: Value, rng: &mut Rng) {
    let names: Vec<String> = fields.keys().cloned().collect();
    match (rng.u8(..4), rng.choice(&names)) {
        (0, Some(name)) => drop(fields.remove(name)),
        (1, Some(name)) => {
            let value = fields.remove(name).unwrap_or_default();
            fields.insert(word(rng), value);
        }
        (2, _) => drop(fields.insert(word(rng), other)),
        _ => drop(fields.insert(word(rng), leaf(rng))),
    }
}

fn leaf(rng: &mut Rng) -> Value {
    match rng.u8(..12) {
        0 => Value::Null,
        1 => Value::Bool(rng.bool()),
        2 => Value::from(rng.u16(..600)),
        3 => Value::from(*rng.choice(&[i64::MIN, -1, 0, 1, 1 << 53, i64::MAX]).unwrap_or(&0)),
        4 => Value::from(*rng.choice(&[f64::MAX, 0.5, -0.0, 1.0, 9.3e18, f64::MIN_POSITIVE]).unwrap_or(&0.0)),
        5 => Value::from(u64::MAX),
        6 => Value::Array(vec![Value::from(word(rng))]),
        7 => Value::Object(Map::from_iter([(word(rng), Value::from(word(rng)))])),
        8 => Value::from(format!("${{{}}}", word(rng))),
        _ => Value::from(word(rng)),
    }
}

fn word(rng: &mut Rng) -> String {
    rng.choice(WORDS.iter()).cloned().unwrap_or_default()
}

fn count(tree: &Value) -> usize {
    match tree {
        Value::Array(items) => items.iter().map(count).sum::<usize>() + 1,
        Value::Object(fields) => fields.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

/// The node that comes after `before` others.
fn nth<'a>(tree: &'a mut Value, before: &mut usize) -> Option<&'a mut Value> {
    if *before == 0 {
        return Some(tree);
    }
    *before -= 1;
    match tree {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, before)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth(field, before)),
        _ => None,
    }
}
