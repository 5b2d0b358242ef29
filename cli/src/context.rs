//! What a command gets: the bus, deadlines, where it prints.

use std::{process::ExitCode, time::Duration};

use bus::{Bus, Origin};
use contract::{Code, Error, Request};
use telemetry::context::{extract, set_parent};
use tokio::sync::OnceCell;
use tracing::{Instrument, info_span};

use crate::{args::Command, commands, config::Config, error::Failure, output::Output};

/// How long a person waits at the end for the spans to reach their collector.
pub(crate) const FLUSH_WITHIN: Duration = Duration::from_millis(300);

/// How a command ended that has said all there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Done,
    /// Something is not well, and has been printed.
    Unwell,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Unwell => Self::FAILURE,
        }
    }
}

/// What a command gets.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) output: Output,
    bus: OnceCell<Bus>,
}

impl Context {
    pub(crate) fn new(config: Config, output: Output) -> Self {
        Self { config, output, bus: OnceCell::new() }
    }

    /// Runs the command as one span, caused by the operator.
    pub(crate) async fn run(self, command: Command) -> Result<Exit, Failure> {
        let name = command.name();
        let sample = if command.changes() { "always" } else { "ratio" };
        let span = info_span!("command", otel.name = name, vpn.sample = sample);
        let given = self.config.traceparent.clone();
        set_parent(&span, extract(|header| given.clone().filter(|_| header == "traceparent")));
        let work = async {
            let result = commands::run(&self, command).await;
            if let Some(bus) = self.bus.get() {
                bus.flush().await;
            }
            result.map_err(|error| Failure::traced(error, bus::call::trace_id()))
        };
        Origin::operator(&self.config.actor).scope(work).instrument(span).await
    }

    /// The bus, connected at the first use.
    pub(crate) async fn bus(&self) -> Result<&Bus, Error> {
        self.bus.get_or_try_init(|| self.connect()).await
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Result<Bus, Error> {
        let config = self.config.bus()?;
        let within = self.config.timeout;
        match tokio::time::timeout(within, Bus::connect(&config)).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::new(
                Code::BUS_UNREACHABLE,
                format!("no nats-server answered within {} ms", within.as_millis()),
            )),
        }
    }

    /// Asks a service.
    pub(crate) async fn call<R: Request>(&self, request: R) -> Result<R::Reply, Error> {
        self.bus().await?.call_within(request, self.config.timeout).await
    }

    /// Tells people what comes next, and names the trace of what was started, apart from the result.
    pub(crate) fn started(&self, next: Option<&str>) {
        let trace = bus::call::trace_id().map(|id| format!("trace {id}"));
        let next = next.filter(|_| self.output.for_people()).map(|next| format!("next: {next}"));
        let line: Vec<String> = next.into_iter().chain(trace).collect();
        self.output.aside(&line.join("        "));
    }
}
