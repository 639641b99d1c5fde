//! What the words on the page mean, and the options of the run.

use maud::{Markup, html};

use crate::{run::Run, words::name};

const TERMS: [(&str, &str); 6] = [
    (
        "Site",
        "a linear operation of the model (Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU or RNN) at which dendrites can grow, called by its output.",
    ),
    (
        "Dendrite",
        "a second linear operation on the site\u{2019}s input with a non-linearity, added to its neurons through a connection \
         that starts at zero. A cycle adds a set of them and then trains everything.",
    ),
    (
        "Paired test",
        "a phase is kept if the loss of the same validation samples fell by more than 1.645 standard errors and the metric is no \
         lower. Validation thus chose the result; the test data did not.",
    ),
    (
        "Parity",
        "the largest relative difference between the outputs of the exported file and those of the trained model. Around 1e-6 \
         is rounding.",
    ),
    (
        "Control",
        "a model trained under the same conditions but without what is claimed to help: longer is the input trained for as many \
         epochs without dendrites, wider the input with its own hidden layers widened to as many parameters. Only what beats its controls can be put down to dendrites.",
    ),
    ("Sham", "a control: the same growth with every connection held at zero, so that its dendrites do nothing."),
];

/// How to read the page.
pub(super) fn guide() -> Markup {
    html! {
        section aria-labelledby="guide" {
            h2 id="guide" { "How to read this page" }
            dl class="terms" {
                @for (term, meaning) in TERMS {
                    dt { (term) }
                    dd { (meaning) }
                }
            }
        }
    }
}

/// The options as they were used.
pub(super) fn options(run: &Run) -> Markup {
    let Some(config) = &run.config else { return Markup::default() };
    let text: Vec<String> = config.trim_end().lines().map(name).collect();
    html! {
        section {
            details {
                summary { "Options (config.toml)" }
                pre tabindex="0" { code { (text.join("\n")) } }
            }
        }
    }
}
