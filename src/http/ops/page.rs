//! The status page: one HTML document without scripts, which loads nothing.
//!
//! Decides the form alone. All values are escaped by the template.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::history::Rates;
use super::status::{
    CacheStatus, CertificateStatus, ProcessStatus, QueueStatus, ServerStatus, StoreStatus,
    ThrottledEntry,
};
use crate::text::figures::{bytes, duration, percent, rate, seconds};

/// The time after which a browser loads the page again, in seconds.
const REFRESH: u32 = 10;

/// The size of a plot in its own units.
const PLOT: (f64, f64) = (240.0, 40.0);

const STYLE: &str = include_str!("page.css");

/// Returns the page. The nonce permits its own style under the Content-Security-Policy.
pub(super) fn render(status: &ServerStatus, nonce: &str) -> String {
    let problems = status.problems();
    let title = if problems.is_empty() { "ok" } else { "problem" };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="refresh" content=(REFRESH);
                title { "resttool: " (title) }
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "resttool " (status.version) }
                    p {
                        "process " (status.pid) ", up "
                        (duration(status.uptime_seconds)) ", since " (status.started_at)
                    }
                }
                @if problems.is_empty() {
                    p.state.ok role="status" { "No problems." }
                } @else {
                    ul.state.bad role="alert" {
                        @for problem in &problems { li { (problem) } }
                    }
                }
                main {
                    (rates(&status.rates))
                    (card("Requests", &requests(status)))
                    (card("Store", &store(&status.store)))
                    (card("Certificate", &certificate(status.certificate.as_ref())))
                    (card("Cache", &cache(&status.cache)))
                    (card("Queue", &queue(&status.queue)))
                    (card("Throttle", &[
                        row("sources", status.throttle.sources),
                        row("user names", status.throttle.users),
                    ]))
                    (card("Process", &process(&status.process, status.log.dropped_lines)))
                    @if let Some(longest) = &status.throttle.longest { (throttled(longest)) }
                    @if let Some(errors) = &status.log.last_errors {
                        section.wide {
                            h2 { "Last errors" }
                            @if errors.is_empty() { p { "None since the start." } }
                            @else {
                                ol.errors {
                                    @for error in errors {
                                        li { time { (error.time) } " " (error.message) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    .into_string()
}

type Row = (&'static str, String);

fn row(label: &'static str, value: impl ToString) -> Row {
    (label, value.to_string())
}

fn card(title: &str, rows: &[Row]) -> Markup {
    html! {
        section {
            h2 { (title) }
            dl { @for (label, value) in rows { div { dt { (label) } dd { (value) } } } }
        }
    }
}

fn requests(status: &ServerStatus) -> Vec<Row> {
    const OUTCOMES: [&str; 8] = [
        "granted",
        "challenged",
        "denied",
        "forbidden",
        "throttled",
        "overloaded",
        "unavailable",
        "rejected",
    ];
    let count = |outcome| status.requests.get(outcome).copied().unwrap_or_default();
    OUTCOMES.map(|outcome| row(outcome, count(outcome))).to_vec()
}

fn store(store: &StoreStatus) -> Vec<Row> {
    let mut rows = vec![row("users can be looked up", if store.reachable { "yes" } else { "no" })];
    if let Some(age) = store.reading_age_seconds {
        rows.push(row("revision read", format_args!("{} ago", seconds(age))));
    }
    rows.extend(store.location.as_ref().map(|location| row("location", location)));
    rows
}

fn certificate(certificate: Option<&CertificateStatus>) -> Vec<Row> {
    match certificate {
        None => vec![row("certificate", "none")],
        Some(CertificateStatus { expires_at, days_left }) => {
            vec![row("days left", days_left), row("expires", expires_at)]
        }
    }
}

fn cache(cache: &CacheStatus) -> Vec<Row> {
    vec![
        row("entries", cache.entries),
        row("hit ratio", cache.hit_ratio().map_or("-".to_owned(), percent)),
        row("hits", cache.hits),
        row("misses", cache.misses),
    ]
}

fn queue(queue: &QueueStatus) -> Vec<Row> {
    let mean = |time: Option<f64>| time.map_or("-".to_owned(), seconds);
    vec![
        row("waiting now", queue.waiting),
        row("hash workers", queue.workers),
        row("hashes", queue.hashes),
        row("mean hash", mean(queue.mean_hash_seconds)),
        row("mean wait", mean(queue.mean_wait_seconds)),
    ]
}

fn process(process: &ProcessStatus, dropped_lines: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(process.resident_bytes.map(|memory| row("memory", bytes(memory))));
    rows.extend(process.cpu_seconds.map(|time| row("processor time", seconds(time))));
    if let Some((open, most)) = process.open_files.zip(process.max_files) {
        rows.push(row("open files", format_args!("{open} of {most}")));
    }
    rows.push(row("dropped log lines", dropped_lines));
    rows
}

fn throttled(longest: &[ThrottledEntry]) -> Markup {
    html! {
        section.wide {
            h2 { "Throttled, the longest time first" }
            @if longest.is_empty() { p { "None." } }
            @else {
                table {
                    thead { tr { th { "source or user" } th { "time left" } } }
                    tbody {
                        @for entry in longest {
                            tr {
                                td { (entry.subject()) }
                                td { (duration(entry.seconds)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns a plot for each rate.
fn rates(rates: &Rates) -> Markup {
    html! {
        section.wide {
            h2 { "Per second, in the last " (duration(rates.seconds.round() as u64)) }
            @if rates.granted.is_empty() { p { "The first sample is being taken." } }
            @else {
                div.plots {
                    @for (name, values) in rates.named() { (plot(name, values)) }
                }
            }
        }
    }
}

fn plot(name: &str, values: &[f64]) -> Markup {
    let most = values.iter().copied().fold(0.0, f64::max);
    let last = values.last().copied().unwrap_or_default();
    let (width, height) = PLOT;
    let step = width / (values.len().saturating_sub(1).max(1)) as f64;
    let scale = if most > 0.0 { (height - 2.0) / most } else { 0.0 };
    let points: Vec<_> = values
        .iter()
        .enumerate()
        .map(|(n, value)| format!("{:.0},{:.1}", n as f64 * step, height - 1.0 - value * scale))
        .collect();
    let label = format!("{name}: {} now, {} at most", rate(last), rate(most));
    html! {
        figure {
            figcaption { span { (name) } strong { (rate(last)) } }
            svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(label)
                preserveAspectRatio="none" {
                polyline points=(points.join(" ")) {}
            }
            small { "at most " (rate(most)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::LoggedError;
    use super::super::status::tests::status;
    use super::*;

    /// M-13
    #[test]
    fn values_are_escaped_and_nothing_is_loaded() {
        let mut status = status();
        let script = "<script>alert(1)</script>\"'&";
        status.store.location = Some(script.to_owned());
        let entry = ThrottledEntry { source: None, user: Some(script.to_owned()), seconds: 3 };
        status.throttle.longest = Some(vec![entry]);
        let error = LoggedError { time: String::new(), message: script.to_owned() };
        status.log.last_errors = Some(vec![error]);
        let page = render(&status, "n");
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;").count(), 3);
        for foreign in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    /// M-13
    #[test]
    fn full_page_is_below_50_kilobytes() {
        let mut status = status();
        let entry = ThrottledEntry { source: Some("2001:db8::/64".into()), user: None, seconds: 9 };
        status.throttle.longest = Some(vec![entry; 20]);
        let error = LoggedError { time: "2026-11-26T04:00:00Z".into(), message: "x".repeat(500) };
        status.log.last_errors = Some(vec![error; 20]);
        let many = vec![12_345.67; super::super::history::INTERVALS];
        status.rates = Rates {
            seconds: 600.0,
            granted: many.clone(),
            denied: many.clone(),
            throttled: many.clone(),
            failed: many.clone(),
            hashes: many,
        };
        let page = render(&status, "n");
        assert!(page.len() < 50_000, "{}", page.len());
        assert!(page.contains("Per second, in the last 10 min"));
    }

    /// M-13
    #[test]
    fn plot_ends_at_the_last_value_and_is_scaled_by_the_highest() {
        let page = plot("granted", &[0.0, 10.0, 5.0]).into_string();
        assert!(page.contains("points=\"0,39.0 120,1.0 240,20.0\""), "{page}");
        assert!(page.contains("<strong>5.0</strong>") && page.contains("at most 10.0"), "{page}");
        assert!(plot("failed", &[0.0]).into_string().contains("points=\"0,39.0\""));
    }
}
