//! A real etcd on loopback, for as long as a test needs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const START_WITHIN: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A process of its own with data of its own. It ends with this.
pub struct RealEtcd {
    process: Child,
    port: u16,
    connection: Option<BufReader<TcpStream>>,
    _data: TempDir,
}

impl RealEtcd {
    /// Starts the etcd that `$ETCD` names, or the one in the path, with these flags besides those that it needs.
    pub fn start(flags: &[&str]) -> RealEtcd {
        let program = std::env::var("ETCD").unwrap_or_else(|_| "etcd".to_owned());
        let [port, peer_port] = free_ports();
        let name = format!("compared-{}-{port}", std::process::id());
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let data = data_directory();
        let process = Command::new(&program)
            .args(["--name", &name, "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("{name}={peer}"), "--data-dir"])
            .arg(data.path())
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program} (etcd 3.4; $ETCD says where it is): {error}"));
        let mut real = RealEtcd { process, port, connection: None, _data: data };
        real.wait_until_it_is_this_one(&name);
        real
    }

    /// Its answer to a POST: the status and the body.
    pub fn answer(&mut self, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.try_answer(path, body).expect("etcd answers")
    }

    /// Another etcd may listen where this one should: nothing is written before this one has said its name.
    fn wait_until_it_is_this_one(&mut self, name: &str) {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < START_WITHIN, "etcd does not answer");
            assert_eq!(self.process.try_wait().expect("a child can be asked"), None, "etcd has ended");
            let answer = self.try_answer("/v3/cluster/member/list", b"{}").map(|(_, body)| body).unwrap_or_default();
            let members: Value = serde_json::from_slice(&answer).unwrap_or_default();
            if members["members"][0]["name"] == json!(name) {
                return;
            }
            self.connection = None;
            sleep(Duration::from_millis(50));
        }
    }

    fn try_answer(&mut self, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
                stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let answer = read_answer(&mut connection)?;
        if !answer.closes {
            self.connection = Some(connection);
        }
        Ok((answer.status, answer.body))
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    closes: bool,
}

fn read_answer(from: &mut impl BufRead) -> std::io::Result<Answer> {
    let status = line(from)?.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let (mut length, mut chunked, mut closes) = (0, false, false);
    loop {
        let header = line(from)?.to_ascii_lowercase();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().map_err(std::io::Error::other)?,
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(("connection", value)) => closes = value == "close",
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        from.take(length).read_to_end(&mut body)?;
        return Ok(Answer { status, body, closes });
    }
    loop {
        let length = u64::from_str_radix(&line(from)?, 16).map_err(std::io::Error::other)?;
        if length == 0 {
            // Trailers, and an empty line.
            while !line(from)?.is_empty() {}
            return Ok(Answer { status, body, closes });
        }
        from.take(length).read_to_end(&mut body)?;
        line(from)?;
    }
}

fn line(from: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn free_ports() -> [u16; 2] {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    [bind(), bind()].map(|listener| listener.local_addr().expect("it is bound").port())
}

/// In memory where that can be: etcd waits for the disk with every write.
fn data_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("there is a place for data")
}
