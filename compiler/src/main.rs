//! The command line `braid`: arguments, files, and how errors are shown. Everything else is in the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
