//! Programs that keep many records in few files.

use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::figures::{Figures, rate, seconds};
use crate::records::Records;
use crate::{Outcome, time};

/// Reads keys and values from its input, and prints how long each step took. Reading them is not counted.
const SCRIPT: &str = r#"
import os, sys, time, zipfile
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
source, spent = sys.stdin.buffer, 0.0
pack = zipfile.ZipFile(path, "w")
for _ in range(count):
    key, value = source.readline()[:-1].decode(), source.read(size)
    start = time.perf_counter()
    pack.writestr(zipfile.ZipInfo(key), value)
    spent += time.perf_counter() - start
start = time.perf_counter()
pack.close()
with open(path, "rb+") as file:
    os.fsync(file.fileno())
print(spent + time.perf_counter() - start)
wanted = [line[:-1].decode() for line in source]
start = time.perf_counter()
pack = zipfile.ZipFile(path)
pack.read(wanted[0])
print(time.perf_counter() - start)
start = time.perf_counter()
for key in wanted:
    assert len(pack.read(key)) == size
print(time.perf_counter() - start)
start = time.perf_counter()
assert len(sorted(pack.namelist())) == count
print(time.perf_counter() - start)
"#;

/// These are slow to look up; fewer lookups say as much.
const LOOKUPS: u64 = 20_000;

fn done(status: ExitStatus) -> Outcome<()> {
    if status.success() { Ok(()) } else { Err(format!("a program ended with {status}").into()) }
}

/// Python's own module.
pub(crate) fn zipfile(records: &Records, place: &Path) -> Outcome<Figures> {
    let lookups = LOOKUPS.min(records.lookups);
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(place.join("records.zip"));
    command.args([records.count.to_string(), records.size.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = BufWriter::with_capacity(1 << 20, child.stdin.take().ok_or("no input")?);
    for at in 0..records.count {
        writeln!(input, "{}", records.key(at))?;
        input.write_all(&records.value(at))?;
    }
    for at in records.wanted().take(lookups as usize) {
        writeln!(input, "{}", records.key(at))?;
    }
    drop(input.into_inner().map_err(std::io::IntoInnerError::into_error)?);
    let output = child.wait_with_output()?;
    done(output.status)?;
    let text = String::from_utf8(output.stdout)?;
    let times = text.lines().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
    let [ingest, open, lookup, list] = times[..] else { return Err("a time is missing".into()) };
    Ok(Figures {
        ingest: Some(records.count as f64 / ingest),
        open: Some(open),
        lookup: Some(lookups as f64 / lookup),
        list: Some(list),
        ..Figures::default()
    })
}

/// Git compresses with zlib and hashes with SHA-1; its packs are what many keep datasets in.
pub(crate) fn git(records: &Records, place: &Path) -> Outcome<Figures> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(place).args(args).stderr(Stdio::null());
        command
    };
    done(git(&["init", "-q", "--bare", "."]).status()?)?;
    let (ingest, ()) = time(|| import(records, git(&["-c", "core.fsync=all", "fast-import", "--quiet"])))?;
    let lookups = LOOKUPS.min(records.lookups);
    let (lookup, ()) = time(|| look_up(records, lookups, git(&["cat-file", "--batch"])))?;
    let (list, ()) = time(|| {
        done(git(&["ls-tree", "-r", "--name-only", "main"]).stdout(Stdio::null()).status()?)
    })?;
    let (verify, ()) = time(|| done(git(&["fsck", "--full"]).stdout(Stdio::null()).status()?))?;
    Ok(Figures {
        ingest: rate(records.count, ingest),
        lookup: rate(lookups, lookup),
        list: seconds(list),
        verify: seconds(verify),
        ..Figures::default()
    })
}

fn import(records: &Records, mut command: Command) -> Outcome<()> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let mut input = BufWriter::with_capacity(1 << 20, child.stdin.take().ok_or("no input")?);
    for at in 0..records.count {
        write!(input, "blob\nmark :{}\ndata {}\n", at + 1, records.size)?;
        input.write_all(&records.value(at))?;
        writeln!(input)?;
    }
    write!(input, "commit refs/heads/main\ncommitter b <b@b> 0 +0000\ndata 1\nx\n")?;
    for at in 0..records.count {
        writeln!(input, "M 100644 :{} {}", at + 1, records.key(at))?;
    }
    drop(input.into_inner().map_err(std::io::IntoInnerError::into_error)?);
    done(child.wait()?)
}

fn look_up(records: &Records, lookups: u64, mut command: Command) -> Outcome<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let (mut line, mut value) = (String::new(), vec![0; records.size + 1]);
    for at in records.wanted().take(lookups as usize) {
        writeln!(input, "main:{}", records.key(at))?;
        line.clear();
        output.read_line(&mut line)?;
        output.read_exact(&mut value)?;
    }
    drop(input);
    done(child.wait()?)
}
