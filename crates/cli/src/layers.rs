//! The table of a model's layers, to be read or to be pasted into a paper.

use dendrite_onnx::{Graph, NodeId, Shape, ops::cost::node_cost};
use serde::Serialize;

use crate::output::grouped;

/// How the table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns of text, after the facts of the model
    Text,
    /// A Markdown table
    Markdown,
    /// A LaTeX tabular, for the package booktabs
    Latex,
    /// Comma-separated values, numbers without separators
    Csv,
}

/// A value as it stands in a model.
#[derive(Debug, Serialize)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) element_type: Option<String>,
    pub(crate) shape: Option<String>,
}

impl Port {
    /// The value `id` of a graph.
    pub(crate) fn of(graph: &Graph, id: dendrite_onnx::ValueId) -> Self {
        let value = graph.value(id);
        Port {
            name: value.name.clone(),
            element_type: value.element_type.map(|t| t.name().to_owned()),
            shape: value.shape.as_ref().map(Shape::to_string),
        }
    }
}

/// An operator with its domain, unless that is ONNX's own.
pub(crate) fn operator(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") }
}

/// A node with what it costs; multiply-accumulates are those of one sample.
#[derive(Debug, Serialize)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) operator: String,
    pub(crate) outputs: Vec<Port>,
    pub(crate) parameters: usize,
    pub(crate) macs: Option<u64>,
}

impl Layer {
    /// The layers of a graph, in the order given.
    pub(crate) fn all(graph: &Graph, order: &[NodeId]) -> Vec<Layer> {
        let layer = |id: &NodeId| {
            let (node, cost) = (graph.node(*id), node_cost(graph, *id));
            Layer {
                name: node.name.clone(),
                operator: operator(&node.domain, &node.op),
                outputs: node.outputs.iter().flatten().map(|v| Port::of(graph, *v)).collect(),
                parameters: cost.parameters,
                macs: cost.macs,
            }
        };
        order.iter().map(layer).collect()
    }

    /// Its name, or its first output where it has none.
    fn shown(&self) -> &str {
        match self.outputs.first() {
            Some(output) if self.name.is_empty() => &output.name,
            _ => &self.name,
        }
    }

    fn shape(&self) -> &str {
        self.outputs.first().and_then(|o| o.shape.as_deref()).unwrap_or("?")
    }
}

/// The columns of text; the last four hold numbers.
pub(crate) const HEADER: [&str; 7] =
    ["layer", "operator", "output shape", "parameters", "parameters (%)", "MACs a sample", "MACs (%)"];
/// The first column of numbers.
pub(crate) const NUMBERS: usize = 3;

/// The rows of the table, the last one the total: `parameters` and `macs` of the model, in which shared weights count once.
pub(crate) fn rows(layers: &[Layer], parameters: usize, macs: Option<u64>, format: Format) -> Vec<Vec<String>> {
    let csv = format == Format::Csv;
    let number = |n: u64| if csv { n.to_string() } else { grouped(n) };
    let share = |n: u64, of: u64| if of == 0 { String::new() } else { format!("{:.1}", 100.0 * n as f64 / of as f64) };
    // What costs nothing stays empty where people read, so that the eye finds what does.
    let cell = |n: u64| if n == 0 && !csv { String::new() } else { number(n) };
    let percent = |n: u64, of: Option<u64>| match of {
        Some(of) if n > 0 || csv => share(n, of),
        _ => String::new(),
    };
    let unknown = if csv { "" } else { "?" };
    let row = |layer: &Layer| {
        let n = layer.parameters as u64;
        vec![
            layer.shown().to_owned(),
            layer.operator.clone(),
            layer.shape().to_owned(),
            cell(n),
            percent(n, Some(parameters as u64)),
            layer.macs.map_or(unknown.to_owned(), cell),
            layer.macs.map_or(String::new(), |n| percent(n, macs)),
        ]
    };
    let all = |n: Option<u64>| n.map_or(unknown.to_owned(), number);
    let whole = |n: Option<u64>| n.filter(|n| *n > 0).map_or(String::new(), |_| "100.0".to_owned());
    let total = Some(parameters as u64);
    let last = vec!["total".to_owned(), String::new(), String::new(), all(total), whole(total), all(macs), whole(macs)];
    layers.iter().map(row).chain([last]).collect()
}

/// The table as text of `format`, without the last line feed.
pub(crate) fn written(rows: &[Vec<String>], format: Format) -> String {
    match format {
        Format::Text | Format::Markdown => markdown(rows),
        Format::Latex => latex(rows),
        Format::Csv => csv(rows),
    }
}

