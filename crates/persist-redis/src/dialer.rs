use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use persist_core::{Clock, ErrorKind, OpenContext, Secret, SystemClock};
use redis::aio::{MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, RedisConnectionInfo, TlsCertificates, Value,
};
use tokio::time::Instant;

use crate::config::{RedisConfig, TlsConfig};
use crate::fault::Fault;
use crate::keyspace::Keyspace;
use crate::{Address, script};

/// How much longer than `attempt_timeout` an attempt may take for each MiB that it moves.
const PER_MEBIBYTE: Duration = Duration::from_millis(50);

/// Makes connections of one storage: knows how to log in, and begins a new era with each of them.
pub(crate) struct Dialer {
    login: RedisConnectionInfo,
    /// `None`: no TLS.
    certificates: Option<TlsCertificates>,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    /// No changes will be made.
    read_only: bool,
    keyspace: Keyspace,
    /// What tells this handle from every other one, on whatever machine.
    client: String,
    /// The number of the last connection. What was sent over an earlier one is refused once a new one is there.
    era: AtomicU64,
    /// The number of the last call.
    calls: AtomicU64,
}

/// A connection that is ready for work.
pub(crate) struct Dialed {
    pub(crate) connection: MultiplexedConnection,
    /// Its number.
    pub(crate) era: u64,
    /// The clock of the server in milliseconds, and when it was read.
    pub(crate) clock: (i64, Instant),
    /// Why changes cannot be made over it: a right is missing.
    pub(crate) denied: Option<Fault>,
}

/// Which part of a server is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Whatever is there: one server, or a node of a cluster.
    Server,
    /// Only a primary will do: what sentinels named may have become a replica.
    Primary,
}

impl Dialer {
    /// # Errors
    /// `InvalidConfig` if the certificates cannot be read.
    pub(crate) fn new(config: &RedisConfig, context: &OpenContext) -> Result<Self, Fault> {
        let (_, tls, login) = config.server().map_err(invalid)?;
        Ok(Self {
            login: login_of(config, login),
            certificates: certificates(config.tls.as_ref(), tls, context)?,
            connect_timeout: config.connect_timeout.0,
            attempt_timeout: config.attempt_timeout.0,
            read_only: config.read_only || context.read_only,
            keyspace: Keyspace::new(config.namespace.as_str(), config.tags()),
            client: format!("{:016x}", random()),
            era: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        })
    }

    /// The same for the sentinels, which have users of their own and no databases.
    pub(crate) fn for_sentinels(&self, username: Option<&str>, password: Option<&Secret>) -> Self {
        let mut login = RedisConnectionInfo::default();
        if let Some(username) = username {
            login = login.set_username(username);
        }
        if let Some(password) = password {
            login = login.set_password(password.expose());
        }
        Self {
            login,
            certificates: self.certificates.clone(),
            keyspace: self.keyspace.clone(),
            client: self.client.clone(),
            era: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            ..*self
        }
    }

    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    /// A mark that no other call has.
    pub(crate) fn nonce(&self) -> String {
        format!("{}.{:x}", self.client, self.calls.fetch_add(1, Ordering::Relaxed))
    }

    /// How long an attempt that moves so many bytes waits for its answer.
    pub(crate) fn patience(&self, bytes: usize) -> Duration {
        let more = PER_MEBIBYTE.saturating_mul(u32::try_from(bytes >> 20).unwrap_or(u32::MAX));
        self.attempt_timeout.saturating_add(more)
    }

    /// A bare connection, logged in.
    pub(crate) async fn connect(&self, address: &Address) -> Result<MultiplexedConnection, Fault> {
        self.connect_with(address, AsyncConnectionConfig::new()).await
    }

    /// A connection for listening, whose messages go to `hear`, which must not wait.
    pub(crate) async fn listen(
        &self,
        address: &Address,
        role: Role,
        hear: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, Fault> {
        let hear = move |message| {
            hear(message);
            Ok::<(), SendError>(())
        };
        let config = AsyncConnectionConfig::new().set_push_sender(hear);
        let mut connection = self.connect_with(address, config).await?;
        if role == Role::Primary {
            expect_primary(&mut connection, address).await?;
        }
        Ok(connection)
    }

    async fn connect_with(
        &self,
        address: &Address,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Fault> {
        let place = address.to_string();
        let client = self.client_for(address).map_err(|error| Fault::unreached(&place, &error))?;
        let config = config
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.attempt_timeout));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        connection.map_err(|error| Fault::unreached(&place, &error))
    }

