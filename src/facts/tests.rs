use proptest::prelude::*;

use super::*;

fn lines(lines: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    lines.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
}

#[test]
fn a_request_is_taken_apart() {
    let given = ClientRequest {
        method: "POST".to_owned(),
        path: "/trips/7?a=1%202&b=x+y&a=3&&c&=d".to_owned(),
        host: "example.com:80".to_owned(),
        headers: lines(&[("X-User", b"ada"), ("accept", b"a"), ("Accept", b"b"), ("bad", b"\xff")]),
        body: br#"{"guest": "ada", "nights": 2}"#.to_vec(),
    };
    let expected = json!({
        "method": "POST",
        "path": "/trips/7?a=1%202&b=x+y&a=3&&c&=d",
        "url_path": "/trips/7",
        "query": "a=1%202&b=x+y&a=3&&c&=d",
        "query_params": {"a": "1 2", "b": "x y", "c": "", "": "d"},
        "host": "example.com:80",
        "headers": {"x-user": "ada", "accept": "a,b", "bad": "\u{fffd}", "host": "example.com:80"},
        "params": {"id": "7"},
        "body": {"guest": "ada", "nights": 2},
    });
    let params = [("id", "7"), ("id", "8")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(request(&given, &params), expected);
}

#[test]
fn a_body_is_json_where_it_parses_and_text_elsewhere() {
    for (bytes, expected) in [
        (&b"[1]"[..], json!([1])),
        (b"12", json!(12)),
        (b"", json!("")),
        (b"plain", json!("plain")),
        (b"{\"a\":", json!("{\"a\":")),
        (b"1e999", json!("1e999")),
        (b"\xff", json!("\u{fffd}")),
    ] {
        let given = ClientRequest { body: bytes.to_vec(), ..ClientRequest::default() };
        assert_eq!(request(&given, &[]).get("body"), Some(&expected));
    }
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    assert_eq!(body(deep.as_bytes()), json!(deep));
}

#[test]
fn a_host_header_that_was_sent_is_kept() {
    let given = ClientRequest { host: "a".to_owned(), headers: lines(&[("Host", b"b")]), ..ClientRequest::default() };
    assert_eq!(request(&given, &[]).pointer("/headers/host"), Some(&json!("b")));
}

#[test]
fn a_response_has_a_body_only_if_it_was_kept() {
    let given = ParticipantResponse { code: 201, headers: lines(&[("Location", b"/b/1")]), body: Some(b"{}".to_vec()) };
    assert_eq!(response(&given), json!({"code": 201, "headers": {"location": "/b/1"}, "body": {}}));
    let dropped = ParticipantResponse { body: None, ..given };
    assert_eq!(response(&dropped), json!({"code": 201, "headers": {"location": "/b/1"}}));
}

proptest! {
    #[test]
    fn any_bytes_become_facts(
        path in any::<String>(),
        body in any::<Vec<u8>>(),
        headers in proptest::collection::vec((any::<String>(), any::<Vec<u8>>()), 0..4),
    ) {
        let given = ClientRequest { path: path.clone(), headers: headers.clone(), body: body.clone(), ..Default::default() };
        let facts = request(&given, &[]);
        prop_assert_eq!(facts.get("path"), Some(&Json::String(path)));
        let answer = response(&ParticipantResponse { code: 200, headers, body: Some(body) });
        prop_assert_eq!(answer.get("body"), facts.get("body"));
    }
}
