//! `resttool man`

use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man as Page;

use crate::cli::definition;
use crate::cli::exit::Failure;
use crate::cli::output::{Inputs, Output, PUBLIC, Refusal, create_folders};
use crate::store::Location;
use crate::text::printable;

/// Write the manual pages to a folder
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool man /usr/local/share/man/man1")]
pub(in crate::cli) struct Man {
    /// The folder; it is created if it does not exist
    folder: PathBuf,
}

impl Man {
    pub(super) fn describe(&self) -> String {
        "write the manual".to_owned()
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let write = || -> Result<(), Refusal> {
            create_folders(&self.folder)?;
            let inputs = Inputs::of_store(location);
            for page in pages() {
                let path = self.folder.join(page.get_filename());
                let mut output = Output::replace(&path, PUBLIC, &inputs)?;
                page.render(&mut output)?;
                output.finish()?;
            }
            Ok(())
        };
        write().map_err(|e| {
            let folder = printable(&self.folder.to_string_lossy());
            e.failure(format_args!("write pages to {folder}"))
        })
    }
}

/// Returns a page for the program and one for each command.
fn pages() -> Vec<Page> {
    let mut program = definition().disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set());
    commands.chain([&program]).cloned().map(Page::new).collect()
}
