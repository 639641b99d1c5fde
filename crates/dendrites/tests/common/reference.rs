//! Candidates computed in double precision by loops, with no graph involved: what the candidate graphs must agree with.

use dendrite_onnx::{Graph, Tensor};
use dendrites::{Activation, Connection, DendriteSet, Site, SiteKind, Weights, candidates::Pool};

/// Rows (samples times positions) by columns.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }
}

pub fn activate(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Relu => z.max(0.0),
        Activation::Tanh => z.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-z).exp()),
    }
}

/// Whether [`linear`] knows a case: it pads explicitly, and knows convolutions of one and two dimensions.
pub fn knows(case: &str) -> bool {
    !(case.ends_with("same") || case.contains("3d"))
}

/// A tensor of the site's output layout as rows by channels.
pub fn rows_of(site: &Site, tensor: &Tensor) -> Matrix {
    let (shape, values) = (tensor.shape(), tensor.to_f64().unwrap());
    if !site.kind.is_convolution() {
        return Matrix { columns: *shape.last().unwrap(), values };
    }
    let (channels, positions) = (shape[1], shape[2..].iter().product::<usize>());
    let mut out = Vec::with_capacity(values.len());
    for n in 0..shape[0] {
        for p in 0..positions {
            out.extend((0..channels).map(|c| values[(n * channels + c) * positions + p]));
        }
    }
    Matrix { columns: channels, values: out }
}

/// Op(x; W, b) of a dendrite where its site is applied first: the site's operator without the scales of a Gemm.
pub fn linear(graph: &Graph, site: &Site, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Matrix {
    let (xs, xv) = (x.shape().to_vec(), x.to_f64().unwrap());
    let (ws, wv) = (weight.shape().to_vec(), weight.to_f64().unwrap());
    let bias = bias.map(|b| b.to_f64().unwrap());
    let add = |k: usize| bias.as_ref().map_or(0.0, |b| b[k]);
    if !site.kind.is_convolution() {
        let (inner, columns) = if site.transposed { (ws[1], ws[0]) } else { (ws[0], ws[1]) };
        let w = |i: usize, k: usize| if site.transposed { wv[k * inner + i] } else { wv[i * columns + k] };
        let values = (0..xv.len() / inner)
            .flat_map(|r| (0..columns).map(move |k| (r, k)))
            .map(|(r, k)| add(k) + (0..inner).map(|i| xv[r * inner + i] * w(i, k)).sum::<f64>())
            .collect();
        return Matrix { columns, values };
    }
    let attributes = &graph.node(site.applications[0].node).attributes;
    let flat = ws.len() == 3;
    let pair = |name: &str, default: i64| -> [i64; 2] {
        match attributes.ints(name) {
            Some(v) if flat => [default, v[0]],
            Some(v) => [v[0], v[1]],
            None => [default; 2],
        }
    };
    let (strides, dilations, pads) = (pair("strides", 1), pair("dilations", 1), pair("pads", 0));
    let ends = match attributes.ints("pads") {
        Some(v) if flat => [0, v[1]],
        Some(v) => [v[2], v[3]],
        None => [0; 2],
    };
    let widen = |s: &[usize]| if flat { [s[0], s[1], 1, s[2]] } else { [s[0], s[1], s[2], s[3]] };
    let ([n, c, h, w], [k, per, kh, kw]) = (widen(&xs), widen(&ws));
    if site.kind == SiteKind::ConvTranspose {
        let extra = pair("output_padding", 0);
        let out = |size: usize, i: usize, kernel: usize| {
            strides[i] * (size as i64 - 1) + extra[i] + dilations[i] * (kernel as i64 - 1) + 1 - pads[i] - ends[i]
        };
        let (oh, ow, columns) = (out(h, 0, kh), out(w, 1, kw), per * site.groups);
        let mut values: Vec<f64> =
            (0..n as i64 * oh * ow * columns as i64).map(|i| add(i as usize % columns)).collect();
        // Every element of x is spread over the output: W is [inputs, outputs of a group, kernel].
        for (b, i) in (0..n).flat_map(|b| (0..c).map(move |i| (b, i))) {
            for (iy, ix) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                for (j, ky, kx) in (0..per).flat_map(|j| (0..kh * kw).map(move |p| (j, p / kw, p % kw))) {
                    let y = iy as i64 * strides[0] + ky as i64 * dilations[0] - pads[0];
                    let x = ix as i64 * strides[1] + kx as i64 * dilations[1] - pads[1];
                    if (0..oh).contains(&y) && (0..ow).contains(&x) {
                        let unit = i / (c / site.groups) * per + j;
                        let row = (b as i64 * oh + y) * ow + x;
                        values[row as usize * columns + unit] +=
                            xv[((b * c + i) * h + iy) * w + ix] * wv[((i * per + j) * kh + ky) * kw + kx];
                    }
                }
            }
        }
        return Matrix { columns, values };
    }
    let out = |size: usize, i: usize, kernel: usize| {
        (size as i64 + pads[i] + ends[i] - dilations[i] * (kernel as i64 - 1) - 1) / strides[i] + 1
    };
    let (oh, ow) = (out(h, 0, kh), out(w, 1, kw));
    let per_group = k / site.groups;
    let mut values = Vec::new();
    for b in 0..n {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            for unit in 0..k {
                let mut sum = add(unit);
                for i in 0..per {
                    let channel = unit / per_group * per + i;
                    for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                        let y = oy * strides[0] + ky as i64 * dilations[0] - pads[0];
                        let x = ox * strides[1] + kx as i64 * dilations[1] - pads[1];
                        if (0..h as i64).contains(&y) && (0..w as i64).contains(&x) {
                            let at = ((b * c + channel) * h + y as usize) * w + x as usize;
                            sum += xv[at] * wv[((unit * per + i) * kh + ky) * kw + kx];
                        }
                    }
                }
                values.push(sum);
            }
        }
    }
    Matrix { columns: k, values }
}

