//! Access rules: which requests need a password, and which need a group.
//!
//! Rules stand in one ordered list, and the first rule that matches a request decides. Without a
//! match, any authenticated user is admitted. A request is refused if its path has more than one
//! reading, because the upstream could serve a resource that another rule protects.

use std::net::IpAddr;
use std::sync::Arc;

use super::path::{self, Ambiguity, AmbiguousPath};
use super::rule::AccessRule;
use crate::domain::GroupName;

/// The credentials that a request needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requirement<'a> {
    /// No password.
    Nothing,
    /// The password of any user.
    User,
    /// The password of a user in one of these groups.
    Group(&'a Arc<[GroupName]>),
}

impl Requirement<'_> {
    /// Returns true if both admit the same users. The order of groups has no effect.
    pub(super) fn is_equivalent(self, other: Requirement<'_>) -> bool {
        match (self, other) {
            // Neither list has duplicates.
            (Requirement::Group(own), Requirement::Group(other)) => {
                own.len() == other.len() && own.iter().all(|group| other.contains(group))
            }
            _ => self == other,
        }
    }
}

/// The reason why rules cannot stand in one list.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RulesError {
    /// A rule that never decides.
    #[error(transparent)]
    Shadowed(#[from] ShadowedRule),
    /// A rule whose requests are refused.
    #[error(transparent)]
    Ambiguous(#[from] AmbiguousRule),
}

/// An error: earlier rules match all requests that a rule matches.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rule} can never match: {earlier} the same requests")]
pub struct ShadowedRule {
    rule: String,
    earlier: String,
}

/// An error: an earlier rule with another requirement has an equal pattern, apart from letter case
/// or a trailing slash. Requests for the later rule would be refused with [`Ambiguity::Folding`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{rule} is ambiguous: {earlier} before it matches the same requests up to letter case or a \
     trailing slash"
)]
pub struct AmbiguousRule {
    rule: String,
    earlier: String,
}

/// An ordered list of rules.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccessRules(Vec<AccessRule>);

impl AccessRules {
    /// Makes a list of these rules. The first rule that matches a request decides.
    ///
    /// # Errors
    /// Fails if a rule can never decide, which is a mistake in the order of rules.
    pub fn new(rules: Vec<AccessRule>) -> Result<Self, RulesError> {
        for (index, rule) in rules.iter().enumerate() {
            let earlier = rules.get(..index).unwrap_or_default();
            if let Some(shadows) = rule.shadowed_by(earlier) {
                return Err(ShadowedRule::new(rule, &shadows).into());
            }
            if let Some(earlier) = rule.ambiguous_with(earlier) {
                let (rule, earlier) = (rule.to_string(), earlier.to_string());
                return Err(AmbiguousRule { rule, earlier }.into());
            }
        }
        Ok(Self(rules))
    }

    /// Returns true if there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if a rule names methods.
    #[must_use]
    pub fn names_methods(&self) -> bool {
        self.0.iter().any(AccessRule::names_methods)
    }

    /// Returns the groups of all rules. A group appears once for each rule that names it.
    pub fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.0.iter().flat_map(AccessRule::groups)
    }

    /// Returns the credentials that a request needs. `path` is the path of the request target as
    /// received, without the query. Without rules the path is not checked.
    ///
    /// Many upstreams ignore letter case and a trailing slash. Hence all rules that match in this
    /// way must agree with the deciding rule, unless they stand behind it.
    ///
    /// # Errors
    /// Fails if the upstream may read the path differently, before any rule is applied.
    pub fn requirement(
        &self,
        method: &str,
        path: &str,
        source: IpAddr,
    ) -> Result<Requirement<'_>, AmbiguousPath> {
        if self.is_empty() {
            return Ok(Requirement::User);
        }
        let decoded = path::decode(path)?;
        let folded = path::fold(&decoded);
        let deciding = self.0.iter().position(|rule| rule.matches(method, &decoded, source));
        let deciding = deciding.unwrap_or(self.0.len());
        let requirement = self.0.get(deciding).map_or(Requirement::User, AccessRule::requirement);
        let mut similar =
            self.0.iter().take(deciding).filter(|rule| rule.matches_folded(method, &folded));
        if similar.all(|rule| rule.requirement().is_equivalent(requirement)) {
            Ok(requirement)
        } else {
            Err(AmbiguousPath(Ambiguity::Folding))
        }
    }
}

