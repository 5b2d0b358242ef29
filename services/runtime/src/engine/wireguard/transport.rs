//! What packets come from and go to: the TUN device inside, the UDP socket outside.

use std::{io, sync::Arc};

use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
    udp::{
        UdpTransportFactory, UdpTransportFactoryParams,
        socket::{UdpSocket, UdpSocketFactory},
    },
};
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::network::MTU;

/// The end of the tunnel that the kernel sees as an interface. It is gone when this is.
#[derive(Clone)]
pub(super) struct Tun {
    device: Arc<AsyncDevice>,
}

impl Tun {
    /// Makes the interface and switches it on.
    pub(super) fn make(interface: &str) -> io::Result<Self> {
        let device = DeviceBuilder::new().name(interface).mtu(MTU).build_async()?;
        Ok(Self { device: Arc::new(device) })
    }

    /// The kernel's number of the interface.
    pub(super) fn index(&self) -> io::Result<u32> {
        self.device.if_index()
    }
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.device.send(&packet.into_bytes()).await.map(|_| ())
    }
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let mut packet = pool.get();
        let length = self.device.recv(&mut packet).await?;
        packet.truncate(length);
        // What the kernel routes to the interface is IP; anything else is no reason to stop.
        Ok(packet.try_into_ip().ok().into_iter())
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(MTU)
    }
}

/// A socket that is bound before the process gives up the right to bind low ports, and stays bound while `gotatun`
/// takes its connection down and up again.
pub(super) struct Bound {
    socket: UdpSocket,
}

impl Bound {
    /// Binds the port on all addresses, IPv6's too where the host has them.
    pub(super) async fn bind(port: u16) -> io::Result<Self> {
        let params = UdpTransportFactoryParams { addr: None, port, fwmark: None };
        let (socket, _) = UdpSocketFactory::default().bind(&params).await?;
        Ok(Self { socket })
    }
}

impl UdpTransportFactory for Bound {
    type Send = UdpSocket;
    type Recv = UdpSocket;

    async fn bind(&mut self, _: &UdpTransportFactoryParams) -> io::Result<(UdpSocket, UdpSocket)> {
        Ok((self.socket.clone(), self.socket.clone()))
    }
}
