//! The metrics of a server, in the text format of Prometheus (version 0.0.4).
//!
//! Figures are read when they are asked for. No label holds a user name, an address or a path.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::monitor::Figures;
use super::status::ProcessStatus;
use crate::auth::HistogramSnapshot;
use crate::time::Timestamp;

/// No labels.
type Unlabelled = [(&'static str, &'static str); 0];

/// Encodes the figures.
///
/// # Errors
/// Fails if a figure cannot be encoded.
pub(super) fn encode(figures: Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(figures));
    let mut text = String::with_capacity(16 * 1024);
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self { counters, .. } = self;
        let out = &mut encoder;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        family(
            out,
            "resttool_build_info",
            "The version of the server.",
            MetricType::Gauge,
            |metric| metric.encode_family(&version)?.encode_gauge(&1i64),
        )?;
        let help = "Requests by outcome and reason.";
        family(out, "resttool_requests", help, MetricType::Counter, |metric| {
            for (outcome, reason, count) in counters.outcomes() {
                let labels = [("outcome", outcome), ("reason", reason)];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<Unlabelled, _, f64>(&count, None)?;
            }
            Ok(())
        })?;
        let help = "Time of each bcrypt hash of a login, up to four of which one thread computes together.";
        histogram(out, "resttool_hash_seconds", help, &counters.hash_seconds)?;
        let help = "Time that each login attempt waited for a hash worker.";
        histogram(out, "resttool_hash_queue_wait_seconds", help, &counters.queue_wait)?;
        gauge(
            out,
            "resttool_hash_queue_length",
            "Login attempts that wait for a hash worker now.",
            &counters.waiting,
        )?;
        gauge(out, "resttool_hash_workers", "Hash workers.", &counters.workers)?;
        gauge(
            out,
            "resttool_cache_entries",
            "Verified passwords in the cache.",
            &counters.cache_entries,
        )?;
        counter(
            out,
            "resttool_cache_misses",
            "Requests with well-formed credentials that the cache did not have.",
            &counters.cache_misses,
        )?;
        gauge(
            out,
            "resttool_throttled_sources",
            "Source addresses whose next login is refused because of failures.",
            &counters.throttled_sources,
        )?;
        gauge(
            out,
            "resttool_throttled_users",
            "User names whose next login from an unknown source is refused because of failures.",
            &counters.throttled_users,
        )?;
        gauge(
            out,
            "resttool_store_reachable",
            "1 if users can be looked up, 0 if not.",
            &i64::from(self.store_reachable),
        )?;
        if let Some(age) = counters.store_reading_age {
            gauge(
                out,
                "resttool_store_reading_age_seconds",
                "Time since a request has read the revision of the store.",
                &age.as_secs_f64(),
            )?;
        }
        counter(
            out,
            "resttool_log_lines_dropped",
            "Log lines that were dropped because the reader of the log was too slow.",
            &self.dropped_log_lines,
        )?;
        if let Some(end) = self.certificate_expires {
            gauge(
                out,
                "resttool_certificate_expiry_timestamp_seconds",
                "End of the validity of the certificate, in seconds since 1970-01-01T00:00:00Z.",
                &end.seconds(),
            )?;
        }
        process(out, self)
    }
}

/// Encodes the figures of the process under their usual names. A figure that the system does not
/// give is left out.
fn process(out: &mut DescriptorEncoder<'_>, figures: &Figures) -> Result<(), fmt::Error> {
    gauge(
        out,
        "process_start_time_seconds",
        "Start of the process, in seconds since 1970-01-01T00:00:00Z.",
        &Timestamp::of(figures.started).seconds(),
    )?;
    let ProcessStatus { cpu_seconds, resident_bytes, open_files, max_files } = &figures.process;
    if let Some(seconds) = cpu_seconds {
        counter(
            out,
            "process_cpu_seconds",
            "User and system processor time of the process.",
            seconds,
        )?;
    }
    for (name, help, figure) in [
        ("process_resident_memory_bytes", "Resident memory of the process.", resident_bytes),
        ("process_open_fds", "Open files of the process.", open_files),
        ("process_max_fds", "Limit of open files of the process.", max_files),
    ] {
        if let Some(figure) = figure {
            gauge(out, name, help, figure)?;
        }
    }
    Ok(())
}

fn family(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    write: impl FnOnce(&mut prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), fmt::Error>,
) -> Result<(), fmt::Error> {
    write(&mut out.encode_descriptor(name, help, None, kind)?)
}

fn gauge(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeGaugeValue,
) -> Result<(), fmt::Error> {
    family(out, name, help, MetricType::Gauge, |metric| metric.encode_gauge(value))
}

/// The name is without `_total`, which the encoding adds.
fn counter(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeCounterValue,
) -> Result<(), fmt::Error> {
    family(out, name, help, MetricType::Counter, |metric| {
        metric.encode_counter::<Unlabelled, _, f64>(value, None)
    })
}

fn histogram(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    times: &HistogramSnapshot,
) -> Result<(), fmt::Error> {
    let buckets: Vec<_> = times.buckets().collect();
    family(out, name, help, MetricType::Histogram, |metric| {
        metric.encode_histogram::<Unlabelled>(
            times.sum.as_secs_f64(),
            times.count(),
            &buckets,
            None,
        )
    })
}
