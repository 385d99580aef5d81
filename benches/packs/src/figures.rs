//! What was measured, and the table of it.

use std::time::Duration;

/// How many keys a page has.
pub(crate) const PAGE: usize = 100;

/// How many pages are listed.
pub(crate) const PAGES: u64 = 2_000;

/// What was measured of a contender in a round; `None`: it has no such thing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Records taken in a second.
    pub(crate) ingest: Option<f64>,
    /// Seconds until it was open and had answered a lookup.
    pub(crate) open: Option<f64>,
    /// Lookups a second.
    pub(crate) lookup: Option<f64>,
    /// Pages a second.
    pub(crate) page: Option<f64>,
    /// Seconds for all keys, in order.
    pub(crate) list: Option<f64>,
    /// Seconds for a verification of everything.
    pub(crate) verify: Option<f64>,
    /// Bytes a record on the disk.
    pub(crate) bytes: Option<f64>,
}

/// So many in so much time, as a rate.
pub(crate) fn rate(count: u64, time: Duration) -> Option<f64> {
    Some(count as f64 / time.as_secs_f64())
}

/// A time in seconds.
pub(crate) fn seconds(time: Duration) -> Option<f64> {
    Some(time.as_secs_f64())
}

/// A contender and its rounds.
pub(crate) struct Row {
    name: &'static str,
    pub(crate) rounds: Vec<Figures>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, rounds: Vec::new() }
    }
}

/// A column: its title, which figure it shows, whether more of it is better, and how it is written.
type Column = (&'static str, fn(&Figures) -> Option<f64>, bool, fn(f64) -> String);

const COLUMNS: [Column; 7] = [
    ("ingest, records/s", |figures| figures.ingest, true, |x| format!("{x:.0}")),
    ("open, ms", |figures| figures.open, false, |x| format!("{:.2}", x * 1e3)),
    ("lookups/s", |figures| figures.lookup, true, |x| format!("{x:.0}")),
    ("pages/s", |figures| figures.page, true, |x| format!("{x:.0}")),
    ("all keys, s", |figures| figures.list, false, |x| format!("{x:.2}")),
    ("verify, s", |figures| figures.verify, false, |x| format!("{x:.2}")),
    ("bytes a record", |figures| figures.bytes, false, |x| format!("{x:.0}")),
];

/// Medians, and in brackets the median of how many times as good the first row was in the same round.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from("| |");
    COLUMNS.iter().for_each(|(title, ..)| text += &format!(" {title} |"));
    text += &format!("\n|---|{}\n", "--:|".repeat(COLUMNS.len()));
    let Some(first) = rows.first() else { return text };
    for row in rows {
        text += &format!("| {} |", row.name);
        for column in &COLUMNS {
            text += &format!(" {} |", cell(first, row, column));
        }
        text.push('\n');
    }
    text
}

fn cell(first: &Row, row: &Row, (_, figure, more, write): &Column) -> String {
    let Some(middle) = median(row.rounds.iter().filter_map(figure)) else { return "–".to_owned() };
    let pairs = first.rounds.iter().zip(&row.rounds);
    let ratios = pairs.filter_map(|(ours, theirs)| {
        let (ours, theirs) = (figure(ours)?, figure(theirs)?);
        Some(if *more { ours / theirs } else { theirs / ours })
    });
    match median(ratios).filter(|_| !std::ptr::eq(first, row)) {
        Some(ratio) => format!("{} ({ratio:.2}x)", write(middle)),
        None => write(middle),
    }
}

fn median(samples: impl Iterator<Item = f64>) -> Option<f64> {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}
