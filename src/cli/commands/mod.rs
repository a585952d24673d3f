//! The commands: one file each, with its arguments beside its action.

use clap::Subcommand;

use super::exit::Failure;
use crate::store::Location;

/// Declares the commands. A command is a `clap::Args` with the methods `describe`, which completes
/// "cannot ..." in its errors, and `run`.
macro_rules! commands {
    ($($module:ident: $name:ident,)*) => {
        $(mod $module;)*

        #[derive(Subcommand, Debug)]
        pub(super) enum Command {
            $($name(Box<$module::$name>),)*
        }

        impl Command {
            pub(super) fn describe(&self) -> String {
                match self {
                    $(Self::$name(command) => command.describe(),)*
                }
            }

            pub(super) fn run(&self, store: &Location) -> Result<(), Failure> {
                match self {
                    $(Self::$name(command) => command.run(store),)*
                }
            }
        }
    };
}

commands! {
    serve: Serve,
    useradd: Useradd,
    passwd: Passwd,
    usermod: Usermod,
    userdel: Userdel,
    userlist: Userlist,
    verify: Verify,
    chpasswd: Chpasswd,
    import: Import,
    export: Export,
    apply: Apply,
    hash: Hash,
    status: Status,
    health: Health,
    throttle: Throttle,
    check: Check,
    backup: Backup,
    database: Database,
    print: Print,
    completions: Completions,
    man: Man,
}
