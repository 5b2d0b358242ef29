//! What is counted, and its text for Prometheus (the OpenMetrics text format 1.0).

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::text::encode,
    registry::{Metric, Registry},
};

/// The process's metrics. Clones are handles of the same.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    registry: Registry,
    by_name: HashMap<&'static str, Box<dyn Any + Send>>,
}

impl Metrics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The metric with this name, made at the first call.
    ///
    /// Services of one process that count the same thing share one metric and tell themselves apart by a label. So
    /// `M` is a handle: a counter or gauge, or a `Family` of them. A second call with another type gets a metric that
    /// counts and is shown nowhere; a test of the caller would see that.
    pub fn get_or_register<M>(&self, name: &'static str, help: &str, make: impl FnOnce() -> M) -> M
    where
        M: Metric + Clone,
    {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = inner.by_name.get(name) {
            let known = known.downcast_ref::<M>().cloned();
            debug_assert!(known.is_some(), "the metric {name} was registered before with another type");
            return known.unwrap_or_else(make);
        }
        let metric = make();
        inner.registry.register(name, help, metric.clone());
        inner.by_name.insert(name, Box::new(metric.clone()));
        metric
    }

    /// All of them as text, of the type `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        encode(&mut text, &inner.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, family::Family};

    use super::*;

    #[test]
    fn services_of_one_process_share_a_metric_and_differ_by_label() {
        let metrics = Metrics::new();
        for service in ["users", "keys"] {
            let requests: Family<Vec<(&str, &str)>, Counter> =
                metrics.clone().get_or_register("vpn_requests", "Requests answered.", Family::default);
            requests.get_or_create(&vec![("service", service)]).inc();
        }
        let text = metrics.render().unwrap();
        assert_eq!(text.matches("# TYPE vpn_requests counter").count(), 1, "{text}");
        assert!(text.contains("vpn_requests_total{service=\"users\"} 1\n"), "{text}");
        assert!(text.contains("vpn_requests_total{service=\"keys\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
