use std::fmt::Debug;
use std::path::Path;

use super::docker::Docker;
use super::processes::Processes;

/// What runs the servers of a deployment.
pub(super) trait Host: Debug + Send + Sync {
    /// Starts these servers; each finds its configuration in a folder of its name.
    fn up(&self, names: &[&str]);

    /// Ends a server at once, as `kill -9` does.
    fn kill(&self, name: &str);

    /// Starts a server that was ended; its files are as it left them.
    fn start(&self, name: &str);

    /// Stops a server in its tracks.
    fn pause(&self, name: &str);

    /// Lets it go on.
    fn resume(&self, name: &str);

    /// A shell command that ends all of them and what they were started with.
    fn cleanup(&self) -> String;
}

/// The host that the environment asks for, in this folder; `None`, and loud words on stderr, if there is none.
///
/// # Panics
/// If it must not be missing: in CI, and where `PERSIST_TEST_REDIS` names it.
pub(super) fn host(folder: &Path) -> Option<Box<dyn Host>> {
    let wanted = std::env::var("PERSIST_TEST_REDIS").unwrap_or_default();
    let strict = std::env::var_os("CI").is_some();
    match (wanted.as_str(), Docker::new(folder)) {
        ("docker" | "", Ok(docker)) => Some(Box::new(docker)),
        ("docker", Err(reason)) => panic!("PERSIST_TEST_REDIS=docker: {reason}"),
        ("", Err(reason)) if strict => panic!("CI tests Redis in Docker: {reason}"),
        ("" | "local", docker) => local(folder, docker.err(), wanted == "local"),
        (other, _) => panic!("PERSIST_TEST_REDIS is {other:?}; write docker or local"),
    }
}

fn local(folder: &Path, no_docker: Option<String>, asked: bool) -> Option<Box<dyn Host>> {
    let reason = if asked { "PERSIST_TEST_REDIS=local".to_owned() } else { no_docker.unwrap_or_default() };
    match Processes::new(folder) {
        Some(processes) => {
            shout(&format!("Redis runs as processes of this machine, not in Docker ({reason})"));
            Some(Box::new(processes))
        }
        None if asked => panic!("PERSIST_TEST_REDIS=local: there is no redis-server; install redis-tools"),
        None => {
            shout(&format!("REDIS IS NOT TESTED: {reason}, and there is no redis-server either"));
            None
        }
    }
}

#[allow(clippy::print_stderr, reason = "whoever runs the tests must see it")]
fn shout(what: &str) {
    eprintln!("\n*** {what} ***\n");
}
