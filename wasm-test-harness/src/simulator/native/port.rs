//! The proxy as a coordinator sees it.

use sagabox::coordinator::{Client, Counter, Host as CoordinatorHost, Token};
use sagabox::journal::{Conflict, JournalCall, SharedData, Version};
use sagabox::saga::{DispatchRefusal, Millis, OutgoingCall, Reply};

use crate::simulator::host::{Host, Status};
use crate::simulator::process::ContextId;

/// A root of a VM, at a moment.
pub(super) struct Port<'a> {
    pub(super) host: &'a mut Host,
    pub(super) root: ContextId,
    pub(super) now: Millis,
}

impl SharedData for Port<'_> {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        let process = self.host.process.borrow();
        process.shared(key.as_bytes()).map(|(value, version)| (value.to_vec(), version))
    }

    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        let read = read.unwrap_or(Version::MAX);
        self.host.process.borrow_mut().set_shared(key.as_bytes(), value, read).map_err(|_| Conflict)
    }
}

impl CoordinatorHost for Port<'_> {
    fn now(&self) -> Millis {
        self.now
    }

    fn wall_time(&self) -> Millis {
        self.host.wall_ns() / 1_000_000
    }

    fn random(&mut self) -> [u8; 10] {
        let mut bytes = [0; 10];
        self.host.random(&mut bytes);
        bytes
    }

    fn dispatch(&mut self, call: &OutgoingCall) -> Result<Token, DispatchRefusal> {
        let body = call.body.clone().unwrap_or_default();
        dispatch(self.host, &call.cluster, &call.headers, body, call.timeout_ms)
    }

    fn ask(&mut self, call: &JournalCall) -> Result<Token, DispatchRefusal> {
        dispatch(self.host, &call.cluster, &call.headers, call.body.clone(), call.timeout_ms)
    }

    fn reply(&mut self, client: Client, reply: &Reply) {
        if self.host.set_effective(client).is_ok() {
            send(self.host, reply);
            self.host.effective = self.root;
        }
    }

    fn count(&mut self, counter: Counter) {
        let mut process = self.host.process.borrow_mut();
        let id = process.define_metric(counter.name());
        // It exists, and 1 is not 0.
        let _ = process.increment_metric(id, 1);
    }
}

fn dispatch(
    host: &mut Host,
    cluster: &str,
    headers: &[(String, String)],
    body: String,
    timeout_ms: u32,
) -> Result<Token, DispatchRefusal> {
    let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    host.dispatch(cluster.to_owned(), headers, body.into_bytes(), timeout_ms).map_err(|status| match status {
        Status::BadArgument => DispatchRefusal::UnknownCluster,
        _ => DispatchRefusal::Unavailable,
    })
}

pub(super) fn send(host: &mut Host, reply: &Reply) {
    let headers = reply.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    host.reply(u32::from(reply.status), headers, reply.body.clone().unwrap_or_default().into_bytes());
}
