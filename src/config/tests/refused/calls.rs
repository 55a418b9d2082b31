//! What is refused in calls, expressions and replies.

use super::*;

#[test]
fn in_a_call() {
    #[rustfmt::skip]
    let cases = [
        ("transaction.cluster", Value::Null, ": found neither cluster nor destination", "one of them"),
        ("transaction.cluster", json!("outbound|80||h"), ".cluster: found", "`authority` besides it"),
        ("transaction.cluster", json!("a b"), ".cluster: found \"a b\"", "without spaces"),
        ("transaction.authority", json!(""), ".authority: found \"\"", "not empty"),
        ("transaction.destination", json!({"host": "a.b", "port": 1}), ": found cluster and destination", "one of them"),
        ("transaction.method", json!("post"), ".method: found \"post\"", "upper case"),
        ("transaction.method", Value::Null, ".method: found nothing", "an HTTP method"),
        ("transaction.path", json!("bookings"), ".path: found \"bookings\"", "begins with one literal"),
        ("transaction.path", Value::Null, ".path: found nothing", "a path"),
        ("transaction.headers", json!({"X-A": "1", "x-a": "2"}), ".headers.x-a: found", "each header once"),
        ("transaction.headers", json!({"a b": "1"}), ".headers[\"a b\"]: found", "a header name"),
        ("transaction.headers", json!({"x-a": 1}), ".headers.x-a: found 1", "a string"),
        ("transaction.per_try_timeout", json!("50d"), ".per_try_timeout: found \"50d\"", "a duration"),
        ("transaction.retry", json!({"max_attempts": 0}), ".retry.max_attempts: found 0", "from 1"),
        ("transaction.retry", json!({"base_interval": "6s"}), ".retry: found base_interval 6s and max_interval 5s", "not longer"),
        ("compensation.retry", json!({"max_attempts": 3}), ".retry.max_attempts: found 3", "until it succeeds"),
        ("transaction.timeout", json!("1s"), ".timeout: found an unknown field", "per_try_timeout"),
    ];
    for (path, value, begin, expected) in cases {
        let call = path.split('.').next().unwrap();
        let begin = format!("sagas[0].steps[0].{call}{begin}");
        refused(&format!("sagas.0.steps.0.{path}"), value, &begin, expected);
    }
    for name in
        [":path", "Host", "content-length", "transfer-encoding", "proxy-x", "x-envoy-a", "saga-id", "expect", "te"]
    {
        refused(
            "sagas.0.steps.0.transaction.headers",
            json!({name: "1"}),
            "sagas[0].steps[0].transaction.headers",
            "another header",
        );
    }
}

#[test]
fn in_a_destination() {
    let host = "hotel.travel.svc.cluster.local";
    for (value, begin, expected) in [
        (json!({"port": 80}), ".host: found nothing", "full name"),
        (json!({"host": host}), ".port: found nothing", "a port"),
        (json!({"host": host, "port": 0}), ".port: found 0", "a port"),
        (json!({"host": host, "port": 65_536}), ".port: found 65536", "a port"),
        (json!({"host": "a|b", "port": 80}), ".host: found \"a|b\"", "full name"),
        (json!({"host": host, "port": 80, "subset": "v|2"}), ".subset: found", "a subset"),
    ] {
        let mut configuration = with(&[("sagas.0.steps.0.transaction.destination", value)]);
        configuration["sagas"][0]["steps"][0]["transaction"].as_object_mut().unwrap().remove("cluster");
        let errors = errors_of(&configuration);
        let begin = format!("sagas[0].steps[0].transaction.destination{begin}");
        assert!(errors.len() == 1 && errors[0].starts_with(&begin) && errors[0].contains(expected), "{errors:?}");
    }
}

