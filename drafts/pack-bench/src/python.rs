//! Programs that keep many records in few files.

use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{Figures, Outcome, Records, time};

/// Reads keys and values from its input, and prints how long each step took. The time of reading is not counted.
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
start = time.perf_counter()
pack = zipfile.ZipFile(path)
print(time.perf_counter() - start)
wanted = [line[:-1].decode() for line in source]
start = time.perf_counter()
for key in wanted:
    assert len(pack.read(key)) == size
print(time.perf_counter() - start)
start = time.perf_counter()
assert len(sorted(pack.namelist())) == count
print(time.perf_counter() - start)
"#;

/// Python is slow to look up; fewer of them say as much.
const LOOKUPS: u64 = 20_000;

pub(crate) fn zipfile(records: Records, place: &Path) -> Outcome<Figures> {
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(place.join("records.zip"));
    command.args([records.count.to_string(), records.size.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = BufWriter::with_capacity(1 << 20, child.stdin.take().ok_or("no input")?);
    for at in 0..records.count {
        writeln!(input, "{}", records.key(at))?;
        input.write_all(&records.value(at))?;
    }
    for at in records.wanted().take(LOOKUPS as usize) {
        writeln!(input, "{}", records.key(at))?;
    }
    drop(input);
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let times = text.lines().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
    let time = |at: usize| times.get(at).map(|seconds| Duration::from_secs_f64(*seconds));
    let lookup = time(2).map(|time| (LOOKUPS.min(records.lookups), time));
    Ok(Figures { ingest: time(0), open: time(1), lookup, list: time(3), verify: None })
}

/// Git compresses with zlib and hashes with SHA-1; its packs are what many keep datasets in.
pub(crate) fn git(records: Records, place: &Path) -> Outcome<Figures> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(place).args(args).stderr(Stdio::null());
        command
    };
    let done = |status: std::process::ExitStatus| if status.success() { Ok(()) } else { Err("git failed") };
    done(git(&["init", "-q", "--bare", "."]).status()?)?;
    let (ingest, ()) = time(|| {
        let mut child = git(&["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn()?;
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
        drop(input);
        done(child.wait()?)?;
        Ok(())
    })?;
    let lookups = LOOKUPS.min(records.lookups);
    let (lookup, ()) = time(|| {
        let mut child =
            git(&["cat-file", "--batch"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().ok_or("no input")?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        let mut value = vec![0; records.size + 1];
        for at in records.wanted().take(lookups as usize) {
            writeln!(input, "main:{}", records.key(at))?;
            line.clear();
            output.read_line(&mut line)?;
            output.read_exact(&mut value)?;
        }
        drop(input);
        done(child.wait()?)?;
        Ok(())
    })?;
    let (list, ()) = time(|| {
        let listed = git(&["ls-tree", "-r", "--name-only", "main"]).stdout(Stdio::null()).status()?;
        Ok(done(listed)?)
    })?;
    Ok(Figures { ingest: Some(ingest), lookup: Some((lookups, lookup)), list: Some(list), ..Figures::default() })
}
