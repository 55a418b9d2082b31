//! Changes to an Envoy configuration that was read from YAML.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};
use serde_yaml_ng::{Mapping, Value};

use crate::loopback::require_loopback;

const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
const STRING: &str = "type.googleapis.com/google.protobuf.StringValue";

/// Lets the kernel choose the ports of the administration and of every listener.
pub fn free_ports(yaml: &mut Value) {
    if let Some(admin) = at(yaml, &["admin"]) {
        free_port(admin);
    }
    for listener in list(at(yaml, &["static_resources", "listeners"])) {
        free_port(listener);
    }
}

fn free_port(holder: &mut Value) {
    if let Some(port) = at(holder, &["address", "socket_address", "port_value"]) {
        *port = 0.into();
    }
}

/// Makes `addresses` the endpoints of `cluster`.
pub fn set_upstreams(yaml: &mut Value, cluster: &str, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let mut endpoints = Vec::new();
    for address in addresses {
        require_loopback(*address)?;
        endpoints.push(format!(
            "{{endpoint: {{address: {{socket_address: {{address: {:?}, port_value: {}}}}}}}}}",
            address.ip().to_string(),
            address.port()
        ));
    }
    let found = named(at(yaml, &["static_resources", "clusters"]), cluster)
        .with_context(|| format!("there is no cluster {cluster:?}"))?;
    let assignment =
        format!("{{cluster_name: {cluster:?}, endpoints: [{{lb_endpoints: [{}]}}]}}", endpoints.join(", "));
    let cluster = found.as_mapping_mut().context("a cluster is a mapping")?;
    cluster.insert("load_assignment".into(), serde_yaml_ng::from_str(&assignment)?);
    Ok(())
}

/// Gives a Wasm filter another configuration, in the form that its present one has.
pub fn set_plugin(yaml: &mut Value, listener: &str, filter: &str, text: &str) -> anyhow::Result<()> {
    let value: Value = serde_yaml_ng::from_str(text).context("the plugin configuration is neither YAML nor JSON")?;
    let plugin = plugin(yaml, listener, filter)?;
    let form = plugin.get("configuration").and_then(|it| it.get("@type")).and_then(Value::as_str).unwrap_or(STRUCT);
    let configuration = match form {
        STRUCT => any(STRUCT, value),
        STRING => any(STRING, serde_json::to_string_pretty(&value)?.into()),
        other => {
            bail!("the configuration of {filter:?} is a {other}, not a Struct or a StringValue")
        }
    };
    plugin.insert("configuration".into(), configuration);
    Ok(())
}

/// Gives a Wasm filter `text` as it stands.
pub fn set_plugin_text(yaml: &mut Value, listener: &str, filter: &str, text: &str) -> anyhow::Result<()> {
    plugin(yaml, listener, filter)?.insert("configuration".into(), any(STRING, text.into()));
    Ok(())
}

fn any(form: &str, value: Value) -> Value {
    Value::Mapping(Mapping::from_iter([("@type".into(), form.into()), ("value".into(), value)]))
}

/// Does any filter of the configuration run a Wasm module from a file?
pub fn has_modules(yaml: &Value) -> bool {
    let mut found = false;
    let mut copy = yaml.clone();
    for_each_module(&mut copy, &mut |_| found = true);
    found
}

/// Makes every filter run the module `path`.
pub fn set_module(yaml: &mut Value, path: &Path) {
    let path = path.display().to_string();
    for_each_module(yaml, &mut |filename| *filename = path.clone().into());
}

fn for_each_module(value: &mut Value, change: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Mapping(mapping) => {
            for (key, inner) in mapping.iter_mut() {
                if key.as_str() == Some("vm_config")
                    && let Some(filename) = at(inner, &["code", "local", "filename"])
                {
                    change(filename);
                } else {
                    for_each_module(inner, change);
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| for_each_module(item, change)),
        _ => {}
    }
}

/// The `config` of a Wasm filter.
fn plugin<'a>(yaml: &'a mut Value, listener: &str, filter: &str) -> anyhow::Result<&'a mut Mapping> {
    let listener_value = named(at(yaml, &["static_resources", "listeners"]), listener)
        .with_context(|| format!("there is no listener {listener:?}"))?;
    for chain in list(at(listener_value, &["filter_chains"])) {
        for network_filter in list(at(chain, &["filters"])) {
            if let Some(found) = named(at(network_filter, &["typed_config", "http_filters"]), filter) {
                return at(found, &["typed_config", "config"])
                    .and_then(Value::as_mapping_mut)
                    .with_context(|| format!("the filter {filter:?} is no Wasm filter"));
            }
        }
    }
    bail!("the listener {listener:?} has no filter {filter:?}")
}

