//! Reads configurations out of the files in which users keep them, and prints all that is wrong with them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use sagabox::config::{
    Configuration, ConfigurationError, ConfigurationErrors, from_json, json_schema, load, show_duration,
};
use serde::Deserialize;
use serde_json::Value;
use serde_yaml_ng as yaml;

mod timeouts;

pub use timeouts::Manager;

/// What `check` takes.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A configuration, an Envoy bootstrap or an Istio WasmPlugin, as YAML or JSON.
    pub file: PathBuf,
}

/// One configuration, and where it stands in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Such as `static_resources.listeners[0]...configuration`; empty where the whole file is the configuration.
    pub place: String,
    /// The configuration; null where it is text that is not JSON.
    pub json: Value,
    /// The HTTP connection manager of the instance; none: the file does not tell.
    pub manager: Option<Manager>,
    /// The configuration as the file has it, where that is JSON text: only there can a key stand twice.
    text: Option<String>,
}

impl Found {
    /// Loads the configuration as the filter would.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Configuration, ConfigurationErrors> {
        match &self.text {
            Some(text) => load(text.as_bytes()),
            None => from_json(&self.json),
        }
    }
}

/// Prints, for each configuration in the file, `ok` with a summary or all of its errors.
///
/// # Errors
///
/// When the file cannot be read, has no configuration, or one with errors.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {file}"))?;
    let found = configurations(&text).with_context(|| file.to_string())?;
    warnings_of_the_bootstrap(&text)?.iter().for_each(|warning| println!("warning: {warning}"));
    let mut faulty = 0;
    for found in &found {
        let (report, good) = report(found);
        println!("{report}");
        faulty += usize::from(!good);
    }
    if faulty > 0 {
        bail!("{file}: {faulty} of {} configurations cannot be used", found.len());
    }
    Ok(())
}

/// What `check` prints about one configuration, and whether it can be used.
pub fn report(found: &Found) -> (String, bool) {
    let place = if found.place.is_empty() { String::new() } else { format!("{}: ", found.place) };
    match found.load() {
        Ok(configuration) => {
            let mut lines = vec![format!("{place}ok: {}", summary(&configuration))];
            lines.extend(promises(&configuration).into_iter().map(|promise| format!("{place}{promise}")));
            let (timeouts, more) = timeouts_of(found, &configuration);
            let warnings = configuration.warnings.iter().chain(&more);
            lines.extend(warnings.map(|warning| format!("{place}warning: {warning}")));
            let good = timeouts.is_empty();
            if !good {
                lines = timeouts.iter().map(ConfigurationError::to_string).collect();
            }
            (lines.join("\n"), good)
        }
        Err(errors) => {
            let lines: Vec<_> = errors.0.iter().map(|error| format!("{place}{error}")).collect();
            (lines.join("\n"), false)
        }
    }
}

/// The timeouts of Envoy that are shorter than the sagas of a configuration, and what is to be said of those that the file
/// does not tell.
fn timeouts_of(found: &Found, configuration: &Configuration) -> (Vec<ConfigurationError>, Vec<String>) {
    let Some(manager) = &found.manager else { return (Vec::new(), timeouts::warnings(configuration)) };
    let errors = timeouts::errors(manager, configuration);
    if manager.has_routes() {
        return (errors, Vec::new());
    }
    let warnings = errors.iter().map(|error| format!("{error}, unless the route, which is elsewhere, says otherwise"));
    (Vec::new(), warnings.collect())
}

/// What participants have to keep, and for how long: one line for each that a definition calls.
fn promises(configuration: &Configuration) -> Vec<String> {
    let calls = configuration.definitions.iter().flat_map(|saga| &saga.steps).flat_map(|step| {
        let compensation = step.compensation.as_ref().map(|call| (&call.cluster, step.transaction.key_lifetime));
        [Some((&step.transaction.cluster, step.transaction.key_lifetime)), compensation].into_iter().flatten()
    });
    let mut longest: BTreeMap<&str, Duration> = BTreeMap::new();
    for (cluster, lifetime) in calls {
        let longest = longest.entry(cluster).or_default();
        *longest = lifetime.max(*longest);
    }
    let promise = |(cluster, lifetime): (&str, Duration)| {
        let lifetime = show_duration(lifetime);
        format!(
            "{cluster}: keeps idempotency keys, and that a step was compensated, for {lifetime} after the first attempt"
        )
    };
    longest.into_iter().map(promise).collect()
}

fn summary(configuration: &Configuration) -> String {
    let sagas: Vec<_> = configuration
        .definitions
        .iter()
        .map(|saga| format!("{} ({}, {} steps)", saga.name, saga.matcher, saga.steps.len()))
        .collect();
    match (configuration.role, sagas.is_empty()) {
        (sagabox::config::Role::Gate, _) => "a gate".to_owned(),
        (_, true) => "no sagas".to_owned(),
        (_, false) => sagas.join(", "),
    }
}

/// Prints the JSON Schema of the configuration.
///
/// # Errors
///
/// Never, in fact: a schema can be written as JSON.
pub fn print_schema() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&json_schema())?);
    Ok(())
}

