//! What the client is answered.

use super::body;
use super::error::{Errors, show};
use super::located::{At, Located, optional, unless_faulty};
use super::names::{self, fault_of_reply_header};
use super::raw::{RawReplies, RawReply};
use crate::definition::ReplyTemplate;
use crate::template::Scope;

/// The replies of a saga: completed, compensated.
pub(super) fn replies(
    raw: Option<Located<RawReplies>>,
    scope: &Scope,
    errors: &mut Errors,
) -> Option<(ReplyTemplate, ReplyTemplate)> {
    let (completed, compensated) = match optional(raw, errors) {
        Some(At { path: _, value: RawReplies { completed, compensated } }) => (completed, compensated),
        None => (None, None),
    };
    let completed = reply(completed, 200, scope, errors);
    let compensated = reply(compensated, 409, scope, errors);
    Some((completed?, compensated?))
}

fn reply(
    raw: Option<Located<RawReply>>,
    default_status: u16,
    scope: &Scope,
    errors: &mut Errors,
) -> Option<ReplyTemplate> {
    let given = raw.is_some();
    let Some(At { path: _, value: RawReply { status, headers, body } }) = optional(raw, errors) else {
        return (!given).then(|| ReplyTemplate { status: default_status, headers: Vec::new(), body: None });
    };
    let status = unless_faulty(status, errors, |At { path, value }, errors| {
        let status = u16::try_from(value.0).ok().filter(|status| (200..=599).contains(status));
        if status.is_none() {
            errors.push(&path, value.0.to_string(), "a status from 200 to 599");
        }
        status
    })
    .map(|status| status.unwrap_or(default_status));
    let headers = names::headers(headers, fault_of_reply_header, scope, errors);
    let body = match (body, status) {
        (Some(body), Some(status @ (204 | 205 | 304))) => {
            if let Some(At { path, value }) = body.open(errors) {
                errors.push(&path, show(&value), format!("no body with status {status}"));
            }
            None
        }
        (body, _) => body::body(body, &headers, scope, errors),
    };
    Some(ReplyTemplate { status: status?, headers: headers?, body: body? })
}
