use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::host::{Host, host};
use super::layout::{self, MASTER, PASSWORD, USER, free_ports};
use super::resp::Reply;
use super::server::{Server, wait_for};

/// The last slot of a cluster, by thirds.
const THIRDS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// What a deployment is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server with users and TLS.
    Standalone,
    /// Three primaries with a replica each.
    Cluster,
    /// A primary, a replica and three sentinels.
    Sentinel,
}

/// Some servers that belong together and to the process that started them.
#[derive(Debug)]
pub struct Deployment {
    kind: Kind,
    folder: PathBuf,
    servers: Vec<Server>,
    sentinels: Vec<Server>,
    tls_port: u16,
    /// Ends everything as soon as its standard input is closed, which happens however this process ends.
    reaper: Child,
}

impl Deployment {
    /// One server: with users, with TLS and without.
    pub fn standalone() -> Option<Self> {
        let [port, tls_port] = free_ports();
        Self::new(Kind::Standalone, tls_port, |folder, host| {
            layout::standalone(&folder.join("standalone"), port, tls_port);
            (started(host, &[("standalone", port)]), Vec::new())
        })
    }

    /// A cluster of six nodes: the first three servers are primaries, the others their replicas in the same order.
    pub fn cluster() -> Option<Self> {
        let ports: [u16; 12] = free_ports();
        let names = ["node-1", "node-2", "node-3", "node-4", "node-5", "node-6"];
        Self::new(Kind::Cluster, 0, |folder, host| {
            for (place, name) in names.iter().enumerate() {
                layout::node(&folder.join(name), ports[place], ports[place + 6]);
            }
            let nodes = names.into_iter().zip(ports).collect::<Vec<_>>();
            let servers = started(host, &nodes);
            join(&servers, &ports[6..]);
            (servers, Vec::new())
        })
    }

    /// A primary and its replica, in this order, and three sentinels.
    pub fn sentinel() -> Option<Self> {
        let [primary, replica, ports @ ..]: [u16; 5] = free_ports();
        Self::new(Kind::Sentinel, 0, |folder, host| {
            layout::member(&folder.join("primary"), primary, None);
            layout::member(&folder.join("replica"), replica, Some(primary));
            let servers = started(host, &[("primary", primary), ("replica", replica)]);
            wait_for("the replica has everything", || {
                servers[1].command(&["INFO", "replication"]).text().contains("master_link_status:up")
            });
            let names = ["sentinel-1", "sentinel-2", "sentinel-3"];
            for (name, port) in names.iter().zip(ports) {
                layout::sentinel(&folder.join(name), port, primary);
            }
            let sentinels = started(host, &names.into_iter().zip(ports).collect::<Vec<_>>());
            wait_for("the sentinels know each other and the replica", || sentinels.iter().all(is_informed));
            (servers, sentinels)
        })
    }

    fn new(
        kind: Kind,
        tls_port: u16,
        start: impl FnOnce(&Path, &Arc<dyn Host>) -> (Vec<Server>, Vec<Server>),
    ) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("persist-redis-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let host = host(folder.path())?;
        // From here on the reaper removes it.
        let folder = folder.keep();
        let host: Arc<dyn Host> = host.into();
        let reaper = reaper(&folder, host.as_ref());
        let (servers, sentinels) = start(&folder, &host);
        Some(Self { kind, folder, servers, sentinels, tls_port, reaper })
    }

    /// What it is made of.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The servers that hold data.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The sentinels.
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The administrator of the standalone server, without TLS.
    pub fn url(&self) -> String {
        format!("redis://default:{PASSWORD}@127.0.0.1:{}", self.servers[0].port())
    }

    /// The standalone server with TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port)
    }

    /// The authority that signed the server's certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("standalone/ca.crt")
    }

    /// The certificate and the key of somebody: of `client`, whose certificate the authority signed, or of `stranger`.
    pub fn identity(&self, name: &str) -> (PathBuf, PathBuf) {
        let folder = self.folder.join("standalone");
        (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")))
    }

    /// A user of the standalone server that has the rights a storage needs, on names that begin with `test-`, and the
    /// password.
    pub fn user(&self) -> (&'static str, &'static str) {
        USER
    }

    /// The password of all servers.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// The name under which the sentinels know the primary.
    pub fn master(&self) -> &'static str {
        MASTER
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

fn started(host: &Arc<dyn Host>, servers: &[(&str, u16)]) -> Vec<Server> {
    let names: Vec<&str> = servers.iter().map(|(name, _)| *name).collect();
    host.up(&names);
    let server = |(name, port): &(&str, u16)| {
        let server = Server { name: (*name).to_owned(), port: *port, host: Arc::clone(host) };
        server.wait();
        server
    };
    servers.iter().map(server).collect()
}

/// Makes a cluster of six nodes that know nothing of each other.
fn join(servers: &[Server], buses: &[u16]) {
    for (place, server) in servers.iter().enumerate() {
        expect(server, &["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
        if let Some((first, last)) = THIRDS.get(place) {
            expect(server, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
    }
    for (server, bus) in servers.iter().zip(buses).skip(1) {
        let (port, bus) = (server.port().to_string(), bus.to_string());
        expect(&servers[0], &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    let has = |server: &Server, text: &str| server.command(&["CLUSTER", "INFO"]).text().contains(text);
    wait_for("all nodes know each other", || servers.iter().all(|node| has(node, "cluster_known_nodes:6")));
    for (primary, replica) in servers.iter().zip(&servers[3..]) {
        let id = primary.command(&["CLUSTER", "MYID"]).text();
        wait_for("a replica may follow", || {
            replica.command(&["CLUSTER", "REPLICATE", &id]) == Reply::Status("OK".into())
        });
    }
    wait_for("the cluster works", || servers.iter().all(|node| has(node, "cluster_state:ok")));
    wait_for("the replicas have everything", || {
        let up =
            |node: &Server| node.command(&["INFO", "replication"]).text().contains("master_link_status:up");
        servers[3..].iter().all(up)
    });
}

fn expect(server: &Server, command: &[&str]) {
    assert_eq!(server.command(command), Reply::Status("OK".into()), "{}: {command:?}", server.name());
}

fn is_informed(sentinel: &Server) -> bool {
    let Reply::Array(fields) = sentinel.command(&["SENTINEL", "MASTER", MASTER]) else { return false };
    let texts: Vec<String> = fields.iter().map(Reply::text).collect();
    let field = |name: &str| texts.iter().position(|text| text == name).map(|at| texts[at + 1].as_str());
    field("num-other-sentinels") == Some("2")
        && field("num-slaves") == Some("1")
        && field("flags") == Some("master")
}

/// A shell that waits until this process is gone, and then ends the servers and removes their files.
fn reaper(folder: &Path, host: &dyn Host) -> Child {
    let script = format!("cat >/dev/null; {}; rm -rf '{}'", host.cleanup(), folder.display());
    let mut command = Command::new("sh");
    // In a group of its own, so that an interrupt from the keyboard does not reach it.
    command
        .args(["-c", &script])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("sh: {error}"))
}
