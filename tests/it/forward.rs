//! `/auth`: answers to a proxy that asks whether a request may pass.

use crate::support::cli::{ServerProcess, command};
use crate::support::client::{Connection, Request, Response, whole};
use crate::support::server::{Server, unlimited, with_roy};
use crate::support::store::TempStore;
use crate::support::{AuthConfig, GroupName, Limit};

/// Returns a store with roy in the groups admin and staff, and ann in no group.
fn store() -> TempStore {
    let store = TempStore::new();
    store.add("roy", "open-sesame");
    store.add("ann", "open-sesame");
    store.change("INSERT INTO memberships VALUES ('roy', 'staff'), ('roy', 'admin')");
    store
}

fn login(server: &Server, target: &str, user: &str, password: &str) -> Response {
    server.send(&Request::get(target).basic(user, password))
}

/// P-12
#[test]
fn granted_user_is_named_with_groups() {
    let store = store();
    let server = store.serve();
    for _ in 0..2 {
        let roy = login(&server, "/auth", "roy", "open-sesame");
        assert_eq!((roy.status, &*roy.body), (200, ""));
        assert_eq!(roy.header("remote-user"), Some("roy"));
        assert_eq!(roy.header("remote-groups"), Some("admin,staff"));
        assert_eq!(roy.header("cache-control"), Some("no-store"));
        let ann = login(&server, "/auth", "ann", "open-sesame");
        assert_eq!(
            (ann.header("remote-user"), ann.header("remote-groups")),
            (Some("ann"), Some(""))
        );
    }
    assert_eq!(server.hashes_computed(), 2, "cached with their groups");
}

/// P-12: identity fields of a client are ignored and not returned.
#[test]
fn identity_in_the_request_is_ignored() {
    let store = store();
    let server = store.serve();
    let evil = |request: Request| {
        ["Remote-User", "Remote_User", "Remote-Groups", "X-Auth-Reason"]
            .into_iter()
            .fold(request, |request, name| request.header(name, "admin"))
    };
    let ann = server.send(&evil(Request::get("/auth").basic("ann", "open-sesame")));
    assert_eq!((ann.header("remote-user"), ann.header("remote-groups")), (Some("ann"), Some("")));
    let anonymous = server.send(&evil(Request::get("/auth")));
    assert_eq!((anonymous.status, anonymous.header("remote-user")), (401, None));
}

#[test]
fn location_requires_groups_and_a_bad_query_grants_nothing() {
    let store = store();
    let server = store.serve();
    let seen = |target: &str, user: &str| {
        let response = login(&server, target, user, "open-sesame");
        (response.status, response.header("x-auth-reason").map(str::to_owned))
    };
    let group = || (403, Some("group".to_owned()));
    assert_eq!(seen("/auth?group=admin", "roy"), (200, None));
    assert_eq!(seen("/auth?group=admin", "ann"), group());
    assert_eq!(seen("/auth?group=ops", "roy"), group());
    assert_eq!(seen("/auth?group=ops&group=staff", "roy"), (200, None), "any of them");
    for slip in ["group=", "groups=admin", "group=a,b", "admin"] {
        let misconfigured = (403, Some("misconfigured".to_owned()));
        assert_eq!(seen(&format!("/auth?{slip}"), "roy"), misconfigured, "{slip}");
    }
    // A forbidden group does not reveal that a name exists.
    assert_eq!(login(&server, "/auth?group=admin", "ann", "wrong").status, 401);
}

#[test]
fn location_cannot_widen_groups_required_by_the_server() {
    let store = store();
    let staff = GroupName::parse("staff").unwrap();
    let settings = AuthConfig { require_groups: vec![staff], ..unlimited() };
    let server = Server::start_with(store.reader(), &settings, &[]);
    let status = |target: &str, user: &str| login(&server, target, user, "open-sesame").status;
    for target in ["/rest-auth", "/auth", "/auth?group=staff", "/auth?group=admin"] {
        assert_eq!((status(target, "roy"), status(target, "ann")), (200, 403), "{target}");
    }
    assert_eq!(status("/auth?group=ops", "roy"), 403);
    store.change("DELETE FROM memberships WHERE \"group\" = 'staff'");
    assert_eq!(status("/auth", "roy"), 403, "at the next request");
    assert_eq!(status("/rest-auth", "roy"), 403);
    assert_eq!(server.count("not-in-group"), 7);
}

