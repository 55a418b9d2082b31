//! Start keys: by them a client that repeats its request gets its saga, not a second one.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header. A key is the client's own, so it counts within the saga's name, the
//! host and the caller's `authorization`. Neither it nor the request is kept, only what they hash to.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::definition::Definition;
use crate::facts::ClientRequest;
use crate::planted::{Planted, planted};
use crate::template::{Facts, RenderError};

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
        let host = request.host.to_ascii_lowercase();
        let caller = values(request, "authorization");
        Ok(Some(StartKey {
            key: digest([definition.name.as_bytes(), host.as_bytes(), &caller, &key]),
            request: digest([request.method.as_bytes(), request.path.as_bytes(), &request.body]),
        }))
    }
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
        let mut case = request();
        case.host = "Travel.Example".to_owned();
        assert_eq!(key(None, &case).unwrap(), Some(one));
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
