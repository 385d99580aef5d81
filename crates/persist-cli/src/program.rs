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
        tokio::spawn(watch(Arc::clone(app), Arc::clone(&guard)));
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
async fn watch(app: Arc<App>, interrupt: Arc<Interrupt>) {
    interrupted().await;
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
        () = interrupted() => {}
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

/// Waits for Ctrl-C or, on Unix, a request to terminate.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Signals cannot be had here: nothing will ever interrupt.
        std::future::pending::<()>().await;
    }
}
