//! Configurations in both forms, right and wrong.

use harness::envoy::Envoy;
use harness::trip::{CONFIGURATION, Trip};
use serde_json::{Value, json};

use super::assert_alive;

#[tokio::test]
async fn a_configuration_as_a_struct_and_one_as_json_text_book_the_same_trips() {
    let trip = Trip::start().await.unwrap();
    // One listener has the one, the other the other.
    assert_alive(&trip).await;
}

/// The two places of the shipped file: the first has a `Struct`, the second JSON text.
const FORMS: [(&str, &str); 2] = [("trip", "sagabox"), ("trip_gate", "sagabox_gate_first")];

/// The lines about the configuration in the log of an Envoy that refuses to start.
async fn refused(envoy: Envoy) -> Vec<String> {
    let error = envoy.workers(1).start().await.expect_err("a refusal");
    let log = error.log().unwrap_or_else(|| panic!("{error}"));
    let lines = log.lines().filter_map(|line| Some(line.split_once("configuration: ")?.1.to_owned()));
    // The filter is started for the main thread and for each worker, and says so each time.
    let mut lines: Vec<_> = lines.collect();
    lines.dedup();
    lines
}

fn assert_names(lines: &[String], errors: &[&str]) {
    for error in errors {
        assert!(lines.iter().any(|line| line.starts_with(error)), "{error:?} is missing in {lines:#?}");
    }
}

#[tokio::test]
async fn all_errors_of_a_configuration_come_at_once_with_path_value_and_expectation_in_both_forms() {
    let call = json!({"cluster": "hotel", "method": "POST", "path": "/bookings/${request.body.}"});
    let first = json!({"name": "hotel", "after": ["car"], "transaction": call, "color": "red"});
    let second = json!({"name": "flight", "transaction": {"method": "POST", "path": "/x", "per_try_timeout": "0s"}});
    let saga = json!({"name": "Book Trip", "match": {"method": "POST", "path": "trips"}, "deadline": "soon", "steps": [first, second]});
    let configuration = json!({"version": 2, "sagas": [saga], "limits": {"max_sagas": "many"}, "rol": "gate"});
    let errors = [
        "version: found 2, expected ",
        "rol: found an unknown field, expected ",
        "limits.max_sagas: found \"many\", expected ",
        "sagas[0].name: found \"Book Trip\", expected ",
        "sagas[0].match.path: found \"trips\", expected ",
        "sagas[0].deadline: found \"soon\", expected ",
        "sagas[0].steps[0].color: found an unknown field, expected ",
        "sagas[0].steps[0].after[0]: found \"car\", expected ",
        "sagas[0].steps[0].transaction.path: found ",
        "sagas[0].steps[1].transaction: found neither cluster nor destination, expected ",
        "sagas[0].steps[1].transaction.per_try_timeout: found \"0s\", expected ",
    ];
    for (listener, filter) in FORMS {
        let envoy = Envoy::from_file(CONFIGURATION);
        let lines = refused(envoy.plugin_configuration(listener, filter, &configuration.to_string())).await;
        assert_names(&lines, &errors);
        assert_eq!(lines.len(), errors.len(), "each once, and no others: {lines:#?}");
    }
}

#[tokio::test]
async fn what_is_no_configuration_at_all_is_refused() {
    for text in ["{", "", "[]", "version: 1", "{\"version\": 1, \"version\": 1}"] {
        let envoy = Envoy::from_file(CONFIGURATION);
        let lines = refused(envoy.plugin_configuration_text("trip_gate", "sagabox_gate_first", text)).await;
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("expected")), "{text:?}: {lines:?}");
    }
    let errors = ["the configuration: found no bytes, expected ", "version: found nothing, expected 1"];
    for ((listener, filter), error) in FORMS.into_iter().zip(errors) {
        // Of an empty Struct no byte is left.
        let envoy = Envoy::from_file(CONFIGURATION);
        assert_names(&refused(envoy.plugin_configuration(listener, filter, "{}")).await, &[error]);
    }
}

#[tokio::test]
async fn a_filter_without_any_configuration_is_refused() {
    let envoy = Envoy::from_file(CONFIGURATION).edit(|yaml| {
        let manager = &mut yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        let plugin = &mut manager["http_filters"][0]["typed_config"]["config"];
        plugin.as_mapping_mut().unwrap().remove("configuration").unwrap();
    });
    let lines = refused(envoy).await;
    assert!(!lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn a_gate_takes_no_sagas() {
    let text = std::fs::read_to_string(harness::envoy::project_root().join(CONFIGURATION)).unwrap();
    let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    let manager = &yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let shipped = &manager["http_filters"][0]["typed_config"]["config"]["configuration"]["value"];
    let mut configuration: Value = serde_json::to_value(shipped).unwrap();
    configuration["role"] = json!("gate");
    let envoy = Envoy::from_file(CONFIGURATION);
    let lines = refused(envoy.plugin_configuration("trip_gate", "sagabox_gate", &configuration.to_string())).await;
    assert_names(&lines, &["sagas: found "]);
}
