use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

/// The password of the administrator, and of everybody where there are no other users.
pub(super) const PASSWORD: &str = "sesame";

/// The user that the storage logs in as on the standalone server, and its password.
pub(super) const USER: (&str, &str) = ("persist", "open");

/// The file in the folder of each server.
pub(super) const CONFIGURATION: &str = "redis.conf";

/// The name under which sentinels know the primary.
pub(super) const MASTER: &str = "main";

/// After how many milliseconds without an answer a server counts as down.
const DOWN_AFTER: u32 = 1000;

/// The rights that a storage needs; `docs/formats/redis.md` lists them.
pub(super) const RIGHTS: &str = "resetchannels -@all +hello +ping +select +info +role +time +wait +cluster|slots \
    +evalsha +script|load +hget +hmget +hgetall +hset +hsetnx +hdel +zadd +zrem +zcard +zcount +zmscore \
    +zrangebylex +zrangebyscore +exists +unlink +pexpire +persist +publish +subscribe";

/// Ports that nobody uses now.
pub(super) fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap_or_else(|error| panic!("no free port: {error}"))
    });
    held.map(|listener| listener.local_addr().map_or(0, |address| address.port()))
}

/// What all servers have in common: the loopback interface, and writes that survive `kill -9`. With `everysec` a server
/// acknowledges writes before it has given them to the kernel while an fsync is under way; with `no` it never does.
fn common(port: u16) -> String {
    format!(
        "bind 127.0.0.1\nport {port}\ndir ./\nsave \"\"\nappendonly yes\nappendfsync no\n\
         requirepass {PASSWORD}\nmasterauth {PASSWORD}\nenable-debug-command local\nlogfile \"\"\n"
    )
}

pub(super) fn standalone(folder: &Path, port: u16, tls_port: u16) {
    certificates(folder);
    let (user, password) = USER;
    let text = format!(
        "{}tls-port {tls_port}\ntls-cert-file ./server.crt\ntls-key-file ./server.key\ntls-ca-cert-file ./ca.crt\n\
         tls-auth-clients optional\nuser {user} on >{password} ~test-* {RIGHTS} &test-*\n",
        common(port)
    );
    write(folder, &text);
}

pub(super) fn node(folder: &Path, port: u16, bus: u16) {
    let text = format!(
        "{}cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-port {bus}\ncluster-node-timeout {DOWN_AFTER}\n\
         cluster-announce-ip 127.0.0.1\nrepl-diskless-sync-delay 0\n",
        common(port)
    );
    write(folder, &text);
}

pub(super) fn member(folder: &Path, port: u16, primary: Option<u16>) {
    let replica = primary.map_or_else(String::new, |primary| format!("replicaof 127.0.0.1 {primary}\n"));
    write(folder, &format!("{}repl-diskless-sync-delay 0\n{replica}", common(port)));
}

pub(super) fn sentinel(folder: &Path, port: u16, primary: u16) {
    let text = format!(
        "bind 127.0.0.1\nport {port}\ndir ./\nrequirepass {PASSWORD}\n\
         sentinel monitor {MASTER} 127.0.0.1 {primary} 2\nsentinel auth-pass {MASTER} {PASSWORD}\n\
         sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\nsentinel failover-timeout {MASTER} 5000\n"
    );
    write(folder, &text);
}

fn write(folder: &Path, text: &str) {
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(CONFIGURATION), text));
    written.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

/// An authority of our own, a server's certificate for 127.0.0.1, a client's, and one that a stranger has signed himself.
fn certificates(folder: &Path) {
    let script = "set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=persist-test-ca \
            -keyout ca.key -out ca.crt
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
            -keyout server.key -out server.csr
        printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\\n' >server.ext
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext \
            -out server.crt
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=client \
            -keyout client.key -out client.csr
        printf 'extendedKeyUsage=clientAuth\\n' >client.ext
        openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile client.ext \
            -out client.crt
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=stranger \
            -addext extendedKeyUsage=clientAuth -keyout stranger.key -out stranger.crt
        chmod 644 server.key";
    fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output();
    let made = made.unwrap_or_else(|error| panic!("sh: {error}"));
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
}
