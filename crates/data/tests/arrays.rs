//! Files of arrays are read as the programs that wrote them meant them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{fs, io::Write};

use common::{assert_error, counted, fixture, floats, input, only, request, targets};
use dendrite_data::{DataSet, Limits, Preprocess, Request, open};
use dendrite_onnx::{ElementType, Tensor};

const ROWS: [f32; 24] = {
    let mut rows = [0.0; 24];
    let mut i = 0;
    while i < 24 {
        rows[i] = i as f32;
        i += 1;
    }
    rows
};

/// The bytes of a little-endian float32 `.npy` file of version 1.
fn npy(shape: &str, descr: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn every_kind_of_file_gives_the_same_samples() {
    for (name, kind) in
        [("stored.npz", "npz"), ("deflated.npz", "npz"), ("folder", "npy folder"), ("half.safetensors", "safetensors")]
    {
        let samples = open(fixture(name), &request(&[4])).unwrap();
        assert_eq!((samples.kind(), samples.len()), (kind, 6));
        assert_eq!(floats(&samples, 0), ROWS, "{name}");
        assert_eq!(targets(&samples), [0, 1, 2, 0, 1, 2], "{name}");
        assert_eq!(samples.fields()[0].row_shape, [4]);
        let mut out = [0; 32];
        samples.read(0, &[5, 0], &mut out).unwrap();
        let expected: Vec<u8> = [20f32, 21., 22., 23., 0., 1., 2., 3.].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(out.as_slice(), expected);
    }
}

#[test]
fn every_number_type_and_order_is_cast_to_the_inputs_type() {
    for name in ["big", "big_integers", "f2", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"] {
        let samples = open(fixture("kinds.npz"), &only(name, ElementType::Float, &[4])).unwrap();
        assert_eq!(floats(&samples, 0), ROWS, "{name}");
    }
    for name in ["fortran", "fortran_big"] {
        let samples = open(fixture("kinds.npz"), &only(name, ElementType::Float, &[2, 2])).unwrap();
        assert_eq!(floats(&samples, 0), ROWS, "{name}");
    }
    let deflated = open(fixture("deflated.npz"), &only("f", ElementType::Float, &[4])).unwrap();
    assert_eq!(floats(&deflated, 0), ROWS);
    let bools = open(fixture("kinds.npz"), &only("bools", ElementType::Bool, &[4])).unwrap();
    assert_eq!(bools.tensor(0).unwrap().bytes()[..4], [0, 1, 0, 1]);
    let tokens = open(fixture("kinds.npz"), &only("u1", ElementType::Int64, &[4])).unwrap();
    assert_eq!(tokens.tensor(0).unwrap().to_i64().unwrap()[23], 23);
}

#[test]
fn without_memory_rows_are_read_from_files_and_say_the_same() {
    let limits = Limits { arrays: 0, images: 0 };
    for (name, arrays) in [("stored.npz", vec!["x"]), ("deflated.npz", vec!["x", "f"]), ("half.safetensors", vec!["x"])]
    {
        let set = DataSet::open_with(fixture(name), &Preprocess::default(), limits).unwrap();
        for array in arrays {
            let samples = set.samples(&only(array, ElementType::Float, &[4])).unwrap();
            assert!(!samples.is_resident());
            assert_eq!(floats(&samples, 0), ROWS, "{name} {array}");
        }
    }
    let set = DataSet::open_with(fixture("kinds.npz"), &Preprocess::default(), limits).unwrap();
    for array in ["big", "f8", "i2"] {
        assert_eq!(floats(&set.samples(&only(array, ElementType::Float, &[4])).unwrap(), 0), ROWS, "{array}");
    }
    assert_eq!(floats(&set.samples(&only("fortran_big", ElementType::Float, &[2, 2])).unwrap(), 0), ROWS);
}

#[test]
fn an_array_that_is_no_numbers_is_an_error_only_where_it_is_asked_for() {
    let unusable = |name: &str| open(fixture("unusable.npz"), &only(name, ElementType::Float, &[4])).unwrap_err();
    assert_error(unusable("texts"), "array 'texts' holds texts (<U1)", "numpy.unique");
    assert_error(unusable("objects"), "array 'objects' holds Python objects", "astype(numpy.float32)");
    assert_error(unusable("records"), "array 'records' has elements of type", "field by field");
    assert_error(unusable("complex"), "array 'complex' has elements of type <c8", "astype(numpy.float32)");
    assert_eq!(open(fixture("unusable.npz"), &only("x", ElementType::Float, &[4])).unwrap().len(), 6);
}

#[test]
fn cut_off_and_damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let npz = fs::read(fixture("stored.npz")).unwrap();
    let cut = write("cut.npz", &npz[..npz.len() / 2]);
    assert_error(open(cut, &request(&[4])).unwrap_err(), "damaged .npz", "numpy.savez");
    let mut packed = fs::read(fixture("deflated.npz")).unwrap();
    packed[150..170].fill(0xff);
    assert!(open(write("packed.npz", &packed), &request(&[4])).is_err());
    let tensors = fs::read(fixture("half.safetensors")).unwrap();
    let cut = write("cut.safetensors", &tensors[..tensors.len() - 3]);
    assert_error(open(cut, &request(&[4])).unwrap_err(), "cut off", "safetensors");
    assert_error(open(write("empty", &[]), &request(&[4])).unwrap_err(), "the file is empty", ".npz");
    assert_error(open(write("noise", b"\0\x01\x02\x03"), &request(&[4])).unwrap_err(), "not a data set", ".npz");
    assert_error(open(write("x.h5", b"\x89HDF\r\n"), &request(&[4])).unwrap_err(), "HDF5", "numpy.savez");
    assert_error(open(folder.path().join("none"), &request(&[4])).unwrap_err(), "none: ", "check the path");
    let single = write("single.npy", &npy("(1,)", "<f4", &[0; 4]));
    assert_error(open(single, &request(&[4])).unwrap_err(), "a single .npy file", "into a folder");

    let arrays = folder.path().join("arrays");
    fs::create_dir(&arrays).unwrap();
    fs::write(arrays.join("x.npy"), npy("(3, 4)", "<f4", &[0; 44])).unwrap();
    assert_error(
        open(&arrays, &request(&[4])).unwrap_err(),
        "array 'x' of shape [3, 4] takes 48 bytes, the file holds 44",
        "save it again",
    );
    fs::write(arrays.join("x.npy"), npy("(4611686018427387904, 4)", "<f4", &[0; 44])).unwrap();
    assert_error(open(&arrays, &request(&[4])).unwrap_err(), "overflows", "save it again");
    fs::write(arrays.join("x.npy"), npy("(0, 4)", "<f4", &[])).unwrap();
    fs::write(arrays.join("target.npy"), npy("(0,)", "<i8", &[])).unwrap();
    assert_error(open(&arrays, &request(&[4])).unwrap_err(), "it holds no sample", "at least one row");
    let nothing = folder.path().join("nothing");
    fs::create_dir(&nothing).unwrap();
    assert_error(open(&nothing, &request(&[4])).unwrap_err(), "holds no data", "folders of images");
    fs::copy(fixture("stored.npz"), nothing.join("train.npz")).unwrap();
    assert_error(open(&nothing, &request(&[4])).unwrap_err(), "data sets themselves", "train.npz");
}

