//! `resttool userlist`

use std::io;
use std::ops::ControlFlow;
use std::time::SystemTime;

use clap::Args;
use clap::builder::PossibleValuesParser;
use wildmatch::WildMatch;

use crate::cli::exit::{Failure, cannot_list, print_list};
use crate::cli::open::open_store;
use crate::cli::options::group_name;
use crate::cli::report::{UserJson, json, write_each};
use crate::cli::table::table;
use crate::cli::terminal;
use crate::config::JsonSetting;
use crate::domain::{Account, GroupName, LegacyScheme, StoredHash};
use crate::hashing::needs_rehash;
use crate::store::Location;

/// List users, without their hashes
#[derive(Args, Debug)]
#[command(aliases = ["list", "ls", "users"])]
#[command(after_long_help = "Examples:
  resttool userlist
  resttool userlist 'ci-*'
  resttool userlist --group admin --json
  resttool userlist --long
  resttool userlist --cost-below 12   users with a weak hash
  resttool userlist --scheme legacy   users with an imported hash that no login has replaced yet")]
pub(in crate::cli) struct Userlist {
    /// List users whose name matches; * stands for any text, ? for any character
    pattern: Option<String>,

    /// List users in this group
    #[arg(long, value_name = "GROUP", value_parser = group_name)]
    group: Option<GroupName>,

    /// List locked users
    #[arg(long)]
    locked: bool,

    /// List expired users
    #[arg(long)]
    expired: bool,

    /// List users whose hash costs less than this
    #[arg(long, value_name = "N")]
    cost_below: Option<u8>,

    /// List users whose hash has this scheme; legacy stands for all but bcrypt
    #[arg(long, value_name = "SCHEME", value_parser = schemes())]
    scheme: Option<String>,

    /// List scheme, cost, creation and change too, and cut nothing
    #[arg(long, short)]
    long: bool,

    #[command(flatten)]
    json: JsonSetting,
}

impl Userlist {
    pub(super) fn describe(&self) -> String {
        "list users".to_owned()
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let now = SystemTime::now();
        let pattern = self.pattern.as_deref().map(WildMatch::new);
        let matches = |user: &Account| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(user.name.as_str()))
                && self.group.as_ref().is_none_or(|group| user.groups.contains(group))
                && (!self.locked || user.locked)
                && (!self.expired || user.has_expired(now))
                && self.cost_below.is_none_or(|minimum| {
                    user.hash.as_ref().is_ok_and(|hash| needs_rehash(&hash.bcrypt, minimum))
                })
                && self.scheme.as_ref().is_none_or(|scheme| {
                    user.hash.as_ref().is_ok_and(|hash| match scheme.as_str() {
                        LEGACY => hash.wrapped.is_some(),
                        scheme => hash.scheme() == scheme,
                    })
                })
        };
        let store = open_store(location)?;
        if self.json.json {
            let mut out = io::BufWriter::new(io::stdout().lock());
            let line = |user: &Account| match matches(user) {
                true => json(&UserJson::new(user)).map(Some),
                false => Ok(None),
            };
            return write_each(&*store, &mut out, line, cannot_list);
        }
        let mut rows = vec![HEAD.map(str::to_owned)];
        store.each(&mut |user| {
            if matches(&user) {
                rows.push(row(&user, now));
            }
            ControlFlow::Continue(())
        })?;
        let lines: Vec<_> = if self.long {
            table(&rows, None).collect()
        } else {
            let rows: Vec<_> = rows.into_iter().map(short).collect();
            table(&rows, terminal::width()).collect()
        };
        print_list(&lines.join("\n"))
    }
}

/// Stands for all schemes of wrapped hashes.
const LEGACY: &str = "legacy";

/// Returns the names of all schemes.
fn schemes() -> PossibleValuesParser {
    let names = LegacyScheme::ALL.into_iter().map(LegacyScheme::name);
    PossibleValuesParser::new([StoredHash::BCRYPT, LEGACY].into_iter().chain(names))
}

const HEAD: [&str; 7] = ["NAME", "GROUPS", "STATE", "SCHEME", "COST", "CREATED", "CHANGED"];

/// Returns the columns of a list that is not long.
fn short([name, groups, state, ..]: [String; 7]) -> [String; 3] {
    [name, groups, state]
}

fn row(user: &Account, now: SystemTime) -> [String; 7] {
    let groups = if user.groups.is_empty() { "-".to_owned() } else { user.groups.to_string() };
    let state = match (user.locked, user.has_expired(now), user.expires) {
        (true, true, _) => "locked, expired".to_owned(),
        (true, false, _) => "locked".to_owned(),
        (false, true, _) => "expired".to_owned(),
        (false, false, Some(end)) => format!("until {end}"),
        (false, false, None) => "active".to_owned(),
    };
    let (scheme, cost) = match &user.hash {
        Ok(hash) => (hash.scheme().to_owned(), hash.cost().get().to_string()),
        Err(_) => ("-".to_owned(), "unusable".to_owned()),
    };
    let (created, changed) = (user.created.to_string(), user.changed.to_string());
    [user.name.to_string(), groups, state, scheme, cost, created, changed]
}
