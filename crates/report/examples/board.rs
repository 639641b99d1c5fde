//! Makes TensorBoard events of a finished run: `cargo run -p dendrite-report --example board -- RUN FOLDER`.

use dendrite_report::tensorboard::Board;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(run), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: board RUN FOLDER".into());
    };
    let run = std::path::PathBuf::from(run);
    let mut board = Board::create(folder.as_ref())?;
    let config = std::fs::read_to_string(run.join("config.toml"))?;
    board.writer().text("options", 0, 0.0, &format!("```toml\n{config}```"))?;
    for line in std::fs::read_to_string(run.join("events.jsonl"))?.lines() {
        board.record(&serde_json::from_str(line)?, 0.0)?;
    }
    board.writer().sync()?;
    Ok(())
}
