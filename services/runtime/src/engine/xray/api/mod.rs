//! Xray's gRPC services, on the unix socket in the run directory.
//!
//! - [`messages`] what goes over it

pub(super) mod messages;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use contract::{Code, usage::Traffic};
use hyper_util::rt::TokioIo;
use messages::{
    AddInbound, AddRule, AddUser, AlterInbound, Count, Done, Inbound, Inbounds, ListInbounds, Named, OneStat,
    OnlineAddresses, OnlineUsers, RemoveUser, Routing, Rule, RuleName, StatName, StatPattern, Stats, Tag,
    Typed, User, Users,
};
use tokio::net::UnixStream;
use tonic::{
    Status,
    client::Grpc,
    codegen::http::{Uri, uri::PathAndQuery},
    transport::{Channel, Endpoint},
};

use crate::backend::Error;

/// Xray answers in a millisecond, with 10,000 users in some tens of them; past this it hangs.
const DEADLINE: Duration = Duration::from_secs(5);
/// All users of a server come in one message: 150 bytes each, so this is 400,000 of them.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;
/// The default of Go's gRPC, which Xray keeps.
pub(super) const LARGEST_REQUEST: usize = 4 * 1024 * 1024;
/// The longest path of a unix socket, without the zero behind it.
const LONGEST_SOCKET_PATH: usize = 107;

/// Between an entry and the direction, in a counter's name.
const TRAFFIC: &str = ">>>traffic>>>";

macro_rules! service {
    (handler $method:literal) => {
        concat!("/xray.app.proxyman.command.HandlerService/", $method)
    };
    (routing $method:literal) => {
        concat!("/xray.app.router.command.RoutingService/", $method)
    };
    (stats $method:literal) => {
        concat!("/xray.app.stats.command.StatsService/", $method)
    };
}

/// The engine's control socket. Connects when it is first used, and again when the engine was started anew.
#[derive(Clone)]
pub(super) struct Api {
    channel: Channel,
}

/// What came of adding a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// It is there now.
    Yes,
    /// Somebody of that name was there before, perhaps with another account.
    NameTaken,
}

