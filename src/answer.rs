//! Answers to clients: their form.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// An answer to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    /// None: no body.
    pub body: Option<String>,
}

/// A problem document (RFC 9457).
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Status of the answer.
    pub status: u16,
    /// Last part of `type`: `urn:sagabox:problem:KIND`.
    pub kind: &'static str,
    /// The kind in words, the same for every occurrence.
    pub title: &'static str,
    /// What happened this time.
    pub detail: String,
    /// Further members.
    pub members: Map<String, Json>,
}

impl Problem {
    /// A problem without further members.
    pub fn new(status: u16, kind: &'static str, title: &'static str, detail: String) -> Problem {
        Problem { status, kind, title, detail, members: Map::new() }
    }

    /// The answer if no saga can be taken now, and it is known that none has begun for the request.
    pub fn overload(detail: &str) -> Reply {
        Problem::for_now("overload", "No saga can be taken now", detail)
    }

    /// The answer if it is not known whether a saga has begun for the request, or not how it has ended.
    pub fn fate_unknown(detail: &str) -> Reply {
        let title = "What has become of this request is not known now: a saga may have begun for it";
        Problem::for_now("fate-unknown", title, detail)
    }

    /// A 503: the same request may be answered in a moment.
    fn for_now(kind: &'static str, title: &'static str, detail: &str) -> Reply {
        let mut reply = Problem::new(503, kind, title, detail.to_owned()).into_reply();
        reply.headers.push(("retry-after".to_owned(), "1".to_owned()));
        reply
    }

    /// The answer that carries the problem.
    pub fn into_reply(self) -> Reply {
        let mut document = json!({
            "type": format!("urn:sagabox:problem:{}", self.kind),
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        });
        if let Some(document) = document.as_object_mut() {
            document.extend(self.members);
        }
        let headers = vec![("content-type".to_owned(), "application/problem+json".to_owned())];
        Reply { status: self.status, headers, body: Some(document.to_string()) }
    }
}

impl Reply {
    /// Bytes that it holds, about.
    pub fn held_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        headers.sum::<usize>().saturating_add(self.body.as_ref().map_or(0, String::len))
    }

    /// Removes a body from an answer that must have none: to a proxy, one after 204 or 304 is the next answer.
    pub(crate) fn without_forbidden_body(mut self) -> Reply {
        if matches!(self.status, 204 | 205 | 304) {
            self.body = None;
            self.headers.retain(|(name, _)| name != "content-type");
        }
        self
    }
}
