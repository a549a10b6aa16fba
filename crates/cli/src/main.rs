//! The binary `wiredflow`: the command-line tool without a flow of its own.

/// With thousands of pipelines a good part of the CPU went into the system's allocator. A user's own program chooses for
/// itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wiredflow::plain_main()
}
