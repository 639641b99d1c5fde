//! Small models and data sets.

use std::io::{Cursor, Write};

use dendrite_onnx::{
    Attributes, Dim, ElementType, Shape, Tensor,
    graph::tensor_type,
    proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto},
};
use prost::Message;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A node of the standard domain, named like its output.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Attributes) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(format!("{op}_{}", outputs[0])),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: outputs.iter().map(|s| (*s).to_owned()).collect(),
        attribute: attributes.as_slice().to_vec(),
        ..Default::default()
    }
}

/// A value whose first axis is called N.
pub(crate) fn value(name: &str, element_type: ElementType, row: &[usize]) -> ValueInfoProto {
    let dims = [Dim::Symbol("N".to_owned())].into_iter().chain(row.iter().map(|d| Dim::Known(*d)));
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(tensor_type(element_type, Some(&Shape(dims.collect())))),
        ..Default::default()
    }
}

/// A float32 value of this shape.
pub(crate) fn fixed(name: &str, shape: &[usize]) -> ValueInfoProto {
    let r#type = Some(tensor_type(ElementType::Float, Some(&Shape::known(shape))));
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..Default::default() }
}

/// Numbers that look random.
pub(crate) fn weights(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 37 + 11) % 23) as f32 / 23.0 - 0.5).collect();
    Tensor::from_f32(shape, &values)
}

