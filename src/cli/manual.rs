//! What is made of the arguments' own definitions: completions for shells, and pages of a manual.

use std::io::{self, Write};
use std::path::Path;

use clap_mangen::Man;

use super::args;
use super::exit::{Failure, cannot_print};
use super::output::{Inputs, Output, PUBLIC, Refusal, create_folders};
use crate::text::printable;

pub(super) fn completions(
    args: &args::Completions,
    mut command: clap::Command,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "resttool", &mut script);
    let mut out = io::stdout();
    out.write_all(&script).and_then(|()| out.flush()).map_err(cannot_print)
}

pub(super) fn man(
    args: &args::Man,
    command: clap::Command,
    database: &Path,
) -> Result<(), Failure> {
    let write = || -> Result<(), Refusal> {
        create_folders(&args.folder)?;
        let inputs = Inputs::of_store(database);
        for page in pages(&command.disable_help_subcommand(true)) {
            let path = args.folder.join(page.get_filename());
            let mut output = Output::replace(&path, PUBLIC, &inputs)?;
            page.render(&mut output)?;
            output.finish()?;
        }
        Ok(())
    };
    write().map_err(|e| {
        let folder = printable(&args.folder.to_string_lossy());
        e.failure(format_args!("write pages to {folder}"))
    })
}

/// A page for the command, and one for each verb.
fn pages(command: &clap::Command) -> Vec<Man> {
    let mut command = command.clone();
    command.build();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    verbs.chain([&command]).cloned().map(Man::new).collect()
}
