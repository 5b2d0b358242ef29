//! Events to stderr: text for people, else one JSON object per line. Each line names its service and, inside a
//! span, the trace and the span.
//!
//! A line has the event's own fields and not those of the spans around it: those are in the trace, which the ids lead
//! to, and formatting them for every span would cost more than all lines together.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal},
};

use opentelemetry::{Context, trace::TraceContextExt};
use serde::ser::{SerializeMap, Serializer};
use tracing::{Event, Level, Subscriber, field, field::Visit};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets, filter_fn},
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::{
    config::{Config, LogFormat},
    sampler::SERVICE_KEY,
};

pub(crate) fn layer<S>(config: &Config, filter: Targets) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let terminal = io::stderr().is_terminal();
    layer_to(config, filter, terminal, io::stderr)
}

fn layer_to<S, W>(config: &Config, filter: Targets, terminal: bool, to: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let text = match config.log {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let service = config.service.clone();
    let lines = tracing_subscriber::fmt::layer().with_ansi(terminal).with_writer(to);
    let events = filter.and(filter_fn(|metadata| metadata.is_event()));
    if text {
        lines.event_format(Text { service }).with_filter(events).boxed()
    } else {
        lines.event_format(Json { service }).with_filter(events).boxed()
    }
}

/// What a line says of where it belongs.
struct Place {
    service: Option<String>,
    trace_and_span: Option<(String, String)>,
}

impl Place {
    fn current() -> Self {
        Context::map_current(|cx| {
            let span = cx.span();
            let span = span.span_context();
            Self {
                service: span.trace_state().get(SERVICE_KEY).map(str::to_owned),
                trace_and_span: span
                    .is_valid()
                    .then(|| (span.trace_id().to_string(), span.span_id().to_string())),
            }
        })
    }
}

/// `TIME LEVEL SERVICE TARGET: MESSAGE FIELD=VALUE trace_id=…`
struct Text {
    service: String,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let place = Place::current();
        let level = *event.metadata().level();
        SystemTime.format_time(&mut to)?;
        if to.has_ansi_escapes() {
            write!(to, " \x1b[{}m{level:>5}\x1b[0m", colour(level))?;
        } else {
            write!(to, " {level:>5}")?;
        }
        let service = place.service.as_deref().unwrap_or(&self.service);
        write!(to, " {service} {}: ", event.metadata().target())?;
        ctx.format_fields(to.by_ref(), event)?;
        if let Some((trace, span)) = place.trace_and_span {
            write!(to, " trace_id={trace} span_id={span}")?;
        }
        writeln!(to)
    }
}

fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

struct Json {
    service: String,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Vec::with_capacity(256);
        self.serialize(event, &mut line).map_err(|_| fmt::Error)?;
        to.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)?;
        to.write_char('\n')
    }
}

impl Json {
    fn serialize(&self, event: &Event<'_>, line: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let place = Place::current();
        let mut time = String::with_capacity(32);
        // Writing to a string cannot fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));

        let mut json = serde_json::Serializer::new(line);
        let mut object = json.serialize_map(None)?;
        object.serialize_entry("time", &time)?;
        object.serialize_entry("level", event.metadata().level().as_str())?;
        object.serialize_entry("service", place.service.as_deref().unwrap_or(&self.service))?;
        object.serialize_entry("target", event.metadata().target())?;
        if let Some((trace, span)) = &place.trace_and_span {
            object.serialize_entry("trace_id", trace)?;
            object.serialize_entry("span_id", span)?;
        }
        let mut fields = Fields { object, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        fields.object.end()
    }
}

/// The names that a line has already; a field of that name is written with an underscore before it.
const TAKEN: [&str; 6] = ["time", "level", "service", "target", "trace_id", "span_id"];

struct Fields<M: SerializeMap> {
    object: M,
    result: Result<(), M::Error>,
}

impl<M: SerializeMap> Fields<M> {
    fn add(&mut self, field: &field::Field, value: &(impl serde::Serialize + ?Sized)) {
        if self.result.is_err() {
            return;
        }
        let name = field.name();
        self.result = if TAKEN.contains(&name) {
            self.object.serialize_entry(&format!("_{name}"), value)
        } else {
            self.object.serialize_entry(name, value)
        };
    }
}

impl<M: SerializeMap> Visit for Fields<M> {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &field::Field, value: f64) {
        self.add(field, &value);
    }

    fn record_i64(&mut self, field: &field::Field, value: i64) {
        self.add(field, &value);
    }

    fn record_u64(&mut self, field: &field::Field, value: u64) {
        self.add(field, &value);
    }

    fn record_bool(&mut self, field: &field::Field, value: bool) {
        self.add(field, &value);
    }

    fn record_error(&mut self, field: &field::Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(next) = cause {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {next}");
            cause = next.source();
        }
        self.add(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use serde_json::Value;
    use tracing::{error, info, info_span};
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::*;
    use crate::{config::filter, sampler::ByField};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: LogFormat, terminal: bool, work: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let config = Config { log, ..Config::new("vpnd") };
        let to = lines.clone();
        let layer = layer_to(&config, filter("info").unwrap(), terminal, move || to.clone());
        let provider = SdkTracerProvider::builder().with_sampler(ByField::new(0.0)).build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(Registry::default().with(traces).with(layer), work);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn json_lines_name_service_trace_and_span_also_of_a_trace_that_is_not_kept() {
        let mut id = None;
        let lines = logged(LogFormat::Auto, false, || {
            info!(port = 4222_u16, "up");
            info_span!("users.create", vpn.service = "users", secret = "not for the log").in_scope(|| {
                id = crate::context::current_trace_id();
                tracing::debug!("too quiet to be seen");
                let failed = io::Error::other("two\nlines \u{1b}[31m \"quoted\"");
                error!(user = ?"alice", level = 7, error = &failed as &dyn std::error::Error, "refused");
            });
        });
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [up, refused] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(
            (&up["service"], &up["port"], &up["message"]),
            (&"vpnd".into(), &4222.into(), &"up".into())
        );
        assert_eq!((up.get("trace_id"), up.get("span_id")), (None, None));
        assert_eq!(refused["service"], "users");
        assert_eq!(refused["trace_id"].as_str(), id.as_deref());
        assert_eq!(refused["span_id"].as_str().map(str::len), Some(16));
        assert_eq!((&refused["level"], &refused["_level"]), (&"ERROR".into(), &7.into()));
        assert_eq!(refused["error"], "two\nlines \u{1b}[31m \"quoted\"");
        assert_eq!(refused["user"], "\"alice\"");
        assert!(!refused.to_string().contains("not for the log"));
    }

    #[test]
    fn text_lines_end_with_the_trace_and_carry_no_codes_of_others_to_a_terminal() {
        let work = || {
            info_span!("list", vpn.service = "fleet")
                .in_scope(|| info!(name = "a\u{1b}[2J", "listed {}", "b\u{1b}[2J"));
        };
        for terminal in [false, true] {
            let lines = logged(LogFormat::Text, terminal, work);
            let [line] = lines.as_slice() else { panic!("{lines:?}") };
            assert!(line.contains(" fleet telemetry::log::tests: ") && line.contains("listed b"), "{line}");
            assert!(line.contains(" trace_id=") && line.contains(" span_id="), "{line}");
            assert!(!line.contains("\u{1b}[2J"), "{line:?}");
            assert_eq!(line.contains("\u{1b}[32m INFO\u{1b}[0m"), terminal, "{line:?}");
        }
    }
}
