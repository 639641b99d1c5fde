//! Images become inputs as PIL and torchvision make them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{fs, path::Path};

use common::{assert_error, fixture, floats, input, only, targets};
use dendrite_data::{
    Channels, Classes, DataSet, Filter, Input, Layout, Limits, Loader, PerChannel, Preprocess, Request, Resize,
    Samples, Size, open,
};
use dendrite_onnx::{Dim, ElementType, Shape, Tensor};

/// A request for `row` of float32 with raw pixel values.
fn request(row: &[usize], preprocess: Preprocess) -> Request {
    Request {
        inputs: vec![input("pixels", ElementType::Float, row)],
        target: Some("target".to_owned()),
        preprocess: Preprocess { scale: preprocess.scale.or(Some(1.0)), ..preprocess },
        ..Request::default()
    }
}

fn expected(name: &str, shape: &[usize]) -> Vec<f32> {
    floats(&open(fixture("resized.npz"), &only(name, ElementType::Float, shape)).unwrap(), 0)
}

fn row(samples: &Samples, index: usize) -> Vec<f32> {
    floats(&samples.select(&[index]).unwrap(), 0)
}

#[test]
fn every_format_is_decoded_and_classes_count_from_the_names() {
    let samples = open(fixture("images"), &request(&[37, 53, 3], Preprocess::default())).unwrap();
    assert_eq!((samples.kind(), samples.len()), ("image folder", 6));
    assert_eq!(samples.classes().unwrap(), ["ant", "bee"]);
    assert_eq!(targets(&samples), [0, 0, 1, 1, 1, 1]);
    let png = row(&samples, 0);
    assert_eq!(png, row(&samples, 4), "bmp");
    assert_eq!(png, row(&samples, 5), "webp");
    for (index, most) in [(1, 12.0), (3, 40.0)] {
        let other = row(&samples, index);
        let mean = png.iter().zip(&other).map(|(a, b)| (a - b).abs()).sum::<f32>() / png.len() as f32;
        assert!(mean < most, "{index}: {mean}");
    }
}

#[test]
fn photographs_decode_as_pil_decodes_them() {
    let samples = open(fixture("images"), &request(&[37, 53, 3], Preprocess::default())).unwrap();
    let off: Vec<f32> = row(&samples, 1).iter().zip(expected("jpeg", &[53, 3])).map(|(a, b)| (a - b).abs()).collect();
    let near = off.iter().filter(|d| **d <= 2.0).count() as f32 / off.len() as f32;
    assert!(near > 0.95, "{near} of the values agree within 2 levels");
}

