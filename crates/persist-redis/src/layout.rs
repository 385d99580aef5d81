use std::sync::Arc;

use persist_core::ErrorKind;
use redis::Cmd;
use tokio::time::Instant;

use crate::answer;
use crate::engine::{Body, Call, Engine};
use crate::fault::Fault;
use crate::keyspace::Tag;

/// The oldest server that has all commands used here.
const OLDEST: (u32, u32) = (6, 2);

impl Engine {
    /// Checks that the server is new enough and that the namespace is spread over as many tags as configured; a new
    /// namespace is marked so.
    pub(crate) async fn admit(self: &Arc<Self>, read_only: bool) -> Result<(), Fault> {
        let deadline = self.deadline();
        self.check_server(deadline).await?;
        let configured = i64::from(self.keyspace.count());
        if !read_only {
            let mut mark = redis::cmd("HSETNX");
            mark.arg(self.keyspace.head(Tag(0))).arg("tags").arg(configured);
            self.read(mark, deadline).await?;
        }
        let mut ask = redis::cmd("HGET");
        ask.arg(self.keyspace.head(Tag(0))).arg("tags");
        let found = self.read(ask, deadline).await?;
        match found {
            redis::Value::Nil => Ok(()),
            found => check_tags(answer::integer(found)?, configured),
        }
    }

    async fn check_server(self: &Arc<Self>, deadline: Instant) -> Result<(), Fault> {
        let mut ask = redis::cmd("INFO");
        ask.arg("server");
        let info = match self.read(ask, deadline).await {
            Ok(info) => crate::report::info_text(info)?,
            // Whoever may not ask is believed.
            Err(fault) if fault.kind == ErrorKind::AccessDenied => return Ok(()),
            Err(fault) => return Err(fault),
        };
        let version =
            info.lines().find_map(|line| line.trim_end().strip_prefix("redis_version:")).unwrap_or_default();
        let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
        let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return Ok(()) };
        if (major, minor) >= OLDEST {
            return Ok(());
        }
        let message = format!("the server is Redis {version}; use 6.2 or newer");
        Err(Fault::new(ErrorKind::Unsupported, message))
    }

    async fn read(self: &Arc<Self>, cmd: Cmd, deadline: Instant) -> Result<redis::Value, Fault> {
        self.run_one(Call { tag: Tag(0), bytes: 0, body: Body::Read(cmd) }, deadline).await
    }
}

fn check_tags(found: i64, configured: i64) -> Result<(), Fault> {
    if found == configured {
        return Ok(());
    }
    let message = format!(
        "the namespace is spread over {found} tags and {configured} are configured, so values would not be found; \
         set cluster.tags to {found}, or copy the values to another namespace"
    );
    Err(Fault::new(ErrorKind::InvalidConfig, message))
}
