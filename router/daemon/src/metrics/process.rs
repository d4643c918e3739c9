//! Metrics of the process, by the names that Prometheus's clients give them, from proc(5).

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use crate::metrics::text::Text;

/// What the kernel tells of this process.
pub(super) struct Process {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_files: u64,
    open_files_max: Option<u64>,
}

impl Process {
    /// Reads it; `None` where there is no `/proc`.
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses, and may hold anything.
        let fields: Vec<u64> =
            stat.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // Numbered from 1 in proc_pid_stat(5); the first one here is the third there.
        let field = |number: usize| fields.get(number - 3).copied();
        let ticks = |number| Some(field(number)? as f64 / clock_ticks_per_second() as f64);
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(Self {
            cpu_seconds: ticks(14)? + ticks(15)?,
            start_seconds: boot + ticks(22)?,
            resident_bytes: field(24)?.saturating_mul(page_size() as u64),
            virtual_bytes: field(23)?,
            threads: field(20)?,
            open_files: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            open_files_max: getrlimit(Resource::Nofile).current,
        })
    }

    pub(super) fn write(&self, text: &mut Text) {
        text.counter("process_cpu_seconds", "User and system time.", [(&[][..], self.cpu_seconds)]);
        text.gauge("process_start_time_seconds", "Start, since the epoch.", [(&[][..], self.start_seconds)]);
        text.gauge("process_resident_memory_bytes", "Memory that is held.", [(&[][..], self.resident_bytes)]);
        text.gauge("process_virtual_memory_bytes", "Memory that is mapped.", [(&[][..], self.virtual_bytes)]);
        text.gauge("process_threads", "Threads.", [(&[][..], self.threads)]);
        text.gauge("process_open_fds", "Open files.", [(&[][..], self.open_files)]);
        if let Some(limit) = self.open_files_max {
            text.gauge("process_max_fds", "Files that may be open.", [(&[][..], limit)]);
        }
    }
}
