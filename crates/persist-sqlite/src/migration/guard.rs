//! The settings of a connection while it migrates, and what the text of a migration may not do.

use std::time::Duration;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::HISTORY_TABLE;

/// A connection that is ready to migrate; as it was before when dropped.
///
/// Foreign keys are not enforced row by row meanwhile, because dropping a table that others refer to would delete their
/// rows (<https://www.sqlite.org/lang_altertable.html#otheralter>). They are checked as a whole before each commit instead.
#[derive(Debug)]
pub(super) struct Guard<'c> {
    connection: &'c mut Connection,
    foreign_keys: bool,
    busy_timeout: Duration,
}

impl<'c> Guard<'c> {
    /// Lets locks of others be waited for as long as `wait`.
    pub(super) fn new(connection: &'c mut Connection, wait: Duration) -> rusqlite::Result<Self> {
        let foreign_keys = connection.pragma_query_value(None, "foreign_keys", |row| row.get(0))?;
        let millis: i64 = connection.pragma_query_value(None, "busy_timeout", |row| row.get(0))?;
        let busy_timeout = Duration::from_millis(millis.unsigned_abs());
        let guard = Self { connection, foreign_keys, busy_timeout };
        guard.connection.busy_timeout(wait)?;
        guard.connection.pragma_update(None, "foreign_keys", false)?;
        Ok(guard)
    }

    /// Begins a transaction that nobody else can write beside.
    pub(super) fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }

    /// Whether the connection enforces foreign keys otherwise.
    pub(super) fn foreign_keys(&self) -> bool {
        self.foreign_keys
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Neither can fail outside a transaction.
        let _ = self.connection.pragma_update(None, "foreign_keys", self.foreign_keys);
        let _ = self.connection.busy_timeout(self.busy_timeout);
    }
}

/// Runs the statements of a migration within `transaction`.
pub(super) fn run(transaction: &Transaction<'_>, text: &str, foreign_keys: bool) -> Result<(), String> {
    let words = |error: rusqlite::Error| error.to_string();
    transaction.authorizer(Some(authorize)).map_err(words)?;
    let ran = transaction.execute_batch(text);
    let open = !transaction.is_autocommit();
    transaction.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(words)?;
    ran.map_err(explain)?;
    if !open {
        return Err("it ended the transaction that it runs in".to_owned());
    }
    if foreign_keys { check_foreign_keys(transaction) } else { Ok(()) }
}

/// A migration must not end its transaction, nor rewrite what is known of it.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Transaction { .. } | AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
            Authorization::Deny
        }
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
            if table_name.eq_ignore_ascii_case(HISTORY_TABLE) =>
        {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    }
}

fn explain(error: rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::AuthorizationForStatementDenied) => format!(
            "a migration may not use BEGIN, COMMIT, ROLLBACK, ATTACH or DETACH, because it is one transaction, \
             nor change {HISTORY_TABLE}"
        ),
        _ => error.to_string(),
    }
}

fn check_foreign_keys(transaction: &Transaction<'_>) -> Result<(), String> {
    let broken = "SELECT \"table\", rowid, parent FROM pragma_foreign_key_check LIMIT 1";
    let row = transaction.query_row(broken, [], |row| {
        let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
        Ok((table, row.get::<_, Option<i64>>(1)?, parent))
    });
    match row {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok((table, row, parent)) => {
            let row = row.map(|row| format!("row {row} of ")).unwrap_or_default();
            Err(format!("afterwards {row}table {table:?} refers to what is not in {parent:?}"))
        }
    }
}
