//! Configurations as users keep them: found in their files, checked, drawn, and held together with their schema.

use harness::check::{Found, configurations, report};
use harness::draw::{Format, draw};
use serde_json::{Value, json};

#[path = "configuration/timeouts.rs"]
mod timeouts;

/// The example of the documentation, word for word.
const EXAMPLE: &str = include_str!("configuration/example.yaml");

fn indented(text: &str, spaces: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(spaces))).collect()
}

fn only(text: &str) -> Found {
    let mut found = configurations(text).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn example() -> Value {
    only(EXAMPLE).json
}

/// An Envoy bootstrap with one Wasm filter, whose configuration is this `Any`.
fn bootstrap(any: &str) -> String {
    let any = indented(any, 18);
    format!(
        r#"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: main
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          http_filters:
          - name: sagabox
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                vm_config: {{runtime: envoy.wasm.runtime.v8, code: {{local: {{filename: sagabox.wasm}}}}}}
                configuration:
{any}          - name: envoy.filters.http.router
"#
    )
}

const PLACE: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0]\
                     .typed_config.config.configuration.value";

#[test]
fn a_bootstrap_in_which_envoy_keeps_large_answers_is_warned_of_and_those_that_ship_are_not() {
    let warnings = harness::check::warnings_of_the_bootstrap(&bootstrap("\"@type\": x\nvalue: {version: 1}")).unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("http.async_response_buffer_limit"), "{warnings:?}");
    for file in ["trip", "trip-etcd"] {
        let path = harness::envoy::project_root().join("envoy").join(file).join("envoy.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(harness::check::warnings_of_the_bootstrap(&text).unwrap(), Vec::<String>::new(), "{file}");
    }
    assert_eq!(harness::check::warnings_of_the_bootstrap(EXAMPLE).unwrap(), Vec::<String>::new(), "no bootstrap");
}

#[test]
fn the_example_of_the_documentation_loads_word_for_word() {
    let found = only(EXAMPLE);
    let configuration = found.load().unwrap();
    assert_eq!(configuration.definitions[0].steps.len(), 3);
    let (report, good) = report(&found);
    assert!(good);
    let keeps = "keeps idempotency keys, and that a step was compensated, for 24h after the first attempt";
    let participants = ["car", "flight", "hotel"].map(|participant| format!("{participant}: {keeps}"));
    assert_eq!(report, format!("ok: book-trip (POST /trips, 3 steps)\n{}", participants.join("\n")));
}

#[test]
fn a_configuration_is_found_in_a_bootstrap_as_struct_and_as_text() {
    let structure = format!("\"@type\": type.googleapis.com/google.protobuf.Struct\nvalue:\n{}", indented(EXAMPLE, 2));
    let found = only(&bootstrap(&structure));
    assert_eq!((found.place.as_str(), &found.json), (PLACE, &example()));

    let text = indented(&serde_json::to_string_pretty(&example()).unwrap(), 2);
    let string = format!("\"@type\": type.googleapis.com/google.protobuf.StringValue\nvalue: |\n{text}");
    let found = only(&bootstrap(&string));
    assert_eq!((found.place.as_str(), &found.json), (PLACE, &example()));
    assert!(found.load().is_ok());
}

#[test]
fn a_bootstrap_may_be_json() {
    let any = "\"@type\": type.googleapis.com/google.protobuf.Struct\nvalue: {version: 1}";
    let yaml: Value = serde_yaml_ng::from_str(&bootstrap(any)).unwrap();
    let found = only(&serde_json::to_string_pretty(&yaml).unwrap().replace("  ", "\t"));
    assert_eq!((found.place.as_str(), found.json), (PLACE, json!({"version": 1})));
}

#[test]
fn configurations_are_found_in_all_documents_of_a_file() {
    let plugin = format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: sagabox}}\nspec:\n  \
         pluginConfig:\n{}",
        indented(EXAMPLE, 4)
    );
    let gate = "kind: WasmPlugin\nspec: {pluginConfig: {version: 1, role: gate, sagas: [{}]}}\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: hotel}\n";
    let found = configurations(&format!("{plugin}---\n{service}---\n{gate}")).unwrap();
    let places: Vec<_> = found.iter().map(|found| found.place.as_str()).collect();
    assert_eq!(places, ["document 1: spec.pluginConfig", "document 3: spec.pluginConfig"]);
    assert!(report(&found[0]).1);
    let (lines, good) = report(&found[1]);
    assert!(!good);
    assert!(lines.lines().count() > 1);
    assert!(lines.lines().all(|line| line.starts_with("document 3: spec.pluginConfig: ")), "{lines}");
}

#[test]
fn what_only_the_text_of_a_configuration_tells_is_checked_too() {
    for text in ["{\"version\": 1, \"version\": 1}", "{\"version\": 1,}"] {
        let any = format!("\"@type\": type.googleapis.com/google.protobuf.StringValue\nvalue: '{text}'");
        assert!(!report(&only(&bootstrap(&any))).1, "{text}");
    }
    assert!(report(&only("{\"version\": 1, \"version\": 1}")).0.contains("given twice"));
    assert!(configurations("version: 1\nversion: 1\n").is_err());
}

