//! What is measured with whom, and the order of it: round by round, one contender after the other.

use std::sync::Arc;

use persist_bench_work::{Data, Job, Outcome, Runner, Sample, Seed, Work};
use persist_core::ByteSize;

use crate::args::Args;
use crate::place::Place;
use crate::report::Report;
use crate::table::{Class, Entry, TABLE};

/// The key space of a measurement, as far as this many bytes of values allow.
const KEYS: usize = 4096;
const SPACE: usize = 128 << 20;

/// How many values are stored with one call.
const BULK: usize = 100_000;

/// How large the values of a listed storage are.
const LISTED: usize = 128;

/// From here on only our own storages are listed: the cost of the others grows with the number of keys.
const MILLION: usize = 1_000_000;

/// A group of measurements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    work: Work,
    classes: &'static [Class],
}

use Class::{
    Cache, List, Read, Redis, RedisList, RedisRead, Relaxed, SqliteBulk, SqliteList, SqliteRead,
    SqliteRelaxed, SqliteStrict, Strict,
};

const GROUPS: [Group; 7] = [
    Group {
        name: "store",
        work: Work::Store,
        classes: &[Strict, Relaxed, Cache, SqliteStrict, SqliteRelaxed, Redis],
    },
    Group { name: "create", work: Work::Create, classes: &[Strict, Relaxed, SqliteStrict, SqliteRelaxed] },
    Group { name: "retrieve", work: Work::Retrieve, classes: &[Read, Cache, SqliteRead, RedisRead] },
    Group {
        name: "store-many",
        work: Work::StoreMany,
        classes: &[Strict, Relaxed, Cache, SqliteStrict, SqliteRelaxed, Redis],
    },
    Group { name: "retrieve-many", work: Work::RetrieveMany, classes: &[Read, Cache, SqliteRead, RedisRead] },
    Group { name: "list", work: Work::Page, classes: &[List, Cache, SqliteList, RedisList] },
    Group { name: "bulk", work: Work::Bulk, classes: &[SqliteBulk] },
];

/// One table to be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) group: Group,
    pub(crate) class: Class,
    pub(crate) size: ByteSize,
    /// How many keys the storages hold; several for a listing.
    pub(crate) keys: Vec<usize>,
}

/// One row of a table: a contender with so many keys, and its samples for each column.
pub(crate) struct Row {
    pub(crate) entry: &'static Entry,
    pub(crate) keys: usize,
    pub(crate) samples: Vec<Vec<Sample>>,
}

/// A table.
pub(crate) struct Table<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

/// What one column of a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// The first page after the storage was opened.
    First,
    /// So many tasks at once.
    Tasks(usize),
}

/// Everything that the command line asks for.
pub(crate) fn plans(args: &Args) -> Vec<Plan> {
    let mut plans = Vec::new();
    for group in GROUPS.into_iter().filter(|group| Args::wants(&args.group, group.name)) {
        for class in group.classes.iter().filter(|class| Args::wants(&args.class, class.name())) {
            plans.extend(plans_of(args, group, *class));
        }
    }
    plans
}

fn plans_of(args: &Args, group: Group, class: Class) -> Vec<Plan> {
    if group.work == Work::Page {
        let mut keys = args.keys.clone();
        keys.extend(args.million.then_some(MILLION));
        return vec![Plan { group, class, size: ByteSize(LISTED as u64), keys }];
    }
    let most = if group.work == Work::Bulk { BULK } else { KEYS };
    let keys = |size: ByteSize| (SPACE / size.0.max(1) as usize).clamp(KEYS / 32, most);
    args.size.iter().map(|size| Plan { group, class, size: *size, keys: vec![keys(*size)] }).collect()
}

/// A contender at work.
struct Seat {
    row: Row,
    folder: String,
    data: Arc<Data>,
    runner: Arc<dyn Runner>,
}

impl Seat {
    async fn take(args: &Args, place: &Place, plan: &Plan, row: Row) -> Outcome<Self> {
        let folder = format!("{}-{}", row.entry.name.replace(|c: char| !c.is_alphanumeric(), "-"), row.keys);
        let size = plan.size.0 as usize;
        let seed = Seed { seed: args.seed, count: row.keys, size, folders: args.folders };
        let data = Arc::new(Data::new(seed)?);
        let runner = (row.entry.open)(place.folder(&folder)?).await?;
        Ok(Self { row, folder, data, runner })
    }

