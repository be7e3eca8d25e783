//! Prints where the etcd is that a registry package carries. Which one is up to the manifest.

use std::process::ExitCode;

fn main() -> ExitCode {
    match etcd_bin_vendored::etcd_bin_path() {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("no bundled etcd of this version for this platform: {error}");
            ExitCode::FAILURE
        }
    }
}
