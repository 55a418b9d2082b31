//! Envoy, the participants and an application, left up on the ports of the shipped configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::http::{Method, Uri};
use serde_json::{Value as Json, json};
use serde_yaml_ng::Value as Yaml;
use tempfile::TempDir;

use crate::envoy::{Envoy, RunningEnvoy, project_root};
use crate::loopback::{Answer, Client, Outgoing, request};
use crate::participant::Participant;
use crate::trip::{CONFIGURATION, STEPS, TripRequest};

/// How often it is looked whether Envoy is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Everything, up. It ends with it.
#[derive(Debug)]
pub struct Up {
    envoy: RunningEnvoy,
    /// The application and the participants, by the names of their clusters.
    upstreams: BTreeMap<String, SocketAddr>,
    taken: Vec<String>,
    _participants: Vec<Participant>,
    databases: TempDir,
}

/// A request to try.
#[derive(Debug, Clone)]
pub struct Try {
    /// What it shows.
    pub about: String,
    /// Its method.
    pub method: Method,
    /// Its URL.
    pub url: String,
    /// Its body, where it has one.
    pub body: Option<Json>,
}

impl Try {
    /// Sends it as `curl` would.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub async fn send(&self) -> anyhow::Result<Answer> {
        let client = Client::http1();
        let body = Outgoing::whole(self.body.as_ref().map(Json::to_string).unwrap_or_default());
        let json: &[(&str, &str)] = if self.body.is_some() { &[("content-type", "application/json")] } else { &[] };
        client.send(request(self.method.clone(), &self.url, json, body)?).await
    }
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.about)?;
        match &self.body {
            Some(body) => writeln!(f, "curl -i {} -H 'content-type: application/json' -d '{body}'", self.url),
            None => writeln!(f, "curl -i {}", self.url),
        }
    }
}

impl Up {
    /// Starts everything. Where a port is taken, a free one is used instead, and shown.
    ///
    /// # Errors
    ///
    /// The shipped configuration cannot be read; a participant or Envoy does not start.
    pub async fn start(workers: u32) -> anyhow::Result<Up> {
        let path = project_root().join(CONFIGURATION);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut yaml: Yaml = serde_yaml_ng::from_str(&text)?;
        let mut taken = Vec::new();
        free_what_is_taken(&mut yaml, &mut taken);
        let databases = tempfile::tempdir().context("a directory for the databases")?;
        let mut upstreams = BTreeMap::new();
        let mut participants = Vec::new();
        for role in STEPS {
            let address = free_or(upstream_port(&yaml, role)?, &format!("cluster `{role}`"), &mut taken);
            let database = databases.path().join(format!("{role}.sqlite"));
            let participant = Participant::start_on(role, &database, address).await?;
            upstreams.insert(role.to_owned(), participant.address());
            participants.push(participant);
        }
        let address = free_or(upstream_port(&yaml, "application")?, "cluster `application`", &mut taken);
        upstreams.insert("application".to_owned(), serve_application(address).await?);
        let mut envoy = Envoy::from_yaml(serde_yaml_ng::to_string(&yaml)?).workers(workers).keep_ports();
        for (cluster, address) in &upstreams {
            envoy = envoy.upstream(cluster, *address);
        }
        let envoy = envoy.start().await?;
        Ok(Up { envoy, upstreams, taken, _participants: participants, databases })
    }

    /// The requests to try, in an order in which all of them show what they are to show.
    pub fn tries(&self) -> Vec<Try> {
        let [trip, gate] = ["trip", "trip_gate"].map(|listener| format!("http://{}", self.envoy.listener(listener)));
        let [hotel, flight] = ["hotel", "flight"].map(|role| format!("http://{}", self.upstreams[role]));
        let post = |about: &str, url: String, body: Json| Try {
            about: about.to_owned(),
            method: Method::POST,
            url,
            body: Some(body),
        };
        let get = |about: &str, url: String| Try { about: about.to_owned(), method: Method::GET, url, body: None };
        let fault = |action: &str, fault: &str| json!({"guest": "bob", "action": action, "fault": fault});
        vec![
            post(
                "A trip: hotel and flight, at the same time. 201, saga-status: completed",
                format!("{trip}/trips"),
                TripRequest::of("ann").body(),
            ),
            post(
                "With a car, which comes after both",
                format!("{trip}/trips"),
                TripRequest::of("ann").with_car().body(),
            ),
            post(
                "The flight is told to refuse the next booking of bob ...",
                format!("{flight}/control/faults"),
                fault("transaction", "refuse"),
            ),
            post(
                "... so his trip is compensated: 409 and a problem document",
                format!("{trip}/trips"),
                TripRequest::of("bob").body(),
            ),
            get("What the hotel holds: bob's booking is there, cancelled", format!("{hotel}/bookings")),
            get("What is no saga reaches the application", format!("{trip}/hello")),
            post(
                "The same saga behind the pair of filters, as Istio needs it",
                format!("{gate}/trips"),
                TripRequest::of("cleo").body(),
            ),
        ]
    }

