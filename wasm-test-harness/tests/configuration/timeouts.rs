//! Timeouts of Envoy that end a request before its saga.

use harness::check::{configurations, report};
use serde_json::{Value, json};

/// A bootstrap whose manager has these fields besides its filter, which runs one saga with a deadline.
fn bootstrap(manager: Value, path: Value, deadline: &str, gate: bool) -> String {
    let mut matches = path;
    matches["method"] = json!("POST");
    let step = json!({"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"}});
    let saga = json!({"name": "trip", "match": matches, "deadline": deadline, "steps": [step]});
    let mut manager = manager;
    manager["http_filters"] = json!([{"name": "sagabox", "typed_config": {"config": {
        "vm_config": {"runtime": "envoy.wasm.runtime.v8"},
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.Struct",
            "value": {"version": 1, "gate": gate, "sagas": [saga]},
        },
    }}}]);
    json!({"static_resources": {"listeners": [{"filter_chains": [{"filters": [{"typed_config": manager}]}]}]}})
        .to_string()
}

const MANAGER: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";

/// The errors, each by its place within the manager and what was found.
fn found_by(text: &str) -> Vec<(String, String)> {
    let configuration = configurations(text).unwrap().remove(0);
    let (report, good) = report(&configuration);
    let lines: Vec<&str> = report.lines().filter(|line| line.contains(": found ")).collect();
    assert_eq!(good, lines.is_empty(), "{report}");
    let error = |line: &&str| {
        let (place, rest) = line.split_once(": found ").unwrap();
        let place = place.strip_prefix(MANAGER).unwrap_or_else(|| panic!("{place}")).trim_start_matches('.');
        (place.to_owned(), rest.split_once(", expected").unwrap().0.to_owned())
    };
    lines.iter().map(error).collect()
}

