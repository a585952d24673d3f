//! Configurations of other programs, with our settings filled in. They stand in `snippets/`, as they are printed but for what stands in
//! double braces.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::args::{self, Snippet};
use super::exit::{Exit, Failure, print as print_line};

pub(super) fn print(args: &args::Print) -> Result<(), Failure> {
    let template = match args.snippet {
        Snippet::Nginx => include_str!("snippets/nginx.conf"),
        Snippet::Caddy => include_str!("snippets/Caddyfile"),
        Snippet::Traefik => include_str!("snippets/traefik.yml"),
        Snippet::Haproxy => include_str!("snippets/haproxy.cfg"),
        Snippet::Systemd => include_str!("snippets/resttool.service"),
        Snippet::Compose => include_str!("snippets/compose.yml"),
        Snippet::Fail2ban => include_str!("snippets/fail2ban.conf"),
    };
    let args::Address { host, port } = &args.address;
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:".contains(c)) {
        return Err(Failure::new(Exit::Usage, "--host can't stand in a configuration as it is"));
    }
    let gate =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    // No character is left that means something to one of these formats.
    let groups = args
        .group
        .iter()
        .map(|group| format!("group={}", utf8_percent_encode(group.as_str(), NON_ALPHANUMERIC)));
    let groups = groups.collect::<Vec<_>>().join("&");
    let query = if groups.is_empty() { String::new() } else { format!("?{groups}") };
    // It was held against the form of an authority.
    let (listen_host, listen_port) = args.listen.rsplit_once(':').unwrap_or_default();
    let mut text = template.trim_end().to_owned();
    for (name, value) in [
        ("gate", gate.as_str()),
        ("host", host.as_str()),
        ("port", port.to_string().as_str()),
        ("upstream", args.upstream.as_str()),
        ("listen", args.listen.as_str()),
        ("listen_host", listen_host.trim_matches(['[', ']'])),
        ("listen_port", listen_port),
        ("groups", groups.as_str()),
        ("query", query.as_str()),
    ] {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    print_line(&text)
}
