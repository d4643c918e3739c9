//! The two text formats of metrics: OpenMetrics 1.0 (sections "Text format" and "Suffixes"), and Prometheus's own, version
//! 0.0.4, in which a counter's family has `_total` in its name and nothing marks the end. Pure.

use std::fmt::{Display, Write};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's format, for clients that do not ask for the other.
    Prometheus,
}

/// What a family measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What only grows.
    Counter,
    /// What goes up and down.
    Gauge,
    /// How often values fell below bounds.
    Histogram,
}

/// Metrics, as far as they are written.
pub(super) struct Text {
    format: Format,
    text: String,
}

/// Names of labels with their values.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Format {
    /// The value of `Content-Type`.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Text {
    pub(super) const fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// Begins a family; a counter's name is given without `_total`.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (suffix, kind) = match (kind, self.format) {
            (Kind::Counter, Format::OpenMetrics) => ("", "counter"),
            (Kind::Counter, Format::Prometheus) => ("_total", "counter"),
            (Kind::Gauge, Format::OpenMetrics | Format::Prometheus) => ("", "gauge"),
            (Kind::Histogram, Format::OpenMetrics | Format::Prometheus) => ("", "histogram"),
        };
        self.line(format_args!("# TYPE {name}{suffix} {kind}\n# HELP {name}{suffix} {help}"));
    }

    /// Writes one number of the family that was begun last; a counter's name with `_total`.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    /// Writes a whole family of gauges.
    pub(super) fn gauge<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: [(Labels<'a>, impl Display); N],
    ) {
        self.family(name, Kind::Gauge, help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    /// Writes a whole family of counters; its name is given without `_total`.
    pub(super) fn counter<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: [(Labels<'a>, impl Display); N],
    ) {
        self.family(name, Kind::Counter, help);
        for (labels, value) in samples {
            self.sample(&format!("{name}_total"), labels, value);
        }
    }

    /// All that was written.
    pub(super) fn finish(mut self) -> String {
        match self.format {
            Format::OpenMetrics => self.line(format_args!("# EOF")),
            Format::Prometheus => {}
        }
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String cannot fail");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
