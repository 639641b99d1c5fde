//! How far a result is from itself in the second runtime.

use dendrite_runtime::SessionOptions;
use dendrite_trainer::SecondRuntime;

/// The comparison with tract, where it was built in.
#[cfg(feature = "tract")]
pub(crate) fn tract(session: &SessionOptions) -> Option<Box<SecondRuntime>> {
    use crate::{
        compare::{Runtime, compare},
        failure::Failure,
    };
    use dendrite_onnx::{Graph, Model};

    let session = session.clone();
    Some(Box::new(move |file, inputs| {
        let graph = || -> Result<Graph, Failure> {
            let mut graph = Graph::from_model(&Model::open(file)?)?;
            dendrite_runtime::infer_shapes(&mut graph)?;
            Ok(graph)
        };
        let compared = graph().and_then(|a| compare(&a, &graph()?, inputs, &[Runtime::Tract], None, &session));
        let result = compared.map_err(|failure| failure.message())?;
        let differences = result.rows.iter().filter_map(|row| row.difference).map(|d| d.relative);
        differences.reduce(f64::max).ok_or_else(|| match result.notes.first() {
            Some(note) => note.clone(),
            None => "it computes no output".to_owned(),
        })
    }))
}

/// Without the second runtime there is nothing to compare.
#[cfg(not(feature = "tract"))]
pub(crate) fn tract(_: &SessionOptions) -> Option<Box<SecondRuntime>> {
    None
}
