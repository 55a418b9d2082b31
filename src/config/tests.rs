//! The example of the documentation in both forms, and everything that is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use prost_types::value::Kind;
use serde_json::json;

use super::*;
use crate::definition::{Credentials, Retained, Retry, stored};

mod refused;

/// The example of the documentation.
pub(super) fn example() -> Value {
    let call = |cluster: &str, more: &str| {
        json!({
            "cluster": cluster, "method": "POST", "path": "/bookings",
            "body": {"guest": "${request.body.guest}", more: format!("${{request.body.{more}}}")},
        })
    };
    let undo = |path: &str| json!({"method": "DELETE", "path": path});
    let mut hotel = call("hotel", "nights");
    hotel["per_try_timeout"] = json!("2s");
    hotel["retry"] = json!({"max_attempts": 3, "base_interval": "100ms", "max_interval": "1s"});
    hotel["success"] = json!("response.code == 201");
    let mut car = call("car", "class");
    car["headers"] = json!({"x-hotel": "${steps.hotel.response.body.id}"});
    let by_id = undo("/bookings/${transaction.response.body.id}");
    json!({
        "version": 1,
        "sagas": [{
            "name": "book-trip",
            "match": {"method": "POST", "path": "/trips"},
            "deadline": "10s",
            "steps": [
                {"name": "hotel", "transaction": hotel, "compensation": by_id},
                {"name": "flight", "transaction": call("flight", "seat"),
                 "compensation": undo("/bookings/by-key/${transaction.idempotency_key}")},
                {"name": "car", "when": "has(request.body.car)", "after": ["hotel", "flight"],
                 "transaction": car, "compensation": by_id},
            ],
            "reply": {
                "completed": {"status": 201, "headers": {"location": "/trips/${saga.id}"},
                              "body": {"trip": "${saga.id}", "hotel": "${steps.hotel.response.body.id}"}},
                "compensated": {"status": 409},
            },
        }],
    })
}

/// A `google.protobuf.Struct` as Envoy makes it: all numbers are doubles.
fn to_struct(value: &Value) -> Vec<u8> {
    match kind_of(value) {
        Kind::StructValue(message) => message.encode_to_vec(),
        _ => panic!("a configuration is an object"),
    }
}

fn kind_of(value: &Value) -> Kind {
    let message = |value: &Value| prost_types::Value { kind: Some(kind_of(value)) };
    match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(prost_types::ListValue { values: items.iter().map(message).collect() }),
        Value::Object(entries) => {
            let fields: BTreeMap<_, _> = entries.iter().map(|(key, value)| (key.clone(), message(value))).collect();
            Kind::StructValue(prost_types::Struct { fields })
        }
    }
}

