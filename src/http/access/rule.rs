//! One access rule: its text, the requests that it matches and the credentials that it requires.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::path::{PathPattern, PathSet, PatternError};
use super::rules::Requirement;
use crate::domain::{GroupName, Groups, NameError};
use crate::http::Network;

/// A rule about requests with certain methods and paths, or from a network. Methods are compared
/// exactly, so a rule for GET leaves HEAD to the rules behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessRule(RuleKind);

#[derive(Clone, PartialEq, Eq, Debug)]
enum RuleKind {
    Public(RequestPattern),
    Require(RequestPattern, Arc<[GroupName]>),
    AllowNetwork(Network),
}

/// The reason why a text is not a rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuleError {
    /// No path, or no colon before it.
    #[error("expected a path, or methods, a colon and a path, e.g. GET,HEAD:/orders/*")]
    Syntax,
    /// An empty list of methods, or an empty entry in it.
    #[error("a method is empty")]
    EmptyMethod,
    /// A method with lower-case letters. Methods are case-sensitive (RFC 9110 section 9.1).
    #[error("invalid method {0}: methods are upper case, e.g. {upper}", upper = uppercase(.0))]
    LowercaseMethod(String),
    /// A method that is not a token (RFC 9110 section 5.6.2).
    #[error("invalid method {0:?}: expected letters, e.g. GET")]
    InvalidMethod(String),
    /// A method that is named twice.
    #[error("the method {0} is named twice")]
    DuplicateMethod(String),
    /// A pattern that is malformed or can never match.
    #[error("invalid path: {0}")]
    Path(#[from] PatternError),
    /// An equals sign in a rule that takes no groups. The user may have meant another rule.
    #[error("= separates groups from the path, but a public rule takes no groups")]
    PublicGroups,
    /// An invalid group name.
    #[error("invalid group name: {0}")]
    Group(#[from] NameError),
    /// A group that is named twice.
    #[error("the group {0} is named twice")]
    DuplicateGroup(GroupName),
    /// More than [`AccessRule::MAX_GROUPS`] groups.
    #[error("it names more than {} groups", AccessRule::MAX_GROUPS)]
    TooManyGroups,
}

impl AccessRule {
    /// The maximum number of groups in a rule.
    pub const MAX_GROUPS: usize = Groups::MAX;

    /// Parses `[METHOD,...:]PATH` into a rule that admits requests without a password.
    ///
    /// # Errors
    /// Fails if the text is malformed or names groups, or if the pattern can never match.
    pub fn public(text: &str) -> Result<Self, RuleError> {
        if text.contains('=') {
            return Err(RuleError::PublicGroups);
        }
        Ok(Self(RuleKind::Public(RequestPattern::parse(text)?)))
    }

    /// Parses `[METHOD,...:]PATH[=GROUP,...]` into a rule that requires a user, or a user in one of
    /// the groups. The first equals sign ends the path.
    ///
    /// # Errors
    /// Fails if the text is malformed, or if the pattern can never match.
    pub fn require(text: &str) -> Result<Self, RuleError> {
        let (pattern, names) = match text.split_once('=') {
            Some((pattern, names)) => (pattern, Some(names)),
            None => (text, None),
        };
        let pattern = RequestPattern::parse(pattern)?;
        let groups = names.map_or(Ok(Vec::new()), parse_groups)?;
        Ok(Self(RuleKind::Require(pattern, groups.into())))
    }

    /// Makes a rule that admits requests from a network without a password.
    #[must_use]
    pub fn allow_network(network: Network) -> Self {
        Self(RuleKind::AllowNetwork(network))
    }

    pub(super) fn requirement(&self) -> Requirement<'_> {
        match &self.0 {
            RuleKind::Public(_) | RuleKind::AllowNetwork(_) => Requirement::Nothing,
            RuleKind::Require(_, groups) if groups.is_empty() => Requirement::User,
            RuleKind::Require(_, groups) => Requirement::Group(groups),
        }
    }

    fn pattern(&self) -> Option<&RequestPattern> {
        match &self.0 {
            RuleKind::Public(pattern) | RuleKind::Require(pattern, _) => Some(pattern),
            RuleKind::AllowNetwork(_) => None,
        }
    }

    pub(super) fn names_methods(&self) -> bool {
        self.pattern().is_some_and(|pattern| !pattern.methods.is_empty())
    }

    /// Returns the groups that the rule names.
    #[must_use]
    pub fn groups(&self) -> &[GroupName] {
        match &self.0 {
            RuleKind::Require(_, groups) => groups,
            RuleKind::Public(_) | RuleKind::AllowNetwork(_) => &[],
        }
    }

    pub(super) fn matches(&self, method: &str, decoded: &str, source: IpAddr) -> bool {
        match &self.0 {
            RuleKind::Public(pattern) | RuleKind::Require(pattern, _) => {
                pattern.has_method(|own| own == method) && pattern.path.matches(decoded)
            }
            RuleKind::AllowNetwork(network) => network.contains(source),
        }
    }

    /// Returns true if the rule matches without regard to the case of the method, letter case of
    /// the path and a trailing slash. Some upstreams convert methods to upper case.
    pub(super) fn matches_folded(&self, method: &str, folded: &str) -> bool {
        self.pattern().is_some_and(|pattern| {
            let has_method = pattern.has_method(|own| own.eq_ignore_ascii_case(method));
            has_method && pattern.path.matches_folded(folded)
        })
    }

    /// Returns true if the rule matches all requests with this method, or with any method, for
    /// these paths from this network.
    fn covers(&self, method: Option<&str>, paths: &PathSet, sources: &Network) -> bool {
        match &self.0 {
            RuleKind::Public(pattern) | RuleKind::Require(pattern, _) => {
                pattern.has_method(|own| Some(own) == method) && pattern.path.paths().covers(paths)
            }
            RuleKind::AllowNetwork(network) => network.covers(*sources),
        }
    }

    /// Returns the earlier rules that together match all requests which this rule matches.
    pub(super) fn shadowed_by<'a>(&self, earlier: &'a [Self]) -> Option<Vec<&'a Self>> {
        let methods = self.pattern().map_or_else(|| vec![None], RequestPattern::methods_or_any);
        let mut found: Vec<&Self> = Vec::new();
        for method in methods {
            for rule in self.shadowed_with(method, earlier)? {
                if !found.contains(&rule) {
                    found.push(rule);
                }
            }
        }
        Some(found)
    }

    /// Returns the earlier rules that together match all requests with this method, or with any
    /// method, which this rule matches.
    fn shadowed_with<'a>(
        &self,
        method: Option<&str>,
        earlier: &'a [Self],
    ) -> Option<Vec<&'a Self>> {
        let all = PathSet::all();
        let paths = self.pattern().map_or(&all, |pattern| pattern.path.paths());
        let sources = match self.0 {
            RuleKind::AllowNetwork(network) => vec![network],
            // No network holds both families.
            _ => {
                vec![Network::all_v4(), Network::all_v6()]
            }
        };
        let covering = |source| earlier.iter().find(|rule| rule.covers(method, paths, source));
        sources.iter().map(covering).collect()
    }

    /// Returns an earlier rule with another requirement that matches requests for this rule after
    /// folding. These requests are refused, unless yet another rule decides them.
    pub(super) fn ambiguous_with<'a>(&self, earlier: &'a [Self]) -> Option<&'a Self> {
        let own = self.pattern()?;
        earlier.iter().find(|rule| {
            let decides = |method| self.shadowed_with(method, earlier).is_none();
            !rule.requirement().is_equivalent(self.requirement())
                && rule.pattern().is_some_and(|other| {
                    other.path.covers_folded(&own.path)
                        && own.shared_methods(other).into_iter().any(decides)
                })
        })
    }
}

