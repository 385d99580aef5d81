use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a proxy does with what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// It is passed on.
    #[default]
    Open,
    /// Answers are held back; requests get through.
    HoldAnswers,
    /// Requests are held back.
    HoldRequests,
    /// Nothing passes and connections are cut.
    Cut,
}

/// A network between a client and a server on this machine that a test can cut and clog.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A way to a port of the loopback interface; open at first.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn to(target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let task = tokio::spawn(accept(listener, target, Arc::clone(&mode)));
        Ok(Self { port, mode, task })
    }

    /// Where the client connects to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts all connections and takes no new ones.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Lets requests through and holds answers back.
    pub fn hold_answers(&self) {
        self.mode.send_replace(Mode::HoldAnswers);
    }

    /// Holds requests back. They get through when the proxy is opened, also those of clients that have gone.
    pub fn hold_requests(&self) {
        self.mode.send_replace(Mode::HoldRequests);
    }

    /// Lets everything through, what was held back too.
    pub fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: u16, mode: Arc<watch::Sender<Mode>>) {
    while let Ok((client, _)) = listener.accept().await {
        if *mode.borrow() == Mode::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(pass(from_client, to_server, mode.subscribe(), Mode::HoldRequests));
        tokio::spawn(pass(from_server, to_client, mode.subscribe(), Mode::HoldAnswers));
    }
}

/// Passes on what comes, unless it is held; what has come before the end still gets there.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    held: Mode,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => return,
        };
        let Ok(count @ 1..) = read else { return };
        match mode.wait_for(|mode| *mode != held).await {
            Ok(now) if *now != Mode::Cut => {}
            _ => return,
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
