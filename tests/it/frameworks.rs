//! The examples of `docs/frameworks.md`, run as they are printed, at the address of a test server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::cli::{ServerProcess, command};
use crate::support::client::{Connection, Request, Response};
use crate::support::program::{Program, listening};
use crate::support::store::TempStore;

/// A name that is neither ASCII nor Latin-1.
const NAME: &str = "José 日本";

/// The text of the example of a section: the first is behind a proxy, the second asks `/auth`.
fn example(section: &str, behind_proxy: bool) -> String {
    let page = include_str!("../../docs/frameworks.md");
    let (_, section) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks: Vec<_> = section.split("\n```").skip(1).step_by(2).collect();
    let [proxied, asking] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let block = if behind_proxy { proxied } else { asking };
    block.split_once('\n').unwrap().1.to_owned()
}

/// Starts a program with an example in its folder. `files` are written beside it.
type Start = fn(&Path, u16) -> Command;

struct Case {
    section: &'static str,
    file: &'static str,
    /// More files, with their names.
    files: &'static [(&'static str, &'static str)],
    /// Changes an example for the versions at hand.
    adapt: fn(String) -> String,
    /// Builds the program.
    build: fn(&Path),
    start: Start,
}

impl Case {
    fn run(&self) {
        self.check_behind_a_proxy();
        self.check_without_a_proxy();
    }

    fn program(&self, folder: &TempStore, text: String) -> (Program, SocketAddr) {
        let path = folder.folder();
        fs::write(path.join(self.file), (self.adapt)(text)).unwrap();
        for (name, text) in self.files {
            fs::write(path.join(name), text).unwrap();
        }
        (self.build)(path);
        listening(&path.join("log"), "/whoami", |port| (self.start)(path, port))
    }

    fn check_behind_a_proxy(&self) {
        let folder = TempStore::new();
        let (_program, address) = self.program(&folder, example(self.section, true));
        let request = Request::get("/whoami").header("Remote-User", NAME);
        assert_eq!(answer(&send(request, address)), (200, NAME.to_owned()), "{}", self.section);
    }

    fn check_without_a_proxy(&self) {
        let store = TempStore::new();
        store.add(NAME, "open-sesame");
        let words = "serve --port 0 --cost 4 --trusted-proxy 127.0.0.1 --source-failures 3/24h";
        let mut serve = command(store.folder(), words.split(' '));
        serve.arg("--database").arg(store.database()).stdin(Stdio::null());
        let gate = ServerProcess::start(serve);
        let text = example(self.section, false);
        assert_eq!(text.matches("127.0.0.1:5000").count(), 1, "{}", self.section);
        let text = text.replace("127.0.0.1:5000", &gate.address.to_string());
        let folder = TempStore::new();
        let (_program, address) = self.program(&folder, text);
        let whoami = || Request::get("/whoami");
        let login = |password: &str| send(whoami().basic(NAME, password), address);
        assert_eq!(answer(&login("open-sesame")), (200, NAME.to_owned()), "{}", self.section);
        for refused in [send(whoami(), address), login("wrong")] {
            assert_eq!(refused.status, 401, "{}", self.section);
            let challenge = refused.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Basic realm="), "{challenge}");
        }
        // A client that guesses is told when to try again.
        let claims = whoami().header("Remote-User", NAME).header("X-Forwarded-For", "192.0.2.1");
        assert_eq!(send(claims, address).status, 401);
        while login("wrong").status == 401 {}
        let throttled = send(whoami().basic("nobody", "wrong"), address);
        assert_eq!(throttled.status, 403, "{}", self.section);
        assert!(throttled.body.starts_with("Too many failures."), "{throttled:?}");
        assert!(throttled.header("retry-after").is_some(), "{throttled:?}");
        drop(gate);
        let down = login("open-sesame");
        assert!(down.status >= 500, "{}: {down:?}", self.section);
    }
}

/// Sends a request whose response may end with the connection.
fn send(request: Request, to: SocketAddr) -> Response {
    let mut connection = Connection::open(to);
    connection.write(&request.header("Connection", "close").bytes());
    let head = connection.read_head();
    Response { body: connection.rest(), ..head }
}

fn answer(response: &Response) -> (u16, String) {
    (response.status, response.body.trim_end().to_owned())
}

