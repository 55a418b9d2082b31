//! Start keys: by them a client that repeats its request gets its saga, not a second one.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header. A key is the client's own, so it counts within the saga's name, the
//! host and the caller's `authorization`. Neither it nor the request is kept, only what they hash to.
//!
//! A proxy in front that retries repeats a request without the client's knowing. Envoy numbers its attempts
//! (`x-envoy-attempt-count`; Istio always does) and gives all of them one `x-request-id`: where the client sends no key, that
//! is one. Only a second attempt joins a saga by it: two clients may send the same id.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::definition::Definition;
use crate::facts::ClientRequest;
use crate::matcher::without_port;
use crate::planted::{Planted, planted};
use crate::template::{Facts, RenderError};

/// By what a request is known, and whether it may join a saga that was begun under the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key.
    pub start: StartKey,
    /// What it makes of a saga that has begun under it.
    pub role: KeyRole,
}

/// What a request makes of a saga that has begun under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRole {
    /// It joins that saga: the client's own key, or a further attempt of a proxy in front.
    Joins,
    /// It begins another all the same: the first attempt of a proxy in front.
    BeginsAnyway,
}

impl RequestKey {
    /// Of a request, which `facts` give to expressions. None: nothing tells that another request is the same.
    ///
    /// # Errors
    /// As [`StartKey::of`].
    pub fn of(
        definition: &Definition,
        request: &ClientRequest,
        facts: &Json,
    ) -> Result<Option<RequestKey>, RenderError> {
        if let Some(start) = StartKey::of(definition, request, facts)? {
            return Ok(Some(RequestKey { start, role: KeyRole::Joins }));
        }
        Ok(of_attempts(definition, request))
    }
}

/// The key that the attempts of a proxy in front have in common. None: it does not say which attempt this is.
fn of_attempts(definition: &Definition, request: &ClientRequest) -> Option<RequestKey> {
    let attempt: u32 = std::str::from_utf8(&values(request, "x-envoy-attempt-count")).ok()?.trim().parse().ok()?;
    let id = values(request, "x-request-id");
    if id.is_empty() || attempt == 0 {
        return None;
    }
    let request_digest = digest_of(request);
    let (name, host, caller) = scope_of(definition, request);
    // Another request under the same id is another saga, not an error: the id is no promise of the client.
    let key = digest([b"attempts", name.as_bytes(), host.as_bytes(), &caller, &id, request_digest.as_bytes()]);
    let begins_anyway = attempt == 1 || planted(Planted::RetriedRequestBeginsAnew);
    let role = if begins_anyway { KeyRole::BeginsAnyway } else { KeyRole::Joins };
    Some(RequestKey { start: StartKey { key, request: request_digest }, role })
}

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartKey {
    /// SHA-256, in hex, of the key within its saga, host and caller.
    pub key: String,
    /// SHA-256, in hex, of the request: method, path with query, body. The same key with another request is an error.
    pub request: String,
}

impl StartKey {
    /// Of a request, which `facts` give to expressions. None: the request has no key.
    ///
    /// # Errors
    /// The configured expression cannot be evaluated, or does not give a string.
    pub fn of(definition: &Definition, request: &ClientRequest, facts: &Json) -> Result<Option<StartKey>, RenderError> {
        let key = match &definition.start_key {
            None => values(request, "idempotency-key"),
            Some(expression) => {
                let facts = Facts { request: Some(facts), ..Facts::default() };
                expression.evaluate_string(&facts)?.into_bytes()
            }
        };
        if key.is_empty() || planted(Planted::StartKeyIgnored) {
            return Ok(None);
        }
        let (name, host, caller) = scope_of(definition, request);
        Ok(Some(StartKey {
            key: digest([name.as_bytes(), host.as_bytes(), &caller, &key]),
            request: digest_of(request),
        }))
    }
}

/// Who begins a saga, as a hash: whoever could not have begun it is told nothing of it.
pub fn who(definition: &Definition, request: &ClientRequest) -> String {
    let (name, host, caller) = scope_of(definition, request);
    digest([name.as_bytes(), host.as_bytes(), &caller])
}

/// Within what a key counts: the saga's name, the host, and who calls.
fn scope_of<'a>(definition: &'a Definition, request: &ClientRequest) -> (&'a str, String, Vec<u8>) {
    let host = without_port(&request.host).to_ascii_lowercase();
    (&definition.name, host, values(request, "authorization"))
}

fn digest_of(request: &ClientRequest) -> String {
    digest([request.method.as_bytes(), request.path.as_bytes(), &request.body])
}

/// All lines of a header.
fn values(request: &ClientRequest, name: &str) -> Vec<u8> {
    let lines = request.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let lines: Vec<&[u8]> = lines.map(|(_, value)| value.as_slice()).collect();
    lines.join(&b',')
}

