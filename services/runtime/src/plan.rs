//! What leads from what runs to what should run; pure.

use contract::{ServerName, fleet::ServerId};

use crate::backend::{Container, ContainerState};

/// What should be there for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Which server.
    pub(crate) server: ServerName,
    /// Which server, for all time.
    pub(crate) server_id: ServerId,
    /// What its container must be made with.
    pub(crate) revision: String,
    /// Whether it should run.
    pub(crate) running: bool,
}

/// A step. Each is named by what it leads to, so that taking it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// The container is gone.
    Remove(ServerName),
    /// The container is made, and does not run yet.
    Create(ServerName),
    /// It runs.
    Start(ServerName),
    /// It does not run.
    Stop(ServerName),
}

/// What leads from `actual` to `desired`, in the order to do it: removals first, because they free ports.
pub(crate) fn plan(desired: &[Wanted], actual: &[Container]) -> Vec<Action> {
    let mut removals = Vec::new();
    let mut steps = Vec::new();
    for container in actual {
        let fits = |wanted: &&Wanted| fits(wanted, container);
        if !desired.iter().any(|wanted| fits(&wanted)) {
            removals.push(Action::Remove(container.server.clone()));
        }
    }
    for wanted in desired {
        let name = || wanted.server.clone();
        let state = actual.iter().find(|container| fits(wanted, container)).map(|container| container.state);
        match (state, wanted.running) {
            (None, true) => steps.extend([Action::Create(name()), Action::Start(name())]),
            (Some(ContainerState::Created | ContainerState::Exited { .. }), true) => {
                steps.push(Action::Start(name()))
            }
            (Some(ContainerState::Running { .. }), false) => steps.push(Action::Stop(name())),
            (Some(ContainerState::Running { .. }), true) | (_, false) => {}
        }
    }
    removals.append(&mut steps);
    removals
}

fn fits(wanted: &Wanted, container: &Container) -> bool {
    container.server == wanted.server
        && container.server_id == wanted.server_id
        && container.revision == wanted.revision
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(index: u8) -> ServerName {
        format!("s{index}").parse().unwrap()
    }

    fn id(index: u8) -> ServerId {
        ServerId(uuid::Uuid::from_u128(u128::from(index)))
    }

    prop_compose! {
        fn wanted()(servers in prop::collection::btree_map(0_u8..6, (0_u8..2, 0_u8..2, any::<bool>()), 0..6)) -> Vec<Wanted> {
            servers.into_iter().map(|(server, (generation, revision, running))| Wanted {
                server: name(server),
                server_id: id(generation),
                revision: revision.to_string(),
                running,
            }).collect()
        }
    }

    prop_compose! {
        fn actual()(containers in prop::collection::btree_map(0_u8..6, (0_u8..2, 0_u8..2, 0_u8..3), 0..6)) -> Vec<Container> {
            containers.into_iter().map(|(server, (generation, revision, state))| Container {
                server: name(server),
                server_id: id(generation),
                revision: revision.to_string(),
                traceparent: None,
                state: match state {
                    0 => ContainerState::Created,
                    1 => ContainerState::Running { pid: 1 },
                    _ => ContainerState::Exited { code: 1 },
                },
            }).collect()
        }
    }

    /// Does to a model what a backend does to containers; refuses what a backend refuses.
    fn apply(desired: &[Wanted], actual: &[Container], actions: &[Action]) -> Vec<Container> {
        let mut there: BTreeMap<ServerName, Container> =
            actual.iter().map(|container| (container.server.clone(), container.clone())).collect();
        for action in actions {
            match action {
                Action::Remove(server) => assert!(there.remove(server).is_some(), "removes what is there"),
                Action::Create(server) => {
                    let wanted = desired.iter().find(|wanted| wanted.server == *server).unwrap();
                    let container = Container {
                        server: server.clone(),
                        server_id: wanted.server_id,
                        revision: wanted.revision.clone(),
                        traceparent: None,
                        state: ContainerState::Created,
                    };
                    assert!(there.insert(server.clone(), container).is_none(), "makes nothing twice");
                }
                Action::Start(server) => {
                    there.get_mut(server).unwrap().state = ContainerState::Running { pid: 2 }
                }
                Action::Stop(server) => {
                    there.get_mut(server).unwrap().state = ContainerState::Exited { code: 0 }
                }
            }
        }
        there.into_values().collect()
    }

    proptest! {
        #[test]
        fn a_plan_leads_to_what_is_desired(desired in wanted(), actual in actual()) {
            let after = apply(&desired, &actual, &plan(&desired, &actual));
            prop_assert_eq!(plan(&desired, &after), vec![]);
            for container in &after {
                prop_assert!(desired.iter().any(|wanted| fits(wanted, container)), "no orphan stays");
            }
            for wanted in desired.iter().filter(|wanted| wanted.running) {
                let running = |container: &Container| {
                    fits(wanted, container) && matches!(container.state, ContainerState::Running { .. })
                };
                prop_assert!(after.iter().any(running));
            }
        }

        #[test]
        fn what_is_as_it_should_be_is_left_alone(desired in wanted()) {
            let running: Vec<Wanted> = desired.into_iter().map(|wanted| Wanted { running: true, ..wanted }).collect();
            let actual = apply(&running, &[], &plan(&running, &[]));
            prop_assert_eq!(plan(&running, &actual), vec![]);
        }
    }
}
