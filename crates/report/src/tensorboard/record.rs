//! The framing of TFRecord files: length, its checksum, payload, its checksum; all little-endian.

/// `payload` as a record.
pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(payload.len() + 16);
    bytes.extend(length);
    bytes.extend(masked(&length).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(masked(payload).to_le_bytes());
    bytes
}

/// The checksum as it is stored: a CRC of data that hold their own CRC would be degenerate, so it is rotated and shifted.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_as_tensorboard_writes_it() {
        // tensorboard.summary.writer.record_writer.RecordWriter of TensorBoard 2.21.0 given b"dendrite".
        let golden = "0800000000000000ff86240f64656e6472697465907fad7b";
        let bytes = framed(b"dendrite");
        assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), golden);
    }
}
