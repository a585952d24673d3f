//! The environment variables with our prefix, which set something or were meant to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::similar;

const PREFIX: &str = "RESTTOOL_";

/// The variables of this program.
#[derive(Debug)]
pub(crate) struct Environment {
    /// The names and values with our prefix.
    variables: Vec<(String, String)>,
}

/// A variable that no setting has.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct UnknownVariable {
    pub(crate) name: String,
    /// The variable that was probably meant.
    pub(crate) similar: Option<String>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn read() -> Self {
        let variables = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        Self::new(variables)
    }

    fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX));
        Self { variables: ours.collect() }
    }

    /// Returns true if Kubernetes has set this variable for a Service, and not a user for a setting.
    pub(crate) fn is_service_link(&self, name: &str) -> bool {
        self.variables.iter().filter(|(_, value)| is_service_url(value)).any(|(link, _)| {
            let suffix = service_of(link).and_then(|service| name.strip_prefix(service));
            // Beside another link, a `..._PORT` without an address is a setting.
            suffix.is_some_and(|suffix| match suffix {
                "_PORT" => name == link,
                suffix => is_suffix_of_service_link(suffix),
            })
        })
    }

    /// Returns a variable that is neither in `known` nor a service link.
    pub(crate) fn unknown(&self, known: &BTreeSet<String>) -> Option<UnknownVariable> {
        let names = self.variables.iter().map(|(name, _)| name);
        let name =
            names.into_iter().find(|name| !known.contains(*name) && !self.is_service_link(name))?;
        let bare = |name| str::strip_prefix(name, PREFIX).unwrap_or(name);
        let similar = similar(bare(name), known.iter().map(|name| bare(name)));
        let similar = similar.map(|name| format!("{PREFIX}{name}"));
        Some(UnknownVariable { name: name.clone(), similar })
    }
}

/// Returns the name of a Service from a variable with its address: `..._PORT`, or e.g.
/// `..._PORT_80_TCP`, which stays if a setting takes the place of the first.
fn service_of(variable: &str) -> Option<&str> {
    variable.strip_suffix("_PORT").or_else(|| {
        let (service, suffix) = variable.rsplit_once("_PORT_")?;
        is_port_and_protocol(suffix).then_some(service)
    })
}

/// Returns true for e.g. `80_TCP`.
fn is_port_and_protocol(text: &str) -> bool {
    let is_protocol = |text: &str| ["TCP", "UDP", "SCTP"].contains(&text);
    let parts = text.split_once('_');
    parts.is_some_and(|(port, name)| port.parse::<u16>().is_ok() && is_protocol(name))
}

/// Returns true for the address of a Service, e.g. `tcp://10.0.0.1:80` or `tcp://[fd00::1]:80`.
fn is_service_url(value: &str) -> bool {
    let address = ["tcp://", "udp://", "sctp://"].iter().find_map(|s| value.strip_prefix(s));
    let Some((host, port)) = address.and_then(|address| address.rsplit_once(':')) else {
        return false;
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_ok()
}

/// Returns true for what Kubernetes appends to the name of a Service, besides `_PORT`.
fn is_suffix_of_service_link(suffix: &str) -> bool {
    if ["_SERVICE_HOST", "_SERVICE_PORT"].contains(&suffix) {
        return true;
    }
    if let Some(port_name) = suffix.strip_prefix("_SERVICE_PORT_") {
        return !port_name.is_empty();
    }
    // _PORT_80_TCP, and with _PROTO, _PORT or _ADDR.
    let Some(rest) = suffix.strip_prefix("_PORT_") else { return false };
    let ends = ["_PROTO", "_PORT", "_ADDR"];
    let rest = ends.iter().find_map(|end| rest.strip_suffix(end)).unwrap_or(rest);
    is_port_and_protocol(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    fn known() -> BTreeSet<String> {
        ["RESTTOOL_PORT", "RESTTOOL_COST", "RESTTOOL_HOST"].map(str::to_owned).into()
    }

    fn unknown(variables: &[(&str, &str)]) -> Option<String> {
        environment(variables).unknown(&known()).map(|unknown| unknown.name)
    }

    /// W-11
    #[test]
    fn variables_of_a_service_link_are_ignored() {
        let link = [
            ("RESTTOOL_SERVICE_HOST", "10.0.0.1"),
            ("RESTTOOL_SERVICE_PORT", "80"),
            ("RESTTOOL_SERVICE_PORT_HTTP", "80"),
            ("RESTTOOL_PORT", "tcp://10.0.0.1:80"),
            ("RESTTOOL_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("RESTTOOL_PORT_80_TCP_PROTO", "tcp"),
            ("RESTTOOL_PORT_80_TCP_PORT", "80"),
            ("RESTTOOL_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("RESTTOOL_GATE_PORT", "udp://[fd00::1]:53"),
            ("RESTTOOL_GATE_SERVICE_HOST", "fd00::1"),
            ("HOME", "/"),
        ];
        assert_eq!(unknown(&link), None);
        for (name, _) in &link[..10] {
            assert!(environment(&link).is_service_link(name), "{name}");
        }
        assert!(!environment(&link).is_service_link("RESTTOOL_COST"));
        // A Deployment that sets the port itself replaces one of them.
        let mut link = link;
        link[3].1 = "5000";
        assert_eq!(unknown(&link), None);
        assert!(!environment(&link).is_service_link("RESTTOOL_PORT"));
        assert!(!environment(&[("RESTTOOL_PORT", "5000")]).is_service_link("RESTTOOL_PORT"));
    }

    /// W-11: only those that belong to a link.
    #[test]
    fn variables_that_only_look_like_a_service_link_are_unknown() {
        for alone in [
            [("RESTTOOL_SERVICE_PORT", "5000")],
            [("RESTTOOL_SERVICE_HOST", "10.0.0.1")],
            [("RESTTOOL_GATE_PORT", "5000")],
            [("RESTTOOL_GATE_PORT", "http://10.0.0.1:80")],
            [("RESTTOOL_GATE_PORT", "tcp://10.0.0.1")],
        ] {
            assert_eq!(unknown(&alone).as_deref(), Some(alone[0].0));
        }
        for other in ["RESTTOOL_SERVICE_NAME", "RESTTOOL_PORT_80", "RESTTOOL_PORT_X_TCP"] {
            let variables = [("RESTTOOL_PORT", "tcp://10.0.0.1:80"), (other, "x")];
            assert_eq!(unknown(&variables).as_deref(), Some(other));
        }
    }

    #[test]
    fn similar_variable_is_suggested() {
        let similar = |name| environment(&[(name, "x")]).unknown(&known()).unwrap().similar;
        assert_eq!(similar("RESTTOOL_COTS").as_deref(), Some("RESTTOOL_COST"));
        assert_eq!(similar("RESTTOOL_XYLOPHONES"), None);
    }
}
