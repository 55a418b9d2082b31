use super::*;

fn check(scope: &Scope, allowed: &[&str], refused: &[&str]) {
    for source in allowed {
        if let Err(error) = Expression::compile(source, scope) {
            panic!("{source} should be allowed: {error}");
        }
    }
    for source in refused {
        assert!(Expression::compile(source, scope).is_err(), "{source} should be refused");
    }
}

#[test]
fn a_place_reads_only_what_it_may() {
    check(
        &Scope::condition(&["hotel"]),
        &["request.body.a == 1", "steps.hotel.response.body.id == ''", "saga.id == saga.name", "has(steps.hotel)"],
        &["transaction.response.code == 1", "response.code == 1", "saga.status == ''", "has(steps.car)"],
    );
    check(
        &Scope::compensation(&[]),
        &["transaction.idempotency_key", "transaction.response.body.id", "transaction.request.body"],
        &["transaction.request.query", "transaction.key", "saga.reason", "steps.hotel.response.body"],
    );
    check(&Scope::predicate(), &["response.code == 201", "response.headers.a == ''"], &["request.host", "saga.id"]);
    check(
        &Scope::reply(&["hotel"]),
        &["saga.status + saga.failed_step + saga.reason", "steps.hotel.response.headers.location"],
        &["transaction.request", "steps.car.response.body", "response.code"],
    );
}

#[test]
fn unknown_fields_of_what_has_a_fixed_shape_are_refused() {
    for source in [
        "request.bodyy",
        "request['bodyy']",
        "request.?bodyy",
        "request[?'bodyy']",
        "has(request.bodyy)",
        "has(request.method.x)",
        "request.method.x",
        "request.query_params.a.b",
        "steps.hotel.result",
        "steps.hotel.request.host",
        "steps['hotel'].response.status",
        "saga.id.x",
        "[1].map(x, request.bodyy)",
        "{'a': request.bodyy}",
        "true ? request.bodyy : 1",
    ] {
        assert!(Expression::compile(source, &compensation()).is_err(), "{source}");
    }
    assert_eq!(refusal("saga.idd"), "`saga.idd`: found `saga.idd`, expected a field of `saga`: id, name",);
}

#[test]
fn a_step_that_does_not_come_before_is_refused() {
    let error = Expression::compile("steps.car.response.body.id", &Scope::transaction(&["hotel"])).unwrap_err();
    assert!(error.to_string().contains("step `car` does not come before, name it in `after`"), "{error}");
    for source in ["steps[request.body.name].response", "size(steps)", "steps", "steps.map(s, s)", "'flight' in steps"]
    {
        assert!(Expression::compile(source, &compensation()).is_err(), "{source}");
    }
    assert!(refusal("steps[request.body.name]").contains("computed"));
    assert!(refusal("request.body.name in steps").contains("computed"));
}

#[test]
fn unknown_variables_and_functions_are_refused() {
    for source in [
        "nothing",
        "nothing.body",
        ".request.method",
        "int",
        "type(1)",
        "lower('a')",
        "'a'.lower()",
        "startsWith('a', 'b')",
        "'a'.startsWith()",
        "size()",
        "size(1, 2)",
        "'a'.string()",
        "optional.some(1)",
        "duration('1s')",
        "timestamp('2020-01-01T00:00:00Z')",
        "dyn(1)",
        "all([1], x, true)",
        "[1].all(x)",
        "[1].has(x)",
        "has(1)",
        "[1].all(1, true)",
        "[1].map(x, y)",
        "[1].map(x, x) == [x]",
        "Message{a: 1}",
        "request{a: 1}",
        "@step",
        "@lower('A')",
        "request.`body`",
    ] {
        assert!(Expression::compile(source, &compensation()).is_err(), "{source}");
    }
    assert!(refusal("request.host.matches('a')").contains("regular expressions are not part of this filter"));
    assert!(refusal("[1].all(x)").contains("`list.all(x, condition)`"));
    assert!(refusal("nothing").contains("what can be read here: request, transaction, steps, saga"));
}

#[test]
fn the_variable_of_a_macro_is_no_unknown_variable() {
    check(
        &compensation(),
        &[
            "[1].all(x, x > 0)",
            "[[1]].exists(x, x.all(y, y > 0 && size(x) == 1))",
            "[1].map(request, request + 1)",
            "request.body.items.filter(i, i.nights > 1).map(i, i.id)",
            "[1].exists_one(x, x == 1) && [1].existsOne(x, x == 1)",
        ],
        &["[1].all(x, x > 0) && x"],
    );
}

#[test]
fn syntax_errors_say_where() {
    let error = Expression::compile("1 +\n + 2 )", &compensation()).unwrap_err();
    assert_eq!(error.offset, Some(5), "{error}");
    for source in ["", "  ", "1 +", "(1", "'a", "a b", "1 ? 2", "{'a' 1}", "[1,,2]", "request..body"] {
        assert!(Expression::compile(source, &compensation()).is_err(), "{source}");
    }
}

#[test]
fn the_end_of_an_expression_is_found_past_braces_and_strings() {
    for (source, expected) in [
        ("${'}'}", "}"),
        ("${\"}\"}x", "}x"),
        ("${'\\'}'}", "'}"),
        ("${'''a'}'''}", "a'}"),
        ("${r'\\'}}", "\\}"),
        ("${string({'a': 1}['a'])}", "1"),
        ("${string({'a': {'}': 1}}['a']['}'])}|${'{'}", "1|{"),
        ("${'a' // }\n}", "a"),
        ("$${a} ${'b'} $${", "${a} b ${"),
        ("$5 $$ $", "$5 $$ $"),
        ("é${'é'}é", "ééé"),
        ("", ""),
    ] {
        assert_eq!(render(source, Place::Text, Json::Null).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn unterminated_and_empty_expressions_in_text_are_refused() {
    for source in ["${", "a ${request.host", "${}", "${ }", "${'}", "${{}", "${1 // }"] {
        assert!(Template::compile(source, Place::Text, &compensation()).is_err(), "{source}");
    }
    let error = Template::compile("ab${1", Place::Text, &compensation()).unwrap_err();
    assert_eq!(error.offset, Some(2));
}

#[test]
fn a_body_reports_every_error_with_its_path() {
    let source = json!({"guest": "${nothing}", "seats": [{"x": "a ${"}, "${request.host}"], "n": 1});
    let error = BodyTemplate::compile(&source, BodyKind::Plain, &compensation()).unwrap_err();
    let mut paths: Vec<&str> = error.errors.iter().map(|(path, _)| path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, [".guest", ".seats[0].x"]);
    let error =
        BodyTemplate::compile(&json!({"a.b": {"\n\u{9b}": ["${"]}}), BodyKind::Plain, &compensation()).unwrap_err();
    assert_eq!(error.errors.first().map(|(path, _)| path.as_str()), Some(r#"["a.b"]["\n "][0]"#));
    let text = BodyTemplate::compile(&json!("${"), BodyKind::Plain, &compensation()).unwrap_err();
    assert_eq!(text.errors.first().map(|(path, _)| path.as_str()), Some(""));
}
