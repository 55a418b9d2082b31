//! Which requests begin a saga.

use std::collections::BTreeSet;

use super::error::Errors;
use super::located::{At, Located, optional, required, unless_faulty};
use super::names::{fault_of_header_name, fault_of_method};
use super::raw::{RawHeaderMatch, RawMatch};
use crate::matcher::{HeaderPattern, HeaderTest, Matcher, PathPattern, Segment, without_port};

/// What an error says of a path.
const PATH: &str = "a path that begins with /, in printable ASCII, without a query";
/// What an error says of the choice of a path.
const ONE_PATH: &str = "exactly one of path, path_prefix and path_template";
/// What an error says of the choice of a header's test.
const ONE_TEST: &str = "exactly one of exact, prefix and present";

/// Reads a `match`.
pub(super) fn matcher(raw: At<RawMatch>, errors: &mut Errors) -> Option<Matcher> {
    let At { path: here, value } = raw;
    let RawMatch { method, path, path_prefix, path_template, host, headers } = value;
    let method = unless_faulty(method, errors, |method, errors| {
        if let Some(expected) = fault_of_method(&method.value) {
            errors.add(&method.path, &method.value, expected);
        }
        Some(method.value)
    });
    let path = path_pattern(&here, path, path_prefix, path_template, errors);
    let host = unless_faulty(host, errors, |host, errors| {
        if !is_host(&host.value) {
            let expected = "a host name or address without port (IPv6 in brackets), and no pattern";
            errors.add(&host.path, &host.value, expected);
        }
        Some(host.value)
    });
    let headers = unless_faulty(headers, errors, |headers, errors| {
        let patterns = headers
            .value
            .into_iter()
            .map(|header| header.open(errors).and_then(|header| header_pattern(header, errors)));
        // All are read before one that is faulty ends it.
        patterns.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });
    Some(Matcher::new(method?, path?, host?, headers?.unwrap_or_default()))
}

fn path_pattern(
    here: &str,
    path: Option<Located<String>>,
    prefix: Option<Located<String>>,
    template: Option<Located<String>>,
    errors: &mut Errors,
) -> Option<PathPattern> {
    let given = [
        path.as_ref().map(|_| "path"),
        prefix.as_ref().map(|_| "path_prefix"),
        template.as_ref().map(|_| "path_template"),
    ];
    match given.into_iter().flatten().collect::<Vec<_>>().as_slice() {
        [] => errors.push(here, "none of them", ONE_PATH),
        [_] => {}
        several => errors.push(here, several.join(" and "), ONE_PATH),
    }
    let path = optional(path, errors).and_then(|path| is_path(&path, errors).then_some(PathPattern::Exact(path.value)));
    let prefix = optional(prefix, errors).and_then(|prefix| path_prefix_of(prefix, errors));
    let template = optional(template, errors).and_then(|template| path_template_of(&template, errors));
    path.or(prefix).or(template)
}

fn is_path(path: &At<String>, errors: &mut Errors) -> bool {
    let text = &path.value;
    let good =
        text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#');
    if !good {
        errors.add(&path.path, text, PATH);
    }
    good
}

fn path_prefix_of(prefix: At<String>, errors: &mut Errors) -> Option<PathPattern> {
    if !is_path(&prefix, errors) {
        return None;
    }
    if prefix.value != "/" && prefix.value.ends_with('/') {
        errors.add(&prefix.path, &prefix.value, "whole segments, so without / at the end");
        return None;
    }
    Some(PathPattern::Prefix(prefix.value))
}

fn path_template_of(template: &At<String>, errors: &mut Errors) -> Option<PathPattern> {
    if !is_path(template, errors) {
        return None;
    }
    let mut names = BTreeSet::new();
    let mut segments = Vec::new();
    for segment in template.value.split('/').skip(1) {
        if !segment.contains(['{', '}']) {
            segments.push(Segment::Literal(segment.to_owned()));
            continue;
        }
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).filter(|name| is_parameter(name));
        let Some(name) = name else {
            let expected = "segments that are text or one {name} like [A-Za-z_][A-Za-z0-9_]*, such as /trips/{id}";
            errors.add(&template.path, &template.value, expected);
            return None;
        };
        if !names.insert(name) {
            errors.add(&template.path, &template.value, format!("{{{name}}} once"));
            return None;
        }
        segments.push(Segment::Parameter(name.to_owned()));
    }
    Some(PathPattern::Template(segments))
}

fn is_parameter(name: &str) -> bool {
    let begins_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    begins_well && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_host(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && without_port(host) == host && host.bytes().all(allowed),
    }
}

fn header_pattern(raw: At<RawHeaderMatch>, errors: &mut Errors) -> Option<HeaderPattern> {
    let At { path: here, value: RawHeaderMatch { name, exact, prefix, present } } = raw;
    let name = required(name, &here, "name", "a header name", errors).and_then(|name| {
        let fault = fault_of_header_name(&name.value);
        if let Some(expected) = fault {
            errors.add(&name.path, &name.value, expected);
        }
        fault.is_none().then_some(name.value)
    });
    let count = [exact.is_some(), prefix.is_some(), present.is_some()].iter().filter(|given| **given).count();
    if count != 1 {
        errors.push(&here, format!("{count} of them"), ONE_TEST);
    }
    let exact = optional(exact, errors).map(|text| HeaderTest::Exact(text.value));
    let prefix = optional(prefix, errors).map(|text| HeaderTest::Prefix(text.value));
    let present = optional(present, errors).map(|present| HeaderTest::Present(present.value));
    Some(HeaderPattern { name: name?.to_ascii_lowercase(), test: exact.or(prefix).or(present)? })
}
