//! Timeouts of Envoy that end a request before its saga has ended: the client is told 504 by Envoy, which knows of no saga,
//! and the saga goes on.
//!
//! While the filter holds a request, these run: the idle timeout of streams (the manager's, or that of the route), and the
//! longest duration of streams (the same). The timeout of a route does not, and `request_timeout` ends with the request's
//! last byte. A route's value takes the place of the manager's; 0 is none. The route is that
//! of the request as it came, also where a gate holds it.

use std::sync::Arc;
use std::time::Duration;

use sagabox::config::{Configuration, ConfigurationError, show_duration};
use sagabox::definition::Definition;
use sagabox::matcher::{PathPattern, Segment};
use sagabox::saga::CLIENT_GRACE_MS;
use serde_json::Value;

/// Envoy's idle timeout of streams where none is given.
const DEFAULT_IDLE: Duration = Duration::from_secs(5 * 60);

/// The HTTP connection manager in which an instance of the filter stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    /// Such as `static_resources.listeners[0].filter_chains[0].filters[0].typed_config`.
    pub place: String,
    /// Its `typed_config`.
    pub json: Value,
}

impl Manager {
    /// Whether a value is one.
    pub fn is_one(value: &Value) -> bool {
        get(value, "http_filters").is_some()
    }

    /// Whether its routes are in the file.
    pub fn has_routes(&self) -> bool {
        get(&self.json, "route_config").is_some()
    }
}

/// How long the client of a saga may have to wait.
fn wait_of(definition: &Definition) -> Duration {
    definition.deadline.saturating_add(Duration::from_millis(CLIENT_GRACE_MS))
}

/// Warns of sagas that take longer than Envoy lets a stream be idle unless it is told otherwise.
pub fn warnings(configuration: &Configuration) -> Vec<String> {
    let long = configuration.definitions.iter().filter(|definition| wait_of(definition) > DEFAULT_IDLE);
    let warning = |definition: &Arc<Definition>| {
        format!(
            "{}: a client may wait for {}, its deadline and 5s more, and Envoy ends an idle stream after {} unless \
             stream_idle_timeout, or idle_timeout of the route, says otherwise",
            definition.name,
            show_duration(wait_of(definition)),
            show_duration(DEFAULT_IDLE),
        )
    };
    long.map(warning).collect()
}

/// The timeouts of a manager, and of its routes, that end requests before their sagas.
pub fn errors(manager: &Manager, configuration: &Configuration) -> Vec<ConfigurationError> {
    let mut sagas: Vec<_> = configuration.definitions.iter().collect();
    // Of several that one timeout is too short for, the error names the one that takes longest.
    sagas.sort_by_key(|definition| std::cmp::Reverse(wait_of(definition)));
    let mut errors: Vec<ConfigurationError> = Vec::new();
    for definition in sagas {
        for timeout in timeouts(manager, &Target::of(definition)) {
            let wait = wait_of(definition);
            let is_known = errors.iter().any(|error| error.path == timeout.place);
            if !timeout.value.is_zero() && timeout.value < wait && !is_known {
                let found = if timeout.is_given { "" } else { "nothing, which is " };
                errors.push(ConfigurationError {
                    path: timeout.place,
                    found: format!("{found}{}", show_duration(timeout.value)),
                    expected: format!(
                        "0s, which is none, or {} or more: so long may a client of saga {} wait, its deadline of {} and \
                         5s more; Envoy would answer it 504 without saga-id, and the saga would go on",
                        show_duration(wait),
                        definition.name,
                        show_duration(definition.deadline),
                    ),
                });
            }
        }
    }
    errors
}

/// A timeout, and where it stands.
#[derive(Clone, Debug)]
struct Timeout {
    place: String,
    value: Duration,
    is_given: bool,
}

/// The requests of a definition, as far as routes can tell them from others.
struct Target {
    path: String,
    /// They have this path and no other; else it is what all of their paths begin with.
    is_exact: bool,
    method: Option<String>,
}

impl Target {
    fn of(definition: &Definition) -> Target {
        let (path, is_exact) = match definition.matcher.path() {
            PathPattern::Exact(path) => (path.clone(), true),
            PathPattern::Prefix(path) => (path.clone(), false),
            PathPattern::Template(segments) => {
                let literal = |segment: &Segment| match segment {
                    Segment::Literal(text) => Some(format!("/{text}")),
                    Segment::Parameter(_) => None,
                };
                let literals: String = segments.iter().map_while(literal).collect();
                let is_exact = segments.iter().all(|segment| literal(segment).is_some());
                (if is_exact { literals } else { literals + "/" }, is_exact)
            }
        };
        Target { path, is_exact, method: definition.matcher.method().map(str::to_owned) }
    }
}

/// Whether a route takes the requests of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    No,
    Some,
    All,
}

