//! The examples of `docs/provisioning.md`, run with other paths and a lower cost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::cli::{Completed, ServerProcess, blocks_of, finish, shell_blocks};
use crate::support::client::Request;
use crate::support::program::listening;
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, field};

/// Returns the code blocks of a section, each after its language.
fn blocks(section: &str) -> Vec<(String, String)> {
    blocks_of("docs/provisioning.md", section)
}

fn block(section: &str, kind: &str) -> String {
    let found = blocks(section).into_iter().find(|(of, _)| of == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {section}")).1
}

/// A folder that stands for a new machine, with a secret and the file of another server.
struct Machine(TempStore);

impl Machine {
    fn new() -> Self {
        let machine = Self(TempStore::new());
        for folder in ["var/lib", "run/secrets", "etc/resttool", "etc/nginx", "bin"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        fs::write(machine.path("run/secrets/roy"), "open-sesame\n").unwrap();
        let old = "old:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
        fs::write(machine.path("etc/nginx/htpasswd"), old).unwrap();
        let tool = machine.path("bin/resttool");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_resttool"), tool).unwrap();
        // A bare machine has no jq, and an example needs none to show that its command works.
        let path = std::env::var_os("PATH").unwrap();
        if !std::env::split_paths(&path).any(|folder| folder.join("jq").exists()) {
            std::os::unix::fs::symlink("/bin/true", machine.path("bin/jq")).unwrap();
        }
        machine
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.0.folder().join(file)
    }

    /// Moves absolute paths into the folder.
    fn relocate(&self, text: &str) -> String {
        let home = self.0.folder().display();
        let mut text = text.to_owned();
        for folder in [
            "/var/lib/",
            "/run/secrets/",
            "/etc/resttool/",
            "/etc/nginx/",
            "/etc/bash_completion.d/",
            "/usr/local/share/",
        ] {
            text = text.replace(folder, &format!("{home}{folder}"));
        }
        text
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap();
        command.env_clear().env("HOME", self.0.folder()).current_dir(self.0.folder());
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.env("XDG_RUNTIME_DIR", self.0.folder());
        // These tests are not about the cost.
        command.env("RESTTOOL_COST", "4");
        command.env("RESTTOOL_DATABASE", self.path("var/lib/resttool/users.db"));
        command
    }

    fn shell(&self, script: &str) -> Completed {
        let mut shell = self.command("sh");
        shell.arg("-euc").arg(self.relocate(script));
        let outcome = finish(shell, "");
        assert_eq!(outcome.code, 0, "{script}: {}", outcome.stderr);
        outcome
    }

    /// Returns name, groups, lock and the presence of an expiry of each user.
    fn users(&self) -> Vec<(String, String, bool, bool)> {
        let lines = self.shell("resttool userlist --json").stdout;
        let user = |line| {
            let user: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = user["name"].as_str().unwrap().to_owned();
            let locked = user["locked"].as_bool().unwrap();
            (name, user["groups"].to_string(), locked, !user["expires_at"].is_null())
        };
        lines.lines().map(user).collect()
    }

    fn names(&self) -> Vec<String> {
        self.users().into_iter().map(|user| user.0).collect()
    }

    fn is_right(&self, user: &str) -> bool {
        let verify = format!("resttool verify {user} --password-file /run/secrets/roy || echo no");
        self.shell(&verify).stdout.is_empty()
    }
}

/// H-01, H-04: each line of the guide, from a mixed file to bcrypt only.
#[test]
fn htpasswd_page_leads_from_a_mixed_file_to_bcrypt() {
    let machine = Machine::new();
    let old = "\
ann:$apr1$r31.....$Hm1OIgTN82PzLwE0zV.OK/
bob:{SHA}piGucRdTwGb7+i3S1svNik60+fw=
# of an old server
dan:rqXexS6ZhobKA
eve:$2y$08$46sw5gztEHm6rEhUfHJ4w.jqpJekZ1RoZb8RnWOPqbgUP/dkmbDJq
roy:$6$saltstring$W5umj01Px6Sa6a5RBrDBZa62w9BLKXptWXO07RCAgb1pn7MTi1oEqjBrcBGbSQkgvfVjlyeqiplrfibUzudsX0
";
    fs::write(machine.path("etc/nginx/htpasswd"), old).unwrap();
    fs::create_dir_all(machine.path("var/lib/resttool")).unwrap();
    let page = |section| shell_blocks("docs/htpasswd.md", section);
    let counted = machine.shell(&page("## 1. Look at the file")[0]).stdout;
    let counted: Vec<_> = counted.split_whitespace().collect();
    for scheme in ["$apr1$", "{SHA}", "$2y$", "$6$", "rqXexS6ZhobKA"] {
        assert!(counted.contains(&scheme), "{scheme}: {counted:?}");
    }
    let [import, add] = &page("## 2. Import it")[..] else { panic!() };
    let said = machine.shell(&format!("RESTTOOL_COST=10 {import}")).stderr;
    let skipped = blocks_of("docs/htpasswd.md", "## 2. Import it");
    let skipped = &skipped.iter().find(|(kind, _)| kind == "text").unwrap().1;
    assert!(said.contains(skipped.as_str()), "{said}");
    machine.shell(add);
    assert_eq!(machine.names(), ["ann", "bob", "dan", "eve", "roy"]);

    let [serve, watch] = &page("## 3. Let them log in")[..] else { panic!() };
    let mut command = machine.command("sh");
    command.arg("-euc").arg(format!("exec {} --port 0 --cost 4", serve.trim()));
    let server = ServerProcess::start(command);
    let login = |user: &str| {
        Request::get("/rest-auth").basic(user, "open-sesame").send(server.address).status
    };
    assert_eq!(["eve", "roy", "nobody"].map(login), [200, 200, 401]);
    // The worker replaces the hash of roy before it refuses another attempt.
    while !machine.shell("resttool userlist --scheme sha512-crypt --json").stdout.is_empty() {
        assert_eq!(login("nobody"), 401);
    }
    let watched = machine.shell(watch);
    assert!(watched.stdout.starts_with("NAME"), "{}", watched.stdout);
    let expected =
        "2 users have an imported hash that no login has replaced yet, the first since 2";
    assert!(watched.stderr.contains(expected), "{}", watched.stderr);

    let [rest, shred, export] = &page("## 4. Finish")[..] else { panic!() };
    let listed = machine.shell(rest).stdout;
    assert!(listed.contains("\nann ") && listed.contains("\nbob "), "{listed}");
    machine.shell(shred);
    assert!(!machine.path("etc/nginx/htpasswd").exists());
    let said = machine.shell(export).stderr;
    assert!(!said.contains("imported hash"), "ann is locked: {said}");
    let file = fs::read_to_string(machine.path("etc/nginx/htpasswd")).unwrap();
    assert!(file.lines().all(|line| line.contains(":$2y$")), "{file}");
    assert_eq!(file.lines().count(), 4);
}

#[test]
fn shell_loop_adds_a_hundred_users_and_can_be_repeated() {
    let machine = Machine::new();
    let steps = blocks("## Plain shell");
    assert_eq!(steps.len(), 6);
    // The page begins with the path of the store.
    let first = block("# Provisioning", "sh");
    for _ in 0..2 {
        for (n, (kind, script)) in steps.iter().enumerate() {
            assert_eq!(kind, "sh");
            let said = machine.shell(&format!("{first}{script}"));
            match n {
                0 => assert!(machine.is_right("roy")),
                1 => assert_eq!(
                    machine.users().iter().find(|user| user.0 == "roy").unwrap().1,
                    r#"["admin","staff"]"#
                ),
                2 => assert!(machine.users().len() > 100),
                3 => assert!(said.stdout.contains("roy   admin,staff  active"), "{}", said.stdout),
                _ => {}
            }
        }
        let users = machine.users();
        assert_eq!(users.len(), 1 + 99 + 1, "roy, a hundred but for the one removed, and old");
        let user = |name: &str| users.iter().find(|user| user.0 == name).unwrap();
        assert!(user("user-1").2 && user("user-2").3);
        let exported = fs::read_to_string(machine.path("etc/nginx/htpasswd")).unwrap();
        assert!(exported.contains("\nroy:$2y$") && !exported.contains("user-1:"), "{exported}");
    }
}

/// M-05: each line of the page, with Prometheus, from a server to a cleared lockout.
#[test]
#[ignore = "needs curl and Prometheus"]
fn monitoring_page_leads_from_nothing_to_a_cleared_lockout() {
    let machine = Machine::new();
    let page = blocks_of("docs/monitoring.md", "## From nothing to a cleared lockout");
    let page: Vec<_> = page.into_iter().map(|(_, text)| text).collect();
    let [start, look, prometheus, ask, lockout] = &page[..] else { panic!("{page:?}") };
    let (add, serve) = start.trim_end().rsplit_once('\n').unwrap();
    machine.shell(add);
    let mut shell = machine.command("sh");
    let serve = serve.replace("127.0.0.1:9180", "127.0.0.1:0");
    shell.arg("-c").arg(format!("exec {serve} --port 0"));
    let mut server = ServerProcess::start(shell);
    let before = "for operators on http://";
    server.wait_for(before);
    let operators = server.log.split_once(before).unwrap().1.trim_end().to_owned();
    let seen = machine.shell(&look.replace("127.0.0.1:9180", &operators)).stdout;
    assert!(
        seen.contains("resttool_store_reachable 1\n") && seen.contains("No problems."),
        "{seen}"
    );
    // Prometheus with the files of the project, and a scrape each second.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/prometheus");
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("127.0.0.1:9180", &operators).replace("15s", "1s");
        fs::write(machine.path(entry.file_name().to_str().unwrap()), text).unwrap();
    }
    let (check, run) = prometheus.trim_end().rsplit_once('\n').unwrap();
    machine.shell(check);
    let log = machine.path("prometheus.log");
    let (_prometheus, address) = listening(&log, "/-/ready", |port| {
        let mut shell = machine.command("sh");
        shell.arg("-c").arg(format!("exec {run} --web.listen-address=127.0.0.1:{port}"));
        shell
    });
    let ask = ask.replace("127.0.0.1:9090", &address.to_string());
    loop {
        let mut shell = machine.command("sh");
        shell.arg("-euc").arg(&ask);
        let outcome = finish(shell, "");
        if outcome.code == 0 && outcome.stdout.contains("=> 1 @") {
            assert!(outcome.stdout.contains("ResttoolCertificateExpires"), "{}", outcome.stdout);
            break;
        }
    }
    let lockout = lockout.replace("127.0.0.1:5000", &server.address.to_string());
    let seen = machine.shell(&lockout);
    let (refused, rest) = seen.stdout.split_once("Too many failures. Try again in ").unwrap();
    assert_eq!(refused.matches("Unauthorized Access").count(), 10);
    assert!(rest.contains("\nNo problems.\n") && rest.contains("\n127.0.0.1 "), "{rest}");
    assert!(rest.ends_with("\"You are authorized to see this message\"\n"), "{rest}");
    assert!(seen.stderr.contains("resttool: cleared 127.0.0.1\n"), "{}", seen.stderr);
}

/// The page leads from an API to a protected one in two commands, and the rules are those it shows.
#[test]
#[ignore = "needs curl"]
fn protect_page_leads_to_a_protected_api() {
    let machine = Machine::new();
    let api = Upstream::echo();
    let blocks = |title: &str| -> Vec<String> {
        let blocks = blocks_of("docs/protect-an-api.md", title);
        let there = |text: String| text.replace("127.0.0.1:8000", &api.address.to_string());
        blocks.into_iter().map(|(_, text)| there(text)).collect()
    };
    let serve = |line: &str| {
        let mut shell = machine.command("sh");
        shell.arg("-c").arg(format!("exec {} --port 0", line.trim_end()));
        ServerProcess::start(shell)
    };
    let page = blocks("## Two commands");
    let [start, ask] = &page[..] else { panic!("{page:?}") };
    let (add, line) = start.trim_end().rsplit_once('\n').unwrap();
    // At a terminal, it asks for the password.
    machine.shell(&format!("{add} --password-file /run/secrets/roy"));
    let server = serve(line);
    let there = |text: &str| text.replace("127.0.0.1:5000", &server.address.to_string());
    let seen = machine.shell(&there(ask)).stdout;
    let (passed, refused) = seen.split_once("0 bytes").unwrap();
    assert_eq!(field(passed, "remote-user"), Some("roy"), "{seen}");
    assert_eq!(refused, "Unauthorized. Log in with a valid user name and password.\n");
    let page = blocks("## Containers");
    let [print] = &page[..] else { panic!("{page:?}") };
    machine.shell(print);
    let page = blocks("## Rules");
    let [rules] = &page[..] else { panic!("{page:?}") };
    let server = serve(rules);
    let status = |request: Request| request.send(server.address).status;
    assert_eq!(status(Request::get("/health")), 200);
    assert_eq!(status(Request::get("/docs/a")), 200);
    assert_eq!(status(Request::new("POST", "/docs/a")), 401);
    assert_eq!(status(Request::get("/admin/a").basic("roy", "open-sesame")), 403);
    assert_eq!(status(Request::get("/other").basic("roy", "open-sesame")), 200);
}

/// Commands of `docs/forward-auth.md` run, and its configurations are those of `print`.
#[test]
fn proxy_page_shows_the_printed_configurations() {
    let page = "docs/forward-auth.md";
    let machine = Machine::new();
    let commands = blocks_of(page, "# Forward authentication");
    let [(_, start), (_, print)] = &commands[..] else { panic!("{commands:?}") };
    let (add, serve) = start.trim_end().rsplit_once('\n').unwrap();
    let password = machine.shell(add).stdout;
    let mut shell = machine.command("sh");
    shell.arg("-c").arg(format!("exec {serve} --port 0"));
    let gate = ServerProcess::start(shell);
    let request =
        crate::support::client::Request::get("/auth?group=admin").basic("roy", password.trim_end());
    assert_eq!(request.send(gate.address).status, 200);
    let shown = blocks_of(page, "## The configurations");
    assert_eq!(shown.len(), print.lines().count());
    for (line, (_, shown)) in print.lines().zip(shown) {
        assert_eq!(machine.shell(line).stdout, shown, "{line}");
    }
}

/// The examples of each command succeed on a machine with the files that they name.
#[test]
fn help_examples_run() {
    let help = |words: &str| Machine::new().shell(&format!("resttool {words} --help")).stdout;
    let main = help("");
    let (_, verbs) = main.split_once("Commands:\n").unwrap();
    let verbs = verbs.lines().take_while(|line| !line.is_empty());
    let verbs = verbs.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let verbs = verbs.filter(|verb| !["", "help"].contains(verb));
    let mut seen = 0;
    for verb in verbs {
        let text = help(verb);
        let (_, examples) = text.split_once("Examples:\n").unwrap_or_else(|| panic!("{verb}"));
        for example in examples.lines() {
            // Text after several spaces is a comment.
            let line = example.trim_start();
            let line = line.split_once("   ").map_or(line, |(line, _)| line);
            if example.contains("ask for the password on the terminal") {
                continue; // needs a terminal: see terminal.rs
            }
            if example.contains("postgres://") {
                continue; // needs PostgreSQL: see fleet.rs
            }
            run_example(verb, line);
            seen += 1;
        }
    }
    assert!(seen > 35, "{seen}");
}

fn run_example(verb: &str, line: &str) {
    let machine = Machine::new();
    for folder in ["etc/bash_completion.d", ".config/fish/completions"] {
        fs::create_dir_all(machine.path(folder)).unwrap();
    }
    let mut before = "export PASSWORD=open-sesame ANN=one-one-one BOB=two-two-two\n".to_owned();
    if !["useradd", "import"].contains(&verb) {
        before += "for user in roy ann bob cid; do
            resttool useradd $user --password-file /run/secrets/roy
        done\n";
    }
    before += "printf 'eve:three-three\\n' | RESTTOOL_DATABASE=old.db resttool chpasswd --create\n";
    before += "RESTTOOL_DATABASE=old.db resttool export users.jsonl --format jsonl\n";
    if verb == "backup" {
        before += "resttool backup users.backup\n";
    }
    fs::write(machine.path("passwords"), "ann:one-one-one\nbob:two-two-two\n").unwrap();
    let users = machine.relocate(&block("## Desired state", "toml"));
    fs::write(machine.path("users.toml"), users).unwrap();
    if ["status", "health", "throttle"].contains(&verb) {
        machine.shell(&before);
        let mut serve = machine.command(env!("CARGO_BIN_EXE_resttool"));
        serve.args(["serve", "--port", "0", "--ops-listen", "unix:resttool.sock"]);
        let server = ServerProcess::start(serve);
        let line = line.replace("127.0.0.1:5000", &server.address.to_string());
        machine.shell(&line.replace("--watch", "--watch=100ms | head -n 1"));
        drop(server);
        return;
    }
    if verb != "serve" {
        machine.shell(&format!("{before}{line}"));
        return;
    }
    machine.shell("resttool useradd roy --password-file /run/secrets/roy");
    let mut serve = machine.command("sh");
    serve.env("RESTTOOL_PORT", "0");
    // exec: the end of the shell's process is that of the server.
    let line = line.replace("8080", "0").replace("resttool serve", "exec resttool serve");
    let line = line.replace("RESTTOOL_PORT=0 exec", "export RESTTOOL_PORT=0; exec");
    let (certificate, key) = crate::tls::generate();
    for (file, text) in [("cert.pem", certificate), ("key.pem", key)] {
        let file = machine.path("etc/resttool").join(file);
        fs::write(&file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    serve.arg("-c").arg(machine.relocate(&line)).stderr(std::process::Stdio::piped());
    let mut child = serve.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(log.any(|said| said.unwrap().contains("listening on ")), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

const ROY_AND_ANN: [&str; 2] = ["ann", "roy"];

#[test]
fn users_file_of_the_page_is_applied() {
    let machine = Machine::new();
    machine.shell("resttool useradd --generate by-hand");
    let manifest = machine.path("etc/resttool/users.toml");
    fs::write(manifest, machine.relocate(&block("## Desired state", "toml"))).unwrap();
    let script = block("## Desired state", "sh");
    let (dry, real) = script.trim_end().split_once('\n').unwrap();
    let would = machine.shell(dry).stdout;
    assert_eq!(machine.names(), ["by-hand"]);
    assert_eq!(machine.shell(real).stdout, would);
    assert_eq!(machine.names(), ROY_AND_ANN);
    assert!(machine.is_right("roy") && machine.is_right("ann"));
    assert_eq!(machine.shell(real).stdout, "");
}

#[test]
#[ignore = "needs ansible-playbook (the package ansible-core of Python)"]
fn ansible_applies_users_and_reports_one_change() {
    let machine = Machine::new();
    let users = machine.relocate(&block("## Desired state", "toml"));
    fs::write(machine.path("users.toml"), users).unwrap();
    fs::write(machine.path("playbook.yml"), machine.relocate(&block("## Ansible", "yaml")))
        .unwrap();
    let play = || {
        let mut ansible = machine.command("ansible-playbook");
        ansible.args(["-i", "localhost,", "-c", "local", "playbook.yml"]);
        ansible
            .args(["-e", "ansible_python_interpreter=/usr/bin/python3"])
            .env("LC_ALL", "C.UTF-8");
        let outcome = finish(ansible, "");
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    };
    assert!(play().contains("changed=2 "));
    assert_eq!(machine.names(), ROY_AND_ANN);
    assert!(play().contains("changed=0 "));
}

#[test]
#[ignore = "needs python3 with yaml (python3-yaml)"]
fn cloud_init_commands_add_the_users() {
    let machine = Machine::new();
    let text = machine.relocate(&block("## cloud-init", "yaml"));
    assert!(text.starts_with("#cloud-config\n"));
    // As cloud-init does: files first, and then commands without a shell.
    let play = "import subprocess, sys, yaml
config = yaml.safe_load(sys.stdin)
assert set(config) == {'write_files', 'runcmd'}
for file in config['write_files']: open(file['path'], 'w').write(file['content'])
for command in config['runcmd']: subprocess.run(command, check=True)";
    for _ in 0..2 {
        let mut python = machine.command("/usr/bin/python3");
        python.args(["-c", play]);
        let outcome = finish(python, &text);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(machine.users(), [("roy".to_owned(), r#"["admin"]"#.to_owned(), false, false)]);
    }
    assert!(machine.is_right("roy"));
}

/// M-10: runs the command in a shell, without a container engine, in the environment of the image.
#[test]
fn container_adds_its_users_at_start() {
    let machine = Machine::new();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/Containerfile");
    let base = fs::read_to_string(base).unwrap();
    let file = block("## Docker", "dockerfile");
    let instruction = |file: &str, name: &str| {
        let lines = file.lines().filter_map(|line| line.strip_prefix(name));
        lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(instruction(&file, "FROM "), ["resttool"]);
    assert_eq!(instruction(&base, "ENTRYPOINT"), [""; 0]);
    let environment = [instruction(&base, "ENV "), instruction(&file, "ENV ")].concat().join(" ");
    let [start] = &instruction(&file, "CMD ")[..] else { panic!("one CMD: {file}") };
    for _ in 0..2 {
        let mut container = machine.command("sh");
        container.env_remove("RESTTOOL_DATABASE");
        for (name, value) in environment.split(' ').map(|pair| pair.split_once('=').unwrap()) {
            let value = machine.relocate(&format!("{value}/"));
            container.env(name, value.trim_end_matches('/'));
        }
        // Not on all addresses: tests use the loopback one.
        container.env("RESTTOOL_HOST", "127.0.0.1").env("RESTTOOL_PORT", "0");
        container.arg("-c").arg(machine.relocate(start));
        let server = ServerProcess::start(container);
        let request =
            crate::support::client::Request::get("/rest-auth").basic("roy", "open-sesame");
        assert_eq!(request.send(server.address).status, 200);
        assert!(machine.path("var/lib/resttool/resttool.db").exists());
        server.signal(rustix::process::Signal::TERM);
        assert_eq!(server.end().0, Some(0), "the server is what the container stops");
    }
}

#[test]
#[ignore = "needs curl and jq"]
fn temporary_users_are_removed_by_a_nightly_job() {
    let machine = Machine::new();
    let blocks = blocks("## cron and CI");
    assert_eq!(blocks.len(), 2);
    machine.shell("resttool import /dev/null"); // makes a store without users
    let mut serve = machine.command(env!("CARGO_BIN_EXE_resttool"));
    serve.args(["serve", "--port", "0"]);
    let server = ServerProcess::start(serve);
    let one_run = format!("URL=http://{}\n{}", server.address, blocks[0].1);
    assert_eq!(machine.shell(&one_run).stdout, "\"You are authorized to see this message\"\n");
    assert_eq!(machine.names(), [""; 0]);
    machine.shell("for user in ann bob cid; do resttool useradd $user --generate; done");
    machine.shell(
        "resttool usermod ann --expire 2001-01-01; resttool usermod cid --expire 2001-01-01",
    );
    machine.shell(&blocks[1].1);
    assert_eq!(machine.names(), ["bob"]);
}

#[test]
fn security_page_names_existing_tests() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    sources(&root.join("src"), &mut code);
    sources(&root.join("tests"), &mut code);
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let rows = |heading: &str| {
        let (_, rest) = page.split_once(heading).unwrap();
        let (section, _) = rest.split_once("\n## ").unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut seen = 0;
    for line in rows("## Threats").iter().chain(&rows("## Advisories of other proxies")) {
        let tests = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in tests.split(", ").map(|test| test.trim_matches('`')) {
            assert!(code.contains(&format!("fn {test}(")), "{test}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
