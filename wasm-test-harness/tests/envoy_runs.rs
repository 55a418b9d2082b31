//! The runner of Envoys, the script that finds one, and the client that reaches loopback only.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use harness::envoy::{Envoy, StartError, project_root};
use harness::loopback::{self, Client, Outgoing};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue};

#[path = "envoy_runs/find_envoy.rs"]
mod find_envoy;
#[path = "envoy_runs/loopback.rs"]
mod on_loopback;
#[path = "support/stand_ins.rs"]
mod stand_ins;

const ANSWERS_204: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: plain
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: plain
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 204}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

#[tokio::test]
async fn two_envoys_with_the_same_fixed_ports_run_side_by_side() {
    let (one, other) = tokio::join!(
        Envoy::from_yaml(ANSWERS_204).workers(1).start(),
        Envoy::from_yaml(ANSWERS_204).workers(2).start()
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one.listener("plain"), other.listener("plain"));
    assert_ne!(one.admin(), other.admin());
    assert_ne!(one.pid(), other.pid());
    for envoy in [&one, &other] {
        for client in [Client::http1(), Client::http2()] {
            let answer = client.get(&format!("http://{}/", envoy.listener("plain"))).await.unwrap();
            assert_eq!(answer.status, 204);
        }
        let stats = envoy.stats(r"^http\.plain\.downstream_rq_2xx$").await.unwrap();
        assert_eq!(stats.into_iter().collect::<Vec<_>>(), [("http.plain.downstream_rq_2xx".to_owned(), 2)]);
        assert!(envoy.log().contains("starting main dispatch loop"), "{}", envoy.log());
    }
    assert_eq!(one.stats("^server.concurrency$").await.unwrap()["server.concurrency"], 1);
    assert_eq!(other.stats("^server.concurrency$").await.unwrap()["server.concurrency"], 2);
}

#[tokio::test]
async fn an_envoy_can_be_asked_to_end_or_killed_and_ends_with_its_handle() {
    let asked = Envoy::from_yaml(ANSWERS_204).workers(1).start().await.unwrap();
    assert!(asked.terminate().await.unwrap().success());
    assert!(!asked.is_running());

    let killed = Envoy::from_yaml(ANSWERS_204).workers(1).start().await.unwrap();
    killed.kill9();
    assert!(!killed.is_running());
    assert!(loopback::connect(killed.listener("plain")).await.is_err());

    let dropped = Envoy::from_yaml(ANSWERS_204).workers(1).start().await.unwrap();
    let listener = dropped.listener("plain");
    drop(dropped);
    assert!(loopback::connect(listener).await.is_err());
}

#[tokio::test]
async fn a_frozen_envoy_answers_nothing_until_it_is_thawed() {
    let envoy = Envoy::from_yaml(ANSWERS_204).workers(1).start().await.unwrap();
    let url = format!("http://{}/", envoy.listener("plain"));
    envoy.freeze().unwrap();
    assert!(Client::http1().timeout(Duration::from_millis(300)).get(&url).await.is_err());
    envoy.thaw();
    assert_eq!(Client::http1().get(&url).await.unwrap().status, 204);
}

#[tokio::test]
async fn a_configuration_that_envoy_refuses_comes_back_with_its_log() {
    let refused = Envoy::from_yaml(ANSWERS_204)
        .edit(|yaml| yaml["static_resources"]["listeners"][0]["no_such_field"] = 1.into())
        .start()
        .await
        .unwrap_err();
    let StartError::Refused(refused) = refused else { panic!("{refused}") };
    assert!(refused.log.contains("no_such_field"), "{}", refused.log);
}

#[tokio::test]
async fn what_the_configuration_does_not_have_cannot_be_changed() {
    let error = Envoy::from_yaml(ANSWERS_204).plugin_configuration("plain", "sagabox", "{}").start().await.unwrap_err();
    assert!(matches!(error, StartError::Configuration(_)), "{error}");
}

/// The smallest module that Envoy takes for a filter: it has memory, says which ABI it speaks, and hooks into nothing.
fn module_that_does_nothing() -> Vec<u8> {
    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id, u8::try_from(content.len()).unwrap()], content].concat()
    }
    fn export(name: &str, kind: u8, index: u8) -> Vec<u8> {
        [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), &[kind, index]].concat()
    }
    let exports = [
        vec![3],
        export("memory", 2, 0),
        export("proxy_abi_version_0_2_1", 0, 0),
        export("proxy_on_memory_allocate", 0, 1),
    ];
    [
        b"\0asm\x01\0\0\0".to_vec(),
        // The types () -> () and (i32) -> i32, a function of each, one page of memory.
        section(1, &[2, 0x60, 0, 0, 0x60, 1, 0x7f, 1, 0x7f]),
        section(3, &[2, 0, 1]),
        section(5, &[1, 0, 1]),
        section(7, &exports.concat()),
        // The first function does nothing, the second returns 1024: whatever is handed over is put there.
        section(10, &[2, 2, 0, 0x0b, 5, 0, 0x41, 0x80, 0x08, 0x0b]),
    ]
    .concat()
}

#[tokio::test]
async fn envoy_accepts_the_shipped_configuration_and_passes_what_is_no_saga_with_trailers() {
    let directory = tempfile::tempdir().unwrap();
    let module = directory.path().join("nothing.wasm");
    fs::write(&module, module_that_does_nothing()).unwrap();
    let application = on_loopback::application().await;
    let envoy = Envoy::from_file("envoy/trip/envoy.yaml")
        .wasm(&module)
        .workers(1)
        .upstream("application", application.address)
        .start()
        .await
        .unwrap();

    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("42"))]);
    for listener in ["trip", "trip_gate"] {
        for client in [Client::http1(), Client::http2()] {
            let pieces = futures::stream::iter(["a", "b", "c"].map(Bytes::from));
            let url = format!("http://{}/echo", envoy.listener(listener));
            let body = Outgoing::stream(pieces, trailers.clone());
            let mut request = loopback::request(Method::POST, &url, &[("te", "trailers")], body).unwrap();
            loopback::announce(request.headers_mut(), &trailers);
            let answer = client.send(request).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "abc"), "{listener}");
            assert_eq!(answer.trailers.get("x-sum").unwrap(), "42", "{listener}");
        }
    }
}

#[test]
fn both_listeners_of_the_shipped_configuration_run_the_same_sagas() {
    let text = fs::read_to_string(project_root().join("envoy/trip/envoy.yaml")).unwrap();
    let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    let plugin = |listener: usize| {
        let manager =
            &yaml["static_resources"]["listeners"][listener]["filter_chains"][0]["filters"][0]["typed_config"];
        manager["http_filters"][0]["typed_config"]["config"]["configuration"]["value"].clone()
    };
    let sagas = plugin(0)["sagas"].clone();
    let gate: serde_yaml_ng::Value = serde_yaml_ng::from_str(plugin(1).as_str().unwrap()).unwrap();
    assert!(sagas.is_sequence());
    assert_eq!(gate["sagas"], sagas);
    assert_eq!(gate["gate"].as_bool(), Some(true));
}