/// The errors of a configuration, one line each.
pub(super) fn errors_of(value: &Value) -> Vec<String> {
    match from_json(value) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_example_is_read_from_json_text_and_from_a_struct_alike() {
    let from_text = load(example().to_string().as_bytes()).unwrap();
    let from_struct = load(&to_struct(&example())).unwrap();
    assert_eq!(format!("{from_text:?}"), format!("{from_struct:?}"));
    assert_eq!(from_text.role, Role::Coordinator { gate: false });
    assert_eq!(from_text.limits, Limits::default());
    assert_eq!(from_text.warnings, Vec::<String>::new());

    let saga = &from_text.definitions[0];
    assert_eq!((saga.name.as_str(), saga.deadline), ("book-trip", Duration::from_secs(10)));
    assert_eq!(saga.matcher.to_string(), "POST /trips");
    assert_eq!((saga.completed.status, saga.compensated.status), (201, 409));
    assert_eq!(saga.completed.headers[0].0, "location");
    assert!(saga.completed.body.is_some() && saga.compensated.body.is_none());
    let car = &saga.steps[2];
    assert_eq!((&car.after, &car.predecessors, &car.successors), (&vec![0, 1], &vec![0, 1], &vec![]));
    assert_eq!(saga.steps[0].successors, [2]);
    assert_eq!(car.when.as_ref().unwrap().source(), "has(request.body.car)");
    assert_eq!(car.transaction.headers[0].0, "x-hotel");
}

#[test]
fn a_compensation_takes_over_cluster_and_timeout_but_not_retry_or_predicates() {
    let configuration = from_json(&example()).unwrap();
    let hotel = &configuration.definitions[0].steps[0];
    let compensation = hotel.compensation.as_ref().unwrap();
    assert_eq!((compensation.cluster.as_str(), compensation.method.as_str()), ("hotel", "DELETE"));
    assert_eq!(compensation.per_try_timeout, Duration::from_secs(2));
    assert!(compensation.success.is_none());
    let seconds = Duration::from_secs;
    let transaction_retry =
        Retry { max_attempts: Some(3), base_interval: Duration::from_millis(100), max_interval: seconds(1) };
    assert_eq!(hotel.transaction.retry, transaction_retry);
    let endless = Retry { max_attempts: None, base_interval: Duration::from_millis(50), max_interval: seconds(5) };
    assert_eq!(compensation.retry, endless);
    let flight = &configuration.definitions[0].steps[1];
    assert_eq!(flight.transaction.per_try_timeout, seconds(5));
    assert_eq!(flight.transaction.retry, Retry { max_attempts: Some(3), ..endless });
}

#[test]
fn a_predicate_that_takes_a_proxys_answer_for_the_participants_word_is_warned_of() {
    let warnings = |predicates: Value| {
        let mut configuration = example();
        for (call, predicates) in predicates.as_object().unwrap() {
            for (name, predicate) in predicates.as_object().unwrap() {
                configuration["sagas"][0]["steps"][0][call][name] = predicate.clone();
            }
        }
        from_json(&configuration).unwrap().warnings
    };
    let careless = warnings(json!({"transaction": {"rejected": "response.code >= 400"}}));
    assert_eq!(careless.len(), 1, "{careless:?}");
    let warning = &careless[0];
    assert!(warning.starts_with("sagas[0].steps[0].transaction.rejected: takes what a proxy"), "{warning}");
    assert!(warning.contains("404 (there is no route)") && warning.contains("504 (the application takes"), "{warning}");
    let undone = warnings(json!({"compensation": {"success": "response.code in [204, 404]"}}));
    assert!(
        undone[0].starts_with("sagas[0].steps[0].compensation.success") && !undone[0].contains("403"),
        "{undone:?}"
    );
    let careful = json!({"transaction": {"success": "response.code == 201", "rejected": "response.code == 422"}});
    assert_eq!(warnings(careful), Vec::<String>::new());
    // What the body says only the participant can have said.
    let by_body = json!({"transaction": {"rejected": "response.code == 404 && response.body.reason == 'full'"}});
    assert_eq!(warnings(by_body), Vec::<String>::new());
}

#[test]
fn a_participant_keeps_keys_for_a_day_unless_it_is_said_for_how_long() {
    let mut configuration = example();
    configuration["sagas"][0]["steps"][0]["transaction"]["key_lifetime"] = json!("36h");
    let loaded = from_json(&configuration).unwrap();
    let lifetimes: Vec<_> = loaded.definitions[0]
        .steps
        .iter()
        .map(|step| (step.transaction.key_lifetime, step.compensation.as_ref().map(|call| call.key_lifetime)))
        .collect();
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    assert_eq!(lifetimes[0], (hours(36), Some(hours(36))));
    assert_eq!(lifetimes[1], (hours(24), Some(hours(24))));
}

#[test]
fn a_destination_becomes_the_cluster_that_istio_names() {
    let mut configuration = example();
    let step = &mut configuration["sagas"][0]["steps"][0];
    step["transaction"].as_object_mut().unwrap().remove("cluster");
    step["transaction"]["destination"] =
        json!({"host": "hotel.travel.svc.cluster.local", "port": 8080, "subset": "v2"});
    step["compensation"]["destination"] = json!({"host": "undo", "port": 80});
    let loaded = from_json(&configuration).unwrap();
    let hotel = &loaded.definitions[0].steps[0];
    assert_eq!(hotel.transaction.cluster, "outbound|8080|v2|hotel.travel.svc.cluster.local");
    assert_eq!(hotel.compensation.as_ref().unwrap().cluster, "outbound|80||undo");
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].starts_with("sagas[0].steps[0].compensation.destination.host: undo is a short name"));
}

#[test]
fn an_authority_is_that_of_the_call_then_of_the_transaction_then_the_clusters_name() {
    let authorities = |transaction: Value, compensation: Value| {
        let mut configuration = example();
        let step = &mut configuration["sagas"][0]["steps"][0];
        for (call, fields) in [("transaction", transaction), ("compensation", compensation)] {
            step[call].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        }
        let loaded = from_json(&configuration).unwrap();
        let hotel = &loaded.definitions[0].steps[0];
        [format!("{:?}", hotel.transaction.authority), format!("{:?}", hotel.compensation.as_ref().unwrap().authority)]
    };
    let template = |source: &str, scope| {
        format!("{:?}", crate::template::Template::compile(source, crate::template::Place::Authority, &scope).unwrap())
    };
    use crate::template::Scope;
    let both = |transaction, compensation| {
        [template(transaction, Scope::transaction(&[])), template(compensation, Scope::compensation(&[]))]
    };
    assert_eq!(authorities(json!({}), json!({})), both("hotel", "hotel"));
    assert_eq!(
        authorities(json!({"authority": "${request.host}"}), json!({})),
        both("${request.host}", "${request.host}")
    );
    assert_eq!(authorities(json!({"authority": "a"}), json!({"authority": "b"})), both("a", "b"));
    assert_eq!(authorities(json!({"authority": "a"}), json!({"cluster": "other"})), both("a", "other"));
    let piped = json!({"cluster": "outbound|80||h", "authority": "h"});
    assert_eq!(authorities(piped, json!({})), both("h", "h"));
}

