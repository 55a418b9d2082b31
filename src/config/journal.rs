//! Where sagas are kept.

use std::time::Duration;

use super::error::Errors;
use super::located::{At, Located, optional, required};
use super::raw::{RawEtcd, RawJournal, RawRecovery};
use crate::definition::{Credentials, EtcdSettings};

/// The shortest lease that etcd grants with its default settings.
const MIN_LEASE: Duration = Duration::from_secs(2);

/// None: in shared data.
pub(super) fn etcd(raw: Option<Located<RawJournal>>, errors: &mut Errors) -> Option<EtcdSettings> {
    let At { path: _, value: RawJournal { etcd } } = optional(raw, errors)?;
    let At { path, value: raw } = optional(etcd, errors)?;
    let RawEtcd { cluster, prefix, lease, timeout, recovery, username, password } = raw;
    let cluster = required(cluster, &path, "cluster", "the name of etcd's Envoy cluster", errors);
    if let Some(At { path, value }) = cluster.as_ref().filter(|cluster| cluster.value.is_empty()) {
        errors.add(path, value, "the name of etcd's Envoy cluster");
    }
    let prefix = optional(prefix, errors).map_or_else(default_prefix, |At { path, value }| {
        let fits = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
        if !fits || value.trim_matches('/').is_empty() {
            errors.add(&path, &value, "letters, digits, and any of / . _ -, and not only slashes");
        }
        value
    });
    let lease = optional(lease, errors).map_or(Duration::from_secs(10), |At { path, value }| {
        if value.0 < MIN_LEASE {
            errors.push(&path, format!("{}ms", value.0.as_millis()), "at least 2s: etcd grants no less");
        }
        value.0
    });
    let timeout = optional(timeout, errors).map_or(Duration::from_secs(1), |timeout| timeout.value.0);
    let takes_over = optional(recovery, errors).is_none_or(|recovery| recovery.value == RawRecovery::TakeOver);
    let (username, password) = (optional(username, errors), optional(password, errors));
    let credentials = match (username, password) {
        (Some(username), Some(password)) => Some(Credentials { username: username.value, password: password.value }),
        (Some(At { path: given, .. }), None) => {
            errors.push(&given, "a user name", "a password beside it");
            None
        }
        (None, Some(At { path: given, .. })) => {
            errors.push(&given, "a password", "a username beside it");
            None
        }
        (None, None) => None,
    };
    let cluster = cluster?.value;
    Some(EtcdSettings { cluster, prefix, lease, timeout, takes_over, credentials })
}

fn default_prefix() -> String {
    "sagabox".to_owned()
}
