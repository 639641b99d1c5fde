//! Resident memory stays flat while a data set larger than its budget is checked and read.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use common::request;
use dendrite_data::{Loader, open};

const WIDTH: usize = 1024;
const ROWS: usize = 75_000;

/// The high-water mark of resident memory, in MiB.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// A zip archive of stored members; the elements are zeros, which take no room on the disk.
fn npz(path: &Path, members: &[(&str, String, u32)]) {
    let mut file = File::create(path).unwrap();
    let mut directory = Vec::new();
    for (name, text, bytes) in members {
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        header.extend((text.len() as u16).to_le_bytes());
        header.extend(text.as_bytes());
        let size = header.len() as u32 + bytes;
        // Version, flags, method, time, date, checksum (which ranges are not read with), sizes, name, extra.
        let mut fields = [10u16, 0, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        fields.extend([0, size, size].iter().flat_map(|v: &u32| v.to_le_bytes()));
        fields.extend([name.len() as u16, 0].iter().flat_map(|v| v.to_le_bytes()));
        let at = file.stream_position().unwrap() as u32;
        file.write_all(&[b"PK\x03\x04", fields.as_slice(), name.as_bytes(), &header].concat()).unwrap();
        let end = file.stream_position().unwrap() + u64::from(*bytes);
        file.set_len(end).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        directory
            .extend([b"PK\x01\x02\x0a\x00", fields.as_slice(), &[0; 10], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let start = file.stream_position().unwrap() as u32;
    let count = members.len() as u16;
    let mut end = [0, 0, count, count].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    end.extend([directory.len() as u32, start].iter().flat_map(|v| v.to_le_bytes()));
    file.write_all(&[directory.as_slice(), b"PK\x05\x06", &end, &[0; 2]].concat()).unwrap();
}

#[test]
fn memory_stays_flat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.npz");
    let header =
        |descr: &str, shape: String| format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}");
    npz(
        &path,
        &[
            ("x.npy", header("<f4", format!("({ROWS}, {WIDTH})")), (ROWS * WIDTH * 4) as u32),
            ("target.npy", header("<i8", format!("({ROWS},)")), (ROWS * 8) as u32),
        ],
    );
    assert!(fs::metadata(&path).unwrap().len() > 300_000_000);
    let before = peak();
    let samples = open(&path, &request(&[WIDTH])).unwrap();
    assert!(!samples.is_resident());
    let order: Vec<usize> = (0..ROWS).map(|i| i * 7919 % ROWS).collect();
    let count: usize = Loader::new(&samples, 64, order, None).unwrap().map(|batch| batch.unwrap().count).sum();
    assert_eq!(count, ROWS);
    let grown = peak() - before;
    assert!(grown < 32, "resident memory grew by {grown} MiB");
}
