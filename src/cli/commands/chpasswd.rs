//! `resttool chpasswd`

use clap::Args;

use crate::admin::{DesiredPassword, DesiredUser, IfExists, IfMissing, ReconcileOptions};
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{FailureList, Input, bad_line, lines, refuse_utf16};
use crate::cli::many::{Lines, Warnings, line_of, reconcile_many};
use crate::cli::open::{open_or_create_store, open_store};
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::config::{HashingSettings, OutputSettings};
use crate::domain::{Password, UserName};
use crate::store::Location;

/// Change many passwords in one transaction, from name:password lines on standard input
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool chpasswd <passwords
  printf 'ann:%s\\nbob:%s\\n' \"$ANN\" \"$BOB\" | resttool chpasswd --create")]
pub(in crate::cli) struct Chpasswd {
    /// Add users that do not exist
    #[arg(long)]
    create: bool,

    #[command(flatten)]
    hashing: HashingSettings,

    #[command(flatten)]
    output: OutputSettings,
}

impl Chpasswd {
    pub(super) fn describe(&self) -> String {
        "change passwords".to_owned()
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let policy = self.hashing.policy()?;
        let input = Input::stdin("name:password lines")?;
        let name = input.name.clone();
        let input = input.read_secret()?;
        refuse_utf16(&name, &input)?;
        let mut warnings = Warnings::default();
        let mut desired = Lines::default();
        let mut bad = FailureList::of(Exit::BadInput);
        for (number, line) in lines(&input) {
            let entry = line.and_then(|line| parse(number, line));
            let Some(Some((name, password))) = bad.note(entry)? else { continue };
            let judged =
                policy.judge(&password, Some(&name)).map_err(|e| refused(number, &name, &e));
            if let Some(judged) = bad.note(judged)? {
                warnings.add(&name, judged);
                desired.add(number, DesiredUser::new(name, DesiredPassword::Password(password)));
            }
        }
        bad.check()?;
        warnings.say();
        let mut report = Report::open_bulk(&self.output, &Inputs::new(location, []), "chpasswd")?;
        let (missing, store) = match self.create {
            true => (IfMissing::Add, open_or_create_store(location)?),
            false => (IfMissing::Refuse, open_store(location)?),
        };
        let options = ReconcileOptions::new(missing, IfExists::Replace);
        let options = ReconcileOptions { cost: policy.cost, ..options };
        let mut changes = report.spool();
        reconcile_many(&*store, &desired, &mut changes, &options, "hashing", line_of)?;
        report.publish(changes)
    }
}

/// Parses a line. Returns `None` for an empty one.
fn parse(number: usize, line: &str) -> Result<Option<(UserName, Password)>, Failure> {
    if line.is_empty() {
        return Ok(None);
    }
    let (name, password) =
        line.split_once(':').ok_or_else(|| bad_line(number, "there is no colon in it"))?;
    let name = UserName::parse(name).map_err(|e| {
        let why = "what stands before the colon can't be a user's name";
        bad_line(number, format_args!("{why}: {e}"))
    })?;
    let password = Password::parse(password).map_err(|e| refused(number, &name, &e))?;
    Ok(Some((name, password)))
}

fn refused(number: usize, name: &UserName, why: &dyn std::fmt::Display) -> Failure {
    bad_line(number, format_args!("the password of {name} is refused: {why}"))
}
