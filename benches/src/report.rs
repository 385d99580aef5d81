//! Markdown tables on standard output, and every sample in a file if wanted.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use crate::args::Args;
use crate::group::{Column, Plan, Row, Table};
use crate::place::Place;
use persist_bench_work::Outcome;
use persist_bench_work::{Sample, median, spread};

/// Where the figures go.
pub(crate) struct Report {
    raw: Option<BufWriter<File>>,
}

impl Report {
    /// Begins with what has to be known of the machine and the run.
    pub(crate) fn new(args: &Args, place: &Place) -> Outcome<Self> {
        let raw = args.raw.as_ref().map(|path| File::create(path).map(BufWriter::new)).transpose()?;
        let mut report = Self { raw };
        let processors = std::thread::available_parallelism()?;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        print(&format!(
            "{processors} processors, Linux {kernel}, {}; {} rounds of {} s, seed {}, keys in {} folder(s).\n",
            place.file_system()?,
            args.rounds,
            args.seconds,
            args.seed,
            args.folders
        ))?;
        report.raw_line("group\tclass\tbytes\tkeys\tcolumn\tround\tcontender\trate\tp50_us\tp99_us")?;
        Ok(report)
    }

    /// Notes one sample.
    pub(crate) fn sample(
        &mut self,
        plan: &Plan,
        column: Column,
        round: usize,
        row: &Row,
        sample: Sample,
    ) -> Outcome<()> {
        let column = match column {
            Column::First => "first".to_owned(),
            Column::Tasks(tasks) => tasks.to_string(),
        };
        self.raw_line(&format!(
            "{}\t{}\t{}\t{}\t{column}\t{round}\t{}\t{:.1}\t{:.2}\t{:.2}",
            plan.group.name,
            plan.class.name(),
            plan.size.0,
            row.keys,
            row.entry.name,
            sample.rate,
            sample.p50.as_secs_f64() * 1e6,
            sample.p99.as_secs_f64() * 1e6,
        ))
    }

    /// Prints a table.
    pub(crate) fn table(&mut self, table: &Table<'_>) -> Outcome<()> {
        print(&render(table))
    }

    fn raw_line(&mut self, line: &str) -> Outcome<()> {
        if let Some(raw) = &mut self.raw {
            writeln!(raw, "{line}")?;
            raw.flush()?;
        }
        Ok(())
    }
}

fn print(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn render(table: &Table<'_>) -> String {
    let plan = table.plan;
    let what = match plan.keys.as_slice() {
        [keys] => format!("{}, {} keys", plan.size, number(*keys as f64)),
        _ => "pages of 100 keys".to_owned(),
    };
    let mut text =
        format!("### {}, {}, {what}\n\n| contender | what it promises |", plan.group.name, plan.class.name());
    for column in &table.columns {
        text += &match column {
            Column::First => " first page | |".to_owned(),
            Column::Tasks(1) => " 1 task | |".to_owned(),
            Column::Tasks(tasks) => format!(" {tasks} tasks | |"),
        };
    }
    text += &format!("\n|---|---|{}\n", "--:|--:|".repeat(table.columns.len()));
    for row in &table.rows {
        text += &line(table, row);
    }
    text
}

fn line(table: &Table<'_>, row: &Row) -> String {
    let several = table.plan.keys.len() > 1;
    let keys = if several { format!(", {} keys", number(row.keys as f64)) } else { String::new() };
    let mut line = format!("| {}{keys} | {} |", row.entry.name, row.entry.promise);
    for (at, column) in table.columns.iter().enumerate() {
        let ratio =
            reference(table, row).map_or("–".to_owned(), |ours| ratio(&ours.samples[at], &row.samples[at]));
        line += &format!(" {} | {ratio} |", figure(*column, &row.samples[at]));
    }
    line + "\n"
}

/// What a row is compared with: peers with ours that has as many keys, ours with the first of ours.
fn reference<'a>(table: &'a Table<'_>, row: &Row) -> Option<&'a Row> {
    let mut ours =
        table.rows.iter().filter(|other| other.entry.ours && (row.entry.ours || other.keys == row.keys));
    ours.next().filter(|other| !std::ptr::eq(*other, row))
}

fn figure(column: Column, samples: &[Sample]) -> String {
    let rates = samples.iter().map(|sample| sample.rate);
    let middle = median(rates.clone());
    let shown = if column == Column::First { milliseconds(1e3 / middle) } else { number(middle) };
    format!("{shown} ±{:.0} %", spread(rates) * 100.0)
}

/// The median of the ratios of the rounds.
fn ratio(ours: &[Sample], theirs: &[Sample]) -> String {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate / theirs.rate);
    format!("{:.2}x", median(ratios))
}

fn milliseconds(time: f64) -> String {
    if time < 10.0 { format!("{time:.2} ms") } else { format!("{time:.0} ms") }
}

/// A number with commas.
fn number(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        let shown: Vec<String> = [0.4, 999.0, 1000.0, 12_345.6, 1_234_567.0].map(number).into();
        assert_eq!(shown, ["0", "999", "1,000", "12,346", "1,234,567"]);
    }
}
