//! Free ports on loopback, kept free for one etcd over its restarts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// The two ports of an etcd.
#[derive(Debug)]
pub(super) struct Ports {
    client: Port,
    peer: Port,
}

impl Ports {
    pub(super) fn free() -> io::Result<Self> {
        Ok(Self { client: Port::free()?, peer: Port::free()? })
    }

    /// As [`Ports::free`], with a client's port that may be anybody's.
    #[cfg(test)]
    pub(super) fn free_but_client(client: SocketAddr) -> io::Result<Self> {
        Ok(Self { client: Port { address: client, _held: None }, peer: Port::free()? })
    }

    pub(super) fn client(&self) -> SocketAddr {
        self.client.address
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer.address
    }
}

#[derive(Debug)]
struct Port {
    address: SocketAddr,
    _held: Option<Socket>,
}

impl Port {
    /// A port that nobody has.
    ///
    /// On Linux it is held by a socket that is bound but does not listen: the kernel gives it to nobody who asks for any
    /// port, while etcd, which like this socket sets `SO_REUSEADDR`, can bind it by number and listen, again and again.
    /// Elsewhere that is refused, and another process may be quicker than etcd.
    fn free() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, _held: cfg!(target_os = "linux").then_some(socket) })
    }
}