/// A JPEG file with an EXIF segment that notes `orientation`.
fn oriented(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    // TIFF, big-endian: one entry, tag 0x0112, one SHORT.
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend((exif.len() as u16 + 2).to_be_bytes());
    bytes.extend(exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

/// Where the first row and the first column of a stored image are seen, by the EXIF standard's table of orientations.
#[test]
fn photographs_are_turned_as_their_camera_was_held() {
    let jpeg = fs::read(fixture("images/ant/1.jpg")).unwrap();
    let (height, width) = (37, 53);
    let folder = tempfile::tempdir().unwrap();
    let seen = |orientation: Option<u8>, [h, w]: [usize; 2]| -> Vec<f32> {
        let bytes = orientation.map_or_else(|| jpeg.clone(), |o| oriented(&jpeg, o));
        fs::create_dir_all(folder.path().join("ant")).unwrap();
        fs::write(folder.path().join("ant/1.jpg"), bytes).unwrap();
        row(&open(folder.path(), &request(&[h, w, 3], Preprocess::default())).unwrap(), 0)
    };
    let stored = seen(None, [height, width]);
    let (bottom, right) = (height - 1, width - 1);
    for orientation in 1..=8 {
        let turned = orientation > 4;
        let [h, w] = if turned { [width, height] } else { [height, width] };
        let found = seen(Some(orientation), [h, w]);
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            // Row and column of the stored image.
            let (r, c) = match orientation {
                1 => (y, x),
                2 => (y, right - x),
                3 => (bottom - y, right - x),
                4 => (bottom - y, x),
                5 => (x, y),
                6 => (bottom - x, y),
                7 => (bottom - x, right - y),
                _ => (x, right - y),
            };
            let (a, b) = (3 * (y * w + x), 3 * (r * width + c));
            assert_eq!(found[a..a + 3], stored[b..b + 3], "orientation {orientation} at {y}, {x}");
        }
    }
    // A note that says nothing known turns nothing.
    assert_eq!(seen(Some(9), [height, width]), stored);
}

#[test]
fn resizing_agrees_with_pil_to_the_bit() {
    for [height, width] in [[24, 24], [70, 90]] {
        for (name, filter) in
            [("nearest", Filter::Nearest), ("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)]
        {
            let preprocess = Preprocess { filter, resize: Resize::Stretch, ..Preprocess::default() };
            let samples = open(fixture("images"), &request(&[height, width, 3], preprocess)).unwrap();
            assert_eq!(row(&samples, 0), expected(&format!("{name}_{height}_{width}"), &[width, 3]), "{name}");
        }
    }
    let preprocess = Preprocess { crop: Some(14.0 / 16.0), ..Preprocess::default() };
    let samples = open(fixture("images"), &request(&[14, 14, 3], preprocess)).unwrap();
    assert_eq!(row(&samples, 0), expected("crop_14_of_16", &[14, 3]));
    let gray = open(fixture("images"), &request(&[1, 37, 53], Preprocess::default())).unwrap();
    assert_eq!(row(&gray, 0), expected("gray_of_colour", &[53]));
}

#[test]
fn padding_centres_on_black() {
    let preprocess = Preprocess { resize: Resize::Pad, ..Preprocess::default() };
    let samples = open(fixture("images"), &request(&[53, 53, 3], preprocess)).unwrap();
    let picture = row(&samples, 0);
    let plain = open(fixture("images"), &request(&[37, 53, 3], Preprocess::default())).unwrap();
    assert!(picture[..8 * 53 * 3].iter().chain(&picture[45 * 53 * 3..]).all(|v| *v == 0.0));
    assert_eq!(picture[8 * 53 * 3..45 * 53 * 3], row(&plain, 0));
}

#[test]
fn pixels_are_scaled_and_laid_out() {
    let plain = row(&open(fixture("images"), &request(&[37, 53, 3], Preprocess::default())).unwrap(), 0);
    let preprocess = Preprocess {
        scale: Some(0.5),
        mean: Some(PerChannel::Each(vec![1.0, 2.0, 3.0])),
        std: Some(PerChannel::All(4.0)),
        channels: Some(Channels::Bgr),
        ..Preprocess::default()
    };
    let planes = row(&open(fixture("images"), &request(&[3, 37, 53], preprocess)).unwrap(), 0);
    for pixel in [0, 100, 37 * 53 - 1] {
        for channel in 0..3 {
            let value = (plain[pixel * 3 + 2 - channel] * 0.5 - (channel + 1) as f32) / 4.0;
            assert_eq!(planes[channel * 37 * 53 + pixel], value);
        }
    }
    let mut default = request(&[37, 53, 3], Preprocess::default());
    default.preprocess.scale = None;
    let unit = row(&open(fixture("images"), &default).unwrap(), 0);
    assert!((unit[5] - plain[5] / 255.0).abs() < 1e-6);
    default.inputs[0].element_type = ElementType::Uint8;
    let bytes = open(fixture("images"), &default).unwrap().select(&[0]).unwrap().tensor(0).unwrap();
    assert_eq!(f32::from(bytes.bytes()[5]), plain[5]);
}

#[test]
fn the_same_pixels_in_an_array_are_preprocessed_alike() {
    let preprocess =
        Preprocess { input: Some("x".to_owned()), resize: Resize::Stretch, scale: Some(1.0), ..Preprocess::default() };
    let folder = Request {
        inputs: vec![input("x", ElementType::Float, &[3, 24, 24])],
        preprocess: preprocess.clone(),
        ..Request::default()
    };
    let wanted = row(&open(fixture("images"), &folder).unwrap(), 0);
    let original = open(fixture("images"), &{
        let mut raw = request(&[37, 53, 3], Preprocess::default());
        raw.inputs[0].element_type = ElementType::Uint8;
        raw
    });
    let last = original.unwrap().select(&[0, 1]).unwrap().tensor(0).unwrap();
    let found = Samples::from_arrays("memory", vec![("x".to_owned(), last.clone())], &folder).unwrap();
    assert_eq!(row(&found, 0), wanted);
    let mut planes = vec![0; last.bytes().len()];
    for (sample, out) in last.bytes().chunks(37 * 53 * 3).zip(planes.chunks_mut(37 * 53 * 3)) {
        (0..out.len()).for_each(|i| out[i] = sample[i % (37 * 53) * 3 + i / (37 * 53)]);
    }
    let first = Tensor::new(ElementType::Uint8, vec![2, 3, 37, 53], planes).unwrap();
    let found = Samples::from_arrays("memory", vec![("x".to_owned(), first)], &folder).unwrap();
    assert_eq!(row(&found, 0), wanted);
}

#[test]
fn a_cache_of_any_size_gives_the_same_rows() {
    let wanted = request(&[3, 30, 30], Preprocess::default());
    let whole = floats(&open(fixture("images"), &wanted).unwrap(), 0);
    for images in [0, 2 * 30 * 30 * 3, 1 << 20] {
        let set =
            DataSet::open_with(fixture("images"), &wanted.preprocess, Limits { images, ..Limits::default() }).unwrap();
        let samples = set.samples(&wanted).unwrap();
        for _ in 0..2 {
            let batches = Loader::new(&samples, 3, 0..6, None).unwrap();
            let read: Vec<u8> = batches.flat_map(|b| b.unwrap().fields[0].clone()).collect();
            let read: Vec<f32> = read.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!(read, whole);
        }
    }
}

#[test]
fn inputs_that_cannot_be_told_are_errors() {
    let try_it = |inputs: Vec<Input>, preprocess: Preprocess| {
        let wanted = Request { inputs, preprocess, ..Request::default() };
        open(fixture("images"), &wanted).unwrap_err()
    };
    let e = try_it(vec![input("x", ElementType::Float, &[4])], Preprocess::default());
    assert_error(e, "none of the model's inputs takes images: 'x' [N, 4]", "4 axes");
    let two = || vec![input("a", ElementType::Float, &[3, 8, 8]), input("b", ElementType::Float, &[3, 8, 8])];
    assert_error(try_it(two(), Preprocess::default()), "several of the model's inputs", "preprocess.input");
    let e = try_it(vec![input("image", ElementType::Float, &[3, 8, 8]), two().remove(1)], Preprocess::default());
    assert_error(e, "no array 'b' for the model's input 'b'; it holds image, target", "--map");
    let named = Preprocess { input: Some("c".to_owned()), ..Preprocess::default() };
    assert_error(try_it(two(), named), "preprocess.input names 'c', the model's inputs are a, b", "one of them");
    let e = try_it(vec![input("x", ElementType::Float, &[5, 8, 8])], Preprocess::default());
    assert_error(e, "which axis of input 'x' holds the channels", "preprocess.layout");
    let layout = Preprocess { layout: Some(Layout::Nchw), ..Preprocess::default() };
    let e = try_it(vec![input("x", ElementType::Float, &[5, 8, 8])], layout);
    assert_error(e, "input 'x' has 5 channels", "preprocess.channels");
    let open_shape = Shape(vec![Dim::Unknown, Dim::Known(3), Dim::Unknown, Dim::Unknown]);
    let unknown = Input::new("x", ElementType::Float, Some(open_shape));
    let e = try_it(vec![unknown.clone()], Preprocess::default());
    assert_error(e, "the height and width of input 'x' are not known", "preprocess.size");
    let sized = Request {
        inputs: vec![unknown],
        preprocess: Preprocess { size: Some(Size::Sides([8, 9])), ..Preprocess::default() },
        ..Request::default()
    };
    assert_eq!(open(fixture("images"), &sized).unwrap().fields()[0].row_shape, [3, 8, 9]);
    let mean = Preprocess { mean: Some(PerChannel::Each(vec![1.0, 2.0])), ..Preprocess::default() };
    let e = try_it(vec![input("x", ElementType::Float, &[3, 8, 8])], mean);
    assert_error(e, "preprocess.mean has 2 numbers, the input has 3 channels", "one for each channel");
    let crop = Preprocess { crop: Some(1.5), ..Preprocess::default() };
    assert_error(try_it(vec![input("x", ElementType::Float, &[3, 8, 8])], crop), "preprocess.crop is 1.5", "up to 1");
}

/// A folder of classes with one image each, as `names` say.
fn classes(root: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::copy(fixture("images/ant/0.png"), root.join(name).join("a.png")).unwrap();
    }
}

#[test]
fn classes_are_ordered_by_the_list_and_must_agree_with_the_folders() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("train");
    classes(&root, &["ant", "bee", "cat"]);
    fs::write(root.join("ant/notes.txt"), "not an image").unwrap();
    fs::write(root.join("ant/.hidden.png"), "not an image").unwrap();
    let wanted = request(&[3, 8, 8], Preprocess::default());
    fs::write(folder.path().join("classes.txt"), "cat\nant\n\nbee\n").unwrap();
    let samples = open(&root, &wanted).unwrap();
    assert_eq!((samples.classes().unwrap().join(" ").as_str(), samples.len()), ("cat ant bee", 3));
    assert_eq!(targets(&samples), [0, 1, 2]);
    fs::write(root.join("classes.txt"), "bee\nant\ncat").unwrap();
    assert_eq!(open(&root, &wanted).unwrap().classes().unwrap().join(" "), "bee ant cat");
    let mut listed = wanted.clone();
    let names = |names: &[&str]| Some(Classes::Names(names.iter().map(|n| (*n).to_owned()).collect()));
    listed.preprocess.classes = names(&["ant", "cat", "bee"]);
    assert_eq!(open(&root, &listed).unwrap().classes().unwrap().join(" "), "ant cat bee");
    listed.preprocess.classes = Some(Classes::File(folder.path().join("classes.txt")));
    assert_eq!(open(&root, &listed).unwrap().classes().unwrap().join(" "), "cat ant bee");

    listed.preprocess.classes = names(&["ant", "bee"]);
    assert_error(
        open(&root, &listed).unwrap_err(),
        "folder 'cat' is not among the classes in preprocess.classes: ant, bee",
        "move the folder away",
    );
    listed.preprocess.classes = names(&["ant", "bee", "cat", "dog"]);
    assert_error(
        open(&root, &listed).unwrap_err(),
        "preprocess.classes lists class 'dog', there is no folder for it",
        "every class",
    );
    listed.preprocess.classes = names(&["ant", "../ant", "bee", "cat"]);
    assert_error(open(&root, &listed).unwrap_err(), "class '../ant'", "once");
    listed.preprocess.classes = names(&["ant", "ant", "bee", "cat"]);
    assert_error(open(&root, &listed).unwrap_err(), "class 'ant' stands twice", "once");
    listed.preprocess.classes = Some(Classes::File("nowhere.txt".into()));
    assert_error(open(&root, &listed).unwrap_err(), "nowhere.txt", "check the path");
    fs::create_dir(root.join("dog")).unwrap();
    listed.preprocess.classes = names(&["ant", "bee", "cat", "dog"]);
    assert_error(open(&root, &listed).unwrap_err(), "dog: the class folder holds no image", "'dog'");
}

#[test]
fn images_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &["ant", "bee"]);
    let wanted = request(&[3, 8, 8], Preprocess::default());
    let png = fs::read(fixture("images/ant/0.png")).unwrap();
    fs::write(folder.path().join("bee/b.png"), &png[..png.len() / 2]).unwrap();
    let samples = open(folder.path(), &wanted).unwrap();
    let e = Loader::new(&samples, 2, vec![0, 2], None).unwrap().next().unwrap().unwrap_err();
    assert_error(e, "bee/b.png: not an image that can be read", "repair or remove the file");
    fs::write(folder.path().join("bee/b.png"), b"nonsense").unwrap();
    assert_error(open(folder.path(), &wanted).unwrap_err(), "bee/b.png: not an image", "repair or remove");
    fs::write(folder.path().join("bee/b.png"), b"").unwrap();
    assert_error(open(folder.path(), &wanted).unwrap_err(), "bee/b.png: not an image", "repair or remove");
    fs::remove_file(folder.path().join("bee/b.png")).unwrap();
    fs::write(folder.path().join("bee/b.tif"), b"II*\0").unwrap();
    assert_error(open(folder.path(), &wanted).unwrap_err(), "b.tif: .tif images are not read", "PNG or JPEG");
    let e = open(folder.path().join("ant"), &wanted).unwrap_err();
    assert_error(e, "the images lie in the folder itself", "FOLDER/CLASS");
}