/// The timeouts that may run for the requests of a definition.
fn timeouts(manager: &Manager, target: &Target) -> Vec<Timeout> {
    let managers_idle = timeout_at(&manager.json, &manager.place, &["stream_idle_timeout"]);
    let managers_idle = managers_idle.unwrap_or_else(|| Timeout {
        place: format!("{}.stream_idle_timeout", manager.place),
        value: DEFAULT_IDLE,
        is_given: false,
    });
    let path = ["common_http_protocol_options", "max_stream_duration"];
    let managers_duration = timeout_at(&manager.json, &manager.place, &path);
    let idle_of = |route: &Route| route.idle().unwrap_or_else(|| managers_idle.clone());
    let duration_of = |route: &Route| route.duration().or(managers_duration.clone());
    let own = routes(manager, target);
    own.iter().flat_map(|route| [Some(idle_of(route)), duration_of(route)]).flatten().collect()
}

/// A route that may take requests; none is one that is not in the file.
struct Route {
    place: String,
    json: Option<Value>,
}

impl Route {
    fn idle(&self) -> Option<Timeout> {
        timeout_at(self.json.as_ref()?, &self.place, &["idle_timeout"])
    }

    fn duration(&self) -> Option<Timeout> {
        timeout_at(self.json.as_ref()?, &self.place, &["max_stream_duration", "max_stream_duration"])
    }
}

/// The routes that may take requests of a definition, of all virtual hosts, and one without anything for where there is none.
fn routes(manager: &Manager, target: &Target) -> Vec<Route> {
    let mut found = Vec::new();
    let mut is_any_untaken = true;
    let place = format!("{}.route_config.virtual_hosts", manager.place);
    let hosts = get(&manager.json, "route_config").and_then(|config| get(config, "virtual_hosts"));
    for (number, host) in hosts.and_then(Value::as_array).into_iter().flatten().enumerate() {
        is_any_untaken = true;
        for (index, route) in get(host, "routes").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let takes = get(route, "match").map_or(Takes::Some, |pattern| takes(pattern, target));
            if takes != Takes::No {
                let place = format!("{place}[{number}].routes[{index}].route");
                found.push(Route { place, json: get(route, "route").cloned() });
            }
            if takes == Takes::All {
                is_any_untaken = false;
                break;
            }
        }
    }
    if is_any_untaken {
        found.push(Route { place: String::new(), json: None });
    }
    found
}

/// Whether requests of a definition match a route. Where that cannot be told, some do.
fn takes(pattern: &Value, target: &Target) -> Takes {
    let ignores_case = get(pattern, "case_sensitive").is_some_and(|value| value == false);
    let cased = |path: &str| if ignores_case { path.to_ascii_lowercase() } else { path.to_owned() };
    let path = cased(&target.path);
    let text = |name: &str| get(pattern, name).and_then(Value::as_str).map(cased);
    let begins = |prefix: &str| {
        if path.starts_with(prefix) {
            Takes::All
        } else if !target.is_exact && prefix.starts_with(&path) {
            Takes::Some
        } else {
            Takes::No
        }
    };
    let by_path = if let Some(prefix) = text("prefix") {
        begins(&prefix)
    } else if let Some(prefix) = text("path_separated_prefix") {
        if path == prefix { Takes::All } else { begins(&format!("{prefix}/")) }
    } else if let Some(exact) = text("path") {
        match target.is_exact {
            true if path == exact => Takes::All,
            false if exact.starts_with(&path) => Takes::Some,
            _ => Takes::No,
        }
    } else {
        Takes::Some
    };
    match (by_path, conditions(pattern, target)) {
        (Takes::No, _) | (_, Takes::No) => Takes::No,
        (Takes::All, Takes::All) => Takes::All,
        _ => Takes::Some,
    }
}

/// Whether requests meet what a route asks for besides the path.
fn conditions(pattern: &Value, target: &Target) -> Takes {
    let paths = ["prefix", "path", "path_separated_prefix", "case_sensitive", "headers"];
    let is_of_path = |name: &String| paths.iter().any(|path| *name == *path || *name == camel(path));
    let others = pattern.as_object().is_some_and(|fields| fields.keys().any(|name| !is_of_path(name)));
    let mut all = if others { Takes::Some } else { Takes::All };
    for header in get(pattern, "headers").and_then(Value::as_array).into_iter().flatten() {
        let exact =
            get(header, "string_match").and_then(|test| get(test, "exact")).or_else(|| get(header, "exact_match"));
        let is_method = get(header, "name").is_some_and(|name| name == ":method");
        match (exact.and_then(Value::as_str).filter(|_| is_method), &target.method) {
            (Some(method), Some(own)) if method == own => {}
            (Some(_), Some(_)) => return Takes::No,
            _ => all = Takes::Some,
        }
    }
    all
}

fn timeout_at(value: &Value, place: &str, path: &[&str]) -> Option<Timeout> {
    let found = path.iter().try_fold(value, |value, name| get(value, name))?;
    let value = duration(found.as_str()?)?;
    Some(Timeout { place: format!("{place}.{}", path.join(".")), value, is_given: true })
}

/// A `google.protobuf.Duration` as JSON has it: seconds, with a fraction perhaps.
fn duration(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// A field of a message of Protobuf, by its own name or in the camel case of JSON.
fn get<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| value.get(camel(name)))
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |camel, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        camel + &initial.to_ascii_uppercase() + rest
    })
}
