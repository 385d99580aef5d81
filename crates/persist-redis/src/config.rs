use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use persist_core::{ByteSize, Expiry, HumanDuration, Key, Secret};
use redis::IntoConnectionInfo;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Address;
use crate::address::SERVER_PORT;

/// The largest value that can be configured: a change is one command, and a server takes 1 GiB of commands at a time.
const MAX_VALUE: u64 = 512 << 20;

/// How many tags keys are spread over in a cluster unless configured.
const CLUSTER_TAGS: u16 = 32;

/// The section of a `type: redis` storage. Every field has a default; unknown ones are refused.
///
/// ```yaml
/// hot: { type: redis, url: "redis://127.0.0.1:6379", namespace: app, ttl: 1h }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` (TLS), with host and port and, where wanted, user, password and database. Left out:
    /// `host` and `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<RedisUrl>,
    /// The server, where there is no `url`; 127.0.0.1 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port; 6379 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The ACL user. Left out: the user of the `url`, or the server's default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The number of the database; 0 unless set, and always 0 in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db: Option<u32>,
    /// TLS with the certificates of the system, or with these. Left out: TLS only for `rediss://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// A cluster instead of one server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterConfig>,
    /// Sentinels that know the server instead of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<SentinelConfig>,
    /// What all names in Redis begin with, so that several storages may share a server.
    pub namespace: String,
    /// The lifetime of values stored without one. Left out: they do not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// Other lifetimes for keys that begin with a prefix; the longest prefix counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ttl_rules: Vec<TtlRule>,
    /// Until when attempts of a call begin; the last one may take its `attempt_timeout` beyond that. 5 s unless set.
    pub timeout: HumanDuration,
    /// How long one attempt waits for an answer, plus 50 ms for each MiB; 2 s unless set.
    pub attempt_timeout: HumanDuration,
    /// How long one attempt to connect may take; 1 s unless set.
    pub connect_timeout: HumanDuration,
    /// The largest value accepted; 64 MiB unless set, 512 MiB at most.
    pub max_value: ByteSize,
    /// How many replicas must have a change before it is acknowledged (`WAIT`); 0 unless set.
    pub replicas: u32,
    /// How often expired entries are looked for in the background; 500 ms unless set, 10 ms at least.
    pub sweep_interval: HumanDuration,
    /// Refuse every change.
    pub read_only: bool,
}

/// Certificates for TLS, as files in PEM form; relative paths start at the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The authority that the server's certificate is checked against. Left out: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The client's certificate, where the server asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The key of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// A Redis Cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Some of its nodes; the others are asked for.
    pub nodes: Vec<Address>,
    /// Over how many tags, and so slots, keys are spread: 1 to 1024, 32 unless set. Never change it for a namespace
    /// that holds values. Keys whose names hold the same `{part}` share a tag.
    #[serde(default = "cluster_tags")]
    pub tags: u16,
}

fn cluster_tags() -> u16 {
    CLUSTER_TAGS
}

/// Sentinels that watch over one primary.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelConfig {
    /// The sentinels, asked in this order.
    pub nodes: Vec<Address>,
    /// The name under which they know the primary.
    pub master: String,
    /// The user for the sentinels themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password for the sentinels themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// A lifetime for the keys under a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TtlRule {
    /// What the keys begin with, literally.
    pub prefix: String,
    /// The lifetime of values stored under it without one.
    pub ttl: HumanDuration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            host: None,
            port: None,
            username: None,
            password: None,
            db: None,
            tls: None,
            cluster: None,
            sentinel: None,
            namespace: "persist".to_owned(),
            ttl: None,
            ttl_rules: Vec::new(),
            timeout: HumanDuration(Duration::from_secs(5)),
            attempt_timeout: HumanDuration(Duration::from_secs(2)),
            connect_timeout: HumanDuration(Duration::from_secs(1)),
            max_value: ByteSize(64 << 20),
            replicas: 0,
            sweep_interval: HumanDuration(Duration::from_millis(500)),
            read_only: false,
        }
    }
}

impl RedisConfig {
    /// One server, by its URL.
    pub fn url(url: impl Into<String>) -> Self {
        Self { url: Some(RedisUrl(url.into())), ..Self::default() }
    }

    /// A cluster that these nodes belong to.
    pub fn cluster(nodes: Vec<Address>) -> Self {
        Self { cluster: Some(ClusterConfig { nodes, tags: CLUSTER_TAGS }), ..Self::default() }
    }

    /// The primary that these sentinels know as `master`.
    pub fn sentinel(nodes: Vec<Address>, master: impl Into<String>) -> Self {
        let sentinel = SentinelConfig { nodes, master: master.into(), username: None, password: None };
        Self { sentinel: Some(sentinel), ..Self::default() }
    }