fn routes(routes: Value) -> Value {
    json!({"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}})
}

fn with(mut manager: Value, field: &str, value: Value) -> Value {
    manager[field] = value;
    manager
}

fn all() -> Value {
    routes(json!([{"match": {"prefix": "/"}, "route": {"cluster": "application"}}]))
}

fn exact() -> Value {
    json!({"path": "/trips"})
}

#[test]
fn a_timeout_of_the_manager_that_is_shorter_than_the_saga_is_an_error() {
    let idle = |value: &str| bootstrap(with(all(), "stream_idle_timeout", json!(value)), exact(), "10s", false);
    assert_eq!(found_by(&idle("14.9s")), [("stream_idle_timeout".to_owned(), "14900ms".to_owned())]);
    assert_eq!(found_by(&idle("15s")), []);
    assert_eq!(found_by(&idle("0s")), []);

    let longest = json!({"max_stream_duration": "3s"});
    let text = bootstrap(with(all(), "common_http_protocol_options", longest), exact(), "10s", false);
    let place = "common_http_protocol_options.max_stream_duration".to_owned();
    assert_eq!(found_by(&text), [(place, "3s".to_owned())]);

    let (report, _) = report(&configurations(&idle("5s")).unwrap()[0]);
    for part in ["or 15s or more", "saga trip", "deadline of 10s", "504 without saga-id"] {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn a_deadline_past_envoys_default_is_an_error_unless_a_timeout_says_otherwise() {
    assert_eq!(found_by(&bootstrap(all(), exact(), "4m55s", false)), []);
    let nothing = ("stream_idle_timeout".to_owned(), "nothing, which is 5m".to_owned());
    assert_eq!(found_by(&bootstrap(all(), exact(), "4m56s", false)), [nothing]);
    let longer = with(all(), "stream_idle_timeout", json!("600s"));
    assert_eq!(found_by(&bootstrap(longer, exact(), "4m56s", false)), []);
    let of_the_route = routes(json!([{"match": {"prefix": "/"}, "route": {"idle_timeout": "0s"}}]));
    assert_eq!(found_by(&bootstrap(of_the_route, exact(), "4m56s", false)), []);
}

#[test]
fn timeouts_that_do_not_run_while_a_request_is_held_are_none() {
    let routes = routes(json!([{"match": {"prefix": "/"}, "route": {"timeout": "1s"}}]));
    let manager = with(routes, "request_timeout", json!("1s"));
    let manager = with(manager, "common_http_protocol_options", json!({"idle_timeout": "1s"}));
    assert_eq!(found_by(&bootstrap(manager, exact(), "10s", false)), []);
}

#[test]
fn the_timeouts_of_a_route_count_where_it_takes_requests_of_the_saga() {
    let short = |pattern: Value| json!({"match": pattern, "route": {"idle_timeout": "1s"}});
    let longest =
        |pattern: Value| json!({"match": pattern, "route": {"max_stream_duration": {"max_stream_duration": "1s"}}});
    let template = json!({"path_template": "/trips/{id}/seats"});
    let prefix = json!({"path_prefix": "/trips"});
    let method =
        |method: &str| json!({"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": method}}]});
    let cases = [
        (exact(), short(json!({"path": "/trips"})), true),
        (exact(), longest(json!({"path": "/trips"})), true),
        (exact(), short(json!({"prefix": "/"})), true),
        (exact(), short(json!({"path": "/other"})), false),
        (exact(), short(json!({"path": "/TRIPS"})), false),
        (exact(), short(json!({"path": "/TRIPS", "case_sensitive": false})), true),
        (exact(), short(json!({"prefix": "/trips/"})), false),
        (exact(), short(json!({"path_separated_prefix": "/trips"})), true),
        (exact(), short(json!({"path_separated_prefix": "/tri"})), false),
        (exact(), short(json!({"safe_regex": {"regex": "/.*"}})), true),
        (exact(), short(method("POST")), true),
        (exact(), short(method("GET")), false),
        (exact(), short(json!({"prefix": "/", "headers": [{"name": "x-a", "present_match": true}]})), true),
        (prefix.clone(), short(json!({"path": "/trips/1"})), true),
        (prefix, short(json!({"path": "/cars"})), false),
        (template.clone(), short(json!({"prefix": "/trips/1"})), true),
        (template, short(json!({"path": "/trips"})), false),
    ];
    for (path, route, counts) in cases {
        let text =
            bootstrap(routes(json!([route, {"match": {"prefix": "/"}, "route": {}}])), path.clone(), "10s", false);
        let found: Vec<_> = found_by(&text).into_iter().map(|(place, _)| place).collect();
        assert_eq!(!found.is_empty(), counts, "{path} {route}: {found:?}");
        assert!(found.iter().all(|place| place.starts_with("route_config.virtual_hosts[0].routes[0].route.")));
    }
}

#[test]
fn a_route_behind_one_that_takes_all_requests_of_the_saga_does_not_count() {
    let trips = json!({"match": {"path": "/trips"}, "route": {"idle_timeout": "20s"}});
    let rest = json!({"match": {"prefix": "/"}, "route": {"idle_timeout": "1s"}});
    assert_eq!(found_by(&bootstrap(routes(json!([trips, rest])), exact(), "10s", false)), []);
    // One that takes only some of them leaves the others to it.
    let some =
        json!({"match": {"path": "/trips", "query_parameters": [{"name": "a"}]}, "route": {"idle_timeout": "20s"}});
    assert_eq!(found_by(&bootstrap(routes(json!([some, rest])), exact(), "10s", false)).len(), 1);
}

#[test]
fn of_a_pair_the_route_of_the_request_as_it_came_counts() {
    let held = json!({"match": {"path": "sagabox-gate-missing"}, "route": {"idle_timeout": "2s"}});
    let short = json!({"match": {"prefix": "/"}, "route": {"idle_timeout": "1s"}});
    let place = "route_config.virtual_hosts[0].routes[1].route.idle_timeout".to_owned();
    let text = bootstrap(routes(json!([held, short])), exact(), "10s", true);
    assert_eq!(found_by(&text), [(place, "1s".to_owned())]);
}

#[test]
fn where_the_routes_are_elsewhere_there_is_only_a_warning() {
    let manager = json!({"rds": {"route_config_name": "all"}, "streamIdleTimeout": "1s"});
    let (report, good) = report(&configurations(&bootstrap(manager, exact(), "10s", false)).unwrap()[0]);
    assert!(good && report.contains("warning: ") && report.contains("stream_idle_timeout: found 1s"), "{report}");
}

#[test]
fn without_its_envoy_a_long_deadline_is_warned_of() {
    let saga = |deadline: &str| {
        let step = json!({"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"}});
        json!({"version": 1, "sagas": [
            {"name": "trip", "match": {"path": "/trips"}, "deadline": deadline, "steps": [step]},
        ]})
    };
    let plugin = |json: Value| json!({"kind": "WasmPlugin", "spec": {"pluginConfig": json}});
    for (deadline, warned) in [("4m55s", false), ("4m56s", true)] {
        for text in [saga(deadline).to_string(), plugin(saga(deadline)).to_string()] {
            let (report, good) = report(&configurations(&text).unwrap()[0]);
            assert!(good);
            assert_eq!(report.contains("Envoy ends an idle stream after 5m"), warned, "{report}");
        }
    }
}

#[test]
fn the_files_that_ship_pass() {
    for file in ["envoy/trip/envoy.yaml", "envoy/trip-etcd/envoy.yaml", "istio/trip.yaml", "istio/trip-etcd.yaml"] {
        let text = std::fs::read_to_string(harness::envoy::project_root().join(file)).unwrap();
        for found in configurations(&text).unwrap() {
            let (report, good) = report(&found);
            assert!(good && !report.contains("stream_idle_timeout"), "{file}: {report}");
        }
    }
}
