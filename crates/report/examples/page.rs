//! Makes the page of a run folder: `cargo run -p dendrite-report --example page -- RUN > report.html`.

fn main() -> Result<(), dendrite_report::Error> {
    for folder in std::env::args_os().skip(1) {
        print!("{}", dendrite_report::render(folder.as_ref())?);
    }
    Ok(())
}
