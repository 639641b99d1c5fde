//! Matrix products, Einstein sums, determinants, inverses, distances.

use crate::{
    case::{Case, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table = &[
    (&["MatMul"], |r, op| {
        let (a, b) = factors(r);
        Case::of(op).x(r.floats(&a)).x(r.floats(&b))
    }),
    (&["Gemm"], |r, op| {
        let case = gemm(r, op);
        case.with_some("alpha", maybe(r)).with_some("beta", maybe(r))
    }),
    (&["com.microsoft.FusedGemm"], |r, op| {
        let case = gemm(r, op).with_some("alpha", maybe(r)).with_some("beta", maybe(r));
        let name = r.pick(&["Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "LeakyRelu", "Elu", "HardSigmoid"]);
        let case = case.with("activation", name);
        match name {
            "LeakyRelu" | "Elu" => case.with("activation_alpha", r.float(0.1, 1.0)),
            "HardSigmoid" => {
                case.with("activation_alpha", r.float(0.05, 0.3)).with("activation_beta", r.float(0.3, 0.7))
            }
            _ => case,
        }
    }),
    (&["Einsum"], einsum),
    (&["Det"], |r, op| {
        let (leading, n) = (r.full(0, 2), r.size(1, 3));
        Case::of(op).x(r.floats(&square(&leading, n)))
    }),
    (&["com.microsoft.Inverse"], |r, op| {
        let (leading, n) = (r.full(0, 2), r.size(1, 3));
        let mut x = r.between(&square(&leading, n), -1.0, 1.0);
        // Far from singular.
        x.values.iter_mut().enumerate().filter(|(at, _)| at % (n * n) % (n + 1) == 0).for_each(|(_, v)| *v += 3.0);
        Case::of(op).x(x)
    }),
    (&["com.microsoft.FusedMatMul"], |r, op| fused_matmul(r, op, true)),
    (&["com.microsoft.TransposeMatMul"], |r, op| fused_matmul(r, op, false)),
    (&["com.microsoft.CDist"], |r, op| {
        let (m, n, k) = (r.size(1, 5), r.size(1, 5), r.size(1, 4));
        let metric = r.pick(&["sqeuclidean", "euclidean"]);
        // Two groups of points that are apart.
        let [a, b] = [r.between(&[m, k], 0.5, 2.0), r.between(&[n, k], -2.0, -0.5)];
        Case::of(op).x(a).x(b).with("metric", metric)
    }),
];

fn maybe(r: &mut Draw) -> Option<f32> {
    if r.once_in(3) { None } else { Some(r.float(-1.5, 1.5)) }
}

fn square(leading: &[usize], n: usize) -> Vec<usize> {
    let leading = if leading.iter().product::<usize>() > 6 { &leading[..1] } else { leading };
    [leading, &[n, n]].concat()
}

/// Shapes of two factors: vectors, matrices, batches that broadcast. No axis is empty: the runtime leaves a batch of products
/// over nothing as the memory was.
fn factors(r: &mut Draw) -> (Vec<usize>, Vec<usize>) {
    let (m, k, n) = (r.size(1, 3), r.size(1, 3), r.size(1, 3));
    match r.below(8) {
        0 => (vec![k], vec![k]),
        1 => (vec![k], vec![k, n]),
        2 => (vec![m, k], vec![k]),
        3 => (vec![m, k], vec![k, n]),
        4 => (vec![k], vec![r.size(1, 2), k, n]),
        5 => (vec![r.size(1, 2), m, k], vec![k]),
        _ => {
            let rank = r.size(0, 2);
            let leading = r.sizes(rank, 1, 2);
            let [a, b] = [r.narrower(&leading), r.narrower(&leading)];
            ([&a[..], &[m, k]].concat(), [&b[..], &[k, n]].concat())
        }
    }
}

fn turned(shape: [usize; 2], turn: i64) -> [usize; 2] {
    if turn == 0 { shape } else { [shape[1], shape[0]] }
}

fn gemm(r: &mut Draw, op: &str) -> Case {
    let (m, k, n) = (r.size(1, 4), r.size(1, 4), r.size(1, 4));
    let [ta, tb] = [r.flag(), r.flag()];
    let case = Case::of(op).x(r.floats(&turned([m, k], ta))).x(r.floats(&turned([k, n], tb)));
    let case = case.with("transA", ta).with("transB", tb);
    let added: &[usize] = match r.below(7) {
        0 => return case,
        1 => &[],
        2 => &[1],
        3 => &[n],
        4 => &[1, n],
        5 => &[m, 1],
        _ => &[m, n],
    };
    case.x(r.floats(added))
}

fn fused_matmul(r: &mut Draw, op: &str, batched: bool) -> Case {
    let (m, k, n) = (r.size(1, 3), r.size(1, 3), r.size(1, 3));
    let [ta, tb] = [r.flag(), r.flag()];
    let rank = r.size(0, 2);
    let leading = r.sizes(rank, 1, 2);
    let same = !batched || r.once_in(2);
    // In front of the batch the rows may stand first.
    let [front_a, front_b] = [r.flag(), r.flag()].map(|f| if batched && same && rank > 0 { f } else { 0 });
    let [a, b] = if same { [leading.clone(), leading] } else { [r.narrower(&leading), r.narrower(&leading)] };
    let shape = |leading: Vec<usize>, matrix: [usize; 2], front: i64| {
        let mut shape = [&leading[..], &matrix].concat();
        if front == 1 {
            let rank = shape.len();
            shape[..rank - 1].rotate_right(1);
        }
        shape
    };
    let a = shape(a, turned([m, k], ta), front_a);
    let b = shape(b, turned([k, n], tb), front_b);
    let case = Case::of(op).x(r.floats(&a)).x(r.floats(&b)).with("transA", ta).with("transB", tb);
    let case = case.with_some("alpha", maybe(r));
    if batched { case.with("transBatchA", front_a).with("transBatchB", front_b) } else { case }
}

/// One to three terms of some letters, of which some are kept in any order; with ellipses, diagonals and no arrow.
fn einsum(r: &mut Draw, op: &str) -> Case {
    let letters = "abcd";
    let sizes = r.lettered(letters);
    let hidden: Vec<usize> = if r.once_in(3) {
        let rank = r.size(1, 2);
        r.sizes(rank, 1, 2)
    } else {
        vec![]
    };
    let mut terms: Vec<String> = Vec::new();
    let mut case = Case::of(op);
    let operands = r.size(1, 3);
    for _ in 0..operands {
        let count = r.size(1, 3);
        let mut term: Vec<char> = r.order(letters.len()).into_iter().take(count).filter_map(|i| letters.chars().nth(i)).collect();
        // The runtime crashes on diagonals among more.
        if count == 2 && (operands == 1 || operands == 2 && hidden.is_empty()) && r.once_in(3) {
            term[1] = term[0];
        }
        let mut shape: Vec<usize> = term.iter().map(|l| sizes[l]).collect();
        let mut text: String = term.iter().collect();
        if !hidden.is_empty() && r.once_in(2) {
            // Of as many axes in every term: with fewer the runtime refuses the equation, or crashes.
            let own: Vec<usize> = hidden.iter().map(|n| if r.once_in(3) { 1 } else { *n }).collect();
            let place = r.pick(&[0, text.len()]);
            shape.splice(place..place, own);
            text.insert_str(place, "...");
        }
        case = case.x(r.floats(&shape));
        terms.push(text);
    }
    let left = terms.join(",");
    let equation = if r.once_in(3) {
        left
    } else {
        let order = r.order(letters.len());
        let used: Vec<char> = order.into_iter().filter_map(|i| letters.chars().nth(i)).filter(|l| left.contains(*l)).collect();
        let kept: String = used.into_iter().filter(|_| !r.once_in(3)).collect();
        format!("{left}->{}{kept}", if left.contains("...") { "..." } else { "" })
    };
    case.with("equation", equation.as_str())
}

