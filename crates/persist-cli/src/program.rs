use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::app::App;
use crate::args::Cli;
use crate::exit::{Exit, Failure, Result};

/// How long an interrupted verb may take to hear of it before the storages are closed all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// The grammar of the command line: for completions, and for the test that compares it with the documentation.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with these arguments, the first of which is its name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return grammar(&error),
    };
    let app = Arc::new(App::new(&cli.global));
    app.console.start_log(cli.global.verbose);
    let exit = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => drive(runtime, &app, cli),
        Err(error) => {
            app.console.fail(&Failure::new(format!("no threads can be started: {error}")));
            Exit::Failure
        }
    };
    ExitCode::from(exit as u8)
}

/// Shows help or a usage error.
fn grammar(error: &clap::Error) -> ExitCode {
    // If the terminal is gone there is nobody to show it to.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { Exit::Success as u8 })
}

fn drive(runtime: Runtime, app: &Arc<App>, cli: Cli) -> Exit {
    let exit = runtime.block_on(async {
        let guard = Arc::new(Interrupt::default());
        // From here on a signal is heard, before the verb does anything.
        tokio::spawn(watch(Arc::clone(app), Arc::clone(&guard), Signals::new()));
        let mut verb = std::pin::pin!(cli.verb.run(app));
        let outcome = tokio::select! {
            result = &mut verb => Some(result),
            () = guard.asked.notified() => None,
        };
        guard.is_heard.store(true, Ordering::Release);
        let outcome = if outcome.is_none() && app.interrupt() { Some(verb.await) } else { outcome };
        match outcome {
            Some(result) => end(app, result).await,
            None => stop(app).await,
        }
    });
    // A thread that still waits for standard input must not keep the program alive.
    runtime.shutdown_background();
    exit
}

/// What the task that waits for signals and the one that runs the verb tell each other.
#[derive(Default)]
struct Interrupt {
    asked: Notify,
    is_heard: AtomicBool,
}

/// Waits for the user to interrupt, in a task of its own: the verb's may be held up by a pipe or a disk. If the verb
/// does not hear of it in time, the storages are closed from here; a second interrupt ends the program at once.
async fn watch(app: Arc<App>, interrupt: Arc<Interrupt>, mut signals: Signals) {
    signals.next().await;
    app.console.warn("interrupted; closing the storages (once more to leave at once)");
    interrupt.asked.notify_one();
    let close = async {
        tokio::time::sleep(PATIENCE).await;
        if interrupt.is_heard.load(Ordering::Acquire) {
            // The storages are being closed in the other task, however long it takes.
            std::future::pending::<()>().await;
        }
        if let Err(failure) = app.finish().await {
            app.console.fail(&failure);
        }
    };
    tokio::select! {
        () = close => {}
        () = signals.next() => {}
    }
    std::process::exit(i32::from(Exit::Interrupted as u8));
}

/// Closes everything; the verb's own failure counts more than one of closing.
async fn end(app: &App, result: Result<()>) -> Exit {
    let closed = app.finish().await;
    let flushed = app.out.flush();
    let mut exit = Exit::Success;
    for result in [result, closed, flushed] {
        if let Err(failure) = result {
            app.console.fail(&failure);
            exit = if exit == Exit::Success { failure.exit() } else { exit };
        }
    }
    exit
}

/// Ends after a verb was dropped in the middle: its changes are whole or absent, so closing in order is all there is
/// to do.
async fn stop(app: &App) -> Exit {
    if let Err(failure) = app.finish().await {
        app.console.fail(&failure);
    }
    Exit::Interrupted
}

/// Ctrl-C and, on Unix, requests to terminate.
struct Signals {
    #[cfg(unix)]
    both: Option<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Those that come from now on.
    #[cfg(unix)]
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let both = signal(SignalKind::interrupt())
            .and_then(|interrupt| signal(SignalKind::terminate()).map(|terminate| (interrupt, terminate)));
        Self { both: both.ok() }
    }

    #[cfg(not(unix))]
    fn new() -> Self {
        Self {}
    }

    /// Waits for the next one; for ever where there are none to be had.
    #[cfg(unix)]
    async fn next(&mut self) {
        match &mut self.both {
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            },
            None => std::future::pending().await,
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