/// P-13, P-16
#[test]
fn auth_route_answers_only_200_401_and_403() {
    let (_store, server) = with_roy();
    let get = || Request::get("/auth");
    let long = "x".repeat(9000);
    let huge = "x".repeat(70_000);
    for (request, status, reason) in [
        (get().basic("roy", "open-sesame"), 200, None),
        (get(), 401, None),
        (get().basic("roy", "wrong"), 401, None),
        (get().authorization("Bearer x"), 401, None),
        (get().authorization("Basic !"), 401, None),
        (get().basic("roy", "open-sesame").basic("roy", "open-sesame"), 401, None),
        (get().authorization(format!("Basic {long}")), 401, None),
        (get().header("X-Long", &huge), 403, Some("too-long")),
        (Request::get("/auth?x=1"), 403, Some("misconfigured")),
    ] {
        let response = server.send(&request);
        assert_eq!((response.status, response.header("x-auth-reason")), (status, reason));
        if status == 401 {
            assert!(
                response.header("www-authenticate").is_some_and(|c| c.starts_with("Basic realm="))
            );
        }
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        let request = Request::new(method, "/auth").basic("roy", "open-sesame");
        assert_eq!(server.send(&request).status, 200, "{method}");
        assert_eq!(server.send(&Request::new(method, "/auth")).status, 401, "{method}");
    }
    assert_eq!(server.send(&Request::new("HEAD", "/auth")).status, 401);
}

/// P-13, B-14: a failed login counts on each route.
#[test]
fn throttled_client_gets_a_reason_field() {
    let store = store();
    let limit = Limit::new(2, Limit::MAX_PERIOD);
    let settings = AuthConfig { source_limit: limit, ..unlimited() };
    let server = Server::start_with(store.reader(), &settings, &[]);
    assert_eq!(login(&server, "/rest-auth", "roy", "one").status, 401);
    assert_eq!(login(&server, "/auth", "roy", "two").status, 401);
    let response = login(&server, "/auth", "roy", "open-sesame");
    assert_eq!((response.status, response.header("x-auth-reason")), (403, Some("throttled")));
    assert!(response.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(login(&server, "/rest-auth", "roy", "open-sesame").status, 429);
}

/// P-13, P-18
#[test]
fn failing_store_is_a_403_with_a_reason_field() {
    let store = store();
    let server = store.serve();
    store.hide_users();
    let response = login(&server, "/auth", "roy", "open-sesame");
    assert_eq!((response.status, response.header("x-auth-reason")), (403, Some("unavailable")));
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("remote-user"), None);
    store.show_users(&server);
    assert_eq!(login(&server, "/auth", "roy", "open-sesame").status, 200);
}

/// P-17
#[test]
fn only_the_exact_path_is_answered() {
    let store = store();
    let server = store.serve();
    for target in ["//auth", "/auth/", "/%61uth", "/AUTH", "/auth/x", "/auth;x"] {
        assert_eq!(login(&server, target, "roy", "open-sesame").status, 404, "{target}");
    }
    let absolute = format!("http://{}/auth", server.address);
    assert_eq!(server.send(&Request::get(&absolute)).status, 401);
}

/// X-07, P-09
#[test]
fn all_refusals_are_equal() {
    let store = store();
    store.add("locked", "open-sesame");
    store.change("UPDATE users SET locked = TRUE WHERE name = 'locked'");
    let server = store.serve();
    let unknown = whole(&login(&server, "/auth", "nobody", "x"));
    for (user, password) in [("roy", "wrong"), ("locked", "open-sesame")] {
        assert_eq!(whole(&login(&server, "/auth", user, password)), unknown);
    }
    let said = "Unauthorized. Log in with a valid user name and password.\n";
    assert_eq!(login(&server, "/auth", "nobody", "x").body, said);
}

