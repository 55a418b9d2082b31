//! What names may look like, and which header names are refused.

use std::collections::BTreeMap;

use super::error::{Errors, join};
use super::located::{At, Located, optional};
use super::raw::RawHeaders;
use crate::template::{Place, Scope, Template};

/// Words that CEL reserves: a step with such a name could not be read as `steps.NAME`.
/// <https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax>
const RESERVED: [&str; 21] = [
    "in",
    "true",
    "false",
    "null",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Headers that belong to the connection and not to what is sent on it (RFC 9110, 7.6.1). Envoy sends them as they are
/// given, which lets a request be smuggled.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-connection",
];

/// `[a-z0-9-]{1,63}`
pub(super) fn is_saga_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

/// What a step's name should be, unless it is that.
pub(super) fn fault_of_step_name(name: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !begins_well || name.len() > 63 || !name.bytes().all(allowed) {
        return Some("a name like [a-z][a-z0-9_]{0,62}");
    }
    RESERVED.contains(&name).then_some("a name that CEL does not reserve: expressions could not read this step")
}

/// A token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What a method should be, unless it is that.
pub(super) fn fault_of_method(method: &str) -> Option<&'static str> {
    if !is_token(method) || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Some("an HTTP method, in upper case");
    }
    (method == "CONNECT").then_some("another method: CONNECT opens a tunnel")
}

/// What a header's name should be, unless it is that.
pub(super) fn fault_of_header_name(name: &str) -> Option<&'static str> {
    (!is_token(name)).then_some("a header name: letters, digits and !#$%&'*+-.^_`|~")
}

/// Why a call may not set this header (in lower case), if it may not.
pub(super) fn fault_of_call_header(name: &str) -> Option<&'static str> {
    let own = ["saga-", "x-envoy-", "proxy-"];
    if name.starts_with(':') || name == "host" {
        return Some("another header: `method`, `path` and `authority` are fields of the call");
    }
    if name == "idempotency-key" || own.iter().any(|prefix| name.starts_with(prefix)) {
        return Some("another header: idempotency-key, saga-*, x-envoy-* and proxy-* are set by the proxy alone");
    }
    HOP_BY_HOP.contains(&name).then_some("another header: this one belongs to the connection")
}

/// Why a reply may not set this header (in lower case), if it may not.
pub(super) fn fault_of_reply_header(name: &str) -> Option<&'static str> {
    if name.starts_with(':') {
        return Some("another header: `status` is a field of the reply");
    }
    if matches!(name, "saga-id" | "saga-status") {
        return Some("another header: every reply carries saga-id and saga-status of its own");
    }
    let of_the_connection = HOP_BY_HOP.contains(&name) || name.starts_with("proxy-");
    of_the_connection.then_some("another header: this one belongs to the connection")
}

/// Why a header (in lower case) is not copied from the client's request to calls, if it is not.
pub(super) fn fault_of_forwarded_header(name: &str) -> Option<&'static str> {
    match name {
        "accept-encoding" => Some("another header: expressions cannot read a compressed answer"),
        "content-type" | "content-encoding" => {
            Some("another header: this one describes the client's body, and calls have bodies of their own")
        }
        _ => fault_of_call_header(name).or_else(|| fault_of_header_name(name)),
    }
}

/// Checks header names by `refused`, and compiles the values. Names become lower-case.
pub(super) fn headers(
    raw: Option<Located<RawHeaders>>,
    refused: fn(&str) -> Option<&'static str>,
    scope: &Scope,
    errors: &mut Errors,
) -> Option<Vec<(String, Template)>> {
    let given = raw.is_some();
    let Some(At { path, value }) = optional(raw, errors) else {
        return (!given).then(Vec::new);
    };
    let mut compiled = BTreeMap::new();
    let count = value.len();
    for (written, source) in value {
        let here = join(&path, &written);
        let name = written.to_ascii_lowercase();
        let mut fault = refused(&name).or_else(|| fault_of_header_name(&name));
        if compiled.contains_key(&name) {
            fault = Some("each header once: names are compared without case");
        }
        if let Some(expected) = fault {
            errors.add(&here, &written, expected);
        }
        if let Some(source) = source.open(errors) {
            let template = template(&source, Place::Header, scope, errors);
            compiled.insert(name, template);
        }
    }
    let compiled: Vec<_> = compiled.into_iter().filter_map(|(name, template)| Some((name, template?))).collect();
    (compiled.len() == count).then_some(compiled)
}

/// Compiles a template, or records why it cannot be.
pub(super) fn template(source: &At<String>, place: Place, scope: &Scope, errors: &mut Errors) -> Option<Template> {
    Template::compile(&source.value, place, scope).map_err(|error| errors.template(&source.path, &error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_steps_are_those_that_expressions_can_read() {
        for name in ["a", "hotel", "hotel_2", &"a".repeat(63)] {
            assert_eq!(fault_of_step_name(name), None, "{name}");
        }
        for name in ["", "A", "2a", "_a", "a-b", "a.b", "é", "in", "while", "namespace", &"a".repeat(64)] {
            assert!(fault_of_step_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn names_of_sagas_fit_into_a_dns_label() {
        assert!(is_saga_name("book-trip-2"));
        for name in ["", "Book", "a_b", "a b", &"a".repeat(64)] {
            assert!(!is_saga_name(name), "{name}");
        }
    }

    #[test]
    fn a_call_sets_no_header_that_the_proxy_or_the_connection_owns() {
        let refused = [
            ":path",
            ":authority",
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
            "te",
            "trailer",
            "keep-alive",
            "proxy-authorization",
            "expect",
            "x-envoy-retry-on",
            "saga-id",
            "idempotency-key",
        ];
        for name in refused {
            assert!(fault_of_call_header(name).is_some(), "{name}");
        }
        for name in ["x-user", "authorization", "content-type", "accept", "sagabox", "x-envoyage"] {
            assert_eq!(fault_of_call_header(name), None, "{name}");
        }
    }

    #[test]
    fn a_reply_sets_no_header_that_the_proxy_or_the_connection_owns() {
        for name in [":status", "content-length", "transfer-encoding", "connection", "saga-id", "saga-status", "te"] {
            assert!(fault_of_reply_header(name).is_some(), "{name}");
        }
        for name in ["location", "set-cookie", "content-type", "retry-after"] {
            assert_eq!(fault_of_reply_header(name), None, "{name}");
        }
    }

    #[test]
    fn a_method_is_a_token_in_upper_case_and_not_connect() {
        for method in ["GET", "PATCH", "M-SEARCH"] {
            assert_eq!(fault_of_method(method), None, "{method}");
        }
        for method in ["", "get", "Get", "GE T", "GET\r\n", "CONNECT"] {
            assert!(fault_of_method(method).is_some(), "{method}");
        }
    }
}
