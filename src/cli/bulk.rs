//! What the verbs for many users do, a function each. All of it is done or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::args::{self, Format, OnConflict};
use super::exit::{Exit, Failure, cannot_print, say};
use super::lines::{Input, bad_line, lines};
use super::output::{Inputs, Output, PRIVATE, Refusal};
use super::progress::Progress;
use super::report::{Report, diff, summary, write_each};
use super::secret::{self, password_in};
use crate::aside::folder;
use crate::credential::{Cost, Password, UserName};
use crate::htpasswd;
use crate::jsonl;
use crate::manifest::{self, Source};
use crate::moment::Moment;
use crate::store::{self, Account, Store, StoreError};
use crate::text::printable;
use crate::users::settle::{
    Change, Edit, Existing, Missing, Outcome, Rule, Secret, SettleError, Wanted, settle,
};
use crate::users::{Policy, Warning};

pub(super) fn chpasswd(args: &args::Chpasswd, database: &Path) -> Result<(), Failure> {
    let policy = args.hashing.policy()?;
    let input = Input::stdin().read_secret()?;
    let mut warnings = Warnings::default();
    let mut file = InFile::default();
    for (number, line) in lines(&input) {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        let (name, password) =
            line.split_once(':').ok_or_else(|| bad_line(number, "there is no colon in it"))?;
        let name = UserName::parse(name).map_err(|e| {
            bad_line(
                number,
                format_args!("what stands before the colon can't be a user's name: {e}"),
            )
        })?;
        let about = |why: &dyn std::fmt::Display| {
            bad_line(number, format_args!("the password of {name} is refused: {why}"))
        };
        let password = Password::parse(password).map_err(|e| about(&e))?;
        warnings.add(&name, policy.judge(&password, Some(&name)).map_err(|e| about(&e))?);
        file.add(number, Wanted::new(name, Secret::Password(password)));
    }
    warnings.say();
    let mut report = Report::open(&args.output, &Inputs::new(database, []))?;
    let missing = if args.create { Missing::Add } else { Missing::Refuse };
    let rule = Rule::new(missing, Existing::Replace, policy.cost);
    let store = store::open(database)?;
    let changes = settle_all(&*store, &file.users, &rule, &|index| file.at(index))?;
    tell_all(&mut report, &changes)
}

pub(super) fn import(args: &args::Import, database: &Path) -> Result<(), Failure> {
    let inputs = Inputs::new(database, [args.file.as_path()]);
    let mut report = Report::open(&args.output, &inputs)?;
    let now = Moment::now();
    let mut file = InFile::default();
    Input::open(&args.file)?.each_line(|number, line| {
        let user = match args.format {
            Format::Htpasswd => htpasswd::parse(line)
                .map_err(|why| bad_line(number, why))?
                .map(|(name, hash)| Wanted::new(name, Secret::Hash(hash))),
            Format::Jsonl => {
                jsonl::parse(line, now).map_err(|why| bad_line(number, why))?.and_then(whole_copy)
            }
        };
        if let Some(user) = user {
            file.add(number, user);
        }
        Ok(())
    })?;
    file.drop_doubles(args.on_conflict)?;
    let existing = match args.on_conflict {
        OnConflict::Fail => Existing::Refuse,
        OnConflict::Skip => Existing::Leave,
        OnConflict::Replace => Existing::Replace,
    };
    let rule = Rule::new(Missing::Add, existing, Cost::DEFAULT);
    let store = store::open(database)?;
    let changes = settle_all(&*store, &file.users, &rule, &|index| file.at(index))?;
    tell_all(&mut report, &changes)
}

fn tell_all(report: &mut Report, changes: &[Change]) -> Result<(), Failure> {
    for change in changes {
        report.tell(change, None)?;
    }
    report.flush()?;
    report.say(&summary(changes));
    Ok(())
}

/// All that is kept of a user is to be like this.
fn whole_copy(account: Account) -> Option<Wanted> {
    Some(Wanted {
        groups: Edit::Set(account.groups),
        locked: Some(account.locked),
        expires: Some(account.expires),
        times: Some((account.created, account.changed)),
        ..Wanted::new(account.name, Secret::Hash(account.hash.ok()?))
    })
}

