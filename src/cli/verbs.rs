//! What the verbs do, a function each. `serve` has a file of its own.

use std::path::Path;

use super::args;
use super::exit::{Exit, Failure, print, say};
use super::secret::{Source, hash_from_stdin};
use crate::credential::{Password, PasswordHash, UserName};
use crate::store;
use crate::users::{self, Policy};

pub(super) fn useradd(args: &args::Useradd, database: &Path) -> Result<(), Failure> {
    let name = UserName::parse(&args.name)?;
    let policy = policy(&args.cost, &args.length)?;
    // Pipes are read before anything else can fail: whoever writes into one is not cut off.
    let given = if args.hash_stdin {
        Secret::Hash(hash_from_stdin(&args.password)?)
    } else {
        Secret::Password(Source::open(&args.password)?)
    };
    let mut generated = None;
    let store = store::open(database)?;
    let added: Result<(), Failure> = users::add(&*store, &name, || match given {
        Secret::Hash(hash) => Ok(hash),
        Secret::Password(source) => {
            let password = source.password()?;
            let hash = hash_of(&password, &policy, Some(&name))?;
            generated = args.password.generate.then_some(password);
            Ok(hash)
        }
    });
    match added {
        Err(e) if e.exit == Exit::UserExists && args.if_not_exists => {
            say(&format!("resttool: user {name} exists, nothing changed"));
            return Ok(());
        }
        added => added?,
    }
    if let Some(password) = generated {
        // Only now, since a password that is printed is one that works.
        print(password.reveal()).map_err(|e| {
            e.hint(format!(
                "the user was added, and nobody knows the password: resttool userdel {name}"
            ))
        })?;
    }
    say(&format!("resttool: added user {name}"));
    Ok(())
}

enum Secret {
    Password(Source),
    Hash(PasswordHash),
}

pub(super) fn userdel(args: &args::Userdel, database: &Path) -> Result<(), Failure> {
    let name = UserName::parse(&args.name)?;
    match store::open(database)?.remove(&name).map_err(Failure::from) {
        Err(e) if e.exit == Exit::NoSuchUser && args.if_exists => {
            say(&format!("resttool: there is no user {name}, nothing changed"));
        }
        removed => {
            removed?;
            say(&format!("resttool: removed user {name}"));
        }
    }
    Ok(())
}

pub(super) fn hash(args: &args::Hash) -> Result<(), Failure> {
    let policy = policy(&args.cost, &args.length)?;
    let password = Source::open(&args.password)?.password()?;
    let hash = hash_of(&password, &policy, None)?;
    if args.password.generate {
        say(&format!("password: {}", password.reveal()));
    }
    print(hash.as_str())
}

fn policy(cost: &args::Cost, length: &args::MinLength) -> Result<Policy, Failure> {
    Ok(Policy { min_length: length.min_length.into(), cost: cost.parse()? })
}

fn hash_of(
    password: &Password,
    policy: &Policy,
    user: Option<&UserName>,
) -> Result<PasswordHash, Failure> {
    let (hash, warnings) = policy.hash(password, user)?;
    for warning in warnings {
        say(&format!("resttool: warning: {warning}"));
    }
    Ok(hash)
}
