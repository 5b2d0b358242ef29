//! Requests as a bystander: every one that is sent reaches every listener, whichever replica answers it.

use std::marker::PhantomData;

use async_nats::Subscriber;
use contract::{Code, Error, Request};
use futures::StreamExt;

use crate::Bus;

/// Requests that are sent to whoever answers them.
pub struct Overheard<R> {
    messages: Subscriber,
    kind: PhantomData<fn() -> R>,
}

impl Bus {
    /// Listens to all requests of a kind, across reconnects; those that are sent meanwhile are missed.
    pub async fn overhear<R: Request>(&self) -> Result<Overheard<R>, Error> {
        let subject = R::SUBJECT.render(None);
        let messages =
            self.client.subscribe(subject.clone()).await.map_err(|error| {
                Error::new(Code::BUS_UNREACHABLE, format!("listen to {subject}: {error}"))
            })?;
        Ok(Overheard { messages, kind: PhantomData })
    }
}

impl<R: Request> Overheard<R> {
    /// The next one that can be read; none when the connection is closed for good.
    pub async fn next(&mut self) -> Option<R> {
        loop {
            let message = self.messages.next().await?;
            if let Ok(request) = serde_json::from_slice(&message.payload) {
                return Some(request);
            }
        }
    }
}
