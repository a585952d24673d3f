//! The manifests that `resttool print` has for Kubernetes, without a cluster.
//!
//! Their fields are checked by the schemas of Kubernetes. Their containers run with the printed
//! command, environment and user, in a read-only root folder with the volumes at their paths. The
//! addresses to listen on are others. `kubectl exec` is a command in the same folder, and in place of
//! `kubectl apply` the file is read.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::proxies::documents;
use crate::support::cli::{Completed, ServerProcess, blocks_of, command, finish, run};
use crate::support::client::{Request, Response};
use crate::support::postgres::{Cluster, ClusterOptions, wait_until};
use crate::support::store::TempStore;
use crate::support::upstream::{Upstream, field};

/// The forms, each with the oldest version of Kubernetes that has all of its fields. 1.25 is the
/// oldest one with a schema.
const FORMS: [(&str, &str); 3] =
    [("kubernetes", "1.25"), ("kubernetes-sqlite", "1.25"), ("kubernetes-postgres", "1.30")];

/// The longest time that a stopping server gives requests in flight, in seconds.
const DRAIN: u64 = 10;

fn print(words: &str) -> String {
    let store = TempStore::new();
    let outcome = run(store.folder(), &format!("print {words}"), "");
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{words}");
    outcome.stdout
}

/// The objects of a printed file.
struct Manifest(Value);

impl Manifest {
    fn print(words: &str) -> Self {
        Self(documents(print(words)))
    }

    /// Returns the only object of a kind.
    fn object(&self, kind: &str) -> &Value {
        let mut objects = self.0.as_array().unwrap().iter().filter(|o| o["kind"] == kind);
        let object = objects.next().unwrap_or_else(|| panic!("no {kind}"));
        assert!(objects.next().is_none(), "two of {kind}");
        object
    }

    fn pod(&self) -> &Value {
        &self.object("Deployment")["spec"]["template"]["spec"]
    }

    fn gate(&self) -> &Value {
        let mut containers = list(&self.pod()["containers"]);
        containers.find(|container| container["name"] == "resttool").unwrap()
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let text = |variable: &Value, key| text(&variable[key]).to_owned();
        list(&self.gate()["env"]).map(|v| (text(v, "name"), text(v, "value"))).collect()
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn id(value: &Value) -> u32 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}")).try_into().unwrap()
}

/// Validates a file strictly by the schemas of this version of Kubernetes, or of the newest one that
/// the validator has.
fn validate(file: &Path, version: Option<&str>) -> Result<(), String> {
    let mut validate = Command::new("kubernetes-validate");
    validate.arg("--strict").args(version.into_iter().flat_map(|v| ["-k", v])).arg(file);
    let outcome = finish(validate, "");
    // It exits with 0 too if it has no schema for an object.
    let objects = fs::read_to_string(file).unwrap().matches("\nkind: ").count();
    let passed = outcome.stdout.matches(" passed for resource ").count();
    let is_version = |v: &str| outcome.stdout.matches(&format!(" version {v}\n")).count() == passed;
    let valid = outcome.code == 0 && passed == objects && version.is_none_or(is_version);
    if valid { Ok(()) } else { Err(format!("{}{}", outcome.stdout, outcome.stderr)) }
}

#[test]
#[ignore = "needs kubernetes-validate"]
fn manifests_have_the_fields_of_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manifest.yaml");
    for (form, oldest) in FORMS {
        let printed = print(form);
        for version in [Some(oldest), None] {
            fs::write(&file, &printed).unwrap();
            assert_eq!(validate(&file, version), Ok(()), "{form}");
        }
        for field in ["readOnlyRootFilesystem:", "\n  selector:"] {
            assert!(printed.contains(field), "{form}: {field}");
            fs::write(&file, printed.replace(field, &field.replace(':', "s:"))).unwrap();
            let refused = validate(&file, None).unwrap_err();
            assert!(refused.contains("ERROR"), "{form}: {field}: {refused}");
        }
    }
}

