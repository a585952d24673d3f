//! `resttool export`

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use crate::cli::exit::{Exit, Failure, cannot_print, say};
use crate::cli::open::open_store;
use crate::cli::options::UserFormat;
use crate::cli::output::{Inputs, Output, PRIVATE, Refusal};
use crate::cli::report::write_each;
use crate::config::QuietSetting;
use crate::domain::Account;
use crate::formats::{htpasswd, jsonl};
use crate::store::{Location, StoreError};
use crate::text::printable;

/// Export all users with their hashes to a file that only its owner may read
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool export /etc/nginx/htpasswd          without locked and expired users
  resttool export users.jsonl --format jsonl   a complete copy
  resttool export | resttool import - --database new.db")]
pub(in crate::cli) struct Export {
    /// The file, replaced atomically if it exists; - is standard output
    #[arg(default_value = "-")]
    file: PathBuf,

    /// Write the file in this format
    #[arg(long, value_name = "FORMAT", default_value = "htpasswd")]
    format: UserFormat,

    #[command(flatten)]
    quiet: QuietSetting,
}

impl Export {
    pub(super) fn describe(&self) -> String {
        format!("export to {}", printable(&self.file.to_string_lossy()))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let now = SystemTime::now();
        let store = open_store(location)?;
        let (mut skipped, mut wrapped) = (0, 0);
        let line = |user: &Account| {
            let unusable = |why| StoreError::BadRecord { user: user.name.clone(), why };
            match self.format {
                UserFormat::Jsonl => Ok(Some(jsonl::line(user).map_err(unusable)?)),
                UserFormat::Htpasswd if user.locked || user.has_expired(now) => {
                    skipped += 1;
                    Ok(None)
                }
                UserFormat::Htpasswd => {
                    let hash = user.hash.as_ref().map_err(|why| unusable(*why))?;
                    if hash.wrapped.is_some() {
                        wrapped += 1;
                        return Ok(None);
                    }
                    htpasswd::line(&user.name, &hash.bcrypt).map(Some).ok_or_else(|| {
                        let why = "a line that begins with # is a comment";
                        Failure::new(Exit::Failed, format_args!("user {}: {why}", user.name))
                    })
                }
            }
        };
        let file = printable(&self.file.to_string_lossy());
        let to_stdout = self.file == Path::new("-");
        if to_stdout {
            write_each(&*store, &mut BufWriter::new(io::stdout().lock()), line, cannot_print)?;
        } else {
            let writing = format!("write {file}");
            let failed = |e: Refusal| e.failure(&writing);
            let inputs = Inputs::of_store(location);
            let mut output = Output::replace(&self.file, PRIVATE, &inputs).map_err(failed)?;
            write_each(&*store, &mut BufWriter::new(&mut output), line, |e| failed(e.into()))?;
            output.finish().map_err(|e| failed(e.into()))?;
        }
        if skipped > 0 {
            say(&format!(
                "resttool: warning: skipped {skipped} locked or expired users, which the htpasswd format cannot represent"
            ));
        }
        if wrapped > 0 {
            let users = match wrapped {
                1 => "1 user".to_owned(),
                n => format!("{n} users"),
            };
            say(&format!(
                "resttool: warning: skipped {users} with an imported hash that no login has replaced yet; --format jsonl keeps them"
            ));
        }
        if !self.quiet.quiet && !to_stdout {
            say(&format!("resttool: exported to {file}"));
        }
        Ok(())
    }
}
