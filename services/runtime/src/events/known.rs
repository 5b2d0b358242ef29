//! What an observation means for what was known.

use std::collections::{BTreeMap, BTreeSet};

use contract::{ServerName, runtime::ContainerEventKind};
use serde::{Deserialize, Serialize};

use crate::backend::{Container, ContainerState, UNKNOWN_EXIT};

/// What is known of the node's containers, by server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known(pub(super) BTreeMap<ServerName, Is>);

/// How a container is, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Is {
    /// Made.
    Created,
    /// It runs; which process that is, where it was found rather than seen.
    Running(Option<u32>),
    /// It ended.
    Exited,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) server: ServerName,
    pub(super) kind: ContainerEventKind,
    /// Nobody saw it.
    pub(super) inferred: bool,
    /// The W3C `traceparent` of what made the container.
    pub(super) traceparent: Option<String>,
}

impl Known {
    /// The backend said that this happened; nothing where it is known.
    pub(super) fn saw(
        &mut self,
        server: &ServerName,
        kind: ContainerEventKind,
        traceparent: Option<&str>,
    ) -> Option<Happened> {
        let known = self.0.get(server).copied();
        let now = match (known, kind) {
            (None, ContainerEventKind::Created) => Some(Is::Created),
            (None | Some(Is::Created | Is::Exited), ContainerEventKind::Started) => Some(Is::Running(None)),
            (None | Some(Is::Created | Is::Running(_)), ContainerEventKind::Exited(_)) => Some(Is::Exited),
            (Some(_), ContainerEventKind::Removed) => None,
            _ => return None,
        };
        match now {
            Some(now) => drop(self.0.insert(server.clone(), now)),
            None => drop(self.0.remove(server)),
        }
        let traceparent = traceparent.map(str::to_owned);
        Some(Happened { server: server.clone(), kind, inferred: false, traceparent })
    }

    /// These are all containers there are; what leads there from what was known.
    pub(super) fn found(&mut self, containers: &[Container]) -> Vec<Happened> {
        let mut happened = Vec::new();
        let there: BTreeSet<&ServerName> = containers.iter().map(|container| &container.server).collect();
        self.0.retain(|server, _| {
            let stays = there.contains(server);
            if !stays {
                let (server, kind) = (server.clone(), ContainerEventKind::Removed);
                happened.push(Happened { server, kind, inferred: true, traceparent: None });
            }
            stays
        });
        for container in containers {
            let (is, kinds) = leads(self.0.get(&container.server).copied(), container.state);
            self.0.insert(container.server.clone(), is);
            happened.extend(kinds.into_iter().map(|kind| Happened {
                server: container.server.clone(),
                kind,
                inferred: true,
                traceparent: container.traceparent.clone(),
            }));
        }
        happened
    }
}

/// What leads from what was known of a container to what it is.
fn leads(known: Option<Is>, state: ContainerState) -> (Is, Vec<ContainerEventKind>) {
    use ContainerEventKind::{Created, Exited, Removed, Started};
    let unseen = Exited(UNKNOWN_EXIT);
    match (known, state) {
        (None, ContainerState::Created) => (Is::Created, vec![Created]),
        (Some(Is::Created), ContainerState::Created) => (Is::Created, vec![]),
        // One that has run is never again as it was made: this is another one.
        (Some(Is::Running(_)), ContainerState::Created) => (Is::Created, vec![unseen, Removed, Created]),
        (Some(Is::Exited), ContainerState::Created) => (Is::Created, vec![Removed, Created]),
        (None, ContainerState::Running { pid }) => (Is::Running(Some(pid)), vec![Created, Started]),
        (Some(Is::Running(Some(before))), ContainerState::Running { pid }) if before != pid => {
            (Is::Running(Some(pid)), vec![unseen, Started])
        }
        (Some(Is::Running(_)), ContainerState::Running { pid }) => (Is::Running(Some(pid)), vec![]),
        (Some(Is::Created | Is::Exited), ContainerState::Running { pid }) => {
            (Is::Running(Some(pid)), vec![Started])
        }
        (None, ContainerState::Exited { code }) => (Is::Exited, vec![Created, Started, Exited(code)]),
        (Some(Is::Created), ContainerState::Exited { code }) => (Is::Exited, vec![Started, Exited(code)]),
        (Some(Is::Running(_)), ContainerState::Exited { code }) => (Is::Exited, vec![Exited(code)]),
        (Some(Is::Exited), ContainerState::Exited { .. }) => (Is::Exited, vec![]),
    }
}

