//! What the verbs for one user do, a function each. `bulk.rs` has those for many, and `serve` a file of its own.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

use wildmatch::WildMatch;

use super::absolute;
use super::args;
use super::exit::{Exit, Failure, cannot_print, print, say};
use super::output::Inputs;
use super::report::{Report, Shown, Verified, json, write_each};
use super::secret::{New, Source};
use super::table::table;
use crate::auth::{self, Finding};
use crate::credential::{Credentials, Groups, Password, UserName};
use crate::htpasswd;
use crate::moment::Moment;
use crate::store::{self, Account, Store};
use crate::text::{shell_operand, shell_word};
use crate::users::settle::{
    Change, Edit, Existing, Missing, Outcome, Rule, Secret, SettleError, Wanted, remove, settle,
};
use crate::users::{self, Policy};

pub(super) fn useradd(args: &args::Useradd, database: &Path) -> Result<(), Failure> {
    let name = UserName::parse(&args.name)?;
    let policy = args.hashing.policy()?;
    if args.update && args.if_not_exists {
        return Err(Failure::new(
            Exit::Usage,
            "--update and --if-not-exists cannot be used together",
        ));
    }
    let groups = args.group.as_deref().map(groups).transpose()?;
    // Read pipes before anything can fail, so that no writer of a pipe gets SIGPIPE.
    let given = New::open(&args.secret)?;
    let mut report = Report::open(&args.output, &inputs(database, &args.secret))?;
    let store = store::open(database)?;
    let existing = match (args.update, args.if_not_exists) {
        (true, _) => Existing::Compare,
        (_, true) => Existing::Leave,
        _ => Existing::Refuse,
    };
    // Fail before the prompt for a password.
    let exists = store.contains(&name)?;
    if exists && existing == Existing::Refuse {
        return Err(store::StoreError::UserExists.into());
    }
    let secret = match given {
        New::Hash(hash) => Secret::Hash(hash),
        New::Password(_) if exists && existing == Existing::Leave => Secret::Keep,
        New::Password(source) => {
            let password = source.password()?;
            warn(&policy, &password, Some(&name))?;
            if args.secret.password.generate {
                Secret::ForNew(password)
            } else {
                Secret::Password(password)
            }
        }
    };
    let wanted = Wanted {
        groups: groups.map_or(Edit::Keep, Edit::Set),
        locked: args.locked.then_some(true),
        expires: args.expiry.expire.map(|expire| expire.0),
        ..Wanted::new(name.clone(), secret)
    };
    let rule = Rule::new(Missing::Add, existing, policy.cost);
    let change = settle_one(&*store, &wanted, &rule)?;
    let generated = match (&wanted.secret, change.outcome) {
        (Secret::ForNew(password), Outcome::Added) => Some(password),
        _ => None,
    };
    let lost = format!(
        "user {name} was added, but its generated password could not be printed; remove the user with: {}",
        command("userdel", database, &name)
    );
    tell_one(&mut report, &change, generated.map(|password| (password, lost)))?;
    report.say(&match change.outcome {
        Outcome::Added => format!("added user {name}"),
        Outcome::Changed => format!("changed user {name}"),
        Outcome::Unchanged | Outcome::Removed => format!("user {name} exists, nothing changed"),
    });
    Ok(())
}

/// Tells of a change, and of the password that was made up for it: only now, since a password that is told is one that works. With it comes
/// what to do if it can't be told.
fn tell_one(
    report: &mut Report,
    change: &Change,
    generated: Option<(&Password, String)>,
) -> Result<(), Failure> {
    let Some((password, if_lost)) = generated else {
        report.tell(change, None)?;
        return report.flush();
    };
    let mut told = report.tell(change, Some(password));
    if told.is_ok() && !report.json {
        told = report.print(password.reveal());
    }
    let told = told.and_then(|()| report.flush_output()).map_err(|e| e.hint(if_lost));
    told.and(report.flush())
}

pub(super) fn passwd(args: &args::Passwd, database: &Path) -> Result<(), Failure> {
    let name = UserName::parse(&args.name)?;
    let policy = args.hashing.policy()?;
    let given = New::open(&args.secret)?;
    let mut report = Report::open(&args.output, &inputs(database, &args.secret))?;
    let store = store::open(database)?;
    // Fail before the prompt for a password.
    if !store.contains(&name)? {
        return Err(store::StoreError::NoSuchUser.into());
    }
    let secret = match given {
        New::Hash(hash) => Secret::Hash(hash),
        New::Password(source) => {
            let password = source.password()?;
            warn(&policy, &password, Some(&name))?;
            Secret::Password(password)
        }
    };
    let wanted = Wanted::new(name.clone(), secret);
    let rule = Rule::new(Missing::Refuse, Existing::Replace, policy.cost);
    let change = settle_one(&*store, &wanted, &rule)?;
    let generated = match &wanted.secret {
        Secret::Password(password) if args.secret.password.generate => Some(password),
        _ => None,
    };
    let lost = format!(
        "the password was changed, but the generated one could not be printed; set another with: {}",
        command("passwd", database, &name)
    );
    tell_one(&mut report, &change, generated.map(|password| (password, lost)))?;
    report.say(&match change.outcome {
        Outcome::Unchanged => format!("{name} has that hash already, nothing changed"),
        _ => format!("changed the password of {name}"),
    });
    Ok(())
}

