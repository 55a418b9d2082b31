//! Nothing that is configured or sent can exhaust the stack or the time of a worker.

use super::*;

/// Half of what a Wasm module has by default.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(test).unwrap();
    thread.join().unwrap();
}

/// Sources that grow with `n` in each way that a source can.
fn growing(n: usize) -> Vec<String> {
    vec![
        format!("{}1{}", "(".repeat(n), ")".repeat(n)),
        format!("{}1{}", "[".repeat(n), "]".repeat(n)),
        format!("{}1{}", "{'a':".repeat(n), "}".repeat(n)),
        format!("{}1{}", "size(".repeat(n), ")".repeat(n)),
        format!("request.body{}", ".a".repeat(n)),
        format!("request.body{}", "[0]".repeat(n)),
        format!("request.body{}", "['a']".repeat(n)),
        format!("request.body{}", ".?a".repeat(n)),
        format!("1{}", " + 1".repeat(n)),
        format!("true{}", " && true".repeat(n)),
        format!("{}true", "!-".repeat(n)),
        format!("{}1", "true ? 1 : ".repeat(n)),
        format!("{}1{}", "true ? ".repeat(n), " : 1".repeat(n)),
        format!("[1]{}", ".map(x, x)".repeat(n)),
        format!("{}1{}", "[1].map(x, ".repeat(n), ")".repeat(n)),
        format!("'a'{}", ".contains('a')".repeat(n)),
        format!("[1].map(x, {}x{})", "[".repeat(n), "]".repeat(n)),
        format!("[1].map(x, {}x{})", "{'a': x + ".repeat(n), "}".repeat(n)),
        format!("[1].map(x, {}x{})", "x + (".repeat(n), ")".repeat(n)),
        format!("[1].map(x, x{})", " + x".repeat(n)),
        format!("{}[x]{}", "[[1]].map(x, x + ".repeat(n), ")".repeat(n)),
        format!("[1{}]", ", 1".repeat(n)),
        format!("'{}'", "a".repeat(n)),
    ]
}

#[test]
fn sources_of_any_size_give_an_error_or_a_value_on_a_small_stack() {
    on_a_small_stack(|| {
        let world = World::with_body(json!({"a": {"a": [[1]]}}));
        let mut compiled = 0;
        for n in [1, 2, 8, 15, 16, 20, 30, 31, 32, 33, 60, 64, 100, 250, 256, 1_000, 10_000] {
            for source in growing(n) {
                if let Ok(expression) = Expression::compile(&source, &compensation()) {
                    compiled += 1;
                    let copy = expression.clone();
                    assert_eq!(copy.evaluate_json(&world.facts()), expression.evaluate_json(&world.facts()));
                }
            }
        }
        assert!(compiled > 100, "{compiled}");
    });
}

