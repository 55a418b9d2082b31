//! Start keys: by them a client that repeats its request gets its saga, not a second one.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header. A key is the client's own, so it counts within the saga's name, the
//! host and the caller's `authorization`. Neither it nor the request is kept, only what they hash to.
//!
//! A request without a key that a proxy in front may repeat has one all the same, made of what Envoy tells of the
//! attempts of one request: `x-request-id` is the same in all of them, `x-envoy-attempt-count` is 1 in the first.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::definition::Definition;
use crate::facts::ClientRequest;
use crate::matcher::without_port;
use crate::planted::{Planted, planted};
use crate::template::{Facts, RenderError};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";
const REQUEST_ID: &str = "x-request-id";
const AUTHORIZATION: &str = "authorization";

/// The headers of a request that keys are made of, besides those that a configured expression reads.
pub const HEADERS_READ: [&str; 4] = [IDEMPOTENCY_KEY, ATTEMPT_COUNT, REQUEST_ID, AUTHORIZATION];

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartKey {
    /// SHA-256, in hex, of the key within its saga, host and caller.
    pub key: String,
    /// SHA-256, in hex, of the request: method, path with query, body. The same key with another request is an error.
    pub request: String,
}

/// The idempotency key of a request, by who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdempotencyKey {
    /// The client, or the configured expression.
    OfClient(StartKey),
    /// Nobody: a proxy in front sends the request for the first time, and may send it again.
    OfFirstAttempt(AttemptKeys),
    /// Nobody: a proxy in front sends the request once more.
    OfRetry(AttemptKeys),
}

/// The key that all attempts of one request have, with either sort of attempt that may have begun the saga. The sort takes
/// the place of the request, which is in the key itself.
///
/// A client may give all its requests the same `x-request-id`. Of two equal requests each has a first attempt, and each
/// first attempt begins a saga; but a first attempt that a retry has overtaken belongs to the saga of the retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptKeys {
    /// Of a saga that a first attempt has begun.
    pub first: StartKey,
    /// Of a saga that a retry has begun.
    pub retry: StartKey,
}

impl IdempotencyKey {
    /// Of a request, which `facts` give to expressions. None: no other request can mean the same saga.
    ///
    /// # Errors
    /// The configured expression cannot be evaluated, or does not give a string.
    pub fn of(
        definition: &Definition,
        request: &ClientRequest,
        facts: &Json,
    ) -> Result<Option<IdempotencyKey>, RenderError> {
        let of_client = StartKey::of(definition, request, facts)?.map(IdempotencyKey::OfClient);
        Ok(of_client.or_else(|| IdempotencyKey::of_attempt(definition, request)))
    }

    /// Whether a request may have one, as far as its headers tell: the body is not here yet. `has` says whether there is a
    /// header.
    pub fn may_be_of(definition: &Definition, has: impl Fn(&str) -> bool) -> bool {
        definition.start_key.is_some() || has(IDEMPOTENCY_KEY) || (has(ATTEMPT_COUNT) && has(REQUEST_ID))
    }

    /// Of an attempt, as Envoy counts them.
    fn of_attempt(definition: &Definition, request: &ClientRequest) -> Option<IdempotencyKey> {
        let count = String::from_utf8(values(request, ATTEMPT_COUNT)).ok()?;
        let count: u32 = count.parse().ok()?;
        let request_id = values(request, REQUEST_ID);
        if count == 0 || request_id.is_empty() || planted(Planted::RetriedRequestBeginsAnew) {
            return None;
        }
        let whole = [request.method.as_bytes(), request.path.as_bytes(), &request.body];
        let [name, host, caller] = scope(definition, request);
        let key = digest([b"attempts of one request", &name, &host, &caller, &request_id, digest(whole).as_bytes()]);
        let begun_by = |sort: &[u8]| StartKey { key: key.clone(), request: digest([sort]) };
        let keys = AttemptKeys { first: begun_by(b"first attempt"), retry: begun_by(b"retry") };
        Some(if count == 1 { IdempotencyKey::OfFirstAttempt(keys) } else { IdempotencyKey::OfRetry(keys) })
    }

    /// Under which the request begins a saga.
    pub fn begins(&self) -> &StartKey {
        match self {
            IdempotencyKey::OfClient(key) => key,
            IdempotencyKey::OfFirstAttempt(keys) => &keys.first,
            IdempotencyKey::OfRetry(keys) => &keys.retry,
        }
    }

    /// By which the saga is found whose answer the request gets. It is another's if it belongs to another request.
    pub fn looks_for(&self) -> &StartKey {
        match self {
            IdempotencyKey::OfClient(key) => key,
            IdempotencyKey::OfFirstAttempt(keys) | IdempotencyKey::OfRetry(keys) => &keys.retry,
        }
    }
}