#[test]
fn predecessors_and_successors_are_transitive() {
    let step = |name: &str, after: Value| json!({"name": name, "after": after, "transaction": {"cluster": "c", "method": "POST", "path": "/"}});
    let mut configuration = example();
    configuration["sagas"][0]["reply"] = Value::Null;
    configuration["sagas"][0]["steps"] =
        json!([step("d", json!(["c", "b"])), step("a", json!([])), step("b", json!(["a"])), step("c", json!(["a"])),]);
    let loaded = from_json(&configuration).unwrap();
    let steps = &loaded.definitions[0].steps;
    let order: Vec<_> = steps.iter().map(|s| (s.after.clone(), s.predecessors.clone(), s.successors.clone())).collect();
    assert_eq!(
        order,
        [
            (vec![3, 2], vec![1, 2, 3], vec![]),
            (vec![], vec![], vec![0, 2, 3]),
            (vec![1], vec![1], vec![0]),
            (vec![1], vec![1], vec![0]),
        ]
    );
}

#[test]
fn the_least_configurations_are_accepted() {
    assert!(from_json(&json!({"version": 1})).unwrap().definitions.is_empty());
    assert_eq!(from_json(&json!({"version": 1.0, "role": "gate", "sagas": []})).unwrap().role, Role::Gate);
    let gate = from_json(&json!({"version": 1, "role": "coordinator", "gate": true})).unwrap();
    assert_eq!(gate.role, Role::Coordinator { gate: true });
}

#[test]
fn limits_and_forwarded_headers_are_read() {
    let loaded = from_json(&json!({
        "version": 1,
        "limits": {"max_sagas": 5, "max_bytes": "2MiB", "max_body": 1024,
                   "max_retained": 7, "max_retained_bytes": "1KiB", "retention": "90s"},
        "forward_headers": ["X-User", "Authorization"],
    }))
    .unwrap();
    let retained = Retained { sagas: 7, bytes: 1024, time: Duration::from_secs(90) };
    assert_eq!(loaded.limits, Limits { max_sagas: 5, max_bytes: 2 << 20, max_body: 1024, retained });
    assert_eq!(loaded.forward_headers, ["x-user", "authorization"]);
    assert_eq!(loaded.warnings, ["forward_headers[1]: authorization may have expired when a compensation needs it"]);
}

#[test]
fn a_journal_in_etcd_is_read_and_what_is_left_out_has_its_default() {
    let seconds = Duration::from_secs;
    let loaded = from_json(&json!({"version": 1, "journal": {"etcd": {"cluster": "etcd"}}})).unwrap();
    let defaults = EtcdSettings {
        cluster: "etcd".to_owned(),
        prefix: "sagabox".to_owned(),
        lease: seconds(10),
        timeout: seconds(1),
        takes_over: true,
        credentials: None,
    };
    assert_eq!(loaded.etcd, Some(defaults.clone()));
    let etcd = json!({"cluster": "etcd", "prefix": "a/b", "lease": "2s", "timeout": "300ms", "recovery": "hold",
                      "username": "me", "password": "secret"});
    let loaded = from_json(&json!({"version": 1, "journal": {"etcd": etcd}})).unwrap();
    let credentials = Some(Credentials { username: "me".to_owned(), password: "secret".to_owned() });
    let timeout = Duration::from_millis(300);
    let all = EtcdSettings {
        prefix: "a/b".to_owned(),
        lease: seconds(2),
        timeout,
        takes_over: false,
        credentials,
        ..defaults
    };
    assert_eq!(loaded.etcd, Some(all));
    assert!(!format!("{loaded:?}").contains("secret"), "a password does not come into a log");
    assert_eq!(from_json(&json!({"version": 1, "journal": {}})).unwrap().etcd, None);
}

#[test]
fn what_others_need_of_a_configuration_is_its_definitions_and_no_password() {
    let mut configuration = example();
    configuration["journal"] = json!({"etcd": {"cluster": "etcd", "username": "me", "password": "secret"}});
    let store = |configuration: &Value| stored::store(&from_json(configuration).unwrap().definitions);
    let bytes = store(&configuration);
    assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
    configuration["limits"] = json!({"max_sagas": 1});
    assert_eq!(store(&configuration), bytes, "the same definitions are the same bytes");
}

