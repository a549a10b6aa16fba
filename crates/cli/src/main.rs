//! The binary `wiredflow`: the command-line tool without a flow of its own.

/// Thousands of pipelines that allocate and free at once are two thirds of the work with the system's allocator, and
/// leave fewer holes. A user's own program chooses for itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wiredflow::plain_main()
}
