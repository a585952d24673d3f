//! `resttool status`

use std::io::{self, IsTerminal};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;

use crate::cli::control::ask_each;
use crate::cli::exit::{Failure, print_list};
use crate::cli::report::json;
use crate::config::{ControlSetting, JsonSetting};
use crate::http::ServerStatus;
use crate::store::Location;
use crate::text::figures::{bytes, duration, percent, plural, rate, seconds};
use crate::text::printable;
use crate::time::parse_duration;

/// Show the state of the running server: what it serves, what it waits for, and what is wrong
#[derive(Args, Debug)]
#[command(
    after_long_help = "It asks the servers that run on the same store, over their control sockets. Run it as the user
of the server, or as root. The page /status of --ops-listen shows the same.

Examples:
  resttool status
  resttool status --watch
  resttool status --json | jq .queue.waiting"
)]
pub(in crate::cli) struct Status {
    /// Show it again every TIME, until Ctrl-C
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = interval
    )]
    watch: Option<Duration>,

    #[command(flatten)]
    control: ControlSetting,

    #[command(flatten)]
    json: JsonSetting,
}

fn interval(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(time))
        .ok_or_else(|| "expected a time from 100ms to 24h, e.g. 2s".to_owned())
}

impl Status {
    pub(super) fn describe(&self) -> String {
        "show the status".to_owned()
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let Some(interval) = self.watch else { return print_list(&self.show(location)?) };
        // A terminal shows one state at a time, and a pipe gets all of them.
        let clear = io::stdout().is_terminal() && !self.json.json;
        let mut before = if clear { "\u{1b}[H\u{1b}[2J" } else { "" };
        loop {
            print_list(&format!("{before}{}", self.show(location)?))?;
            if !clear && !self.json.json {
                before = "\n";
            }
            sleep(interval);
        }
    }

    /// Returns the state of all servers.
    fn show(&self, location: &Location) -> Result<String, Failure> {
        let answers = ask_each(location, self.control.path(), |server| server.status())?;
        let texts = answers.iter().map(|status| match self.json.json {
            true => json(status),
            false => Ok(describe(status)),
        });
        let separator = if self.json.json { "\n" } else { "\n\n" };
        Ok(texts.collect::<Result<Vec<_>, _>>()?.join(separator))
    }
}

/// Describes the state of a server.
fn describe(status: &ServerStatus) -> String {
    let ServerStatus { store, cache, queue, throttle, log, process, rates, .. } = status;
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut rows = Vec::new();
    let mut row = |label: &str, value: String| rows.push(format!("  {label:<12}  {value}"));
    let mut text = vec![if store.reachable { "readable" } else { "cannot be read" }.to_owned()];
    text.extend(store.location.as_deref().map(printable));
    text.extend(store.reading_age_seconds.map(|age| format!("revision read {} ago", seconds(age))));
    row("store", text.join(", "));
    row(
        "certificate",
        match &status.certificate {
            None => "none".to_owned(),
            Some(certificate) => {
                let (days, end) = (certificate.days_left, &certificate.expires_at);
                format!("{days} days left, until {}", printable(end))
            }
        },
    );
    let counts = status.requests.iter().filter(|(_, count)| **count > 0);
    let counts: Vec<_> =
        counts.map(|(outcome, count)| format!("{count} {}", printable(outcome))).collect();
    row("requests", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") });
    let ratio = or_none(cache.hit_ratio().map(percent));
    row("cache", format!("{}, hit ratio {ratio}", entries(cache.entries)));
    let hash = or_none(queue.mean_hash_seconds.map(seconds));
    let wait = or_none(queue.mean_wait_seconds.map(seconds));
    row(
        "queue",
        format!(
            "{} waiting for {}, mean wait {wait}, mean hash {hash}",
            queue.waiting,
            plural(queue.workers as u64, "worker")
        ),
    );
    row(
        "throttled",
        format!(
            "{}, {}",
            plural(throttle.sources as u64, "source"),
            plural(throttle.users as u64, "user name")
        ),
    );
    let mut figures = Vec::new();
    figures.extend(process.resident_bytes.map(bytes));
    if let Some((open, most)) = process.open_files.zip(process.max_files) {
        figures.push(format!("{open} of {most} files"));
    }
    figures.extend(process.cpu_seconds.map(|time| format!("processor time {}", seconds(time))));
    figures.push(format!("{} dropped", plural(log.dropped_lines, "log line")));
    row("process", figures.join(", "));
    if rates.granted.is_empty() {
        row("per second", "the first sample is being taken".to_owned());
    }
    for (name, values) in rates.named().filter(|(_, values)| !values.is_empty()) {
        let last = values.last().copied().unwrap_or_default();
        row(&format!("{name}/s"), format!("{:>8}  {}", rate(last), sparkline(values)));
    }
    let head = format!(
        "resttool {}, process {}, up {}",
        printable(&status.version),
        status.pid,
        duration(status.uptime_seconds)
    );
    let problems = status.problems();
    let problems = match problems.is_empty() {
        true => "No problems.".to_owned(),
        false => problems.join("\n"),
    };
    let mut lines = vec![head, problems];
    lines.append(&mut rows);
    for entry in throttle.longest.iter().flatten() {
        let left = duration(entry.seconds);
        lines.push(format!("  throttled     {} for {left}", printable(entry.subject())));
    }
    for error in log.last_errors.iter().flatten() {
        lines.push(format!("  {}  {}", printable(&error.time), printable(&error.message)));
    }
    lines.join("\n")
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// Draws values as bars of one line, scaled by the highest one.
fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let part = if most > 0.0 { value / most } else { 0.0 };
        BARS.get((part * 7.0).round() as usize).copied().unwrap_or('█')
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_scaled_by_the_highest_value() {
        assert_eq!(sparkline(&[0.0, 5.0, 10.0]), "▁▅█");
        assert_eq!(sparkline(&[0.0, 0.0]), "▁▁");
        assert_eq!(sparkline(&[]), "");
    }
}
