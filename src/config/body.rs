//! Bodies of calls and replies: what kind of text they are, by the content type beside them.

use serde_json::{Map, Value};

use super::error::{Errors, show};
use super::located::{At, Located, optional, unless_faulty};
use super::raw::RawForm;
use crate::template::{BodyKind, BodyTemplate, FORM, Scope, Template};

const CONTENT_TYPE: &str = "content-type";

/// Compiled headers, if none of them is at fault.
pub(super) type Headers = Option<Vec<(String, Template)>>;

/// Compiles `body`. None where it is at fault, `Some(None)` where it is left out.
pub(super) fn body(
    given: Option<Located<Value>>,
    headers: &Headers,
    scope: &Scope,
    errors: &mut Errors,
) -> Option<Option<BodyTemplate>> {
    unless_faulty(given, errors, |source, errors| {
        // What the text is encoded for is not known while a header is at fault.
        let content_type = content_type(headers.as_ref()?);
        let Some(kind) = BodyKind::of(content_type) else {
            let found = format!("a body beside `content-type: {}`", content_type.unwrap_or_default());
            errors.push(&source.path, found, "a form, JSON, XML or text: no template can build a multipart body");
            return None;
        };
        compile(&source.path, &source.value, kind, scope, errors)
    })
}

/// Compiles `form`, beside which there is no `body`.
pub(super) fn form(
    given: Option<Located<RawForm>>,
    has_body: bool,
    headers: &Headers,
    scope: &Scope,
    errors: &mut Errors,
) -> Option<Option<BodyTemplate>> {
    unless_faulty(given, errors, |At { path, value }, errors| {
        let count = value.len();
        let fields = value.into_iter().filter_map(|(name, value)| Some((name, optional(Some(value), errors)?.value)));
        let fields: Map<String, Value> = fields.collect();
        let shown = Value::Object(fields);
        if has_body {
            errors.push(&path, show(&shown), "either `body` or `form`");
        }
        if let Some(other) = headers.as_ref().and_then(|headers| content_type(headers)).filter(|&other| !is_form(other))
        {
            errors.push(&path, format!("a form beside `content-type: {other}`"), format!("no content type, or {FORM}"));
        }
        let compiled = compile(&path, &shown, BodyKind::Fields, scope, errors);
        compiled.filter(|_| !has_body && shown.as_object().is_some_and(|fields| fields.len() == count))
    })
}

fn compile(path: &str, source: &Value, kind: BodyKind, scope: &Scope, errors: &mut Errors) -> Option<BodyTemplate> {
    let faults = match BodyTemplate::compile(source, kind, scope) {
        Ok(body) => return Some(body),
        Err(faults) => faults,
    };
    for (below, error) in faults.errors {
        errors.template(&format!("{path}{below}"), &error);
    }
    None
}

/// The content type that the headers name; one that depends on a request or an answer says nothing here.
fn content_type(headers: &[(String, Template)]) -> Option<&str> {
    headers.iter().find(|(name, _)| name == CONTENT_TYPE).and_then(|(_, value)| value.constant())
}

fn is_form(content_type: &str) -> bool {
    BodyKind::of(Some(content_type)) == Some(BodyKind::Form)
}
