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
fn a_body_is_json_where_its_type_says_so_or_it_has_members() {
    let json_type = Some("application/merge-patch+json; charset=utf-8");
    for (content_type, bytes, expected) in [
        (None, &b"[1]"[..], json!([1])),
        (Some("text/plain"), b" {\"a\": 1}", json!({"a": 1})),
        (json_type, b"12", json!(12)),
        (json_type, b"\"a\"", json!("a")),
        (json_type, b"plain", json!("plain")),
        (None, b"12", json!("12")),
        (Some("text/plain"), b"5e10", json!("5e10")),
        (Some("text/plain"), b"1.10", json!("1.10")),
        (None, b"true", json!("true")),
        (None, b"", json!("")),
        (json_type, b"", json!("")),
        (None, b"{\"a\":", json!("{\"a\":")),
        (json_type, b"\xef\xbb\xbf{\"a\": 1}", json!({"a": 1})),
        (None, b"\xef\xbb\xbfAda", json!("Ada")),
        (json_type, b"\xff", json!("\u{fffd}")),
        // To the parser this is the number 1; where the name comes later, it is a member, and could not be read again.
        (json_type, br#"{"\u0024serde_json::private::Number": "1"}"#, json!(1)),
        (
            None,
            br#"[{"a": 1, "\u0024serde_json::private::Number": "x"}]"#,
            json!(r#"[{"a": 1, "\u0024serde_json::private::Number": "x"}]"#),
        ),
    ] {
        let headers = content_type.map(|value| ("Content-Type".to_owned(), value.as_bytes().to_vec()));
        let headers: Vec<_> = headers.into_iter().collect();
        let given = ClientRequest { body: bytes.to_vec(), headers: headers.clone(), ..ClientRequest::default() };
        assert_eq!(request(&given, &[]).get("body"), Some(&expected), "{content_type:?}");
        let answer = ParticipantResponse { code: 200, headers, body: Some(bytes.to_vec()) };
        assert_eq!(response(&answer).get("body"), Some(&expected), "{content_type:?}");
    }
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    assert_eq!(body(deep.as_bytes(), true), json!(deep));
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