    /// Waits as long as Envoy is there.
    ///
    /// # Errors
    ///
    /// Always, once it is not; the error has the end of its log.
    pub async fn until_envoy_ends(&self) -> anyhow::Result<()> {
        while self.envoy.is_running() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let log = self.envoy.log();
        let lines: Vec<&str> = log.lines().collect();
        bail!("Envoy has ended:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
    }

    /// The ports of the configuration that were taken, each with where to change it and what is used instead.
    pub fn taken(&self) -> &[String] {
        &self.taken
    }
}

impl fmt::Display for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for taken in &self.taken {
            writeln!(f, "{taken}")?;
        }
        if !self.taken.is_empty() {
            writeln!(f)?;
        }
        let listener = |name| self.envoy.listener(name).to_string();
        writeln!(f, "  {:16} Envoy with Sagabox, in front of the application", listener("trip"))?;
        writeln!(f, "  {:16} the same as a pair of filters, as Istio needs it", listener("trip_gate"))?;
        writeln!(f, "  {:16} the application", self.upstreams["application"].to_string())?;
        for role in STEPS {
            writeln!(f, "  {:16} {role}", self.upstreams[role].to_string())?;
        }
        writeln!(f, "  {:16} Envoy's administration", self.envoy.admin().to_string())?;
        writeln!(f, "\nDatabases: {}/*.sqlite, until this ends. Try:\n", self.databases.path().display())?;
        for one in self.tries() {
            writeln!(f, "{one}")?;
        }
        write!(f, "Ctrl-C ends everything.")
    }
}

/// The address of `port`, or of a free one where it is taken.
fn free_or(port: u16, setting: &str, taken: &mut Vec<String>) -> SocketAddr {
    let mut chosen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if !is_free(chosen) {
        taken.push(format!("port {port} is taken, so another is used (the setting: {setting} in {CONFIGURATION})"));
        chosen.set_port(0);
    }
    chosen
}

/// Envoy shares its ports with whoever asks for it in the same way, another Envoy for example: bind says nothing then.
fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Lets the kernel choose each port of Envoy that is taken.
fn free_what_is_taken(yaml: &mut Yaml, taken: &mut Vec<String>) {
    let mut free = |holder: &mut Yaml, setting: &str| {
        let port = &mut holder["address"]["socket_address"]["port_value"];
        if let Some(number) = port.as_u64().and_then(|number| u16::try_from(number).ok()) {
            *port = free_or(number, setting, taken).port().into();
        }
    };
    free(&mut yaml["admin"], "`admin`");
    for listener in yaml["static_resources"]["listeners"].as_sequence_mut().into_iter().flatten() {
        let setting = format!("listener `{}`", listener["name"].as_str().unwrap_or_default());
        free(listener, &setting);
    }
}

fn upstream_port(yaml: &Yaml, cluster: &str) -> anyhow::Result<u16> {
    let clusters = yaml["static_resources"]["clusters"].as_sequence();
    let found = clusters.into_iter().flatten().find(|one| one["name"].as_str() == Some(cluster));
    let endpoint = found.map(|one| &one["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]);
    let port = endpoint.and_then(|one| one["address"]["socket_address"]["port_value"].as_u64());
    let port = port.and_then(|port| u16::try_from(port).ok());
    port.with_context(|| format!("{CONFIGURATION} has no port for the cluster `{cluster}`"))
}

/// An application that knows nothing of sagas: it says what reached it.
async fn serve_application(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("application on {address}"))?;
    let address = listener.local_addr()?;
    let say = |method: Method, uri: Uri| async move { format!("the application got {method} {uri}\n") };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(say)).await });
    Ok(address)
}