/// The users of a file, and the line that each of them stands in.
#[derive(Default)]
struct InFile {
    users: Vec<Wanted>,
    lines: Vec<usize>,
}

impl InFile {
    fn add(&mut self, line: usize, user: Wanted) {
        self.users.push(user);
        self.lines.push(line);
    }

    fn at(&self, index: usize) -> String {
        format!("line {}", self.lines.get(index).copied().unwrap_or_default())
    }

    /// Leaves one of several lines for the same user.
    fn drop_doubles(&mut self, on_conflict: OnConflict) -> Result<(), Failure> {
        let mut taken = BTreeMap::new();
        for (index, user) in self.users.iter().enumerate() {
            match (taken.get(&user.name), on_conflict) {
                (None, _) | (Some(_), OnConflict::Replace) => {
                    taken.insert(&user.name, index);
                }
                (Some(_), OnConflict::Skip) => {}
                (Some(first), OnConflict::Fail) => {
                    let why = format_args!("{} stands in {} already", user.name, self.at(*first));
                    return Err(Failure::new(Exit::BadInput, why)
                        .about(self.at(index))
                        .hint("--on-conflict skip takes the first of them, and replace the last"));
                }
            }
        }
        if taken.len() < self.users.len() {
            let taken: BTreeSet<_> = taken.into_values().collect();
            let mut index = 0..;
            self.users.retain(|_| index.next().is_some_and(|index| taken.contains(&index)));
            let mut index = 0..;
            self.lines.retain(|_| index.next().is_some_and(|index| taken.contains(&index)));
        }
        Ok(())
    }
}

pub(super) fn export(args: &args::Export, database: &Path) -> Result<(), Failure> {
    let now = SystemTime::now();
    let store = store::open(database)?;
    let mut left_out = 0;
    let line = |user: &Account| {
        let about = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, format_args!("user {}: {why}", user.name))
        };
        let unusable = |why| StoreError::BadRecord { user: user.name.clone(), why };
        match args.format {
            Format::Jsonl => Ok(Some(jsonl::line(user).map_err(unusable)?)),
            Format::Htpasswd => {
                if user.locked || user.expires.is_some_and(|end| end.has_passed(now)) {
                    left_out += 1;
                    return Ok(None);
                }
                let hash = user.hash.as_ref().map_err(|why| unusable(*why))?;
                let line = htpasswd::line(&user.name, hash);
                line.map(Some).ok_or_else(|| about(&"a line that begins with # is a comment"))
            }
        }
    };
    if args.file == Path::new("-") {
        write_each(&*store, &mut BufWriter::new(io::stdout().lock()), line, cannot_print)?;
    } else {
        let writing = format!("write {}", printable(&args.file.to_string_lossy()));
        let failed = |e: Refusal| e.failure(&writing);
        let inputs = Inputs::of_store(database);
        let mut output = Output::replace(&args.file, PRIVATE, &inputs).map_err(failed)?;
        write_each(&*store, &mut BufWriter::new(&mut output), line, |e| failed(e.into()))?;
        output.finish().map_err(|e| failed(e.into()))?;
    }
    if left_out > 0 {
        say(&format!(
            "resttool: warning: skipped {left_out} locked or expired users, which the htpasswd format cannot represent"
        ));
    }
    if !args.quiet && args.file != Path::new("-") {
        say(&format!("resttool: exported to {}", printable(&args.file.to_string_lossy())));
    }
    Ok(())
}

