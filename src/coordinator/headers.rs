//! Which headers of a client's request are read. The others are never copied out of the proxy.

use std::collections::BTreeSet;

use super::depth;
use super::forwarded::is_forwarded;
use crate::definition::Definition;
use crate::facts::{self, ClientRequest};
use crate::journal;
use crate::planted::trap_header;
use crate::saga::{Problem, Reply};
use crate::template::Reads;

/// Longest headers of one request that are copied, in bytes: what Envoy takes by default (`max_request_headers_kb`), and
/// some.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// The headers that are read of a request that begins a saga of one definition: by its expressions, for the calls that
/// they go along with, and by the coordinator itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadersRead {
    /// An expression reads `request.headers` as a whole, or by a name that it computes.
    is_all: bool,
    /// Lower-case names, besides the trace headers.
    names: BTreeSet<String>,
    /// Lower-case names of `forward_headers`.
    forwarded: Vec<String>,
}

impl HeadersRead {
    /// Of a definition, in a configuration with these lower-case `forward_headers`.
    pub fn of(definition: &Definition, forward_headers: &[String]) -> HeadersRead {
        let mut read = HeadersRead { forwarded: forward_headers.to_vec(), ..HeadersRead::default() };
        read.add(&definition.reads);
        definition.start_key.iter().for_each(|key| read.add(key.reads()));
        let of_the_coordinator =
            journal::HEADERS_READ.into_iter().chain([depth::HEADER, facts::CONTENT_TYPE]).chain(trap_header());
        read.names.extend(of_the_coordinator.map(str::to_owned));
        read
    }

    fn add(&mut self, reads: &Reads) {
        for path in reads.paths() {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            match path.as_slice() {
                ["request"] | ["request", "headers"] => self.is_all = true,
                ["request", "headers", name, ..] => {
                    self.names.insert((*name).to_owned());
                }
                _ => {}
            }
        }
    }

    /// Whether a header of this lower-case name is read.
    fn includes(&self, name: &str) -> bool {
        self.is_all || self.names.contains(name) || is_forwarded(name, &self.forwarded)
    }

    /// The request, without its body, out of what the proxy has of it: `lines` with pseudo-headers, names in lower case.
    ///
    /// # Errors
    ///
    /// What is read of its headers is larger than [`MAX_HEADER_BYTES`]. Gives the answer.
    pub fn request(&self, lines: Vec<(String, Vec<u8>)>) -> Result<ClientRequest, Reply> {
        let mut request = ClientRequest::default();
        let mut bytes = 0_usize;
        // Bytes that are not UTF-8 must not carry a request past its saga.
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        for (name, value) in lines {
            match name.as_str() {
                ":method" => request.method = text(&value),
                ":path" => request.path = text(&value),
                ":authority" => request.host = text(&value),
                name if name.starts_with(':') || !self.includes(name) => {}
                _ => {
                    bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
                    request.headers.push((name, value));
                }
            }
        }
        if bytes > MAX_HEADER_BYTES { Err(too_large()) } else { Ok(request) }
    }
}

fn too_large() -> Reply {
    let detail = format!("the headers that the saga reads of a request may have at most {MAX_HEADER_BYTES} bytes");
    Problem::new(431, "headers-too-large", "The headers are too large", detail).into_reply()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value as Json, json};

    use super::super::{depth, forwarded::forwarded};
    use super::*;
    use crate::config;
    use crate::journal::{IdempotencyKey, who};

    fn definition(when: &str, start_key: Option<&str>) -> Arc<Definition> {
        let mut saga = json!({"name": "trip", "match": {"path": "/trips"}, "steps": [{
            "name": "hotel", "when": when,
            "transaction": {"cluster": "hotel", "method": "POST", "path": "/", "headers": {"x-a": "${request.headers.a}"}},
            "compensation": {"method": "DELETE", "path": "/${request.headers['B']}"},
        }]});
        if let Some(start_key) = start_key {
            saga["start_key"] = json!(start_key);
        }
        let configuration = config::from_json(&json!({"version": 1, "sagas": [saga]}));
        Arc::clone(&configuration.unwrap_or_else(|errors| panic!("{errors}")).definitions[0])
    }

    const LINES: [(&str, &str); 17] = [
        (":method", "POST"),
        (":path", "/trips?x=1"),
        (":authority", "travel.example"),
        (":scheme", "http"),
        ("a", "1"),
        ("a", "2"),
        ("b", "3"),
        ("c", "4"),
        ("d", "5"),
        ("traceparent", "00-1"),
        ("x-b3-traceid", "7"),
        ("x-request-id", "r"),
        ("x-envoy-attempt-count", "1"),
        ("authorization", "ann"),
        ("idempotency-key", "k"),
        ("saga-depth", "2"),
        ("content-type", "application/json"),
    ];

    fn lines() -> Vec<(String, Vec<u8>)> {
        LINES.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec()
    }

    fn names(read: &HeadersRead) -> Vec<String> {
        let mut names: Vec<_> = read.request(lines()).unwrap().headers.into_iter().map(|(name, _)| name).collect();
        names.dedup();
        names
    }

    #[test]
    fn only_headers_that_something_reads_are_copied() {
        let own = ["traceparent", "x-b3-traceid", "x-request-id", "x-envoy-attempt-count", "authorization"];
        let last = ["idempotency-key", "saga-depth", "content-type"];
        let read = HeadersRead::of(&definition("true", None), &[]);
        assert_eq!(names(&read), [&["a", "b"][..], &own, &last].concat());
        let read = HeadersRead::of(&definition("true", Some("request.headers.c")), &["d".to_owned()]);
        assert_eq!(names(&read), [&["a", "b", "c", "d"][..], &own, &last].concat());
        for whole in ["size(request.headers) > 1", "request.headers[request.method] == ''"] {
            assert_eq!(names(&HeadersRead::of(&definition(whole, None), &[])).len(), LINES.len() - 5, "{whole}");
        }
    }

    #[test]
    fn whoever_reads_the_request_cannot_tell_that_the_others_are_missing() {
        let all = HeadersRead { is_all: true, ..HeadersRead::default() }.request(lines()).unwrap();
        let forward = ["d".to_owned()];
        for (when, start_key) in [("true", None), ("has(request.headers.c)", Some("request.headers.d"))] {
            let definition = definition(when, start_key);
            let mut some = HeadersRead::of(&definition, &forward).request(lines()).unwrap();
            let mut all = all.clone();
            // JSON by its content type only.
            (some.body, all.body) = (b"12".to_vec(), b"12".to_vec());
            let seen = |request: &ClientRequest| {
                let facts = facts::request(request, &[]);
                let key = IdempotencyKey::of(&definition, request, &facts).unwrap();
                let forwarded = forwarded(request, &forward);
                let read: Json = definition.reads.project(&["request"], &facts);
                (key, who(&definition, request), depth::of(request), forwarded, read, facts["body"].clone())
            };
            assert_eq!(seen(&some), seen(&all), "{when}");
            assert_eq!((&some.method, &some.path, &some.host), (&all.method, &all.path, &all.host));
        }
    }

    #[test]
    fn headers_that_are_read_may_not_be_larger_than_envoy_takes_and_some() {
        let read = HeadersRead::of(&definition("true", None), &[]);
        let with = |name: &str, bytes: usize| read.request(vec![(name.to_owned(), vec![b'x'; bytes])]);
        assert!(with("a", MAX_HEADER_BYTES - 1).is_ok() && with("c", 10 * MAX_HEADER_BYTES).is_ok());
        assert_eq!(with("a", MAX_HEADER_BYTES).unwrap_err().status, 431);
    }
}
