//! The users of an etcd that wants to know who asks, and the tokens by which it knows them.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::refusal::Refusal;

/// Where tokens are got.
const AUTHENTICATE: &str = "/v3/auth/authenticate";

/// See the module's text.
#[derive(Debug)]
pub struct Tokens {
    name: String,
    password: String,
    valid: BTreeSet<String>,
    given: u64,
}

impl Tokens {
    /// There is one user.
    pub fn of_user(name: &str, password: &str) -> Tokens {
        Tokens { name: name.to_owned(), password: password.to_owned(), valid: BTreeSet::new(), given: 0 }
    }

    /// What it says to a call that asks for a token, or that does not carry a valid one; none: the call is to be answered.
    pub fn answer(&mut self, path: &str, body: &[u8], token: Option<&str>) -> Option<(u16, Vec<u8>)> {
        if path == AUTHENTICATE {
            let asked: Json = serde_json::from_slice(body).unwrap_or_default();
            if asked["name"] != self.name.as_str() || asked["password"] != self.password.as_str() {
                return Some(Refusal::AUTHENTICATION_FAILED.answer());
            }
            self.given += 1;
            let token = format!("token.{}", self.given);
            self.valid.insert(token.clone());
            return Some((200, json!({ "header": {}, "token": token }).to_string().into_bytes()));
        }
        match token {
            None => Some(Refusal::NO_USER.answer()),
            Some(token) if !self.valid.contains(token) => Some(Refusal::INVALID_TOKEN.answer()),
            Some(_) => None,
        }
    }

    /// No token counts any more, as after the time that tokens live, or at another member.
    pub fn forget(&mut self) {
        self.valid.clear();
    }
}