/// The activations of an existing set.
pub fn frozen(
    graph: &Graph,
    site: &Site,
    sets: &[DendriteSet],
    weights: &Weights,
    set: &DendriteSet,
    x: &Tensor,
) -> Matrix {
    let mut z = linear(graph, site, x, &weights[&set.path("weight")], weights.get(&set.path("bias")));
    for from in set.cascade(sets) {
        let earlier = frozen(graph, site, sets, weights, from, x);
        let c = weights[&set.cascade_path(from)].to_f64().unwrap();
        z.values.iter_mut().enumerate().for_each(|(i, z)| *z += earlier.values[i] * c[i % set.width]);
    }
    z.values.iter_mut().for_each(|z| *z = activate(set.activation, *z));
    z
}

/// z and a of every unit of a pool, each candidate run on its own as the set it would become.
pub fn units(
    graph: &Graph,
    site: &Site,
    pool: &Pool,
    sets: &[DendriteSet],
    weights: &Weights,
    parameters: &Weights,
    x: &Tensor,
) -> (Matrix, Matrix) {
    let (width, set) = (pool.set.width, &pool.set);
    let shape = set.weight_shape(site);
    let unit_first = site.kind == SiteKind::Conv || site.transposed;
    let wide = &parameters[&set.path("weight")];
    let values = wide.to_f64().unwrap();
    let slice = |name: &str, p: usize| -> Option<Vec<f64>> {
        Some(parameters.get(name)?.to_f64().unwrap()[p * width..(p + 1) * width].to_vec())
    };
    let mut columns: Vec<Vec<f64>> = Vec::new();
    for p in 0..pool.size() {
        let per = values.len() / pool.units();
        let weight: Vec<f64> = if site.kind == SiteKind::ConvTranspose {
            // Inputs first, then the candidates, each with its units of a group.
            let (inputs, own) = (shape[0], shape[1..].iter().product::<usize>());
            (0..inputs).flat_map(|i| values[(i * pool.size() + p) * own..][..own].to_vec()).collect()
        } else if unit_first {
            values[p * width * per..(p + 1) * width * per].to_vec()
        } else {
            (0..per).flat_map(|i| values[i * pool.units() + p * width..][..width].to_vec()).collect()
        };
        let bias = slice(&set.path("bias"), p).map(|b| Tensor::from_f64(&[width], &b));
        let mut z = linear(graph, site, x, &Tensor::from_f64(&shape, &weight), bias.as_ref());
        for from in set.cascade(sets) {
            let earlier = frozen(graph, site, sets, weights, from, x);
            let c = slice(&set.cascade_path(from), p).unwrap();
            z.values.iter_mut().enumerate().for_each(|(i, z)| *z += earlier.values[i] * c[i % width]);
        }
        columns.extend((0..width).map(|k| (0..z.rows()).map(|r| z.at(r, k)).collect::<Vec<f64>>()));
    }
    let rows = columns[0].len();
    let total = pool.units();
    let z: Vec<f64> = (0..rows).flat_map(|r| columns.iter().map(move |c| c[r])).collect();
    let a = z.iter().enumerate().map(|(i, z)| activate(pool.activation(i % total / width), *z)).collect();
    (Matrix { columns: total, values: z }, Matrix { columns: total, values: a })
}

