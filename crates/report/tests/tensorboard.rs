//! Event files, decoded by a reader of their own: framing and wire format are read here without the crate's help.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use dendrite_report::tensorboard::{Board, EventWriter};
use serde_json::{Value, json};

const EVENTS: &str = include_str!("../../../fixtures/runs/letters/events.jsonl");

/// The payloads of a file of records; panics where a length or a checksum is wrong.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let (mut at, mut found) = (0, Vec::new());
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        assert_eq!(word(at + 8), masked(&bytes[at..at + 8]));
        let payload = &bytes[at + 12..at + 12 + length];
        assert_eq!(word(at + 12 + length), masked(payload));
        found.push(payload.to_vec());
        at += 16 + length;
    }
    found
}

/// CRC-32C bit by bit, masked.
fn masked(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field of a protobuf message: number, varint or fixed value, and bytes.
type Field = (u64, u64, Vec<u8>);

/// The fields of a protobuf message.
fn fields(mut bytes: &[u8]) -> Vec<Field> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (value, length) = match key & 7 {
            0 => (varint(&mut bytes), 0),
            1 => (u64::from_le_bytes(bytes[..8].try_into().unwrap()), 8),
            2 => (0, varint(&mut bytes) as usize),
            5 => (u64::from(u32::from_le_bytes(bytes[..4].try_into().unwrap())), 4),
            kind => panic!("wire type {kind}"),
        };
        found.push((key >> 3, value, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

/// Tag, step and value of every scalar.
fn scalars(path: &Path) -> Vec<(String, u64, f32)> {
    let mut found = Vec::new();
    for record in records(path) {
        let event = fields(&record);
        let step = event.iter().find(|f| f.0 == 2).map_or(0, |f| f.1);
        for (_, _, summary) in event.iter().filter(|f| f.0 == 5) {
            let value = fields(&fields(summary)[0].2);
            let tag = value.iter().find(|f| f.0 == 1).map(|f| String::from_utf8(f.2.clone()).unwrap()).unwrap();
            let simple = value.iter().find(|f| f.0 == 2).map(|f| f32::from_bits(f.1 as u32));
            found.extend(simple.map(|v| (tag, step, v)));
        }
    }
    found
}

fn lines() -> Vec<Value> {
    EVENTS.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_becomes_scalars_over_all_its_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = Board::create(folder.path()).unwrap();
    for line in lines() {
        board.record(&line, 1.7e9).unwrap();
    }
    let path = board.writer().path().to_owned();
    board.writer().sync().unwrap();
    assert_eq!(board.writer().length(), fs::metadata(&path).unwrap().len());
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
    let version = fields(&records(&path)[0]);
    assert_eq!(version.last().unwrap(), &(3, 0, b"brain.Event:2".to_vec()));

    let scalars = scalars(&path);
    let of = |tag: &str| scalars.iter().filter(|(t, ..)| t == tag).map(|(_, s, v)| (*s, *v)).collect::<Vec<_>>();
    let epochs: Vec<Value> = lines().into_iter().filter(|l| l["event"] == "epoch").collect();
    let expected = |field: &str| -> Vec<(u64, f32)> {
        (1..).zip(&epochs).map(|(step, e)| (step, e[field].as_f64().unwrap() as f32)).collect()
    };
    assert_eq!(of("loss/train"), expected("train_loss"));
    assert_eq!(of("learning_rate"), expected("lr"));
    assert_eq!(of("loss/validation")[1..], expected("val_loss"));
    assert_eq!(of("metric/accuracy")[1..], expected("val_metric"));
    // The input's own scores come first, at step 0.
    assert_eq!(of("metric/accuracy")[0], (0, lines()[0]["val_metric"].as_f64().unwrap() as f32));
    assert_eq!(
        of("correlation/add_result/trained").len(),
        lines().iter().filter(|l| l["site"] == "add_result").count()
    );
    assert_eq!(of("verdict/kept").last().unwrap().0, epochs.len() as u64);
    assert_eq!(of("verdict/t").len(), of("verdict/kept").len());
}

#[test]
fn a_file_cut_within_a_record_goes_on_as_if_undisturbed() {
    let folder = tempfile::tempdir().unwrap();
    let lines = lines();
    let write = |board: &mut Board, lines: &[Value]| lines.iter().for_each(|l| board.record(l, 1.7e9).unwrap());
    let mut whole = Board::create(&folder.path().join("whole")).unwrap();
    write(&mut whole, &lines);

    let mut cut = Board::create(&folder.path().join("cut")).unwrap();
    write(&mut cut, &lines[..40]);
    let (path, length) = (cut.writer().path().to_owned(), cut.writer().length());
    write(&mut cut, &lines[40..45]);
    drop(cut);
    // The machine failed in the middle of a record that no checkpoint knows of.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    let told: String = EVENTS.split_inclusive('\n').take(40).collect();
    let mut resumed = Board::resume(&path, length, &told).unwrap();
    assert_eq!(resumed.writer().length(), length);
    write(&mut resumed, &lines[40..]);
    assert_eq!(scalars(&path), scalars(whole.writer().path()));
    assert_eq!(resumed.step(), whole.step());

    // One that is gone is made anew.
    fs::remove_file(&path).unwrap();
    let mut anew = Board::resume(&path, length, &told).unwrap();
    write(&mut anew, &lines[40..]);
    assert_eq!(scalars(anew.writer().path()), scalars(whole.writer().path()));
}

#[test]
fn a_file_shorter_than_it_should_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let writer = EventWriter::create(folder.path()).unwrap();
    let error = EventWriter::open_at(writer.path(), writer.length() + 1).unwrap_err();
    assert!(error.to_string().contains("tfevents"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn files_of_the_same_second_have_different_names() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..3).map(|_| EventWriter::create(folder.path()).unwrap().path().to_owned()).collect();
    assert!(paths[0] != paths[1] && paths[1] != paths[2] && paths[0] != paths[2]);
}

#[test]
fn events_that_are_not_known_and_numbers_that_are_none_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = Board::create(folder.path()).unwrap();
    let length = board.writer().length();
    for event in [json!({ "event": "novel", "x": 1 }), json!(7), json!({ "event": "epoch" })] {
        board.record(&event, 0.0).unwrap();
    }
    assert_eq!(board.writer().length(), length);
    let sets = json!({ "event": "site", "cycle": 1, "attempt": 0, "site": "a", "activation": "relu", "initial": 0.1,
        "trained": null, "samples": 9 });
    board.record(&sets, 0.0).unwrap();
    board.record(&sets, 0.0).unwrap();
    let tags: Vec<String> = scalars(board.writer().path()).into_iter().map(|(tag, ..)| tag).collect();
    assert_eq!(tags, ["correlation/a/initial", "correlation/a/initial_2"]);
}

/// The content for the HParams page under `tag`, if there is one.
fn hparams(path: &Path, tag: &str) -> Option<Vec<u8>> {
    let summaries = records(path).iter().flat_map(|r| fields(r)).filter(|f| f.0 == 5).collect::<Vec<_>>();
    let mut values = summaries.iter().map(|(_, _, summary)| fields(&fields(summary)[0].2));
    let value = values.find(|value| value.iter().any(|f| f.0 == 1 && f.2 == tag.as_bytes()))?;
    let of = |fields: &[(u64, u64, Vec<u8>)], n: u64| fields.iter().find(|f| f.0 == n).unwrap().2.clone();
    let plugin = fields(&of(&fields(&of(&value, 9)), 1));
    assert_eq!(of(&plugin, 1), b"hparams");
    assert!(value.iter().any(|f| f.0 == 8), "a value without a tensor is passed over");
    Some(of(&plugin, 2))
}

#[test]
fn options_are_told_once_for_the_page_that_compares_runs_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = Board::create(folder.path()).unwrap();
    let options = json!({ "method": "pb", "lr": null, "epochs": 30, "shuffle": true, "sites": [], "exclude": ["a", "b"],
        "augment": { "noise": 0.5 } });
    board.options(&options, 1.7e9).unwrap();
    board.options(&json!({ "method": "gd" }), 1.7e9).unwrap();
    let (path, length) = (board.writer().path().to_owned(), board.writer().length());
    assert_eq!(hparams(&path, "_hparams_/session_end_info"), None);
    let start = fields(&fields(&hparams(&path, "_hparams_/session_start_info").unwrap())[0].2);
    // Each entry is a key and a value; a value is a number (2), a text (3) or a truth (4).
    let told: Vec<(String, Field)> = start
        .iter()
        .filter(|f| f.0 == 1)
        .map(|entry| {
            let entry = fields(&entry.2);
            (String::from_utf8(entry[0].2.clone()).unwrap(), fields(&entry[1].2).remove(0))
        })
        .collect();
    let number = |n: f64| (2, n.to_bits(), n.to_le_bytes().to_vec());
    let text = |text: &str| (3, 0, text.as_bytes().to_vec());
    let expected = [
        ("augment.noise", number(0.5)),
        ("epochs", number(30.0)),
        ("exclude", text("a, b")),
        ("method", text("pb")),
        ("shuffle", (4, 1, Vec::new())),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(told, expected);
    assert_eq!(start.iter().find(|f| f.0 == 5).unwrap().1, 1.7e9f64.to_bits());

    // A file that goes on has been told; one that is made anew has not.
    drop(board);
    let mut resumed = Board::resume(&path, length, "").unwrap();
    resumed.options(&options, 1.7e9).unwrap();
    assert_eq!(resumed.writer().length(), length);
    resumed.record(&json!({ "event": "finished", "kept_cycles": 1, "parameters": 7 }), 1.8e9).unwrap();
    let end = fields(&fields(&hparams(&path, "_hparams_/session_end_info").unwrap())[0].2);
    assert_eq!((end[0].1, end[1].1), (1, 1.8e9f64.to_bits()));
}
