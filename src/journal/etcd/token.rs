//! The token by which etcd knows this VM, where it wants one.

use super::answer::Answer;
use super::api::{Authenticate, Authenticated};
use super::back_off_ms;
use super::session::failure;
use crate::definition::Credentials;
use crate::saga::Millis;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Token {
    credentials: Option<Credentials>,
    token: Option<String>,
    under_way: bool,
    next_at: Millis,
    failures: u32,
}

impl Token {
    pub(super) fn new(credentials: Option<Credentials>) -> Token {
        Token { credentials, token: None, under_way: false, next_at: 0, failures: 0 }
    }

    /// Nothing else can be asked before there is one.
    pub(super) fn is_missing(&self) -> bool {
        self.credentials.is_some() && self.token.is_none()
    }

    pub(super) fn header(&self) -> Option<(String, String)> {
        self.token.as_ref().map(|token| ("authorization".to_owned(), token.clone()))
    }

    pub(super) fn next_due(&self) -> Millis {
        if self.is_missing() && !self.under_way { self.next_at } else { Millis::MAX }
    }

    pub(super) fn ask(&mut self, now: Millis) -> Option<Authenticate<'_>> {
        if self.next_due() > now {
            return None;
        }
        self.under_way = true;
        self.credentials.as_ref().map(|Credentials { username, password }| Authenticate { name: username, password })
    }

    /// False: there is still none.
    pub(super) fn given(&mut self, answer: Answer<Authenticated>, now: Millis) -> bool {
        self.under_way = false;
        match answer {
            Answer::Done(Authenticated { token }) => {
                self.token = Some(token);
                self.failures = 0;
                return true;
            }
            Answer::Refused(refusal) => log::error!("etcd does not take the user name and password: {refusal}"),
            other => log::warn!("etcd gives this VM no token: {}", failure(&other)),
        }
        self.next_at = now.saturating_add(back_off_ms(self.failures));
        self.failures = self.failures.saturating_add(1);
        false
    }

    /// It is not valid, or not any more.
    pub(super) fn forget(&mut self) {
        if self.credentials.is_none() {
            log::error!("etcd wants a user name and a password, and the journal is configured with none");
        }
        self.token = None;
    }
}