/// Weighted moments by two passes.
pub struct Moments {
    pub count: f64,
    pub mean_a: Vec<f64>,
    pub mean_e: Vec<f64>,
    pub var_a: Vec<f64>,
    pub var_e: Vec<f64>,
    /// Units by neurons.
    pub cov: Vec<f64>,
}

impl Moments {
    pub fn of(a: &Matrix, e: &Matrix, sample_weights: &[f64]) -> Self {
        let per_sample = a.rows() / sample_weights.len();
        let w = |r: usize| sample_weights[r / per_sample];
        let count: f64 = (0..a.rows()).map(w).sum();
        let sum =
            |f: &dyn Fn(usize) -> f64| (0..a.rows()).filter(|r| w(*r) > 0.0).map(|r| w(r) * f(r)).sum::<f64>() / count;
        let mean = |m: &Matrix| -> Vec<f64> { (0..m.columns).map(|c| sum(&|r| m.at(r, c))).collect() };
        let (mean_a, mean_e) = (mean(a), mean(e));
        let var = |m: &Matrix, mean: &[f64]| -> Vec<f64> {
            (0..m.columns).map(|c| sum(&|r| (m.at(r, c) - mean[c]).powi(2))).collect()
        };
        let (var_a, var_e) = (var(a, &mean_a), var(e, &mean_e));
        let cov = (0..a.columns)
            .flat_map(|k| (0..e.columns).map(move |c| (k, c)))
            .map(|(k, c)| sum(&|r| (a.at(r, k) - mean_a[k]) * (e.at(r, c) - mean_e[c])))
            .collect();
        Moments { count, mean_a, mean_e, var_a, var_e, cov }
    }

    /// rho of unit k with its neuron, variances guarded by `floor`.
    pub fn rho(&self, k: usize, floor: f64) -> f64 {
        let channels = self.mean_e.len();
        let c = k % channels;
        self.cov[k * channels + c] / ((self.var_a[k] + floor) * (self.var_e[c] + floor)).sqrt()
    }

    /// The objective of a pool.
    pub fn objective(&self, connection: Connection, floor: f64) -> f64 {
        let channels = self.mean_e.len();
        -(0..self.mean_a.len())
            .map(|k| match connection {
                Connection::Neuron => self.rho(k, floor).abs(),
                Connection::Layer => {
                    let square: f64 = (0..channels).map(|c| self.cov[k * channels + c].powi(2)).sum();
                    (square / (self.var_a[k] + floor) + floor).sqrt()
                }
            })
            .sum::<f64>()
    }
}
