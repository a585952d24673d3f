//! Temporary folders of servers, and the processes in them.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, getuid, kill_process};

use super::{USER, wait_until};

/// Free space that a tmpfs needs, in KiB: a cluster takes 30 MB, and 7 MB for each database.
const TMPFS_SPACE: u64 = 4 << 20;

/// Ends the processes whose working directory is the folder `$1` or its data folder, and removes
/// the folder.
///
/// An immediate shutdown lets the postmaster remove its System V segment. `ipcrm` removes the
/// segment of a killed postmaster.
const WATCHER: &str = r#"
trap '' HUP INT QUIT TERM
signal() {
    found=
    for process in /proc/[0-9]*; do
        if [ "$process/cwd" -ef "$2" ]; then
            kill "-$1" "${process#/proc/}" && found=1
        fi
    done
    [ "$found" ]
}
read -r line
signal KILL "$1"
signal CONT "$1/data"
postmaster=$(head -n 1 "$1/data/postmaster.pid")
[ "/proc/$postmaster/cwd" -ef "$1/data" ] && kill -QUIT "$postmaster"
tries=0
while signal 0 "$1/data" && [ "$tries" -lt 200 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
while signal KILL "$1/data" || signal KILL "$1"; do sleep 0.05; done
segment=$(sed -n '7s/^ *[0-9]\{1,\} \{1,\}//p' "$1/data/postmaster.pid")
[ "$segment" ] && ipcrm -m "$segment"
rm -rf "$1"
"#;

/// A temporary folder with a watcher, as the module above describes it.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// User and group of processes and files, for tests that run as root.
    user: Option<(u32, u32)>,
    watcher: Child,
    /// Its end tells the watcher to remove the folder.
    pipe: Option<ChildStdin>,
}

impl Folder {
    /// Creates a folder and starts its watcher.
    pub(super) fn new(prefix: &str) -> Self {
        let path = tempfile::Builder::new().prefix(prefix).tempdir_in(parent()).unwrap().keep();
        let user = getuid().is_root().then(|| (id("-u"), id("-g")));
        if let Some((user, group)) = user {
            chown(&path, Some(user), Some(group)).unwrap();
        }
        let mut watcher = command(Path::new("/bin/sh"), user)
            .args(["-c", WATCHER, "watcher"])
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pipe = watcher.stdin.take();
        Self { path, user, watcher, pipe }
    }

    /// Returns a command in this folder. The watcher finds its process by the folder.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = command(program, self.user);
        command.current_dir(&self.path);
        command
    }

    /// Starts a server that writes to the file `log`.
    pub(super) fn spawn<const N: usize>(
        &self,
        command: &mut Command,
        arguments: [&str; N],
    ) -> Child {
        let log = self.path.join("log");
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Writes a file that only the user of the servers reads.
    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = self.user {
            chown(&path, Some(user), Some(group)).unwrap();
        }
    }

    pub(super) fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path.join(name)).unwrap_or_default()).into_owned()
    }

    /// Ends the processes in the folder and removes it.
    pub(super) fn remove(&mut self) {
        drop(self.pipe.take());
        let ended = self.watcher.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok() && !self.path.exists(), "cannot remove {}", self.path.display());
        }
    }
}

/// Returns `/dev/shm` if it has the space, or `/tmp`.
///
/// Creating a database takes 50 ms in a tmpfs, and 300 ms on ext4. `$TMPDIR` is not used, because
/// the path of a Unix socket holds at most 107 bytes and the system user has to reach it.
fn parent() -> &'static Path {
    static PARENT: OnceLock<&Path> = OnceLock::new();
    PARENT.get_or_init(|| {
        let df = Command::new("df").args(["-Pk", "/dev/shm"]).output();
        let text = df.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let text = text.unwrap_or_default();
        let mut fields = text.lines().nth(1).unwrap_or_default().split_whitespace();
        let tmpfs = fields.next() == Some("tmpfs");
        let free = fields.nth(2).and_then(|field| field.parse().ok()).unwrap_or(0);
        Path::new(if tmpfs && free >= TMPFS_SPACE { "/dev/shm" } else { "/tmp" })
    })
}

/// Returns a command with an empty environment and a process group of its own, which Ctrl-C in the
/// terminal of the test does not reach.
pub(super) fn command(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command.process_group(0);
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    command
}

/// Runs a command to its end. Panics with its error output if it fails.
pub(super) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {error}", command.get_program());
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the user ID (`-u`) or group ID (`-g`) of the system user.
fn id(option: &str) -> u32 {
    run(Command::new("id").args([option, USER])).trim().parse().unwrap()
}

/// Waits for a process that the watcher ended.
pub(super) fn reap(process: &Mutex<Option<Child>>) {
    let mut process = process.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(mut process) = process.take() {
        // For the case that the watcher was killed.
        let _ = process.kill();
        let _ = process.wait();
    }
}

pub(super) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    // A child may end first.
    let _ = kill_process(pid, signal);
}

/// Returns the state of a process (e.g. `T` for stopped) and its parent, if it runs.
pub(super) fn state(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may contain spaces.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    (!"ZX".contains(state)).then_some((state, fields.next()?.parse().ok()?))
}

/// Returns the running children of a process.
pub(super) fn children(parent: u32) -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| state(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// Stops a process with SIGSTOP, and its children if `with_children`. Returns the children.
///
/// The list is complete, because a stopped process starts no children.
pub(super) fn stop_process_tree(pid: u32, with_children: bool) -> Vec<u32> {
    let stop = |pid| {
        signal(pid, Signal::STOP);
        wait_until("process stops", || state(pid).is_none_or(|(state, _)| state == 'T'));
    };
    stop(pid);
    let children = children(pid);
    if with_children {
        children.iter().copied().for_each(stop);
    }
    children
}
