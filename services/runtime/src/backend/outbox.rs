//! Notices on their way to whoever listens.
//!
//! A listener that is slow must not stop a daemon's event stream or a supervisor, and nothing may pile up
//! without end. So what does not fit is dropped, and one [`Notice::Gap`] stands for all of it: the listener
//! looks at everything again, which is what the lost notices would have led to.

use tokio::sync::mpsc::{self, OwnedPermit, error::TrySendError};

use super::Notice;

/// So many notices wait for the listener: the events of 64 containers that are made anew at once.
const WAITING: usize = 256;

/// The sending side for one listener.
pub(super) struct Outbox {
    sender: mpsc::Sender<Notice>,
    /// A place that is kept free for a gap, so that saying it never has to wait. It is absent from when the
    /// gap was said until a place is free again; until then the gap is still unread, and stands for whatever
    /// is dropped meanwhile too.
    kept_for_gap: Option<OwnedPermit<Notice>>,
}

impl Outbox {
    pub(super) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let kept_for_gap = sender.clone().try_reserve_owned().ok();
        (Self { sender, kept_for_gap }, receiver)
    }

    /// Sends, or drops and says so.
    pub(super) fn send(&mut self, notice: Notice) {
        if self.kept_for_gap.is_none() {
            self.kept_for_gap = self.sender.clone().try_reserve_owned().ok();
        }
        if let Err(TrySendError::Full(_)) = self.sender.try_send(notice)
            && let Some(permit) = self.kept_for_gap.take()
        {
            permit.send(Notice::Gap);
        }
    }

    /// Whether the listener is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the listener is gone.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use contract::runtime::ContainerEventKind;

    use super::*;

    fn notice(code: i32) -> Notice {
        let server = "s".parse().unwrap();
        Notice::Container { server, kind: ContainerEventKind::Exited(code), traceparent: None }
    }

    #[tokio::test]
    async fn what_does_not_fit_becomes_a_gap_that_is_read_after_it_happened() {
        let (mut outbox, mut receiver) = Outbox::new();
        // Twice as many as fit, read slowly, again and again: whatever was dropped, a gap comes later.
        let mut dropped_after_last_gap = std::collections::BTreeSet::new();
        for round in 0..20 {
            for n in 0..(2 * WAITING) {
                let code = i32::try_from(round * 10_000 + n).unwrap();
                outbox.send(notice(code));
                dropped_after_last_gap.insert(code);
            }
            for _ in 0..(round * 13 + 1) {
                match receiver.try_recv() {
                    Ok(Notice::Gap) => dropped_after_last_gap.clear(),
                    Ok(Notice::Container { kind: ContainerEventKind::Exited(code), .. }) => {
                        dropped_after_last_gap.remove(&code);
                    }
                    other => assert!(other.is_err(), "{other:?}"),
                }
            }
        }
        let mut read = 0;
        while let Ok(notice) = receiver.try_recv() {
            read += 1;
            match notice {
                Notice::Gap => dropped_after_last_gap.clear(),
                Notice::Container { kind: ContainerEventKind::Exited(code), .. } => {
                    dropped_after_last_gap.remove(&code);
                }
                Notice::Container { .. } => unreachable!("never sent"),
            }
        }
        assert!(read <= WAITING, "{read} waited");
        assert!(dropped_after_last_gap.is_empty(), "lost without a word: {dropped_after_last_gap:?}");
    }

    #[tokio::test]
    async fn a_listener_that_is_gone_is_noticed() {
        let (mut outbox, receiver) = Outbox::new();
        drop(receiver);
        outbox.send(notice(1));
        assert!(outbox.is_closed());
        outbox.closed().await;
    }
}
