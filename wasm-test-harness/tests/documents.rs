//! The documents say what the code does.

use std::collections::BTreeSet;

use harness::check::configurations;
use harness::envoy::project_root;
use sagabox::coordinator::Counter;
use sagabox::saga::{CallId, CallKind, Envelope, Request};
use serde_json::Value as Json;

fn read(path: &str) -> String {
    std::fs::read_to_string(project_root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands under a heading, up to the next one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let rest = &text[start + heading.len() + 2..];
    rest.find("\n#").map_or(rest, |end| &rest[..end])
}

/// Names in backticks in the first column of the tables of a section.
fn first_column(section: &str) -> BTreeSet<String> {
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn properties(schema: &Json, of: &str) -> BTreeSet<String> {
    let object = if of.is_empty() { schema } else { &schema["$defs"][of] };
    let properties =
        object["properties"].as_object().unwrap_or_else(|| panic!("no properties of {of:?} in the schema"));
    properties.keys().cloned().collect()
}

/// The blocks of a language in a Markdown text.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|block| block.split("\n```").next()).collect()
}

#[test]
fn the_tables_of_fields_are_those_of_the_schema() {
    let readme = read("README.md");
    let schema = sagabox::config::json_schema();
    let tables = [
        ("### Top level", ""),
        ("### Journal", "Etcd"),
        ("### Saga", "Saga"),
        ("### Step", "Step"),
        ("### Call", "Call"),
    ];
    for (heading, name) in tables {
        assert_eq!(first_column(section(&readme, heading)), properties(&schema, name), "{heading}");
    }
    for (heading, name) in
        [("### Top level", "Limits"), ("### Saga", "Match"), ("### Call", "Retry"), ("### Call", "Destination")]
    {
        for property in properties(&schema, name) {
            assert!(section(&readme, heading).contains(&property), "{heading} does not name {property} of {name}");
        }
    }
}

#[test]
fn every_configuration_in_the_documents_loads() {
    let readme = read("README.md");
    let mut texts: Vec<String> = blocks(&readme, "yaml").into_iter().map(str::to_owned).collect();
    assert!(!texts.is_empty());
    texts.push(read("envoy/trip/envoy.yaml"));
    texts.push(read("envoy/trip-etcd/envoy.yaml"));
    texts.push(read("istio/trip.yaml"));
    texts.push(read("istio/trip-etcd.yaml"));
    for text in texts {
        let found = configurations(&text).expect("readable");
        assert!(!found.is_empty(), "no configuration in {text}");
        for one in found {
            one.load().unwrap_or_else(|errors| panic!("{}: {errors}", one.place));
        }
    }
}

#[test]
fn the_example_is_the_same_everywhere() {
    let readme = read("README.md");
    let example = configurations(blocks(&readme, "yaml")[0]).expect("readable").remove(0).json;
    let shipped = configurations(&read("envoy/trip/envoy.yaml")).expect("readable");
    let sagas: Vec<&Json> = shipped.iter().map(|one| &one.json["sagas"]).filter(|sagas| !sagas.is_null()).collect();
    assert_eq!(sagas, [&example["sagas"], &example["sagas"]]);
    let with_etcd = configurations(&read("envoy/trip-etcd/envoy.yaml")).expect("readable");
    assert_eq!(with_etcd[0].json["sagas"], example["sagas"]);
    let in_istio = |path: &str| configurations(&read(path)).expect("readable").remove(0).json["sagas"].clone();
    assert_eq!(in_istio("istio/trip-etcd.yaml"), in_istio("istio/trip.yaml"));
}

#[test]
fn the_two_commands_are_targets_of_make() {
    let readme = read("README.md");
    let commands = blocks(section(&readme, "## Two commands"), "sh")[0];
    let makefile = read("Makefile");
    let targets: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(targets, ["demo", "test"]);
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}: ")), "make has no target {target}");
    }
}

#[test]
fn every_header_of_a_call_and_every_counter_is_in_the_readme() {
    let readme = read("README.md");
    let request = Request {
        cluster: "c".to_owned(),
        authority: "a".to_owned(),
        method: "POST".to_owned(),
        path: "/".to_owned(),
        headers: Vec::new(),
        body: None,
        timeout_ms: 1,
    };
    let envelope = Envelope { saga_id: "id", saga_name: "name", step: "step", epoch: 1, forwarded: &[], depth: 1 };
    let call = envelope.attempt(CallId { step: 0, kind: CallKind::Transaction, attempt: 1 }, &request, 1);
    let sent: BTreeSet<String> =
        call.headers.into_iter().map(|(name, _)| name).filter(|name| !name.starts_with(':')).collect();
    let documented = first_column(section(&readme, "## Headers"));
    let missing: Vec<_> = sent.difference(&documented).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let counters: BTreeSet<String> = Counter::ALL.iter().map(|counter| counter.name().to_owned()).collect();
    assert_eq!(first_column(section(&readme, "## Metrics")), counters);
}
