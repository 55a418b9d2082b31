//! A VM, natively: a coordinator, a proxy made of vectors, and the journals that it shares with other VMs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::etcd::Etcd;
use crate::config::{self, Configuration};
use crate::coordinator::{Client, Coordinator, Counter, Host, MatchedRequest, Token};
use crate::facts::{ClientRequest, ParticipantResponse};
use crate::journal::{AnyJournal, Conflict, JournalCall, SharedData, Version};
use crate::saga::record::FEATURES;
use crate::saga::{AttemptResult, DispatchRefusal, Millis, OutgoingCall, Reply};

/// What the VMs of a process share.
pub(super) type Values = Rc<RefCell<BTreeMap<String, (Vec<u8>, Version)>>>;

/// What VMs have in common.
#[derive(Clone, Default)]
pub(super) struct Common {
    pub(super) values: Values,
    pub(super) etcd: Rc<RefCell<Etcd>>,
}

/// What the coordinator sees of the proxy.
struct Proxy {
    common: Common,
    now: Millis,
    drawn: u8,
    next_token: Token,
    asked: Vec<(Token, JournalCall)>,
    calls: Vec<(Token, OutgoingCall)>,
    replies: Vec<(Client, Reply)>,
    counted: Vec<Counter>,
}

impl SharedData for Proxy {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        self.common.values.borrow().get(key).cloned()
    }

    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        let version = self.shared(key).map(|(_, version)| version);
        if version != read {
            return Err(Conflict);
        }
        self.common.values.borrow_mut().insert(key.to_owned(), (value.to_vec(), version.unwrap_or(0) + 1));
        Ok(())
    }
}

impl Host for Proxy {
    fn now(&self) -> Millis {
        self.now
    }

    fn random(&mut self) -> [u8; 10] {
        self.drawn += 1;
        [self.drawn; 10]
    }

    fn dispatch(&mut self, call: &OutgoingCall) -> Result<Token, DispatchRefusal> {
        self.next_token += 1;
        self.calls.push((self.next_token, call.clone()));
        Ok(self.next_token)
    }

    fn ask(&mut self, call: &JournalCall) -> Result<Token, DispatchRefusal> {
        self.next_token += 1;
        self.asked.push((self.next_token, call.clone()));
        Ok(self.next_token)
    }

    fn reply(&mut self, client: Client, reply: &Reply) {
        self.replies.push((client, reply.clone()));
    }

    fn count(&mut self, counter: Counter) {
        self.counted.push(counter);
    }
}

/// See the module's text.
pub(super) struct Vm {
    coordinator: Coordinator<AnyJournal>,
    proxy: Proxy,
    configuration: Configuration,
    clients: Client,
}

impl Vm {
    pub(super) fn new(name: &str, common: &Common, configuration: &Json, now: Millis) -> Vm {
        Vm::that_knows(FEATURES, name, common, configuration, now)
    }

