//! The configuration parser: any bytes, as JSON text and as a `google.protobuf.Struct`.
//!
//! Whatever comes in gives a configuration that holds what its types promise, or errors of one line each. Both forms
//! of one configuration are read alike.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use sagabox::config::{self, Configuration, ConfigurationErrors};
use sagabox::definition::{Call, Definition};
use sagabox::matcher::{MatcherTable, RequestHead};
use sagabox_fuzz::{Forms, Room, mutate, remember, to_struct};
use serde_json::Value;

/// What reading one configuration may allocate. An input has at most some KiB.
const MOST_BYTES: usize = 256 << 20;

fuzz_target!(|data: &[u8]| {
    remember(data);
    let _room = Room::of(MOST_BYTES);
    let loaded = config::load(data);
    match &loaded {
        Ok(configuration) => check_configuration(configuration),
        Err(errors) => check_errors(errors),
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        check_forms(&loaded, &value);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed, Forms::JsonAndStruct)
});

fn check_errors(errors: &ConfigurationErrors) {
    assert!(!errors.0.is_empty(), "a refusal says why");
    for error in &errors.0 {
        assert!(!error.found.is_empty() && !error.expected.is_empty(), "{error:?}");
    }
    let text = errors.to_string();
    assert_eq!(text.lines().count(), errors.0.len(), "one line each: {text:?}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

/// `loaded` is what came of the text whose value is `value`.
fn check_forms(loaded: &Result<Configuration, ConfigurationErrors>, value: &Value) {
    let Some(bytes) = to_struct(value).filter(|bytes| !bytes.is_empty()) else {
        return;
    };
    let from_struct = config::load(&bytes);
    if !is_the_same_in_doubles(value) {
        return;
    }
    match (loaded, &from_struct) {
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (Err(one), Err(other)) if one == other => {}
        // `prost` reads less deeply nested messages than `serde_json` reads text.
        (_, Err(other)) if other.to_string().contains("recursion limit") => {}
        // A field that the text gives twice is in the value once.
        (Err(_), other) => match (config::from_json(value), other) {
            (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
            (Err(one), Err(other)) => assert_eq!(one, *other),
            (one, other) => panic!("as a value {one:?}, as a Struct {other:?}"),
        },
        (one, other) => panic!("as text {one:?}, as a Struct {other:?}"),
    }
}

/// Whether a Struct can hold all numbers of `value`, and a whole one is written without a point.
fn is_the_same_in_doubles(value: &Value) -> bool {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.unsigned_abs() <= 1 << 53,
            None => number.as_f64().is_some_and(|double| double.fract() != 0.0),
        },
        Value::Array(items) => items.iter().all(is_the_same_in_doubles),
        Value::Object(fields) => fields.values().all(is_the_same_in_doubles),
        _ => true,
    }
}

fn check_configuration(configuration: &Configuration) {
    let limits = &configuration.limits;
    assert!(limits.max_sagas > 0 && limits.max_bytes > 0 && limits.max_body > 0);
    for name in &configuration.forward_headers {
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_control()), "{name:?}");
    }
    for warning in &configuration.warnings {
        assert!(!warning.chars().any(char::is_control), "{warning:?}");
    }
    let definitions = &configuration.definitions;
    for (index, definition) in definitions.iter().enumerate() {
        assert!(definitions.iter().take(index).all(|other| other.name != definition.name));
        check_definition(definition);
    }
    let table = MatcherTable::new(definitions);
    let header = |_: &str| Some("x".to_owned());
    for path in ["/", "/trips", "/trips/7?a=b", "*", ""] {
        let head = RequestHead { method: "POST", path, host: "example.com:80", header: &header };
        if let Some((index, _)) = table.find(&head) {
            assert!(index < definitions.len());
        }
    }
}

fn check_definition(definition: &Definition) {
    let steps = &definition.steps;
    assert!((1..=64).contains(&steps.len()));
    assert!(definition.deadline.as_millis() >= 1);
    for (index, step) in steps.iter().enumerate() {
        assert!(steps.iter().take(index).all(|other| other.name != step.name));
        let (before, after) = (&step.predecessors, &step.successors);
        assert!(step.after.iter().all(|other| before.contains(other)));
        for others in [before, after] {
            assert!(others.is_sorted_by(|one, other| one < other) && !others.contains(&index));
        }
        // The order is no circle, and what comes before and what comes after agree.
        assert!(before.iter().all(|other| !after.contains(other) && steps[*other].successors.contains(&index)));
        assert!(after.iter().all(|other| steps[*other].predecessors.contains(&index)));
        check_call(&step.transaction);
        assert!(step.transaction.retry.max_attempts.is_some_and(|most| most > 0));
        if let Some(compensation) = &step.compensation {
            check_call(compensation);
            assert_eq!(compensation.retry.max_attempts, None);
        }
    }
    for reply in [&definition.completed, &definition.compensated] {
        assert!((200..=599).contains(&reply.status));
        assert!(reply.body.is_none() || ![204, 205, 304].contains(&reply.status));
        reply.headers.iter().for_each(|(name, _)| check_header_name(name));
    }
}

fn check_call(call: &Call) {
    assert!(!call.cluster.is_empty() && !call.cluster.chars().any(|c| c.is_control() || c.is_whitespace()));
    assert!(!call.method.is_empty() && call.method.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!((1..=i32::MAX as u128).contains(&call.per_try_timeout.as_millis()));
    assert!(call.retry.base_interval <= call.retry.max_interval);
    for (name, _) in &call.headers {
        check_header_name(name);
        assert!(!["host", "content-length", "transfer-encoding", "idempotency-key"].contains(&name.as_str()));
        assert!(!["saga-", "x-envoy-", "proxy-"].iter().any(|prefix| name.starts_with(prefix)), "{name}");
    }
}

fn check_header_name(name: &str) {
    let is_part = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && byte != b':';
    assert!(!name.is_empty() && name.bytes().all(is_part), "{name:?}");
}
