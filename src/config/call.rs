//! Calls to participants: where they go, what they send, how they are retried, how their answers are judged.

use std::time::Duration;

use super::body;
use super::error::Errors;
use super::located::{At, Located, optional, required, unless_faulty};
use super::names::{self, fault_of_call_header, fault_of_method};
use super::proxies::{self, Predicate};
use super::raw::{RawCall, RawRetry};
use super::scalar::{Period, show_duration};
use super::target::{Target, authority, target};
use crate::definition::{Call, Retry};
use crate::template::{Expression, Place, Scope, Template};

const DEFAULT_PER_TRY_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_MAX_ATTEMPTS: u32 = 3;
const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(50);
const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(5);

/// What a compensation takes over from its transaction where it says nothing itself. What could not be read is none.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    target: Option<Target>,
    per_try_timeout: Option<Duration>,
    key_lifetime: Option<Duration>,
}

/// Which call of a step is read.
pub(super) enum Part<'a> {
    Transaction,
    Compensation(&'a Inherited),
}

/// Reads a call; gives the call, and what a compensation may take over from it.
pub(super) fn call(
    raw: At<RawCall>,
    part: &Part,
    scope: &Scope,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> (Option<Call>, Inherited) {
    let At { path: here, value } = raw;
    let RawCall {
        cluster,
        destination,
        authority: given_authority,
        method,
        path,
        headers,
        body: given_body,
        form: given_form,
        per_try_timeout,
        key_lifetime,
        retry,
        success,
        rejected,
    } = value;
    let inherited = match part {
        Part::Transaction => None,
        Part::Compensation(inherited) => Some(inherited.target.as_ref()),
    };
    let target = target(cluster, destination, given_authority, inherited, &here, errors, warnings);
    let authority = target.as_ref().and_then(|target| authority(target, scope, errors));
    let method = method_of(method, &here, errors);
    let path = path_of(path, &here, scope, errors, warnings);
    let headers = names::headers(headers, fault_of_call_header, scope, errors);
    let has_body = given_body.is_some();
    let body = body::body(given_body, &headers, scope, errors);
    let form = body::form(given_form, has_body, &headers, scope, errors);
    let body = body.and_then(|body| form.map(|form| body.or(form)));
    let per_try_timeout = match (per_try_timeout, part) {
        (None, Part::Transaction) => Some(DEFAULT_PER_TRY_TIMEOUT),
        (None, Part::Compensation(inherited)) => inherited.per_try_timeout,
        (Some(given), _) => given.open(errors).map(|given| given.value.0),
    };
    let key_lifetime = match (key_lifetime, part) {
        (None, Part::Transaction) => Some(DEFAULT_KEY_LIFETIME),
        (None, Part::Compensation(inherited)) => inherited.key_lifetime,
        (Some(given), _) => given.open(errors).map(|given| given.value.0),
    };
    let retry = retry_of(retry, part, errors);
    let success =
        unless_faulty(success, errors, |source, errors| predicate(&source, Predicate::Success, errors, warnings));
    let rejected =
        unless_faulty(rejected, errors, |source, errors| predicate(&source, Predicate::Rejected, errors, warnings));
    let cluster = target.as_ref().map(|target| target.cluster.clone());
    let call = (|| {
        Some(Call {
            cluster: cluster?,
            authority: authority?,
            method: method?,
            path: path?,
            headers: headers?,
            body: body?,
            per_try_timeout: per_try_timeout?,
            key_lifetime: key_lifetime?,
            retry: retry?,
            success: success?,
            rejected: rejected?,
        })
    })();
    (call, Inherited { target, per_try_timeout, key_lifetime })
}

fn method_of(method: Option<Located<String>>, here: &str, errors: &mut Errors) -> Option<String> {
    let expected = "an HTTP method, in upper case";
    let method = required(method, here, "method", expected, errors)?;
    if let Some(expected) = fault_of_method(&method.value) {
        errors.add(&method.path, &method.value, expected);
    }
    Some(method.value)
}

fn path_of(
    path: Option<Located<String>>,
    here: &str,
    scope: &Scope,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Template> {
    let path = required(path, here, "path", "a path", errors)?;
    let template = names::template(&path, Place::Path, scope, errors)?;
    if let Some(link) = template.encoded_link() {
        let written = format!("`${{{link}}}` puts a link in as one name, its slashes encoded");
        warnings.push(format!("{}: {written}; to follow it, write `${{path({link})}}`", path.path));
    }
    Some(template)
}

fn predicate(
    source: &At<String>,
    which: Predicate,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Expression> {
    let expression = expression(source, &Scope::predicate(), errors)?;
    proxies::warn(source, &expression, which, warnings);
    Some(expression)
}

/// Compiles an expression, or records why it cannot be.
pub(super) fn expression(source: &At<String>, scope: &Scope, errors: &mut Errors) -> Option<Expression> {
    Expression::compile(&source.value, scope).map_err(|error| errors.template(&source.path, &error)).ok()
}

fn retry_of(raw: Option<Located<RawRetry>>, part: &Part, errors: &mut Errors) -> Option<Retry> {
    let default_max_attempts = match part {
        Part::Transaction => Some(DEFAULT_MAX_ATTEMPTS),
        Part::Compensation(_) => None,
    };
    let Some(raw) = raw else {
        let (base_interval, max_interval) = (DEFAULT_BASE_INTERVAL, DEFAULT_MAX_INTERVAL);
        return Some(Retry { max_attempts: default_max_attempts, base_interval, max_interval });
    };
    let At { path, value: RawRetry { max_attempts, base_interval, max_interval } } = raw.open(errors)?;
    let max_attempts = unless_faulty(max_attempts, errors, |At { path, value }, errors| {
        if default_max_attempts.is_none() {
            let expected = "no such field here: a compensation is retried until it succeeds";
            errors.push(&path, value.0.to_string(), expected);
            return None;
        }
        let attempts = u32::try_from(value.0).ok().filter(|attempts| *attempts > 0);
        if attempts.is_none() {
            errors.push(&path, value.0.to_string(), "a number of attempts from 1 to 4294967295");
        }
        attempts
    });
    let interval = |field: Option<Located<Period>>, default, errors: &mut Errors| match field {
        None => Some(default),
        Some(field) => field.open(errors).map(|period| period.value.0),
    };
    let base_interval = interval(base_interval, DEFAULT_BASE_INTERVAL, errors);
    let max_interval = interval(max_interval, DEFAULT_MAX_INTERVAL, errors);
    let (base_interval, max_interval) = (base_interval?, max_interval?);
    if base_interval > max_interval {
        let found =
            format!("base_interval {} and max_interval {}", show_duration(base_interval), show_duration(max_interval));
        errors.push(&path, found, "a base_interval that is not longer than max_interval");
    }
    Some(Retry { max_attempts: max_attempts?.or(default_max_attempts), base_interval, max_interval })
}

/// Opens a field of a step or saga that has a default.
pub(super) fn duration_or(field: Option<Located<Period>>, default: Duration, errors: &mut Errors) -> Duration {
    optional(field, errors).map_or(default, |period| period.value.0)
}