/// What a key counts within: the saga, the host and the caller. A host may be written with or without its port and the
/// dot of a full name, in any case.
fn scope(definition: &Definition, request: &ClientRequest) -> [Vec<u8>; 3] {
    let host = without_port(&request.host).to_ascii_lowercase();
    [definition.name.clone().into_bytes(), host.into_bytes(), values(request, AUTHORIZATION)]
}

impl StartKey {
    /// Of a request, which `facts` give to expressions. None: the request has no key.
    ///
    /// # Errors
    /// The configured expression cannot be evaluated, or does not give a string.
    pub fn of(definition: &Definition, request: &ClientRequest, facts: &Json) -> Result<Option<StartKey>, RenderError> {
        let key = match &definition.start_key {
            None => values(request, IDEMPOTENCY_KEY),
            Some(expression) => {
                let facts = Facts { request: Some(facts), ..Facts::default() };
                expression.evaluate_string(&facts)?.into_bytes()
            }
        };
        if key.is_empty() || planted(Planted::StartKeyIgnored) {
            return Ok(None);
        }
        let [name, host, caller] = scope(definition, request);
        Ok(Some(StartKey {
            key: digest([&name, &host, &caller, &key]),
            request: digest([request.method.as_bytes(), request.path.as_bytes(), &request.body]),
        }))
    }
}

/// Who begins a saga, as a hash: whoever could not have begun it is told nothing of it.
pub fn who(definition: &Definition, request: &ClientRequest) -> String {
    let host = without_port(&request.host).to_ascii_lowercase();
    digest([definition.name.as_bytes(), host.as_bytes(), &values(request, AUTHORIZATION)])
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
        for written in ["Travel.Example", "travel.example.", "travel.example:8080", "TRAVEL.example.:443"] {
            let mut same = request();
            same.host = written.to_owned();
            assert_eq!(key(None, &same).unwrap(), Some(one.clone()), "{written}");
        }
    }

    fn attempt(count: &str, request_id: &str) -> ClientRequest {
        let mut request = request();
        request.headers = vec![
            ("x-envoy-attempt-count".to_owned(), count.as_bytes().to_vec()),
            ("x-request-id".to_owned(), request_id.as_bytes().to_vec()),
        ];
        request
    }

    fn idempotency_key(start_key: Option<&str>, request: &ClientRequest) -> Option<IdempotencyKey> {
        IdempotencyKey::of(&definition(start_key), request, &facts::request(request, &[])).unwrap()
    }

    #[test]
    fn a_retry_has_the_key_of_the_first_attempt_and_says_which_it_is() {
        let Some(IdempotencyKey::OfFirstAttempt(first)) = idempotency_key(None, &attempt("1", "r1")) else {
            panic!("no first attempt")
        };
        let again = ["2", "3"].map(|count| idempotency_key(None, &attempt(count, "r1")).unwrap());
        assert_eq!(again, [IdempotencyKey::OfRetry(first.clone()), IdempotencyKey::OfRetry(first.clone())]);
        assert_eq!(first.first.key, first.retry.key);
        assert_ne!(first.first.request, first.retry.request);
        assert_eq!((again[0].begins(), again[0].looks_for()), (&first.retry, &first.retry));
    }

    #[test]
    fn another_request_under_the_same_request_id_has_another_key() {
        let key = |request: &ClientRequest| idempotency_key(None, request).unwrap().begins().key.clone();
        let one = key(&attempt("2", "r1"));
        let mut changed = [attempt("2", "r2"), attempt("2", "r1"), attempt("2", "r1"), attempt("2", "r1")];
        changed[1].body.push(b' ');
        changed[2].path.push('0');
        changed[3].headers.push(("authorization".to_owned(), b"bob".to_vec()));
        assert!(changed.iter().all(|request| key(request) != one));
    }

    #[test]
    fn a_request_that_nobody_repeats_has_no_key() {
        for (count, request_id) in [("", "r1"), ("0", "r1"), ("two", "r1"), ("1,1", "r1"), ("1", "")] {
            assert_eq!(idempotency_key(None, &attempt(count, request_id)), None, "{count:?} {request_id:?}");
        }
    }

    #[test]
    fn the_key_of_the_client_outranks_the_attempt() {
        let mut both = attempt("2", "r1");
        both.headers.push(("idempotency-key".to_owned(), b"k1".to_vec()));
        for start_key in [None, Some("request.body.guest")] {
            assert!(matches!(idempotency_key(start_key, &both), Some(IdempotencyKey::OfClient(_))));
        }
        assert!(matches!(idempotency_key(Some("''"), &both), Some(IdempotencyKey::OfRetry(_))));
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
}
