//! What is refused, and with which words.

use serde_json::json;

use super::*;

mod calls;

/// Sets what stands at a path such as `sagas.0.name` of the example; null removes it.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut configuration = example();
    for (path, value) in changes {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let pointer =
            parent.split('.').filter(|part| !part.is_empty()).fold(String::new(), |p, part| format!("{p}/{part}"));
        match configuration.pointer_mut(&pointer).unwrap_or_else(|| panic!("{path}")) {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.clone(),
            object => object[key] = value.clone(),
        }
    }
    configuration
}

/// One change to the example is one error, which begins and ends like this.
#[track_caller]
fn refused(path: &str, value: Value, error: &str, expected: &str) {
    let errors = errors_of(&with(&[(path, value.clone())]));
    assert_eq!(errors.len(), 1, "{path} = {value}: {errors:#?}");
    assert!(errors[0].starts_with(error), "{path} = {value}: {errors:#?}");
    assert!(errors[0].contains(expected), "{path} = {value}: {errors:#?}");
}

#[test]
fn a_journal() {
    let etcd = |name: &str, value: Value| {
        let mut etcd = json!({"cluster": "etcd"});
        etcd[name] = value;
        json!({ "etcd": etcd })
    };
    refused("journal", json!("etcd"), "journal: found \"etcd\"", "");
    refused("journal", json!({"redis": {}}), "journal.redis: ", "etcd");
    refused("journal", json!({"etcd": {}}), "journal.etcd.cluster: found nothing", "the name of etcd's Envoy cluster");
    refused("journal", etcd("cluster", json!("")), "journal.etcd.cluster: found \"\"", "the name of etcd's");
    refused("journal", etcd("prefix", json!("/")), "journal.etcd.prefix: found \"/\"", "not only slashes");
    refused("journal", etcd("prefix", json!("a b")), "journal.etcd.prefix: found \"a b\"", "letters, digits");
    refused("journal", etcd("lease", json!("1999ms")), "journal.etcd.lease: found 1999ms", "at least 2s");
    refused("journal", etcd("timeout", json!("0s")), "journal.etcd.timeout: found \"0s\"", "from 1ms");
    refused("journal", etcd("recovery", json!("wait")), "journal.etcd.recovery: found", "take-over, hold");
    refused("journal", etcd("username", json!("me")), "journal.etcd.username: found a user name", "a password beside");
    // A password is not repeated where it can be read.
    refused("journal", etcd("password", json!("x")), "journal.etcd.password: found a password", "a username beside");
    refused("journal", etcd("endpoints", json!([])), "journal.etcd.endpoints: ", "cluster");
}

#[test]
fn at_the_top() {
    refused("version", Value::Null, "version: found nothing", "expected 1");
    refused("version", json!(2), "version: found 2", "expected 1");
    refused("version", json!("1"), "version: found \"1\"", "a whole number");
    refused("version", json!(1.5), "version: found 1.5", "a whole number");
    refused("role", json!("operator"), "role: found \"operator\"", "one of coordinator, gate");
    refused("gate", json!("yes"), "gate: found \"yes\"", "true or false");
    refused("sagas", json!({}), "sagas: found {}", "a list");
    refused("limits", json!({"max_sagas": 0}), "limits.max_sagas: found 0", "from 1");
    refused("limits", json!({"max_retained": 0}), "limits.max_retained: found 0", "from 1");
    refused("limits", json!({"retention": "1d"}), "limits.retention: found \"1d\"", "");
    refused("sagas.0.start_key", json!("steps.hotel.response"), "sagas[0].start_key: found", "");
    refused("limits", json!({"max_bytes": "1GB"}), "limits.max_bytes: found \"1GB\"", "such as 512KiB");
    refused("limits", json!({"max_body": "4GiB"}), "limits.max_body: found \"4GiB\"", "to 4294967295");
    refused("limits", json!({"max_body": -1}), "limits.max_body: found -1", "a size");
    for name in ["host", "accept-encoding", "content-type", "saga-id", "x-envoy-retry-on", "Idempotency-Key", "a b", ""]
    {
        refused("forward_headers", json!([name]), "forward_headers[0]: found", "header");
    }
    refused("forward_headers", json!(["x-a", "X-A"]), "forward_headers[1]: found \"X-A\"", "each header once");
}