#[test]
fn a_file_without_a_configuration_is_told_apart_from_one_with_errors() {
    for text in ["", "kind: Service\n", "just text", "[]", "apiVersion: v1\nversion: 1"] {
        let error = configurations(text).unwrap_err().to_string();
        assert!(error.contains("no Sagabox configuration"), "{text}: {error}");
    }
    let error = configurations("a: [").unwrap_err();
    assert!(error.to_string().contains("neither YAML nor JSON"), "{error:#}");
    assert!(!report(&only("sagas: 5")).1);
}

#[test]
fn the_command_fails_where_a_configuration_does() {
    let directory = tempfile::tempdir().unwrap();
    let run = |text: &str| {
        let file = directory.path().join("configuration.yaml");
        std::fs::write(&file, text).unwrap();
        harness::check::run(harness::check::Arguments { file })
    };
    assert!(run(EXAMPLE).is_ok());
    let error = run("version: 2").unwrap_err().to_string();
    assert!(error.ends_with("1 of 1 configurations cannot be used"), "{error}");
}

#[test]
fn the_schema_in_the_repository_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../config.schema.json");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(
        kept == sagabox::config::json_schema(),
        "config.schema.json is out of date: run `make schema` \
         (cargo run -p wasm-test-harness -- schema > config.schema.json)"
    );
}

#[test]
fn the_schema_accepts_the_example_and_refuses_what_editors_can_tell() {
    let schema = jsonschema::validator_for(&sagabox::config::json_schema()).unwrap();
    assert!(schema.is_valid(&example()), "{:?}", schema.iter_errors(&example()).collect::<Vec<_>>());
    let changes = [
        ("/version", json!(2)),
        ("/journal", json!({"etcd": {"prefix": "sagabox"}})),
        ("/journal", json!({"redis": {}})),
        ("/journal", json!({"etcd": {"cluster": "etcd", "recovery": "wait"}})),
        ("/sagas/0/name", json!("A")),
        ("/sagas/0/wait", json!("1s")),
        ("/sagas/0/deadline", json!("10")),
        ("/sagas/0/deadline", json!("")),
        ("/sagas/0/steps", json!([])),
        ("/sagas/0/match", json!({"method": "POST"})),
        ("/sagas/0/match/path_prefix", json!("/")),
        ("/sagas/0/steps/0/compensation", json!("nested")),
        ("/sagas/0/steps/0/transaction/method", json!("post")),
        ("/sagas/0/steps/0/transaction/destination", json!({"host": "a.b", "port": 80})),
        ("/sagas/0/reply/completed/status", json!(199)),
    ];
    for (pointer, value) in changes {
        let mut configuration = example();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        configuration.pointer_mut(parent).unwrap()[key] = value;
        assert!(!schema.is_valid(&configuration), "{pointer}");
        assert!(sagabox::config::from_json(&configuration).is_err(), "{pointer}");
    }
    for duration in ["250ms", "0.25s", "2s", "1m30s"] {
        let mut configuration = example();
        configuration["sagas"][0]["deadline"] = json!(duration);
        configuration["limits"] = json!({"max_bytes": "64MiB", "max_body": 1024});
        assert!(schema.is_valid(&configuration), "{duration}");
    }
}

#[test]
fn the_example_is_drawn_as_text() {
    let expected = "\
book-trip: POST /trips, deadline 10s
   1 ┌ hotel   POST hotel /bookings
     │         undo DELETE hotel /bookings/${transaction.response.body.id}
     └ flight  POST flight /bookings
               undo DELETE flight /bookings/by-key/${transaction.idempotency_key}
   2   car     POST car /bookings
               when has(request.body.car)
               after hotel, flight
               undo DELETE car /bookings/${transaction.response.body.id}
  => completed 201, or compensated 409
";
    assert_eq!(draw(&only(EXAMPLE), Format::Text).unwrap(), expected);
}

#[test]
fn the_example_is_drawn_for_mermaid() {
    let drawing = draw(&only(EXAMPLE), Format::Mermaid).unwrap();
    for line in [
        "flowchart LR",
        "  step0[\"hotel<br/>POST hotel /bookings\"]",
        "  step2{{\"car<br/>POST car /bookings<br/>when has(request.body.car)\"}}",
        "  undo1[/\"undo flight<br/>DELETE flight /bookings/by-key/${transaction.idempotency_key}\"/]",
        "  begin --> step0",
        "  step0 --> step2",
        "  step1 --> step2",
        "  step2 --> completed",
        "  step2 -. undo .-> undo2",
        "  undo2 -.-> compensated",
    ] {
        assert!(drawing.lines().any(|drawn| drawn == line), "{line}\n{drawing}");
    }
    assert!(!drawing.contains("begin --> step2"));
}

#[test]
fn what_would_end_a_label_is_escaped_for_mermaid() {
    let mut configuration = example();
    configuration["sagas"][0]["steps"][2]["when"] = json!("request.body.car == \"<b>\"");
    let drawing = draw(&only(&configuration.to_string()), Format::Mermaid).unwrap();
    assert!(drawing.contains("when request.body.car == #34;#60;b#62;#34;\"}}"), "{drawing}");
}

#[test]
fn a_configuration_with_errors_is_not_drawn() {
    let error = draw(&only("version: 2"), Format::Text).unwrap_err().to_string();
    assert_eq!(error, "version: found 2, expected 1");
}
