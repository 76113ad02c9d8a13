//! `make compare`: Watershed and its peers, side by side.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    watershed_bench::compare::main()
}