pub(super) fn usermod(args: &args::Usermod, database: &Path) -> Result<(), Failure> {
    let name = UserName::parse(&args.name)?;
    let wanted = wanted_by(args, name.clone())?;
    let mut report = Report::open(&args.output, &Inputs::new(database, []))?;
    let store = store::open(database)?;
    let rule = Rule::new(Missing::Refuse, Existing::Replace, crate::credential::Cost::DEFAULT);
    let change = settle_one(&*store, &wanted, &rule)?;
    tell_one(&mut report, &change, None)?;
    report.say(&match change.outcome {
        Outcome::Unchanged => format!("user {name} is already up to date"),
        _ => format!("changed user {name}"),
    });
    Ok(())
}

fn wanted_by(args: &args::Usermod, name: UserName) -> Result<Wanted, Failure> {
    let usage = |why: &str| Err(Failure::new(Exit::Usage, why));
    if args.lock && args.unlock {
        return usage("--lock and --unlock cannot be used together");
    }
    if args.append && args.remove {
        return usage("--append and --remove cannot be used together");
    }
    let groups = args.group.as_deref().map(groups).transpose()?;
    let groups = match groups {
        Some(groups) if args.append => Edit::Join(groups),
        Some(groups) if args.remove => Edit::Leave(groups),
        Some(groups) => Edit::Set(groups),
        None if args.append || args.remove => {
            return usage("--append and --remove say what to do with --group");
        }
        None => Edit::Keep,
    };
    let nothing = matches!(groups, Edit::Keep)
        && !args.lock
        && !args.unlock
        && args.expiry.expire.is_none()
        && args.rename.is_none();
    if nothing {
        return usage("nothing to change was named")
            .map_err(|e| e.hint("give --lock, --unlock, --expire, --group or --rename"));
    }
    Ok(Wanted {
        groups,
        locked: (args.lock || args.unlock).then_some(args.lock),
        expires: args.expiry.expire.map(|expire| expire.0),
        rename: args.rename.as_deref().map(UserName::parse).transpose()?,
        ..Wanted::new(name, Secret::Keep)
    })
}

pub(super) fn userdel(args: &args::Userdel, database: &Path) -> Result<(), Failure> {
    let name = UserName::parse(&args.name)?;
    let mut report = Report::open(&args.output, &Inputs::new(database, []))?;
    let change = match remove(&*store::open(database)?, &name) {
        Err(store::StoreError::NoSuchUser) if args.if_exists => {
            Change { name: name.clone(), outcome: Outcome::Unchanged, differences: Vec::new() }
        }
        removed => removed?,
    };
    tell_one(&mut report, &change, None)?;
    report.say(&match change.outcome {
        Outcome::Unchanged => format!("there is no user {name}, nothing changed"),
        _ => format!("removed user {name}"),
    });
    Ok(())
}

pub(super) fn userlist(args: &args::Userlist, database: &Path) -> Result<(), Failure> {
    let now = SystemTime::now();
    let expired = |user: &Account| user.expires.is_some_and(|end| end.has_passed(now));
    let pattern = args.pattern.as_deref().map(WildMatch::new);
    let matches = |user: &Account| {
        let cost = user.hash.as_ref().ok().map(|hash| hash.cost().get());
        pattern.as_ref().is_none_or(|pattern| pattern.matches(user.name.as_str()))
            && args.group.as_ref().is_none_or(|group| user.groups.contains(group))
            && (!args.locked || user.locked)
            && (!args.expired || expired(user))
            && args.cost_below.is_none_or(|below| cost.is_some_and(|cost| cost < below))
    };
    let store = store::open(database)?;
    if args.json.json {
        let mut out = io::BufWriter::new(io::stdout().lock());
        return write_each(
            &*store,
            &mut out,
            |user| {
                if !matches(user) {
                    return Ok(None);
                }
                json(&Shown::new(user)).map(Some)
            },
            cannot_print,
        );
    }
    let head = ["NAME", "GROUPS", "STATE", "COST", "CREATED", "CHANGED"];
    let mut rows = vec![head.map(str::to_owned)];
    store.each(&mut |user| {
        if matches(&user) {
            rows.push(row(&user, expired(&user)));
        }
        ControlFlow::Continue(())
    })?;
    let lines: Vec<_> = table(&rows).collect();
    print(&lines.join("\n"))
}

