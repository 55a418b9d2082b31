use super::*;

fn reads(source: &str) -> Vec<String> {
    let expression = Expression::compile(source, &compensation()).unwrap_or_else(|error| panic!("{error}"));
    expression.reads().paths().map(|path| path.join("/")).collect()
}

#[test]
fn the_paths_of_an_expression_are_known() {
    for (source, expected) in [
        ("request.body.a.b == request.body['c']['d e']", &["request/body/a/b", "request/body/c/d e"][..]),
        ("has(request.body.car)", &["request/body/car"]),
        ("request.headers['X-User'] + request.headers.HOST", &["request/headers/host", "request/headers/x-user"]),
        ("request.headers[?'X'].orValue(request.body.?a.b.orValue('x'))", &["request/body/a/b", "request/headers/x"]),
        ("request.headers[request.body.name]", &["request/body/name", "request/headers"]),
        ("'X-User' in request.headers", &["request/headers"]),
        ("request.body.items[0].id", &["request/body/items"]),
        ("request.body.items.map(i, i.id + request.host)", &["request/body/items", "request/host"]),
        ("[1].map(request, request.body)", &[]),
        ("size(request) > 0", &["request"]),
        ("steps.?car.response.body.id.orValue(1)", &["steps/car/response/body/id"]),
        ("'car' in steps", &["steps/car"]),
        ("1 + 1", &[]),
    ] {
        assert_eq!(reads(source), expected, "{source}");
    }
}

#[test]
fn templates_and_bodies_read_what_their_expressions_read() {
    let template = Template::compile("/a/${request.body.a}?b=${request.host}", Place::Path, &compensation()).unwrap();
    assert_eq!(template.reads().paths().count(), 2);
    let source = json!({"a": "${request.body.a}", "b": ["x${saga.id}", 1]});
    let body = BodyTemplate::compile(&source, BodyKind::Plain, &compensation()).unwrap();
    let mut all = template.reads().clone();
    all.extend(body.reads());
    let paths: Vec<String> = all.paths().map(|path| path.join("/")).collect();
    assert_eq!(paths, ["request/body/a", "request/host", "saga/id"]);
}

#[test]
fn whether_something_is_read_is_asked_at_below_and_above() {
    let expression = Expression::compile("transaction.response.body.id", &compensation()).unwrap();
    for prefix in [&["transaction"][..], &["transaction", "response"], &["transaction", "response", "body", "id", "x"]]
    {
        assert!(expression.reads().any_under(prefix), "{prefix:?}");
    }
    for prefix in [&["request"][..], &["transaction", "request"], &["transaction", "response", "body", "ids"]] {
        assert!(!expression.reads().any_under(prefix), "{prefix:?}");
    }
}

#[test]
fn a_projection_keeps_what_is_read_and_nothing_else() {
    let sources = "[request.body.a.b, request.body.l[0].x, request.headers['X'], has(request.body.gone)]";
    let expression = Expression::compile(sources, &compensation()).unwrap();
    let request = json!({
        "method": "POST",
        "headers": {"x": "1", "y": "2"},
        "body": {"a": {"b": {"all": [1]}, "c": 1}, "l": [{"x": 1, "y": 2}], "secret": "s"},
    });
    let kept = expression.reads().project(&["request"], &request);
    let body = json!({"a": {"b": {"all": [1]}}, "l": [{"x": 1, "y": 2}]});
    assert_eq!(kept, json!({"headers": {"x": "1"}, "body": body}));
    assert_eq!(expression.reads().project(&["request", "body"], &request["body"]), body);
    assert_eq!(expression.reads().project(&["request", "body", "a", "b", "all"], &json!([1])), json!([1]));
    assert_eq!(expression.reads().project(&["saga"], &json!({"id": 1})), json!({}));
    assert_eq!(expression.reads().project(&["request", "body"], &json!("text")), json!("text"));
    let world = World { request: kept, ..World::with_body(json!({})) };
    let full = World { request, ..World::with_body(json!({})) };
    assert_eq!(expression.evaluate_json(&world.facts()), expression.evaluate_json(&full.facts()));
}
