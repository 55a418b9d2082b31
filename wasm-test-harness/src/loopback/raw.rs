//! Bytes that no client would send.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{MAX_ANSWER_BYTES, require_loopback};

/// Opens a TCP connection to an address on loopback.
///
/// # Errors
///
/// [`NotLoopback`](super::NotLoopback); no connection.
pub async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let address = require_loopback(address)?;
    TcpStream::connect(address).await.with_context(|| address.to_string())
}

/// Sends `bytes` as they are over a connection of their own, and returns all that comes back until the other side
/// closes the connection or `patience` has passed.
///
/// # Errors
///
/// [`NotLoopback`](super::NotLoopback); no connection; more than 64 MiB came back. A connection that breaks is an end like any other.
pub async fn exchange(address: SocketAddr, bytes: &[u8], patience: Duration) -> anyhow::Result<Vec<u8>> {
    let mut stream = connect(address).await?;
    let mut received = Vec::new();
    let mut deadline = pin!(tokio::time::sleep(patience));
    let (mut reader, mut writer) = stream.split();
    let mut conversation = pin!(async {
        // The other side may answer and close before it has read all.
        let _ = writer.write_all(bytes).await;
        let mut piece = [0; 16 * 1024];
        while let Ok(count @ 1..) = reader.read(&mut piece).await {
            received.extend_from_slice(&piece[..count]);
            if received.len() > MAX_ANSWER_BYTES {
                bail!("{address} sent more than {MAX_ANSWER_BYTES} bytes");
            }
        }
        Ok(())
    });
    tokio::select! {
        result = &mut conversation => result?,
        () = &mut deadline => {}
    }
    Ok(received)
}