    /// A connection that is ready for work, and its era: the scripts are loaded, and what was sent in earlier eras will
    /// not be carried out any more.
    pub(crate) async fn dial(&self, address: &Address, role: Role) -> Result<Dialed, Fault> {
        let mut connection = self.connect(address).await?;
        let era = self.era.fetch_add(1, Ordering::Relaxed) + 1;
        if role == Role::Primary {
            expect_primary(&mut connection, address).await?;
        }
        let mut greeting = Pipeline::new();
        script::ALL.iter().for_each(|script| {
            greeting.add_command(script.load());
        });
        let rights = greeting.len();
        // To ask means to write, which who only reads does not.
        if !self.read_only {
            self.ask_rights(&mut greeting);
        }
        let rights = rights..greeting.len();
        // The first connection has nothing to end.
        if era > 1 {
            self.end_eras(&mut greeting, era);
        }
        greeting.cmd("TIME");
        let answers = connection.send_packed_commands(&greeting, 0, greeting.len()).await;
        let answers = answers.map_err(|error| Fault::unreached(&address.to_string(), &error))?;
        let mut denied = None;
        for (place, answer) in answers.iter().enumerate() {
            match check_greeting(address, answer) {
                // What else keeps it from being answered will be said of each change.
                Err(fault) if rights.contains(&place) => {
                    denied = denied.or(Some(fault).filter(|fault| fault.kind == ErrorKind::AccessDenied));
                }
                // Where no change can be made, none needs to be fenced off.
                Err(fault) if denied.is_some() && fault.kind == ErrorKind::AccessDenied => {}
                other => other?,
            }
        }
        let clock = (server_clock(answers.last())?, Instant::now());
        Ok(Dialed { connection, era, clock, denied })
    }

    /// Ends the earlier eras on every tag; those that lie on other nodes answer so.
    fn end_eras(&self, pipeline: &mut Pipeline, era: u64) {
        let seconds = SystemClock.now().as_millis() / 1000;
        for tag in self.keyspace.tags() {
            let mut cmd = script::FENCE.call(&[self.keyspace.head(tag)]);
            cmd.arg(&self.client).arg(era).arg(seconds);
            pipeline.add_command(cmd);
        }
    }

    /// Asks on every tag, because each node of a cluster has rights of its own.
    fn ask_rights(&self, pipeline: &mut Pipeline) {
        let keys = |tag| [self.keyspace.head(tag), self.keyspace.index(tag), self.keyspace.expiry(tag)];
        for tag in self.keyspace.tags() {
            pipeline.add_command(script::RIGHTS.call(&keys(tag)));
        }
    }

    fn client_for(&self, address: &Address) -> redis::RedisResult<Client> {
        let (host, port) = (address.host.clone(), address.port);
        let place = match &self.certificates {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = place
            .into_connection_info()?
            .set_redis_settings(self.login.clone())
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        match &self.certificates {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        }
    }
}

/// Neither password nor certificate.
impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("tls", &self.certificates.is_some())
            .field("keyspace", &self.keyspace)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

fn invalid(message: String) -> Fault {
    Fault::new(ErrorKind::InvalidConfig, message)
}

fn login_of(config: &RedisConfig, mut login: RedisConnectionInfo) -> RedisConnectionInfo {
    if let Some(username) = &config.username {
        login = login.set_username(username);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password.expose());
    }
    if let Some(db) = config.db {
        login = login.set_db(i64::from(db));
    }
    login.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name()
}

fn certificates(
    tls: Option<&TlsConfig>,
    by_url: bool,
    context: &OpenContext,
) -> Result<Option<TlsCertificates>, Fault> {
    if tls.is_none() && !by_url {
        return Ok(None);
    }
    // Fails only if the program has chosen a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = tls.cloned().unwrap_or_default();
    let read = |path: &Path| {
        let path = context.resolve(path);
        std::fs::read(&path).map_err(|error| invalid(format!("tls: cannot read {}: {error}", path.display())))
    };
    let client_tls = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        _ => None,
    };
    let root_cert = tls.ca.as_deref().map(read).transpose()?;
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

/// A number that nobody else has: the keys of a hash map are seeded by the system.
fn random() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(std::process::id())
}

async fn expect_primary(connection: &mut MultiplexedConnection, address: &Address) -> Result<(), Fault> {
    let answer = connection.send_packed_command(&redis::cmd("ROLE")).await;
    let answer = answer.map_err(|error| Fault::unreached(&address.to_string(), &error))?;
    let role = match crate::answer::array(answer)?.into_iter().next() {
        Some(role) => crate::answer::text(role)?,
        None => String::new(),
    };
    if role == "master" {
        return Ok(());
    }
    let message = format!("{address} is no primary any more; waiting for the sentinels to name the new one");
    Err(Fault::new(ErrorKind::Unavailable, message))
}

/// The answer to TIME: seconds and microseconds.
fn server_clock(answer: Option<&Value>) -> Result<i64, Fault> {
    let mut parts = crate::answer::array(answer.cloned().unwrap_or_default())?.into_iter();
    let mut part = || crate::answer::integer(parts.next().unwrap_or_default());
    Ok(part()?.saturating_mul(1000).saturating_add(part()? / 1000))
}

/// Loading and ending eras must succeed, or be somebody else's business.
fn check_greeting(address: &Address, answer: &Value) -> Result<(), Fault> {
    use crate::fault::Refusal;
    let Value::ServerError(error) = answer else { return Ok(()) };
    match Refusal::of(&address.to_string(), error) {
        Refusal::Moved(..) | Refusal::Moving(_) => Ok(()),
        Refusal::Later(fault) | Refusal::Final(fault) | Refusal::Reconnect(fault) => Err(fault),
    }
}
