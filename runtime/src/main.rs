//! `braid-run`: runs artifacts, without the compiler.

fn main() -> std::process::ExitCode {
    braid_runtime::cli::main()
}
