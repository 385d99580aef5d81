//! One place where what a server answers, or does not answer, becomes an error of a storage.

use persist_core::{Descriptor, ErrorKind, Key, StorageError};
use redis::{RedisError, ServerError, ServerErrorKind};

/// Why a command has no useful answer.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    /// What is wrong and what to do; never a value and never a secret.
    pub(crate) message: String,
    pub(crate) fate: Fate,
}

/// What became of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was not carried out, and will not be.
    Untouched,
    /// It was sent and its answer was lost: it may or may not have been carried out.
    Lost,
    /// The primary has carried it out, and too few replicas have it: it may get lost with the primary.
    Unreplicated,
}

/// What to do about an error that a server answered. In every case the command was not carried out.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// The slot lies elsewhere now: where.
    Moved(String, Fault),
    /// The slot is on its way elsewhere.
    Moving(Fault),
    /// The server has forgotten the scripts, or the era of the connection was ended, or it knows the server's
    /// clock no more: a new connection helps.
    Reconnect(Fault),
    /// The server cannot do it now; perhaps another one can.
    Later(Fault),
    /// It will be refused again.
    Final(Fault),
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fate: Fate::Untouched }
    }

    /// A connection that could not be made; nothing was sent.
    pub(crate) fn unreached(place: &str, error: &RedisError) -> Self {
        let (kind, cure) = match error.kind() {
            redis::ErrorKind::AuthenticationFailed | redis::ErrorKind::Server(ServerErrorKind::NoPerm) => {
                (ErrorKind::AccessDenied, "check the user, its password and its rights (ACL)")
            }
            redis::ErrorKind::InvalidClientConfig => {
                (ErrorKind::InvalidConfig, "check the address and the TLS settings")
            }
            redis::ErrorKind::RESP3NotSupported => (ErrorKind::Unsupported, "use Redis 6.2 or newer"),
            _ if matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM")) => {
                (ErrorKind::AccessDenied, "check the user, its password and its rights (ACL)")
            }
            _ if refuses_certificate(error) => {
                (ErrorKind::AccessDenied, "the server wants another certificate: check tls.cert and tls.key")
            }
            _ if error.is_timeout() => {
                (ErrorKind::Timeout, "check the server and the network, or raise connect_timeout")
            }
            _ => (ErrorKind::Unavailable, "check that the server runs and can be reached"),
        };
        Self::new(kind, format!("cannot connect to {place}: {}; {cure}", brief(error)))
    }

    /// An answer that did not come; the command may have been carried out.
    pub(crate) fn lost(place: &str, error: &RedisError) -> Self {
        let (kind, cure) = if error.is_timeout() {
            (ErrorKind::Timeout, "check the load of the server and the network, or raise attempt_timeout")
        } else {
            (ErrorKind::Unavailable, "check that the server runs and can be reached")
        };
        Self { kind, message: format!("{place} gave no answer: {}; {cure}", brief(error)), fate: Fate::Lost }
    }

    /// An answer that makes no sense.
    pub(crate) fn garbled(what: &str) -> Self {
        Self::new(
            ErrorKind::Corruption,
            format!("the server's answer cannot be read ({what}); check what it runs"),
        )
    }

    /// The time of the call is over.
    pub(crate) fn out_of_time(self) -> Self {
        Self { message: format!("{} (gave up when the time of the call was over)", self.message), ..self }
    }

    /// As an error of the storage.
    pub(crate) fn error(self, descriptor: &Descriptor, operation: &'static str) -> StorageError {
        let error = descriptor.error(self.kind, operation, self.message);
        if self.fate == Fate::Untouched { error } else { error.with_outcome_unknown() }
    }

    /// The same, about a key.
    pub(crate) fn error_at(
        self,
        descriptor: &Descriptor,
        operation: &'static str,
        key: &Key,
    ) -> StorageError {
        self.error(descriptor, operation).with_key(key)
    }
}

/// Whether the server ended the connection because of the certificate that it was shown, or for want of one. The crate
/// keeps nothing but the text of that; the names are those of the alerts of TLS.
fn refuses_certificate(error: &RedisError) -> bool {
    let text = error.to_string();
    let alert = text.split_once("received fatal alert: ").map(|(_, alert)| alert);
    alert.is_some_and(|alert| alert.contains("Certificate") || alert.contains("UnknownCA"))
}

