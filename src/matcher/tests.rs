use proptest::prelude::*;

use super::*;

fn head<'a>(method: &'a str, path: &'a str, host: &'a str) -> RequestHead<'a> {
    RequestHead { method, path, host, header: &|_| None }
}

fn literal(text: &str) -> Segment {
    Segment::Literal(text.to_owned())
}

fn parameter(name: &str) -> Segment {
    Segment::Parameter(name.to_owned())
}

fn of_path(path: PathPattern) -> Matcher {
    Matcher::new(None, path, None, Vec::new())
}

#[test]
fn a_path_is_compared_whole_and_without_its_query() {
    let matcher = of_path(PathPattern::Exact("/trips".to_owned()));
    for (path, holds) in [
        ("/trips", true),
        ("/trips?to=rome", true),
        ("/trips?", true),
        ("/trips/", false),
        ("/tripsy", false),
        ("/Trips", false),
        ("/", false),
        ("*", false),
        ("", false),
    ] {
        assert_eq!(matcher.matches(&head("POST", path, "h")).is_some(), holds, "{path}");
    }
}

#[test]
fn a_prefix_is_of_whole_segments() {
    let matcher = of_path(PathPattern::Prefix("/trips".to_owned()));
    for (path, holds) in
        [("/trips", true), ("/trips/", true), ("/trips/7/cars?x=1", true), ("/tripsy", false), ("/", false)]
    {
        assert_eq!(matcher.matches(&head("POST", path, "h")).is_some(), holds, "{path}");
    }
    let all = of_path(PathPattern::Prefix("/".to_owned()));
    assert!(all.matches(&head("POST", "/", "h")).is_some());
    assert!(all.matches(&head("POST", "/a/b", "h")).is_some());
    assert!(all.matches(&head("OPTIONS", "*", "h")).is_none());
}

#[test]
fn a_template_gives_decoded_parameters_in_order() {
    let matcher = of_path(PathPattern::Template(vec![literal("trips"), parameter("id"), parameter("leg")]));
    let found = matcher.matches(&head("POST", "/trips/a%2Fb%20c/2?x", "h")).unwrap();
    assert_eq!(found, [("id".to_owned(), "a/b c".to_owned()), ("leg".to_owned(), "2".to_owned())]);
    for path in ["/trips/7", "/trips/7/", "/trips//2", "/trips/7/2/", "/trips/7/2/3", "/other/7/2"] {
        assert_eq!(matcher.matches(&head("POST", path, "h")), None, "{path}");
    }
}

#[test]
fn a_host_is_compared_without_port_and_case() {
    for (host, given, holds) in [
        ("Example.com", "example.COM:8080", true),
        ("example.com", "example.com", true),
        ("example.com", "example.com.evil", false),
        ("example.com", "", false),
        ("example.com", "example.com.:443", true),
        ("[::1]", "[::1]:80", true),
        ("[::1]", "[::1]", true),
        ("[::1]", "[::2]:80", false),
    ] {
        let matcher = Matcher::new(None, PathPattern::Exact("/".to_owned()), Some(host.to_owned()), Vec::new());
        assert_eq!(matcher.matches(&head("GET", "/", given)).is_some(), holds, "{host} {given}");
    }
}

#[test]
fn all_headers_must_hold() {
    let pattern = |name: &str, test| HeaderPattern { name: name.to_owned(), test };
    let headers = vec![
        pattern("x-tenant", HeaderTest::Exact("a".to_owned())),
        pattern("content-type", HeaderTest::Prefix("application/json".to_owned())),
        pattern("x-user", HeaderTest::Present(true)),
        pattern("x-debug", HeaderTest::Present(false)),
    ];
    let matcher = Matcher::new(None, PathPattern::Exact("/".to_owned()), None, headers);
    let good = [("x-tenant", "a"), ("content-type", "application/json; charset=utf-8"), ("x-user", "")];
    let holds = |given: &[(&str, &str)]| {
        let header = |name: &str| given.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        matcher.matches(&RequestHead { header: &header, ..head("GET", "/", "h") }).is_some()
    };
    assert!(holds(&good));
    for missing in 0..good.len() {
        let rest: Vec<_> = good.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, h)| *h).collect();
        assert!(!holds(&rest), "without {}", good[missing].0);
    }
    assert!(!holds(&[good.as_slice(), &[("x-debug", "1")]].concat()));
    assert!(!holds(&[&[("x-tenant", "ab")], &good[1..]].concat()));
}

#[test]
fn connect_and_upgrades_never_match() {
    let matcher = of_path(PathPattern::Prefix("/".to_owned()));
    assert!(matcher.matches(&head("CONNECT", "/", "h")).is_none());
    let matches_with = |upgrade: Option<&str>, connection: Option<&str>| {
        let header = |name: &str| match name {
            "upgrade" => upgrade.map(str::to_owned),
            "connection" => connection.map(str::to_owned),
            _ => None,
        };
        matcher.matches(&RequestHead { header: &header, ..head("GET", "/", "h") }).is_some()
    };
    assert!(!matches_with(Some("websocket"), Some("keep-alive, Upgrade")));
    assert!(matches_with(Some("websocket"), None));
    assert!(matches_with(None, Some("upgrade")));
}