/// Each part with its length, so that none can pass for the end of the one before.
fn digest<const PARTS: usize>(parts: [&[u8]; PARTS]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::facts;
    use serde_json::json;

    fn definition(start_key: Option<&str>) -> std::sync::Arc<Definition> {
        let mut saga = json!({"name": "trip", "match": {"path": "/trips"}, "steps": [
            {"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"}}]});
        if let Some(start_key) = start_key {
            saga["start_key"] = json!(start_key);
        }
        let configuration = config::from_json(&json!({"version": 1, "sagas": [saga]}));
        std::sync::Arc::clone(&configuration.unwrap_or_else(|errors| panic!("{errors}")).definitions[0])
    }

    fn request() -> ClientRequest {
        ClientRequest {
            method: "POST".to_owned(),
            path: "/trips?a=1".to_owned(),
            host: "travel.example".to_owned(),
            headers: vec![
                ("idempotency-key".to_owned(), b"k1".to_vec()),
                ("authorization".to_owned(), b"ann".to_vec()),
            ],
            body: br#"{"guest":"ann"}"#.to_vec(),
        }
    }

    fn key(start_key: Option<&str>, request: &ClientRequest) -> Result<Option<StartKey>, RenderError> {
        StartKey::of(&definition(start_key), request, &facts::request(request, &[]))
    }

    #[test]
    fn the_same_request_has_the_same_key_and_hides_it() {
        let one = key(None, &request()).unwrap().unwrap();
        assert_eq!(key(None, &request()).unwrap(), Some(one.clone()));
        assert_eq!((one.key.len(), one.request.len()), (64, 64));
        assert!(one.key.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn a_key_counts_within_host_and_caller() {
        let one = key(None, &request()).unwrap().unwrap();
        let mut host = request();
        host.host = "other.example".to_owned();
        let mut caller = request();
        caller.headers[1].1 = b"bob".to_vec();
        let mut other = request();
        other.headers[0].1 = b"k2".to_vec();
        for request in [host, caller, other] {
            let found = key(None, &request).unwrap().unwrap();
            assert_ne!(found.key, one.key);
            assert_eq!(found.request, one.request);
        }
        for host in ["Travel.Example", "travel.example:8080", "travel.example.", "TRAVEL.example.:80"] {
            let mut same = request();
            same.host = host.to_owned();
            assert_eq!(key(None, &same).unwrap().as_ref(), Some(&one), "{host}");
        }
    }

    #[test]
    fn another_request_under_the_same_key_is_told_apart() {
        let one = key(None, &request()).unwrap().unwrap();
        let mut query = request();
        query.path = "/trips?a=2".to_owned();
        let mut body = request();
        body.body.push(b' ');
        let mut method = request();
        method.method = "PUT".to_owned();
        for request in [query, body, method] {
            let found = key(None, &request).unwrap().unwrap();
            assert_eq!(found.key, one.key);
            assert_ne!(found.request, one.request);
        }
    }

    #[test]
    fn without_a_key_every_request_is_a_saga_of_its_own() {
        let mut plain = request();
        plain.headers.remove(0);
        assert_eq!(key(None, &plain).unwrap(), None);
        let mut empty = request();
        empty.headers[0].1.clear();
        assert_eq!(key(None, &empty).unwrap(), None);
        assert_eq!(key(Some("''"), &request()).unwrap(), None);
    }

    #[test]
    fn a_configured_key_is_what_its_expression_gives() {
        let one = key(Some("request.body.guest"), &request()).unwrap().unwrap();
        let mut other = request();
        other.headers[0].1 = b"k2".to_vec();
        assert_eq!(key(Some("request.body.guest"), &other).unwrap(), Some(one));
        assert!(key(Some("request.body.nights"), &request()).is_err());
        let number = key(Some("1 + 1"), &request()).unwrap_err().to_string();
        assert!(number.contains("not a string"), "{number}");
    }

    fn attempt(count: Option<&str>, id: &str) -> ClientRequest {
        let mut request = request();
        request.headers.remove(0);
        request.headers.push(("x-request-id".to_owned(), id.as_bytes().to_vec()));
        let count = count.map(|count| ("x-envoy-attempt-count".to_owned(), count.as_bytes().to_vec()));
        request.headers.extend(count);
        request
    }

    fn known_by(request: &ClientRequest) -> Option<RequestKey> {
        RequestKey::of(&definition(None), request, &facts::request(request, &[])).unwrap()
    }

    #[test]
    fn attempts_of_a_proxy_in_front_have_a_key_in_common_and_only_a_further_one_joins() {
        let first = known_by(&attempt(Some("1"), "r1")).unwrap();
        let second = known_by(&attempt(Some("2"), "r1")).unwrap();
        assert_eq!((first.role, second.role), (KeyRole::BeginsAnyway, KeyRole::Joins));
        assert_eq!(first.start, second.start);
        let mut other_body = attempt(Some("2"), "r1");
        other_body.body.push(b' ');
        let mut other_caller = attempt(Some("2"), "r1");
        other_caller.headers[0].1 = b"bob".to_vec();
        for other in [attempt(Some("2"), "r2"), other_body, other_caller] {
            assert_ne!(known_by(&other).unwrap().start.key, second.start.key);
        }
        for none in [attempt(None, "r1"), attempt(Some("2"), ""), attempt(Some("0"), "r1"), attempt(Some("x"), "r1")] {
            assert_eq!(known_by(&none), None);
        }
    }

    #[test]
    fn the_clients_own_key_outranks_that_of_a_proxy_in_front() {
        let mut request = attempt(Some("1"), "r1");
        request.headers.push(("idempotency-key".to_owned(), b"k1".to_vec()));
        let known = known_by(&request).unwrap();
        assert_eq!((known.role, &known.start), (KeyRole::Joins, &key(None, &self::request()).unwrap().unwrap()));
    }
}
