//! What a run of all benches is begun and ended with: the machine is written down first (`machine`); then
//! pictures are drawn of the raw figures (`pictures`), and README's table is renewed (`readme`). Each takes
//! the run's folder: `cargo bench --bench report -- pictures benches/runs/2026-12-01`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

mod chart;
mod figures;
mod machine;
mod pictures;
mod readme;

use std::path::PathBuf;

fn main() {
    // Cargo starts a bench in its crate's folder; this one's arguments are as its caller sees them.
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = |at: usize| {
        let named = args.get(at).filter(|arg| !arg.starts_with('-'));
        root.join(named.expect("the folder of a run, seen from the top of the repository"))
    };
    match args.first().map(String::as_str) {
        Some("machine") => {
            let folder = folder(1);
            std::fs::create_dir_all(&folder).expect("the run's folder can be made");
            let text = machine::describe();
            print!("{text}");
            std::fs::write(folder.join("machine.txt"), text).expect("the machine is written down");
        }
        Some("pictures") => {
            let folder = folder(1);
            println!("drawn: {}", pictures::draw(&folder).join(", "));
        }
        Some("readme") => readme::renew(&root.join("README.md"), &folder(1)),
        // `cargo bench` without a name runs all: then there is nothing to report on.
        Some(_) | None => println!("report: machine, pictures or readme, and the folder of a run"),
    }
}