impl ShadowedRule {
    fn new(rule: &AccessRule, shadows: &[&AccessRule]) -> Self {
        let names: Vec<_> = shadows.iter().map(ToString::to_string).collect();
        let verb = if names.len() == 1 { "matches" } else { "match" };
        let earlier = format!("{} before it {verb}", names.join(" and "));
        Self { rule: rule.to_string(), earlier }
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    /// Parses rules as they are displayed, e.g. `--public /a`.
    fn parse(flags: &[&str]) -> Vec<AccessRule> {
        let rule = |flag: &&str| match flag.split_once(' ').unwrap() {
            ("--public", text) => AccessRule::public(text).unwrap(),
            ("--require", text) => AccessRule::require(text).unwrap(),
            ("--allow-network", text) => AccessRule::allow_network(text.parse().unwrap()),
            (other, _) => panic!("{other}"),
        };
        flags.iter().map(rule).collect()
    }

    fn rules(flags: &[&str]) -> AccessRules {
        AccessRules::new(parse(flags)).unwrap()
    }

    fn describe(requirement: Result<Requirement<'_>, AmbiguousPath>) -> String {
        match requirement {
            Ok(Requirement::Nothing) => "nothing".to_owned(),
            Ok(Requirement::User) => "user".to_owned(),
            Ok(Requirement::Group(groups)) => {
                groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            Err(AmbiguousPath(Ambiguity::Folding)) => "folding".to_owned(),
            Err(AmbiguousPath(_)) => "refused".to_owned(),
        }
    }

    fn decide(rules: &AccessRules, method: &str, path: &str) -> String {
        describe(rules.requirement(method, path, "192.0.2.1".parse().unwrap()))
    }

    #[test]
    fn without_rules_any_user_is_admitted_to_any_path() {
        let none = AccessRules::default();
        for path in ["/", "*", "", "//a/../b", "/%00", "/a;b", "\u{e9}"] {
            assert_eq!(decide(&none, "GET", path), "user", "{path:?}");
        }
        assert!(none.is_empty() && !none.names_methods());
        assert!(!rules(&["--public /a"]).is_empty());
    }

    #[test]
    fn ambiguous_path_is_refused_with_any_rule() {
        for flag in ["--public /*", "--require /a", "--allow-network 0.0.0.0/0"] {
            let rules = rules(&[flag]);
            for path in [
                "*",
                "",
                "a",
                "/a%2Fb",
                "/a%5cb",
                "/a\\b",
                "/../a",
                "/%2e%2e/a",
                "/..;/a",
                "//a",
                "/a;b",
                "/a%3bb",
                "/%2561",
                "/%",
                "/%zz",
                "/%3f",
                "/%23",
                "/#",
                "/%00",
                "/\0",
                "/%7f",
                "/\u{e9}",
                "/%c0%af",
                "/a b",
            ] {
                assert_eq!(decide(&rules, "GET", path), "refused", "{flag} {path:?}");
            }
        }
    }

    #[test]
    fn first_rule_that_matches_decides() {
        let rules = rules(&[
            "--require /docs/internal/*=staff",
            "--public /docs/*",
            "--require DELETE:/orders/*=admins",
            "--public GET,HEAD:/orders/catalog",
            "--require /orders/*=readers,admins",
            "--public /caf\u{e9}",
        ]);
        for (method, path, expected) in [
            ("GET", "/docs", "nothing"),
            ("POST", "/docs/a", "nothing"),
            ("GET", "/docs/internal", "staff"),
            ("GET", "/docs/internal/a", "staff"),
            ("GET", "/docs/internals", "nothing"),
            ("GET", "/docsx", "user"),
            ("GET", "/", "user"),
            ("DELETE", "/orders/catalog", "admins"),
            ("GET", "/orders/catalog", "nothing"),
            ("HEAD", "/orders/catalog", "nothing"),
            ("POST", "/orders/catalog", "readers,admins"),
            ("PURGE", "/orders/", "readers,admins"),
            ("GET", "/%6frders/%31", "readers,admins"),
            ("GET", "/%64ocs/%69nternal", "staff"),
            ("GET", "/caf%C3%A9", "nothing"),
        ] {
            assert_eq!(decide(&rules, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn network_rule_stands_in_the_same_order() {
        let rules =
            rules(&["--require /admin/*=admins", "--allow-network 10.0.0.0/8", "--require /b=b"]);
        for (source, path, expected) in [
            ("10.1.2.3", "/a", "nothing"),
            ("10.1.2.3", "/b", "nothing"),
            ("::ffff:10.1.2.3", "/a", "nothing"),
            ("10.1.2.3", "/admin/a", "admins"),
            ("10.1.2.3", "/ADMIN/a", "folding"),
            ("192.0.2.1", "/a", "user"),
            ("192.0.2.1", "/b", "b"),
            ("2001:db8::1", "/b", "b"),
        ] {
            let requirement = rules.requirement("GET", path, source.parse().unwrap());
            assert_eq!(describe(requirement), expected, "{source} {path}");
        }
    }

    #[test]
    fn path_is_refused_if_folding_selects_another_rule() {
        let rules = rules(&[
            "--require DELETE:/orders/*=admins",
            "--public /health",
            "--require /admin/*=admins",
            "--public /Files/",
            "--require /caf\u{e9}/*=staff",
            "--public /*",
        ]);
        for (method, path, expected) in [
            ("GET", "/health", "nothing"),
            ("GET", "/Health", "nothing"),
            ("GET", "/admin", "admins"),
            ("GET", "/admin/", "admins"),
            ("GET", "/Admin", "folding"),
            ("GET", "/ADMIN/x", "folding"),
            ("GET", "/%41dmin/x", "folding"),
            ("GET", "/adm\u{131}n", "refused"),
            ("GET", "/adm%C4%B1n", "folding"),
            ("GET", "/admin/X", "admins"),
            ("GET", "/CAF%C3%89/x", "folding"),
            ("GET", "/caf%C3%A9/X", "staff"),
            ("DELETE", "/orders/1", "admins"),
            ("delete", "/orders/1", "folding"),
            ("GET", "/Orders/1", "nothing"),
            ("DELETE", "/Orders/1", "folding"),
        ] {
            assert_eq!(decide(&rules, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn path_without_its_slash_is_refused_if_rules_differ() {
        let rules = rules(&["--public /a/", "--require /b=g", "--require /c", "--public /"]);
        for (path, expected) in [
            ("/a/", "nothing"),
            ("/a", "folding"),
            ("/A/", "folding"),
            ("/b", "g"),
            ("/b/", "folding"),
            ("/c", "user"),
            ("/c/", "user"),
            ("/C/", "user"),
            ("/", "nothing"),
        ] {
            assert_eq!(decide(&rules, "GET", path), expected, "{path}");
        }
    }

    /// An upstream may fold a part only: the case of some letters, or the slash.
    #[test]
    fn partial_folding_is_refused_too() {
        let flags = ["--public /Foo/*", "--require /foo/secret=admins", "--public /foo/*"];
        let rules = AccessRules(parse(&flags));
        for (path, expected) in [
            ("/Foo/a", "nothing"),
            ("/foo/secret", "folding"),
            ("/foo/Secret", "folding"),
            ("/foo/a", "nothing"),
        ] {
            assert_eq!(decide(&rules, "GET", path), expected, "{path}");
        }
    }

    #[test]
    fn rules_of_equal_effect_are_not_ambiguous() {
        let rules = rules(&[
            "--require /a=x,y",
            "--require /A=y,x",
            "--public /b",
            "--public /B",
            "--require /c/",
            "--require /d=x,y",
        ]);
        for (path, expected) in
            [("/A", "y,x"), ("/a", "x,y"), ("/B", "nothing"), ("/c", "user"), ("/C", "user")]
        {
            assert_eq!(decide(&rules, "GET", path), expected, "{path}");
        }
        for texts in [["/d=x,y", "/D=x"], ["/d=x,y", "/D=x,z"], ["/d=x", "/D=x,y"]] {
            let pair = texts.map(|text| AccessRule::require(text).unwrap());
            assert!(AccessRules::new(pair.to_vec()).is_err(), "{texts:?}");
        }
    }

    /// Returns the error of the last rule, after the rules before it were accepted.
    fn error(flags: &[&str]) -> Option<RulesError> {
        let (_, accepted) = flags.split_last().unwrap();
        assert!(AccessRules::new(parse(accepted)).is_ok(), "{accepted:?}");
        AccessRules::new(parse(flags)).err()
    }

    #[test]
    fn shadowed_rule_is_refused() {
        for flags in [
            &["--public /a", "--public /a"][..],
            &["--public /a/*", "--public /a/b"],
            &["--public /a/*", "--require /a=g"],
            &["--public /a/*", "--require GET:/a/b/*=g"],
            &["--require /*", "--public /a"],
            &["--public /*", "--allow-network 10.0.0.0/8"],
            &["--require /*", "--allow-network 10.0.0.0/8"],
            &["--allow-network 10.0.0.0/8", "--allow-network 10.0.0.0/8"],
            &["--allow-network 10.0.0.0/8", "--public /a", "--allow-network 10.1.0.0/16"],
            &["--public GET,POST:/a", "--require GET:/a"],
            &["--public GET:/a", "--public POST:/a/*", "--require GET,POST:/a"],
            &["--allow-network 0.0.0.0/0", "--allow-network ::/0", "--require /a=g"],
            &["--require GET:/*", "--public /*", "--public POST:/b"],
        ] {
            assert!(matches!(error(flags), Some(RulesError::Shadowed(_))), "{flags:?}");
        }
    }

    #[test]
    fn rule_with_requests_of_its_own_is_kept() {
        for flags in [
            &["--public /a/b", "--require /a/*"][..],
            &["--public /a", "--require /ab"],
            &["--public GET:/a", "--require /a"],
            &["--public GET:/*", "--public POST:/*", "--require /a"],
            &["--public GET:/a", "--require GET,POST:/a"],
            &["--public GET:/*", "--allow-network 10.0.0.0/8"],
            &["--public /a/*", "--allow-network 10.0.0.0/8"],
            &["--allow-network 10.0.0.0/8", "--public /a"],
            &["--allow-network 0.0.0.0/0", "--public /a"],
            &["--allow-network ::/0", "--public GET:/a"],
            &["--allow-network 0.0.0.0/0", "--allow-network ::/0"],
            &["--allow-network 10.1.0.0/16", "--allow-network 10.0.0.0/8"],
            &["--public /a/*", "--public /b/*", "--require /*"],
        ] {
            assert_eq!(error(flags), None, "{flags:?}");
        }
    }

    #[test]
    fn rule_that_differs_by_folding_alone_is_refused() {
        for flags in [
            &["--public /a", "--require /A"][..],
            &["--require /a=g", "--require /a/"],
            &["--require /a/=g", "--require /a=h"],
            &["--public /A/*", "--require /a/*"],
            &["--public /A/*", "--require /a/b"],
            &["--public /A/*", "--require /a/=g"],
            &["--public GET:/a", "--require GET,POST:/A"],
            &["--public GET:/a", "--require /A"],
            &["--public /a", "--require GET:/A"],
            &["--public /\u{e9}", "--require /\u{c9}"],
        ] {
            assert!(matches!(error(flags), Some(RulesError::Ambiguous(_))), "{flags:?}");
        }
        for flags in [
            &["--public /a", "--public /A"][..],
            &["--public GET:/a", "--require POST:/A"],
            &["--public /a", "--require /A/*"],
            &["--public /a", "--require /B"],
            &["--public /a/b", "--require /A/*"],
            &["--public GET:/a", "--require /a=g"],
            // The first rule decides all requests that the second one makes ambiguous.
            &["--public GET:/a/*", "--public GET:/A/*", "--require GET,POST:/a"],
        ] {
            assert_eq!(error(flags), None, "{flags:?}");
        }
    }

    #[test]
    fn messages_name_both_rules() {
        for (flags, message) in [
            (
                &["--public /a/*", "--public /a/b"][..],
                "--public /a/b can never match: --public /a/* before it matches the same requests",
            ),
            (
                &["--public GET:/a", "--require POST:/*", "--require GET,POST:/a=g"],
                "--require GET,POST:/a=g can never match: --public GET:/a and --require POST:/* \
                 before it match the same requests",
            ),
            (
                &["--public /a", "--require /A=g"],
                "--require /A=g is ambiguous: --public /a before it matches the same requests up \
                 to letter case or a trailing slash",
            ),
        ] {
            assert_eq!(error(flags).unwrap().to_string(), message);
        }
        let rules = rules(&["--public /a"]);
        let refused = rules.requirement("GET", "/a%2fb", [0, 0, 0, 0].into());
        let message = "ambiguous path: it holds an encoded slash or backslash";
        assert_eq!(refused.unwrap_err().to_string(), message);
    }

    #[test]
    fn groups_and_methods_of_all_rules_are_listed() {
        let own = rules(&["--require /a=x,y", "--public /b", "--require /c", "--require /d=x"]);
        let groups: Vec<_> = own.groups().map(ToString::to_string).collect();
        assert_eq!(groups, ["x", "y", "x"]);
        assert!(!own.names_methods());
        assert!(rules(&["--public /a", "--require GET:/b"]).names_methods());
        assert!(rules(&["--public GET:/b"]).names_methods());
        assert!(!rules(&["--allow-network ::1"]).names_methods());
    }

    /// Changes that servers make to a path: each is applied or not.
    const NORMALIZATIONS: [fn(&str) -> String; 10] = [
        decode_once,
        |path| path.replace('\\', "/"),
        |path| path.split(['?', '#', '\0', '\n', '\r']).next().unwrap_or_default().to_owned(),
        |path| {
            let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or(""));
            segments.collect::<Vec<_>>().join("/")
        },
        |path| {
            let merged = path.split('/').filter(|segment| !segment.is_empty());
            let slash = if path.ends_with('/') && path != "/" { "/" } else { "" };
            format!("/{}{slash}", merged.collect::<Vec<_>>().join("/"))
        },
        resolve_dots,
        |path| path.to_ascii_lowercase(),
        |path| path.to_lowercase(),
        |path| path.to_uppercase().to_lowercase(),
        |path| path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path).to_owned(),
    ];

    fn decode_once(path: &str) -> String {
        percent_decode_str(path).decode_utf8_lossy().into_owned()
    }

    fn resolve_dots(path: &str) -> String {
        let mut resolved = Vec::new();
        for segment in path.split('/').skip(1) {
            match segment {
                "." => {}
                ".." => drop(resolved.pop()),
                _ => resolved.push(segment),
            }
        }
        format!("/{}", resolved.join("/"))
    }

    /// Looks up a path that a server has normalized, in lower-case patterns without methods.
    fn naive_lookup(flags: &[&str], path: &str) -> String {
        for flag in flags {
            let (kind, pattern) = flag.split_once(' ').unwrap();
            let (pattern, groups) = pattern.split_once('=').unwrap_or((pattern, "user"));
            let is_match = match pattern.strip_suffix("/*") {
                Some(parent) => path == parent || path.starts_with(&format!("{parent}/")),
                None => path == pattern,
            };
            if is_match {
                return if kind == "--public" { "nothing" } else { groups }.to_owned();
            }
        }
        "user".to_owned()
    }

    const FLAGS: [&str; 5] = [
        "--require /public/admin/*=admins",
        "--public /public/*",
        "--public /status",
        "--require /orders/*=readers",
        "--require /caf\u{e9}/*=staff",
    ];

    const SEGMENTS: [&str; 20] = [
        "/",
        "/public",
        "/Public",
        "/PUBLIC/",
        "/%70ublic",
        "/admin",
        "/Adm%69n",
        "/adm%C4%B1n",
        "/status",
        "/%C5%BFtatus",
        "/orders",
        "/ORDERS",
        "/caf%C3%A9",
        "/CAF%C3%89",
        "/a",
        "/1.",
        "/...",
        "/%20",
        "/%2a",
        "/+",
    ];

    const ODDITIES: [&str; 28] = [
        "/", "//", "/.", "/..", "/%2e%2e", "/.%2E", "..;", "/..;/", "%2F", "%2f..", "%5c", "\\",
        "\\..", ";", ";a/", "%3b", "%", "%25", "%252e", "%2", "%c0%ae", " ", "\0", "%00", "#", "?",
        "%3f", "\u{e9}",
    ];

    fn raw_path() -> impl Strategy<Value = String> {
        let segment = proptest::sample::select(&SEGMENTS[..]);
        let oddity = proptest::sample::select(&ODDITIES[..]);
        let piece = prop_oneof![4 => segment, 1 => oddity];
        let pieces = proptest::collection::vec(piece, 1..6);
        prop_oneof![
            8 => pieces.clone().prop_map(|pieces| pieces.concat()),
            4 => pieces.prop_map(|pieces| format!("/public{}", pieces.concat())),
            1 => any::<String>(),
            1 => "/[ -~]{0,12}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// What a server may make of an accepted path leads to the same requirement.
        #[test]
        fn normalized_path_has_the_same_requirement(path in raw_path()) {
            let decided = decide(&rules(&FLAGS), "GET", &path);
            let is_accepted = decided != "refused" && decided != "folding";
            for applied in 0..if is_accepted { 1_u32 << NORMALIZATIONS.len() } else { 0 } {
                let mut normalized = decode_once(&path);
                for (index, normalize) in NORMALIZATIONS.iter().enumerate() {
                    if applied >> index & 1 == 1 {
                        normalized = normalize(&normalized);
                    }
                }
                prop_assert_eq!(&naive_lookup(&FLAGS, &normalized), &decided, "{}", normalized);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(
            texts in proptest::collection::vec(any::<String>(), 3),
            method in any::<String>(),
            path in raw_path(),
        ) {
            let mut rules = parse(&FLAGS);
            for text in &texts {
                let full = format!("GET,{text}:/{text}={text}");
                for text in [text.clone(), format!("/{text}"), full] {
                    rules.extend(AccessRule::public(&text));
                    rules.extend(AccessRule::require(&text));
                }
            }
            drop(AccessRules::new(rules.clone()));
            let _ = AccessRules(rules).requirement(&method, &path, [192, 0, 2, 1].into());
        }

        /// Each rule of an accepted list decides a request, and a shadowed rule decides none.
        #[test]
        fn accepted_rule_decides_a_request(flags in proptest::collection::vec(flag(), 1..5)) {
            let flags: Vec<_> = flags.iter().map(String::as_str).collect();
            let mut accepted = AccessRules::default();
            for rule in parse(&flags) {
                let last = accepted.0.len();
                let longer = AccessRules([accepted.0.clone(), vec![rule.clone()]].concat());
                let source = [192, 0, 2, 1].into();
                let deciding = |method, path| {
                    longer.0.iter().position(|rule| rule.matches(method, path, source))
                };
                let decided = requests().filter(|&(method, path)| {
                    deciding(method, path) == Some(last)
                });
                let mut outcomes = decided.map(|(method, path)| {
                    longer.requirement(method, path, source)
                });
                let refused = Err(AmbiguousPath(Ambiguity::Folding));
                let is_right = match AccessRules::new(longer.0.clone()) {
                    Ok(_) => outcomes.any(|outcome| outcome == Ok(rule.requirement())),
                    Err(RulesError::Shadowed(_)) => outcomes.next().is_none(),
                    Err(RulesError::Ambiguous(_)) => outcomes.any(|outcome| outcome == refused),
                };
                prop_assert!(is_right, "{rule} after {accepted:?}");
                accepted = AccessRules::new(longer.0.clone()).unwrap_or(accepted);
            }
        }
    }

    /// Requests that tell all patterns of [`flag`] apart.
    const METHODS: [&str; 3] = ["GET", "POST", "PURGE"];
    const WITNESSES: [&str; 17] = [
        "/", "/a", "/A", "/a/", "/A/", "/a/b", "/A/b", "/a/b/", "/A/b/", "/a/b/x", "/A/b/x",
        "/a/x", "/A/x", "/b", "/b/", "/b/x", "/x",
    ];

    fn requests() -> impl Iterator<Item = (&'static str, &'static str)> {
        METHODS.into_iter().flat_map(|method| WITNESSES.map(|path| (method, path)))
    }

    fn flag() -> impl Strategy<Value = String> {
        let kinds = [("--public ", ""), ("--require ", ""), ("--require ", "=g")];
        let methods = ["", "", "GET:", "POST:", "GET,POST:"];
        let paths = ["/", "/*", "/a", "/A", "/a/", "/A/", "/a/*", "/A/*", "/a/b", "/A/b/*", "/b/*"];
        let select = (
            proptest::sample::select(kinds.to_vec()),
            proptest::sample::select(methods.to_vec()),
            proptest::sample::select(paths.to_vec()),
        );
        select.prop_map(|((kind, groups), methods, path)| format!("{kind}{methods}{path}{groups}"))
    }
}
