//! Migrations on real files: up, down, failures, changed and unknown ones, several processes, kills in the middle.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // A panic here is the report.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use persist_core::{Checksum, ManualClock, Timestamp};
use persist_sqlite::migration::{
    Direction, HISTORY_SCHEMA, HISTORY_TABLE, Migration, MigrationProblem, MigrationState, Migrations, Target,
};
use persist_sqlite::rusqlite::{Connection, OpenFlags};
use persist_testkit::adverse::Kills;
use tempfile::TempDir;

/// Names the database that a worker migrates.
const WORKER: &str = "PERSIST_MIGRATIONS_WORKER";

const BASE: &str = "CREATE TABLE a (x INTEGER PRIMARY KEY); INSERT INTO a VALUES (1), (2);";

type Test = fn();

fn main() -> ExitCode {
    if let Ok(path) = std::env::var(WORKER) {
        return worker(Path::new(&path));
    }
    let tests: [(&str, Test); 17] = [
        ("up_and_down_to_any_version", up_and_down),
        ("the_order_is_that_of_the_versions", order),
        ("a_failed_one_is_rolled_back_and_can_be_corrected", failure),
        ("history_keeps_everything", history),
        ("changed_text_is_refused", changed),
        ("an_unknown_one_is_refused_by_name", unknown),
        ("one_below_an_applied_one_is_refused", out_of_order),
        ("what_cannot_be_undone_says_so_before_anything_is_done", irreversible),
        ("a_migration_cannot_end_its_transaction", no_commit),
        ("a_dry_run_finds_errors_and_changes_nothing", dry_run),
        ("wrong_sets_are_refused", invalid),
        ("foreign_keys_are_checked_as_a_whole", foreign_keys),
        ("two_sets_share_a_file", two_sets),
        ("a_damaged_history_is_refused", damaged),
        ("a_read_only_connection_is_enough_where_nothing_is_to_be_done", read_only),
        ("processes_that_start_together_migrate_once", processes),
        ("a_kill_in_the_middle_leaves_whole_migrations", kills),
    ];
    let trial = |(name, test): (&'static str, Test)| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), tests.into_iter().map(trial).collect()).exit_code()
}

fn set(migrations: impl IntoIterator<Item = Migration>) -> Migrations {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    Migrations::new("test", migrations).unwrap().clock(Arc::new(clock)).wait(Duration::from_secs(30))
}

fn first() -> Migration {
    Migration::new("1.0.0", "base", BASE).down("DROP TABLE a;")
}

fn second() -> Migration {
    Migration::new("1.2.0", "more", "ALTER TABLE a ADD COLUMN y TEXT; UPDATE a SET y = 'new';")
        .down("ALTER TABLE a DROP COLUMN y;")
}

fn third() -> Migration {
    Migration::new("1.10.0", "index", "CREATE INDEX a_y ON a (y);").down("DROP INDEX a_y;")
}

fn third_alone() -> Migration {
    Migration::new("1.10.0", "index", "CREATE INDEX a_x ON a (x);").down("DROP INDEX a_x;")
}

fn version(text: &str) -> Target {
    Target::Version(text.parse().unwrap())
}

fn memory() -> Connection {
    Connection::open_in_memory().unwrap()
}

/// Everything in the schema but the history.
fn schema(connection: &Connection) -> Vec<String> {
    let text = "SELECT sql FROM sqlite_schema WHERE name <> ?1 AND sql IS NOT NULL ORDER BY name";
    let mut statement = connection.prepare(text).unwrap();
    let rows = statement.query_map([HISTORY_TABLE], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn count(connection: &Connection, what: &str) -> i64 {
    connection.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
}

fn versions(connection: &Connection, set: &Migrations) -> Vec<String> {
    let lines = set.status(connection).unwrap().migrations;
    let applied = lines.iter().filter(|line| line.state != MigrationState::Pending);
    applied.map(|line| line.version.to_string()).collect()
}

fn up_and_down() {
    let (mut db, set) = (memory(), set([first(), second(), third()]));
    let done: Vec<String> = set.up(&mut db).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(done, [r#"up 1.0.0 "base""#, r#"up 1.2.0 "more""#, r#"up 1.10.0 "index""#]);
    let full = schema(&db);
    assert_eq!(set.up(&mut db).unwrap(), []);
    let done: Vec<String> = set.down(&mut db, "1.0.0").unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(done, [r#"down 1.10.0 "index""#, r#"down 1.2.0 "more""#]);
    assert_eq!(schema(&db), ["CREATE TABLE a (x INTEGER PRIMARY KEY)"]);
    assert_eq!(count(&db, "a"), 2);
    // A version that is not applied is above, not below.
    let error = set.down(&mut db, "1.2.0").unwrap_err();
    assert!(
        matches!(error.problem(), MigrationProblem::NoSuchVersion { asked, .. } if asked == "1.2.0"),
        "{error}"
    );
    assert_eq!(set.to(&mut db, &version("1.2.0")).unwrap().len(), 1);
    assert_eq!(set.up(&mut db).unwrap().len(), 1);
    assert_eq!(schema(&db), full);
    assert_eq!(set.to(&mut db, &Target::Nothing).unwrap().len(), 3);
    assert_eq!(schema(&db), Vec::<String>::new());
    assert_eq!(set.status(&db).unwrap().current, None);
    let error = set.to(&mut db, &version("9.9.9")).unwrap_err().to_string();
    assert_eq!(error, r#"migrations "test": there is no version 9.9.9; there are: 1.0.0, 1.2.0, 1.10.0"#);
}

fn order() {
    let mut db = memory();
    let set = set([third(), Migration::new("1.10.0-rc.1", "try", "SELECT 1;"), first(), second()]);
    set.up(&mut db).unwrap();
    assert_eq!(versions(&db, &set), ["1.0.0", "1.2.0", "1.10.0-rc.1", "1.10.0"]);
    assert_eq!(set.status(&db).unwrap().current.unwrap().to_string(), "1.10.0");
}

fn failure() {
    let mut db = memory();
    let wrong = Migration::new("1.2.0", "more", "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1);");
    let wrong = set([first(), wrong, third()]);
    for _ in 0..2 {
        let error = wrong.up(&mut db).unwrap_err();
        assert!(
            matches!(error.problem(), MigrationProblem::Failed { direction: Direction::Up, .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains(r#"1.2.0 "more" failed on its way up"#), "{text}");
        assert!(text.contains("no such table: nowhere"), "{text}");
        // Not even the first of its statements took place; the migration before it did.
        assert_eq!(schema(&db), ["CREATE TABLE a (x INTEGER PRIMARY KEY)"]);
        assert!(db.is_autocommit());
    }
    let line = wrong.status(&db).unwrap().migrations[1].clone();
    assert_eq!(line.state, MigrationState::Pending);
    assert!(line.failure.unwrap().contains("nowhere"));
    let corrected = set([first(), second(), third()]);
    assert_eq!(corrected.up(&mut db).unwrap().len(), 2);
    assert_eq!(corrected.status(&db).unwrap().migrations[1].failure, None);
    // The same on the way down.
    let wrong = Migration::new("1.10.0", "index", "CREATE INDEX a_y ON a (y);").down("DROP INDEX nowhere;");
    let error = set([first(), second(), wrong]).down(&mut db, "1.2.0").unwrap_err();
    assert!(
        matches!(error.problem(), MigrationProblem::Failed { direction: Direction::Down, .. }),
        "{error}"
    );
    assert_eq!(versions(&db, &corrected), ["1.0.0", "1.2.0", "1.10.0"]);
    assert_eq!(corrected.down(&mut db, "1.2.0").unwrap().len(), 1);
}

fn history() {
    let mut db = memory();
    set([first(), Migration::new("1.2.0", "more", "oops")]).up(&mut db).unwrap_err();
    let set = set([first(), second()]);
    set.up(&mut db).unwrap();
    set.down(&mut db, "1.0.0").unwrap();
    set.up(&mut db).unwrap();
    let history = set.status(&db).unwrap().history;
    let lines =
        history.iter().map(|line| (line.direction.as_str(), line.version.minor, line.error.is_none()));
    let expected = [("up", 0, true), ("up", 2, false), ("up", 2, true), ("down", 2, true), ("up", 2, true)];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    assert_eq!(history[0].checksum, Checksum::of(&[BASE.as_bytes()]));
    assert_eq!(history[0].checksum.to_string().len(), 64);
    assert_eq!(history[1].checksum, Checksum::of(&[b"oops"]));
    assert_eq!(history[3].checksum, Checksum::of(&[b"ALTER TABLE a DROP COLUMN y;"]));
    assert!(history.iter().all(|line| line.at == Timestamp::from_millis(1_000)));
    let kept = "SELECT sql FROM sqlite_schema WHERE name = ?1";
    let kept: String = db.query_row(kept, [HISTORY_TABLE], |row| row.get(0)).unwrap();
    assert_eq!(kept, HISTORY_SCHEMA);
}

fn changed() {
    let mut db = memory();
    set([first(), second()]).up(&mut db).unwrap();
    let edited = Migration::new("1.0.0", "base", format!("{BASE} ")).down("DROP TABLE a;");
    let set = set([edited, second(), third()]);
    let before = schema(&db);
    for target in [Target::Newest, Target::Nothing, version("1.0.0")] {
        let error = set.to(&mut db, &target).unwrap_err();
        let MigrationProblem::Changed { applied, .. } = error.problem() else { panic!("{error}") };
        assert_eq!(*applied, Checksum::of(&[BASE.as_bytes()]));
        assert!(error.to_string().contains(r#"the text of 1.0.0 "base" was changed"#), "{error}");
        let error = set.plan(&db, &target).unwrap_err();
        assert!(matches!(error.problem(), MigrationProblem::Changed { .. }), "{error}");
        let error = set.dry_run(&mut db, &target).unwrap_err();
        assert!(matches!(error.problem(), MigrationProblem::Changed { .. }), "{error}");
    }
    assert_eq!(schema(&db), before);
    let at = Timestamp::from_millis(1_000);
    assert_eq!(set.status(&db).unwrap().migrations[0].state, MigrationState::Changed { at });
}

fn unknown() {
    let mut db = memory();
    set([first(), second(), third()]).up(&mut db).unwrap();
    let (before, old) = (schema(&db), set([first(), second()]));
    for target in [Target::Newest, Target::Nothing] {
        let error = old.to(&mut db, &target).unwrap_err().to_string();
        assert!(
            error.contains(r#"holds 1.10.0 "index", which this program does not know; use the program"#),
            "{error}"
        );
    }
    assert_eq!(schema(&db), before);
    let at = Timestamp::from_millis(1_000);
    assert_eq!(old.status(&db).unwrap().migrations[2].state, MigrationState::Unknown { at });
    // Once a program that knows it has taken it back, the old one works again.
    set([first(), second(), third()]).down(&mut db, "1.2.0").unwrap();
    assert_eq!(old.up(&mut db).unwrap(), []);
}

fn out_of_order() {
    let mut db = memory();
    set([first(), third_alone()]).up(&mut db).unwrap();
    let error = set([first(), second(), third_alone()]).up(&mut db).unwrap_err().to_string();
    assert!(error.contains(r#"1.2.0 "more" is not applied, but 1.10.0 above it is"#), "{error}");
    assert_eq!(schema(&db).len(), 2);
}

fn irreversible() {
    let mut db = memory();
    let set = set([first(), Migration::new("1.2.0", "for good", "DELETE FROM a;"), third_alone()]);
    set.up(&mut db).unwrap();
    let before = schema(&db);
    let error = set.to(&mut db, &Target::Nothing).unwrap_err().to_string();
    assert!(error.contains(r#"1.2.0 "for good" cannot be undone"#), "{error}");
    assert_eq!(schema(&db), before);
    assert_eq!(set.down(&mut db, "1.2.0").unwrap().len(), 1);
}

fn no_commit() {
    for text in [
        "CREATE TABLE b (x); COMMIT; CREATE TABLE c (x);",
        "CREATE TABLE b (x); ROLLBACK;",
        "CREATE TABLE b (x); END; BEGIN; CREATE TABLE c (x);",
        "CREATE TABLE b (x); ATTACH ':memory:' AS other;",
        "CREATE TABLE b (x); DELETE FROM persist_migrations;",
        "CREATE TABLE b (x); DROP TABLE Persist_Migrations;",
        "CREATE TABLE b (x); ALTER TABLE persist_migrations ADD COLUMN y;",
        "CREATE TABLE b (x); ALTER TABLE persist_migrations RENAME TO y;",
    ] {
        let mut db = memory();
        let set = set([first(), Migration::new("2.0.0", "bad", text)]);
        let error = set.up(&mut db).unwrap_err().to_string();
        assert!(error.contains("a migration may not use BEGIN, COMMIT"), "{text}: {error}");
        assert_eq!(schema(&db), ["CREATE TABLE a (x INTEGER PRIMARY KEY)"], "{text}");
        assert_eq!(versions(&db, &set), ["1.0.0"], "{text}");
        // The connection is free again afterwards.
        db.execute_batch("BEGIN; CREATE TABLE d (x); COMMIT;").unwrap();
    }
    // Savepoints stay within the transaction.
    let (mut db, savepoint) = (memory(), "SAVEPOINT s; CREATE TABLE b (x); ROLLBACK TO s; RELEASE s;");
    set([first(), Migration::new("2.0.0", "good", savepoint)]).up(&mut db).unwrap();
    assert_eq!(schema(&db), ["CREATE TABLE a (x INTEGER PRIMARY KEY)"]);
    // And a transaction of the caller is not taken for one's own.
    let mut busy = memory();
    busy.execute_batch("BEGIN").unwrap();
    let error = set([first()]).up(&mut busy).unwrap_err();
    assert!(matches!(error.problem(), MigrationProblem::InTransaction), "{error}");
}

fn dry_run() {
    let mut db = memory();
    let good = set([first(), second(), third()]);
    let steps = good.dry_run(&mut db, &Target::Newest).unwrap();
    assert_eq!(steps, good.plan(&db, &Target::Newest).unwrap());
    assert_eq!(steps.len(), 3);
    assert_eq!(count(&db, "sqlite_schema"), 0);
    let bad = set([first(), second(), Migration::new("2.0.0", "bad", "INSERT INTO a VALUES (1, 'twice');")]);
    let error = bad.dry_run(&mut db, &Target::Newest).unwrap_err().to_string();
    assert!(error.contains(r#"2.0.0 "bad" failed"#) && error.contains("UNIQUE"), "{error}");
    assert_eq!(count(&db, "sqlite_schema"), 0);
    good.up(&mut db).unwrap();
    assert_eq!(good.dry_run(&mut db, &Target::Nothing).unwrap().len(), 3);
    assert_eq!(versions(&db, &good), ["1.0.0", "1.2.0", "1.10.0"]);
}

fn invalid() {
    let new = |version: &'static str| {
        Migrations::new("test", [first(), Migration::new(version, "x", "SELECT 1")]).unwrap_err().to_string()
    };
    assert!(new("1.0").contains("\"1.0\" is no semantic version"), "{}", new("1.0"));
    assert!(new("").contains("is no semantic version"), "{}", new(""));
    assert!(new("1.0.1+build").contains("has build metadata"), "{}", new("1.0.1+build"));
    assert!(new("1.0.0").contains("there are two migrations 1.0.0"), "{}", new("1.0.0"));
    assert!(Migrations::new("", [first()]).unwrap_err().to_string().contains("the set has no name"));
    assert_eq!(Migrations::new("empty", []).unwrap().up(&mut memory()).unwrap(), []);
}

fn foreign_keys() {
    let family = "CREATE TABLE parent (id INTEGER PRIMARY KEY); \
                  CREATE TABLE child (parent INTEGER REFERENCES parent (id) ON DELETE CASCADE); \
                  INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1);";
    let rebuild = "CREATE TABLE parent2 (id INTEGER PRIMARY KEY, name TEXT); \
                   INSERT INTO parent2 SELECT id, 'x' FROM parent; DROP TABLE parent; \
                   ALTER TABLE parent2 RENAME TO parent;";
    let rebuilt =
        || [Migration::new("1.0.0", "family", family), Migration::new("1.1.0", "names", rebuild)].into_iter();
    let mut db = memory();
    db.pragma_update(None, "foreign_keys", true).unwrap();
    set(rebuilt()).up(&mut db).unwrap();
    assert_eq!(count(&db, "child"), 1, "the rebuild of the parent must not delete the children");
    let orphan = Migration::new("1.2.0", "orphans", "DELETE FROM parent;");
    let error = set(rebuilt().chain([orphan])).up(&mut db).unwrap_err().to_string();
    assert!(error.contains(r#"row 1 of table "child" refers to what is not in "parent""#), "{error}");
    assert_eq!(count(&db, "parent"), 1);
    let on: bool = db.pragma_query_value(None, "foreign_keys", |row| row.get(0)).unwrap();
    assert!(on, "the connection is as it was");
    let timeout =
        |db: &Connection| db.pragma_query_value(None, "busy_timeout", |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(timeout(&db), timeout(&memory()));
}

fn two_sets() {
    let mut db = memory();
    let b = Migration::new("1.0.0", "b", "CREATE TABLE b (x);").down("DROP TABLE b;");
    let (ours, other) = (set([first()]), Migrations::new("other", [b]).unwrap());
    ours.up(&mut db).unwrap();
    other.up(&mut db).unwrap();
    other.to(&mut db, &Target::Nothing).unwrap();
    assert_eq!(versions(&db, &ours), ["1.0.0"]);
    assert_eq!(versions(&db, &other), Vec::<String>::new());
}

fn damaged() {
    for (column, value) in
        [("version", "'new'"), ("version", "''"), ("checksum", "'00'"), ("checksum", "'../../etc/passwd'")]
    {
        let mut db = memory();
        let set = set([first(), second()]);
        set.up(&mut db).unwrap();
        db.execute(&format!("UPDATE persist_migrations SET {column} = {value} WHERE id = 2"), []).unwrap();
        let error = set.up(&mut db).unwrap_err().to_string();
        assert!(error.contains(&format!("line 2 of persist_migrations has no proper {column}")), "{error}");
        let error = set.status(&db).unwrap_err();
        assert!(matches!(error.problem(), MigrationProblem::Damaged { .. }), "{error}");
    }
}

fn read_only() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("db");
    let set = set([first(), second()]);
    set.up(&mut Connection::open(&path).unwrap()).unwrap();
    let mut reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    assert_eq!(set.up(&mut reader).unwrap(), []);
    assert_eq!(versions(&reader, &set), ["1.0.0", "1.2.0"]);
    let error = set.down(&mut reader, "1.0.0").unwrap_err().to_string();
    assert!(error.contains("readonly"), "{error}");
    // A writer that does not come to an end is waited for as long as was said, no longer.
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let hasty = set.wait(Duration::from_millis(50));
    let error = hasty.down(&mut Connection::open(&path).unwrap(), "1.0.0").unwrap_err();
    assert!(matches!(error.problem(), MigrationProblem::Locked { .. }), "{error}");
}

/// Ten migrations, each of several statements and long enough to be met in the middle.
fn long() -> Migrations {
    let migration = |n: u32| {
        let up = format!(
            "CREATE TABLE t{n} (x INTEGER PRIMARY KEY, y BLOB); \
             WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 3000) \
             INSERT INTO t{n} SELECT i, randomblob(100) FROM r; \
             CREATE INDEX i{n} ON t{n} (y);"
        );
        Migration::new(format!("{n}.0.0"), format!("table {n}"), up).down(format!("DROP TABLE t{n};"))
    };
    set((1..=10).map(migration))
}

fn worker(path: &Path) -> ExitCode {
    let mut db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    match long().up(&mut db) {
        Ok(done) => {
            println!("{}", done.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(path: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).env(WORKER, path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How many migrations a worker says that it ran.
fn finish(worker: Child) -> usize {
    let output = worker.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Checks that what is applied is there whole and what is not is not there at all; gives how many are applied.
fn inspect(path: &Path) -> usize {
    let db = Connection::open(path).unwrap();
    let state: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(state, "ok");
    let applied = long().status(&db).unwrap().history.len();
    assert_eq!(schema(&db).len(), 2 * applied, "a table and an index for each");
    for n in 1..=applied {
        assert_eq!(count(&db, &format!("t{n}")), 3000);
    }
    applied
}

fn processes() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("db");
    // Switching to WAL is no matter of migrations.
    Connection::open(&path).unwrap().pragma_update(None, "journal_mode", "wal").unwrap();
    let workers: Vec<Child> = (0..6).map(|_| start(&path)).collect();
    let done: Vec<usize> = workers.into_iter().map(finish).collect();
    assert_eq!(done.iter().sum::<usize>(), 10, "each migration is run by one process: {done:?}");
    assert_eq!(inspect(&path), 10);
}

fn kills() {
    let place = TempDir::new().unwrap();
    let mut kills = Kills::timed(|| assert_eq!(finish(start(&place.path().join("db"))), 10));
    let (mut met, mut between, mut database) = (0, 0, 0);
    for _ in 0..60 {
        let path = place.path().join(format!("db{database}"));
        let mut child = start(&path);
        let running = kills.meet(&mut child);
        let applied = if path.exists() { inspect(&path) } else { 0 };
        met += u32::from(running);
        between += u32::from(running && (1..10).contains(&applied));
        database += u32::from(applied == 10);
    }
    assert!(met >= 20 && between >= 5, "{met} kills, {between} of them between migrations");
    let path = place.path().join(format!("db{database}"));
    finish(start(&path));
    assert_eq!(inspect(&path), 10);
}
