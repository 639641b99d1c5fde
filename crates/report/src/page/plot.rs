//! A plot as SVG under labels in HTML. The SVG stretches to any width, labels keep their size: one page serves a phone, a
//! screen and paper without a script.

use maud::{Markup, PreEscaped, html};

/// Units of the drawing across and down.
const SIZE: f64 = 1000.0;

/// The range of an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// An axis on which all of `values` lie, with some air. Logarithmic if `log` allows it and values demand it.
    pub(super) fn around(values: impl Iterator<Item = f64>, log: Log) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            return None;
        }
        let log = low > 0.0 && (log == Log::Always || (log == Log::IfWide && high / low > WIDE));
        let (a, b) = if log { (low.log10(), high.log10()) } else { (low, high) };
        let air = if b > a { (b - a) * 0.06 } else { 0.05 * a.abs().max(0.1) };
        Some(Axis { low: a - air, high: b + air, log })
    }

    /// No value lies beyond these limits: an axis needs no air there.
    pub(super) fn within(mut self, low: f64, high: f64) -> Self {
        if !self.log {
            self.low = self.low.max(low);
            self.high = self.high.min(high);
        }
        self
    }

    pub(super) fn is_log(&self) -> bool {
        self.log
    }

    /// The place of `value` from the bottom (0) to the top (1).
    fn place(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        let place = (value - self.low) / (self.high - self.low);
        place.is_finite().then(|| place.clamp(0.0, 1.0))
    }

    /// Round values for marks, about `wanted` of them.
    pub(super) fn ticks(&self, wanted: usize) -> Vec<f64> {
        if !self.log {
            return linear_ticks(self.low, self.high, wanted, &[1.0, 2.0, 2.5, 5.0, 10.0]);
        }
        let decades = self.low.floor() as i32..=self.high.ceil() as i32;
        let of = |steps: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
            all.filter(|v| (self.low..=self.high).contains(&v.log10())).collect()
        };
        let choices: [&[f64]; 3] = [&[1.0], &[1.0, 3.0], &[1.0, 2.0, 5.0]];
        let mut ticks = Vec::new();
        for steps in choices {
            ticks = of(steps);
            if ticks.len() >= 2 {
                break;
            }
        }
        let step = ticks.len().div_ceil(wanted.max(1)).max(1);
        ticks.into_iter().step_by(step).collect()
    }
}

/// Whether an axis is logarithmic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    Never,
    Always,
    /// Where values differ by more than [`WIDE`].
    IfWide,
}

/// The ratio of the largest to the smallest value from which a linear axis hides the small ones.
const WIDE: f64 = 20.0;

fn linear_ticks(low: f64, high: f64, wanted: usize, steps: &[f64]) -> Vec<f64> {
    // Somewhat more marks than wanted are better than half as many.
    let rough = 0.8 * (high - low) / wanted.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return Vec::new();
    }
    let decade = 10f64.powf(rough.log10().floor());
    let step = steps.iter().map(|s| s * decade).find(|s| *s >= rough).unwrap_or(10.0 * decade);
    let first = (low / step).ceil() as i64;
    (0..2 * wanted.max(1) as i64 + 2)
        .map(|i| (first + i) as f64 * step)
        .take_while(|v| *v <= high + step * 1e-9)
        .collect()
}

/// Marks for a count of epochs: whole numbers.
pub(super) fn epoch_ticks(epochs: usize) -> Vec<usize> {
    let ticks = linear_ticks(0.0, epochs as f64, 6, &[1.0, 2.0, 5.0, 10.0]);
    let mut ticks: Vec<usize> = ticks.into_iter().map(|v| v.round() as usize).collect();
    ticks.dedup();
    ticks
}

/// The frame that all plots of a run share: epochs across.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) epochs: usize,
    pub(super) bands: &'a [Band],
}

/// A phase on the axis of epochs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) kept: Option<bool>,
}

impl Band {
    /// The name of its style.
    pub(super) fn class(&self) -> &'static str {
        match self.kept {
            Some(true) => "kept",
            Some(false) => "dropped",
            None => "open",
        }
    }
}

impl Frame<'_> {
    /// The place of an epoch from left (0) to right (1).
    pub(super) fn place(&self, epoch: usize) -> f64 {
        epoch as f64 / self.epochs.max(1) as f64
    }

    /// Bands and their borders, as the ground of a plot.
    fn ground(&self) -> Markup {
        let x = |epoch: usize| round(self.place(epoch) * SIZE);
        html! {
            @for band in self.bands {
                rect class=(format!("band {}", band.class())) x=(x(band.start)) y="0"
                    width=(round((self.place(band.end) - self.place(band.start)) * SIZE)) height=(SIZE) {}
            }
            @for band in self.bands.iter().skip(1) {
                path class="switch" d=(format!("M{} 0V{SIZE}", x(band.start))) {}
            }
        }
    }
}

/// A curve or marks in a plot.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) class: &'static str,
    /// Runs of points that are joined.
    pub(super) runs: Vec<Vec<(usize, f64)>>,
    pub(super) shape: Shape,
}

/// How points are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Line,
    /// Level up to the next point, then upright.
    Steps,
    /// Not at all.
    Dots,
}

