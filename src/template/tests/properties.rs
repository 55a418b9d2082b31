use proptest::prelude::*;

use super::*;

/// Texts that try to leave their place.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/".to_owned()),
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("%2f".to_owned()),
        Just("%2e".to_owned()),
        Just("\r\n".to_owned()),
        Just("\0".to_owned()),
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just("${saga.id}".to_owned()),
        Just("}".to_owned()),
        Just("?a=b&c#d".to_owned()),
        Just("x-evil: 1".to_owned()),
        Just("é\u{2028}".to_owned()),
        any::<String>(),
    ];
    prop_oneof![
        20 => proptest::collection::vec(piece.clone(), 0..6).prop_map(|pieces| pieces.concat()),
        1 => piece.prop_map(|piece| piece.repeat(65_536 / piece.len().max(1))),
    ]
}

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        proptest::sample::select(vec![0, 1, -1, i64::MIN, i64::MAX]).prop_map(Json::from),
        proptest::sample::select(vec![0.0, -0.0, f64::MAX, f64::MIN_POSITIVE, 9.3e18, -9.3e18]).prop_map(Json::from),
        ".{0,8}".prop_map(Json::from),
        proptest::sample::select(vec!["1", "-9223372036854775808", "1e999", "NaN", "true", ""]).prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|fields| Json::Object(fields.into_iter().collect())),
        ]
    })
}

const OPERATIONS: [&str; 47] = [
    "P + Q",
    "P - Q",
    "P * Q",
    "P / Q",
    "P % Q",
    "-P",
    "!P",
    "P == Q",
    "P != Q",
    "P < Q",
    "P >= Q",
    "P && Q",
    "P || Q",
    "P in Q",
    "P[Q]",
    "P[?Q]",
    "P ? Q : P",
    "size(P)",
    "P.size()",
    "string(P)",
    "int(P)",
    "double(P)",
    "P.startsWith(Q)",
    "P.endsWith(Q)",
    "P.contains(Q)",
    "P.all(x, x == Q)",
    "P.exists(x, x < Q)",
    "P.exists_one(x, x == Q)",
    "P.map(x, x + Q)",
    "P.filter(x, x != Q)",
    "P.map(x, [x, Q])",
    "has(P.a)",
    "P.?a.orValue(Q)",
    "P.a.a",
    "[P, Q, P]",
    "{P: Q}",
    "{string(P): Q, 'k': P}",
    "optional.of(P).or(optional.of(Q)).value()",
    "P.a[Q]",
    "[P][Q]",
    "{'x': P}[Q]",
    "int(double(P) * 1e19)",
    "-(P - 1)",
    "P - 1 - Q",
    "request.headers[P]",
    "Q in request.headers",
    "string(P) + string(Q)",
];

/// An operation over `request.body.p` and `request.body.q`.
fn operation() -> impl Strategy<Value = String> {
    proptest::sample::select(&OPERATIONS[..])
        .prop_map(|operation| operation.replace('P', "request.body.p").replace('Q', "request.body.q"))
}

/// `json` with the whole numbers that are no `int` in CEL as doubles.
fn as_cel_numbers(json: Json) -> Json {
    match json {
        Json::Number(number) if number.is_f64() => json!(number.as_f64()),
        Json::Array(items) => items.into_iter().map(as_cel_numbers).collect(),
        Json::Object(fields) => fields.into_iter().map(|(name, value)| (name, as_cel_numbers(value))).collect(),
        other => other,
    }
}

/// What undoing percent-encoding gives, by code of its own.
fn decoded(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

proptest! {
    #[test]
    fn no_value_leaves_its_segment_of_a_path(value in hostile()) {
        let template = "/a/${request.body}/b?c=${request.body}&d";
        if let Ok(path) = render(template, Place::Path, json!(value)) {
            let (segments, query) = path.split_once('?').unwrap();
            let segments: Vec<&str> = segments.split('/').collect();
            prop_assert_eq!(segments.len(), 4);
            prop_assert_eq!((segments[0], segments[1], segments[3]), ("", "a", "b"));
            prop_assert!(!["", ".", ".."].contains(&segments[2]));
            prop_assert_eq!(decoded(segments[2]), value.as_bytes());
            let pairs: Vec<&str> = query.split('&').collect();
            prop_assert_eq!(pairs.len(), 2);
            prop_assert_eq!(decoded(pairs[0].strip_prefix("c=").unwrap()), value.as_bytes());
            prop_assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
        } else {
            prop_assert!(["", ".", ".."].contains(&value.as_str()) || value.len() > 1_000);
        }
    }

    #[test]
    fn no_value_leaves_its_header(value in hostile()) {
        match render("a ${request.body} b", Place::Header, json!(value)) {
            Ok(header) => {
                prop_assert!(header.bytes().all(|byte| byte >= b' ' && byte != 0x7f));
                prop_assert_eq!(header, format!("a {value} b"));
            }
            Err(_) => prop_assert!(value.chars().any(|c| c.is_ascii_control()) || value.len() > 8_000),
        }
    }

    #[test]
    fn no_value_leaves_its_authority(value in hostile()) {
        if let Ok(authority) = render("${request.body}:80", Place::Authority, json!(value)) {
            prop_assert!(authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)));
        }
    }

    #[test]
    fn no_value_changes_the_structure_of_json(value in hostile()) {
        let source = json!({"one": "${request.body}", "two": ["x ${request.body} y", {"three": "${[request.body]}"}]});
        let template = BodyTemplate::compile(&source, BodyKind::Plain, &compensation()).unwrap();
        let body = template.render(&World::with_body(json!(value)).facts()).unwrap();
        let parsed: Json = serde_json::from_slice(&body.bytes).unwrap();
        prop_assert_eq!(parsed, json!({"one": value, "two": [format!("x {value} y"), {"three": [value]}]}));
    }

    #[test]
    fn evaluating_never_panics_and_gives_the_same_twice(source in operation(), p in json_value(), q in json_value()) {
        let expression = Expression::compile(&source, &compensation()).unwrap_or_else(|error| panic!("{error}"));
        let world = World::with_body(json!({"p": p, "q": q}));
        let first = expression.evaluate_json(&world.facts());
        prop_assert_eq!(expression.evaluate_json(&world.facts()), first.clone());
        let _ = expression.evaluate_text(&world.facts());
        // What is kept of a request is enough to evaluate again.
        let request = expression.reads().project(&["request"], &world.request);
        let kept = World { request, ..world };
        prop_assert_eq!(expression.evaluate_json(&kept.facts()), first);
    }

    #[test]
    fn json_passes_through_cel_unchanged(body in json_value()) {
        let through = value("[request.body][0]", body.clone());
        let direct = value("request.body", body.clone());
        prop_assert_eq!(direct, Ok(body.clone()));
        prop_assert_eq!(through, Ok(as_cel_numbers(body)));
    }

    #[test]
    fn compiling_anything_is_an_error_at_worst(source in "[a-z.?'\"(){}\\[\\]+!$&|/0-9 \\\\\n-]{0,60}") {
        let _ = Expression::compile(&source, &compensation());
        for place in [Place::Path, Place::Header, Place::Authority, Place::Text] {
            let _ = Template::compile(&format!("/${{{source}}}"), place, &compensation());
            let _ = Template::compile(&source, place, &compensation());
        }
    }

    #[test]
    fn compiling_any_text_is_an_error_at_worst(source in any::<String>()) {
        let _ = Expression::compile(&source, &compensation());
        let _ = Template::compile(&source, Place::Text, &compensation());
    }
}
