//! Expressions and templates: any text in every place, evaluated over any facts.
//!
//! An input is an object: `source` is the template (anything but a text only as a body), `scope` is where it stands,
//! and the other fields are facts, see [`World::new`].

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use sagabox::template::{BodyKind, BodyTemplate, Expression, Place, Scope, Template};
use sagabox_fuzz::{Forms, Room, World, mutate, remember};
use serde_json::Value;

/// What compiling and evaluating may allocate. Facts have at most 256 KiB, a few times over.
const MOST_BYTES: usize = 128 << 20;
/// Longest that may stand in a path, a header or an authority.
const LONGEST: usize = 8 * 1024;

fuzz_target!(|data: &[u8]| {
    remember(data);
    let Ok(input) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let scope = match input["scope"].as_str() {
        Some("condition") => Scope::condition(&["hotel"]),
        Some("predicate") => Scope::predicate(),
        Some("reply") => Scope::reply(&["hotel", "car"]),
        _ => Scope::compensation(&["hotel", "car"]),
    };
    let world = World::new(&input);
    let harmless = world.harmless();
    let _room = Room::of(MOST_BYTES);
    if let Some(source) = input["source"].as_str() {
        for place in [Place::Path, Place::Header, Place::Authority, Place::Text] {
            check_template(source, place, &scope, [&world, &harmless]);
        }
    }
    for kind in [BodyKind::Plain, BodyKind::Json, BodyKind::Form, BodyKind::Xml, BodyKind::Fields] {
        check_body(&input["source"], kind, &scope, &world);
    }
    if let Some(source) = input["source"].as_str() {
        check_expression(source, &scope, world);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed, Forms::Json)
});

fn check_template(source: &str, place: Place, scope: &Scope, [world, harmless]: [&World; 2]) {
    let Ok(template) = Template::compile(source, place, scope) else {
        return;
    };
    let text = match template.render(&world.facts()) {
        Ok(text) => text,
        Err(error) => return check_message(&error.to_string()),
    };
    match place {
        Place::Path => {
            check_path(&text);
            if let Ok(other) = template.render(&harmless.facts()) {
                assert_eq!(structure(&text), structure(&other), "{text:?} and {other:?}");
                assert_eq!(empty_segments(&text), empty_segments(&other), "{text:?} and {other:?}");
            }
        }
        Place::Header => assert!(!text.bytes().any(|byte| byte.is_ascii_control()), "{text:?}"),
        Place::Authority => {
            let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
            assert!(!text.is_empty() && text.bytes().all(is_part), "{text:?}");
        }
        Place::Text => return,
    }
    assert!(text.len() <= LONGEST, "{} bytes", text.len());
}

fn check_path(path: &str) {
    assert!(path.starts_with('/') && !path.starts_with("//"), "{path:?}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{path:?}");
    for after in path.split('%').skip(1) {
        assert!(after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()), "{path:?}");
    }
    for segment in segments(path) {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        assert!(![".", ".."].contains(&plain.as_str()), "{path:?}");
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('?').next().unwrap_or_default().split('/').skip(1)
}

fn empty_segments(path: &str) -> Vec<usize> {
    segments(path).enumerate().filter(|(_, segment)| segment.is_empty()).map(|(index, _)| index).collect()
}

/// What is left of a path without all that a value may bring: that is the template's alone.
fn structure(path: &str) -> String {
    let pieces = path.split('%').enumerate();
    let without_escapes: String = pieces.map(|(index, piece)| if index == 0 { piece } else { &piece[2..] }).collect();
    without_escapes.chars().filter(|&c| !c.is_ascii_alphanumeric() && !"-._~".contains(c)).collect()
}

fn check_body(source: &Value, kind: BodyKind, scope: &Scope, world: &World) {
    let template = match BodyTemplate::compile(source, kind, scope) {
        Ok(template) => template,
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            return;
        }
    };
    match template.render(&world.facts()) {
        Ok(body) => {
            let is_form = kind == BodyKind::Fields && source.is_object();
            assert!(source.is_string() || is_form || body.content_type == Some("application/json"));
            if body.content_type == Some("application/json") && !source.is_string() {
                let text = std::str::from_utf8(&body.bytes).expect("JSON is UTF-8");
                // Values may be nested deeper than what parses again.
                if let Ok(json) = serde_json::from_str(text) {
                    check_structure(source, &json);
                }
            }
        }
        Err(error) => check_message(&error.to_string()),
    }
}

/// Objects and lists of a template are those of what was rendered; what it says by itself is there unchanged.
fn check_structure(source: &Value, rendered: &Value) {
    match (source, rendered) {
        (Value::Object(fields), Value::Object(others)) => {
            assert!(fields.keys().eq(others.keys()), "{source} and {rendered}");
            fields.values().zip(others.values()).for_each(|(one, other)| check_structure(one, other));
        }
        (Value::Array(items), Value::Array(others)) => {
            assert_eq!(items.len(), others.len(), "{source} and {rendered}");
            items.iter().zip(others).for_each(|(one, other)| check_structure(one, other));
        }
        (Value::String(template), rendered) => {
            assert!(template.contains("${") || template == rendered, "{source} and {rendered}");
        }
        (one, other) => assert_eq!(one, other),
    }
}

fn check_expression(source: &str, scope: &Scope, world: World) {
    let expression = match Expression::compile(source, scope) {
        Ok(expression) => expression,
        Err(error) => {
            assert!(error.offset.is_none_or(|offset| offset <= source.len()));
            return check_message(&error.to_string());
        }
    };
    let value = expression.evaluate_json(&world.facts());
    assert_eq!(expression.clone().evaluate_json(&world.facts()), value, "the same twice");
    let condition = expression.evaluate_bool(&world.facts());
    match (&value, &condition) {
        (Ok(Value::Bool(one)), other) => assert_eq!(Ok(*one), *other),
        (_, Ok(_)) => panic!("a condition that is no boolean"),
        (_, Err(error)) => check_message(&error.to_string()),
    }
    // What is kept of a request is enough to evaluate again.
    let kept = expression.reads().project(&["request"], world.request());
    assert_eq!(expression.evaluate_json(&world.with_request(kept).facts()), value);
}

/// Messages go into logs and answers.
fn check_message(message: &str) {
    assert!(message.chars().count() <= 1_000, "{message:?}");
    assert!(!message.chars().any(char::is_control), "{message:?}");
}
