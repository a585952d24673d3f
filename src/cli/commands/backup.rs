//! `resttool backup`

use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{Exit, Failure, say};
use crate::cli::output::{Inputs, Output, PRIVATE, Refusal};
use crate::config::QuietSetting;
use crate::store::{self, Location};
use crate::text::{printable, shell_word};

/// Write a consistent copy of the database while it is in use
#[derive(Args, Debug)]
#[command(
    after_long_help = "The copy replaces the file atomically, and only its owner may read it. It is built in memory
and takes up to twice the size of the database, which may be at most 1 GiB. To restore a copy, move
it over the database. A running server uses it from the next request on.

Examples:
  resttool backup users.backup
  resttool check --database users.backup --cost 4"
)]
pub(in crate::cli) struct Backup {
    /// The destination file; replaced atomically if it exists
    file: PathBuf,

    #[command(flatten)]
    quiet: QuietSetting,
}

impl Backup {
    pub(super) fn describe(&self) -> String {
        format!("back the store up to {}", printable(&self.file.to_string_lossy()))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        if let Location::Postgres(_) = location {
            let (file, url) = (shell_word(&self.file), location.shell_word());
            let why = format_args!("{location} is a PostgreSQL database");
            return Err(Failure::new(Exit::Failed, why)
                .hint(format!("pg_dump --schema=resttool --file={file} {url}")));
        }
        let file = printable(&self.file.to_string_lossy());
        let writing = format!("write {file}");
        let inputs = Inputs::of_store(location);
        let mut output =
            Output::replace(&self.file, PRIVATE, &inputs).map_err(|e| e.failure(&writing))?;
        store::backup(location, &mut output)?;
        output.finish().map_err(|e| Refusal::from(e).failure(&writing))?;
        if !self.quiet.quiet {
            say(&format!("resttool: backed up to {file}"));
        }
        Ok(())
    }
}