#[test]
fn what_is_not_built_is_unknown() {
    for (path, value) in [
        ("nested", json!(true)),
        ("status_path", json!("/.saga")),
        ("sagas.0.wait", json!("0s")),
        ("sagas.0.steps.0.pivot", json!(true)),
    ] {
        refused(path, value, "", ": found an unknown field, expected one of the fields ");
    }
    refused(
        "sagas.0.steps.0.compensation",
        json!("nested"),
        "sagas[0].steps[0].compensation: found \"nested\"",
        "an object",
    );
    refused(
        "sagas.0.wait",
        json!("0s"),
        "sagas[0].wait",
        "one of the fields name, match, deadline, start_key, steps, reply",
    );
}

#[test]
fn a_gate_takes_nothing() {
    let errors = errors_of(&with(&[("role", json!("gate")), ("gate", json!(true)), ("limits", json!({}))]));
    let begins: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
    assert_eq!(begins, ["gate", "sagas", "limits"]);
}

#[test]
fn in_a_saga() {
    refused("sagas.0", json!(5), "sagas[0]: found 5", "an object");
    refused("sagas.0.name", json!("Book"), "sagas[0].name: found \"Book\"", "[a-z0-9-]{1,63}");
    refused("sagas.0.name", Value::Null, "sagas[0].name: found nothing", "a name");
    refused("sagas.0.match", Value::Null, "sagas[0].match: found nothing", "which requests");
    refused("sagas.0.deadline", json!("0s"), "sagas[0].deadline: found \"0s\"", "a duration such as");
    refused("sagas.0.deadline", json!(10), "sagas[0].deadline: found 10", "a duration such as");
    let mut twice = example();
    twice["sagas"] = json!([example()["sagas"][0], example()["sagas"][0]]);
    assert_eq!(errors_of(&twice), ["sagas[1].name: found \"book-trip\", expected a name that no other saga has"]);
}

#[test]
fn in_a_match() {
    #[rustfmt::skip]
    let cases = [
        (json!({"method": "POST"}), ": found none of them", "exactly one of path"),
        (json!({"path": "/a", "path_prefix": "/b"}), ": found path and path_prefix", "exactly one of path"),
        (json!({"path": "trips"}), ".path: found \"trips\"", "begins with /"),
        (json!({"path": "/a?b"}), ".path: found", "without a query"),
        (json!({"path": "/a b"}), ".path: found", "printable"),
        (json!({"path": "/é"}), ".path: found", "printable ASCII"),
        (json!({"path_prefix": "/a/"}), ".path_prefix: found", "without / at the end"),
        (json!({"path_template": "/a/{b}c"}), ".path_template: found", "{name}"),
        (json!({"path_template": "/a/{}"}), ".path_template: found", "{name}"),
        (json!({"path_template": "/{a}/{a}"}), ".path_template: found", "{a} once"),
        (json!({"path": "/", "method": "post"}), ".method: found \"post\"", "upper case"),
        (json!({"path": "/", "method": "CONNECT"}), ".method: found", "tunnel"),
        (json!({"path": "/", "host": "a:80"}), ".host: found", "without port"),
        (json!({"path": "/", "host": "*.a"}), ".host: found", "no pattern"),
        (json!({"path": "/", "host": "::1"}), ".host: found", "in brackets"),
        (json!({"path": "/", "host": ""}), ".host: found", "a host name"),
        (json!({"path": "/", "headers": [{"name": "a"}]}), ".headers[0]: found 0 of them", "exactly one of exact"),
        (json!({"path": "/", "headers": [{"name": "a", "exact": "", "prefix": ""}]}), ".headers[0]: found 2", "one of"),
        (json!({"path": "/", "headers": [{"exact": "a"}]}), ".headers[0].name: found nothing", "a header name"),
        (json!({"path": "/", "headers": [{"name": "a b", "exact": "a"}]}), ".headers[0].name: found", "a header name"),
        (json!({"path": "/", "query": "a"}), ".query: found an unknown field", "method, path, path_prefix"),
    ];
    for (value, begin, expected) in cases {
        refused("sagas.0.match", value, &format!("sagas[0].match{begin}"), expected);
    }
}