/// The fields that the pod security standard "restricted" looks at, and the rest of what a gate does
/// not need.
#[test]
#[ignore = "needs python3 with yaml (python3-yaml)"]
fn pods_meet_the_standard_restricted() {
    for (form, _) in FORMS {
        let manifest = Manifest::print(form);
        let pod = manifest.pod();
        for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers", "hostUsers"] {
            assert_eq!(pod.get(field), None, "{form}");
        }
        assert_eq!(pod["automountServiceAccountToken"], false, "{form}");
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true, "{form}");
        assert_eq!(context["seccompProfile"], json!({ "type": "RuntimeDefault" }), "{form}");
        for key in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert_eq!(context[key], 65532, "{form}");
        }
        for volume in list(&pod["volumes"]) {
            let mut kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
            let kind = kinds.next().unwrap().as_str();
            assert!(["emptyDir", "secret", "persistentVolumeClaim"].contains(&kind), "{form}");
            assert_eq!(kinds.next(), None, "{form}");
        }
        for container in list(&pod["containers"]) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{form}");
            assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }), "{form}");
            for key in ["privileged", "runAsNonRoot", "seccompProfile", "procMount"] {
                assert_eq!(context.get(key), None, "{form}: that of the pod counts");
            }
            for port in container.get("ports").iter().flat_map(|ports| list(ports)) {
                assert_eq!(port.get("hostPort"), None, "{form}");
            }
        }
        let gate = manifest.gate();
        assert_eq!(gate["securityContext"]["readOnlyRootFilesystem"], true, "{form}");
        let limits = gate["resources"]["limits"].as_object().unwrap();
        assert!(limits.keys().eq(["memory"]), "{form}: hashes may use all cores");
    }
}

