use std::io;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What ends a connection instead of an answer.
const HANG_UP: &[u8] = b"";

/// Something on a port of this machine that greets like a Redis server and answers every real question with whatever the
/// test gives it: refusals, other types, broken protocol.
#[derive(Debug)]
pub struct Impostor {
    port: u16,
    answer: watch::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Impostor {
    /// One that answers errors at first.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (answer, answers) = watch::channel(b"-ERR nothing is here\r\n".to_vec());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, answers.clone()));
            }
        });
        Ok(Self { port, answer, task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers this from now on; nothing at all means that it hangs up.
    pub fn answer(&self, bytes: &[u8]) {
        self.answer.send_replace(bytes.to_vec());
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream, answers: watch::Receiver<Vec<u8>>) {
    let (from, mut to) = client.into_split();
    let mut from = BufReader::new(from);
    while let Ok(command) = read_command(&mut from).await {
        let answer = polite(&command).unwrap_or_else(|| answers.borrow().clone());
        if answer == HANG_UP || to.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// What a server answers to those who come in; `None` to everything else.
fn polite(command: &[String]) -> Option<Vec<u8>> {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = command.first()?.to_uppercase();
    let is_mark = command.last().is_some_and(|field| field == "tags");
    let answer = match name.as_str() {
        "HELLO" => "%2\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n".to_owned(),
        "SCRIPT" => format!("$40\r\n{}\r\n", "0".repeat(40)),
        "TIME" => format!("*2\r\n$10\r\n{}\r\n$1\r\n0\r\n", now()),
        "INFO" => "$19\r\nredis_version:7.0.0\r\n".to_owned(),
        "HSETNX" => ":1\r\n".to_owned(),
        // Ending the eras of earlier connections.
        "EVALSHA" if command.get(2).is_some_and(|keys| keys == "1") => "$-1\r\n".to_owned(),
        // Asking for rights, which takes three keys and nothing else.
        "EVALSHA" if command.get(2).is_some_and(|keys| keys == "3") && command.len() == 6 => {
            "+OK\r\n".to_owned()
        }
        "HGET" if is_mark => "$1\r\n1\r\n".to_owned(),
        _ => return None,
    };
    Some(answer.into_bytes())
}

/// An array of strings, as all clients send them.
async fn read_command(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<String>> {
    let mut command = Vec::new();
    for _ in 0..read_number(from, '*').await? {
        let mut bytes = vec![0; read_number(from, '$').await? + 2];
        from.read_exact(&mut bytes).await?;
        bytes.truncate(bytes.len() - 2);
        command.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(command)
}

async fn read_number(from: &mut BufReader<OwnedReadHalf>, mark: char) -> io::Result<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await?;
    let number = line.trim_end().strip_prefix(mark).and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
