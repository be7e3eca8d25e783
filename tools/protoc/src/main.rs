//! Becomes the protoc that a registry package carries, with this process's own arguments.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let program = match protoc_bin_vendored::protoc_bin_path() {
        Ok(path) => path,
        Err(error) => {
            eprintln!("no bundled protoc for this platform ({error}); install protoc and retry");
            return ExitCode::FAILURE;
        }
    };
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1));
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot run {}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}
