//! Machines of a test, between which packets can be lost. They need root, iproute2 and nftables.
//!
//! A machine is a network namespace without a name. The kernel removes it, with its links and its
//! rules, after the last process and the last file descriptor in it. No packet leaves it, except to
//! the machine that it is linked to. All ports are free at first.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::cli::{KilledOnDrop, ServerProcess};

/// Keeps the namespace until it is killed. Kills the processes whose IDs it reads when the test
/// process ends.
const HOLDER: &str = r#"
trap '' HUP INT QUIT TERM
ip link set lo up
echo
while read -r process; do watched="$watched $process"; done
[ "$watched" ] && kill -KILL $watched
"#;

/// A machine, with its address.
pub struct Machine {
    pub address: Ipv4Addr,
    namespace: File,
    holder: KilledOnDrop,
}

impl Machine {
    /// Starts two machines with a link between them.
    pub fn pair() -> [Self; 2] {
        // Addresses for documentation (RFC 5737).
        let pair = [1, 2].map(|number| Self::start(Ipv4Addr::new(192, 0, 2, number)));
        let [one, other] = &pair;
        one.command(&format!("ip link add link0 type veth peer name link0 netns {}", other.id()));
        for machine in &pair {
            machine.command(&format!("ip address add {}/24 dev link0", machine.address));
            machine.command("ip link set link0 up");
        }
        pair
    }

    /// Starts a machine that has loopback only.
    pub fn alone() -> Self {
        Self::start(Ipv4Addr::LOCALHOST)
    }

    fn start(address: Ipv4Addr) -> Self {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", HOLDER]).process_group(0);
        let holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut holder = KilledOnDrop(holder);
        let mut output = BufReader::new(holder.0.stdout.take().unwrap());
        assert_eq!(output.read_line(&mut String::new()).unwrap(), 1, "no network namespace");
        let namespace = File::open(format!("/proc/{}/ns/net", holder.0.id())).unwrap();
        Self { address, namespace, holder }
    }

    /// Runs a function whose threads, processes and sockets are on this machine.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let on_machine = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.namespace.as_fd(), network).unwrap();
            function()
        };
        let name = thread::current().name().unwrap_or_default().to_owned();
        let ended = thread::scope(|scope| {
            thread::Builder::new().name(name).spawn_scoped(scope, on_machine).unwrap().join()
        });
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Has a server end when the test process is killed. A machine lives as long as its processes.
    pub fn watch(&self, server: &ServerProcess) {
        let mut processes = self.holder.0.stdin.as_ref().unwrap();
        writeln!(processes, "{}", server.id()).unwrap();
    }

    /// Drops all packets that arrive from another machine.
    pub fn lose_packets_of(&self, other: &Self) {
        self.command(&format!(
            "/usr/sbin/nft table inet loss {{ chain input {{ type filter hook input priority 0; \
             ip saddr {} counter drop; }}; }}",
            other.address
        ));
    }

    /// Drops no packets any more. Returns the number of dropped ones.
    pub fn lose_no_packets(&self) -> u64 {
        let rules = self.command("/usr/sbin/nft list table inet loss");
        self.command("/usr/sbin/nft delete table inet loss");
        let (_, count) = rules.split_once("packets ").unwrap();
        count.split(' ').next().unwrap().parse().unwrap()
    }

    fn id(&self) -> u32 {
        self.holder.0.id()
    }

    /// Runs a command, which has to succeed, on this machine. Returns its output.
    fn command(&self, words: &str) -> String {
        let mut words_of = words.split_whitespace();
        let mut command = Command::new(words_of.next().unwrap());
        command.args(words_of);
        let output = self.run(|| command.output().unwrap());
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}