    /// With names that begin with this.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// As this user.
    #[must_use]
    pub fn credentials(mut self, username: impl Into<String>, password: Secret) -> Self {
        self.username = Some(username.into());
        self.password = Some(password);
        self
    }

    /// With TLS.
    #[must_use]
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// With a lifetime for values stored without one.
    #[must_use]
    pub fn ttl(mut self, lifetime: Duration) -> Self {
        self.ttl = Some(HumanDuration(lifetime));
        self
    }

    /// With one more rule for lifetimes.
    #[must_use]
    pub fn ttl_rule(mut self, prefix: impl Into<String>, lifetime: Duration) -> Self {
        self.ttl_rules.push(TtlRule { prefix: prefix.into(), ttl: HumanDuration(lifetime) });
        self
    }

    /// With other limits on time: for a call in all, for one answer, for connecting.
    #[must_use]
    pub fn timeouts(mut self, call: Duration, attempt: Duration, connect: Duration) -> Self {
        self.timeout = HumanDuration(call);
        self.attempt_timeout = HumanDuration(attempt);
        self.connect_timeout = HumanDuration(connect);
        self
    }

    /// How many tags the keys are spread over.
    pub(crate) fn tags(&self) -> u16 {
        self.cluster.as_ref().map_or(1, |cluster| cluster.tags)
    }

    /// The expiry to use for a key where `expiry` leaves it to the storage: the longest rule that fits, else the
    /// storage's own.
    pub(crate) fn rule(&self, key: &Key, expiry: Expiry) -> Expiry {
        if expiry != Expiry::Default {
            return expiry;
        }
        let fitting = self.ttl_rules.iter().filter(|rule| key.starts_with(&rule.prefix));
        fitting.max_by_key(|rule| rule.prefix.len()).map_or(expiry, |rule| Expiry::After(rule.ttl.0))
    }

    /// Checks what the types of the fields cannot say.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ways =
            [self.url.is_some() || self.host.is_some(), self.cluster.is_some(), self.sentinel.is_some()];
        let cluster = self.cluster.as_ref();
        let faults = [
            (
                ways.iter().filter(|way| **way).count() > 1,
                "url (or host), cluster and sentinel are three ways to say where Redis is; write one of them",
            ),
            (
                self.url.is_some() && (self.host.is_some() || self.port.is_some()),
                "write either url or host and port",
            ),
            (
                self.namespace.is_empty() || self.namespace.contains(bad_in_namespace),
                "namespace must not be empty nor hold braces, white space or control characters",
            ),
            (
                cluster.is_some_and(|cluster| cluster.nodes.is_empty())
                    || self.sentinel.as_ref().is_some_and(|sentinel| sentinel.nodes.is_empty()),
                "nodes is empty; name at least one host:port",
            ),
            (
                cluster.is_some_and(|cluster| !(1..=1024).contains(&cluster.tags)),
                "cluster.tags must be 1 to 1024",
            ),
            (cluster.is_some() && self.db.unwrap_or(0) != 0, "a cluster has database 0 alone; leave db out"),
            (
                self.tls.as_ref().is_some_and(|tls| tls.cert.is_some() != tls.key.is_some()),
                "tls.cert and tls.key belong together; write both or none",
            ),
            (
                self.ttl.is_some_and(|ttl| ttl.0.is_zero()),
                "ttl: 0 would drop every value as it is stored; leave it out",
            ),
            (
                self.ttl_rules.iter().any(|rule| rule.ttl.0.is_zero()),
                "a ttl of 0 in ttl_rules would drop every value as it is stored; write a lifetime",
            ),
            (
                self.ttl_rules.iter().any(|rule| Key::check_prefix(&rule.prefix).is_err()),
                "a prefix in ttl_rules is one that no key can have; write at most 1024 bytes without NUL",
            ),
            (
                [self.timeout, self.attempt_timeout, self.connect_timeout]
                    .iter()
                    .any(|time| time.0.is_zero()),
                "timeout, attempt_timeout and connect_timeout must be longer than 0",
            ),
            (!(1..=MAX_VALUE).contains(&self.max_value.0), "max_value must be 1 to 512MiB"),
            (
                self.sweep_interval.0 < Duration::from_millis(10),
                "sweep_interval is below 10ms; write 10ms or more",
            ),
        ];
        if let Some((_, message)) = faults.iter().find(|(wrong, _)| *wrong) {
            return Err((*message).to_owned());
        }
        self.url.as_ref().map_or(Ok(()), RedisUrl::check)
    }

    /// Where the one server is, whether with TLS, and what its URL says of user, password and database.
    pub(crate) fn server(&self) -> Result<(Address, bool, redis::RedisConnectionInfo), String> {
        let Some(url) = &self.url else {
            let host = self.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
            let address = Address::new(host, self.port.unwrap_or(SERVER_PORT));
            return Ok((address, false, redis::RedisConnectionInfo::default()));
        };
        let (address, tls, info) = url.parse()?;
        Ok((address, tls, info))
    }
}

