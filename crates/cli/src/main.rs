//! The binary `wiredflow`: the command-line tool without a flow of its own.

fn main() -> std::process::ExitCode {
    wiredflow::plain_main()
}