/// Parses group names. An empty list is an empty name.
fn parse_groups(names: &str) -> Result<Vec<GroupName>, RuleError> {
    let mut groups = Vec::new();
    for name in names.split(',') {
        let group = GroupName::parse(name)?;
        if groups.contains(&group) {
            return Err(RuleError::DuplicateGroup(group));
        }
        if groups.len() == AccessRule::MAX_GROUPS {
            return Err(RuleError::TooManyGroups);
        }
        groups.push(group);
    }
    Ok(groups)
}

impl fmt::Display for AccessRule {
    /// Writes the rule as an option of the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            RuleKind::Public(pattern) => write!(f, "--public {pattern}"),
            RuleKind::Require(pattern, groups) => {
                write!(f, "--require {pattern}")?;
                for (index, group) in groups.iter().enumerate() {
                    write!(f, "{}{group}", if index == 0 { '=' } else { ',' })?;
                }
                Ok(())
            }
            RuleKind::AllowNetwork(network) => write!(f, "--allow-network {network}"),
        }
    }
}

/// The methods and the paths of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RequestPattern {
    /// Empty for all methods.
    methods: Vec<String>,
    path: PathPattern,
}

impl RequestPattern {
    /// Parses `[METHOD,...:]PATH`. The path begins at the first slash and may hold colons.
    fn parse(text: &str) -> Result<Self, RuleError> {
        let slash = text.find('/').ok_or(RuleError::Syntax)?;
        let (methods, path) = text.split_at_checked(slash).ok_or(RuleError::Syntax)?;
        let methods = match methods.strip_suffix(':') {
            Some(methods) => parse_methods(methods)?,
            None if methods.is_empty() => Vec::new(),
            None => return Err(RuleError::Syntax),
        };
        Ok(Self { methods, path: PathPattern::parse(path)? })
    }