#[test]
fn a_method_is_compared_with_case_and_may_be_any() {
    let matcher = Matcher::new(Some("POST".to_owned()), PathPattern::Exact("/".to_owned()), None, Vec::new());
    assert!(matcher.matches(&head("POST", "/", "h")).is_some());
    assert!(matcher.matches(&head("post", "/", "h")).is_none());
    assert!(of_path(PathPattern::Exact("/".to_owned())).matches(&head("PURGE", "/", "h")).is_some());
}

#[test]
fn the_first_matcher_that_holds_is_taken_and_not_the_most_specific() {
    let any = of_path(PathPattern::Template(vec![literal("trips"), parameter("id")]));
    let exact = of_path(PathPattern::Exact("/trips/new".to_owned()));
    let host = Matcher::new(None, PathPattern::Prefix("/".to_owned()), Some("a".to_owned()), Vec::new());
    let table = MatcherTable::of(vec![host.clone(), any.clone(), exact.clone()]);
    assert_eq!(table.find(&head("GET", "/trips/new", "b")).unwrap().0, 1);
    assert_eq!(table.find(&head("GET", "/trips/new", "a")).unwrap().0, 0);
    let table = MatcherTable::of(vec![exact, any, host]);
    assert_eq!(table.find(&head("GET", "/trips/new", "a")).unwrap().0, 0);
    assert_eq!(table.find(&head("GET", "/trips/7", "a")).unwrap(), (1, vec![("id".to_owned(), "7".to_owned())]));
    assert_eq!(table.find(&head("GET", "/x", "b")), None);
}

#[test]
fn headers_are_not_read_for_a_path_that_no_matcher_has() {
    let header = HeaderPattern { name: "x".to_owned(), test: HeaderTest::Present(true) };
    let matcher = Matcher::new(None, PathPattern::Exact("/trips".to_owned()), None, vec![header]);
    let table = MatcherTable::of(vec![matcher]);
    let read = |name: &str| -> Option<String> { panic!("{name} was read") };
    assert_eq!(table.find(&RequestHead { header: &read, ..head("GET", "/other", "h") }), None);
}

#[test]
fn among_a_thousand_sagas_only_those_of_the_path_are_looked_at() {
    let matchers = (0..1000)
        .map(|n| of_path(PathPattern::Template(vec![literal("api"), literal(&format!("s{n}")), parameter("id")])))
        .collect();
    let table = MatcherTable::of(matchers);
    let mut seen = Vec::new();
    table.visit("/api/s777/5", &mut |index| {
        seen.push(index);
        true
    });
    assert_eq!(seen, [777]);
}

fn any_segment() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("a".to_owned()), Just("b".to_owned()), Just("%61".to_owned())]
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(any_segment(), 1..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let segment = any_segment()
        .prop_flat_map(|text| prop_oneof![Just(Segment::Literal(text)), Just(Segment::Parameter("p".to_owned()))]);
    let path = prop_oneof![
        any_path().prop_map(PathPattern::Exact),
        any_path().prop_map(|path| match path.trim_end_matches('/') {
            "" => PathPattern::Prefix("/".to_owned()),
            rest => PathPattern::Prefix(rest.to_owned()),
        }),
        prop::collection::vec(segment, 1..4).prop_map(PathPattern::Template),
    ];
    let method = prop::option::of(prop_oneof![Just("GET".to_owned()), Just("POST".to_owned())]);
    (method, path).prop_map(|(method, path)| Matcher::new(method, path, None, Vec::new()))
}

proptest! {
    #[test]
    fn the_table_chooses_as_trying_all_in_order_would(
        matchers in prop::collection::vec(any_matcher(), 0..12),
        path in any_path(),
        query in prop_oneof![Just(""), Just("?a=/b")],
    ) {
        let path = format!("{path}{query}");
        let request = head("GET", &path, "h");
        let in_order = matchers.iter().enumerate().find_map(|(i, m)| m.matches(&request).map(|found| (i, found)));
        let table = MatcherTable::of(matchers.clone());
        prop_assert_eq!(table.find(&request), in_order);
        let any_path_holds = matchers.iter().any(|m| m.path.parameters(without_query(&path)).is_some());
        prop_assert!(table.could_match(&path) || !any_path_holds);
    }

    #[test]
    fn no_request_makes_matching_panic(method in ".*", path in ".*", host in ".*", matcher in any_matcher()) {
        let table = MatcherTable::of(vec![matcher.clone()]);
        let request = head(&method, &path, &host);
        prop_assert_eq!(table.find(&request).map(|(_, found)| found), matcher.matches(&request));
    }
}

