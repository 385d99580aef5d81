use std::fmt;
use std::io;
use std::path::Path;

use persist_core::{ErrorKind, StorageError};
use serde::Serialize;

/// How the program ends: one documented number for each thing that a script may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All that was asked is done.
    Success = 0,
    /// Something failed that has no number of its own.
    Failure = 1,
    /// The command line, or a key in it, is wrong.
    Usage = 2,
    /// The key, the file or the storage is not there.
    Absent = 3,
    /// A condition did not hold.
    Conflict = 4,
    /// What is stored is damaged.
    Corruption = 5,
    /// The configuration is wrong.
    Config = 6,
    /// Out of reach, too slow, or held by another process.
    Unavailable = 7,
    /// No right to do that, or open for reading only.
    Denied = 8,
    /// No room, or over a limit.
    Capacity = 9,
    /// Ended by Ctrl-C or a request to terminate.
    Interrupted = 130,
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::Absent,
            ErrorKind::InvalidKey => Self::Usage,
            ErrorKind::InvalidConfig => Self::Config,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::AccessDenied | ErrorKind::ReadOnly => Self::Denied,
            ErrorKind::Locked | ErrorKind::Unavailable | ErrorKind::Timeout => Self::Unavailable,
            ErrorKind::Capacity | ErrorKind::TooLarge => Self::Capacity,
            ErrorKind::Corruption => Self::Corruption,
            _ => Self::Failure,
        }
    }
}

/// The kind of a failure to find what was asked for.
const ABSENT: &str = "Absent";

/// The result of everything here.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told to the user.
    Told(Box<Told>),
    /// Everything has been told; only the number is left.
    Reported(Exit),
    /// Nobody reads our output any more, which is no failure.
    BrokenPipe,
}

/// What the user is told.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    #[serde(rename = "code", serialize_with = "code")]
    pub(crate) exit: Exit,
    /// The kind of a storage's error, or a word of our own.
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

fn code<S: serde::Serializer>(exit: &Exit, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(*exit as u8)
}

impl Failure {
    fn told(exit: Exit, kind: &'static str, message: impl Into<String>) -> Self {
        Self::Told(Box::new(Told { exit, kind, message: message.into(), storage: None, key: None }))
    }

    /// Something failed that has no number of its own.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::told(Exit::Failure, "Failure", message)
    }

    /// The command line is wrong in a way that its grammar cannot say.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::told(Exit::Usage, "Usage", message)
    }

    /// The key, the file or the storage is not there.
    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self::told(Exit::Absent, ABSENT, message)
    }

    /// The configuration cannot be used. One that cannot be read is wrong too, for whoever runs the command.
    pub(crate) fn config(error: StorageError) -> Self {
        let exit = if error.kind() == ErrorKind::AccessDenied { Exit::Denied } else { Exit::Config };
        Self::told(exit, error.kind().as_str(), error.to_string())
    }

    /// A key cannot be what is asked of it, a file name for instance.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::told(Exit::Failure, "Refused", message)
    }

    /// What was written does not read back as it was.
    pub(crate) fn corruption(message: impl Into<String>) -> Self {
        Self::told(Exit::Corruption, ErrorKind::Corruption.as_str(), message)
    }

    /// The operating system refused something about a local file.
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::Absent,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Exit::Capacity
            }
            _ => Exit::Failure,
        };
        Self::told(exit, "Io", format!("cannot {doing} {}: {error}", path.display()))
    }

    /// The number that it ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Told(told) => told.exit,
            Self::Reported(exit) => *exit,
            Self::BrokenPipe => Exit::Success,
        }
    }

    /// True if something that is known of is not there.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Told(told) if told.kind == ABSENT)
    }

    /// True if it is about what the user wrote: a name that nobody configured, or the configuration itself.
    pub(crate) fn is_mistake(&self) -> bool {
        let kinds = [ErrorKind::NotFound.as_str(), ErrorKind::InvalidConfig.as_str()];
        matches!(self, Self::Told(told) if kinds.contains(&told.kind))
    }

    /// True if the other values of a longer run may still go well: it is about one key or one file.
    pub(crate) fn concerns_one(&self) -> bool {
        match self {
            Self::Told(told) => match told.kind {
                "Refused" | ABSENT | "Io" => told.exit != Exit::Capacity,
                kind => ["InvalidKey", "InvalidValue", "TooLarge", "Conflict", "Corruption"].contains(&kind),
            },
            Self::Reported(_) | Self::BrokenPipe => false,
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Told(Box::new(Told {
            exit: error.kind().into(),
            kind: error.kind().as_str(),
            message: error.to_string(),
            storage: error.storage().map(str::to_owned),
            key: error.key().map(|key| key.to_string()),
        }))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(told) => f.write_str(&told.message),
            Self::Reported(exit) => write!(f, "ended with code {}", *exit as u8),
            Self::BrokenPipe => f.write_str("the output was closed"),
        }
    }
}