/// Padded, so that it reads as text too.
fn markdown(rows: &[Vec<String>]) -> String {
    let escaped = |text: &str| one_line(text).replace('\\', "\\\\").replace('|', "\\|");
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| escaped(text)).collect()).collect();
    let widths: Vec<usize> = HEADER
        .iter()
        .enumerate()
        .map(|(i, title)| {
            let cells = rows.iter().filter_map(|row| row.get(i)).map(|text| text.chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let padded = |i: usize, text: &str| {
        let gap = " ".repeat(widths[i].saturating_sub(text.chars().count()));
        if i < NUMBERS { format!("{text}{gap}") } else { format!("{gap}{text}") }
    };
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let title = line(HEADER.iter().enumerate().map(|(i, t)| padded(i, t)).collect());
    let rule = |i: usize| {
        let dashes = "-".repeat(widths[i].saturating_sub(1));
        if i < NUMBERS { format!("{dashes}-") } else { format!("{dashes}:") }
    };
    let rule = line((0..HEADER.len()).map(rule).collect());
    let body = rows.iter().map(|row| line(row.iter().enumerate().map(|(i, t)| padded(i, t)).collect()));
    [title, rule].into_iter().chain(body).collect::<Vec<_>>().join("\n")
}

fn latex(rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("  {} \\\\", cells.join(" & "));
    let cell = |(i, text): (usize, &String)| match (i, text.as_str()) {
        (0..=1, text) if !text.is_empty() => format!("\\texttt{{{}}}", escaped_latex(text)),
        (_, text) => escaped_latex(text),
    };
    let mut lines = vec![
        "% \\usepackage{booktabs}".to_owned(),
        format!("\\begin{{tabular}}{{{}{}}}", "l".repeat(NUMBERS), "r".repeat(HEADER.len() - NUMBERS)),
        "  \\toprule".to_owned(),
        line(HEADER.iter().map(|title| escaped_latex(title)).collect()),
        "  \\midrule".to_owned(),
    ];
    let (total, layers) = rows.split_last().map_or((None, rows), |(total, layers)| (Some(total), layers));
    lines.extend(layers.iter().map(|row| line(row.iter().enumerate().map(cell).collect())));
    lines.push("  \\midrule".to_owned());
    lines.extend(total.map(|row| line(row.iter().map(|text| escaped_latex(text)).collect())));
    lines.extend(["  \\bottomrule", "\\end{tabular}"].map(str::to_owned));
    lines.join("\n")
}

fn escaped_latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '[' => escaped += "{[}",
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

fn csv(rows: &[Vec<String>]) -> String {
    let quoted = |text: &str| {
        let special = text.contains(['"', ',', '\n', '\r']);
        if special { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
    };
    let line = |cells: &[String]| cells.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(",");
    let header: Vec<String> = HEADER.iter().map(|title| (*title).to_owned()).collect();
    [&header].into_iter().chain(rows).map(|row| line(row)).collect::<Vec<_>>().join("\n")
}

/// Names come from the model and may hold anything.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(format: Format) -> String {
        let port =
            |name: &str, shape: &str| Port { name: name.to_owned(), element_type: None, shape: Some(shape.to_owned()) };
        let layers = [
            Layer {
                name: "conv_1".to_owned(),
                operator: "Conv".to_owned(),
                outputs: vec![port("a", "[n, 8, 3]")],
                parameters: 1_500,
                macs: Some(12_000),
            },
            Layer {
                name: String::new(),
                operator: "my.domain.Op".to_owned(),
                outputs: vec![port("b|\"c\"", "[n]")],
                parameters: 0,
                macs: Some(0),
            },
        ];
        written(&rows(&layers, 2_000, Some(12_000), format), format)
    }

    #[test]
    fn each_format_is_as_its_readers_take_it() {
        assert_eq!(
            table(Format::Markdown),
            "\
| layer  | operator     | output shape | parameters | parameters (%) | MACs a sample | MACs (%) |
| ------ | ------------ | ------------ | ---------: | -------------: | ------------: | -------: |
| conv_1 | Conv         | [n, 8, 3]    |      1,500 |           75.0 |        12,000 |    100.0 |
| b\\|\"c\" | my.domain.Op | [n]          |            |                |               |          |
| total  |              |              |      2,000 |          100.0 |        12,000 |    100.0 |"
        );
        assert_eq!(
            table(Format::Csv),
            "\
layer,operator,output shape,parameters,parameters (%),MACs a sample,MACs (%)
conv_1,Conv,\"[n, 8, 3]\",1500,75.0,12000,100.0
\"b|\"\"c\"\"\",my.domain.Op,[n],0,0.0,0,0.0
total,,,2000,100.0,12000,100.0"
        );
        assert_eq!(
            table(Format::Latex),
            "\
% \\usepackage{booktabs}
\\begin{tabular}{lllrrrr}
  \\toprule
  layer & operator & output shape & parameters & parameters (\\%) & MACs a sample & MACs (\\%) \\\\
  \\midrule
  \\texttt{conv\\_1} & \\texttt{Conv} & {[}n, 8, 3] & 1,500 & 75.0 & 12,000 & 100.0 \\\\
  \\texttt{b|\"c\"} & \\texttt{my.domain.Op} & {[}n] &  &  &  &  \\\\
  \\midrule
  total &  &  & 2,000 & 100.0 & 12,000 & 100.0 \\\\
  \\bottomrule
\\end{tabular}"
        );
    }
}