#[test]
fn what_resembles_a_request_that_begins_a_saga_is_told_apart() {
    let post = |path| Matcher::new(Some("POST".to_owned()), path, None, Vec::new());
    let table = MatcherTable::of(vec![
        post(PathPattern::Exact("/trips".to_owned())),
        post(PathPattern::Template(vec![literal("trips"), parameter("id")])),
        post(PathPattern::Exact("/with/slash/".to_owned())),
        post(PathPattern::Prefix("/under".to_owned())),
    ]);
    for (method, path, resembled) in [
        ("POST", "/trips/", Some("POST /trips")),
        ("POST", "/trips;a=1?x", Some("POST /trips")),
        ("post", "/trips", Some("POST /trips")),
        ("Post", "/trips%2f", Some("POST /trips")),
        ("POST", "/x/../trips", Some("POST /trips")),
        ("POST", "//trips/7", Some("POST /trips/{id}")),
        ("POST", "/trips/7/", Some("POST /trips/{id}")),
        ("POST", "/with/slash", Some("POST /with/slash/")),
        ("POST", "/under%2Fa", Some("POST /under/**")),
        ("GET", "/trips/", None),
        ("POST", "/Trips", None),
        ("POST", "/tripsy", None),
        ("POST", "/trips/7/cars", None),
        ("POST", "*", None),
        ("POST", "sagabox-gate-missing", None),
        ("CONNECT", "/trips", None),
    ] {
        let request = head(method, path, "h");
        assert_eq!(table.find(&request), None, "{method} {path}");
        let expected = resembled.map(|line| Resemblance::Spelling(line.to_owned()));
        assert_eq!(table.resemblance(&request), expected, "{method} {path}");
        assert!(table.could_match(path) || resembled.is_none(), "{path}");
    }
}

#[test]
fn an_upgrade_resembles_what_begins_a_saga_unless_it_is_a_get() {
    let table = MatcherTable::of(vec![of_path(PathPattern::Exact("/trips".to_owned()))]);
    let header = |name: &str| match name {
        "upgrade" => Some("websocket".to_owned()),
        "connection" => Some("keep-alive, Upgrade".to_owned()),
        _ => None,
    };
    for (method, path, resembles) in
        [("POST", "/trips", true), ("get", "/trips", true), ("GET", "/trips", false), ("POST", "/trips/", true)]
    {
        let request = RequestHead { method, path, host: "h", header: &header };
        assert_eq!(table.find(&request), None);
        assert_eq!(table.resemblance(&request), resembles.then_some(Resemblance::Upgrade), "{method} {path}");
    }
}

#[test]
fn a_matcher_without_a_method_leaves_questions_to_the_application() {
    let any = MatcherTable::of(vec![of_path(PathPattern::Exact("/trips".to_owned()))]);
    for method in ["OPTIONS", "HEAD", "TRACE", "CONNECT", "options"] {
        for path in ["/trips", "/trips/"] {
            assert_eq!(any.find(&head(method, path, "h")), None, "{method}");
            assert_eq!(any.resemblance(&head(method, path, "h")), None, "{method}");
        }
        let named = Matcher::new(Some(method.to_owned()), PathPattern::Exact("/trips".to_owned()), None, Vec::new());
        assert_eq!(named.matches(&head(method, "/trips", "h")).is_some(), method != "CONNECT", "{method}");
    }
}

#[test]
fn a_request_that_envoy_mirrors_begins_no_saga() {
    let exact = || PathPattern::Exact("/trips".to_owned());
    let any = MatcherTable::of(vec![of_path(exact())]);
    let of_host = |host: &str| MatcherTable::of(vec![Matcher::new(None, exact(), Some(host.to_owned()), Vec::new())]);
    for host in ["travel.example-shadow", "travel.example-shadow:8080"] {
        for table in [&any, &of_host("travel.example")] {
            assert_eq!(table.find(&head("POST", "/trips", host)), None, "{host}");
            assert_eq!(table.resemblance(&head("POST", "/trips", host)), Some(Resemblance::Mirrored), "{host}");
        }
        // Somebody is called so.
        assert!(of_host("travel.example-shadow").find(&head("POST", "/trips", host)).is_some(), "{host}");
        assert_eq!(of_host("other.example").resemblance(&head("POST", "/trips", host)), None, "{host}");
    }
    assert!(any.find(&head("POST", "/trips", "shadow")).is_some());
    assert_eq!(Resemblance::Mirrored.reply().status, 400);
}

#[test]
fn what_envoy_takes_for_grpc_is_refused() {
    let table = MatcherTable::of(vec![of_path(PathPattern::Exact("/trips".to_owned()))]);
    for (content_type, is_grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        let header = |name: &str| (name == "content-type").then(|| content_type.to_owned());
        let request = RequestHead { method: "POST", path: "/trips", host: "h", header: &header };
        assert_eq!(table.find(&request).is_none(), is_grpc, "{content_type}");
        if is_grpc {
            assert_eq!(table.resemblance(&request), Some(Resemblance::Grpc), "{content_type}");
        }
    }
    assert_eq!(Resemblance::Grpc.reply().status, 415);
}
