//! The command line. Everything it does is in the library's modules and in `cli/`, one file a subcommand.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