#[test]
fn in_the_order_of_steps() {
    let after = |changes: &[(usize, Value)]| {
        let mut configuration = example();
        for (step, value) in changes {
            configuration["sagas"][0]["steps"][*step]["after"] = value.clone();
        }
        errors_of(&configuration)
    };
    assert_eq!(
        after(&[(0, json!(["car"]))]),
        [
            "sagas[0].steps[0].after: found hotel -> car -> hotel (each after the next), expected steps that do not wait for themselves"
        ]
    );
    assert!(after(&[(1, json!(["flight"]))])[0].contains("found flight -> flight"));
    assert!(
        after(&[(1, json!(["hotel", "hotel"]))])[0]
            .starts_with("sagas[0].steps[1].after[1]: found \"hotel\", expected each step once")
    );
    assert_eq!(
        after(&[(1, json!(["hotle"]))]),
        [r#"sagas[0].steps[1].after[0]: found "hotle", expected a step of this saga: "hotel", "flight", "car""#]
    );
    for (name, expected) in [("true", "reserve"), ("while", "reserve"), ("a-b", "[a-z]"), ("flight", "no other step")] {
        let mut configuration = with(&[("sagas.0.steps.0.name", json!(name))]);
        configuration["sagas"][0]["steps"][2] = configuration["sagas"][0]["steps"][1].clone();
        configuration["sagas"][0]["steps"][2]["name"] = json!("other");
        configuration["sagas"][0]["reply"] = Value::Null;
        let errors = errors_of(&configuration);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{name}: {errors:?}");
    }
}

#[test]
fn a_saga_has_one_to_64_steps() {
    let of = |count: usize| {
        let call = json!({"cluster": "c", "method": "POST", "path": "/"});
        let steps: Vec<_> = (0..count).map(|n| json!({"name": format!("s{n}"), "transaction": call})).collect();
        errors_of(&with(&[("sagas.0.steps", json!(steps)), ("sagas.0.reply", Value::Null)]))
    };
    assert_eq!(of(0), ["sagas[0].steps: found 0 steps, expected 1 to 64 steps"]);
    assert_eq!(of(1), Vec::<String>::new());
    assert_eq!(of(64), Vec::<String>::new());
    assert_eq!(of(65), ["sagas[0].steps: found 65 steps, expected 1 to 64 steps"]);
}

#[test]
fn all_errors_come_at_once_from_every_layer() {
    let errors = errors_of(&with(&[
        ("version", json!(3)),
        ("limits", json!({"max_sagas": "many", "max_body": "1MB"})),
        ("colour", json!("red")),
        ("sagas.0.name", json!("BOOK")),
        ("sagas.0.pivot", json!(true)),
        ("sagas.0.match.path_prefix", json!("/trips")),
        ("sagas.0.steps.0.transaction.retry.base_interval", json!("2s")),
        ("sagas.0.steps.0.transaction.path", json!("/${")),
        ("sagas.0.steps.0.transaction.timeout", json!("2s")),
        ("sagas.0.steps.1.after", json!(["bus"])),
        ("sagas.0.steps.2.transaction", json!("POST")),
        ("sagas.0.steps.2.compensation.headers", json!({"saga-id": 5})),
        ("sagas.0.reply.compensated.status", json!("409")),
    ]));
    let mut paths: Vec<_> = errors.iter().map(|error| error.split(": found").next().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "colour",
            "limits.max_body",
            "limits.max_sagas",
            "sagas[0].match",
            "sagas[0].name",
            "sagas[0].pivot",
            "sagas[0].reply.compensated.status",
            "sagas[0].steps[0].transaction.path",
            "sagas[0].steps[0].transaction.retry",
            "sagas[0].steps[0].transaction.timeout",
            "sagas[0].steps[1].after[0]",
            "sagas[0].steps[2].compensation.headers.saga-id",
            "sagas[0].steps[2].compensation.headers.saga-id",
            "sagas[0].steps[2].transaction",
            "version",
        ]
    );
}

#[test]
fn a_key_given_twice_is_told_with_all_other_errors() {
    let errors = load(br#"{"version": 1, "version": 2, "sagas": 5}"#).unwrap_err();
    let lines: Vec<_> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(lines, ["version", "version", "sagas"]);
}

#[test]
fn a_circle_of_steps_whose_names_are_refused_is_told_in_one_line() {
    let mut configuration = example();
    configuration["sagas"][0]["steps"][0]["name"] = json!("a\n\u{7f}");
    configuration["sagas"][0]["steps"][0]["after"] = json!(["a\n\u{7f}"]);
    let errors = errors_of(&configuration);
    let circle = errors.iter().find(|error| error.contains("each after the next")).unwrap();
    assert!(circle.contains(r#"found "a\n\u007f" -> "a\n\u007f" (each"#), "{circle}");
    assert!(errors.iter().all(|error| !error.chars().any(char::is_control)), "{errors:?}");
}