impl Series {
    fn path(&self, frame: &Frame, axis: &Axis) -> String {
        let mut path = String::new();
        for run in &self.runs {
            let mut pen_down = false;
            for (epoch, value) in run {
                // Where a value is none the curve has a gap.
                let Some(y) = axis.place(*value) else {
                    pen_down = false;
                    continue;
                };
                let (x, y) = (round(frame.place(*epoch) * SIZE), round((1.0 - y) * SIZE));
                path += &match (pen_down, self.shape) {
                    // A phase of a single epoch is a level line over that epoch.
                    (false, Shape::Line) if run.len() == 1 => {
                        format!("M{} {y}H{x}", round(frame.place(epoch.saturating_sub(1)) * SIZE))
                    }
                    // A line of no length with round ends is a dot, which no stretching distorts.
                    (false, _) | (_, Shape::Dots) => format!("M{x} {y}h0"),
                    (true, Shape::Line) => format!("L{x} {y}"),
                    (true, Shape::Steps) => format!("H{x}V{y}"),
                };
                pen_down = true;
            }
        }
        path
    }
}

/// A whole plot: marks of the value axis at the left, the drawing, and the marks of epochs if `foot`.
pub(super) struct Plot<'a> {
    pub(super) frame: Frame<'a>,
    pub(super) axis: Axis,
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) series: Vec<Series>,
    pub(super) class: &'static str,
    /// What a reader who cannot see it has to know.
    pub(super) description: String,
    pub(super) foot: bool,
}

impl Plot<'_> {
    pub(super) fn markup(&self) -> Markup {
        let grid: String = self
            .ticks
            .iter()
            .filter_map(|(v, _)| self.axis.place(*v))
            .map(|y| format!("M0 {}H{SIZE}", round((1.0 - y) * SIZE)))
            .collect();
        html! {
            div class=(format!("plot {}", self.class)) {
                div class="scale" aria-hidden="true" {
                    @for (value, label) in &self.ticks {
                        @if let Some(y) = self.axis.place(*value) {
                            span style=(format!("top:{}%", round((1.0 - y) * 100.0))) { (label) }
                        }
                    }
                }
                div class="area" {
                    svg viewBox=(format!("0 0 {SIZE} {SIZE}")) preserveAspectRatio="none" role="img" aria-label=(self.description) {
                        (self.frame.ground())
                        path class="grid" d=(grid) {}
                        @for series in &self.series { (stroke(series.class, &series.path(&self.frame, &self.axis))) }
                    }
                }
                @if self.foot {
                    div class="feet" aria-hidden="true" {
                        @for epoch in epoch_ticks(self.frame.epochs) {
                            span style=(format!("left:{}%", round(self.frame.place(epoch) * 100.0))) { (epoch) }
                        }
                    }
                }
            }
        }
    }
}

/// A sample of a curve, for a legend.
pub(super) fn key(class: &str, text: &str) -> Markup {
    html! {
        li {
            svg class="key" viewBox="0 0 24 10" aria-hidden="true" {
                (stroke(class, if class.contains("dot") { "M12 5h0" } else { "M1 5H23" }))
            }
            (PreEscaped("&nbsp;")) (text)
        }
    }
}

/// A path; a ring is a dot with a hole in it.
fn stroke(class: &str, path: &str) -> Markup {
    html! {
        path class=(format!("curve {class}")) d=(path) {}
        @if class.contains("ring") { path class="curve hole" d=(path) {} }
    }
}

/// One decimal is finer than a pixel.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_lie_on_the_axis() {
        let axis = Axis::around([0.81, 0.935].into_iter(), Log::Never).unwrap();
        assert_eq!(
            axis.ticks(5).iter().map(|t| format!("{t:.2}")).collect::<Vec<_>>(),
            ["0.83", "0.85", "0.88", "0.90", "0.93"]
        );
        let rates = Axis::around([0.01, 0.00027].into_iter(), Log::Always).unwrap();
        assert_eq!(rates.ticks(3).len(), 2);
        assert_eq!(epoch_ticks(1), [0, 1]);
        assert!(epoch_ticks(225).len() < 9);
    }

    #[test]
    fn one_value_and_none_have_an_axis_or_not() {
        assert!(Axis::around(std::iter::empty(), Log::Never).is_none());
        assert!(Axis::around([f64::NAN].into_iter(), Log::IfWide).is_none());
        let flat = Axis::around([0.0, 0.0].into_iter(), Log::Always).unwrap();
        assert_eq!(flat.place(0.0), Some(0.5));
        let huge = Axis::around([-1e300, 1e300].into_iter(), Log::Never).unwrap();
        assert!(huge.ticks(4).len() < 12);
    }

    #[test]
    fn values_that_are_none_leave_gaps() {
        let frame = Frame { epochs: 3, bands: &[] };
        let axis = Axis::around([0.0, 1.0].into_iter(), Log::Never).unwrap();
        let runs = vec![vec![(1, 0.0), (2, f64::NAN), (3, 1.0)]];
        let path = Series { class: "", runs, shape: Shape::Line }.path(&frame, &axis);
        assert_eq!(path.matches('M').count(), 2);
        assert!(!path.contains('L'));
    }
}
