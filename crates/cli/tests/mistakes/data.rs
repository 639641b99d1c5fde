//! Mistakes about data.

use crate::{
    Mistake,
    make::{classes, csv, edited, fixed, floats, image_network, integers, labels, npz, picture, raw, value, x},
    mistake,
    models::GROW,
};
use dendrite_onnx::ElementType;

pub(crate) fn mistakes() -> Vec<Mistake> {
    let mut all = files();
    all.extend(arrays());
    all.extend(targets());
    all.extend(tables());
    all.extend(images());
    all
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../fixtures/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// What cannot be read.
fn files() -> Vec<Mistake> {
    let train = |what: &str, bytes: Vec<u8>| mistake(what, GROW).with("train.npz", bytes);
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() * 2 / 3].to_vec();
    let given = |what: &str, path: &str, bytes: Vec<u8>| {
        mistake(what, &format!("grow model.onnx --train {path} --val val.npz -o run")).with(path, bytes)
    };
    vec![
        mistake("the data are not there", "grow model.onnx --train trian.npz --val val.npz -o run"),
        mistake("a folder without data", "grow model.onnx --train data --val val.npz -o run")
            .with("data/notes.txt", "x"),
        mistake("an empty folder", "grow model.onnx --train data --val val.npz -o run").with("data/", ""),
        mistake("a folder of data sets", "grow model.onnx --train data --val val.npz -o run")
            .with("data/train.npz", classes(40))
            .with("data/val.npz", classes(40)),
        train("the data file is empty", Vec::new()),
        train("the data are something else", b"\x7fELF\x02\x01\x01\0\0\0\0\0".to_vec()),
        train("the data are a sentence", b"features and labels".to_vec()),
        mistake("the model in place of the data", "grow model.onnx --train model.onnx --val val.npz -o run"),
        train("an .npz that was cut off", cut(classes(40))),
        given("a single .npy file", "train.npy", x(40).npy()),
        given("a .parquet file that was cut off", "train.parquet", cut(fixture("plain.parquet"))),
        given("a .safetensors file that was cut off", "train.safetensors", cut(fixture("half.safetensors"))),
        given("a pickle", "train.pkl", b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94\x8c\x01x\x94K\x01s.".to_vec()),
        mistake("the folder of a run as data", "grow model.onnx --train run0 --val val.npz -o run")
            .with("run0/events.jsonl", "{}\n")
            .with("run0/metrics.csv", "cycle,attempt\n"),
        mistake("a path that the shell did not expand", "grow model.onnx --train=~/d/train.npz --val val.npz -o run"),
        given("a packed .csv", "train.csv.gz", b"\x1f\x8b\x08\0\0\0\0\0".to_vec()),
        given(
            "an .npz in a Git LFS pointer",
            "t.npz",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
        ),
    ]
}

/// Arrays that do not fit the inputs.
fn arrays() -> Vec<Mistake> {
    let train = |what: &str, arrays: &[(&str, crate::make::Values)]| mistake(what, GROW).with("train.npz", npz(arrays));
    let val = |what: &str, arrays: &[(&str, crate::make::Values)]| mistake(what, GROW).with("val.npz", npz(arrays));
    let (n, t) = (40, || labels(40));
    vec![
        train("an array that is almost called like the input", &[("X", x(n)), ("target", t())]),
        train("an array of another name", &[("features", x(n)), ("target", t())]),
        train("only the target", &[("target", t())]),
        train("no target", &[("x", x(n))]),
        train("a target that is almost called so", &[("x", x(n)), ("targets", t())]),
        train("a pickled array of objects", &[("x", raw("|O", &[n], b"\x80\x04K\x01.")), ("target", t())]),
        train("an array of texts", &[("x", raw("<U1", &[n, 4], &[0; 640])), ("target", t())]),
        train("complex numbers", &[("x", raw("<c8", &[n, 4], &[0; 1280])), ("target", t())]),
        train("too many axes", &[("x", floats(&[n, 2, 2], |_| 0.5)), ("target", t())]),
        train("too few axes", &[("x", floats(&[n], |_| 0.5)), ("target", t())]),
        train("rows that are too wide", &[("x", floats(&[n, 5], |_| 0.5)), ("target", t())]),
        train("rows and columns swapped", &[("x", floats(&[4, n], |_| 0.5)), ("target", t())]),
        train("fewer rows than targets", &[("x", x(39)), ("target", t())]),
        train("no row", &[("x", x(0)), ("target", labels(0))]),
        train(
            "NaN in row 17",
            &[("x", floats(&[n, 4], |i| if i == 17 * 4 + 2 { f32::NAN } else { 0.5 })), ("target", t())],
        ),
        val(
            "infinity in row 3 of validation",
            &[("x", floats(&[n, 4], |i| if i == 13 { f32::INFINITY } else { 0.5 })), ("target", t())],
        ),
        train("a shape that overflows", &[("x", raw("<f4", &[usize::MAX / 4, 4], &[0; 64])), ("target", t())]),
        train("a shape larger than the file", &[("x", raw("<f4", &[4000, 4], &[0; 64])), ("target", t())]),
        mistake("integers too large for the model's int32", GROW)
            .with("model.onnx", edited(embed))
            .with("train.npz", npz(&[("x", integers(&[n], |i| if i == 5 { 1 << 40 } else { 1 })), ("target", t())]))
            .with("val.npz", npz(&[("x", integers(&[20], |_| 1)), ("target", labels(20))])),
        mistake("fractions for the model's int32", GROW)
            .with("model.onnx", edited(embed))
            .with("train.npz", npz(&[("x", floats(&[n], |_| 0.5)), ("target", t())])),
        val("1 row of validation", &[("x", x(1)), ("target", labels(1))]),
        mistake("the training data as validation", "grow model.onnx --train train.npz --val ./train.npz -o run"),
        val("a copy of the training data as validation", &[("x", x(n)), ("target", t())]),
        val("3 rows of validation", &[("x", x(3)), ("target", labels(3))]),
        mistake("test data that do not fit", &format!("{GROW} --test test.npz"))
            .with("test.npz", npz(&[("x", floats(&[9, 5], |_| 0.5)), ("target", labels(9))])),
        mistake("a negative sample weight", &format!("{GROW} --weight w")).with(
            "train.npz",
            npz(&[("x", x(n)), ("target", t()), ("w", floats(&[n], |i| if i == 9 { -1.0 } else { 1.0 }))]),
        ),
        mistake("sample weights that are not there", &format!("{GROW} --weight w")),
        mistake("data for evaluation that do not fit", "evaluate model.onnx --data data.npz")
            .with("data.npz", npz(&[("x", floats(&[9, 5], |_| 0.5)), ("target", labels(9))])),
        mistake("data for a comparison that do not fit", "compare model.onnx model.onnx --data data.npz")
            .with("data.npz", npz(&[("y", x(9))])),
    ]
}

/// A model that looks classes up: `x` int32.
fn embed(model: &mut dendrite_onnx::proto::ModelProto) {
    let graph = model.graph.as_mut().unwrap();
    graph.input = vec![value("x", ElementType::Int32, &[])];
    graph.node.insert(0, crate::make::node("Gather", &["table", "x"], &["e"], dendrite_onnx::Attributes::new()));
    graph.node[1].input[0] = "e".to_owned();
    graph.initializer.push(crate::make::weights(&[3, 4]).to_proto("table"));
}

/// Targets that do not fit the output.
fn targets() -> Vec<Mistake> {
    let train = |what: &str, target: crate::make::Values| {
        mistake(what, GROW).with("train.npz", npz(&[("x", x(40)), ("target", target)]))
    };
    let numbers = |rows: usize| npz(&[("x", x(rows)), ("target", floats(&[rows, 3], |i| i as f32 / 9.0))]);
    vec![
        train("a label outside the classes", integers(&[40], |i| if i == 7 { 3 } else { 0 })),
        train("labels that count from 1", integers(&[40], |i| (i % 3) as i64 + 1)),
        train("a negative label", integers(&[40], |i| if i == 7 { -1 } else { 0 })),
        train("float labels where classes are expected", floats(&[40], |i| (i % 3) as f32)),
        mistake("float labels and --loss cross-entropy", &format!("{GROW} --loss cross-entropy"))
            .with("train.npz", npz(&[("x", x(40)), ("target", floats(&[40], |i| (i % 3) as f32))])),
        train("targets of another width", floats(&[40, 2], |_| 0.5)),
        train("classes of another shape", integers(&[40, 2], |_| 0)),
        train("one-hot classes as integers", integers(&[40, 3], |i| i64::from(i % 3 == 0))),
        train("infinity in the target", floats(&[40, 3], |i| if i == 31 { f32::INFINITY } else { 0.0 })),
        mistake("classes in train, numbers in val", GROW).with("val.npz", numbers(20)),
        mistake("classes of validation outside", GROW)
            .with("val.npz", npz(&[("x", x(20)), ("target", integers(&[20], |i| i as i64))])),
        mistake("one class in validation, and --metric auc", &format!("{GROW} --metric auc"))
            .with("val.npz", npz(&[("x", x(20)), ("target", integers(&[20], |_| 1))])),
        mistake("one class in the data, and --metric auc", "evaluate model.onnx --data val.npz --metric auc")
            .with("val.npz", npz(&[("x", x(20)), ("target", integers(&[20], |_| 1))])),
        mistake("probabilities that are none, for --loss bce", &format!("{GROW} --loss bce"))
            .with("train.npz", npz(&[("x", x(40)), ("target", floats(&[40, 3], |i| i as f32))]))
            .with("val.npz", npz(&[("x", x(20)), ("target", floats(&[20, 3], |i| i as f32))])),
        mistake("shares of classes below 0", &format!("{GROW} --loss cross-entropy"))
            .with("train.npz", npz(&[("x", x(40)), ("target", floats(&[40, 3], |i| i as f32 - 50.0))]))
            .with("val.npz", npz(&[("x", x(20)), ("target", floats(&[20, 3], |_| 0.5))])),
        mistake("no target to score", "evaluate model.onnx --data val.npz").with("val.npz", npz(&[("x", x(20))])),
        train("texts as targets", raw("<U1", &[40], &[0; 160])),
    ]
}

/// Tables of text.
fn tables() -> Vec<Mistake> {
    let csv = |what: &str, edit: fn(&mut Vec<String>)| {
        mistake(what, "grow model.onnx --train train.csv --val val.npz -o run").with("train.csv", csv(40, edit))
    };
    vec![
        csv("a word in a column of numbers", |lines| lines[7] = "0.5,n/a,0.5,1,2".to_owned()),
        csv("an empty cell", |lines| lines[9] = "0.5,0.25,,1,2".to_owned()),
        csv("a row with a cell too many", |lines| lines[4] = "0,5,0.25,0.5,1,2".to_owned()),
        csv("a row with a cell too few", |lines| lines[12] = "0.5,0.25,1,2".to_owned()),
        mistake("notes in place of the data", "grow model.onnx --train notes.txt --val val.npz -o run")
            .with("notes.txt", "features, labels and more\nread me\n"),
        csv("a table without a header", |lines| drop(lines.remove(0))),
        csv("a header and nothing else", |lines| lines.truncate(1)),
        csv("pandas' index as a column more", |lines| {
            for (i, line) in lines.iter_mut().enumerate() {
                *line = if i == 0 { format!(",{line}") } else { format!("{},{line}", i - 1) };
            }
        }),
        csv("a column too many", |lines| {
            for (i, line) in lines.iter_mut().enumerate() {
                *line = if i == 0 { format!("id,{line}") } else { format!("{},{line}", i - 1) };
            }
        }),
        csv("no column of targets", |lines| lines[0] = "a,b,c,d,label".to_owned()),
        csv("a class number among words", |lines| {
            lines.iter_mut().skip(1).for_each(|line| *line = line[..line.len() - 1].to_owned() + "ant");
            lines[5] = "1,1,1,1,7".to_owned();
        }),
        csv("words for fewer classes than the model has", |lines| {
            let word =
                |line: &String| line[..line.len() - 1].to_owned() + if line.ends_with('0') { "ant" } else { "bee" };
            lines.iter_mut().skip(1).for_each(|line| *line = word(line));
        }),
        mistake(
            "words for other classes in val than in train",
            "grow model.onnx --train train.csv --val val.csv -o run",
        )
        .with("train.csv", csv_of_words(["ant", "bee", "cat"]))
        .with("val.csv", csv_of_words(["bee", "cat", "dog"])),
        csv("decimal commas", |lines| {
            lines.iter_mut().for_each(|line| *line = line.replace(',', ";").replace('.', ","));
        }),
    ]
}

/// A table whose classes have these names.
fn csv_of_words(words: [&str; 3]) -> Vec<u8> {
    csv(40, |lines| {
        for (i, line) in lines.iter_mut().enumerate().skip(1) {
            *line = line[..line.len() - 1].to_owned() + words[i % 3];
        }
    })
}

/// Folders of images.
fn images() -> Vec<Mistake> {
    let with = |what: &str, more: &str, val: &[(&str, Vec<u8>)]| {
        let mut made = mistake(what, &format!("grow model.onnx --train train --val val -o run{more}"))
            .with("model.onnx", image_network());
        for i in 0..12u8 {
            made = made
                .with(&format!("train/ant/{i}.bmp"), picture(i))
                .with(&format!("train/bee/{i}.bmp"), picture(255 - i));
        }
        val.iter().fold(made, |made, (path, bytes)| made.with(path, bytes.clone()))
    };
    let good: Vec<(String, Vec<u8>)> =
        (0..12u8).map(|i| (format!("val/{}/{i}.bmp", ["ant", "bee"][usize::from(i % 2)]), picture(i * 20))).collect();
    let good: Vec<(&str, Vec<u8>)> = good.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    let and = |more: &[(&'static str, Vec<u8>)]| [good.clone(), more.to_vec()].concat();
    vec![
        with(
            "folders of classes without an image",
            "",
            &[("val/ant/notes.txt", b"x".to_vec()), ("val/bee/", Vec::new())],
        ),
        with("a class of validation that train lacks", "", &and(&[("val/cat/0.bmp", picture(9))])),
        with(
            "a class more than the model has",
            "",
            &and(&[("train/cat/0.bmp", picture(9)), ("val/cat/0.bmp", picture(9))]),
        ),
        with("a class that classes.txt lacks", "", &and(&[("classes.txt", b"ant\nwasp\n".to_vec())])),
        with(
            "more classes in classes.txt than the model has",
            "",
            &and(&[("classes.txt", b"ant\nbee\ncat\n".to_vec())]),
        ),
        with(
            "a class of preprocess.classes that is not there",
            " --set 'preprocess.classes=[\"ant\",\"wasp\"]'",
            &and(&[]),
        ),
        with("classes without brackets", " --set preprocess.classes=ant,bee", &and(&[])),
        with("a file of classes that is not there", " --set preprocess.classes=labels.txt", &and(&[])),
        with(
            "a picture that is damaged",
            "",
            &and(&[("val/ant/99.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01".to_vec())]),
        ),
        with("a picture that was cut off", "", &and(&[("val/ant/98.bmp", picture(7)[..60].to_vec())])),
        with("a web page called .jpg", "", &and(&[("val/ant/97.jpg", b"<html>not found</html>".to_vec())])),
        with("a deviation of 0", " --set preprocess.std=0", &and(&[])),
        with("means of 2 channels", " --set preprocess.mean=[0.5,0.5]", &and(&[])),
        with("a crop of nothing", " --set preprocess.crop=0", &and(&[])),
        with("images for an input that is not there", " --set preprocess.input=picture", &and(&[])),
        with("a layout that is not the model's", " --set preprocess.layout=nhwc", &and(&[])),
        with("a size that is not the model's", " --set preprocess.size=16", &and(&[])),
        with("channels that are not the model's", " --set preprocess.channels=gray", &and(&[])),
        with("images for a model of tables", "", &and(&[])).with("model.onnx", crate::make::network()),
        mistake("images that are not sorted by class", "grow model.onnx --train train --val val -o run")
            .with("model.onnx", image_network())
            .with("train/0.bmp", picture(0))
            .with("val/0.bmp", picture(0)),
        with("a model whose size of images is not known", "", &and(&[])).with("model.onnx", {
            let mut model = dendrite_onnx::Model::from_bytes(image_network()).unwrap().proto().clone();
            model.graph.as_mut().unwrap().input = vec![open_sides()];
            prost::Message::encode_to_vec(&model)
        }),
        mistake("images of float arrays in the wrong order", GROW)
            .with("model.onnx", image_network())
            .with("train.npz", npz(&[("image", floats(&[12, 8, 8, 3], |_| 0.5)), ("target", integers(&[12], |_| 0))])),
        mistake("one array is fixed to a batch", GROW)
            .with(
                "model.onnx",
                edited(|m| {
                    m.graph.as_mut().unwrap().input[0] = fixed("x", &[8, 4]);
                }),
            )
            .with("train.npz", npz(&[("x", floats(&[40, 3], |_| 0.5)), ("target", labels(40))])),
    ]
}

fn open_sides() -> dendrite_onnx::proto::ValueInfoProto {
    use dendrite_onnx::{Dim, Shape, graph::tensor_type};
    let symbol = |name: &str| Dim::Symbol(name.to_owned());
    let shape = Shape(vec![symbol("N"), Dim::Known(3), symbol("H"), symbol("W")]);
    dendrite_onnx::proto::ValueInfoProto {
        name: Some("image".to_owned()),
        r#type: Some(tensor_type(ElementType::Float, Some(&shape))),
        ..Default::default()
    }
}
