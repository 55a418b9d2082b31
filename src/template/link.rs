//! Links that participants give: the path and the query of the URL that an answer names.

use percent_encoding::percent_decode_str;

/// Which part of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkPart {
    /// Without scheme, authority and query.
    Path,
    /// What stands behind the `?`.
    Query,
}

/// A part of `link`, as it stands there, or why it cannot be followed. A link with a query means something else without
/// it: a template that takes the path must take the query, too.
pub(super) fn part(link: &str, part: LinkPart, takes_query: bool) -> Result<&str, String> {
    let target = without_origin(link)?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if part == LinkPart::Query {
        let query = query.unwrap_or_default();
        check_characters(query)?;
        return Ok(query);
    }
    if query.is_some() && !takes_query {
        return Err("gives a link with a query: add `?${query(...)}`".to_owned());
    }
    if !path.starts_with('/') || path.starts_with("//") {
        return Err("gives a link whose path does not begin with one `/`".to_owned());
    }
    check_characters(path)?;
    check_segments(path)?;
    Ok(path)
}

/// The characters of RFC 3986 for paths and queries, and `[]`, which queries hold in practice.
pub(super) fn is_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?%[]".contains(c)
}

/// Whether each `%` stands before two hexadecimal digits.
pub(super) fn has_whole_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let mut bytes = after.bytes();
        (0..2).all(|_| bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit()))
    })
}

/// Path and query. The scheme is one of HTTP.
fn without_origin(link: &str) -> Result<&str, String> {
    let Some((scheme, rest)) = link.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return Ok(link);
    };
    if !(scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")) {
        return Err("gives a link whose scheme is not `http` or `https`".to_owned());
    }
    let authority = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    Ok(rest.get(authority..).unwrap_or_default())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn check_characters(text: &str) -> Result<(), String> {
    if let Some(character) = text.chars().find(|&character| !is_path(character)) {
        return Err(format!("gives a link with the character {character:?}"));
    }
    if !has_whole_escapes(text) {
        return Err("gives a link with a `%` that begins no escape".to_owned());
    }
    Ok(())
}

/// Servers and proxies decode a path before they resolve it, some of them twice.
fn check_segments(path: &str) -> Result<(), String> {
    let mut decoded = path.to_owned();
    for _ in 0..3 {
        // Behind a `;` stand parameters of the segment.
        let names = decoded.split(['/', '\\']).map(|segment| segment.split(';').next().unwrap_or_default());
        if names.into_iter().any(|name| matches!(name, "." | "..")) {
            return Err("gives a link with a segment `.` or `..`".to_owned());
        }
        if decoded.chars().any(char::is_control) {
            return Err("gives a link with an encoded control character".to_owned());
        }
        decoded = percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_on_the_host_that_the_call_names() {
        for (link, path, query) in [
            ("/bookings/h1", "/bookings/h1", ""),
            ("https://hotel.example/bookings/h1", "/bookings/h1", ""),
            ("HTTP://hotel:8080/bookings/h%20/1/?a=1&b=/x", "/bookings/h%20/1/", "a=1&b=/x"),
            ("/a;v=1/b", "/a;v=1/b", ""),
            ("/a?", "/a", ""),
            ("/K%C3%B6ln", "/K%C3%B6ln", ""),
        ] {
            assert_eq!(part(link, LinkPart::Path, true), Ok(path), "{link}");
            assert_eq!(part(link, LinkPart::Query, true), Ok(query), "{link}");
        }
    }

    #[test]
    fn a_link_that_could_mean_something_else_is_refused() {
        for link in [
            "",
            "bookings/h1",
            "//evil.example/x",
            "https://hotel.example",
            "https:/x",
            "ftp://h/x",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/a/%2E./b",
            "/a%2f..%2fb",
            "/a/..%5cb",
            "/%252e%252e/b",
            "/..;v=1/b",
            "/a\\b",
            "/a b",
            "/a#b",
            "/a\r\nx: y",
            "/é",
            "/%00",
            "/%0d%0a",
            "/a%",
            "/a%2",
            "/a\u{2028}",
            "https://h\\/../x",
        ] {
            assert!(part(link, LinkPart::Path, true).is_err(), "{link}");
        }
        assert!(part("/a?b=1", LinkPart::Path, false).is_err_and(|why| why.contains("query")));
        for link in ["/a?b#c", "/a?b c", "/a?%", "/a?é"] {
            assert!(part(link, LinkPart::Query, true).is_err(), "{link}");
        }
    }
}