fn as_it_is(text: String) -> String {
    text
}

fn no_build(_: &Path) {}

/// W-17
#[test]
#[ignore = "needs python3 with flask and requests"]
fn flask_examples_name_the_user() {
    let case = Case {
        section: "Flask",
        file: "app.py",
        files: &[],
        adapt: as_it_is,
        build: no_build,
        start: |folder, port| {
            let mut flask = Command::new("/usr/bin/python3");
            flask.args(["-m", "flask", "--app", "app", "run", "--port", &port.to_string()]);
            flask.current_dir(folder);
            flask
        },
    };
    case.run();
}

/// W-17
#[test]
#[ignore = "needs python3 with django and requests"]
fn django_examples_name_the_user() {
    let case = Case {
        section: "Django",
        file: "middleware.py",
        files: &[(
            "project.py",
            r#"
import sys
from wsgiref.simple_server import make_server
from django.conf import settings
settings.configure(ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"], SECRET_KEY="x",
                   MIDDLEWARE=["middleware.remote_user"])
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("whoami", lambda request: HttpResponse(request.remote_user))]
make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application()).serve_forever()
"#,
        )],
        adapt: as_it_is,
        build: no_build,
        start: |folder, port| {
            let mut django = Command::new("/usr/bin/python3");
            django.args(["project.py", &port.to_string()]).current_dir(folder);
            django
        },
    };
    case.run();
}

/// W-17
#[test]
#[ignore = "needs node with express in NODE_PATH"]
fn express_examples_name_the_user() {
    let case = Case {
        section: "Express",
        file: "app.js",
        files: &[],
        adapt: as_it_is,
        build: no_build,
        start: |folder, port| {
            let mut node = Command::new("node");
            node.arg("app.js").env("PORT", port.to_string()).current_dir(folder);
            node
        },
    };
    case.run();
}

/// W-17
#[test]
#[ignore = "needs php"]
fn php_examples_name_the_user() {
    let case = Case {
        section: "PHP",
        file: "index.php",
        files: &[],
        adapt: as_it_is,
        build: no_build,
        start: |folder, port| {
            let mut php = Command::new("php");
            php.arg("-S").arg(format!("127.0.0.1:{port}")).arg("index.php").current_dir(folder);
            php
        },
    };
    case.run();
}

/// The jars of Debian's Spring and Tomcat, which know the servlet API by its older name.
const JARS: [&str; 18] = [
    "spring3-core",
    "spring3-beans",
    "spring3-context",
    "spring3-expression",
    "spring3-aop",
    "spring3-web",
    "spring3-web.servlet",
    "commons-logging",
    "tomcat9-api",
    "tomcat9-catalina",
    "tomcat9-coyote",
    "tomcat9-util",
    "tomcat9-util-scan",
    "tomcat9-juli",
    "tomcat9-servlet-api",
    "tomcat9-annotations-api",
    "tomcat9-jaspic-api",
    "tomcat9-jni",
];

fn class_path() -> String {
    JARS.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":") + ":."
}

/// W-17
#[test]
#[ignore = "needs javac, libspring-web-servlet-java and libtomcat9-java"]
fn spring_examples_name_the_user() {
    let build = |folder: &Path| {
        let mut javac = Command::new("javac");
        let sources = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let sources = sources.filter(|path| path.extension().is_some_and(|e| e == "java"));
        javac.args(["--release", "11", "-cp", &class_path()]).args(sources).current_dir(folder);
        let built = javac.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    };
    let start = |folder: &Path, port: u16| {
        let mut java = Command::new("java");
        java.args(["-cp", &class_path(), "Main", &port.to_string()]).current_dir(folder);
        java
    };
    let adapt = |text: String| text.replace("jakarta.servlet", "javax.servlet");
    let proxied = Case {
        section: "Spring",
        file: "Whoami.java",
        files: &[("Main.java", include_str!("frameworks/Main.java"))],
        adapt,
        build,
        start,
    };
    proxied.check_behind_a_proxy();
    let asking = Case {
        file: "Gate.java",
        files: &[
            ("Main.java", include_str!("frameworks/Main.java")),
            ("Whoami.java", include_str!("frameworks/Whoami.java")),
        ],
        ..proxied
    };
    asking.check_without_a_proxy();
}
