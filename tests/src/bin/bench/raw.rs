//! The floors on the bus: NATS by its client library alone, with messages as long as ours.

use std::process::Command;

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull},
        stream::Config,
    },
};
use bytes::Bytes;
use futures::StreamExt as _;
use testkit::{process::Process, wait::eventually};
use uuid::Uuid;

use crate::services::READY_WITHIN;

/// Where the echo listens.
pub(crate) const ECHO: &str = "bench.echo";
/// At most so many messages in one atomic batch: what nats-server takes.
const BATCH_MAX: usize = 1_000;

/// The least that a service can be: a connection that echoes requests, until it is killed.
pub(crate) fn echo(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(url).await.unwrap();
        let mut requests = client.subscribe(ECHO).await.unwrap();
        while let Some(request) = requests.next().await {
            client.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
}

/// How the echo is started.
pub(crate) fn echo_command(url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["echo", url]);
    command
}

/// A raw connection, with an echo at the other end and a stream like a bucket's.
pub(crate) struct Raw {
    pub(crate) client: Client,
    jetstream: jetstream::Context,
    _echo: Process,
}

impl Raw {
    pub(crate) async fn open(url: &str) -> Self {
        let client = async_nats::connect(url).await.unwrap();
        let jetstream = jetstream::new(client.clone());
        let config = Config {
            name: "BENCH".to_owned(),
            subjects: vec!["bench.floor.>".to_owned()],
            max_messages_per_subject: 64,
            allow_direct: true,
            allow_atomic_publish: true,
            ..Config::default()
        };
        jetstream.create_stream(config).await.unwrap();
        let echo = Process::spawn("echo", &echo_command(url));
        eventually("the echo answers", READY_WITHIN, async || client.request(ECHO, Bytes::new()).await).await;
        Self { client, jetstream, _echo: echo }
    }

    /// A request that is answered at once.
    pub(crate) async fn request(&self, body: Bytes) {
        self.client.request(ECHO, body).await.unwrap();
    }

    /// A message that is on disk when this returns.
    pub(crate) async fn publish(&self, key: &str, body: Bytes) {
        self.jetstream.publish(format!("bench.floor.{key}"), body).await.unwrap().await.unwrap();
    }

    /// So many messages in atomic batches, one after the other.
    pub(crate) async fn batches(&self, count: usize, body: &Bytes) {
        for first in (0..count).step_by(BATCH_MAX) {
            let (id, size) = (Uuid::new_v4().to_string(), BATCH_MAX.min(count - first));
            for index in 1..=size {
                let subject = format!("bench.floor.{}", first + index);
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Batch-Id", id.as_str());
                headers.insert("Nats-Batch-Sequence", index.to_string().as_str());
                if index < size {
                    self.client.publish_with_headers(subject, headers, body.clone()).await.unwrap();
                    continue;
                }
                headers.insert("Nats-Batch-Commit", "1");
                let reply = self.client.request_with_headers(subject, headers, body.clone()).await.unwrap();
                let text = String::from_utf8_lossy(&reply.payload).into_owned();
                assert!(!text.contains("\"error\""), "{text}");
            }
        }
    }
}

/// Reads the last message of each key of a stream by a connection of its own; returns how many there were.
pub(crate) async fn read_all(url: &str, stream: &str) -> usize {
    let client = async_nats::connect(url).await.unwrap();
    let stream = jetstream::new(client).get_stream(stream).await.unwrap();
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::LastPerSubject,
        filter_subject: ">".to_owned(),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut count = 0;
    while let Some(message) = messages.next().await {
        count += 1;
        if message.unwrap().info().unwrap().pending == 0 {
            break;
        }
    }
    count
}

/// The length of the last message under a key of a bucket.
pub(crate) async fn length(client: &Client, bucket: &str, key: &str) -> usize {
    let stream = jetstream::new(client.clone()).get_stream(format!("KV_{bucket}")).await.unwrap();
    let message = stream.direct_get_last_for_subject(format!("$KV.{bucket}.{key}")).await.unwrap();
    message.payload.len()
}
