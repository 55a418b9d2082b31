//! A client of etcd's JSON gateway, for tests: it asks what etcd holds.
//!
//! The gateway: <https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/>.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::loopback::Client;

const TIMEOUT: Duration = Duration::from_secs(10);

/// How many entries are asked for at once.
const PAGE: usize = 1000;

/// Before all keys; and as the end of a range, after them.
const NUL: &[u8] = b"\0";

/// A key and what etcd knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// What is stored under it.
    pub value: Vec<u8>,
    /// The revision of the store in which the key was written first, since it was deleted last.
    pub create_revision: i64,
    /// The revision of the store in which the key was written last.
    pub mod_revision: i64,
    /// How often the key has been written, since it was deleted last.
    pub version: i64,
    /// The id of the lease with which the key ends; 0 where it has none.
    pub lease: i64,
}

/// A user and the password.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Where etcd is, and as whom it is asked.
#[derive(Debug)]
pub(super) struct Gateway {
    address: SocketAddr,
    login: Option<Login>,
}

/// A connection, with the token where one is needed. Each operation has its own: an etcd that was killed in between has
/// closed the connection, and forgotten the token.
pub(super) struct Session {
    client: Client,
    address: SocketAddr,
    token: Option<String>,
}

impl Gateway {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, login: None }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Succeeds where etcd answers what it must have a leader for.
    pub(super) async fn probe(&self) -> anyhow::Result<()> {
        let any = json!({"key": BASE64.encode(NUL), "range_end": BASE64.encode(NUL), "count_only": true});
        self.session().await?.ask("/v3/kv/range", &any).await.map(|_| ())
    }

    /// Has etcd ask for a password from now on, and gives it.
    pub(super) async fn require(&mut self, login: Login) -> anyhow::Result<()> {
        let Login { user, password } = &login;
        let session = self.session().await?;
        let mut calls = vec![
            ("/v3/auth/user/add", json!({"name": "root", "password": password})),
            ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
        ];
        if user != "root" {
            let everything = json!({
                "permType": "READWRITE", "key": BASE64.encode(NUL), "range_end": BASE64.encode(NUL)
            });
            calls.extend([
                ("/v3/auth/role/add", json!({"name": "everything"})),
                ("/v3/auth/role/grant", json!({"name": "everything", "perm": everything})),
                ("/v3/auth/user/add", json!({"name": user, "password": password})),
                ("/v3/auth/user/grant", json!({"user": user, "role": "everything"})),
            ]);
        }
        calls.push(("/v3/auth/enable", json!({})));
        for (path, body) in calls {
            session.ask(path, &body).await?;
        }
        self.login = Some(login);
        Ok(())
    }

    pub(super) async fn session(&self) -> anyhow::Result<Session> {
        let mut session = Session { client: Client::http1().timeout(TIMEOUT), address: self.address, token: None };
        if let Some(Login { user, password }) = &self.login {
            let answer = session.ask("/v3/auth/authenticate", &json!({"name": user, "password": password})).await?;
            session.token = Some(answer["token"].as_str().context("etcd gives no token")?.to_owned());
        }
        Ok(session)
    }

    pub(super) async fn entries(&self, prefix: &str) -> anyhow::Result<Vec<Entry>> {
        let session = self.session().await?;
        let (mut from, end) = range(prefix);
        let mut entries: Vec<Entry> = Vec::new();
        let mut revision = 0;
        loop {
            let page = json!({
                "key": BASE64.encode(&from), "range_end": BASE64.encode(&end), "limit": PAGE, "revision": revision
            });
            let answer = session.ask("/v3/kv/range", &page).await?;
            if revision == 0 {
                revision = number(&answer["header"], "revision")?;
            }
            for entry in list(&answer, "kvs") {
                entries.push(Entry::read(entry)?);
            }
            match entries.last() {
                Some(last) if answer["more"] == true => from = [last.key.as_bytes(), NUL].concat(),
                _ => return Ok(entries),
            }
        }
    }

    pub(super) async fn leases(&self) -> anyhow::Result<Vec<i64>> {
        let answer = self.session().await?.ask("/v3/lease/leases", &json!({})).await?;
        let mut ids: Vec<i64> =
            list(&answer, "leases").iter().map(|lease| number(lease, "ID")).collect::<anyhow::Result<_>>()?;
        ids.sort_unstable();
        Ok(ids)
    }

    pub(super) async fn put(&self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let put = json!({"key": BASE64.encode(key), "value": BASE64.encode(value)});
        self.session().await?.ask("/v3/kv/put", &put).await.map(|_| ())
    }

    pub(super) async fn delete(&self, prefix: &str) -> anyhow::Result<i64> {
        let (from, end) = range(prefix);
        let delete = json!({"key": BASE64.encode(from), "range_end": BASE64.encode(end)});
        number(&self.session().await?.ask("/v3/kv/deleterange", &delete).await?, "deleted")
    }
}

impl Session {
    pub(super) async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let headers: Vec<_> = self.token.iter().map(|token| ("authorization", token.as_str())).collect();
        let answer = self.client.post_json(&format!("http://{}{path}", self.address), body, &headers).await?;
        if answer.status != 200 {
            bail!("etcd answers {path} with {}: {}", answer.status, answer.text().trim());
        }
        answer.json()
    }
}

impl Entry {
    fn read(entry: &Value) -> anyhow::Result<Self> {
        let key = bytes(entry, "key")?;
        Ok(Self {
            key: String::from_utf8(key).context("a key that is not text")?,
            value: bytes(entry, "value")?,
            create_revision: number(entry, "create_revision")?,
            mod_revision: number(entry, "mod_revision")?,
            version: number(entry, "version")?,
            lease: number(entry, "lease")?,
        })
    }
}

/// The range of the keys that begin with `prefix`: from the first on, to before the second.
fn range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    // What is UTF-8 does not end in 0xff: there is a next byte.
    match prefix.as_bytes().split_last() {
        Some((last, before)) => (prefix.into(), [before, &[last + 1]].concat()),
        None => (NUL.into(), NUL.into()),
    }
}

// The gateway leaves out what is empty or zero.

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map_or(&[], Vec::as_slice)
}

fn number(of: &Value, name: &str) -> anyhow::Result<i64> {
    match &of[name] {
        Value::Null => Ok(0),
        Value::String(digits) => digits.parse().with_context(|| format!("{name}: {digits:?}")),
        other => other.as_i64().with_context(|| format!("{name}: {other}")),
    }
}

fn bytes(of: &Value, name: &str) -> anyhow::Result<Vec<u8>> {
    match &of[name] {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => BASE64.decode(text).with_context(|| format!("{name}: {text:?}")),
        other => bail!("{name}: {other}"),
    }
}