    /// Of a module that knows these features.
    pub(super) fn that_knows(
        features: &'static [&'static str],
        name: &str,
        common: &Common,
        configuration: &Json,
        now: Millis,
    ) -> Vm {
        let text = configuration.to_string().into_bytes();
        let configuration = config::load(&text).unwrap_or_else(|errors| panic!("{errors}"));
        let mut journal = AnyJournal::new(name.to_owned(), &configuration);
        match &mut journal {
            AnyJournal::Shared(journal) => journal.knows(features),
            AnyJournal::Etcd(journal) => journal.knows(features),
        }
        let coordinator = Coordinator::new(journal, configuration.limits.clone(), Vec::new());
        let proxy = Proxy {
            common: common.clone(),
            now,
            // Ids of the sagas of different VMs are different.
            drawn: name.bytes().next().unwrap_or_default(),
            next_token: 0,
            asked: Vec::new(),
            calls: Vec::new(),
            replies: Vec::new(),
            counted: Vec::new(),
        };
        Vm { coordinator, proxy, configuration, clients: 0 }
    }

    /// A client asks; gives who it is.
    pub(super) fn requests(&mut self, key: Option<&str>, body: &Json) -> Client {
        self.clients += 1;
        let mut headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
        headers.extend(key.map(|key| ("idempotency-key".to_owned(), key.as_bytes().to_vec())));
        let request = ClientRequest {
            method: "POST".to_owned(),
            path: "/trips".to_owned(),
            host: "travel.example".to_owned(),
            headers,
            body: body.to_string().into_bytes(),
        };
        let definition = Arc::clone(&self.configuration.definitions[0]);
        let matched = MatchedRequest { client: self.clients, definition, params: Vec::new(), request };
        self.coordinator.begin(&mut self.proxy, matched);
        self.settles();
        self.clients
    }

    /// What a client was told.
    pub(super) fn told(&self, client: Client) -> Option<&Reply> {
        self.proxy.replies.iter().find(|(other, _)| *other == client).map(|(_, reply)| reply)
    }

    /// Calls to participants that are under way: saga, step, method.
    pub(super) fn calls(&self) -> Vec<(String, String, String)> {
        let of = |call: &OutgoingCall| {
            ["saga-id", "saga-step", ":method"].map(|name| {
                call.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()).unwrap_or_default()
            })
        };
        self.proxy.calls.iter().map(|(_, call)| of(call)).map(|[saga, step, method]| (saga, step, method)).collect()
    }

    /// A call comes to this.
    pub(super) fn call_ends(&mut self, saga: &str, step: &str, result: AttemptResult) {
        let index = self.calls().iter().position(|(id, name, _)| id == saga && name == step);
        let index = index.unwrap_or_else(|| panic!("{step} of {saga} is not under way: {:?}", self.calls()));
        let (token, _) = self.proxy.calls.remove(index);
        self.coordinator.ended(&mut self.proxy, token, result);
        self.settles();
    }

    /// A participant answers.
    pub(super) fn answers(&mut self, saga: &str, step: &str, code: u16, body: &Json) {
        let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
        let body = Some(body.to_string().into_bytes());
        self.call_ends(saga, step, AttemptResult::Answered(ParticipantResponse { code, headers, body }));
    }

    /// Time passes.
    pub(super) fn lives(&mut self, ms: u64) {
        let until = self.proxy.now + ms;
        while self.proxy.now < until {
            self.proxy.now = until.min(self.proxy.now + 250);
            self.coordinator.due(&mut self.proxy);
            self.settles();
        }
    }

    /// All that the journal asks is answered.
    fn settles(&mut self) {
        loop {
            self.coordinator.settle(&mut self.proxy);
            let asked = std::mem::take(&mut self.proxy.asked);
            if asked.is_empty() {
                return;
            }
            for (token, call) in asked {
                let path = call.headers.iter().find(|(name, _)| name == ":path").map(|(_, path)| path.clone());
                let answer = self.proxy.common.etcd.borrow_mut().answer(&path.unwrap_or_default(), &call.body);
                let body = Some(answer.to_string().into_bytes());
                let answer = ParticipantResponse { code: 200, headers: Vec::new(), body };
                self.coordinator.ended(&mut self.proxy, token, AttemptResult::Answered(answer));
            }
        }
    }

    /// Every participant does what it is asked until nothing is under way. Gives the calls: saga, step, method.
    pub(super) fn finishes(&mut self) -> Vec<(String, String, String)> {
        let mut made = Vec::new();
        for _ in 0..100 {
            for (saga, step, method) in self.calls() {
                self.answers(&saga, &step, 200, &json!({"id": format!("{step}-late")}));
                made.push((saga, step, method));
            }
            self.lives(500);
        }
        assert_eq!(self.coordinator.open(), 0, "{:?}", self.calls());
        made
    }

    pub(super) fn count(&self, counter: Counter) -> usize {
        self.proxy.counted.iter().filter(|other| **other == counter).count()
    }
}
