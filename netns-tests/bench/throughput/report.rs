//! What was measured, kept on disk as it comes, and written as a table and a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::Subject;
use crate::ground::Wire;
use crate::measure::{Effort, Figures};

/// One measurement.
pub(crate) struct Record<'a> {
    pub(crate) wire: Wire,
    pub(crate) subject: &'a str,
    pub(crate) round: usize,
    pub(crate) figures: Figures,
}

/// All measurements of one effort.
pub(crate) struct Results {
    directory: PathBuf,
    figures: BTreeMap<(Wire, String, usize), Figures>,
    absent: BTreeMap<String, String>,
    has_been: String,
}

impl Results {
    /// Those that are on disk, unless all is to be measured anew.
    pub(crate) fn open(effort: &Effort, is_fresh: bool) -> Result<Self> {
        let kind = if effort.rounds == 1 { "bench-quick" } else { "bench" };
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(kind);
        fs::create_dir_all(&directory)?;
        let mut results = Self {
            directory,
            figures: BTreeMap::new(),
            absent: BTreeMap::new(),
            has_been: format!("{} rounds of {} s", effort.rounds, effort.seconds),
        };
        if is_fresh {
            fs::write(results.records(), "")?;
        }
        let text = fs::read_to_string(results.records()).unwrap_or_default();
        // A line that was broken off is measured again.
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        results.figures.extend(lines.filter_map(|line: Value| read(&line)));
        Ok(results)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn has(&self, wire: Wire, subject: &str, round: usize) -> bool {
        self.figures.contains_key(&(wire, subject.to_owned(), round))
    }

    /// Keeps a measurement.
    pub(crate) fn add(&mut self, record: Record<'_>) -> Result<()> {
        let Record { wire, subject, round, figures } = record;
        let mut file = fs::File::options().create(true).append(true).open(self.records())?;
        writeln!(file, "{}", write(wire, subject, round, &figures))?;
        self.figures.insert((wire, subject.to_owned(), round), figures);
        Ok(())
    }

    /// Names a subject that cannot be measured.
    pub(crate) fn absent(&mut self, subject: &str, reason: &str) {
        eprintln!("bench: {subject}: {reason}");
        self.absent.insert(subject.to_owned(), reason.lines().next().unwrap_or_default().to_owned());
    }

    /// Writes the table and the picture; gives the table, in Markdown.
    pub(crate) fn write(&self, subjects: &[&Subject]) -> Result<String> {
        let table = self.table(subjects)?;
        fs::write(self.directory.join("table.md"), &table)?;
        fs::write(self.directory.join("plot.svg"), self.plot(subjects)?)?;
        Ok(table)
    }

    fn records(&self) -> PathBuf {
        self.directory.join("records.jsonl")
    }

    /// All rounds of one figure.
    fn values(&self, wire: Wire, subject: &str, figure: impl Fn(&Figures) -> Option<f64>) -> Vec<f64> {
        let of = |((at, name, _), figures): (&(Wire, String, usize), &Figures)| {
            (*at == wire && name == subject).then(|| figure(figures)).flatten()
        };
        let mut values: Vec<_> = self.figures.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn table(&self, subjects: &[&Subject]) -> Result<String> {
        let mut text = String::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        writeln!(text, "Medians [least–greatest] of {} on {cores} cores.\n", self.has_been)?;
        for wire in Wire::ALL.into_iter().filter(|wire| self.figures.keys().any(|(at, ..)| at == wire)) {
            writeln!(
                text,
                "| wire {} | TCP, Gbit/s | CPU s/GB | UDP 64 B, k/s | round trip, µs | memory, MB |",
                wire.name()
            )?;
            writeln!(text, "|---|---|---|---|---|---|")?;
            for subject in subjects {
                let cell = |figure: fn(&Figures) -> Option<f64>, digits: usize| {
                    shown(&self.values(wire, subject.name, figure), digits)
                };
                let cells = [
                    cell(|figures| Some(figures.gigabits_per_second), 2),
                    cell(|figures| figures.cpu_seconds_per_gigabyte, 2),
                    cell(|figures| Some(figures.kilodatagrams_per_second), 0),
                    cell(|figures| Some(figures.round_trip_us), 0),
                    cell(|figures| figures.megabytes, 0),
                ];
                writeln!(text, "| {} | {} |", subject.name, cells.join(" | "))?;
            }
            writeln!(text)?;
        }
        writeln!(
            text,
            "Wires: mtu, packets of 1,500 bytes without any offload; mtu+gro, the same with GRO; gso, veth as it comes. \
             CPU and memory are the subject's own processes'.\n"
        )?;
        for subject in subjects {
            let absent = self.absent.get(subject.name).map(|reason| format!(" **Not measured: {reason}.**"));
            writeln!(text, "- {}: {}.{}", subject.name, subject.about, absent.unwrap_or_default())?;
        }
        Ok(text)
    }

    /// TCP of all subjects, a block of bars for each wire.
    fn plot(&self, subjects: &[&Subject]) -> Result<String> {
        const ROW: usize = 18;
        const LEFT: f64 = 170.0;
        const WIDTH: f64 = 520.0;
        let median =
            |wire, name| middle(&self.values(wire, name, |figures| Some(figures.gigabits_per_second)));
        let all = Wire::ALL.iter().flat_map(|wire| subjects.iter().filter_map(|it| median(*wire, it.name)));
        let greatest = all.fold(1.0_f64, f64::max);
        let height = Wire::ALL.len() * (subjects.len() + 2) * ROW;
        let mut svg = String::new();
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">",
            LEFT + WIDTH + 70.0
        )?;
        let mut y = ROW;
        for wire in Wire::ALL {
            writeln!(
                svg,
                "<text x=\"4\" y=\"{y}\" font-weight=\"bold\">TCP on wire {}, Gbit/s</text>",
                wire.name()
            )?;
            y += ROW;
            for subject in subjects {
                let Some(value) = median(wire, subject.name) else { continue };
                let (length, colour) = (
                    value / greatest * WIDTH,
                    if subject.name.starts_with("mesh") { "#1f6feb" } else { "#9aa4af" },
                );
                writeln!(
                    svg,
                    "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
                    LEFT - 6.0,
                    subject.name
                )?;
                writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" fill=\"{colour}\"/>",
                    y - 10
                )?;
                writeln!(svg, "<text x=\"{:.1}\" y=\"{y}\">{value:.2}</text>", LEFT + length + 4.0)?;
                y += ROW;
            }
            y += ROW;
        }
        writeln!(svg, "</svg>")?;
        Ok(svg)
    }
}