#[test]
fn limits_left_out_keep_their_defaults() {
    let loaded = from_json(&json!({"version": 1, "limits": {"max_sagas": 1}})).unwrap();
    assert_eq!(loaded.limits, Limits { max_sagas: 1, ..Limits::default() });
}

#[test]
fn headers_matched_may_have_to_be_absent() {
    let mut configuration = example();
    configuration["sagas"][0]["match"] = json!({
        "path_template": "/trips/{id}", "host": "[::1]", "headers": [{"name": "X-Dry-Run", "present": false}],
    });
    let loaded = from_json(&configuration).unwrap();
    assert_eq!(loaded.definitions[0].matcher.to_string(), "* /trips/{id}, host [::1], without x-dry-run");
}

#[test]
fn the_configurations_that_fuzzing_begins_with_load() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/wasm-test-harness/fuzz/seeds/config");
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        load(&std::fs::read(&path).unwrap()).unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        count += 1;
    }
    assert!(count > 0);
}

/// Every place in `value` that holds no object or list, as a JSON pointer.
fn leaves(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| leaves(value, &format!("{pointer}/{key}"), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| leaves(value, &format!("{pointer}/{i}"), found))
        }
        _ => found.push(pointer.to_owned()),
    }
}

#[test]
fn a_wrong_kind_of_value_is_told_wherever_it_stands() {
    let mut pointers = Vec::new();
    leaves(&example(), "", &mut pointers);
    // Bodies may hold anything.
    pointers.retain(|pointer| !pointer.contains("/body/"));
    assert!(pointers.len() > 30);
    for pointer in pointers {
        let mut configuration = example();
        *configuration.pointer_mut(&pointer).unwrap() = json!([{"?": 1}]);
        let errors = errors_of(&configuration);
        let path = pointer.trim_start_matches('/').replace('/', ".");
        let path = path.split('.').fold(String::new(), |path, part| match part.parse::<usize>() {
            Ok(index) => format!("{path}[{index}]"),
            Err(_) if path.is_empty() => part.to_owned(),
            Err(_) => format!("{path}.{part}"),
        });
        assert!(errors.iter().any(|error| error.starts_with(&format!("{path}: found [{{"))), "{path}: {errors:?}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        prop_oneof![Just("POST"), Just("/a"), Just("1s"), Just("${saga.id}"), Just("hotel")].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any_key(), inner, 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let known = [
        "version",
        "role",
        "sagas",
        "limits",
        "name",
        "match",
        "steps",
        "reply",
        "after",
        "transaction",
        "path",
        "compensation",
        "cluster",
        "headers",
        "body",
        "retry",
        "status",
        "destination",
        "completed",
        "deadline",
    ];
    prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".*"]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load(&bytes);
        let _ = load(&[&[0x0a], bytes.as_slice(), &[0x12]].concat());
    }

    #[test]
    fn arbitrary_json_is_never_a_panic_and_every_refusal_says_something(value in any_json()) {
        if let Err(errors) = from_json(&value) {
            prop_assert!(!errors.0.is_empty());
            prop_assert_eq!(errors.to_string().lines().count(), errors.0.len());
        }
    }

    #[test]
    fn the_example_with_anything_anywhere_is_never_a_panic(value in any_json(), place in any::<prop::sample::Index>()) {
        let mut pointers = Vec::new();
        leaves(&example(), "", &mut pointers);
        let mut configuration = example();
        // Of each leaf, any of the places that it stands in.
        let mut pointer = place.get(&pointers).clone();
        pointer.truncate(pointer.rfind('/').filter(|_| place.index(2) == 0).unwrap_or(pointer.len()));
        *configuration.pointer_mut(&pointer).unwrap() = value;
        if let Err(errors) = load(configuration.to_string().as_bytes()) {
            prop_assert!(!errors.0.is_empty());
        }
    }
}

#[test]
fn who_puts_a_link_into_a_path_as_a_name_is_warned() {
    let warnings = |path: &str| {
        let mut configuration = example();
        configuration["sagas"][0]["steps"][0]["compensation"]["path"] = json!(path);
        from_json(&configuration).unwrap().warnings
    };
    let warned = warnings("/bookings/${transaction.response.headers.location}");
    assert_eq!(warned.len(), 1, "{warned:#?}");
    assert!(warned[0].starts_with("sagas[0].steps[0].compensation.path: "), "{warned:#?}");
    assert!(warned[0].ends_with("`${path(transaction.response.headers.location)}`"), "{warned:#?}");
    for path in ["${path(transaction.response.headers['Location'])}", "/${transaction.response.headers.etag}"] {
        assert_eq!(warnings(path), Vec::<String>::new(), "{path}");
    }
}