#[cfg(test)]
mod tests {
    use contract::fleet::ServerId;
    use proptest::prelude::*;

    use super::*;

    fn name() -> ServerName {
        "s1".parse().unwrap()
    }

    /// What a container really goes through.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Create,
        Start,
        End,
        Remove,
    }

    fn container(state: ContainerState) -> Container {
        let server_id = ServerId(uuid::Uuid::from_u128(1));
        Container { server: name(), server_id, revision: String::new(), traceparent: None, state }
    }

    fn lives() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(0_usize..3, 1..30).prop_map(|dice| {
            let (mut state, mut life) = (None, Vec::new());
            for die in dice {
                let step = match (state, die) {
                    (None, _) => Step::Create,
                    (Some(Is::Created | Is::Exited), 0 | 1) => Step::Start,
                    (Some(Is::Running(_)), _) => Step::End,
                    (Some(_), _) => Step::Remove,
                };
                state = match step {
                    Step::Create => Some(Is::Created),
                    Step::Start => Some(Is::Running(None)),
                    Step::End => Some(Is::Exited),
                    Step::Remove => None,
                };
                life.push(step);
            }
            life
        })
    }

    fn kind(step: Step) -> ContainerEventKind {
        match step {
            Step::Create => ContainerEventKind::Created,
            Step::Start => ContainerEventKind::Started,
            Step::End => ContainerEventKind::Exited(0),
            Step::Remove => ContainerEventKind::Removed,
        }
    }

    proptest! {
        /// Some steps are seen, some twice, some not at all; now and then it is looked at. What is told is a life
        /// that a container can have, and ends where it really is.
        #[test]
        fn what_is_told_is_a_life(life in lives(), luck in prop::collection::vec((0_u8..4, any::<bool>()), 30)) {
            let mut known = Known::default();
            let (mut told, mut state, mut pid) = (Vec::new(), None, 0);
            for (step, (seen, looked)) in life.iter().zip(luck).chain([]) {
                state = match step {
                    Step::Create => Some(ContainerState::Created),
                    Step::Start => { pid += 1; Some(ContainerState::Running { pid }) }
                    Step::End => Some(ContainerState::Exited { code: 0 }),
                    Step::Remove => None,
                };
                if looked {
                    told.extend(known.found(&state.map(container).into_iter().collect::<Vec<_>>()));
                }
                for _ in 0..seen.min(2) {
                    told.extend(known.saw(&name(), kind(*step), None));
                }
            }
            let end: Vec<_> = state.map(container).into_iter().collect();
            told.extend(known.found(&end));
            prop_assert_eq!(known.found(&end), Vec::new(), "the same is found again");
            let mut is = None;
            for event in &told {
                is = match (is, event.kind) {
                    (None, ContainerEventKind::Created) => Some("created"),
                    (None | Some("created" | "exited"), ContainerEventKind::Started) => Some("running"),
                    (None | Some("created" | "running"), ContainerEventKind::Exited(_)) => Some("exited"),
                    (Some(_), ContainerEventKind::Removed) => None,
                    other => return Err(TestCaseError::fail(format!("{other:?} in {told:?}"))),
                };
            }
            prop_assert_eq!(is, state.map(|state| match state {
                ContainerState::Created => "created",
                ContainerState::Running { .. } => "running",
                ContainerState::Exited { .. } => "exited",
            }));
        }
    }
}
