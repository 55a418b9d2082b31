//! Which requests begin a saga.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

mod spelling;
mod table;

pub use spelling::Resemblance;
pub use table::MatcherTable;

/// What matchers look at of a request.
pub struct RequestHead<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:path`, with its query.
    pub path: &'a str,
    /// `:authority`, with its port if it has one.
    pub host: &'a str,
    /// Gives a header by its lower-case name. Only called when a matcher needs the header.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// What a request must be like to begin a saga. All of it must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matcher {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    path: PathPattern,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderPattern>,
}

/// What a path, without its query, must be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// Its first segments. Ends with `/` only where it is `/`, which every path begins with.
    Prefix(String),
    /// All of its segments.
    Template(Vec<Segment>),
}

/// One segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// This text.
    Literal(String),
    /// Any text that is not empty; it becomes the parameter of this name.
    Parameter(String),
}

/// What must hold of one request header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderPattern {
    /// Lower-case.
    pub name: String,
    /// What must hold of its value.
    pub test: HeaderTest,
}

/// What must hold of a header's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderTest {
    /// It is this.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// The header is there (true), or it is not (false).
    Present(bool),
}

impl Matcher {
    /// A matcher of requests with this method and host (none: any), this path and these headers.
    pub fn new(method: Option<String>, path: PathPattern, host: Option<String>, headers: Vec<HeaderPattern>) -> Self {
        let host = host.map(|host| without_port(&host).to_ascii_lowercase());
        Self { method, path, host, headers }
    }

    /// What the method must be; none: any.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// What the path must be like.
    pub fn path(&self) -> &PathPattern {
        &self.path
    }

    /// The parameters of the path, percent-decoded and in its order, if the request begins this saga.
    ///
    /// `CONNECT` and upgrades never do: they have no end, and a saga begins at the end of a request. Nor do what Envoy mirrors,
    /// of which somebody has the original, and gRPC, whose clients are answered in another way.
    pub fn matches(&self, request: &RequestHead) -> Option<Vec<(String, String)>> {
        let method_holds = match &self.method {
            Some(method) => method == request.method,
            None => may_be_any(request.method),
        };
        if !method_holds || !self.host_holds(request.host) || !self.headers_hold(request) {
            return None;
        }
        let parameters = self.path.parameters(without_query(request.path))?;
        let begins = !is_upgrade(request) && !is_grpc(request) && !self.is_mirrored(request.host);
        begins.then_some(parameters)
    }

    /// How a request whose path, in its plain form, is the one of this matcher resembles what begins the saga without
    /// beginning it. None: not at all, or it is an upgrade of a `GET`, which answers with no booking.
    fn resemblance(&self, request: &RequestHead) -> Option<Resemblance> {
        let method_resembles = match &self.method {
            Some(method) => method.eq_ignore_ascii_case(request.method),
            None => may_be_any(request.method),
        };
        let mirrors = without_port(request.host).strip_suffix(MIRRORED);
        let host_resembles = self.host_holds(request.host) || mirrors.is_some_and(|host| self.host_holds(host));
        if !method_resembles || !host_resembles || !self.headers_hold(request) {
            return None;
        }
        match is_upgrade(request) {
            true if request.method == "GET" => None,
            true => Some(Resemblance::Upgrade),
            false if self.is_mirrored(request.host) => Some(Resemblance::Mirrored),
            false if is_grpc(request) => Some(Resemblance::Grpc),
            false => Some(Resemblance::Spelling(self.request_line())),
        }
    }

    fn host_holds(&self, host: &str) -> bool {
        self.host.as_ref().is_none_or(|own| without_port(host).eq_ignore_ascii_case(own))
    }

    fn headers_hold(&self, request: &RequestHead) -> bool {
        request.method != "CONNECT" && self.headers.iter().all(|header| header.holds(request))
    }

    /// Whether Envoy has made the request as a copy of another (`request_mirror_policies`), for all that its host says.
    fn is_mirrored(&self, host: &str) -> bool {
        let is_own = self.host.is_some() && self.host_holds(host);
        without_port(host).ends_with(MIRRORED) && !is_own
    }
}

/// What Envoy adds to the host of a request that it mirrors.
const MIRRORED: &str = "-shadow";

/// Whether a definition that names no method takes this one. `OPTIONS`, `HEAD` and `TRACE` ask about a resource, and the
/// application answers them; `CONNECT` has no path.
fn may_be_any(method: &str) -> bool {
    !["OPTIONS", "HEAD", "TRACE", "CONNECT"].iter().any(|other| other.eq_ignore_ascii_case(method))
}

impl PathPattern {
    fn parameters(&self, path: &str) -> Option<Vec<(String, String)>> {
        match self {
            Self::Exact(exact) => (path == exact).then(Vec::new),
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_str())?;
                (prefix == "/" || rest.is_empty() || rest.starts_with('/')).then(Vec::new)
            }
            Self::Template(segments) => {
                let mut parts = path.strip_prefix('/')?.split('/');
                let mut parameters = Vec::new();
                for segment in segments {
                    let part = parts.next()?;
                    match segment {
                        Segment::Literal(text) if text == part => {}
                        Segment::Parameter(name) if !part.is_empty() => {
                            parameters.push((name.clone(), percent_decode_str(part).decode_utf8_lossy().into_owned()));
                        }
                        _ => return None,
                    }
                }
                parts.next().is_none().then_some(parameters)
            }
        }
    }
}

impl HeaderPattern {
    fn holds(&self, request: &RequestHead) -> bool {
        let value = (request.header)(&self.name);
        match (&self.test, value) {
            (HeaderTest::Exact(text), Some(value)) => value == *text,
            (HeaderTest::Prefix(text), Some(value)) => value.starts_with(text.as_str()),
            (HeaderTest::Present(present), value) => *present == value.is_some(),
            (_, None) => false,
        }
    }
}

/// What Envoy takes for gRPC, and answers as gRPC, whatever the answer is.
fn is_grpc(request: &RequestHead) -> bool {
    let is_grpc = |value: String| value == "application/grpc" || value.starts_with("application/grpc+");
    (request.header)("content-type").is_some_and(is_grpc)
}

/// An upgrade as Envoy tells it: `upgrade` is there and `connection` names it.
fn is_upgrade(request: &RequestHead) -> bool {
    let named = |value: String| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    (request.header)("upgrade").is_some_and(|value| !value.is_empty())
        && (request.header)("connection").is_some_and(named)
}

/// The path up to its query.
fn without_query(path: &str) -> &str {
    path.find(['?', '#']).and_then(|end| path.get(..end)).unwrap_or(path)
}

/// A host without its port and the dot of a full name; an IPv6 address keeps its brackets.
pub(crate) fn without_port(host: &str) -> &str {
    let name_end = match host.find(']') {
        Some(bracket) => bracket.saturating_add(1),
        None => host.find(':').unwrap_or(host.len()),
    };
    let name = host.get(..name_end).unwrap_or(host);
    // `hotel.example.com.` is the same host, written in full.
    name.strip_suffix('.').unwrap_or(name)
}

impl fmt::Display for Matcher {
    /// Method and path, such as `POST /trips/{id}`, then what else must hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_deref().unwrap_or("*"), self.path)?;
        if let Some(host) = &self.host {
            write!(f, ", host {host}")?;
        }
        for HeaderPattern { name, test } in &self.headers {
            match test {
                HeaderTest::Exact(text) => write!(f, ", {name}: {text}")?,
                HeaderTest::Prefix(text) => write!(f, ", {name}: {text}...")?,
                HeaderTest::Present(true) => write!(f, ", with {name}")?,
                HeaderTest::Present(false) => write!(f, ", without {name}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{}/**", prefix.trim_end_matches('/')),
            Self::Template(segments) => segments.iter().try_for_each(|segment| match segment {
                Segment::Literal(text) => write!(f, "/{text}"),
                Segment::Parameter(name) => write!(f, "/{{{name}}}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
