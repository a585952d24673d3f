//! What is made of the arguments' own definitions: completions for shells, and pages of a manual.

use std::fs;
use std::io::{self, Write};

use super::args;
use super::exit::{Exit, Failure, cannot_print};
use crate::credential::printable;

pub(super) fn completions(
    args: &args::Completions,
    mut command: clap::Command,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "resttool", &mut script);
    let mut out = io::stdout();
    out.write_all(&script).and_then(|()| out.flush()).map_err(cannot_print)
}

pub(super) fn man(args: &args::Man, command: clap::Command) -> Result<(), Failure> {
    fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(command, &args.folder))
        .map_err(|e| {
            let folder = printable(&args.folder.to_string_lossy());
            Failure::new(Exit::Failed, format_args!("cannot write pages to {folder}: {e}"))
        })
}
