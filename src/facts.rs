//! What expressions can read of requests and responses, as JSON. Any bytes will do: nothing here fails.
//!
//! A body becomes a tree, which may take 80 times the memory of its text: whoever makes it one has weighed it before.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json, json};

use crate::template::BodyKind;

mod weight;

pub use weight::{MAX_VALUES, Weight};

/// A client's request, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRequest {
    /// As received.
    pub method: String,
    /// With the query.
    pub path: String,
    /// `:authority`.
    pub host: String,
    /// In the order received, without pseudo-headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Empty if there is none.
    pub body: Vec<u8>,
}

/// A participant's answer, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParticipantResponse {
    /// The HTTP status.
    pub code: u16,
    /// In the order received, without pseudo-headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// None: it was too large and was not kept.
    pub body: Option<Vec<u8>>,
}

/// `request` of expressions: `method`, `path`, `url_path`, `query`, `query_params`, `host`, `headers`, `params`,
/// `body`.
///
/// `params` are the values of a path template, already percent-decoded; the first of a repeated name counts. So it
/// does in the query, where `+` is a space, as forms send it. HTTP/2 has `:authority` in place of a `host` header:
/// `headers.host` is there all the same.
pub fn request(request: &ClientRequest, params: &[(String, String)]) -> Json {
    let (url_path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let query_params = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    });
    let mut headers = headers(&request.headers);
    if !request.host.is_empty() {
        headers.entry("host").or_insert_with(|| Json::from(request.host.as_str()));
    }
    json!({
        "method": request.method,
        "path": request.path,
        "url_path": url_path,
        "query": query,
        "query_params": first_of_each(query_params),
        "host": request.host,
        "headers": headers,
        "params": first_of_each(params.iter().cloned()),
        "body": body(&request.body, is_json(&request.headers)),
    })
}

/// `response` of expressions: `code`, `headers`, and `body` if it was kept.
pub fn response(response: &ParticipantResponse) -> Json {
    let mut fields = Map::new();
    fields.insert("code".to_owned(), Json::from(response.code));
    fields.insert("headers".to_owned(), Json::Object(headers(&response.headers)));
    if let Some(bytes) = &response.body {
        fields.insert("body".to_owned(), body(bytes, is_json(&response.headers)));
    }
    Json::Object(fields)
}

/// By lower-case name; lines of one name are joined with `,` (RFC 9110, 5.3).
fn headers(lines: &[(String, Vec<u8>)]) -> Map<String, Json> {
    let mut headers = Map::new();
    for (name, value) in lines {
        let value = String::from_utf8_lossy(value);
        match headers.entry(name.to_ascii_lowercase()).or_insert(Json::Null) {
            Json::String(joined) => {
                joined.push(',');
                joined.push_str(&value);
            }
            first => *first = Json::String(value.into_owned()),
        }
    }
    headers
}

/// A body stands some levels deep in what the journal keeps of it, and there the parser reads 127 levels at most.
const MAX_DEPTH: usize = 100;

/// An object or an array is JSON, whatever it is called; anything else only where its content type says so: a text `1.10`
/// is no number. It has to parse, and must not be nested more deeply than anybody means it. Else it is text; an empty
/// body is an empty text.
pub(crate) fn body(bytes: &[u8], is_json: bool) -> Json {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let has_members = matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['));
    let json = Some(bytes).filter(|_| is_json || has_members);
    let json = json.and_then(|bytes| serde_json::from_slice(bytes).ok());
    let json = json.filter(|json| can_be_read_again(json, MAX_DEPTH));
    json.unwrap_or_else(|| Json::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// Of UTF-8: editors write it, and it means nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The header by which a body is read, in lower case.
pub const CONTENT_TYPE: &str = "content-type";

/// Whether a `content-type` among the headers says that the body is JSON.
fn is_json(headers: &[(String, Vec<u8>)]) -> bool {
    let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE));
    let content_type = content_type.map(|(_, value)| String::from_utf8_lossy(value));
    BodyKind::of(content_type.as_deref()) == Some(BodyKind::Json)
}

/// How `serde_json` hands over a number with its digits: as an object of this one name. It takes such an object for a number,
/// whoever wrote it.
pub(crate) const NUMBER_TOKEN: &str = "$serde_json::private::Number";

/// Whether a tree can be read again once it is written down: it has at most so many levels, and no name in it means something
/// else to the parser.
fn can_be_read_again(json: &Json, levels: usize) -> bool {
    let inner = |inner: &Json| can_be_read_again(inner, levels.saturating_sub(1));
    match json {
        Json::Array(values) => levels > 0 && values.iter().all(inner),
        Json::Object(members) => levels > 0 && !members.contains_key(NUMBER_TOKEN) && members.values().all(inner),
        _ => true,
    }
}

fn first_of_each(pairs: impl Iterator<Item = (String, String)>) -> Map<String, Json> {
    let mut first = Map::new();
    for (name, value) in pairs {
        first.entry(name).or_insert(Json::String(value));
    }
    first
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    let decoded: Cow<'_, str> = percent_decode_str(&spaced).decode_utf8_lossy();
    decoded.into_owned()
}

#[cfg(test)]
mod tests;
