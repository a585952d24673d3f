//! What keeps a store well over the years.

use std::path::Path;

use serde::Serialize;

use super::args;
use super::exit::{Exit, Failure, print, say};
use super::output::{Inputs, Output, PRIVATE, Refusal};
use super::report::json;
use crate::credential::UserName;
use crate::store::{self, Flaw};
use crate::text::printable;

pub(super) fn check(args: &args::Check, database: &Path) -> Result<(), Failure> {
    let flaws = store::check(database, args.cost.parse()?)?;
    for flaw in &flaws {
        let Flaw { problem, user, fix } = flaw;
        if args.json.json {
            let user = user.as_ref().map(UserName::as_str);
            let object = Object { problem, user, fix: fix.as_deref() };
            print(&json(&object)?)?;
        } else {
            print(problem)?;
            if let Some(fix) = fix {
                print(&format!("  fix: {fix}"))?;
            }
        }
    }
    let store = printable(&database.to_string_lossy());
    match flaws.len() {
        0 if args.quiet => Ok(()),
        0 => {
            say(&format!("resttool: found no problems in {store}"));
            Ok(())
        }
        1 => Err(Failure::new(Exit::Failed, format_args!("found 1 problem in {store}"))),
        n => Err(Failure::new(Exit::Failed, format_args!("found {n} problems in {store}"))),
    }
}

/// Something that is wrong, for programs.
#[derive(Serialize)]
struct Object<'a> {
    problem: &'a str,
    user: Option<&'a str>,
    fix: Option<&'a str>,
}

pub(super) fn backup(args: &args::Backup, database: &Path) -> Result<(), Failure> {
    let file = printable(&args.file.to_string_lossy());
    let writing = format!("write {file}");
    let inputs = Inputs::of_store(database);
    let mut output =
        Output::replace(&args.file, PRIVATE, &inputs).map_err(|e| e.failure(&writing))?;
    store::backup(database, &mut output)?;
    output.finish().map_err(|e| Refusal::from(e).failure(&writing))?;
    if !args.quiet {
        say(&format!("resttool: backed up to {file}"));
    }
    Ok(())
}
