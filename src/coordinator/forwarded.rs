//! Headers of the client's request that go with every call of its saga.

use crate::facts::ClientRequest;

/// Trace context, in the forms that Envoy and Istio know: W3C Trace Context and Baggage, B3, Envoy's request id.
const TRACE_HEADERS: &[&str] = &["traceparent", "tracestate", "baggage", "b3", "x-request-id"];
const TRACE_PREFIX: &str = "x-b3-";

/// Whether a header of this lower-case name goes along.
pub(super) fn is_forwarded(name: &str, also: &[String]) -> bool {
    TRACE_HEADERS.contains(&name) || name.starts_with(TRACE_PREFIX) || also.iter().any(|other| other == name)
}

/// Takes the request and the lower-case names of `forward_headers`; gives names and values in the order received.
/// A value that is not UTF-8 is left out: it could not be passed on as it was.
pub fn forwarded(request: &ClientRequest, also: &[String]) -> Vec<(String, String)> {
    let mut forwarded = Vec::new();
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        if let (true, Ok(value)) = (is_forwarded(&name, also), std::str::from_utf8(value)) {
            forwarded.push((name, value.to_owned()));
        }
    }
    forwarded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_headers_and_the_configured_ones_go_along_and_no_others() {
        let headers = [
            ("Traceparent", "00-1-2-01"),
            ("x-b3-traceid", "1"),
            ("x-b3", "no"),
            ("accept-encoding", "gzip"),
            ("x-user", "ann"),
            ("x-user", "bob"),
            ("cookie", "secret"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        let mut request = ClientRequest {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            host: "h".to_owned(),
            headers: headers.to_vec(),
            body: Vec::new(),
        };
        request.headers.push(("baggage".to_owned(), vec![0xff]));
        let names = forwarded(&request, &["x-user".to_owned()]);
        let names: Vec<(&str, &str)> = names.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(names, [("traceparent", "00-1-2-01"), ("x-b3-traceid", "1"), ("x-user", "ann"), ("x-user", "bob")]);
    }
}