    fn has_method(&self, is_equal: impl Fn(&str) -> bool) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|own| is_equal(own))
    }

    /// Returns the methods, or `None` for any method.
    fn methods_or_any(&self) -> Vec<Option<&str>> {
        match self.methods.as_slice() {
            [] => vec![None],
            methods => methods.iter().map(|method| Some(method.as_str())).collect(),
        }
    }

    fn shared_methods<'a>(&'a self, other: &'a Self) -> Vec<Option<&'a str>> {
        let (narrow, wide) = if self.methods.is_empty() { (other, self) } else { (self, other) };
        let mut shared = narrow.methods_or_any();
        shared.retain(|&method| wide.has_method(|own| Some(own) == method));
        shared
    }
}

fn uppercase(method: &str) -> String {
    method.to_ascii_uppercase()
}

/// Parses a list of methods. An empty list is an empty method.
fn parse_methods(names: &str) -> Result<Vec<String>, RuleError> {
    let mut methods = Vec::new();
    for name in names.split(',') {
        let method = name.to_owned();
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if method.is_empty() {
            return Err(RuleError::EmptyMethod);
        }
        if !method.chars().all(is_token) {
            return Err(RuleError::InvalidMethod(method));
        }
        if method.contains(|c: char| c.is_ascii_lowercase()) {
            return Err(RuleError::LowercaseMethod(method));
        }
        if methods.contains(&method) {
            return Err(RuleError::DuplicateMethod(method));
        }
        methods.push(method);
    }
    Ok(methods)
}

