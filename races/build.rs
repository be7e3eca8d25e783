//! Tells the crate's sources that shuttle schedules them.

fn main() {
    println!("cargo:rustc-cfg=shuttle");
}
