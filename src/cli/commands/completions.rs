//! `resttool completions`

use std::io::{self, Write};

use clap::Args;

use crate::cli::definition;
use crate::cli::exit::{Failure, cannot_print};
use crate::store::Location;

/// Print a completion script for a shell
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
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition(), "resttool", &mut script);
        let mut out = io::stdout();
        out.write_all(&script).and_then(|()| out.flush()).map_err(cannot_print)
    }
}
