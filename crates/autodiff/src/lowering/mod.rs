//! Operators that are differentiated as what they are made of.
//!
//! Where a gradient passes through such a node, the node is replaced by an equivalent expression of operators that have rules,
//! before the sweep. Its outputs stay the same values. A few of them the runtime cannot run at the working opset: those are
//! replaced wherever a working copy is made ([`lower_missing`]).

mod attention;
mod criterion;
mod deformable;
mod frames;
mod fused;
mod grid_sample;
mod missing;
mod packed_attention;
mod recurrent;
mod regions;
mod renamed;
mod residual;
mod rotary;
mod sampling;
mod sequence;

pub use missing::lower_missing;

use dendrite_onnx::{Attributes, Graph, NodeId, ValueId};

use crate::{
    error::Result,
    expr::{Builder, V},
    rules::Ctx,
};

/// The outputs of a node as expressions; `None` for one that it does not have.
type Lowering = for<'b> fn(&Ctx<'b>) -> Result<Vec<Option<V<'b>>>>;

/// The domain of ONNX Runtime's own operators.
const CONTRIBUTED: &str = "com.microsoft";

/// Operators as (domain, operator).
const TABLE: &[(&str, &str, Lowering)] = &[
    ("", "LSTM", recurrent::lstm),
    ("", "GRU", recurrent::gru),
    ("", "RNN", recurrent::rnn),
    ("", "Swish", missing::swish),
    ("", "GlobalLpPool", missing::global_lp_pool),
    ("", "Attention", attention::standard),
    ("", "RotaryEmbedding", rotary::standard),
    ("", "SimplifiedLayerNormalization", residual::root_mean_square),
    ("", "NegativeLogLikelihoodLoss", criterion::negative_log_likelihood),
    ("", "SoftmaxCrossEntropyLoss", criterion::softmax_cross_entropy),
    ("", "STFT", frames::short_time_fourier),
    ("", "GridSample", grid_sample::grid_sample),
    ("", "DeformConv", deformable::convolution),
    ("", "RoiAlign", regions::align),
    ("", "MaxRoiPool", regions::max_pool),
    ("", "SequenceAt", sequence::at),
    ("", "ConcatFromSequence", sequence::concat),
    ("", "OptionalGetElement", sequence::optional),
    (CONTRIBUTED, "Trilu", renamed::standard),
    (CONTRIBUTED, "GatherND", renamed::standard),
    (CONTRIBUTED, "Pad", renamed::standard),
    (CONTRIBUTED, "QuantizeLinear", renamed::standard),
    (CONTRIBUTED, "DequantizeLinear", renamed::standard),
    (CONTRIBUTED, "ExpandDims", renamed::expand_dims),
    (CONTRIBUTED, "CDist", renamed::distances),
    (CONTRIBUTED, "GridSample", grid_sample::grid_sample),
    (CONTRIBUTED, "Gelu", fused::gelu),
    (CONTRIBUTED, "BiasGelu", fused::bias_gelu),
    (CONTRIBUTED, "FastGelu", fused::fast_gelu),
    (CONTRIBUTED, "QuickGelu", fused::quick_gelu),
    (CONTRIBUTED, "ScaledSiLU", fused::scaled_silu),
    (CONTRIBUTED, "GatedAdd", fused::gated_add),
    (CONTRIBUTED, "FusedMatMul", fused::matmul),
    (CONTRIBUTED, "TransposeMatMul", fused::matmul),
    (CONTRIBUTED, "FusedGemm", fused::gemm),
    (CONTRIBUTED, "FusedConv", fused::conv),
    (CONTRIBUTED, "SkipLayerNormalization", residual::skip_layer),
    (CONTRIBUTED, "SkipSimplifiedLayerNormalization", residual::skip_root_mean_square),
    (CONTRIBUTED, "GatedRMSNorm", residual::gated_root_mean_square),
    (CONTRIBUTED, "EmbedLayerNormalization", residual::embeddings),
    (CONTRIBUTED, "Attention", packed_attention::projected),
    (CONTRIBUTED, "MultiHeadAttention", packed_attention::multi_head),
    (CONTRIBUTED, "RotaryEmbedding", rotary::contributed),
];

/// What a lowering to one output answers.
fn one(v: V<'_>) -> Result<Vec<Option<V<'_>>>> {
    Ok(vec![Some(v)])
}

/// The operators that are lowered, as (domain, operator).
pub(crate) fn operators() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().map(|(domain, op, _)| (*domain, *op))
}

/// Replace those nodes of `order` that are lowered and for which `concerned` says yes. Whether there were any.
pub(crate) fn lower(graph: &mut Graph, order: &[NodeId], concerned: &dyn Fn(&Graph, NodeId) -> bool) -> Result<bool> {
    let mut any = false;
    for id in order {
        let node = graph.node(*id);
        let entry = TABLE.iter().find(|(domain, op, _)| *domain == node.domain && *op == node.op);
        let Some((_, _, lowering)) = entry.filter(|_| concerned(graph, *id)) else { continue };
        any = true;
        replace(graph, *id, *lowering)?;
    }
    Ok(any)
}

fn replace(graph: &mut Graph, id: NodeId, lowering: Lowering) -> Result<()> {
    let node = graph.node(id).clone();
    let first = node.outputs.iter().flatten().next();
    let name = format!("lowered/{}", first.map(|v| graph.name_of(*v)).unwrap_or_default());
    let found: Vec<Option<ValueId>> = Builder::scope(graph, &name, |b| {
        let ctx = Ctx { b, id, node: node.clone(), gradients: Vec::new() };
        Ok::<_, crate::Error>(lowering(&ctx)?.into_iter().map(|v| v.map(V::id)).collect())
    })?;
    graph.remove(id);
    for (output, value) in node.outputs.iter().zip(found) {
        let (Some(output), Some(value)) = (output, value) else { continue };
        let last = graph.op("Identity", &name, &[value], Attributes::new());
        if let Some(producer) = graph.value(last).producer() {
            graph.set_output(producer, 0, *output);
        }
    }
    Ok(())
}
