//! Requests that an application may take for what begins a saga, although they are spelt in another way.
//!
//! Applications differ in what they take for one path: `/trips/`, `//trips`, `/trips;a=1` and `/%74rips` are `/trips` to
//! many, and some take `post` for `POST`. None of these begins a saga; so none may pass, whatever Envoy's own
//! `normalize_path` and `merge_slashes` say. All spellings of a path have one plain form, of patterns as of requests.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{Matcher, PathPattern, Segment, without_query};
use crate::answer::{Problem, Reply};

/// How often a path may be encoded on top of itself.
const MOST_DECODINGS: usize = 4;

/// Why a request that only resembles what begins a saga is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resemblance {
    /// It is spelt in another way than the definition says: method and path as they should be.
    Spelling(String),
    /// It asks for an upgrade and is no `GET`.
    Upgrade,
    /// It is a copy of another request.
    Mirrored,
    /// It is gRPC: Envoy would make a gRPC error of the saga's answer, and its client would try again.
    Grpc,
}

impl Resemblance {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        let (status, kind, title, detail) = match self {
            Resemblance::Spelling(expected) => {
                let detail = format!(
                    "this begins a saga only as {expected}, without other percent-encoding, slashes, dots or \
                     semicolons in its path, and with its method in upper case"
                );
                (400, "spelling", "The request is spelt in another way than its saga", detail)
            }
            Resemblance::Upgrade => {
                let detail = "a request that begins a saga cannot ask for an upgrade".to_owned();
                (400, "upgrade", "The request asks for an upgrade", detail)
            }
            Resemblance::Mirrored => {
                let detail =
                    "its host ends as Envoy ends the host of a request that it mirrors: a saga begins for the original";
                (400, "mirrored", "The request is a copy of another", detail.to_owned())
            }
            Resemblance::Grpc => {
                let detail = "a request with `content-type: application/grpc` begins no saga".to_owned();
                (415, "grpc", "The request is gRPC", detail)
            }
        };
        Problem::new(status, kind, title, detail).into_reply()
    }
}

impl Matcher {
    /// The same matcher for plain forms of paths.
    pub(super) fn plain(&self) -> Matcher {
        let path = match &self.path {
            PathPattern::Exact(path) => PathPattern::Exact(plain(path).into_owned()),
            PathPattern::Prefix(path) => PathPattern::Prefix(plain(path).into_owned()),
            PathPattern::Template(segments) => PathPattern::Template(segments.iter().map(plain_segment).collect()),
        };
        Matcher { path, ..self.clone() }
    }

    /// Method and path, as a request has to have them.
    pub(super) fn request_line(&self) -> String {
        format!("{} {}", self.method.as_deref().unwrap_or("any method"), self.path)
    }
}

fn plain_segment(segment: &Segment) -> Segment {
    match segment {
        Segment::Parameter(_) => segment.clone(),
        Segment::Literal(text) => Segment::Literal(plain(text).trim_start_matches('/').to_owned()),
    }
}

/// The plain form of a path: without query, decoded, without parameters, without empty and dot segments.
pub(super) fn plain(path: &str) -> Cow<'_, str> {
    let path = without_query(path);
    if is_plain(path) {
        return Cow::Borrowed(path);
    }
    // Parameters end where the next segment begins, by what is a slash at that time: some drop them before they decode.
    let mut decoded = without_parameters(path);
    for _ in 0..MOST_DECODINGS {
        if !decoded.contains('%') {
            break;
        }
        decoded = without_parameters(&percent_decode_str(&decoded).decode_utf8_lossy());
    }
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        // To a regular expression `$` may stand before a line break.
        match segment.trim_matches(|character: char| character.is_whitespace() || character.is_control()) {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// Each segment up to its first `;`.
fn without_parameters(path: &str) -> String {
    let mut is_parameter = false;
    let kept = path.chars().filter(|character| {
        is_parameter = *character == ';' || (is_parameter && !matches!(character, '/' | '\\'));
        !is_parameter
    });
    kept.collect()
}

/// Most paths are, and need no copy. May be false of a plain one.
fn is_plain(path: &str) -> bool {
    let ends_plainly = path == "/" || !path.ends_with('/');
    ends_plainly && !path.contains(['%', ';', '\\']) && !path.contains("//") && !path.contains("/.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_path_have_one_plain_form() {
        for path in [
            "/trips",
            "/trips/",
            "//trips",
            "/trips//",
            "/trips;a=1",
            "/trips;a=%2fb",
            "/trips;x=%5cb",
            "/trips%3Ba=%252fb",
            "/trips%0a",
            "/trips%20",
            "/trips%00",
            "/;x/trips",
            "/trips%2f",
            "/trips%2F",
            "/%74rips",
            "/%2574rips",
            "/trips?x=/",
            "/trips/?x",
            "/./trips",
            "/a/../trips",
            "/a/%2e%2e/trips",
            "/trips/.",
            "\\trips",
            "/trips%3Ba=1",
            "/trips%5C",
            "/..;/trips",
        ] {
            assert_eq!(plain(path), "/trips", "{path}");
        }
        for path in ["/", "/.", "//", "/a/.."] {
            assert_eq!(plain(path), "/", "{path}");
        }
        for path in ["/Trips", "/tripsy", "/trips/1", "/trips.", "/trips%20x", "/tri%FFps"] {
            assert_ne!(plain(path), "/trips", "{path}");
        }
    }
}
