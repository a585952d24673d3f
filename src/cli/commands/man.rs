//! `resttool man`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man as Page;
use roff::{Roff, bold, roman};

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
            let mut program = definition().disable_help_subcommand(true);
            program.build();
            let commands = program.get_subcommands().filter(|command| !command.is_hide_set());
            for command in commands.chain([&program]) {
                let path = self.folder.join(format!("{}.1", name(command)));
                let mut output = Output::replace(&path, PUBLIC, &inputs)?;
                write_page(command, &program, &mut output)?;
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

/// Returns the name of a page, e.g. `resttool-serve`.
fn name(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The commands that do not use the store.
const WITHOUT_STORE: [&str; 4] = ["hash", "print", "completions", "man"];

/// Writes a page with the sections of man-pages(7) in their order.
fn write_page(
    command: &clap::Command,
    program: &clap::Command,
    out: &mut impl Write,
) -> io::Result<()> {
    let page = Page::new(command.clone());
    // Without a date, since two builds of a release give the same bytes. clap_mangen would leave the
    // argument out.
    let version = env!("CARGO_PKG_VERSION");
    let title = name(command).to_uppercase();
    writeln!(out, r#".TH {title} 1 "" "resttool {version}" "User Commands""#)?;
    // Left-adjusted, without hyphenation.
    Roff::new().control("ad", ["l"]).control("nh", []).to_writer(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let blocks: Vec<_> = help.split("\n\n").map(Block::parse).collect();
    for block in &blocks {
        if let Block::Text(text) = block {
            paragraph(text).to_writer(out)?;
        }
    }
    page.render_options_section(out)?;
    let is_program = std::ptr::eq(command, program);
    if is_program {
        page.render_subcommands_section(out)?;
    }
    let lines = |heading: &str| {
        blocks.iter().find_map(|block| match block {
            Block::Section(name, lines) if *name == heading => Some(lines.as_slice()),
            _ => None,
        })
    };
    let section = |heading: &str| lines(heading).map(preformatted);
    let mut write = |heading: &str, body: Option<Roff>| -> io::Result<()> {
        let Some(body) = body else { return Ok(()) };
        Roff::new().control("SH", [heading]).to_writer(out)?;
        body.to_writer(out)
    };
    write("ROUTES", section("Routes"))?;
    write("EXIT STATUS", Some(section("Exit codes").unwrap_or_else(exit_status)))?;
    write("ENVIRONMENT", environment(command))?;
    let uses_store = !WITHOUT_STORE.contains(&command.get_name());
    write("FILES", uses_store.then(files))?;
    write("EXAMPLES", lines("Examples").map(examples))?;
    write("SEE ALSO", Some(see_also(command, program)))
}

/// A block of a long help, separated by blank lines.
enum Block<'a> {
    /// The lines below a heading.
    Section(&'a str, Vec<&'a str>),
    Text(&'a str),
}

impl<'a> Block<'a> {
    fn parse(text: &'a str) -> Self {
        match text.split_once(":\n") {
            Some((name @ ("Examples" | "Routes" | "Exit codes"), lines)) => {
                Self::Section(name, lines.lines().collect())
            }
            _ => Self::Text(text),
        }
    }
}

/// Formats lines as they are.
fn preformatted<'a>(lines: impl IntoIterator<Item = &'a &'a str>) -> Roff {
    let mut body = Roff::new();
    body.control("nf", []);
    for line in lines {
        body.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    body.control("fi", []);
    body
}

/// Formats commands as they are, with their explanations below them.
fn examples(lines: &[&str]) -> Roff {
    let split = |line: &&'_ str| match line.trim_start().split_once("   ") {
        Some((command, why)) => vec![command.to_owned(), format!("      {}", why.trim_start())],
        None => vec![(*line).to_owned()],
    };
    let lines: Vec<_> = lines.iter().flat_map(split).collect();
    preformatted(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Formats sentences, and indented lines as they are.
fn paragraph(text: &str) -> Roff {
    let mut body = Roff::new();
    body.control("PP", []);
    let (plain, indented): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| !line.starts_with("  "));
    body.text([roman(plain.join(" "))]);
    if !indented.is_empty() {
        body.control("PP", []);
        body.extend([preformatted(&indented)]);
    }
    body
}

fn exit_status() -> Roff {
    let mut body = Roff::new();
    body.text([roman("0 on success. "), bold("resttool"), roman("(1) lists the other codes.")]);
    body
}

/// Returns a list of the variables, if there are any.
fn environment(command: &clap::Command) -> Option<Roff> {
    let variables = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let variables = variables.filter_map(|argument| {
        let name = argument.get_env()?.to_string_lossy().into_owned();
        Some((name, argument.get_long()?.to_owned()))
    });
    let mut body = Roff::new();
    let mut some = false;
    for (name, option) in variables {
        body.control("TP", []);
        body.text([bold(name)]);
        body.text([roman("Sets "), bold(format!("--{option}")), roman(".")]);
        some = true;
    }
    some.then_some(body)
}

fn files() -> Roff {
    let mut body = Roff::new();
    for (path, what) in [
        (
            "~/.local/share/resttool/resttool.db",
            "The users, without --database. The folder is $XDG_DATA_HOME/resttool if that is set.",
        ),
        (
            "resttool.db-wal, resttool.db-shm",
            "Companion files of SQLite while the store is in use.",
        ),
    ] {
        body.control("TP", []);
        body.text([bold(path)]);
        body.text([roman(what)]);
    }
    body
}

fn see_also(command: &clap::Command, program: &clap::Command) -> Roff {
    let commands = program.get_subcommands().filter(|other| !other.is_hide_set());
    let names = [program].into_iter().chain(commands).map(name);
    let mut body = Roff::new();
    let mut words = Vec::new();
    for other in names.filter(|other| *other != name(command)) {
        if !words.is_empty() {
            words.push(roman(", "));
        }
        words.push(bold(other));
        words.push(roman("(1)"));
    }
    body.text(words);
    body
}