pub(super) fn apply(args: &args::Apply, database: &Path) -> Result<(), Failure> {
    let policy = args.hashing.policy()?;
    let text = Input::open(&args.file)?.read_text()?;
    let entries = manifest::parse(&text).map_err(|e| Failure::new(Exit::BadInput, e))?;
    let mut warnings = Warnings::default();
    let mut wanted = Vec::new();
    let mut read = vec![args.file.clone()];
    for entry in entries {
        if let Source::File(path) = &entry.secret {
            read.push(folder(&args.file).join(path));
        }
        let secret = secret_of(&entry, &args.file, &policy, &mut warnings)
            .map_err(|e| e.about(format_args!("user {}", entry.name)).exiting(Exit::BadInput))?;
        wanted.push(Wanted {
            groups: Edit::Set(entry.groups),
            locked: Some(entry.locked),
            expires: Some(entry.expires),
            ..Wanted::new(entry.name, secret)
        });
    }
    warnings.say();
    let inputs = Inputs::new(database, read.iter().map(PathBuf::as_path));
    let mut report = Report::open(&args.output, &inputs)?;
    if args.dry_run {
        report = report.of_dry_run();
    }
    let usual = Rule::new(Missing::Add, Existing::Compare, policy.cost);
    let rule = Rule { prune: args.prune, dry_run: args.dry_run, ..usual };
    let store = store::open(database)?;
    let at = |index: usize| match wanted.get(index) {
        Some(user) => format!("user {}", user.name),
        None => String::new(),
    };
    let changes = settle_all(&*store, &wanted, &rule, &at)?;
    for (n, change) in changes.iter().enumerate() {
        let generated = match wanted.get(n).map(|one| &one.secret) {
            Some(Secret::ForNew(password)) if change.outcome == Outcome::Added && !args.dry_run => {
                Some(password)
            }
            _ => None,
        };
        report.tell(change, generated)?;
        if !report.json && change.outcome != Outcome::Unchanged {
            let line = diff(change);
            report.print(&match generated {
                Some(password) => format!("{line} (password {})", password.reveal()),
                None => line,
            })?;
        }
    }
    report.flush()?;
    let summary = summary(&changes);
    report.say(&if args.dry_run { format!("would be: {summary}") } else { summary });
    Ok(())
}

fn secret_of(
    entry: &manifest::Entry,
    manifest: &Path,
    policy: &Policy,
    warnings: &mut Warnings,
) -> Result<Secret, Failure> {
    match &entry.secret {
        Source::File(path) => {
            let password = password_in(&folder(manifest).join(path))?;
            warnings.add(&entry.name, policy.judge(&password, Some(&entry.name))?);
            Ok(Secret::Password(password))
        }
        Source::Hash(hash) => Ok(Secret::Hash(hash.clone())),
        Source::Generate => secret::Source::Generate.password().map(Secret::ForNew),
    }
}

fn settle_all(
    store: &dyn Store,
    wanted: &[Wanted],
    rule: &Rule,
    at: &dyn Fn(usize) -> String,
) -> Result<Vec<Change>, Failure> {
    let progress = Progress::new();
    let settled = settle(store, wanted, rule, Moment::now(), &|done, of| progress.show(done, of));
    progress.end();
    settled.map_err(|e| match e {
        SettleError::At { index, why } => {
            let why = match (&why, wanted.get(index).map(|one| &one.name)) {
                (StoreError::UserExists, Some(name)) => {
                    Failure::new(Exit::UserExists, format_args!("there is a user {name}"))
                        .hint("--on-conflict skip leaves them, and replace replaces them")
                }
                (StoreError::NoSuchUser, Some(name)) => {
                    Failure::new(Exit::NoSuchUser, format_args!("there is no user {name}"))
                        .hint("--create adds users who do not exist")
                }
                _ => why.into(),
            };
            why.about(at(index))
        }
        SettleError::Groups { index, why } => Failure::new(Exit::BadInput, why).about(at(index)),
        SettleError::Store(why) => why.into(),
        SettleError::Hash(_) => Failure::new(Exit::Failed, e),
    })
}

/// What is unwise about many passwords: a line for each kind.
#[derive(Default)]
struct Warnings(BTreeMap<Warning, Vec<UserName>>);

impl Warnings {
    fn add(&mut self, user: &UserName, warnings: Vec<Warning>) {
        for warning in warnings {
            self.0.entry(warning).or_default().push(user.clone());
        }
    }

    fn say(&self) {
        for (warning, users) in &self.0 {
            let line = match (warning, users.as_slice()) {
                (Warning::LowCost(_), _) => warning.to_string(),
                (_, [user]) => format!("{user}: {warning}"),
                (_, [user, others @ ..]) => format!("{user} and {} more: {warning}", others.len()),
                (_, []) => continue,
            };
            say(&format!("resttool: warning: {line}"));
        }
    }
}