/// The median, and the spread if there is one.
fn shown(values: &[f64], digits: usize) -> String {
    let (Some(median), Some(least), Some(greatest)) = (middle(values), values.first(), values.last()) else {
        return "–".to_owned();
    };
    if values.len() == 1 {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} [{least:.digits$}–{greatest:.digits$}]")
}

/// The middle of sorted values; of an even number the greater of the two in the middle.
fn middle(values: &[f64]) -> Option<f64> {
    values.get(values.len() / 2).copied()
}

fn write(wire: Wire, subject: &str, round: usize, figures: &Figures) -> Value {
    json!({
        "wire": wire.name(), "subject": subject, "round": round,
        "gbit": figures.gigabits_per_second, "cpu": figures.cpu_seconds_per_gigabyte,
        "kdps": figures.kilodatagrams_per_second, "rtt": figures.round_trip_us, "mb": figures.megabytes,
    })
}

fn read(line: &Value) -> Option<((Wire, String, usize), Figures)> {
    let wire = Wire::ALL.into_iter().find(|wire| line["wire"] == wire.name())?;
    let figures = Figures {
        gigabits_per_second: line["gbit"].as_f64()?,
        cpu_seconds_per_gigabyte: line["cpu"].as_f64(),
        kilodatagrams_per_second: line["kdps"].as_f64()?,
        round_trip_us: line["rtt"].as_f64()?,
        megabytes: line["mb"].as_f64(),
    };
    let round = usize::try_from(line["round"].as_u64()?).ok()?;
    Some(((wire, line["subject"].as_str()?.to_owned(), round), figures))
}
