//! Envoys with the probe (`wasm-test-harness/probe`): a module of small behaviours, each on a listener of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use harness::application::Application;
use harness::envoy::{Envoy, RunningEnvoy, project_root};
use harness::loopback::{Answer, Client, Outgoing, request};
use hyper::Method;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Builds the probe, once in each process of tests; gives its path.
pub async fn module() -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let target = project_root().join("target");
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--release", "--target", "wasm32-wasip1", "--package", "sagabox-probe"])
            .env("CARGO_TARGET_DIR", &target)
            .current_dir(project_root())
            .stdin(Stdio::null())
            .output()
            .await
            .expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("wasm32-wasip1/release/sagabox_probe.wasm")
    };
    BUILT.get_or_init(build).await.clone()
}

/// An Envoy with the probe in front of an application, which is its cluster `application`.
pub struct Probed {
    pub envoy: RunningEnvoy,
    pub application: Application,
}

/// What a listener does: a behaviour of the probe, and whether the plugin has `allow_on_headers_stop_iteration`.
#[derive(Clone, Copy)]
pub struct Listener(pub &'static str, pub bool);

impl Probed {
    /// One worker, and a listener for each behaviour, named after it, with the option and with a VM of its own.
    pub async fn start(behaviours: &[&'static str]) -> Probed {
        let listeners: Vec<_> = behaviours.iter().map(|behaviour| Listener(behaviour, true)).collect();
        Probed::start_with(&listeners, |envoy| envoy.workers(1)).await
    }

    pub async fn start_with(listeners: &[Listener], customise: impl FnOnce(Envoy) -> Envoy) -> Probed {
        let application = Application::start().await.unwrap();
        let envoy = Envoy::from_yaml(configuration(listeners)).wasm(module().await);
        let envoy = envoy.upstream("application", application.address());
        Probed { envoy: customise(envoy).start().await.unwrap(), application }
    }

    /// Posts `body` to the listener of a behaviour, with headers that say what is to be done.
    pub async fn post(&self, behaviour: &str, headers: &[(&str, &str)], body: &'static str) -> anyhow::Result<Answer> {
        let url = format!("http://{}/", self.envoy.listener(behaviour));
        let request = request(Method::POST, &url, headers, Outgoing::whole(body))?;
        Client::http1().timeout(Duration::from_secs(10)).send(request).await
    }

    /// The same for the text of the answer.
    pub async fn ask(&self, behaviour: &str, headers: &[(&str, &str)]) -> String {
        self.post(behaviour, headers, "").await.unwrap().text()
    }

    /// The same, but nothing comes back: the client goes away after half a second.
    pub async fn ask_and_leave(&self, behaviour: &str, headers: &[(&str, &str)], body: &'static str) {
        let url = format!("http://{}/", self.envoy.listener(behaviour));
        let request = request(Method::POST, &url, headers, Outgoing::whole(body)).unwrap();
        let answer = Client::http1().timeout(Duration::from_millis(500)).send(request).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    /// A counter of the probe: how often something has happened.
    pub async fn count(&self, name: &str) -> u64 {
        let stats = self.envoy.stats(&format!(r"^wasmcustom\.probe\.{name}$")).await.unwrap();
        stats.into_values().sum()
    }

    /// Waits until a counter has a value, at most five seconds.
    pub async fn counted(&self, name: &str, value: u64) {
        for _ in 0..250 {
            if self.count(name).await == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} is {}, not {value}", self.count(name).await);
    }
}

fn configuration(listeners: &[Listener]) -> String {
    let listeners: String = listeners.iter().map(|one| listener(*one)).collect();
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}
static_resources:
  listeners:
{listeners}
  clusters:
  - {{name: application, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: application}}}}
  - {{name: elsewhere, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: elsewhere}}}}
"#
    )
}

pub fn listener(Listener(behaviour, option): Listener) -> String {
    format!(
        r#"
  - name: {behaviour}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {behaviour}
          http_protocol_options: {{enable_trailers: true}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: application}}}}]}}
          http_filters:
          - name: probe
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: {behaviour}
                allow_on_headers_stop_iteration: {option}
                failure_policy: FAIL_RELOAD
                vm_config:
                  vm_id: {behaviour}
                  runtime: envoy.wasm.runtime.v8
                  code: {{local: {{filename: probe.wasm}}}}
                configuration: {{"@type": type.googleapis.com/google.protobuf.StringValue, value: {behaviour}}}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
    )
}