#[test]
fn in_expressions_and_templates() {
    #[rustfmt::skip]
    let cases = [
        ("when", json!("steps.car.response.code == 1"), "name it in `after`"),
        ("when", json!("1 ==\n"), "an expression in CEL"),
        ("transaction.path", json!("/${steps.car.response.body.id}"), "name it in `after`"),
        ("transaction.path", json!("/${"), "without its `}`"),
        ("transaction.path", json!("/${transaction.response.body.id}"), "request, steps, saga"),
        ("transaction.authority", json!("${steps.car.response.body.host}"), "name it in `after`"),
        ("transaction.headers", json!({"x-a": "a\r\nb"}), ""),
        ("transaction.success", json!(""), "an expression"),
        ("transaction.success", json!("response.cod == 1"), "a field of `response`"),
        ("transaction.rejected", json!("steps.flight.response.code == 1"), "expected what can be read here: response"),
        ("compensation.path", json!("/${steps.flight.response.body.id}"), "name it in `after`"),
        ("transaction.body", json!({"a": [{"b": "${"}]}), "transaction.body.a[0].b: found \"${\""),
    ];
    for (path, value, expected) in cases {
        refused(&format!("sagas.0.steps.0.{path}"), value, &format!("sagas[0].steps[0].{path}"), expected);
    }
    refused(
        "sagas.0.reply.completed.headers",
        json!({"x": "${steps.bus.request}"}),
        "sagas[0].reply.completed.headers.x: found \"steps.bus.request\"",
        "`steps.bus`",
    );
}

#[test]
fn a_fault_that_a_compensation_takes_over_is_told_once() {
    let errors = errors_of(&with(&[("sagas.0.steps.0.transaction.authority", json!("a b"))]));
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn in_a_reply() {
    #[rustfmt::skip]
    let cases = [
        (json!({"status": 199}), ".status: found 199", "200 to 599"),
        (json!({"status": 600}), ".status: found 600", "200 to 599"),
        (json!({"status": 70_000}), ".status: found 70000", "200 to 599"),
        (json!({"status": 204, "body": {"a": 1}}), ".body: found {\"a\":1}", "no body with status 204"),
        (json!({"status": 304, "body": "x"}), ".body: found \"x\"", "no body with status 304"),
        (json!({"headers": {"Saga-Id": "x"}}), ".headers.Saga-Id: found", "another header"),
        (json!({"headers": {":status": "x"}}), ".headers[\":status\"]: found", "another header"),
        (json!({"headers": {"Content-Length": "1"}}), ".headers.Content-Length: found", "another header"),
        (json!({"bodi": "x"}), ".bodi: found an unknown field", "status, headers, body"),
    ];
    for (value, begin, expected) in cases {
        refused("sagas.0.reply.completed", value, &format!("sagas[0].reply.completed{begin}"), expected);
    }
}

#[test]
fn a_body_whose_values_cannot_be_encoded() {
    let transaction = "sagas.0.steps.0.transaction";
    let at = |field: &str| format!("{transaction}.{field}");
    let form = json!({"content-type": "application/x-www-form-urlencoded"});
    refused(
        &at("body"),
        json!("guest=${request.body.guest}"),
        "sagas[0].steps[0].transaction.body: found",
        "`${raw(...)}`",
    );
    for (content_type, body, expected) in [
        ("multipart/form-data; boundary=x", "--x", "no template can build a multipart body"),
        ("application/xml", "<${request.body.guest}/>", "in text or in the quoted value"),
        ("application/json", "{\"guest\":", "JSON around"),
    ] {
        let changes = [(at("headers"), json!({"Content-Type": content_type})), (at("body"), json!(body))];
        let changes: Vec<(&str, Value)> = changes.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
        let errors = errors_of(&with(&changes));
        assert_eq!(errors.len(), 1, "{content_type}: {errors:#?}");
        assert!(errors[0].starts_with("sagas[0].steps[0].transaction.body: found"), "{errors:#?}");
        assert!(errors[0].contains(expected), "{errors:#?}");
    }
    let (headers, body, fields) = (at("headers"), at("body"), at("form"));
    let accepted = with(&[(&headers, form.clone()), (&body, json!("guest=${request.body.guest}"))]);
    assert!(from_json(&accepted).is_ok());
    let accepted =
        with(&[(&headers, form), (&body, Value::Null), (&fields, json!({"guest": "${request.body.guest}"}))]);
    assert!(from_json(&accepted).is_ok());
    refused(&fields, json!({"guest": "Ada"}), "sagas[0].steps[0].transaction.form: found", "either `body` or `form`");
    let errors = errors_of(&with(&[(&body, Value::Null), (&fields, json!({"guest": ["Ada"], "nights": "${"}))]));
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("sagas[0].steps[0].transaction.form.guest: found"), "{errors:#?}");
    assert!(errors[1].starts_with("sagas[0].steps[0].transaction.form.nights: found"), "{errors:#?}");
    let other = json!({"content-type": "text/plain"});
    let errors = errors_of(&with(&[(&headers, other), (&body, Value::Null), (&fields, json!({"guest": "Ada"}))]));
    assert!(errors.len() == 1 && errors[0].contains("application/x-www-form-urlencoded"), "{errors:#?}");
}
