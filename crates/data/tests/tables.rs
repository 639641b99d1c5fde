//! Tables: columns become inputs, and cells that are no numbers are named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{fs, path::PathBuf};

use common::{assert_error, fixture, floats, input, only, request, targets};
use dendrite_data::{Classes, DataSet, Error, Limits, Preprocess, Request, Samples, open};
use dendrite_onnx::{ElementType, Shape};

struct Csv {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn csv(text: &str) -> Csv {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    fs::write(&path, text).unwrap();
    Csv { _folder: folder, path }
}

fn read(text: &str, request: &Request) -> Result<Samples, Error> {
    open(csv(text).path, request)
}

#[test]
fn columns_become_an_input_by_name_by_number_or_all_together() {
    for text in [
        "x,target\n1,0\n2,1\n",
        "x_0;target\n1;0\n2;1\n",
        "target\tx[0]\r\n0\t1\r\n1\t2\r\n",
        "\u{feff}other,target\n1,0\n2,1\n",
        "target,\"x.0\"\n0,\"1\"\n1, 2 \n",
    ] {
        let samples = read(text, &request(&[1])).unwrap();
        assert_eq!((samples.kind(), floats(&samples, 0), targets(&samples)), ("csv", vec![1.0, 2.0], vec![0, 1]));
    }
    let series = read("x_1,x_0,noise,target\n1,2,9,0\n3,4,9,1\n", &request(&[2])).unwrap();
    assert_eq!(floats(&series, 0), [2.0, 1.0, 4.0, 3.0]);
    let all = read("a,target,b,w,c\n1,0,2,5,3.5\n4,1,5,6,6\n", &Request { weight: Some("w".into()), ..request(&[3]) })
        .unwrap();
    assert_eq!(floats(&all, 0), [1.0, 2.0, 3.5, 4.0, 5.0, 6.0]);
    assert_eq!(all.weights().unwrap().unwrap(), [5.0, 6.0]);
    let image = read("a,b,c,d,target\n1,2,3,4,0\n", &request(&[1, 2, 2])).unwrap();
    assert_eq!(
        (image.fields()[0].row_shape.as_slice(), floats(&image, 0)),
        ([1, 2, 2].as_slice(), vec![1., 2., 3., 4.])
    );
    let two = Request {
        inputs: vec![input("a", ElementType::Int64, &[1]), input("b", ElementType::Float, &[2])],
        target: Some("target".to_owned()),
        ..Request::default()
    };
    let found = read("a,b_0,b_1,target\n7,1,2,0.5\n8,3,4,1\n", &two).unwrap();
    assert_eq!(found.tensor(0).unwrap().to_i64().unwrap(), [7, 8]);
    assert_eq!(found.target_tensor().unwrap().to_f32().unwrap(), [0.5, 1.0]);
    let mapped =
        read("q,target\n1,0\n", &Request { target: Some("target".into()), ..only("q", ElementType::Float, &[1]) });
    assert_eq!(floats(&mapped.unwrap(), 0), [1.0]);
}

#[test]
fn a_data_set_says_what_it_holds() {
    let set = DataSet::open(csv("a,b,c\n1,0.5,x\n2,1,y\n").path, &Preprocess::default()).unwrap();
    let found: Vec<String> = set.describe().into_iter().map(|(name, what)| format!("{name}: {what}")).collect();
    assert_eq!(found, ["a: int64[2]", "b: float64[2]", "c: text[2]"]);
    let images = DataSet::open(fixture("images"), &Preprocess::default()).unwrap().describe();
    assert_eq!(images[0], ("image".to_owned(), "images[6]".to_owned()));
}

#[test]
fn several_columns_make_a_target() {
    let samples =
        read("x,y_0,y_1\n1,0.5,0.5\n2,1,0\n", &Request { target: Some("y".into()), ..request(&[1]) }).unwrap();
    assert_eq!(samples.target().unwrap().row_shape, [2]);
    assert_eq!(samples.target_tensor().unwrap().to_f32().unwrap(), [0.5, 0.5, 1.0, 0.0]);
}

#[test]
fn texts_as_targets_name_classes() {
    let text = "x,target\n1,dog\n2,cat\n3,dog\n4, bird\n";
    let samples = read(text, &request(&[1])).unwrap();
    assert_eq!(samples.classes().unwrap(), ["bird", "cat", "dog"]);
    assert_eq!(targets(&samples), [2, 1, 2, 0]);
    let mut listed = request(&[1]);
    let names = |names: &[&str]| Some(Classes::Names(names.iter().map(|n| (*n).to_owned()).collect()));
    listed.preprocess.classes = names(&["dog", "cat", "bird", "fox"]);
    assert_eq!(targets(&read(text, &listed).unwrap()), [0, 1, 0, 2]);
    listed.preprocess.classes = names(&["dog", "cat"]);
    assert_error(
        read(text, &listed).unwrap_err(),
        "column 'target' holds 'bird' in row 3, the classes are dog, cat",
        "preprocess.classes",
    );
    assert_eq!(targets(&read("x,target\n1,True\n2,false\n", &request(&[1])).unwrap()), [1, 0]);
}

#[test]
fn integers_beyond_float64_stay_exact() {
    let large = (1i64 << 60) + 1;
    let request = Request { inputs: vec![input("x", ElementType::Int64, &[1])], ..Request::default() };
    let samples = read(&format!("x,y\n{large},1\n2,1\n"), &request).unwrap();
    assert_eq!(samples.tensor(0).unwrap().to_i64().unwrap(), [large, 2]);
}

#[test]
fn cells_that_are_no_numbers_are_named_by_line_row_and_column() {
    let case = |text: &str, row: &[usize], reason: &str, hint: &str| {
        assert_error(read(text, &request(row)).unwrap_err(), reason, hint);
    };
    case("x,target\n1,0\n\n?,1\n", &[1], "column 'x' holds '?' in line 4 (row 1) among numbers", "repair the cell");
    case("x,target\n1,0\n,1\n", &[1], "column 'x' has an empty cell in line 3 (row 1)", "remove the row");
    case("x,target\n1,0\nnan,1\n", &[1], "column 'x' holds 'nan' in line 3 (row 1)", "repair the cell");
    case(
        "x,target\na,0\nb,1\n",
        &[1],
        "column 'x' holds text ('a' in line 2 (row 0)), the model's input 'x' takes numbers",
        "repair",
    );
    case("x,target\n1,a\n2,\n", &[1], "column 'target' has an empty cell in line 3 (row 1)", "fill the cell");
    case("x,target\n1,0\n2,1,3\n", &[1], "line 3 has 3 cells, the header has 2", "quote cells");
    case("1,2\n3,4\n", &[1], "the first line holds numbers", "header row");
    case(",x,target\n0,1,0\n", &[1], "column 1 has no name", "to_csv(index=False)");
    case("x,x\n1,0\n", &[1], "columns 1 and 2 are both called 'x'", "its own name");
    case("x,target\n", &[1], "a header and no row", "at least one row");
    case(
        "x,target\n0.5,0\n",
        &[2],
        "no columns for the model's input 'x' of shape [N, 2]: expected columns x_0 to x_1, or exactly 2 besides the target; besides the target there are 1: x",
        "rename the columns",
    );
    case(
        "x_0,x_1,target\n1,2,0\n",
        &[3],
        "columns x_0 to x_1 are 2, the model's input 'x' of shape [N, 3] takes 3",
        "as many columns",
    );
    case("a,b,target\n1,t,0\n", &[2], "column 'b' holds text", "leave the column out");
    case(
        "x,tarjet\n1,0\n",
        &[1],
        "no array 'target' for the target; it holds x, tarjet",
        "did you mean 'tarjet'? say --target tarjet",
    );
    let tokens = Request { inputs: vec![input("x", ElementType::Int64, &[1])], ..Request::default() };
    assert_error(
        read("x,y\n1.5,1\n", &tokens).unwrap_err(),
        "array 'x' is float64, the model's input 'x' takes int64",
        "type",
    );
    assert_error(open(csv("\u{0}").path, &tokens).unwrap_err(), "not a data set", ".csv");
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide.csv");
    fs::write(&wide, b"\xff\xfex\0\n\0").unwrap();
    assert_error(open(wide, &tokens).unwrap_err(), "UTF-16", "UTF-8");
}

#[test]
fn tables_beyond_the_memory_lie_in_a_temporary_file() {
    let mut text = "a,b,target,c\n".to_owned();
    for i in 0..2000 {
        text += &format!("{i},{}.5,{},{}\n", i + 1, i % 3, i + 2);
    }
    let file = csv(&text);
    let inside = open(&file.path, &request(&[3])).unwrap();
    let limits = Limits { arrays: 1000, images: 0 };
    let outside =
        DataSet::open_with(&file.path, &Preprocess::default(), limits).unwrap().samples(&request(&[3])).unwrap();
    assert!(inside.is_resident() && !outside.is_resident());
    assert_eq!(inside.tensor(0).unwrap(), outside.tensor(0).unwrap());
    assert_eq!(targets(&inside), targets(&outside));
    assert_eq!(inside.fingerprint().unwrap(), outside.fingerprint().unwrap());
    assert_eq!(floats(&outside.select(&[1999]).unwrap(), 0), [1999.0, 2000.5, 2001.0]);
}

#[test]
fn many_columns_of_mixed_types_are_put_together() {
    let names: Vec<String> = (0..200).map(|i| format!("x_{i}")).collect();
    let mut text = names.join(",") + ",target\n";
    for row in 0..3 {
        // Every seventh column holds integers that float64 does not, so that neighbours differ in type.
        let cell = |i: usize| if i.is_multiple_of(7) { ((1i64 << 60) + row).to_string() } else { format!("{i}.5") };
        text += &((0..200).map(cell).collect::<Vec<_>>().join(",") + ",0\n");
    }
    let file = csv(&text);
    for arrays in [0, 1 << 20] {
        let set = DataSet::open_with(&file.path, &Preprocess::default(), Limits { arrays, images: 0 }).unwrap();
        let values = floats(&set.samples(&request(&[200])).unwrap(), 0);
        assert_eq!((values.len(), values[1], values[201], values[199]), (600, 1.5, 1.5, 199.5));
        assert_eq!((values[7], values[400]), ((1i64 << 60) as f32, (1i64 << 60) as f32));
    }
}

#[test]
fn parquet_of_every_compression_is_read() {
    for codec in ["none", "snappy", "gzip", "zstd", "lz4", "plain"] {
        let path = fixture(&format!("{codec}.parquet"));
        let request = Request {
            inputs: vec![input("v", ElementType::Float, &[3]), input("a", ElementType::Float, &[1])],
            target: Some("label".to_owned()),
            ..Request::default()
        };
        let samples = open(&path, &request).unwrap();
        assert_eq!((samples.kind(), samples.len()), ("parquet", 4), "{codec}");
        assert_eq!(floats(&samples, 0), (0..12).map(|v| v as f32).collect::<Vec<_>>(), "{codec}");
        assert_eq!(floats(&samples, 1), [0.5, 1.5, 2.5, 3.5], "{codec}");
        assert_eq!(
            (samples.classes().unwrap().join(" ").as_str(), targets(&samples)),
            ("bird cat dog", vec![1, 2, 1, 0])
        );
        let integers = Request { target: Some("target".into()), ..only("b", ElementType::Int64, &[1]) };
        let samples = open(&path, &integers).unwrap();
        assert_eq!(samples.tensor(0).unwrap().to_i64().unwrap(), [1, 2, 3, 4]);
        assert_eq!(targets(&samples), [0, 1, 0, 2]);
        assert_eq!(floats(&open(&path, &only("c", ElementType::Float, &[1])).unwrap(), 0), [1.0, 0.0, 1.0, 0.0]);
    }
}

#[test]
fn parquet_kinds_of_columns() {
    let fixed = open(fixture("fixed.parquet"), &only("x", ElementType::Float, &[2])).unwrap();
    assert_eq!(floats(&fixed, 0), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(floats(&open(fixture("fixed.parquet"), &only("u", ElementType::Float, &[1])).unwrap(), 0), [1.0, 2.0]);
    assert_eq!(floats(&open(fixture("half.parquet"), &only("x", ElementType::Float, &[1])).unwrap(), 0), [0.5, -2.0]);
    let large = open(fixture("half.parquet"), &only("big", ElementType::Uint64, &[1])).unwrap();
    assert_eq!(large.tensor(0).unwrap().bytes()[8..], [0xff; 8]);
    assert_error(
        open(fixture("half.parquet"), &only("big", ElementType::Int64, &[1])).unwrap_err(),
        "array 'big' holds a number in row 0 that int64 cannot hold",
        "range of int64",
    );
    let e = open(fixture("null.parquet"), &only("x", ElementType::Float, &[1])).unwrap_err();
    assert_error(e, "null.parquet: array 'x' has no value in row 1", "fill it");
    let e = open(fixture("ragged.parquet"), &only("x", ElementType::Float, &[1])).unwrap_err();
    assert_error(e, "array 'x' holds a list of 2 in row 1, the first row's has 1", "padding");
    let all = Request {
        inputs: vec![input("x", ElementType::Float, &[3])],
        target: Some("target".into()),
        ..Request::default()
    };
    let e = open(fixture("none.parquet"), &all).unwrap_err();
    assert_error(
        e,
        "expected columns x_0 to x_2, or exactly 3 besides the target; besides the target there are 5",
        "rename",
    );
    let e = open(fixture("none.parquet"), &only("label", ElementType::Float, &[1])).unwrap_err();
    assert_error(e, "column 'label' holds text", "leave the column out");
}

#[test]
fn cut_off_parquet_is_an_error() {
    let bytes = fs::read(fixture("snappy.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.parquet");
    for end in [4, 8, 100, bytes.len() - 9] {
        fs::write(&path, &bytes[..end]).unwrap();
        assert_error(open(&path, &only("a", ElementType::Float, &[1])).unwrap_err(), "damaged .parquet", "again");
    }
    let mut broken = bytes.clone();
    broken[4..200].fill(0xa5);
    fs::write(&path, &broken).unwrap();
    assert!(open(&path, &only("a", ElementType::Float, &[1])).is_err());
}

#[test]
fn an_input_of_unknown_width_takes_what_there_is() {
    let mut wanted = request(&[1]);
    wanted.inputs[0].shape = None;
    assert_eq!(read("a,b,target\n1,2,0\n", &wanted).unwrap().fields()[0].row_shape, [2]);
    wanted.inputs[0].shape = Some(Shape(vec![dendrite_onnx::Dim::Unknown; 2]));
    assert_eq!(read("x_0,x_1,y,target\n1,2,5,0\n", &wanted).unwrap().fields()[0].row_shape, [2]);
}