fn bad_in_namespace(c: char) -> bool {
    c == '{' || c == '}' || c.is_whitespace() || c.is_control()
}

/// Where a server is, as a URL. Its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Host and port, whether TLS, and user, password and database.
    fn parse(&self) -> Result<(Address, bool, redis::RedisConnectionInfo), String> {
        let wrong = "url is no Redis URL; write redis://host:port or, for TLS, rediss://host:port";
        let info = self.0.as_str().into_connection_info().map_err(|_| wrong.to_owned())?;
        let settings = info.redis_settings().clone();
        match info.addr() {
            redis::ConnectionAddr::Tcp(host, port) => Ok((Address::new(host, *port), false, settings)),
            redis::ConnectionAddr::TcpTls { insecure: true, .. } => {
                Err("url ends in #insecure, which turns off the check of certificates; name your authority in tls.ca".into())
            }
            redis::ConnectionAddr::TcpTls { host, port, .. } => Ok((Address::new(host, *port), true, settings)),
            _ => Err(wrong.to_owned()),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.parse().map(drop)
    }

    /// The URL with everything between the scheme and the last `@` left out but the user.
    fn shown(&self) -> Cow<'_, str> {
        let Some((scheme, rest)) = self.0.split_once("://") else { return Cow::Borrowed(Secret::REDACTED) };
        match rest.rsplit_once('@') {
            Some((login, place)) => {
                let user = login.split(':').next().unwrap_or_default();
                Cow::Owned(format!("{scheme}://{user}:{}@{place}", Secret::REDACTED))
            }
            None => Cow::Borrowed(&self.0),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for RedisUrl {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RedisUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "redis://[user[:password]@]host[:port][/db], or rediss:// for TLS." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<RedisConfig, String> {
        let config: RedisConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_cure() {
        for (json, cure) in [
            (r#"{"url": "http://a"}"#, "redis://host:port"),
            (r#"{"url": "rediss://a#insecure"}"#, "tls.ca"),
            (r#"{"url": "redis://a", "host": "b"}"#, "either url or host"),
            (r#"{"url": "redis://a", "cluster": {"nodes": ["b:1"]}}"#, "write one of them"),
            (r#"{"namespace": "a{b}"}"#, "braces"),
            (r#"{"namespace": ""}"#, "empty"),
            (r#"{"cluster": {"nodes": []}}"#, "host:port"),
            (r#"{"cluster": {"nodes": ["a:1"], "tags": 0}}"#, "1 to 1024"),
            (r#"{"cluster": {"nodes": ["a:1"]}, "db": 1}"#, "leave db out"),
            (r#"{"cluster": {"nodes": ["redis://a:1"]}}"#, "host:port"),
            (r#"{"tls": {"cert": "a"}}"#, "both or none"),
            (r#"{"ttl": 0}"#, "leave it out"),
            (r#"{"ttl_rules": [{"prefix": "a", "ttl": 0}]}"#, "write a lifetime"),
            (r#"{"timeout": 0}"#, "longer than 0"),
            (r#"{"max_value": "1GiB"}"#, "512MiB"),
            (r#"{"sweep_interval": "1ms"}"#, "10ms"),
            (r#"{"timeouts": 1}"#, "unknown field"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(cure), "{json}: {error}");
        }
        assert_eq!(format!("{:?}", parse("{}").unwrap()), format!("{:?}", RedisConfig::default()));
    }

    #[test]
    fn no_password_is_shown() {
        let config = parse(r#"{"url": "redis://ada:hunter2@h:1/3", "password": "hunter2"}"#).unwrap();
        for shown in [format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
            assert!(!shown.contains("hunter2") && shown.contains("redis://ada:[redacted]@h:1/3"), "{shown}");
        }
        let (address, tls, info) = config.server().unwrap();
        assert_eq!((address.to_string().as_str(), tls, info.db()), ("h:1", false, 3));
        assert_eq!((info.username(), info.password()), (Some("ada"), Some("hunter2")));
    }

    #[test]
    fn the_longest_rule_counts() {
        let second = Duration::from_secs(1);
        let config = RedisConfig::default().ttl_rule("a/", second).ttl_rule("a/b/", 2 * second);
        let rule = |key: &str, expiry| config.rule(&Key::new(key).unwrap(), expiry);
        assert_eq!(rule("a/x", Expiry::Default), Expiry::After(second));
        assert_eq!(rule("a/b/x", Expiry::Default), Expiry::After(2 * second));
        assert_eq!(rule("b", Expiry::Default), Expiry::Default);
        assert_eq!(rule("a/x", Expiry::Never), Expiry::Never);
    }
}
