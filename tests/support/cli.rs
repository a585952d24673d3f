//! Runs of the program with an environment of their own.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::client::TIMEOUT;
use super::store::database_of;

/// Exit code and output of a run that has ended.
#[derive(PartialEq, Eq, Debug)]
pub struct Completed {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Completed {
    pub fn new(code: i32, stdout: &str, stderr: &str) -> Self {
        Self { code, stdout: stdout.into(), stderr: stderr.into() }
    }
}

/// Returns a command of the program with `HOME` and `XDG_RUNTIME_DIR` as its only environment
/// variables, and the store if `home` is the folder of a PostgreSQL store.
pub fn command<A: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resttool"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .stdin(Stdio::null());
    command.envs(database_of(home).map(|url| ("RESTTOOL_DATABASE", url)));
    command
}

/// Runs a command to its end with `input` on standard input. Drops audit lines from its stderr.
pub fn finish(command: Command, input: impl AsRef<[u8]>) -> Completed {
    finish_with_audit(command, input).0
}

/// Runs a command as `finish` does, and returns its audit lines too, each without its time.
pub fn finish_with_audit(
    mut command: Command,
    input: impl AsRef<[u8]>,
) -> (Completed, Vec<String>) {
    let mut audit = Vec::new();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    // The program may end without reading. Its exit code says so.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    let (mut stderr, mut line) = (String::new(), String::new());
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while lines.read_line(&mut line).unwrap() > 0 {
        if line.contains("listening on http") {
            // The test expects a refusal to serve: kill a server that would not end.
            child.kill().unwrap();
        }
        let line = std::mem::take(&mut line);
        match line.split_once(" INFO  audit] action=") {
            Some((_, change)) => audit.push(change.trim_end().to_owned()),
            None => stderr.push_str(&line),
        }
    }
    let output = child.wait_with_output().unwrap();
    let outcome = Completed {
        code: output.status.code().unwrap_or_else(|| panic!("ended by a signal: {stderr}")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr,
    };
    (outcome, audit)
}

/// Returns stderr without its audit lines.
pub fn without_audit(stderr: &str) -> String {
    let lines = stderr.split_inclusive('\n');
    lines.filter(|line| !line.contains(" INFO  audit] action=")).collect()
}

/// Runs the program with arguments separated by spaces.
pub fn run(home: &Path, words: &str, input: impl AsRef<[u8]>) -> Completed {
    finish(command(home, words.split(' ')), input)
}

/// Returns the blocks of a section of a page of the documentation, each after its kind.
pub fn blocks_of(page: &str, section: &str) -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let page = format!("\n{}", fs::read_to_string(page).unwrap());
    let (_, rest) = page.split_once(&format!("\n{section}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let parts: Vec<_> = section.split("\n```").collect();
    parts
        .chunks(2)
        .filter(|chunk| chunk.len() == 2)
        .map(|chunk| {
            let (kind, text) = chunk[1].split_once('\n').unwrap();
            (kind.to_owned(), format!("{text}\n"))
        })
        .collect()
}

/// Returns the shell commands of a section, block by block.
pub fn shell_blocks(page: &str, section: &str) -> Vec<String> {
    let blocks = blocks_of(page, section).into_iter();
    blocks.filter(|(kind, _)| kind == "sh").map(|(_, text)| text).collect()
}

/// Runs shell commands to their end, which succeed, with this program in the path and all files in `home`.
pub fn run_shell(home: &Path, script: &str, variables: &[(&str, &str)]) {
    let programs = Path::new(env!("CARGO_BIN_EXE_resttool")).parent().unwrap().display();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-euc", script]).current_dir(home).env_clear().env("HOME", home);
    shell.env("PATH", format!("{programs}:/usr/bin:/bin")).envs(variables.iter().copied());
    let outcome = finish(shell, "");
    assert_eq!(outcome.code, 0, "{script}: {}", outcome.stderr);
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

/// Waits for the end of a process. Kills it after the timeout.
pub fn wait_or_kill(child: &mut Child) -> ExitStatus {
    let id = Pid::from_child(child);
    let (ended, has_ended) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if has_ended.recv_timeout(TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                kill_process(id, Signal::KILL).unwrap();
            }
        });
        let status = child.wait().unwrap();
        drop(ended);
        status
    })
}

/// A process that does not outlive a failed test.
pub struct KilledOnDrop(pub Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command that the program gave as advice, in the folder `/`. Asserts that it succeeds.
pub fn run_advice(advice: &str) {
    run_advice_as(0, advice);
}

/// Runs advice as the user with this id.
pub fn run_advice_as(user: u32, advice: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_resttool")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    // Only bash reads `$'...'`, the quotes of names that do not print.
    let mut shell = Command::new(if advice.contains("$'") { "bash" } else { "sh" });
    shell.args(["-c", advice]).env("PATH", path).current_dir("/");
    if user != 0 {
        shell.uid(user).gid(user);
    }
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{advice}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running `resttool serve`. Is killed when it is dropped.
pub struct ServerProcess {
    child: Child,
    /// `None` after `close_log`.
    stderr: Option<BufReader<std::process::ChildStderr>>,
    pub address: SocketAddr,
    /// The part of the log that was read.
    pub log: String,
}

impl ServerProcess {
    /// Starts a server, and waits for the address that it listens on.
    pub fn start(command: Command) -> Self {
        let mut server = Self::start_unaddressed(command);
        server.wait_for("listening on ");
        let (_, address) = server.log.rsplit_once("://").unwrap();
        server.address = address.trim_end().parse().unwrap();
        server
    }

    /// Starts a server without waiting for its address.
    pub fn start_unaddressed(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let address = SocketAddr::from(([0; 4], 0));
        Self { child, stderr: Some(stderr), address, log: String::new() }
    }

    /// Reads the log until it contains `text`.
    pub fn wait_for(&mut self, text: &str) {
        while !self.log.contains(text) {
            let read = self.stderr.as_mut().unwrap().read_line(&mut self.log).unwrap();
            assert!(read > 0, "the server ended: {}", self.log);
        }
    }

    /// Closes the pipe that the server writes its log to.
    pub fn close_log(&mut self) {
        self.stderr = None;
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Returns a file of /proc/ID.
    pub fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// Returns the number of its open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Returns the names of its threads.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let name = |task: &Path| std::fs::read_to_string(task.join("comm")).unwrap();
        tasks.map(|task| name(&task.unwrap().path()).trim().to_owned()).collect()
    }

    /// Waits for its end, and returns its status and the whole log.
    pub fn status(mut self) -> (ExitStatus, String) {
        if let Some(stderr) = &mut self.stderr {
            stderr.read_to_string(&mut self.log).unwrap();
        }
        (self.child.wait().unwrap(), std::mem::take(&mut self.log))
    }

    /// Waits for its end, and returns its exit code and the whole log. A signal leaves no code.
    pub fn end(self) -> (Option<i32>, String) {
        let (status, log) = self.status();
        (status.code(), log)
    }

    /// Stops it, and returns the log from the start of listening to the signal.
    pub fn stop(self) -> Vec<String> {
        self.signal(Signal::TERM);
        let (code, log) = self.end();
        assert_eq!(code, Some(0), "{log}");
        let said = log.lines().map(|line| line.split_once("] ").unwrap().1.to_owned());
        let said = said.skip_while(|line| !line.contains("listening on ")).skip(1);
        said.filter(|line| !line.starts_with("stop")).collect()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