impl Api {
    pub(super) fn new(socket: PathBuf) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name goes nowhere: what is connected to stands in `connect`.
        let channel = Endpoint::from_static("http://xray").connect_with_connector_lazy(connect);
        Self { channel }
    }

    /// The tags of its inbounds. The engine answers when all of them listen: its API starts after them.
    pub(super) async fn tags(&self) -> Result<Vec<String>, Error> {
        let inbounds: Inbounds =
            self.call(service!(handler "ListInbounds"), ListInbounds { only_tags: true }).await?;
        Ok(inbounds.inbounds.into_iter().map(|inbound| inbound.tag).collect())
    }

    /// The inbound as it was made, with the users it was made with.
    pub(super) async fn inbound(&self, tag: &str) -> Result<Option<Inbound>, Error> {
        let inbounds: Inbounds =
            self.call(service!(handler "ListInbounds"), ListInbounds { only_tags: false }).await?;
        Ok(inbounds.inbounds.into_iter().find(|inbound| inbound.tag == tag))
    }

    /// Makes an inbound; false where it is larger than one message may be.
    pub(super) async fn add_inbound(&self, inbound: Inbound) -> Result<bool, Error> {
        let request = AddInbound { inbound: Some(inbound) };
        if prost::Message::encoded_len(&request) > LARGEST_REQUEST {
            return Ok(false);
        }
        self.call::<_, Done>(service!(handler "AddInbound"), request).await?;
        Ok(true)
    }

    pub(super) async fn remove_inbound(&self, tag: &str) -> Result<(), Error> {
        let Done {} = self.call(service!(handler "RemoveInbound"), Tag { tag: tag.to_owned() }).await?;
        Ok(())
    }

    pub(super) async fn users(&self, tag: &str) -> Result<Vec<User>, Error> {
        let users: Users =
            self.call(service!(handler "GetInboundUsers"), Tag { tag: tag.to_owned() }).await?;
        Ok(users.users)
    }

    pub(super) async fn count_users(&self, tag: &str) -> Result<usize, Error> {
        let count: Count =
            self.call(service!(handler "GetInboundUsersCount"), Tag { tag: tag.to_owned() }).await?;
        Ok(usize::try_from(count.count).unwrap_or_default())
    }

    pub(super) async fn add_user(&self, tag: &str, user: User) -> Result<Added, Error> {
        match self.alter(tag, &AddUser { user: Some(user) }).await {
            Ok(()) => Ok(Added::Yes),
            Err(status) if status.message().contains("already exists") => Ok(Added::NameTaken),
            Err(status) => Err(failed("AddUser", &status)),
        }
    }

    /// Removes a user; false where none was there.
    pub(super) async fn remove_user(&self, tag: &str, email: &str) -> Result<bool, Error> {
        match self.alter(tag, &RemoveUser { email: email.to_owned() }).await {
            Err(status) if !status.message().contains("not found") => Err(failed("RemoveUser", &status)),
            // "handler not found" has the same words.
            Err(status) if status.message().contains("get handler") => Err(failed("RemoveUser", &status)),
            removed => Ok(removed.is_ok()),
        }
    }

    /// From now on new TCP connections of these users go to that outbound, unless an earlier rule says otherwise. A
    /// rule that had the name is replaced.
    pub(super) async fn set_rule(&self, name: &str, emails: &[String], outbound: &str) -> Result<(), Error> {
        // Xray refuses a name that it knows.
        self.remove_rule(name).await?;
        let rule = Rule { outbound: outbound.to_owned(), emails: emails.to_vec(), name: name.to_owned() };
        let routing = Some(Typed::new(&Routing { rules: vec![rule] }));
        let Done {} = self.call(service!(routing "AddRule"), AddRule { routing, append: true }).await?;
        Ok(())
    }

    /// Removes a rule; one that is not there counts as removed.
    pub(super) async fn remove_rule(&self, name: &str) -> Result<(), Error> {
        let Done {} = self.call(service!(routing "RemoveRule"), RuleName { name: name.to_owned() }).await?;
        Ok(())
    }

    /// The users who are connected, by Xray's own count.
    pub(super) async fn all_online(&self) -> Result<Vec<String>, Error> {
        let online: OnlineUsers = self.call(service!(stats "GetAllOnlineUsers"), Done {}).await?;
        let name =
            |counter: &String| counter.strip_prefix("user>>>")?.strip_suffix(">>>online").map(str::to_owned);
        Ok(online.counters.iter().filter_map(name).collect())
    }

    /// The addresses from which a user is connected, by Xray's own count; loopback is never among them.
    pub(super) async fn online(&self, email: &str) -> Result<BTreeMap<String, i64>, Error> {
        let name = format!("user>>>{email}>>>online");
        let path = service!(stats "GetStatsOnlineIpList");
        match self.send::<_, OnlineAddresses>(path, StatName { name }).await {
            Ok(online) => Ok(online.addresses),
            // Who never connected has no counter.
            Err(status) if status.code() == tonic::Code::NotFound => Ok(BTreeMap::new()),
            Err(status) => Err(failed("GetStatsOnlineIpList", &status)),
        }
    }

    /// What was sent and received under each entry that ever connected.
    pub(super) async fn traffic(&self) -> Result<HashMap<String, Traffic>, Error> {
        let pattern = TRAFFIC.to_owned();
        let stats: Stats = self.call(service!(stats "QueryStats"), StatPattern { pattern }).await?;
        let mut traffic = HashMap::<String, Traffic>::with_capacity(stats.stats.len() / 2);
        for stat in stats.stats {
            let name = stat.name.strip_prefix("user>>>").and_then(|name| name.split_once(TRAFFIC));
            let Some((entry, direction)) = name else { continue };
            let bytes = u64::try_from(stat.value).unwrap_or_default();
            let one = match direction {
                "uplink" => Traffic { up: bytes, down: 0 },
                "downlink" => Traffic { up: 0, down: bytes },
                _ => continue,
            };
            match traffic.get_mut(entry) {
                Some(both) => *both += one,
                None => drop(traffic.insert(entry.to_owned(), one)),
            }
        }
        Ok(traffic)
    }

    /// The same of one entry.
    pub(super) async fn traffic_of(&self, entry: &str) -> Result<Traffic, Error> {
        let up = self.counter(format!("user>>>{entry}{TRAFFIC}uplink")).await?;
        let down = self.counter(format!("user>>>{entry}{TRAFFIC}downlink")).await?;
        Ok(Traffic { up, down })
    }

    async fn counter(&self, name: String) -> Result<u64, Error> {
        let read = self.send::<_, OneStat>(service!(stats "GetStats"), StatName { name }).await;
        let stat = match read {
            Ok(found) => found.stat,
            // Who never connected has no counter.
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => return Err(failed("GetStats", &status)),
        };
        Ok(stat.and_then(|stat| u64::try_from(stat.value).ok()).unwrap_or_default())
    }

    async fn alter<M: Named>(&self, tag: &str, operation: &M) -> Result<(), Status> {
        let request = AlterInbound { tag: tag.to_owned(), operation: Some(Typed::new(operation)) };
        let Done {} = self.send(service!(handler "AlterInbound"), request).await?;
        Ok(())
    }

    async fn call<Q, R>(&self, path: &'static str, request: Q) -> Result<R, Error>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let method = path.rsplit('/').next().unwrap_or(path);
        self.send(path, request).await.map_err(|status| failed(method, &status))
    }

    /// One call within the deadline. Every call here may come twice, so one that broke on the way is sent again:
    /// Xray closes connections that were idle for five minutes.
    async fn send<Q, R>(&self, path: &'static str, request: Q) -> Result<R, Status>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let twice = async {
            match self.send_once(path, request.clone()).await {
                Err(status) if std::error::Error::source(&status).is_some() => {
                    self.send_once(path, request).await
                }
                done => done,
            }
        };
        tokio::time::timeout(DEADLINE, twice)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {DEADLINE:?}"))))
    }

    async fn send_once<Q, R>(&self, path: &'static str, request: Q) -> Result<R, Status>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = tonic_prost::ProstCodec::<Q, R>::default();
        let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }
}

/// Refuses a path that no unix socket can have.
pub(super) fn check_path(socket: &Path) -> Result<(), Error> {
    let length = socket.as_os_str().len();
    if length <= LONGEST_SOCKET_PATH {
        return Ok(());
    }
    let message = format!(
        "{} is {length} bytes long, and a unix socket's path {LONGEST_SOCKET_PATH} at most: use a shorter data directory",
        socket.display()
    );
    Err(Error::new(Code::RUNTIME_ENGINE_FAILED, message))
}

/// What Xray says of a call that carries accounts may repeat them, so its words are left out there.
fn failed(method: &str, status: &Status) -> Error {
    let words = match method {
        "AddUser" | "AddInbound" => "",
        _ => status.message(),
    };
    let message = format!("Xray's {method} failed: {} {words}", status.code());
    Error::new(Code::RUNTIME_ENGINE_FAILED, message.trim_end().to_owned())
}
