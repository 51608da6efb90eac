//! What a run left: CSV of our own benches, and the tree that divan prints.

use std::path::Path;

/// A table with a heading.
pub(crate) struct Figures {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Figures {
    /// Nothing, if that bench was not run.
    pub(crate) fn read(folder: &Path, name: &str) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join(format!("{name}.csv"))).ok()?;
        let mut lines =
            text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        let columns = lines.next()?;
        Some(Self { rows: lines.filter(|row| row.len() == columns.len()).collect(), columns })
    }

    fn column(&self, name: &str) -> usize {
        let found = self.columns.iter().position(|column| column == name);
        found.unwrap_or_else(|| panic!("there is no column {name}"))
    }

    /// The values of a column, each once, in the order of their first row.
    pub(crate) fn each(&self, name: &str) -> Vec<String> {
        let at = self.column(name);
        let mut each: Vec<String> = Vec::new();
        for row in &self.rows {
            if !each.contains(&row[at]) {
                each.push(row[at].clone());
            }
        }
        each
    }

    /// The numbers of a column in the rows that have these cells.
    pub(crate) fn numbers(&self, name: &str, with: &[(&str, &str)]) -> Vec<f64> {
        let at = self.column(name);
        let fits = |row: &&Vec<String>| {
            with.iter().all(|(column, value)| row[self.column(column)] == *value)
        };
        self.rows.iter().filter(fits).filter_map(|row| row[at].parse().ok()).collect()
    }

    pub(crate) fn median(&self, name: &str, with: &[(&str, &str)]) -> Option<f64> {
        median(self.numbers(name, with))
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The median of what was measured one after the other, divided.
pub(crate) fn median_ratio(values: &[f64], to: &[f64]) -> Option<f64> {
    median(values.iter().zip(to).map(|(value, to)| value / to).collect())
}

/// One line of what divan prints.
pub(crate) struct Timing {
    /// `whole/1000`.
    pub(crate) name: String,
    pub(crate) median_ns: f64,
    /// Heap allocations of one call, by the median sample.
    pub(crate) allocations: f64,
}

/// Reads the tree that divan prints.
pub(crate) fn timings(folder: &Path, name: &str) -> Vec<Timing> {
    let Ok(text) = std::fs::read_to_string(folder.join(format!("{name}.txt"))) else {
        return Vec::new();
    };
    let mut timings: Vec<Timing> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut allocates = false;
    for line in text.lines() {
        let cells: Vec<&str> = line.split('│').map(str::trim).collect();
        if let Some(at) = line.find(['├', '╰']) {
            // Two of these a level, each of three columns.
            let depth = line[..at].chars().count() / 3;
            let label = line[at..].trim_start_matches(['├', '╰', '─', ' ']);
            let words: Vec<&str> = label.split_whitespace().collect();
            path.truncate(depth);
            path.push(words.first().copied().unwrap_or_default().to_owned());
            let medians = label.split('│').nth(2).and_then(nanoseconds);
            if let Some(median_ns) = medians {
                timings.push(Timing { name: path.join("/"), median_ns, allocations: 0.0 });
            }
            allocates = false;
            continue;
        }
        let named = |what: &str| cells.contains(&what);
        if named("alloc:") {
            allocates = true;
        } else if named("dealloc:") {
            allocates = false;
        } else if allocates {
            // Fastest, slowest, median: the first row under `alloc:` counts, the second has bytes.
            let numbers: Vec<f64> = cells.iter().filter_map(|cell| cell.parse().ok()).collect();
            if let (Some(timing), Some(count)) = (timings.last_mut(), numbers.get(2)) {
                timing.allocations = *count;
            }
            allocates = false;
        }
    }
    timings
}

fn nanoseconds(cell: &str) -> Option<f64> {
    let mut words = cell.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let unit = match words.next()? {
        "ns" => 1.0,
        "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    Some(number * unit)
}