#[cfg(unix)]
#[test]
fn links_to_classes_and_images_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(fs::canonicalize(fixture("images/ant")).unwrap(), folder.path().join("ant")).unwrap();
    fs::create_dir(folder.path().join("bee")).unwrap();
    let image = fs::canonicalize(fixture("images/bee/0.png")).unwrap();
    std::os::unix::fs::symlink(image, folder.path().join("bee/0.png")).unwrap();
    assert_eq!(open(folder.path(), &request(&[3, 8, 8], Preprocess::default())).unwrap().len(), 3);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("bee/loop")).unwrap();
    let e = open(folder.path(), &request(&[3, 8, 8], Preprocess::default())).unwrap_err();
    assert_error(e, "nested too deeply", "nearer");
}

#[test]
fn fingerprints_cover_the_files() {
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path(), &["ant", "bee"]);
    let wanted = request(&[3, 8, 8], Preprocess::default());
    let print = || open(folder.path(), &wanted).unwrap().fingerprint().unwrap();
    let before = print();
    assert_eq!(before, print());
    fs::copy(fixture("images/bee/2.bmp"), folder.path().join("bee/a.png")).unwrap();
    assert_ne!(before, print());
}

#[test]
fn the_table_of_a_configuration_is_read() {
    let text = "input = \"x\"\nresize = \"pad\"\nsize = 32\nscale = 1\nmean = 127\nstd = [1, 2, 3]\nlayout = \"nhwc\"\n\
                channels = \"bgr\"\nclasses = [\"a\", \"b\"]\nfilter = \"bicubic\"\ncrop = 0.875";
    let preprocess: Preprocess = toml::from_str(text).unwrap();
    assert_eq!(preprocess.mean, Some(PerChannel::All(127.0)));
    assert_eq!(toml::from_str::<Preprocess>(&toml::to_string(&preprocess).unwrap()).unwrap(), preprocess);
    let file: Preprocess = toml::from_str("classes = \"classes.txt\"\nsize = [3, 4]").unwrap();
    assert_eq!(file.classes, Some(Classes::File("classes.txt".into())));
    assert!(toml::from_str::<Preprocess>("resise = \"pad\"").is_err());
}
