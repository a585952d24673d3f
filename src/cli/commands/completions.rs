//! `resttool completions`

use std::io::{self, Write};

use clap::Args;

use crate::cli::complete;
use crate::cli::exit::{Failure, cannot_print};
use crate::store::Location;

/// Print a completion script for a shell, which also completes the names of users and groups
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool completions bash >/etc/bash_completion.d/resttool
  resttool completions fish >~/.config/fish/completions/resttool.fish")]
pub(in crate::cli) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn describe(&self) -> String {
        "print completions".to_owned()
    }

    pub(super) fn run(&self, _: &Location) -> Result<(), Failure> {
        let script = complete::script(self.shell).map_err(cannot_print)?;
        let mut out = io::stdout();
        out.write_all(&script).and_then(|()| out.flush()).map_err(cannot_print)
    }
}
