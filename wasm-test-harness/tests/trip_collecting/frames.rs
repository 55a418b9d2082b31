//! Many requests over one connection of HTTP/2 that never end, in frames made by hand: what was sent once costs a byte when
//! it is sent again (HPACK, RFC 7541), which no ordinary client makes use of to this extent.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::loopback::connect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

/// Envoy decodes all that it reads at a time before any filter sees it, and what was refused goes only after that: more at a
/// time would show how much Envoy takes for itself.
const BURST: u32 = 50;
const APART: Duration = Duration::from_millis(30);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_HEADERS: u8 = 4;
const STATIC_POST: u8 = 0x83;
const STATIC_HTTP: u8 = 0x86;

/// A header that each request of a connection has several times: it is sent once.
#[derive(Clone, Copy)]
pub struct Filler {
    /// Bytes of its value; at most about 3,900, for the table of HPACK has 4,096.
    pub bytes: usize,
    /// How often a request has it.
    pub lines: usize,
}

impl Filler {
    /// What the headers of a request have by it, in bytes.
    pub fn total_bytes(self) -> usize {
        self.bytes * self.lines
    }
}

/// Requests that do not end, until this is dropped.
pub struct Endless {
    answered: Arc<Mutex<BTreeSet<u32>>>,
    /// What is sent, in bytes.
    pub sent_bytes: usize,
    is_sent: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Endless {
    /// Begins to send the headers of so many requests.
    pub async fn begin(address: SocketAddr, requests: u32, filler: Filler) -> anyhow::Result<Endless> {
        let stream = connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.into_split();
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        // Their answers together are larger than the window that a connection has at first.
        bytes.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        let mut bursts = vec![bytes];
        for number in 0..requests {
            if number % BURST == 0 {
                bursts.push(Vec::new());
            }
            let block = if number == 0 { first_block(filler) } else { next_block(filler) };
            let frame = frame(HEADERS, END_HEADERS, 2 * number + 1, &block);
            bursts.last_mut().into_iter().for_each(|burst| burst.extend(&frame));
        }
        let sent_bytes = bursts.iter().map(Vec::len).sum();
        let answered = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&answered);
        let is_sent = Arc::new(AtomicBool::new(false));
        let sent = Arc::clone(&is_sent);
        let task = tokio::spawn(async move {
            let sending = async {
                for burst in bursts {
                    let _ = writer.write_all(&burst).await;
                    tokio::time::sleep(APART).await;
                }
                sent.store(true, Ordering::Relaxed);
                writer
            };
            // Both at a time: else neither side reads.
            let reading = async {
                let mut head = [0; 9];
                while reader.read_exact(&mut head).await.is_ok() {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    let mut payload = vec![0; length];
                    if reader.read_exact(&mut payload).await.is_err() {
                        return;
                    }
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    if matches!(head[3], HEADERS | DATA | RST_STREAM) && stream > 0 {
                        seen.lock().unwrap().insert(stream);
                    }
                }
            };
            let (_writer, ()) = tokio::join!(sending, reading);
        });
        Ok(Endless { answered, sent_bytes, is_sent, task })
    }

    /// Whether all of them were sent.
    pub fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Relaxed)
    }

    /// How many have been answered.
    pub fn answered(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Puts path, authority and filler into the table, where they are numbers 64, 63 and 62 from then on.
fn first_block(filler: Filler) -> Vec<u8> {
    let mut block = vec![STATIC_POST, STATIC_HTTP];
    block.push(0x44);
    block.extend(text(b"/trips"));
    block.push(0x41);
    block.extend(text(b"a"));
    block.push(0x40);
    block.extend(text(b"x-filler"));
    block.extend(text(&vec![b'x'; filler.bytes]));
    block.extend(vec![0x80 | 62; filler.lines.saturating_sub(1)]);
    block
}

fn next_block(filler: Filler) -> Vec<u8> {
    let mut block = vec![STATIC_POST, STATIC_HTTP, 0x80 | 64, 0x80 | 63];
    block.extend(vec![0x80 | 62; filler.lines]);
    block
}

/// A string, with its length as an integer of seven bits or more.
fn text(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut length = bytes.len();
    if length < 127 {
        encoded.push(length as u8);
    } else {
        encoded.push(127);
        length -= 127;
        while length >= 128 {
            encoded.push((length % 128) as u8 | 128);
            length /= 128;
        }
        encoded.push(length as u8);
    }
    encoded.extend(bytes);
    encoded
}

#[test]
fn frames_and_strings_are_as_the_rfcs_have_them() {
    assert_eq!(frame(HEADERS, END_HEADERS, 1, &[7]), [0, 0, 1, 1, 4, 0, 0, 0, 1, 7]);
    assert_eq!(text(&[b'x'; 3_500])[..3], [127, 0xad, 26]);
}
