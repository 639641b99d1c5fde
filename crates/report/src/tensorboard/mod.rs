//! A run as TensorBoard events: a file of checksummed records, written event by event ([`EventWriter`]) and driven by the
//! lines of events.jsonl ([`Board`]).

mod board;
mod hparams;
mod proto;
mod record;
mod writer;

pub use board::Board;
pub use writer::EventWriter;