impl fmt::Display for RequestPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.methods.is_empty() { "" } else { ":" };
        write!(f, "{}{colon}{}", self.methods.join(","), self.path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rule_is_displayed_as_its_option() {
        for text in [
            "/",
            "/*",
            "/a",
            "/a/",
            "/a b/\u{e9}/*",
            "/a:b",
            "GET:/a",
            "GET:/a:b/c:/d",
            "GET,HEAD,M-SEARCH:/orders/*",
        ] {
            let public = AccessRule::public(text).unwrap();
            assert_eq!(public.to_string(), format!("--public {text}"));
            for groups in ["", "=a", "=b,a", "=a=b/c"] {
                let text = format!("{text}{groups}");
                let rule = AccessRule::require(&text).unwrap();
                assert_eq!(rule.to_string(), format!("--require {text}"));
            }
        }
        for network in ["10.0.0.0/8", "::/0"] {
            let rule = AccessRule::allow_network(network.parse().unwrap());
            assert_eq!(rule.to_string(), format!("--allow-network {network}"));
        }
    }

    #[test]
    fn colon_before_the_first_slash_ends_the_methods() {
        let rule = AccessRule::public("GET:/a:b").unwrap();
        let source = [192, 0, 2, 1].into();
        assert!(rule.matches("GET", "/a:b", source));
        assert!(!rule.matches("POST", "/a:b", source));
        assert!(!rule.matches("get", "/a:b", source));
        assert!(AccessRule::public("/GET:/b").unwrap().matches("POST", "/GET:/b", source));
    }

    #[test]
    fn malformed_rule_is_refused_with_its_reason() {
        let text = str::to_owned;
        for (rule, error) in [
            ("", RuleError::Syntax),
            ("a", RuleError::Syntax),
            ("GET", RuleError::Syntax),
            ("GET:", RuleError::Syntax),
            ("GET:a", RuleError::Syntax),
            ("a/b", RuleError::Syntax),
            ("GET/a", RuleError::Syntax),
            ("GET: /a", RuleError::Syntax),
            ("*", RuleError::Syntax),
            (":/a", RuleError::EmptyMethod),
            (",:/a", RuleError::EmptyMethod),
            ("GET,:/a", RuleError::EmptyMethod),
            (",GET:/a", RuleError::EmptyMethod),
            ("get:/a", RuleError::LowercaseMethod(text("get"))),
            ("GET,Head:/a", RuleError::LowercaseMethod(text("Head"))),
            ("http://a", RuleError::LowercaseMethod(text("http"))),
            ("GET HEAD:/a", RuleError::InvalidMethod(text("GET HEAD"))),
            ("GET, HEAD:/a", RuleError::InvalidMethod(text(" HEAD"))),
            ("G\u{c9}T:/a", RuleError::InvalidMethod(text("G\u{c9}T"))),
            ("GET::/a", RuleError::InvalidMethod(text("GET:"))),
            ("GET\0:/a", RuleError::InvalidMethod(text("GET\0"))),
            ("GET,HEAD,GET:/a", RuleError::DuplicateMethod(text("GET"))),
            ("/a*", RuleError::Path(PatternError::Wildcard)),
            ("GET:/a/../b", RuleError::Path(PatternError::DotSegment)),
            ("GET://a", RuleError::Path(PatternError::DoubleSlash)),
        ] {
            assert_eq!(AccessRule::public(rule), Err(error.clone()), "{rule:?}");
            assert_eq!(AccessRule::require(rule), Err(error), "{rule:?}");
        }
    }

    #[test]
    fn invalid_groups_are_refused() {
        for (rule, error) in [
            ("/a=", RuleError::Group(NameError::Empty)),
            ("/a=,", RuleError::Group(NameError::Empty)),
            ("/a=b,", RuleError::Group(NameError::Empty)),
            ("/a=b,,c", RuleError::Group(NameError::Empty)),
            ("/a=b c", RuleError::Group(NameError::Character(0x20))),
            ("=a", RuleError::Syntax),
        ] {
            assert_eq!(AccessRule::require(rule), Err(error), "{rule}");
        }
        let duplicate = AccessRule::require("/a=b,c,b");
        assert!(
            matches!(duplicate, Err(RuleError::DuplicateGroup(group)) if group.to_string() == "b")
        );
        for rule in ["/a=b", "/a=", "/a/=b/*", "GET=a:/b"] {
            assert_eq!(AccessRule::public(rule), Err(RuleError::PublicGroups), "{rule}");
        }
        let names: Vec<_> = (0..=AccessRule::MAX_GROUPS).map(|index| format!("g{index}")).collect();
        let rule = |names: &[String]| AccessRule::require(&format!("/a={}", names.join(",")));
        assert_eq!(rule(&names), Err(RuleError::TooManyGroups));
        assert!(rule(names.split_last().unwrap().1).is_ok());
    }

    #[test]
    fn messages_say_what_to_write() {
        for (rule, message) in [
            ("get:/a", "invalid method get: methods are upper case, e.g. GET"),
            ("G T:/a", "invalid method \"G T\": expected letters, e.g. GET"),
            (
                "/caf%C3%A9",
                "invalid path: it holds %, but patterns are written decoded, e.g. /caf\u{e9} for \
                 /caf%C3%A9",
            ),
            (
                "/a;b",
                "invalid path: it can never match, because requests with ';' in the path \
                 are refused",
            ),
            ("/a=b,", "invalid group name: it is empty"),
        ] {
            assert_eq!(AccessRule::require(rule).unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn displayed_rule_is_parsed_back(
            methods in "((GET|HEAD|PUT)(,POST)?:)?",
            path in "/([a-z: \u{e9}]{0,3}/?){0,3}(/\\*)?",
            groups in "(=[a-z=/]{1,3}(,[0-9])?)?",
        ) {
            let text = format!("{methods}{path}{groups}");
            if let Ok(rule) = AccessRule::require(&text) {
                let displayed = rule.to_string();
                prop_assert_eq!(displayed.strip_prefix("--require "), Some(text.as_str()));
                prop_assert_eq!(AccessRule::require(&text), Ok(rule));
            }
            if let Ok(rule) = AccessRule::public(&text) {
                prop_assert_eq!(rule.to_string(), format!("--public {text}"));
            }
        }
    }
}