#[test]
fn files_that_shrink_while_they_are_read_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..24u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let path = folder.path().join("x.npy");
    fs::write(&path, npy("(6, 4)", "<f4", &data)).unwrap();
    let limits = Limits { arrays: 0, images: 0 };
    let set = DataSet::open_with(folder.path(), &Preprocess::default(), limits).unwrap();
    let samples = set.samples(&only("x", ElementType::Float, &[4])).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert_error(samples.read(0, &[5], &mut [0; 16]).unwrap_err(), "", "cut off while it was read");
}

#[test]
fn zip64_archives_are_read() {
    let mut buffer = std::io::Cursor::new(Vec::new());
    let mut zip = zip::ZipWriter::new(&mut buffer);
    let options =
        zip::write::SimpleFileOptions::default().large_file(true).compression_method(zip::CompressionMethod::Stored);
    zip.start_file("x.npy", options).unwrap();
    let data: Vec<u8> = (0..24).flat_map(|i| (i as f32).to_le_bytes()).collect();
    zip.write_all(&npy("(6, 4)", "<f4", &data)).unwrap();
    zip.finish().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), buffer.into_inner()).unwrap();
    assert_eq!(floats(&open(file.path(), &only("x", ElementType::Float, &[4])).unwrap(), 0), ROWS);
}

#[test]
fn fingerprints_tell_data_apart_and_not_their_kind() {
    let print = |name: &str| open(fixture(name), &request(&[4])).unwrap().fingerprint().unwrap();
    assert_eq!(print("stored.npz"), print("deflated.npz"));
    assert_eq!(print("stored.npz"), print("folder"));
    assert_eq!(print("stored.npz"), print("half.safetensors"));
    let arrays = |x: Tensor| {
        let target = Tensor::int64s(&[0, 1, 2, 0, 1, 2]);
        let set = DataSet::from_arrays("memory", vec![("x".into(), x), ("target".into(), target)]).unwrap();
        set.samples(&request(&[4])).unwrap()
    };
    let memory = arrays(counted(&[6, 4]));
    assert_eq!(print("stored.npz"), memory.fingerprint().unwrap());
    let mut changed = ROWS;
    changed[7] = 7.5;
    assert_ne!(print("stored.npz"), arrays(Tensor::from_f32(&[6, 4], &changed)).fingerprint().unwrap());
    assert_ne!(memory.fingerprint().unwrap(), memory.select(&[1, 0, 2, 3, 4, 5]).unwrap().fingerprint().unwrap());
    assert_eq!(memory.fingerprint().unwrap(), memory.select(&[0, 1, 2, 3, 4, 5]).unwrap().fingerprint().unwrap());
}

#[test]
fn several_inputs_keep_the_order_of_the_model() {
    let request = Request {
        inputs: vec![input("i8", ElementType::Int64, &[4]), input("f2", ElementType::Float16, &[4])],
        ..Request::default()
    };
    let samples = open(fixture("kinds.npz"), &request).unwrap();
    assert_eq!(samples.fields()[0].name, "i8");
    assert_eq!(samples.fields()[1].row_bytes(), 8);
    assert_eq!(samples.fields()[0].batch_shape(3), [3, 4]);
}
