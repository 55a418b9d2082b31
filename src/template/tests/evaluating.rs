use super::*;

#[test]
fn json_integers_are_ints_and_stay_exact() {
    for (source, body, expected) in [
        ("request.body.n + 1", json!({"n": 2}), json!(3)),
        ("request.body.n", json!({"n": i64::MAX}), json!(i64::MAX)),
        ("request.body.n + 0", json!({"n": i64::MIN}), json!(i64::MIN)),
        ("request.body.n", json!({"n": u64::MAX}), json!(u64::MAX)),
        ("[request.body.n].map(x, x)", json!({"n": u64::MAX}), json!([u64::MAX])),
        ("string(request.body.n)", json!({"n": u64::MAX}), json!("18446744073709551615")),
        ("request.body.n * 2.0", json!({"n": 0.25}), json!(0.5)),
        ("1u + 2u", json!({}), json!(3)),
        ("{'b': [1, null, true], 'a': 'x'}", json!({}), json!({"a": "x", "b": [1, null, true]})),
        ("request.body", json!([1, {"a": null}]), json!([1, {"a": null}])),
        ("[request.body]", json!({"a": [1.5, "x"]}), json!([{"a": [1.5, "x"]}])),
        ("{1: 'a', true: 'b'}", json!({}), json!({"1": "a", "true": "b"})),
    ] {
        assert_eq!(value(source, body), Ok(expected), "{source}");
    }
}

#[test]
fn a_double_is_passed_on_with_every_digit() {
    for text in ["101.87718516828825", "0.1", "3.2250738585072013e-308", "1.7976931348623157e308"] {
        let body: Json = serde_json::from_str(text).unwrap();
        let sent = value("request.body", body).unwrap().to_string().replace("e+", "e");
        assert_eq!(sent, text);
    }
}

#[test]
fn what_json_has_not_is_refused() {
    assert_eq!(reason("1.0 / 0.0", json!({})), "inf is no number in JSON");
    assert_eq!(reason("[0.0 / 0.0]", json!({})), "NaN is no number in JSON");
    assert_eq!(reason("b'abc'", json!({})), "bytes cannot be sent as JSON");
    assert_eq!(reason("request.body.?a", json!({})), "an optional (see `orValue`) cannot be sent as JSON");
}

#[test]
fn into_text_go_texts_numbers_and_booleans_only() {
    let body = || {
        json!({"n": 3, "d": 3.0, "f": 0.1, "big": 1e21, "huge": 1e300, "u": u64::MAX, "b": true, "s": "x",
                         "z": null, "l": [], "m": {}})
    };
    for (source, expected) in [
        ("${request.body.n}", "3"),
        ("${request.body.n + 1}", "4"),
        ("${request.body.f} ${request.body.f + 0.0}", "0.1 0.1"),
        ("${request.body.u}", "18446744073709551615"),
        ("${request.body.b}-${!request.body.b}", "true-false"),
        ("${request.body.s}${request.body.s + 'y'}", "xxy"),
        ("${1u}", "1"),
    ] {
        assert_eq!(render(source, Place::Text, body()).as_deref(), Ok(expected), "{source}");
    }
    for source in ["z", "l", "m", "?s", "gone"].map(|name| format!("a ${{request.body.{name}}}")) {
        assert!(render(&source, Place::Text, body()).is_err(), "{source}");
    }
    assert_eq!(
        render("${request.body.z}", Place::Text, body()).unwrap_err().to_string(),
        "`request.body.z`: null cannot be put into text"
    );
}

#[test]
fn what_is_computed_enters_text_as_cel_writes_it() {
    for (number, expected) in [(3.0, "3"), (0.1, "0.1"), (-2.5, "-2.5"), (1e15, "1000000000000000")] {
        let text = render("${request.body + 0.0}", Place::Text, json!(number));
        assert_eq!(text.as_deref(), Ok(expected), "{number}");
        assert_eq!(text, render("${string(request.body)}", Place::Text, json!(number)), "{number}");
    }
    let huge = render("${request.body + 0.0}", Place::Text, json!(1e300)).unwrap();
    assert_eq!(huge.parse::<f64>(), Ok(1e300), "{huge}");
}

/// Digits of a number, and whether CEL can compute with it. (The parser writes exponents its own way: `5E10` is `5e+10`.)
const NUMBERS: [(&str, bool); 12] = [
    ("100.00", true),
    ("1.10", true),
    ("5e+10", true),
    ("1e-5", true),
    ("-0.0", true),
    ("9007199254740993", true),
    ("9223372036854775808", false),
    ("18446744073709551615", false),
    ("100000000000000000123", false),
    ("12345678901234567.89", false),
    ("1e+400", false),
    ("0.12345678901234567890123", false),
];

