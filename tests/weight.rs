//! What a body is held to weigh is at least what it takes in memory once it is parsed, and not many times that.
//!
//! In a process of its own: what others allocate would count.

use std::sync::Mutex;

use cap::Cap;
use sagabox::facts::{MAX_VALUES, Weight};
use serde_json::Value as Json;

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// Held by each test: what another allocates meanwhile would count.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Bytes that the allocator gave for what `body` becomes.
fn taken(body: &str) -> usize {
    let before = ALLOCATOR.allocated();
    let parsed: Result<Json, _> = serde_json::from_str(body);
    assert!(parsed.is_ok(), "{parsed:?}");
    ALLOCATOR.allocated() - before
}

fn list(element: &str, count: usize) -> String {
    format!("[{}]", vec![element; count].join(","))
}

fn nested(open: &str, close: &str, levels: usize) -> String {
    format!("{}0{}", open.repeat(levels), close.repeat(levels))
}

fn members(count: usize) -> String {
    let members: Vec<String> = (0..count).map(|number| format!("\"name {number}\":{number}")).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn no_body_weighs_less_than_what_it_becomes() {
    let _alone = ONE_AT_A_TIME.lock();
    let ordinary = r#"{"guest": "Ada Lovelace", "nights": 3, "seat": "12A", "extras": ["sauna", "breakfast"]}"#;
    let bodies = [
        ordinary.to_owned(),
        list(ordinary, 100),
        list(r#"{"":0}"#, 4_000),
        list("[[[[[]]]]]", 3_000),
        list(&nested("{\"\":", "}", 100), 40),
        list(&nested("[", "]", 100), 40),
        list("0", 19_000),
        list("1.5", 19_000),
        list("100000000000000000123", 19_000),
        list("[]", 10_000),
        list("\"a\"", 9_000),
        list("{}", 5_000),
        members(1),
        members(11),
        members(12),
        members(3_000),
        format!("\"{}\"", "a".repeat(300_000)),
        "0".to_owned(),
    ];
    for body in bodies {
        let (weight, taken) = (Weight::exactly_of(body.as_bytes()), taken(&body));
        let begins: String = body.chars().take(40).collect();
        println!("{begins:<40} {:>8} bytes: {:>9} weighed, {taken:>9} taken", body.len(), weight.bytes);
        assert!(!weight.has_too_many_values, "{begins}");
        assert!(weight.bytes >= taken, "{begins}: {} < {taken}", weight.bytes);
        assert!(weight.bytes <= 5 * taken + 2_000, "{begins}: {} for {taken}", weight.bytes);
        let most = Weight::of(body.as_bytes(), usize::MAX);
        assert!(most.bytes >= weight.bytes, "{begins}: at most {}, but {}", most.bytes, weight.bytes);
    }
}

#[test]
fn more_values_than_the_bound_are_too_many_whatever_they_are() {
    let _alone = ONE_AT_A_TIME.lock();
    for (element, each) in [("0", 1), ("[]", 1), (r#"{"":0}"#, 2), ("[[0]]", 3)] {
        let fits = (MAX_VALUES - 1) / each;
        let hidden = format!(r#"{{"a":0,"\u0024serde_json::private::Number":"1","l":{}}}"#, list(element, fits));
        assert!(Weight::of(hidden.as_bytes(), 0).has_too_many_values, "{element}");
        for plenty in [0, usize::MAX] {
            assert!(!Weight::of(list(element, fits).as_bytes(), plenty).has_too_many_values, "{element}");
            assert!(Weight::of(list(element, fits + 1).as_bytes(), plenty).has_too_many_values, "{element}");
        }
    }
}

#[test]
fn what_is_no_json_weighs_as_text_and_as_what_was_parsed_of_it() {
    let _alone = ONE_AT_A_TIME.lock();
    let text = "a".repeat(1_000);
    assert!((1_000..4_000).contains(&Weight::exactly_of(text.as_bytes()).bytes));
    let cut_short = list(r#"{"":0}"#, 1_000).replace("]", "");
    let whole = Weight::exactly_of(list(r#"{"":0}"#, 1_000).as_bytes());
    assert_eq!(Weight::exactly_of(cut_short.as_bytes()).bytes / 1_000, whole.bytes / 1_000);
    assert!(Weight::exactly_of(&[0xff; 1_000]).bytes >= 3_000);
}
