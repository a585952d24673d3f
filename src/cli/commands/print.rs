//! `resttool print`. The configurations of other programs come from `snippets/`, with names in
//! double braces replaced.

use clap::{Args, ValueEnum};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::cli::exit::{Exit, Failure, print_list};
use crate::cli::options::group_name;
use crate::cli::{definition, settings_file};
use crate::config::ListenSettings;
use crate::domain::GroupName;
use crate::store::Location;

/// The address of an API that is a Service of Kubernetes.
const SERVICE: &str = "api:8000";

/// Print a configuration that runs resttool or puts it in front of an API
#[derive(Args, Debug)]
#[command(after_long_help = "--host and --port name the address of resttool, as for serve.
--upstream is api:8000 by default for kubernetes-sqlite and kubernetes-postgres.

Examples:
  resttool print nginx --upstream 127.0.0.1:8000
  resttool print caddy --group admin,staff   any of these groups
  resttool print systemd --port 5000 >resttool.service
  resttool print kubernetes-sqlite --upstream orders:8080 >resttool.yaml
  resttool print config >resttool.toml   all settings of serve, for serve --config")]
pub(in crate::cli) struct Print {
    /// The program to print a configuration for
    snippet: Snippet,

    #[command(flatten)]
    address: ListenSettings,

    /// Forward requests to the API at this address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8000",
        default_value_ifs = [
            ("snippet", "kubernetes-sqlite", SERVICE),
            ("snippet", "kubernetes-postgres", SERVICE),
        ],
        value_parser = authority
    )]
    upstream: String,

    /// Let the proxy listen on this address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        value_parser = authority
    )]
    listen: String,

    /// Admit only users in one of these groups; may be repeated, or separated by commas
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = group_name)]
    group: Vec<GroupName>,
}

/// A program to print a configuration for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Snippet {
    /// The settings of serve, with their defaults and their help
    Config,
    /// A server block
    Nginx,
    /// A Caddyfile
    Caddy,
    /// A file for Traefik's file provider
    Traefik,
    /// A frontend with the Lua script that it needs
    Haproxy,
    /// A whole configuration, with the filter ext_authz
    Envoy,
    /// A route of the Kubernetes Gateway API
    GatewayApi,
    /// A service unit
    Systemd,
    /// A socket unit, so that a restart of the service loses no connection
    SystemdSocket,
    /// A compose.yml for Docker Compose, with resttool in front of an API
    Compose,
    /// A Deployment with resttool as a sidecar in front of an API, and its Service
    Kubernetes,
    /// A Deployment of one gate in front of a Service, with its users on a volume
    KubernetesSqlite,
    /// A Deployment of three gates in front of a Service, with their users in PostgreSQL
    KubernetesPostgres,
    /// A filter with its jail
    Fail2ban,
}

/// Parses a host and a port that need no quoting in any configuration.
fn authority(text: &str) -> Result<String, String> {
    let fit = |host: &str| {
        let fit = |c: char| c.is_ascii_alphanumeric() || ".-_[]:".contains(c);
        !host.is_empty() && host.chars().all(fit)
    };
    match text.rsplit_once(':') {
        Some((host, port)) if fit(host) && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("expected a host and a port, e.g. 127.0.0.1:8000".to_owned()),
    }
}

impl Print {
    pub(super) fn describe(&self) -> String {
        "print a configuration".to_owned()
    }

    pub(super) fn run(&self, _: &Location) -> Result<(), Failure> {
        self.configuration().and_then(|text| print_list(&text))
    }

    fn configuration(&self) -> Result<String, Failure> {
        let template = match self.snippet {
            Snippet::Config => {
                return Ok(settings_file::template(&definition()).trim_end().to_owned());
            }
            Snippet::Nginx => include_str!("snippets/nginx.conf"),
            Snippet::Caddy => include_str!("snippets/Caddyfile"),
            Snippet::Traefik => include_str!("snippets/traefik.yml"),
            Snippet::Haproxy => include_str!("snippets/haproxy.cfg"),
            Snippet::Envoy => include_str!("snippets/envoy.yaml"),
            Snippet::GatewayApi => include_str!("snippets/gateway-api.yaml"),
            Snippet::Systemd => include_str!("snippets/resttool.service"),
            Snippet::SystemdSocket => include_str!("snippets/resttool.socket"),
            Snippet::Compose => include_str!("snippets/compose.yml"),
            Snippet::Kubernetes => include_str!("snippets/kubernetes.yaml"),
            Snippet::KubernetesSqlite => include_str!("snippets/kubernetes-sqlite.yaml"),
            Snippet::KubernetesPostgres => include_str!("snippets/kubernetes-postgres.yaml"),
            Snippet::Fail2ban => include_str!("snippets/fail2ban.conf"),
        };
        let ListenSettings { host, port } = &self.address;
        if !host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:".contains(c)) {
            return Err(Failure::new(
                Exit::Usage,
                "--host can't stand in a configuration as it is",
            ));
        }
        let gate =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        // No character is left with a meaning in one of these formats.
        let names = self
            .group
            .iter()
            .map(|group| utf8_percent_encode(group.as_str(), NON_ALPHANUMERIC).to_string());
        let names: Vec<_> = names.collect();
        let groups = names.iter().map(|name| format!("group={name}")).collect::<Vec<_>>().join("&");
        let (query, requirement) = if names.is_empty() {
            (String::new(), "any".to_owned())
        } else {
            (format!("?{groups}"), format!("group={}", names.join(",")))
        };
        // They were checked by `authority`.
        let (listen_host, listen_port) = self.listen.rsplit_once(':').unwrap_or_default();
        let (upstream_host, upstream_port) = self.upstream.rsplit_once(':').unwrap_or_default();
        let mut text = template.trim_end().to_owned();
        for (name, value) in [
            ("gate", gate.as_str()),
            ("host", host.as_str()),
            ("port", port.to_string().as_str()),
            ("upstream", self.upstream.as_str()),
            ("listen", self.listen.as_str()),
            ("listen_host", listen_host.trim_matches(['[', ']'])),
            ("listen_port", listen_port),
            ("groups", groups.as_str()),
            ("query", query.as_str()),
            ("requirement", requirement.as_str()),
            ("upstream_host", upstream_host.trim_matches(['[', ']'])),
            ("upstream_port", upstream_port),
        ] {
            text = text.replace(&format!("{{{{{name}}}}}"), value);
        }
        Ok(text)
    }
}