#[test]
fn sources_past_the_limits_are_refused() {
    for source in growing(10_000) {
        assert!(Expression::compile(&source, &compensation()).is_err());
    }
    for (source, message) in [
        (format!("{}1{}", "(".repeat(33), ")".repeat(33)), "33 brackets inside brackets, expected at most 32"),
        (format!("1{}", " + 1".repeat(257)), "257 operators, expected at most 256"),
        (format!("1{}", " + 1".repeat(64)), "more than 64 levels of nesting"),
        ("a".repeat(8193), "8193 bytes, expected at most 8192"),
    ] {
        let error = Expression::compile(&source, &compensation()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    for source in [format!("{}1{}", "(".repeat(32), ")".repeat(32)), format!("1{}", " + 1".repeat(62))] {
        assert!(Expression::compile(&source, &compensation()).is_ok());
    }
    // What is in a string does not count.
    assert!(Expression::compile(&format!("'{}'", "(".repeat(1000)), &compensation()).is_ok());
}

#[test]
fn the_deepest_json_that_parses_can_be_evaluated_on_a_small_stack() {
    on_a_small_stack(|| {
        for text in [
            format!("{}{}", "[".repeat(127), "]".repeat(127)),
            format!("{}1{}", "{\"a\":".repeat(127), "}".repeat(127)),
        ] {
            let body: Json = serde_json::from_str(&text).unwrap();
            let deep = "[[[[[[[[[[[[[[[[[[[[request.body]]]]]]]]]]]]]]]]]]]]";
            for source in [deep, "request.body == request.body", "[1].map(x, request.body)", "size(request.body) + 0"] {
                value(source, body.clone()).unwrap();
            }
        }
    });
}

#[test]
fn macros_over_much_data_are_cut_off() {
    let items = |count: usize| json!({"items": vec![json!({"n": 1}); count], "text": "x".repeat(100_000)});
    for source in [
        "request.body.items.all(a, request.body.items.all(b, a.n == b.n))",
        "request.body.items.exists(a, request.body.items.exists(b, a.n != b.n))",
        "request.body.items.map(a, request.body.items.filter(b, a.n != b.n))",
        "request.body.items.exists_one(a, request.body.items.exists_one(b, a.n != b.n))",
        "request.body.items.map(a, request.body.text)",
        "request.body.items.map(a, request.body)",
    ] {
        assert!(reason(source, items(5_000)).contains("more than 10000 steps"), "{source}");
        assert!(value(source, items(10)).is_ok(), "{source}");
    }
    for (count, fits) in [(10_000, true), (10_001, false)] {
        for source in ["request.body.items.all(a, a.n == 1)", "size(request.body.items.map(a, a.n)) > 0"] {
            assert_eq!(value(source, items(count)).is_ok(), fits, "{source} of {count}");
        }
    }
}

#[test]
fn macros_that_make_values_grow_are_cut_off() {
    let grown = |seed: &str, step: &str| format!("{seed}{}", step.repeat(30));
    for source in [
        grown("[request.body.text]", ".map(x, x + x)"),
        grown("['a']", ".map(x, x + x)"),
        grown("[request.body.text]", ".map(x, [x, x])"),
        grown("[request.body.text]", ".map(x, {'a': x, 'b': x})"),
        grown("[request.body.text]", ".map(x, true, x + '' + x)"),
        grown("[request.body.text]", ".map(x, [optional.of(x), optional.of(x)])"),
        grown("[b'a']", ".map(x, x + x)"),
        grown("[[1]]", ".map(x, x + x)"),
        format!("[request.body.text].all(x, {}true{})", "[x + x].all(x, ".repeat(15), ")".repeat(15)),
        "request.body.items.map(x, request.body.items.map(y, x + y))".to_owned(),
        format!("[request.body.text].map(x, x{}).map(x, x{})", " + x".repeat(50), " + x".repeat(50)),
        format!("[request.body.text].map(x, [x{}]).map(x, [x{}])", ", x".repeat(500), ", x".repeat(500)),
    ] {
        let body = json!({"text": "t".repeat(60_000), "items": vec!["t".repeat(10_000); 90]});
        match value(&source, body) {
            Err(error) => assert!(error.reason.contains("or copy too much"), "{source}: {error}"),
            Ok(value) => panic!("{source} gives {} bytes", value.to_string().len()),
        }
    }
}

#[test]
fn macros_go_through_all_of_a_large_body_several_times() {
    let items = vec![json!({"id": "x".repeat(400), "n": 2, "tags": ["a", "b"]}); 2_000];
    for source in [
        "size(request.body.filter(i, i.n > 1).map(i, {'id': i.id, 'n': i.n + 1, 'tags': i.tags + ['c']})) == 2000",
        "size(request.body.map(i, i).filter(i, true).map(i, [i]).map(i, i[0]).filter(i, i.n == 2)) == 2000",
        "request.body.map(i, 'item ' + i.id).all(text, text.startsWith('item x'))",
    ] {
        assert_eq!(value(source, Json::from(items.clone())), Ok(json!(true)), "{source}");
    }
}

#[test]
fn reasons_are_one_short_line() {
    let long = "x\r\n".repeat(100_000);
    for source in ["int(request.body)", "request.body + 1", "{}[request.body]", "request.body < 1", "-request.body"] {
        let error = value(source, json!(long)).unwrap_err();
        assert!(error.to_string().chars().count() < 500, "{source}");
        assert!(!error.to_string().chars().any(char::is_control), "{source}");
    }
}