/// W-16: the path and the query of Envoy's request belong to the client.
#[test]
fn ext_authz_answers_below_its_prefix_only() {
    let store = store();
    let words = "serve --port 0 --cost 4 --trusted-proxy 127.0.0.1 --ext-authz-prefix /ext/authz";
    let mut serve = command(store.folder(), words.split(' '));
    serve.arg("--database").arg(store.database());
    let server = ServerProcess::start(serve);
    let ask = |method: &str, target: &str, user: &str| {
        let request = Request::new(method, target).basic(user, "open-sesame");
        let response = request.send(server.address);
        let name = response.header("remote-user").or(response.header("x-auth-reason"));
        (response.status, name.map(str::to_owned))
    };
    let seen = |target: &str, user: &str| {
        let (status, name) = ask("GET", target, user);
        (status, name.unwrap_or_default())
    };
    let of = |status: u16, name: &str| (status, name.to_owned());
    for target in ["/ext/authz/any/orders/7?x=1", "/ext/authz/any/", "/ext/authz/any"] {
        assert_eq!(seen(target, "ann"), of(200, "ann"), "{target}");
    }
    assert_eq!(seen("/ext/authz/group=admin/orders/7?x=1", "roy"), of(200, "roy"));
    assert_eq!(seen("/ext/authz/group=ops,staff/orders/7", "roy"), of(200, "roy"), "any of them");
    // The client chooses no group, and reaches no other route.
    for client in
        ["", "/", "/any", "/group=staff/x", "/x?group=staff", "/../any/x", "/../../../rest-auth"]
    {
        let target = format!("/ext/authz/group=ops{client}");
        assert_eq!(seen(&target, "roy"), of(403, "group"), "{target}");
    }
    for client in ["/orders/7?x=1", "/any/../../rest-auth", "", "/auth?group=ops", "/%2e%2e"] {
        assert_eq!(seen(&format!("/ext/authz/any{client}"), "ann").0, 200, "{client}");
    }
    for slip in ["/ext/authz/", "/ext/authz/orders/7", "/ext/authz//any/", "/ext/authz/group=/x"] {
        assert_eq!(seen(slip, "roy"), of(403, "misconfigured"), "{slip}");
    }
    for other in [
        "/ext/authz",
        "/ext/authzx/any/",
        "/ext%2Fauthz/any/",
        "/x/ext/authz/any",
        "/auth/x",
        "/EXT/authz/any",
    ] {
        assert_eq!(seen(other, "roy").0, 404, "{other}");
    }
    for method in ["POST", "DELETE", "OPTIONS", "PROPFIND"] {
        assert_eq!(ask(method, "/ext/authz/any/a", "roy").0, 200, "{method}");
    }
    let challenged = Request::get("/ext/authz/any/a").send(server.address);
    assert!(challenged.header("www-authenticate").is_some_and(|c| c.starts_with("Basic realm=")));
    assert_eq!(challenged.status, 401);
    let huge = Request::get("/ext/authz/any/a").header("X-Long", "x".repeat(70_000));
    assert_eq!(huge.send(server.address).header("x-auth-reason"), Some("too-long"));
    let wrong = Request::new("PUT", "/ext/authz/any/orders/7?token=x").basic("roy", "wrong");
    assert_eq!(wrong.send(server.address).status, 401);
    let said = server.stop();
    let audited = r#"outcome=denied reason=wrong-password source=127.0.0.1 user="roy" request="PUT /orders/7""#;
    assert_eq!(said.last().map(String::as_str), Some(audited), "{said:?}");
}

/// B-06: proxies keep connections open.
#[test]
fn removed_user_is_refused_on_a_kept_alive_connection() {
    let store = store();
    let server = store.serve();
    let mut connection = Connection::open(server.address);
    let roy = Request::get("/auth?group=admin").basic("roy", "open-sesame");
    assert_eq!(connection.send(&roy).status, 200);
    assert_eq!(connection.send(&roy).status, 200);
    store.change("DELETE FROM memberships WHERE \"user\" = 'roy' AND \"group\" = 'admin'");
    assert_eq!(connection.send(&roy).status, 403);
    store.remove("roy");
    assert_eq!(connection.send(&roy).status, 401);
}
