//! How far a result is from itself in the second runtime.

use dendrite_runtime::SessionOptions;
use dendrite_trainer::SecondRuntime;

/// The comparison with tract, where it was built in.
#[cfg(feature = "tract")]
pub(crate) fn tract(session: &SessionOptions) -> Option<Box<SecondRuntime>> {
    use crate::compare::{Runtime, compare};
    use dendrite_onnx::{Graph, Model};

    let session = session.clone();
    Some(Box::new(move |file, inputs| {
        let graph = || -> Option<Graph> {
            let mut graph = Graph::from_model(&Model::open(file).ok()?).ok()?;
            dendrite_runtime::infer_shapes(&mut graph).ok()?;
            Some(graph)
        };
        let (a, b) = (graph()?, graph()?);
        let result = compare(&a, &b, inputs, &[Runtime::Tract], None, &session).ok()?;
        result.rows.iter().filter_map(|row| row.difference).map(|d| d.relative).reduce(f64::max)
    }))
}

/// Without the second runtime there is nothing to compare.
#[cfg(not(feature = "tract"))]
pub(crate) fn tract(_: &SessionOptions) -> Option<Box<SecondRuntime>> {
    None
}