/// What a schema does not know.
#[test]
#[ignore = "needs python3 with yaml (python3-yaml)"]
fn objects_of_a_manifest_belong_together() {
    for (form, _) in FORMS {
        let manifest = Manifest::print(&format!("{form} --port 7000"));
        let deployment = &manifest.object("Deployment")["spec"];
        let labels = &deployment["template"]["metadata"]["labels"];
        assert_eq!(&deployment["selector"]["matchLabels"], labels, "{form}");
        let service = &manifest.object("Service")["spec"];
        assert_eq!(&service["selector"], labels, "{form}");

        let gate = manifest.gate();
        let ports = gate["ports"].as_array().unwrap();
        assert_eq!((&ports[0]["name"], &ports[0]["containerPort"]), (&json!("http"), &json!(7000)));
        assert_eq!(ports[1]["name"], "operators");
        assert_eq!(list(&service["ports"]).count(), 1, "{form}: not that of operators");
        assert_eq!(service["ports"][0]["targetPort"], "http", "{form}");
        let environment = manifest.environment();
        assert_eq!(environment["RESTTOOL_PORT"], "7000", "{form}");
        let operators = format!("0.0.0.0:{}", ports[1]["containerPort"]);
        assert_eq!(environment["RESTTOOL_OPS_LISTEN"], operators, "{form}");
        // B-11: no proxy is trusted.
        assert_eq!(environment.get("RESTTOOL_TRUSTED_PROXY"), None, "{form}");

        let pod = manifest.pod();
        let mounts = list(&gate["volumeMounts"]).map(|mount| &mount["name"]);
        assert!(mounts.eq(list(&pod["volumes"]).map(|volume| &volume["name"])), "{form}");
        let hook = gate["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > hook + DRAIN, "{form}: {grace} s");

        if form == "kubernetes" {
            let api = list(&pod["containers"]).find(|c| c["name"] == "api").unwrap();
            assert_eq!(api.get("ports"), None, "the API is reached through the gate only");
            continue;
        }
        let policy = &manifest.object("NetworkPolicy")["spec"];
        assert_eq!(policy["podSelector"]["matchLabels"], json!({ "app": "api" }), "{form}");
        assert_eq!(policy["policyTypes"], json!(["Ingress"]), "{form}");
        let from = json!([{ "from": [{ "podSelector": { "matchLabels": labels } }] }]);
        assert_eq!(policy["ingress"], from, "{form}: no other pod");
    }

    let sqlite = Manifest::print("kubernetes-sqlite");
    let deployment = &sqlite.object("Deployment")["spec"];
    assert_eq!(deployment["replicas"], 1, "one server has the file");
    assert_eq!(deployment["strategy"], json!({ "type": "Recreate" }));
    let claim = &sqlite.object("PersistentVolumeClaim")["metadata"]["name"];
    assert_eq!(&sqlite.pod()["volumes"][0]["persistentVolumeClaim"]["claimName"], claim);
    assert_eq!(sqlite.pod()["securityContext"]["fsGroupChangePolicy"], "OnRootMismatch");

    let postgres = Manifest::print("kubernetes-postgres");
    let deployment = &postgres.object("Deployment")["spec"];
    let labels = &deployment["template"]["metadata"]["labels"];
    let budget = &postgres.object("PodDisruptionBudget")["spec"];
    assert_eq!(&budget["selector"]["matchLabels"], labels);
    assert!(id(&budget["maxUnavailable"]) < id(&deployment["replicas"]));
    assert_eq!(deployment["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let spread = &postgres.pod()["topologySpreadConstraints"][0];
    assert_eq!(&spread["labelSelector"]["matchLabels"], labels);
}

/// A sidecar reaches its API in the pod. The other forms reach a Service.
#[test]
#[ignore = "needs python3 with yaml (python3-yaml)"]
fn upstream_of_a_manifest_is_the_given_one() {
    for (words, upstream) in [
        ("kubernetes", "http://127.0.0.1:8000"),
        ("kubernetes --upstream orders:8080", "http://127.0.0.1:8080"),
        ("kubernetes-sqlite", "http://api:8000"),
        ("kubernetes-postgres", "http://api:8000"),
        ("kubernetes-sqlite --upstream orders.shop:8080", "http://orders.shop:8080"),
        ("kubernetes-postgres --upstream 127.0.0.1:8000", "http://127.0.0.1:8000"),
    ] {
        let environment = Manifest::print(words).environment();
        assert_eq!(environment["RESTTOOL_UPSTREAM"], upstream, "{words}");
    }
}

/// The container of resttool in a pod, whose volumes stay until it is dropped.
struct Pod {
    folder: TempDir,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    /// Prepares the mounts, and becomes the program that follows as arguments.
    script: String,
}

impl Pod {
    /// Makes the volumes of a manifest as the kubelet does, with these files in that of a secret.
    /// `hosts` are names of this machine.
    fn new(manifest: &Manifest, secret: &[(&str, &str)], hosts: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for name in ["usr", "proc", "dev", "etc", "opt/resttool"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name)).unwrap();
        }
        fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost {hosts}\n")).unwrap();
        let spec = manifest.pod();
        let context = &spec["securityContext"];
        let group = id(&context["fsGroup"]);
        let program = Path::new(env!("CARGO_BIN_EXE_resttool")).parent().unwrap().display();
        let shown = root.display();
        let mut script = format!("set -e\nmount --bind {shown} {shown}\n");
        for path in ["/usr", "/proc", "/dev"] {
            script += &format!("mount --rbind {path} {shown}{path}\n");
        }
        script += &format!("mount --bind '{program}' {shown}/opt/resttool\n");
        for (mount, volume) in list(&manifest.gate()["volumeMounts"]).zip(list(&spec["volumes"])) {
            let source = folder.path().join(text(&mount["name"]));
            make_volume(&source, volume, group, secret);
            let path = text(&mount["mountPath"]);
            fs::create_dir_all(root.join(path.trim_start_matches('/'))).unwrap();
            script += &format!("mount --bind {} {shown}{path}\n", source.display());
            if mount["readOnly"] == true {
                script += &format!("mount -o remount,bind,ro {shown}{path}\n");
            }
        }
        script += &format!(
            "mount -o remount,bind,ro {shown}\n\
             exec chroot {shown} setpriv --reuid={} --regid={} --groups={group} --no-new-privs \
             --bounding-set=-all \"$@\"",
            id(&context["runAsUser"]),
            id(&context["runAsGroup"]),
        );
        set_mode(&root, 0o755);

        let mut environment = links_of_service(manifest);
        environment.extend(manifest.environment());
        for (name, value) in [
            ("PATH", "/opt/resttool:/usr/bin:/usr/sbin:/bin:/sbin"),
            // Not on all addresses, and with a low cost: these tests are not about them.
            ("RESTTOOL_HOST", "127.0.0.1"),
            ("RESTTOOL_PORT", "0"),
            ("RESTTOOL_OPS_LISTEN", "127.0.0.1:0"),
            ("RESTTOOL_COST", "4"),
        ] {
            environment.insert(name.to_owned(), value.to_owned());
        }
        let command = list(&manifest.gate()["command"]).map(|word| text(word).to_owned()).collect();
        Self { folder, command, environment, script }
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn process<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut process = Command::new("unshare");
        process.args(["--mount", "sh", "-c", &self.script, "sh"]).args(words);
        process.env_clear().envs(&self.environment);
        process
    }

    /// Starts the server. Returns it with the address for operators.
    fn start(&self) -> (ServerProcess, SocketAddr) {
        let mut server = ServerProcess::start(self.process(self.command.iter().map(|w| &**w)));
        let before = "for operators on http://";
        server.wait_for(before);
        let (_, rest) = server.log.split_once(before).unwrap();
        let operators = rest.lines().next().unwrap().parse().unwrap();
        (server, operators)
    }

    /// Runs a command as `kubectl exec` does.
    fn exec(&self, words: &str, input: &str) -> Completed {
        finish(self.process(words.split(' ')), input)
    }

    fn succeed(&self, words: &str, input: &str) -> String {
        let outcome = self.exec(words, input);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout
    }
}

/// Makes a volume with the owner and the modes that the kubelet gives it with `fsGroup`.
fn make_volume(path: &Path, volume: &Value, group: u32, secret: &[(&str, &str)]) {
    fs::create_dir(path).unwrap();
    if let Some(source) = volume.get("secret") {
        let files = path.join("..files");
        fs::create_dir(&files).unwrap();
        symlink("..files", path.join("..data")).unwrap();
        for (name, text) in secret {
            let file = files.join(name);
            fs::write(&file, text).unwrap();
            chown(&file, Some(0), Some(group)).unwrap();
            set_mode(&file, id(&source["defaultMode"]));
            symlink(Path::new("..data").join(name), path.join(name)).unwrap();
        }
        set_mode(&files, 0o755);
    }
    chown(path, Some(0), Some(group)).unwrap();
    set_mode(path, if volume.get("persistentVolumeClaim").is_some() { 0o2775 } else { 0o2777 });
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Returns the variables that Kubernetes sets for the Service of a manifest in each pod of its
/// namespace.
fn links_of_service(manifest: &Manifest) -> BTreeMap<String, String> {
    let service = manifest.object("Service");
    let name = text(&service["metadata"]["name"]).to_uppercase();
    let port = &service["spec"]["ports"][0];
    let (number, port_name) = (&port["port"], text(&port["name"]).to_uppercase());
    [
        ("SERVICE_HOST".to_owned(), "10.0.0.1".to_owned()),
        ("SERVICE_PORT".to_owned(), number.to_string()),
        (format!("SERVICE_PORT_{port_name}"), number.to_string()),
        ("PORT".to_owned(), format!("tcp://10.0.0.1:{number}")),
        (format!("PORT_{number}_TCP"), format!("tcp://10.0.0.1:{number}")),
        (format!("PORT_{number}_TCP_PROTO"), "tcp".to_owned()),
        (format!("PORT_{number}_TCP_PORT"), number.to_string()),
        (format!("PORT_{number}_TCP_ADDR"), "10.0.0.1".to_owned()),
    ]
    .map(|(suffix, value)| (format!("{name}_{suffix}"), value))
    .into()
}

/// Returns the status of a probe of the container, as the kubelet sends it.
fn probe(manifest: &Manifest, name: &str, operators: SocketAddr) -> u16 {
    let get = &manifest.gate()[name]["httpGet"];
    assert_eq!(get["port"], "operators", "{name}");
    Request::get(text(&get["path"])).send(operators).status
}

fn probes(manifest: &Manifest, operators: SocketAddr) -> [u16; 3] {
    ["startupProbe", "readinessProbe", "livenessProbe"].map(|name| probe(manifest, name, operators))
}

fn login(to: SocketAddr) -> Response {
    Request::get("/").basic("roy", "open-sesame").send(to)
}

/// Asserts that a request reaches the API with the name of its user.
fn passes(to: SocketAddr) {
    let seen = login(to);
    assert_eq!((seen.status, field(&seen.body, "remote-user")), (200, Some("roy")));
}

#[test]
#[ignore = "needs root, and python3 with yaml (python3-yaml)"]
fn kubernetes_sidecar_as_printed_protects_its_api() {
    let api = Upstream::echo();
    let manifest = Manifest::print(&format!("kubernetes --upstream {}", api.address));
    let pod = Pod::new(&manifest, &[("roy", "open-sesame\n")], "");
    let (server, operators) = pod.start();
    assert_eq!(probes(&manifest, operators), [200; 3]);
    assert_eq!(Request::get("/").send(server.address).status, 401);
    passes(server.address);
    let status: Value = serde_json::from_str(&pod.succeed("resttool status --json", "")).unwrap();
    assert_eq!(status["requests"]["granted"], 1, "{status}");
}

/// The file is on a volume with `fsGroup`, and the first user is added while the server runs.
#[test]
#[ignore = "needs root, and python3 with yaml (python3-yaml)"]
fn kubernetes_gate_keeps_its_users_on_its_volume() {
    let api = Upstream::echo();
    let upstream = format!("api:{}", api.address.port());
    let printed = print(&format!("kubernetes-sqlite --upstream {upstream}"));
    let manifest = Manifest(documents(printed.clone()));
    let pod = Pod::new(&manifest, &[], "api");
    let mode = |path: &str| fs::metadata(pod.volume("data").join(path)).unwrap().mode() & 0o7777;
    let (server, operators) = pod.start();
    assert_eq!(probes(&manifest, operators), [200; 3], "also without a user");
    assert_eq!((login(server.address).status, api.connections()), (401, 0));
    // The lines of the page and of the file.
    let [(_, page)] = &blocks_of("docs/install.md", "## On Kubernetes")[..] else { panic!() };
    let [make, apply, exec] = &page.lines().collect::<Vec<_>>()[..] else { panic!("{page}") };
    let (make, file) = make.split_once(" >").unwrap();
    let make = make.strip_prefix("resttool print ").unwrap();
    assert_eq!(print(make).replace("api:8000", &upstream), printed);
    assert_eq!(*apply, format!("kubectl apply -f {file}"));
    assert!(printed.contains(&format!("\n#   {exec}\n")), "{printed}");
    let deployment = text(&manifest.object("Deployment")["metadata"]["name"]);
    let add = exec.strip_prefix(&format!("kubectl exec -it deploy/{deployment} -- ")).unwrap();
    pod.succeed(&format!("{add} --password-stdin"), "open-sesame\n");
    passes(server.address);
    assert_eq!([mode(""), mode("resttool"), mode("resttool/resttool.db")], [0o2775, 0o700, 0o600]);
    for words in ["health", "status", "throttle list", "check --cost 4"] {
        pod.succeed(&format!("resttool {words}"), "");
    }
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));

    // An update: the next pod has the same volume.
    let (server, _) = pod.start();
    passes(server.address);
    pod.succeed("resttool userdel roy", "");
    assert_eq!(login(server.address).status, 401);
}