fn row(user: &Account, expired: bool) -> [String; 6] {
    let groups = if user.groups.is_empty() { "-".to_owned() } else { user.groups.to_string() };
    let state = match (user.locked, user.expires) {
        (true, _) if expired => "locked, expired".to_owned(),
        (true, _) => "locked".to_owned(),
        (false, _) if expired => "expired".to_owned(),
        (false, Some(end)) => format!("until {end}"),
        (false, None) => "active".to_owned(),
    };
    let cost = user
        .hash
        .as_ref()
        .map_or_else(|_| "unusable".to_owned(), |hash| hash.cost().get().to_string());
    let times = [user.created.to_string(), user.changed.to_string()];
    let [created, changed] = times;
    [user.name.to_string(), groups, state, cost, created, changed]
}

pub(super) fn verify(args: &args::Verify, database: &Path) -> Result<(), Failure> {
    let user = UserName::parse(&args.name)?;
    let source = Source::open_known(&args.password)?;
    let store = store::open(database)?;
    let shown = Credentials { user, password: source.known()? };
    let finding = auth::check(&*store, &shown, crate::credential::Cost::DEFAULT)?;
    let reason = match finding {
        Finding::Right(..) => None,
        Finding::UnknownUser => Some((Exit::NoSuchUser, "there is no user of that name")),
        Finding::WrongPassword => Some((Exit::Refused, "the password is wrong")),
        Finding::Locked => Some((Exit::Refused, "the user is locked")),
        Finding::Expired => Some((Exit::Refused, "the user has expired")),
    };
    if args.json.json {
        let object = Verified::new(&shown.user, reason.map(|(_, why)| why));
        print(&json(&object)?)?;
    }
    match reason {
        Some((exit, why)) => Err(Failure::new(exit, why)),
        None => {
            if !args.quiet {
                say(&format!("resttool: the password of {} is right", shown.user));
            }
            Ok(())
        }
    }
}

pub(super) fn hash(args: &args::Hash) -> Result<(), Failure> {
    if let Some(limit) = args.calibrate {
        return print(&users::calibrate(limit, users::time_of_hash)?.get().to_string());
    }
    let name = args.htpasswd.as_deref().map(UserName::parse).transpose()?;
    let policy = args.hashing.policy()?;
    let password = Source::open(&args.password)?.password()?;
    warn(&policy, &password, name.as_ref())?;
    let hash = policy.hash(&password)?;
    let line = match &name {
        None => hash.as_str().to_owned(),
        Some(name) => htpasswd::line(name, &hash).ok_or_else(|| {
            Failure::new(Exit::BadName, "a line that begins with # is a comment in such a file")
        })?,
    };
    if args.password.generate {
        say(&format!("password: {}", password.reveal()));
    }
    print(&line)
}

/// What no output of a command that sets a password may write to.
fn inputs(database: &Path, secret: &args::NewSecret) -> Inputs {
    Inputs::new(database, secret.password.known.password_file.as_deref())
}

/// Returns the command that does this to a user, for a hint.
fn command(verb: &str, database: &Path, user: &UserName) -> String {
    let (database, user) = (shell_word(absolute(database)), shell_operand(user.as_str()));
    format!("resttool {verb} --database {database} {user}")
}

/// Says what is unwise about a password.
fn warn(policy: &Policy, password: &Password, user: Option<&UserName>) -> Result<(), Failure> {
    for warning in policy.judge(password, user)? {
        say(&format!("resttool: warning: {warning}"));
    }
    Ok(())
}

/// The groups that arguments name; `''` is none.
fn groups(args: &[args::Group]) -> Result<Groups, Failure> {
    let names: BTreeSet<_> = args.iter().filter_map(|group| group.0.clone()).collect();
    Groups::new(names).map_err(|e| Failure::new(Exit::Usage, e))
}

fn settle_one(store: &dyn Store, wanted: &Wanted, rule: &Rule) -> Result<Change, Failure> {
    let changes = settle(store, std::slice::from_ref(wanted), rule, Moment::now(), &|_, _| {});
    match changes {
        Ok(changes) => changes
            .into_iter()
            .next()
            .ok_or_else(|| Failure::new(Exit::Failed, "nothing is known of what was done")),
        Err(SettleError::At { why, .. } | SettleError::Store(why)) => Err(why.into()),
        Err(SettleError::Groups { why, .. }) => Err(Failure::new(Exit::Usage, why)),
        Err(e @ SettleError::Hash(_)) => Err(Failure::new(Exit::Failed, e)),
    }
}
