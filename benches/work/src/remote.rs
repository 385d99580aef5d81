//! A contender in a process of its own: one order a line on its standard input, one answer a line on its standard output,
//! both as JSON. Keys and values are made on both sides from the same seed, so that none travels.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::contender::{Outcome, Runner};
use crate::data::{Data, Seed};
use crate::sample::Sample;
use crate::work::{Job, Work};

/// What the process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Verb {
    Run,
    Fill,
    Verify,
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    verb: Verb,
    data: Seed,
    work: Work,
    tasks: usize,
    seconds: f64,
    stride: usize,
    seed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Sample(Sample),
    Done,
    Failed(String),
}

/// The side that asks.
#[derive(Debug)]
pub struct Remote(Mutex<Process>);

#[derive(Debug)]
struct Process {
    /// Ends with this value.
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Remote {
    /// Starts a program that calls [`serve`] with a contender whose files are in a folder, its only argument.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn start(program: &Path, folder: &Path) -> Outcome<Self> {
        let mut command = Command::new(program);
        command.arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a process was started without its pipes".into());
        };
        let answers = BufReader::new(answers).lines();
        Ok(Self(Mutex::new(Process { _child: child, orders, answers })))
    }

    async fn ask(&self, verb: Verb, job: &Job) -> Outcome<Answer> {
        let order = Order {
            verb,
            data: job.data.seed(),
            work: job.work,
            tasks: job.tasks,
            seconds: job.time.as_secs_f64(),
            stride: job.stride,
            seed: job.seed,
        };
        let mut process = self.0.lock().await;
        let line = serde_json::to_string(&order)? + "\n";
        process.orders.write_all(line.as_bytes()).await?;
        let Some(line) = process.answers.next_line().await? else {
            return Err("the process of a contender ended".into());
        };
        match serde_json::from_str(&line)? {
            Answer::Failed(why) => Err(why.into()),
            answer => Ok(answer),
        }
    }
}

#[async_trait]
impl Runner for Remote {
    async fn run(self: Arc<Self>, job: Arc<Job>) -> Outcome<Sample> {
        match self.ask(Verb::Run, &job).await? {
            Answer::Sample(sample) => Ok(sample),
            other => Err(format!("a run was answered with {other:?}").into()),
        }
    }

    async fn fill(self: Arc<Self>, job: Arc<Job>) -> Outcome<()> {
        self.ask(Verb::Fill, &job).await.map(drop)
    }

    async fn verify(self: Arc<Self>, job: Arc<Job>) -> Outcome<()> {
        self.ask(Verb::Verify, &job).await.map(drop)
    }
}

/// The side that works: carries out orders until there are no more.
///
/// # Errors
/// What reading orders and writing answers says; an order that cannot be carried out is answered with the reason.
pub async fn serve(contender: Arc<dyn Runner>) -> Outcome<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut answers = tokio::io::stdout();
    let mut known: Option<Arc<Data>> = None;
    while let Some(line) = orders.next_line().await? {
        let order: Order = serde_json::from_str(&line)?;
        let data = match known.take().filter(|data| data.seed() == order.data) {
            Some(data) => data,
            None => Arc::new(Data::new(order.data)?),
        };
        known = Some(Arc::clone(&data));
        let answer = carry_out(Arc::clone(&contender), &order, &data).await;
        let answer = answer.unwrap_or_else(|error| Answer::Failed(error.to_string()));
        answers.write_all((serde_json::to_string(&answer)? + "\n").as_bytes()).await?;
        answers.flush().await?;
    }
    Ok(())
}

async fn carry_out(contender: Arc<dyn Runner>, order: &Order, data: &Arc<Data>) -> Outcome<Answer> {
    let mut job = Job::new(order.work, data, order.tasks, order.seconds);
    (job.stride, job.seed) = (order.stride, order.seed);
    let job = Arc::new(job);
    match order.verb {
        Verb::Run => contender.run(job).await.map(Answer::Sample),
        Verb::Fill => contender.fill(job).await.map(|()| Answer::Done),
        Verb::Verify => contender.verify(job).await.map(|()| Answer::Done),
    }
}
