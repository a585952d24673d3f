//! How quick to start and how small the program is: `cargo bench --bench footprint`. Medians of 21 runs,
//! against the bars of 20 ms for `--version`, 200 ms until it serves, and 20 MB of memory when idle.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const RUNS: usize = 21;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let tool = || {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_resttool"));
        tool.env_clear().env("HOME", folder.path());
        tool
    };
    let (mut version, mut ready, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let start = Instant::now();
        tool().arg("--version").output()?;
        version.push(start.elapsed().as_secs_f64() * 1000.0);

        let start = Instant::now();
        let mut server = tool().args(["serve", "--port", "0"]).stderr(Stdio::piped()).spawn()?;
        let log = server.stderr.take().ok_or("no stderr")?;
        let listening = BufReader::new(log).lines().map_while(Result::ok);
        let listening = listening.into_iter().any(|line| line.contains("listening on"));
        ready.push(start.elapsed().as_secs_f64() * 1000.0);
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()))?;
        server.kill()?;
        server.wait()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 =
            resident.and_then(|rss| rss.split_whitespace().next()).ok_or("no VmRSS")?.parse()?;
        memory.push(kib * 1024.0 / 1e6);
        if !listening {
            return Err("the server ended before it listened".into());
        }
    }
    let mut held = true;
    for (what, unit, samples, bar) in [
        ("--version", "ms", version, 20.0),
        ("ready to serve", "ms", ready, 200.0),
        ("resident memory, idle", "MB", memory, 20.0),
    ] {
        let median = median(samples);
        held &= median < bar;
        println!("{what:24} {median:8.2} {unit}   (bar: {bar} {unit})");
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