/// The secret and the file that the commands of `docs/fleet.md` make for a database, at the port of
/// this database and with `psql` and `resttool` only.
struct Prepared {
    home: TempStore,
    url: String,
}

impl Prepared {
    fn new(cluster: &Cluster, api: &Upstream) -> Self {
        let home = TempStore::new();
        let path = |name: &str| home.folder().join(name);
        fs::copy(cluster.ca_path(), path("ca.crt")).unwrap();
        fs::write(path("kubectl"), "#!/bin/sh\necho \"$*\" >>kubectl.log\n").unwrap();
        set_mode(&path("kubectl"), 0o755);
        let [(_, page)] = &blocks_of("docs/fleet.md", "## Kubernetes")[..] else { panic!() };
        let port = cluster.address().unwrap().port();
        let mut script = page.clone();
        for (from, to) in [
            ("admin@127.0.0.1/", &*format!("postgres@127.0.0.1:{port}/")),
            // It asks at a terminal.
            (r"\password resttool_serve", "ALTER ROLE resttool_serve PASSWORD $$of the servers$$"),
            (":PASSWORD", ":of the servers"),
            ("postgres:5432:", &format!("postgres:{port}:")),
            ("useradd roy", "useradd roy --password-stdin"),
            ("api:8000", &format!("api:{}", api.address.port())),
        ] {
            assert_eq!(script.matches(from).count(), 1, "{from} in {script}");
            script = script.replace(from, to);
        }
        let program = Path::new(env!("CARGO_BIN_EXE_resttool")).parent().unwrap().display();
        let mut shell = Command::new("sh");
        shell.args(["-ec", &script]).current_dir(home.folder()).env_clear();
        shell.env("PATH", format!("{}:{program}:/usr/bin:/bin", home.folder().display()));
        shell.env("HOME", home.folder()).env("PGPASSWORD", ADMIN).env("RESTTOOL_COST", "4");
        let outcome = finish(shell, "open-sesame\n");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let (_, url) = script.split_once("RESTTOOL_DATABASE='").unwrap();
        let url = url.split('\'').next().unwrap().to_owned();
        Self { home, url }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.home.folder().join(name)).unwrap()
    }

    /// Runs a command as administrator of the database.
    fn succeed(&self, words: &str) {
        let words = words.split(' ').chain(["--database", &self.url]);
        let mut command = command(self.home.folder(), words);
        command.env("PGPASSWORD", ADMIN).current_dir(self.home.folder());
        let outcome = finish(command, "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
}

/// The password of the administrator of the database.
const ADMIN: &str = "of the administrator";

/// Three pods, and a database with TLS and passwords.
#[test]
#[ignore = "needs root, PostgreSQL, and python3 with yaml (python3-yaml)"]
fn kubernetes_gates_share_their_users_in_postgresql() {
    let (tls, password) = (Some("postgres".to_owned()), Some(ADMIN.to_owned()));
    let mut cluster = Cluster::with(ClusterOptions { tls, password, ..ClusterOptions::default() });
    cluster.psql("postgres", "CREATE DATABASE users");
    let api = Upstream::echo();
    let prepared = Prepared::new(&cluster, &api);

    let printed = prepared.read("resttool.yaml");
    let asked = prepared.read("kubectl.log");
    let secret = "create secret generic resttool --from-file=pgpass --from-file=ca.crt";
    for command in [secret, "apply -f resttool.yaml"] {
        assert!(asked.lines().any(|line| line == command), "{asked}");
    }
    assert!(printed.contains(&format!("\n#   kubectl {secret}\n")), "{printed}");
    let database = format!("@postgres:{}/", cluster.address().unwrap().port());
    let manifest = Manifest(documents(printed.replace("@postgres/", &database)));
    assert_eq!(manifest.object("Deployment")["spec"]["replicas"], 3);
    assert_eq!(manifest.pod()["volumes"][0]["secret"]["secretName"], "resttool");
    let secret = [("pgpass", &*prepared.read("pgpass")), ("ca.crt", &*prepared.read("ca.crt"))];
    let pods = [(); 3].map(|()| Pod::new(&manifest, &secret, "api postgres"));
    let servers = pods.each_ref().map(Pod::start);
    for (server, operators) in &servers {
        wait_until("the server is ready", || probes(&manifest, *operators) == [200; 3]);
        assert_eq!(Request::get("/").send(server.address).status, 401);
        passes(server.address);
    }
    for pod in &pods {
        pod.succeed("resttool status", "");
    }
    prepared.succeed("userdel roy");
    let statuses = servers.each_ref().map(|(server, _)| login(server.address).status);
    assert_eq!(statuses, [401; 3]);

    // Without its database, a pod gets no requests, and is not restarted.
    cluster.stop();
    for (_, operators) in &servers {
        wait_until("the server is not ready", || probes(&manifest, *operators) == [200, 503, 200]);
    }
}
