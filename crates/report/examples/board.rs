//! Makes TensorBoard events of a finished run: `cargo run -p dendrite-report --example board -- RUN FOLDER`.

use dendrite_report::tensorboard::Board;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(run), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: board RUN FOLDER".into());
    };
    let run = std::path::PathBuf::from(run);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    let mut board = Board::create(folder.as_ref())?;
    let config = std::fs::read_to_string(run.join("config.toml"))?;
    board.writer().text("options", 0, now, &format!("```toml\n{config}```"))?;
    for line in std::fs::read_to_string(run.join("events.jsonl"))?.lines() {
        board.record(&serde_json::from_str(line)?, now)?;
    }
    board.writer().sync()?;
    Ok(())
}
