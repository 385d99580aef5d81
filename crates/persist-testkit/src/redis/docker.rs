use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use parking_lot::Mutex;

use super::host::Host;

/// The image that `tests/redis/image` makes from Debian's packages.
const DEBIAN_IMAGE: &str = "persist-redis:debian";

/// Servers in containers, by `tests/redis/compose.yaml`.
#[derive(Debug)]
pub(super) struct Docker {
    /// `docker compose` or `docker-compose`.
    compose: Vec<&'static str>,
    image: String,
    folder: PathBuf,
    project: String,
}

impl Docker {
    /// # Errors
    /// What is missing, in words.
    pub(super) fn new(folder: &Path) -> Result<Self, String> {
        if !succeeds("docker", &["info"]) {
            return Err("no Docker engine answers; start one, or set PERSIST_TEST_REDIS=local".into());
        }
        let ways = [vec!["docker", "compose"], vec!["docker-compose"]];
        let works = |way: &Vec<&str>| succeeds(way[0], &[&way[1..], &["version"]].concat());
        let compose =
            ways.into_iter().find(works).ok_or("neither `docker compose` nor docker-compose is installed")?;
        let image = std::env::var("PERSIST_REDIS_IMAGE").unwrap_or_else(|_| DEBIAN_IMAGE.into());
        if image == DEBIAN_IMAGE {
            provide_image()?;
        }
        let project = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        Ok(Self { compose, image, folder: folder.to_owned(), project })
    }

    fn compose(&self, arguments: &[&str]) {
        let mut command = Command::new(self.compose[0]);
        command.args(&self.compose[1..]).args(["--project-name", &self.project, "--file"]);
        command.arg(repository("tests/redis/compose.yaml")).args(arguments);
        command
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("PERSIST_REDIS_IMAGE", &self.image)
            .env("PERSIST_REDIS_USER", user())
            .env("PERSIST_REDIS_RUN", &self.folder);
        run(&mut command);
    }

    /// A command of the engine about one container of this project.
    fn docker(&self, verb: &[&str], name: &str) {
        run(Command::new("docker").args(verb).arg(format!("{}-{name}", self.project)));
    }
}

impl Host for Docker {
    fn up(&self, names: &[&str]) {
        self.compose(&[&["up", "--detach", "--no-color"], names].concat());
    }

    fn kill(&self, name: &str) {
        self.docker(&["kill", "--signal", "KILL"], name);
        // The engine answers before the process is gone and its port is free.
        run(Command::new("docker").args(["wait", &format!("{}-{name}", self.project)]));
    }

    fn start(&self, name: &str) {
        self.docker(&["start"], name);
    }

    fn pause(&self, name: &str) {
        self.docker(&["pause"], name);
    }

    fn resume(&self, name: &str) {
        self.docker(&["unpause"], name);
    }

    fn cleanup(&self) -> String {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        format!(
            "ids=$(docker ps --all --quiet --filter {filter}); [ -z \"$ids\" ] || docker rm --force --volumes $ids"
        )
    }
}

/// Who runs the tests, as the engine wants it.
fn user() -> String {
    format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

pub(super) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Makes the image unless it is there; tests that begin together make it once.
fn provide_image() -> Result<(), String> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock();
    if succeeds("docker", &["image", "inspect", DEBIAN_IMAGE]) { Ok(()) } else { make_image() }
}

fn make_image() -> Result<(), String> {
    let made = Command::new("bash").arg(repository("tests/redis/image")).arg(DEBIAN_IMAGE).output();
    let made = made.map_err(|error| format!("tests/redis/image cannot be run: {error}"))?;
    made.status
        .success()
        .then_some(())
        .ok_or_else(|| format!("there is no Redis image: {}", complaint(&made)))
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", complaint(&output));
}
