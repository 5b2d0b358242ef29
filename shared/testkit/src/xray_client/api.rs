//! Outbounds of a running Xray: its `HandlerService`, as of 26.3.27 (`app/proxyman/command/command.proto`).

use prost::Message;
use tonic::{
    Request, Status,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::link::{Link, Protocol};

/// A connection to the API of one Xray.
#[derive(Debug, Clone)]
pub(super) struct Api {
    channel: Channel,
}

impl Api {
    /// Connected at once, so that the first user added is no slower than the rest.
    pub(super) async fn connect(port: u16) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        Self { channel: endpoint.connect().await.unwrap() }
    }

    pub(super) async fn add(&self, tag: &str, link: &Link) -> Result<(), Status> {
        self.call("AddOutbound", Add { outbound: Some(outbound(tag, link)) }).await
    }

    pub(super) async fn remove(&self, tag: &str) -> Result<(), Status> {
        self.call("RemoveOutbound", Remove { tag: tag.to_owned() }).await
    }

    async fn call<M: Message + 'static>(&self, method: &str, message: M) -> Result<(), Status> {
        let path: PathAndQuery =
            format!("/xray.app.proxyman.command.HandlerService/{method}").parse().unwrap();
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        client.unary(Request::new(message), path, ProstCodec::<M, Empty>::default()).await?;
        Ok(())
    }
}

fn outbound(tag: &str, link: &Link) -> Outbound {
    let address = Some(IpOrDomain::new(&link.host));
    let port = u32::from(link.port);
    let (stream, proxy) = match &link.protocol {
        Protocol::Vless { id, flow, sni, fingerprint, public_key, short_id, spider_x } => {
            let account = Account { id: id.to_string(), flow: flow.clone(), encryption: "none".to_owned() };
            let user = User { account: Some(typed("xray.proxy.vless.Account", &account)) };
            let server = Vless { server: Some(Server { address, port, user: Some(user) }) };
            let mut padded = short_id.clone();
            padded.resize(8, 0);
            let reality = Reality {
                fingerprint: fingerprint.clone(),
                server_name: sni.clone(),
                public_key: public_key.to_vec(),
                short_id: padded,
                spider_x: spider_x.clone(),
                spider_y: vec![0; 10],
            };
            const SECURITY: &str = "xray.transport.internet.reality.Config";
            let stream = Stream {
                network: "tcp".to_owned(),
                security: SECURITY.to_owned(),
                settings: vec![typed(SECURITY, &reality)],
            };
            (stream, typed("xray.proxy.vless.outbound.Config", &server))
        }
        Protocol::Shadowsocks { method, password } => {
            let server = Shadowsocks { address, port, method: method.clone(), key: password.clone() };
            let stream = Stream { network: "tcp".to_owned(), ..Stream::default() };
            (stream, typed("xray.proxy.shadowsocks_2022.ClientConfig", &server))
        }
    };
    let sender = typed("xray.app.proxyman.SenderConfig", &Sender { stream: Some(stream) });
    Outbound { tag: tag.to_owned(), sender: Some(sender), proxy: Some(proxy) }
}

fn typed(name: &str, message: &impl Message) -> Typed {
    Typed { name: name.to_owned(), value: message.encode_to_vec() }
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Add {
    #[prost(message, optional, tag = "1")]
    outbound: Option<Outbound>,
}

#[derive(Clone, PartialEq, Message)]
struct Remove {
    #[prost(string, tag = "1")]
    tag: String,
}

#[derive(Clone, PartialEq, Message)]
struct Outbound {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "2")]
    sender: Option<Typed>,
    #[prost(message, optional, tag = "3")]
    proxy: Option<Typed>,
}

#[derive(Clone, PartialEq, Message)]
struct Typed {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Sender {
    #[prost(message, optional, tag = "2")]
    stream: Option<Stream>,
}

#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(string, tag = "5")]
    network: String,
    #[prost(string, tag = "3")]
    security: String,
    #[prost(message, repeated, tag = "4")]
    settings: Vec<Typed>,
}

#[derive(Clone, PartialEq, Message)]
struct Reality {
    #[prost(string, tag = "21")]
    fingerprint: String,
    #[prost(string, tag = "22")]
    server_name: String,
    #[prost(bytes = "vec", tag = "23")]
    public_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "24")]
    short_id: Vec<u8>,
    #[prost(string, tag = "26")]
    spider_x: String,
    #[prost(int64, repeated, tag = "27")]
    spider_y: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Vless {
    #[prost(message, optional, tag = "1")]
    server: Option<Server>,
}

#[derive(Clone, PartialEq, Message)]
struct Server {
    #[prost(message, optional, tag = "1")]
    address: Option<IpOrDomain>,
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(message, optional, tag = "3")]
    user: Option<User>,
}

#[derive(Clone, PartialEq, Message)]
struct User {
    #[prost(message, optional, tag = "3")]
    account: Option<Typed>,
}

#[derive(Clone, PartialEq, Message)]
struct Account {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    flow: String,
    #[prost(string, tag = "3")]
    encryption: String,
}

#[derive(Clone, PartialEq, Message)]
struct Shadowsocks {
    #[prost(message, optional, tag = "1")]
    address: Option<IpOrDomain>,
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(string, tag = "3")]
    method: String,
    #[prost(string, tag = "4")]
    key: String,
}

#[derive(Clone, PartialEq, Message)]
struct IpOrDomain {
    #[prost(oneof = "Address", tags = "1, 2")]
    address: Option<Address>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Address {
    #[prost(bytes, tag = "1")]
    Ip(Vec<u8>),
    #[prost(string, tag = "2")]
    Domain(String),
}

impl IpOrDomain {
    fn new(host: &str) -> Self {
        use std::net::IpAddr;
        let address = match host.parse() {
            Ok(IpAddr::V4(ip)) => Address::Ip(ip.octets().to_vec()),
            Ok(IpAddr::V6(ip)) => Address::Ip(ip.octets().to_vec()),
            Err(_) => Address::Domain(host.to_owned()),
        };
        Self { address: Some(address) }
    }
}