    async fn reopen(&mut self, place: &Place) -> Outcome<()> {
        self.runner = (self.row.entry.open)(place.folder(&self.folder)?).await?;
        Ok(())
    }

    async fn fill(&self) -> Outcome<()> {
        let job = Arc::new(Job::new(Work::Store, &self.data, 1, 0.0));
        Arc::clone(&self.runner).fill(job).await
    }

    /// Reads everything back, as it must be after some work.
    async fn verify(&self, after: Work) -> Outcome<()> {
        let job = Arc::new(Job::new(after, &self.data, 1, 0.0));
        Arc::clone(&self.runner).verify(job).await
    }
}

/// Makes one table.
pub(crate) async fn run<'a>(
    args: &Args,
    place: &Place,
    plan: &'a Plan,
    report: &mut Report,
) -> Outcome<Table<'a>> {
    let columns = columns(args, plan);
    let mut seats = Vec::new();
    for row in rows(args, plan, columns.len()) {
        seats.push(Seat::take(args, place, plan, row).await?);
    }
    let fresh = starts_empty(plan.group.work);
    if !fresh {
        for seat in &seats {
            seat.fill().await?;
            seat.verify(Work::Retrieve).await?;
        }
    }
    for (at, column) in columns.iter().enumerate() {
        for round in 0..args.rounds {
            for seat in &mut seats {
                let sample = sample(args, place, plan, *column, round, seat).await?;
                report.sample(plan, *column, round, &seat.row, sample)?;
                seat.row.samples[at].push(sample);
            }
        }
    }
    for seat in &seats {
        if !fresh {
            seat.verify(plan.group.work).await?;
        }
        place.remove(&seat.folder)?;
    }
    Ok(Table { plan, columns, rows: seats.into_iter().map(|seat| seat.row).collect() })
}

/// Whether a work needs a storage without keys.
fn starts_empty(work: Work) -> bool {
    matches!(work, Work::Create | Work::Bulk)
}

fn columns(args: &Args, plan: &Plan) -> Vec<Column> {
    if plan.group.work == Work::Bulk {
        return vec![Column::Tasks(1)];
    }
    let tasks = args.tasks.iter().map(|tasks| Column::Tasks(*tasks));
    let first = matches!(plan.class, List | SqliteList | RedisList).then_some(Column::First);
    first.into_iter().chain(tasks).collect()
}

fn rows(args: &Args, plan: &Plan, columns: usize) -> Vec<Row> {
    let named = |entry: &&Entry| {
        args.storage.is_empty() || args.storage.iter().any(|part| entry.name.contains(part.as_str()))
    };
    let entries = TABLE.iter().filter(|entry| entry.classes.contains(&plan.class)).filter(named);
    let sizes = |entry: &'static Entry| {
        let keys = plan.keys.iter().filter(|keys| entry.ours || **keys < MILLION);
        keys.map(move |keys| Row { entry, keys: *keys, samples: vec![Vec::new(); columns] })
    };
    entries.flat_map(sizes).collect()
}

async fn sample(
    args: &Args,
    place: &Place,
    plan: &Plan,
    column: Column,
    round: usize,
    seat: &mut Seat,
) -> Outcome<Sample> {
    let (work, tasks) = match column {
        Column::First => (Work::FirstPage, 1),
        Column::Tasks(tasks) => (plan.group.work, tasks),
    };
    if starts_empty(work) {
        place.remove(&seat.folder)?;
    }
    if starts_empty(work) || work == Work::FirstPage {
        seat.reopen(place).await?;
    }
    place.settle()?;
    let mut job = Job::new(work, &seat.data, tasks, args.seconds);
    // The same keys in the same order for everybody in a round, and others in the next.
    job.seed = args.seed.wrapping_add(round as u64 + 1);
    if plan.class == Cache && matches!(work, Work::Store | Work::Retrieve) {
        job.stride = 64;
    }
    Arc::clone(&seat.runner).run(Arc::new(job)).await
}