fn at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |inner, key| inner.get_mut(*key))
}

fn list(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value.and_then(Value::as_sequence_mut).into_iter().flatten()
}

fn named<'a>(values: Option<&'a mut Value>, name: &str) -> Option<&'a mut Value> {
    list(values).find(|value| value.get("name").and_then(Value::as_str) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_FORMS: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: a
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - typed_config:
          http_filters:
          - name: as_struct
            typed_config:
              config:
                vm_config: {code: {local: {filename: some.wasm}}}
                configuration: {"@type": type.googleapis.com/google.protobuf.Struct, value: {version: 1}}
          - name: as_text
            typed_config:
              config:
                configuration: {"@type": type.googleapis.com/google.protobuf.StringValue, value: "{}"}
  clusters:
  - name: hotel
    load_assignment: {cluster_name: hotel, endpoints: [{}, {}]}
"#;

    fn two_forms() -> Value {
        serde_yaml_ng::from_str(TWO_FORMS).unwrap()
    }

    #[test]
    fn a_plugin_configuration_keeps_its_form() {
        let mut yaml = two_forms();
        set_plugin(&mut yaml, "a", "as_struct", "{version: 2}").unwrap();
        set_plugin(&mut yaml, "a", "as_text", r#"{"version": 2}"#).unwrap();
        let structured = plugin(&mut yaml, "a", "as_struct").unwrap();
        assert_eq!(structured["configuration"]["value"]["version"], Value::from(2));
        let text = plugin(&mut yaml, "a", "as_text").unwrap()["configuration"]["value"].as_str().unwrap().to_owned();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), serde_json::json!({"version": 2}));
    }

    #[test]
    fn text_that_is_no_json_reaches_the_filter_as_it_stands() {
        let mut yaml = two_forms();
        set_plugin_text(&mut yaml, "a", "as_struct", "{").unwrap();
        assert_eq!(plugin(&mut yaml, "a", "as_struct").unwrap()["configuration"]["value"].as_str(), Some("{"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let mut yaml = two_forms();
        let hotel = "127.0.0.1:1".parse().unwrap();
        let no_cluster = set_upstreams(&mut yaml, "motel", &[hotel]).unwrap_err().to_string();
        assert_eq!(no_cluster, r#"there is no cluster "motel""#);
        let no_filter = set_plugin(&mut yaml, "a", "c", "{}").unwrap_err().to_string();
        assert_eq!(no_filter, r#"the listener "a" has no filter "c""#);
        assert_eq!(set_plugin(&mut yaml, "b", "c", "{}").unwrap_err().to_string(), r#"there is no listener "b""#);
    }

    #[test]
    fn ports_upstreams_and_modules_are_replaced() {
        let mut yaml = two_forms();
        free_ports(&mut yaml);
        set_upstreams(&mut yaml, "hotel", &["127.0.0.1:4711", "127.0.0.1:4712"].map(|it| it.parse().unwrap())).unwrap();
        assert!(has_modules(&yaml));
        set_module(&mut yaml, Path::new("/x/y.wasm"));
        let text = serde_yaml_ng::to_string(&yaml).unwrap();
        for gone in ["9901", "10000", "some.wasm"] {
            assert!(!text.contains(gone), "{text}");
        }
        for there in ["4711", "4712", "/x/y.wasm"] {
            assert!(text.contains(there), "{text}");
        }
    }

    #[test]
    fn an_upstream_elsewhere_is_refused() {
        let elsewhere = "192.0.2.1:80".parse().unwrap();
        let refusal = set_upstreams(&mut two_forms(), "hotel", &[elsewhere]).unwrap_err().to_string();
        assert!(refusal.contains("192.0.2.1"), "{refusal}");
    }
}