#[test]
fn a_number_that_is_passed_on_keeps_its_digits() {
    for (digits, _) in NUMBERS {
        let body: Json = serde_json::from_str(&format!(r#"{{"id": {digits}}}"#)).unwrap();
        let text = render("id ${request.body.id}", Place::Text, body.clone());
        assert_eq!(text, Ok(format!("id {digits}")), "{digits}");
        assert_eq!(value("request.body.id", body.clone()).unwrap().to_string(), digits);
        assert_eq!(value("request.body", body).unwrap().to_string(), format!(r#"{{"id":{digits}}}"#));
        let constant: Json = serde_json::from_str(&format!(r#"{{"price": {digits}}}"#)).unwrap();
        let body = BodyTemplate::compile(&constant, BodyKind::Plain, &compensation()).unwrap();
        let sent = body.render(&World::with_body(json!(null)).facts()).unwrap().bytes;
        assert_eq!(String::from_utf8(sent).unwrap(), format!(r#"{{"price":{digits}}}"#));
    }
}

#[test]
fn what_no_number_of_cel_holds_is_never_rounded() {
    for (digits, computes) in NUMBERS {
        let body: Json = serde_json::from_str(digits).unwrap();
        for source in
            ["request.body + 1.0", "request.body * 2.0", "-request.body", "request.body < 1.0", "int(request.body)"]
        {
            // An `int` and a `double` do not add up in CEL.
            let result = value(source, body.clone());
            assert!(computes || result.is_err(), "{source} of {digits}: {result:?}");
        }
        if !computes {
            assert_eq!(value("string(request.body)", body.clone()), Ok(json!(digits)));
            assert_eq!(value("[request.body, 1].map(x, x)[0]", body.clone()).unwrap().to_string(), digits);
            assert_eq!(value("{'a': request.body}.a", body).unwrap().to_string(), digits);
        }
    }
}

#[test]
fn headers_are_read_in_any_case() {
    for source in [
        "request.headers['X-User']",
        "request.headers['x-user']",
        "request['headers']['X-USER']",
        "request.headers['X-' + 'User']",
        "request.headers[?'X-User'].orValue('anon')",
        "request.headers[?('X-' + 'USER')].orValue('anon')",
        "request.?headers[?'X-User'].orValue('anon')",
        "has(request.headers.Host) && request.headers.HOST == 'example.com' ? 'Ada' : ''",
        "'X-User' in request.headers ? 'Ada' : ''",
        "('X-' + 'User') in request.headers ? 'Ada' : ''",
    ] {
        assert_eq!(value(source, json!({})), Ok(json!("Ada")), "{source}");
    }
    for source in [
        "transaction.response.headers['Location']",
        "steps.hotel.response.headers.LOCATION",
        "steps['hotel']['response'].headers[?'Location'].value()",
    ] {
        assert_eq!(value(source, json!({})), Ok(json!("/b/7")), "{source}");
    }
    assert_eq!(value("request.headers[?'x-none'].orValue('anon')", json!({})), Ok(json!("anon")));
    assert_eq!(value("'x-none' in request.headers", json!({})), Ok(json!(false)));
    // Only names of headers are changed.
    assert_eq!(value("request.body['Key']", json!({"Key": 1, "key": 2})), Ok(json!(1)));
}

#[test]
fn a_step_without_a_result_can_be_tested_but_not_read() {
    for (source, expected) in [
        ("has(steps.car)", false),
        ("has(steps.hotel)", true),
        ("'car' in steps", false),
        ("'hotel' in steps", true),
        ("steps.?car.response.body.id.hasValue()", false),
        ("steps.?hotel.response.body.id.hasValue()", true),
        ("steps[?'car'].hasValue()", false),
        ("has(steps.car) ? steps.car.response.code == 201 : true", true),
    ] {
        assert_eq!(value(source, json!({})), Ok(json!(expected)), "{source}");
    }
    assert_eq!(
        reason("steps.car.response.body.id", json!({})),
        "step `car` has no result: it was skipped, failed or has not run"
    );
}

#[test]
fn what_is_not_there_is_an_error_that_names_it() {
    assert_eq!(reason("request.body.guest", json!({})), "`request.body` has no `guest`");
    assert_eq!(
        reason("request.body.guest.name", json!({"guest": 1})),
        "`request.body.guest` is no object, it has no `name`"
    );
    assert_eq!(reason("request.body.guest + 'x'", json!({})), "`request.body` has no `guest`");
    assert_eq!(reason("has(request.body.a.b)", json!({})), "`request.body` has no `a`");
    assert_eq!(reason("request.body[0].x", json!([{}])), "there is no `x`");
    let expression = Expression::compile("response.code == 201", &Scope::predicate()).unwrap();
    let error = expression.evaluate_bool(&Facts::default()).unwrap_err();
    assert_eq!(error.to_string(), "`response.code == 201`: `response` is not there");
}

#[test]
fn presence_and_short_circuits_read_nothing_that_is_not_there() {
    for (source, body, expected) in [
        ("has(request.body.car)", json!({"car": null}), true),
        ("has(request.body.car)", json!({}), false),
        ("has(request.body.car) && request.body.car == 'x'", json!({}), false),
        ("!has(request.body.car) || request.body.car == 'x'", json!({}), true),
        ("request.body.?a.?b.orValue(1) == 1", json!({}), true),
        ("request.body.?a.?b.orValue(1) == 1", json!({"a": {"b": 2}}), false),
        ("request.body.?a.b.orValue(1) == 2", json!({"a": {"b": 2}}), true),
        ("has(request.body.?a.b)", json!({"a": {"b": 2}}), true),
        ("optional.none().or(optional.of(1)).value() == 1", json!({}), true),
        ("[?request.body.?a, 2].size() == 1", json!({}), true),
        ("{?'a': request.body.?a} == {}", json!({}), true),
    ] {
        assert_eq!(value(source, body), Ok(json!(expected)), "{source}");
    }
}

#[test]
fn functions_operators_and_macros_do_what_cel_says() {
    let body =
        || json!({"items": [{"n": 1, "on": true}, {"n": 2, "on": false}, {"n": 3, "on": true}], "m": {"b": 1, "a": 2}});
    for (source, expected) in [
        ("size(request.body.items) + request.body.items.size()", json!(6)),
        ("request.body.items.filter(i, i.on).map(i, i.n * 2)", json!([2, 6])),
        ("request.body.items.map(i, i.on, i.n)", json!([1, 3])),
        ("request.body.items.all(i, i.n > 0) && request.body.items.exists(i, i.n == 2)", json!(true)),
        ("request.body.items.exists_one(i, i.n == 2)", json!(true)),
        ("request.body.items[1].n + request.body.items[0]['n']", json!(3)),
        ("request.body.m.map(k, k)", json!(["a", "b"])),
        ("request.body.m.filter(k, request.body.m[k] > 1)", json!(["a"])),
        ("{'z': 1, 'y': 2, 'x': 3}.map(k, k)", json!(["x", "y", "z"])),
        ("[[1, 2], [3]].map(x, x.map(y, y + 1))", json!([[2, 3], [4]])),
        ("['a'] == request.body.items.map(i, 'a').filter(x, true) || request.body.m == {'a': 2, 'b': 1}", json!(true)),
        ("'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.contains('b')", json!(true)),
        ("int('7') + int(2.9) + int(1u)", json!(10)),
        ("double('1.5') + double(1)", json!(2.5)),
        ("string(1) + string(true) + string(1.5)", json!("1true1.5")),
        ("2 in [1, 2] && 'a' in request.body.m && !(3 in [1])", json!(true)),
        ("7 / 2 - 7 % 4 * -1", json!(6)),
        ("1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3 && 1 != 2 ? 'y' : 'n'", json!("y")),
        ("request.params.id + request.query_params.a + request.query", json!("421a=1")),
    ] {
        assert_eq!(value(source, body()), Ok(expected), "{source}");
    }
}

#[test]
fn a_map_is_never_added() {
    for source in ["[1] + request.body", "[1] + {'a': 1}", "request.body + [1]", "request.body + request.body"] {
        assert!(value(source, json!({"b": 1, "a": 2})).is_err(), "{source}");
    }
    assert_eq!(value("[1] + request.body + [3]", json!([2])), Ok(json!([1, 2, 3])));
}

#[test]
fn a_condition_must_give_a_boolean() {
    let expression = Expression::compile("request.body", &compensation()).unwrap();
    let error = expression.evaluate_bool(&World::with_body(json!("true")).facts()).unwrap_err();
    assert_eq!(error.reason, "gives a text, not a boolean");
    assert_eq!(expression.evaluate_bool(&World::with_body(json!(true)).facts()), Ok(true));
}

#[test]
fn a_body_keeps_types_in_json_and_is_text_as_a_string() {
    let render = |source: Json, body: Json| {
        let template = BodyTemplate::compile(&source, BodyKind::Plain, &compensation()).unwrap();
        template
            .render(&World::with_body(body).facts())
            .map(|body| (String::from_utf8(body.bytes).unwrap(), body.content_type.is_some()))
    };
    let given = || json!({"n": 2, "s": "a\"b", "l": [1], "o": {"k": null}});
    let source = json!({"n": "${request.body.n}", "t": "n=${request.body.n}", "s": "${request.body.s}",
                        "all": ["${request.body.l}", "${request.body.o}"], "lit": "$${x}", "c": [1.5, null, true]});
    let expected =
        json!({"n": 2, "t": "n=2", "s": "a\"b", "all": [[1], {"k": null}], "lit": "${x}", "c": [1.5, null, true]});
    assert_eq!(render(source, given()), Ok((expected.to_string(), true)));
    assert_eq!(render(json!("n=${raw(request.body.n)}"), given()), Ok(("n=2".to_owned(), false)));
    assert_eq!(render(json!("${request.body.s}"), given()), Ok(("a\"b".to_owned(), false)));
    assert_eq!(render(json!(7), given()), Ok(("7".to_owned(), true)));
    assert_eq!(render(json!("${request.body.o}"), given()), Ok((r#"{"k":null}"#.to_owned(), true)));
    assert_eq!(render(json!("${ {'all': request.body.l} }"), given()), Ok((r#"{"all":[1]}"#.to_owned(), true)));
    assert!(render(json!("x${raw(request.body.l)}"), given()).is_err());
}
