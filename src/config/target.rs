//! Where a call goes: an Envoy cluster, and the `:authority` that it is sent with.

use super::error::{Errors, join};
use super::located::{At, Located, optional, required};
use super::names;
use super::raw::RawDestination;
use crate::template::{Place, Scope, Template};

/// Where a call goes. A compensation may take it over from its transaction.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Envoy cluster.
    pub(super) cluster: String,
    /// The template of `:authority`, and where it, or what it comes from, stands.
    authority: Authority,
}

#[derive(Clone, Debug)]
enum Authority {
    Given {
        path: String,
        source: String,
    },
    /// Made of a host or a cluster's name, so without `${`.
    Default(String),
    /// An error about it has been recorded.
    Faulty,
}

/// Reads where a call goes. `inherited` is none for a transaction, and `Some(None)` for a compensation of a transaction
/// whose target could not be read.
pub(super) fn target(
    cluster: Option<Located<String>>,
    destination: Option<Located<RawDestination>>,
    authority: Option<Located<String>>,
    inherited: Option<Option<&Target>>,
    here: &str,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Target> {
    let given = match (cluster, destination) {
        (Some(cluster), None) => of_cluster(cluster, authority.is_some(), errors),
        (None, Some(destination)) => of_destination(destination, errors, warnings),
        (None, None) => match inherited {
            Some(target) => target.cloned(),
            None => {
                errors.push(here, "neither cluster nor destination", "one of them");
                None
            }
        },
        (Some(cluster), Some(destination)) => {
            errors.push(here, "cluster and destination", "one of them");
            // What is wrong inside of them is told all the same.
            of_cluster(cluster, true, errors);
            of_destination(destination, errors, warnings);
            None
        }
    };
    let authority = authority.map(|authority| match authority.open(errors) {
        Some(At { path, value }) => Authority::Given { path, source: value },
        None => Authority::Faulty,
    });
    given.map(|target| match authority {
        Some(authority) => Target { authority, ..target },
        None => target,
    })
}

/// Compiles the authority in the scope of the call that uses it.
pub(super) fn authority(target: &Target, scope: &Scope, errors: &mut Errors) -> Option<Template> {
    let (path, source) = match &target.authority {
        Authority::Given { path, source } => (path.clone(), source),
        Authority::Default(source) => (String::new(), source),
        Authority::Faulty => return None,
    };
    if source.is_empty() {
        errors.add(&path, source, "an authority that is not empty");
        return None;
    }
    names::template(&At { path, value: source.clone() }, Place::Authority, scope, errors)
}

fn of_cluster(cluster: Located<String>, authority_given: bool, errors: &mut Errors) -> Option<Target> {
    let At { path, value: name } = cluster.open(errors)?;
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        errors.add(&path, &name, "the name of an Envoy cluster, without spaces");
        return None;
    }
    let can_be_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if authority_given {
        return Some(Target { cluster: name, authority: Authority::Faulty });
    }
    if name.bytes().all(can_be_host) {
        return Some(Target { cluster: name.clone(), authority: Authority::Default(name) });
    }
    // Participants answer such an `:authority` with 400.
    errors.add(&path, &name, "an `authority` besides it: this cluster's name cannot be one");
    Some(Target { cluster: name, authority: Authority::Faulty })
}

fn of_destination(
    destination: Located<RawDestination>,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Target> {
    let At { path: here, value: RawDestination { host, port, subset } } = destination.open(errors)?;
    let part = |text: &At<String>, expected, errors: &mut Errors| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let good = !text.value.is_empty() && text.value.bytes().all(allowed);
        if !good {
            errors.add(&text.path, &text.value, expected);
        }
        good
    };
    let expected = "a service's full name, such as hotel.travel.svc.cluster.local";
    let host = required(host, &here, "host", expected, errors).filter(|host| part(host, expected, errors));
    let port = required(port, &here, "port", "a port from 1 to 65535", errors).and_then(|port| {
        let number = u16::try_from(port.value.0).ok().filter(|number| *number > 0);
        if number.is_none() {
            errors.push(&port.path, port.value.0.to_string(), "a port from 1 to 65535");
        }
        number
    });
    let subset_given = subset.is_some();
    let subset = optional(subset, errors).filter(|subset| part(subset, "the name of a subset", errors));
    let subset = match (subset_given, subset) {
        (true, None) => return None,
        (_, subset) => subset.map(|subset| subset.value).unwrap_or_default(),
    };
    let (host, port) = (host?, port?);
    if !host.value.contains('.') {
        warnings.push(format!(
            "{}: {} is a short name; Istio names clusters by the full one, such as {0}.NAMESPACE.svc.cluster.local",
            join(&here, "host"),
            host.value
        ));
    }
    let host = host.value.to_ascii_lowercase();
    Some(Target {
        cluster: format!("outbound|{port}|{subset}|{host}"),
        authority: Authority::Default(format!("{host}:{port}")),
    })
}