/// A model of opset 17 and IR 8 with these parts.
pub(crate) fn model(
    inputs: Vec<ValueInfoProto>,
    nodes: Vec<NodeProto>,
    initializers: &[(&str, Tensor)],
    outputs: Vec<ValueInfoProto>,
) -> ModelProto {
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    ModelProto {
        ir_version: Some(8),
        producer_name: Some("test".to_owned()),
        opset_import: vec![import("", 17)],
        graph: Some(GraphProto {
            name: Some("g".to_owned()),
            node: nodes,
            initializer: initializers.iter().map(|(name, tensor)| tensor.to_proto(name)).collect(),
            input: inputs,
            output: outputs,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Two linear layers: `x` [N, 4] to scores `y` [N, 3].
pub(crate) fn layers() -> ModelProto {
    model(
        vec![value("x", ElementType::Float, &[4])],
        vec![
            node("Gemm", &["x", "w1", "b1"], &["h"], Attributes::new()),
            node("Relu", &["h"], &["r"], Attributes::new()),
            node("Gemm", &["r", "w2", "b2"], &["y"], Attributes::new()),
        ],
        &[("w1", weights(&[4, 5])), ("b1", weights(&[5])), ("w2", weights(&[5, 3])), ("b2", weights(&[3]))],
        vec![value("y", ElementType::Float, &[3])],
    )
}

/// [`layers`] as a file.
pub(crate) fn network() -> Vec<u8> {
    layers().encode_to_vec()
}

/// [`network`] with a batch normalisation between its layers.
pub(crate) fn normalised() -> Vec<u8> {
    graph(|graph| {
        let vector = |name: &str, value: f32| Tensor::from_f32(&[5], &[value; 5]).to_proto(name);
        graph.initializer.extend([("s", 1.0), ("t", 0.0), ("mean", 0.1), ("variance", 0.5)].map(|(n, v)| vector(n, v)));
        graph
            .node
            .insert(1, node("BatchNormalization", &["h", "s", "t", "mean", "variance"], &["n"], Attributes::new()));
        graph.node[2].input[0] = "n".to_owned();
    })
}

/// [`layers`], changed.
pub(crate) fn edited(edit: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = layers();
    edit(&mut model);
    model.encode_to_vec()
}

/// The graph of [`layers`], changed.
pub(crate) fn graph(edit: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    edited(|model| edit(model.graph.as_mut().unwrap()))
}

/// A loss that gives one number for the whole batch.
pub(crate) fn loss_of_a_batch() -> Vec<u8> {
    let scalar = Attributes::new().with("keepdims", 0i64);
    model(
        vec![value("prediction", ElementType::Float, &[3]), value("target", ElementType::Float, &[3])],
        vec![
            node("Sub", &["prediction", "target"], &["difference"], Attributes::new()),
            node("Mul", &["difference", "difference"], &["square"], Attributes::new()),
            node("ReduceMean", &["square"], &["loss"], scalar),
        ],
        &[],
        vec![fixed("loss", &[])],
    )
    .encode_to_vec()
}

/// A classifier of colour images of 8 by 8 pixels, 2 classes.
pub(crate) fn image_network() -> Vec<u8> {
    model(
        vec![value("image", ElementType::Float, &[3, 8, 8])],
        vec![
            node("Conv", &["image", "w1"], &["h"], Attributes::new()),
            node("Relu", &["h"], &["r"], Attributes::new()),
            node("GlobalAveragePool", &["r"], &["p"], Attributes::new()),
            node("Flatten", &["p"], &["f"], Attributes::new()),
            node("Gemm", &["f", "w2"], &["y"], Attributes::new()),
        ],
        &[("w1", weights(&[4, 3, 3, 3])), ("w2", weights(&[4, 2]))],
        vec![value("y", ElementType::Float, &[2])],
    )
    .encode_to_vec()
}

/// An array of a data set.
pub(crate) struct Values {
    descr: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// float32, each element by its place.
pub(crate) fn floats(shape: &[usize], element: impl Fn(usize) -> f32) -> Values {
    let bytes = (0..shape.iter().product()).flat_map(|i| element(i).to_le_bytes()).collect();
    Values { descr: "<f4", shape: shape.to_vec(), bytes }
}

/// int64, each element by its place.
pub(crate) fn integers(shape: &[usize], element: impl Fn(usize) -> i64) -> Values {
    let bytes = (0..shape.iter().product()).flat_map(|i| element(i).to_le_bytes()).collect();
    Values { descr: "<i8", shape: shape.to_vec(), bytes }
}

/// Bytes under a type and a shape that need not be theirs.
pub(crate) fn raw(descr: &'static str, shape: &[usize], bytes: &[u8]) -> Values {
    Values { descr, shape: shape.to_vec(), bytes: bytes.to_vec() }
}

impl Values {
    /// As a .npy file.
    pub(crate) fn npy(&self) -> Vec<u8> {
        let sizes: String = self.shape.iter().map(|n| format!("{n},")).collect();
        let mut header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({sizes}), }}", self.descr);
        while !(header.len() + 11).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(&self.bytes);
        bytes
    }
}

/// A .npz file, as numpy.savez writes it.
pub(crate) fn npz(arrays: &[(&str, Values)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, values) in arrays {
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip.start_file(format!("{name}.npy"), stored).unwrap();
        zip.write_all(&values.npy()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The inputs of [`network`].
pub(crate) fn x(rows: usize) -> Values {
    floats(&[rows, 4], |i| ((i * 29 + 7) % 31) as f32 / 31.0)
}

/// The targets of [`network`]: classes 0, 1, 2.
pub(crate) fn labels(rows: usize) -> Values {
    integers(&[rows], |i| (i % 3) as i64)
}

/// Data for [`network`].
pub(crate) fn classes(rows: usize) -> Vec<u8> {
    npz(&[("x", x(rows)), ("target", labels(rows))])
}

/// A .csv file of columns a, b, c, d and target, with the rows that `edit` makes of the good ones.
pub(crate) fn csv(rows: usize, edit: impl FnOnce(&mut Vec<String>)) -> Vec<u8> {
    let mut lines = vec!["a,b,c,d,target".to_owned()];
    lines.extend((0..rows).map(|i| format!("0.{},0.5,1,{},{}", i % 10, i % 7, i % 3)));
    edit(&mut lines);
    (lines.join("\n") + "\n").into_bytes()
}

/// A picture of 8 by 8 pixels as a .bmp file.
pub(crate) fn picture(shade: u8) -> Vec<u8> {
    let pixels = vec![shade; 8 * 8 * 3];
    let mut bytes = b"BM".to_vec();
    bytes.extend((54 + pixels.len() as u32).to_le_bytes());
    bytes.extend([0; 4]);
    for number in [54u32, 40, 8, 8, 1 | 24 << 16, 0, pixels.len() as u32, 0, 0, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(pixels);
    bytes
}