/// The error without what the crate puts around it, on one line.
fn brief(error: &RedisError) -> String {
    error.to_string().escape_debug().to_string()
}

impl Refusal {
    /// What an error answered by the server at `place` means.
    pub(crate) fn of(place: &str, error: &ServerError) -> Self {
        Self::said(place, error.code(), error.details().unwrap_or_default())
    }

    /// What the words of such an error mean.
    pub(crate) fn said(place: &str, code: &str, detail: &str) -> Self {
        judge(place, code, detail)
    }
}

/// `SLOT HOST:PORT` without the slot.
fn target(detail: &str) -> String {
    detail.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

fn judge(place: &str, code: &str, detail: &str) -> Refusal {
    let said = format!("{code} {detail}").escape_debug().to_string();
    let fault = |kind, cure: &str| Fault::new(kind, format!("{place} says {said}; {cure}"));
    let passing = |cure| fault(ErrorKind::Unavailable, cure);
    // Redis 7.0 says it without a code of its own inside of scripts.
    let code = if detail.starts_with("The user executing the script can") { "NOPERM" } else { code };
    match code {
        "MOVED" => Refusal::Moved(target(detail), passing("wait until the nodes of the cluster agree")),
        "ASK" => Refusal::Moving(passing("wait until the slot has moved")),
        "NOSCRIPT" => Refusal::Reconnect(passing("do not flush its scripts all the time")),
        "FENCED" | "LATE" => Refusal::Reconnect(passing("try again")),
        "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" => {
            Refusal::Later(passing("wait until it is ready"))
        }
        "NOREPLICAS" => Refusal::Later(passing("too few of its replicas are connected; start them")),
        "READONLY" => Refusal::Later(fault(
            ErrorKind::ReadOnly,
            "it is a replica: name the primary, or let sentinel or cluster find it",
        )),
        "OOM" => Refusal::Final(fault(ErrorKind::Capacity, "raise its maxmemory or delete something")),
        "MISCONF" => {
            Refusal::Final(fault(ErrorKind::Capacity, "it cannot write to its disk; free some space"))
        }
        "NOPERM" | "NOAUTH" | "WRONGPASS" => Refusal::Final(fault(
            ErrorKind::AccessDenied,
            "give the user the rights that docs/formats/redis.md lists",
        )),
        "DAMAGED" => Refusal::Final(fault(
            ErrorKind::Corruption,
            "restore the value from a backup, store it anew or delete the key",
        )),
        "WRONGTYPE" => Refusal::Final(fault(
            ErrorKind::Corruption,
            "something that persist did not make lies under this name; remove it or use another namespace",
        )),
        "CROSSSLOT" => {
            Refusal::Final(fault(ErrorKind::Unsupported, "the server is a cluster: configure cluster"))
        }
        _ => Refusal::Final(fault(ErrorKind::Internal, "report it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str) -> (ErrorKind, bool) {
        match judge("h:1", code, "x\ny") {
            Refusal::Later(fault) => (fault.kind, true),
            Refusal::Final(fault) => {
                assert!(!fault.message.contains('\n'));
                (fault.kind, false)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_server_says_has_a_kind() {
        for (code, expected) in [
            ("LOADING", (ErrorKind::Unavailable, true)),
            ("READONLY", (ErrorKind::ReadOnly, true)),
            ("DAMAGED", (ErrorKind::Corruption, false)),
            ("OOM", (ErrorKind::Capacity, false)),
            ("NOPERM", (ErrorKind::AccessDenied, false)),
            ("WRONGTYPE", (ErrorKind::Corruption, false)),
            ("WHAT", (ErrorKind::Internal, false)),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
        let denied = "The user executing the script can't run this command or subcommand";
        let Refusal::Final(fault) = judge("h:1", "ERR", denied) else { panic!("not final") };
        assert_eq!(fault.kind, ErrorKind::AccessDenied);
        assert_eq!(target("3999 127.0.0.1:6381"), "127.0.0.1:6381");
    }
}
