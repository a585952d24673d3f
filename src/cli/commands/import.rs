//! `resttool import`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::admin::{
    DesiredPassword, DesiredUser, GroupsEdit, IfExists, IfMissing, ReconcileOptions,
};
use crate::cli::exit::{Failure, say};
use crate::cli::input::{Input, bad_line};
use crate::cli::many::{Duplicates, Lines, reconcile_many, record_many};
use crate::cli::options::UserFormat;
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::config::OutputSettings;
use crate::domain::{Account, Cost};
use crate::formats::{htpasswd, jsonl};
use crate::hashing::needs_rehash;
use crate::store::{self, Location};
use crate::text::printable;
use crate::time::Timestamp;

/// Import users with their hashes from a file, in one transaction
#[derive(Args, Debug)]
#[command(
    after_long_help = "htpasswd cuts passwords off after 72 bytes, and resttool refuses longer ones. Users with such a
password are imported, but their logins are refused: give them another one with passwd.

Examples:
  resttool import /etc/nginx/htpasswd
  resttool import users.jsonl --format jsonl --on-conflict replace
  resttool export --database old.db | resttool import - --on-conflict skip"
)]
pub(in crate::cli) struct Import {
    /// The file; - is standard input
    file: PathBuf,

    /// Read the file in this format
    #[arg(long, value_name = "FORMAT", default_value = "htpasswd")]
    format: UserFormat,

    /// Treat existing users like this; of two lines for one user, skip takes the first and replace
    /// the last
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    on_conflict: OnConflict,

    #[command(flatten)]
    output: OutputSettings,
}

/// The treatment of an imported user that exists already.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum OnConflict {
    /// Change nothing and exit with 9
    Fail,
    /// Keep the existing user
    Skip,
    /// Replace the existing user by the one in the file
    Replace,
}

impl Import {
    pub(super) fn describe(&self) -> String {
        format!("import {}", printable(&self.file.to_string_lossy()))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let inputs = Inputs::new(location, [self.file.as_path()]);
        let mut report = Report::open_bulk(&self.output, &inputs, "import")?;
        let now = Timestamp::now();
        let mut desired = Lines::default();
        Input::open(&self.file, "users")?.each_line(|number, line| {
            let user = match self.format {
                UserFormat::Htpasswd => htpasswd::parse(line)
                    .map_err(|why| bad_line(number, why))?
                    .map(|(name, hash)| DesiredUser::new(name, DesiredPassword::Hash(hash))),
                UserFormat::Jsonl => {
                    jsonl::parse(line, now).map_err(|why| bad_line(number, why))?.and_then(copy_of)
                }
            };
            if let Some(user) = user {
                desired.add(number, user);
            }
            Ok(())
        })?;
        let (existing, duplicates) = match self.on_conflict {
            OnConflict::Fail => (IfExists::Refuse, Duplicates::Refuse),
            OnConflict::Skip => (IfExists::Skip, Duplicates::KeepFirst),
            OnConflict::Replace => (IfExists::Replace, Duplicates::KeepLast),
        };
        desired.remove_duplicates(&duplicates)?;
        warn_about_weak_hashes(&desired);
        let options = ReconcileOptions::new(IfMissing::Add, existing);
        let store = store::open_or_create(location)?;
        let position = |index| desired.position(index);
        let changes = reconcile_many(&*store, &desired.users, &options, "importing", &position)?;
        record_many(&mut report, &changes)
    }
}

/// Warns once about hashes that cost less than advised.
fn warn_about_weak_hashes(desired: &Lines) {
    let minimum = Cost::ADVISED.get();
    let is_weak = |user: &&DesiredUser| match &user.password {
        DesiredPassword::Hash(hash) => needs_rehash(hash, minimum),
        _ => false,
    };
    let users = match desired.users.iter().filter(is_weak).count() {
        0 => return,
        1 => "1 user has a hash".to_owned(),
        n => format!("{n} users have hashes"),
    };
    say(&format!(
        "resttool: warning: {users} of a cost below {minimum}; 'resttool serve --rehash' replaces such hashes at the next login"
    ));
}

/// Desires the whole record.
fn copy_of(account: Account) -> Option<DesiredUser> {
    Some(DesiredUser {
        groups: GroupsEdit::Set(account.groups),
        locked: Some(account.locked),
        expires: Some(account.expires),
        times: Some((account.created, account.changed)),
        ..DesiredUser::new(account.name, DesiredPassword::Hash(account.hash.ok()?))
    })
}