/// Finds every configuration in a file: the file itself, the Wasm filters of an Envoy bootstrap or EnvoyFilter, Istio
/// WasmPlugins; in all documents of a YAML file.
///
/// # Errors
///
/// When the text is neither YAML nor JSON, or has no configuration.
pub fn configurations(text: &str) -> anyhow::Result<Vec<Found>> {
    let documents = documents(text)?;
    let several = documents.len() > 1;
    let mut found = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let start = found.len();
        find(document, "", None, &mut found);
        if found.len() == start && is_configuration(document) {
            // Text in which a key may stand twice; YAML has been refused already if one does.
            let text = (!several && text.trim_start().starts_with('{')).then(|| text.to_owned());
            found.push(Found { place: String::new(), json: document.clone(), manager: None, text });
        }
        if several {
            let in_document =
                |place: &str| format!("document {}: {place}", index + 1).trim_end_matches(": ").to_owned();
            for found in found.iter_mut().skip(start) {
                found.place = in_document(&found.place);
                found.manager.iter_mut().for_each(|manager| manager.place = in_document(&manager.place));
            }
        }
    }
    if found.is_empty() {
        bail!(
            "no Sagabox configuration here: expected a configuration (`version: 1`), an Envoy configuration with a \
             Wasm filter, or an Istio WasmPlugin with `spec.pluginConfig`"
        );
    }
    Ok(found)
}

/// By how much of an answer Envoy keeps.
const RESPONSE_LIMIT: &str = "http.async_response_buffer_limit";

/// What is allowed in an Envoy bootstrap that runs the filter, but probably not meant.
///
/// # Errors
///
/// When the text is neither YAML nor JSON.
pub fn warnings_of_the_bootstrap(text: &str) -> anyhow::Result<Vec<String>> {
    let is_unlimited = |document: &Value| {
        let layers = document.pointer("/layered_runtime/layers").and_then(Value::as_array);
        let limits =
            |layer: &Value| layer.pointer("/static_layer").is_some_and(|layer| layer.get(RESPONSE_LIMIT).is_some());
        document.get("static_resources").is_some() && !layers.is_some_and(|layers| layers.iter().any(limits))
    };
    let warning = || {
        format!(
            "layered_runtime: no static_layer sets {RESPONSE_LIMIT}: Envoy keeps up to 32 MiB of every answer of a \
             participant, whatever limits.max_body says; set it to 8388608, say"
        )
    };
    Ok(documents(text)?.iter().filter(|document| is_unlimited(document)).map(|_| warning()).collect())
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    // YAML forbids the tabs that JSON allows.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(vec![value]);
    }
    let mut documents = Vec::new();
    for document in yaml::Deserializer::from_str(text) {
        let value = yaml::Value::deserialize(document).context("neither YAML nor JSON")?;
        if !value.is_null() {
            documents.push(to_json(value).context("YAML that cannot be said in JSON")?);
        }
    }
    Ok(documents)
}

fn to_json(value: yaml::Value) -> anyhow::Result<Value> {
    Ok(match value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(value) => Value::Bool(value),
        yaml::Value::Number(number) => serde_json::to_value(&number)?,
        yaml::Value::String(text) => Value::String(text),
        yaml::Value::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        yaml::Value::Mapping(entries) => {
            let entry = |(key, value)| match key {
                yaml::Value::String(key) => Ok((key, to_json(value)?)),
                other => bail!("a key that is no string: {other:?}"),
            };
            Value::Object(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
        yaml::Value::Tagged(tagged) => bail!("a tag: {}", tagged.tag),
    })
}

/// Whether a whole document is meant as a configuration: Kubernetes resources and Envoy bootstraps have none of these.
fn is_configuration(document: &Value) -> bool {
    ["version", "sagas", "role"].iter().any(|field| document.get(field).is_some())
        && document.get("apiVersion").is_none()
}

/// Looks for plugins, however deep: listeners, filter chains, patches of an EnvoyFilter and lists of resources nest them.
fn find(value: &Value, place: &str, manager: Option<&Manager>, found: &mut Vec<Found>) {
    match value {
        Value::Object(object) => {
            let is_plugin = object.contains_key("vm_config") || object.contains_key("vmConfig");
            if let (true, Some(any)) = (is_plugin, object.get("configuration")) {
                found.push(of_any(any, &join(place, "configuration"), manager));
                return;
            }
            let is_wasm_plugin = object.get("kind").is_some_and(|kind| kind == "WasmPlugin");
            if let (true, Some(json)) = (is_wasm_plugin, value.pointer("/spec/pluginConfig")) {
                let place = join(place, "spec.pluginConfig");
                found.push(Found { place, json: json.clone(), manager: None, text: None });
                return;
            }
            let own = Manager::is_one(value).then(|| Manager { place: place.to_owned(), json: value.clone() });
            for (key, value) in object {
                find(value, &join(place, key), own.as_ref().or(manager), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find(item, &format!("{place}[{index}]"), manager, found);
            }
        }
        _ => {}
    }
}

/// The `configuration` of a Wasm plugin: a `google.protobuf.Any` that holds a Struct, or a StringValue of JSON text.
fn of_any(any: &Value, place: &str, manager: Option<&Manager>) -> Found {
    let (place, manager) = (join(place, "value"), manager.cloned());
    match any.get("value") {
        Some(Value::String(text)) => {
            let json = serde_json::from_str(text).unwrap_or_default();
            Found { place, json, manager, text: Some(text.clone()) }
        }
        value => Found { place, json: value.cloned().unwrap_or_default(), manager, text: None },
    }
}

fn join(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}
