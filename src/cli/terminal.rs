//! Prompts on the terminal without echo.
//!
//! The terminal is standard input. If standard input is something else, a script runs the command,
//! and there is no prompt. Prompts go to standard error, since standard output is for results.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use rustix::io::retry_on_intr;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use zeroize::Zeroizing;

use super::exit::{Exit, Failure, say};

/// The longest line that a terminal returns in one read, in bytes.
const MAX_LINE: usize = 4096;

/// Returns true if standard input is a terminal.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal()
}

/// Returns true if standard error is a terminal.
pub(super) fn shows_messages() -> bool {
    io::stderr().is_terminal()
}

/// Returns true if standard error is a terminal with colours, and the environment (NO_COLOR, TERM)
/// allows them.
pub(super) fn has_colours() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// Returns the width of the terminal that is standard output, in cells.
pub(super) fn width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}

/// Writes a line that says what is read from standard input, if that is a terminal, which would wait
/// in silence.
pub(super) fn announce(what: &str) {
    if is_there() {
        say(&format!("resttool: reading {what} from the terminal; end with Ctrl-D on a new line"));
    }
}

/// Prompts, and returns the typed line, which is not echoed.
pub(super) fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    let failed =
        |e: io::Error| Failure::new(Exit::Failed, format_args!("cannot ask on the terminal: {e}"));
    let mut typed = Zeroizing::new([0; MAX_LINE]);
    let silence = Silence::begin().map_err(failed)?;
    let mut err = io::stderr();
    write!(err, "{question}").and_then(|()| err.flush()).map_err(failed)?;
    // Read past the buffer of std, which would keep a copy. A terminal gives one line at a time.
    let length = retry_on_intr(|| rustix::io::read(io::stdin(), &mut typed[..]));
    drop(silence);
    say("");
    let length = length.map_err(|e| failed(e.into()))?;
    // Input without a line end was ended by Ctrl-C or Ctrl-D.
    let Some(line) = typed[..length].strip_suffix(b"\n") else {
        return Err(Failure::new(Exit::Interrupted, "interrupted"));
    };
    let line = std::str::from_utf8(line)
        .map_err(|_| Failure::new(Exit::Refused, "what was typed is not UTF-8"))?;
    Ok(Zeroizing::new(line.to_owned()))
}

/// A guard that turns echo off until it is dropped. Ctrl-C ends the line instead of the program,
/// which could not restore the terminal any more.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] =
            before.special_codes[SpecialCodeIndex::VINTR];
        // Drops earlier input, which was echoed and may not be the answer.
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // If this fails, the terminal is gone, and an error could not be shown.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
