//! The real program, run with an environment of its own, and what it printed and returned.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::client::PATIENCE;

/// What a run of the program gave.
#[derive(PartialEq, Eq, Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn new(code: i32, stdout: &str, stderr: &str) -> Self {
        Self { code, stdout: stdout.into(), stderr: stderr.into() }
    }
}

/// The program with nothing of this process's environment, at home in `home`.
pub fn command<A: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resttool"));
    command.args(args).env_clear().env("HOME", home).stdin(Stdio::null());
    command
}

/// Runs it to its end, with `input` on its standard input. Audit lines are left out.
pub fn finish(command: Command, input: impl AsRef<[u8]>) -> Outcome {
    audited(command, input).0
}

/// The same, with its audit lines from after their times.
pub fn audited(mut command: Command, input: impl AsRef<[u8]>) -> (Outcome, Vec<String>) {
    let mut audit = Vec::new();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    // It may end without reading; that is for its exit code to tell.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    let (mut stderr, mut line) = (String::new(), String::new());
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while lines.read_line(&mut line).unwrap() > 0 {
        if line.contains("listening on http") {
            // It was to refuse to serve: no test waits for what does not end.
            child.kill().unwrap();
        }
        let line = std::mem::take(&mut line);
        match line.split_once(" INFO  audit] action=") {
            Some((_, change)) => audit.push(change.trim_end().to_owned()),
            None => stderr.push_str(&line),
        }
    }
    let output = child.wait_with_output().unwrap();
    let outcome = Outcome {
        code: output.status.code().unwrap_or_else(|| panic!("ended by a signal: {stderr}")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr,
    };
    (outcome, audit)
}

/// What was said on standard error, but for audit lines.
pub fn unaudited(stderr: &str) -> String {
    let lines = stderr.split_inclusive('\n');
    lines.filter(|line| !line.contains(" INFO  audit] action=")).collect()
}

/// Runs it with words separated by spaces.
pub fn run(home: &Path, words: &str, input: impl AsRef<[u8]>) -> Outcome {
    finish(command(home, words.split(' ')), input)
}

/// Returns the long help of each command, after its name.
pub fn help_of_commands(home: &Path) -> Vec<(String, String)> {
    let main = run(home, "--help", "").stdout;
    let (_, commands) = main.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    // A continued description is indented further than a name.
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<_> = names.filter(|name| !name.is_empty() && *name != "help").collect();
    assert!(names.contains(&"serve") && names.contains(&"man"), "{names:?}");
    let help = |name: &str| {
        let help = run(home, &format!("{name} --help"), "");
        assert_eq!(help.code, 0, "{name}: {}", help.stderr);
        (name.to_owned(), help.stdout)
    };
    names.into_iter().map(help).collect()
}

/// Waits for the end of a process. Kills it when it does not end.
pub fn end(child: &mut Child) -> ExitStatus {
    let id = Pid::from_child(child);
    let (ended, has_ended) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if has_ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                kill_process(id, Signal::KILL).unwrap();
            }
        });
        let status = child.wait().unwrap();
        drop(ended);
        status
    })
}

/// Runs a command that was given as advice, with the built program and in the folder `/`, and
/// asserts that it succeeds.
pub fn follow(advice: &str) {
    follow_as(0, advice);
}

/// The same as another user, if it is not 0.
pub fn follow_as(user: u32, advice: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_resttool")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    // bash: names that do not print are quoted in its way.
    let mut shell = Command::new(if advice.contains("$'") { "bash" } else { "sh" });
    shell.args(["-c", advice]).env("PATH", path).current_dir("/");
    if user != 0 {
        shell.uid(user).gid(user);
    }
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{advice}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running `resttool serve`. Dropped, it is killed.
pub struct Serving {
    child: Child,
    /// `None` when nobody reads it any more.
    stderr: Option<BufReader<std::process::ChildStderr>>,
    pub address: SocketAddr,
    /// The log up to now.
    pub log: String,
}

impl Serving {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended: {log}");
            log.push_str(&line);
            if let Some((_, address)) = line
                .trim_end()
                .split_once("listening on ")
                .and_then(|(_, url)| url.split_once("://"))
            {
                break address.parse().unwrap();
            }
        };
        Self { child, stderr: Some(stderr), address, log }
    }

    /// Reads on in the log until this has been said.
    pub fn wait_for(&mut self, text: &str) {
        while !self.log.contains(text) {
            let read = self.stderr.as_mut().unwrap().read_line(&mut self.log).unwrap();
            assert!(read > 0, "it ended: {}", self.log);
        }
    }

    /// Closes what it writes its log to.
    pub fn hang_up(&mut self) {
        self.stderr = None;
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// What the kernel tells of it: a file of /proc/ID.
    pub fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// The names of its threads.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let name = |task: &Path| std::fs::read_to_string(task.join("comm")).unwrap();
        tasks.map(|task| name(&task.unwrap().path()).trim().to_owned()).collect()
    }

    /// Waits for its end; how it ended, and the whole log.
    pub fn status(mut self) -> (ExitStatus, String) {
        if let Some(stderr) = &mut self.stderr {
            stderr.read_to_string(&mut self.log).unwrap();
        }
        (self.child.wait().unwrap(), std::mem::take(&mut self.log))
    }

    /// Waits for its end; its exit code, if it was not ended by a signal, and the whole log.
    pub fn end(self) -> (Option<i32>, String) {
        let (status, log) = self.status();
        (status.code(), log)
    }

    /// Tells it to stop, and waits for that; what it said in its log since it listened.
    pub fn stop(self) -> Vec<String> {
        self.signal(Signal::TERM);
        let (code, log) = self.end();
        assert_eq!(code, Some(0), "{log}");
        let said = log.lines().map(|line| line.split_once("] ").unwrap().1.to_owned());
        let said = said.skip_while(|line| !line.starts_with("listening on ")).skip(1);
        said.filter(|line| !line.starts_with("stop")).collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
