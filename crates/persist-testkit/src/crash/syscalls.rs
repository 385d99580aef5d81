//! What each recorded system call does to the disk.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::disk::{Disk, Edit, Inode, Naming, Node};
use super::record::{Change, Event, Recording};
use super::trace::{Call, shorten, unquote, unquote_vectors};

/// Calls that change no file, no folder and no descriptor's position that matters here.
const HARMLESS: &[&str] = &[
    "access",
    "faccessat",
    "faccessat2",
    "stat",
    "lstat",
    "fstat",
    "newfstatat",
    "statx",
    "statfs",
    "fstatfs",
    "readlink",
    "readlinkat",
    "getcwd",
    "getxattr",
    "lgetxattr",
    "fgetxattr",
    "listxattr",
    "llistxattr",
    "flistxattr",
    "getdents",
    "getdents64",
    "pread64",
    "preadv",
    "preadv2",
    "fadvise64",
    "readahead",
    "sync_file_range",
    "flock",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_create",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "eventfd2",
    "timerfd_create",
    "timerfd_settime",
    "signalfd4",
    "inotify_init1",
    "inotify_add_watch",
    "pipe",
    "pipe2",
    "memfd_create",
    "pidfd_open",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "utime",
    "utimes",
    "utimensat",
    "futimesat",
    "execve",
    "exit",
    "exit_group",
    "wait4",
    "waitid",
    "kill",
    "tkill",
    "tgkill",
    "munmap",
    "mprotect",
    "mremap",
    "name_to_handle_at",
    "mlock",
];

/// Why a call could not be interpreted.
enum Fail {
    /// A path leads nowhere: perhaps a call of another thread that ended later took effect earlier.
    Missing(String),
    /// The model does not know this.
    Unknown(String),
}

type Outcome = Result<(), Fail>;

/// An open description, shared by its duplicates.
type Shared = Rc<RefCell<Description>>;

/// Where an open descriptor leads.
#[derive(Clone, Debug)]
enum Target {
    Inside(Inode),
    Outside(PathBuf),
}

/// An open file description, shared by duplicates of a descriptor.
#[derive(Debug)]
struct Description {
    target: Target,
    position: u64,
    append: bool,
    /// `O_SYNC` (true) or `O_DSYNC` (false).
    sync: Option<bool>,
}

/// A place that a path names.
enum Place {
    Node(Inode),
    Name(Inode, Vec<u8>),
    Outside(PathBuf),
}

/// Follows the calls of a worker and writes down what they change below the top folder.
pub(super) struct Interpreter<'i> {
    top: PathBuf,
    before: Disk,
    disk: Disk,
    maps_allowed: &'i [&'static str],
    descriptors: HashMap<i64, Shared>,
    events: Vec<Event>,
    /// On which line of the trace each change ended.
    ended: Vec<usize>,
}

impl<'i> Interpreter<'i> {
    /// A worker that finds `before` in `top` and has nothing open.
    pub(super) fn new(top: &Path, before: Disk, maps_allowed: &'i [&'static str]) -> Self {
        Self {
            top: top.to_owned(),
            disk: before.clone(),
            before,
            maps_allowed,
            descriptors: HashMap::new(),
            events: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Interprets all calls: in the order in which they ended, but for lines that are told, which count from the
    /// moment at which they began, and for `close`: its number may be given to another thread before it has ended.
    pub(super) fn run(mut self, calls: &[Call]) -> Result<Recording, String> {
        let mut order: Vec<&Call> = calls.iter().collect();
        order.sort_by_key(|call| match call.name.as_str() {
            "sendto" | "close" | "close_range" => call.start,
            _ => call.end,
        });
        let mut done = vec![false; order.len()];
        for at in 0..order.len() {
            self.turn(&order, &mut done, at)?;
        }
        Ok(Recording { before: self.before, after: self.disk, events: self.events })
    }

    /// One call; if it needs a name that another thread was just making, that one first.
    fn turn(&mut self, order: &[&Call], done: &mut [bool], at: usize) -> Result<(), String> {
        if std::mem::replace(&mut done[at], true) {
            return Ok(());
        }
        let call = order[at];
        let overlapping = (at + 1..order.len()).take_while(|&later| order[later].start < call.end + 1000);
        for later in overlapping.filter(|&later| order[later].start < call.end).chain([at]) {
            match self.call(call) {
                Ok(()) => return Ok(()),
                Err(Fail::Missing(_)) if later != at => self.turn(order, done, later)?,
                Err(Fail::Missing(text) | Fail::Unknown(text)) => {
                    let shown = format!("{}({})", call.name, call.arguments.join(", "));
                    return Err(format!("line {}: {text}: {}", call.end, shorten(&shown)));
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> Outcome {
        let Some(result @ 0..) = call.result else { return Ok(()) };
        match call.name.as_str() {
            "sendto" => self.told(call),
            "open" | "creat" | "openat" | "openat2" => self.open(call, result),
            "close" => self.close(call),
            "close_range" => self.close_range(call),
            "dup" | "dup2" | "dup3" | "fcntl" => self.duplicate(call, result),
            "read" | "readv" | "lseek" => self.move_position(call, result),
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" => self.write(call, result),
            "copy_file_range" | "sendfile" => self.copy(call, result),
            "truncate" | "ftruncate" | "fallocate" => self.resize(call),
            "fsync" | "fdatasync" | "sync" | "syncfs" => self.sync(call),
            "rename" | "renameat" | "renameat2" => self.rename(call),
            "link" | "linkat" => self.link(call),
            "symlink" | "symlinkat" => self.symlink(call),
            "unlink" | "unlinkat" | "rmdir" => self.unlink(call),
            "mkdir" | "mkdirat" => self.mkdir(call),
            "setxattr" | "lsetxattr" | "fsetxattr" => self.attribute(call, true),
            "removexattr" | "lremovexattr" | "fremovexattr" => self.attribute(call, false),
            "mmap" => self.map(call),
            "ioctl" => self.ioctl(call),
            "clone" | "clone3" => shares_files(call),
            name if HARMLESS.contains(&name) => Ok(()),
            name => Err(unknown(&format!("the recorder does not know {name}"))),
        }
    }

    fn change(&mut self, call: &Call, change: Change) {
        match &change {
            Change::Names(names) => names.iter().for_each(|naming| self.disk.name(naming)),
            Change::Data { inode, edit, .. } => self.disk.edit(*inode, edit),
            Change::Attribute { inode, name, value } => self.disk.set_attribute(*inode, name, value.as_ref()),
            Change::Sync { .. } => {}
        }
        self.ended.push(call.end);
        self.events.push(Event::Change(change));
    }

    fn edit(&mut self, call: &Call, inode: Inode, edit: Edit) {
        let length = self.disk.bytes(inode).len() as u64;
        let grows = edit.length_after(length) != length;
        self.change(call, Change::Data { inode, edit, grows });
    }

    fn told(&mut self, call: &Call) -> Outcome {
        if argument(call, 0)? == "1" {
            let text = unquote(argument(call, 1)?).ok_or_else(|| unknown("a cut line"))?;
            self.events.push(Event::Told(String::from_utf8_lossy(&text).into_owned()));
        }
        Ok(())
    }

    fn open(&mut self, call: &Call, result: i64) -> Outcome {
        let (folder, path, flags) = match call.name.as_str() {
            "open" => ("AT_FDCWD", argument(call, 0)?, argument(call, 1)?),
            "creat" => ("AT_FDCWD", argument(call, 0)?, "O_WRONLY|O_CREAT|O_TRUNC"),
            _ => (argument(call, 0)?, argument(call, 1)?, argument(call, 2)?),
        };
        let flags = Flags::new(flags);
        let target = match self.place(folder, path, !flags.has("O_NOFOLLOW"))? {
            Place::Outside(path) => Target::Outside(path),
            Place::Node(inode) if flags.has("O_TMPFILE") => {
                let _ = inode;
                Target::Inside(self.disk.add(Node::File(Vec::new())))
            }
            Place::Node(inode) => {
                if flags.has("O_TRUNC") && !self.disk.bytes(inode).is_empty() {
                    self.edit(call, inode, Edit::Resize(0));
                }
                Target::Inside(inode)
            }
            Place::Name(folder, name) if flags.has("O_CREAT") => {
                Target::Inside(self.make(call, folder, name, Node::File(Vec::new())))
            }
            Place::Name(_, name) => return Err(missing(&name)),
        };
        let sync = if flags.has("O_SYNC") { Some(true) } else { flags.has("O_DSYNC").then_some(false) };
        let description = Description { target, position: 0, append: flags.has("O_APPEND"), sync };
        self.descriptors.insert(result, Rc::new(RefCell::new(description)));
        Ok(())
    }

    fn make(&mut self, call: &Call, folder: Inode, name: Vec<u8>, node: Node) -> Inode {
        let inode = self.disk.add(node);
        self.change(call, Change::Names(vec![Naming { folder, name, inode: Some(inode) }]));
        inode
    }

    fn close(&mut self, call: &Call) -> Outcome {
        let descriptor = number(argument(call, 0)?)?;
        self.descriptors.remove(&descriptor);
        Ok(())
    }

    fn close_range(&mut self, call: &Call) -> Outcome {
        let (first, last) = (number(argument(call, 0)?)?, number(argument(call, 1)?)?);
        if argument(call, 2)? == "0" {
            self.descriptors.retain(|descriptor, _| !(first..=last).contains(descriptor));
        }
        Ok(())
    }

    fn duplicate(&mut self, call: &Call, result: i64) -> Outcome {
        let plain = call.name != "fcntl" || argument(call, 1)?.starts_with("F_DUPFD");
        if plain {
            match self.descriptors.get(&number(argument(call, 0)?)?).cloned() {
                Some(description) => self.descriptors.insert(result, description),
                None => self.descriptors.remove(&result),
            };
        }
        Ok(())
    }

    fn move_position(&mut self, call: &Call, result: i64) -> Outcome {
        if let Some(description) = self.descriptors.get(&number(argument(call, 0)?)?) {
            let result = unsigned(result);
            let mut description = description.borrow_mut();
            description.position =
                if call.name == "lseek" { result } else { description.position.saturating_add(result) };
        }
        Ok(())
    }

    fn write(&mut self, call: &Call, result: i64) -> Outcome {
        let Some((inode, description)) = self.inside(argument(call, 0)?)? else { return Ok(()) };
        let vectors = call.name.contains('v');
        let data = argument(call, 1)?;
        let data = if vectors { unquote_vectors(data) } else { unquote(data) };
        let mut data = data.ok_or_else(|| unknown("written bytes are cut"))?;
        data.truncate(usize::try_from(result).unwrap_or(usize::MAX));
        let positioned = call.name.starts_with('p');
        let given = if positioned { number(argument(call, 3)?)? } else { -1 };
        let offset = self.offset(inode, &description, given);
        if given < 0 {
            description.borrow_mut().position = offset + data.len() as u64;
        }
        self.edit(call, inode, Edit::Write(offset, data));
        let flags = call.arguments.get(4).map_or("", String::as_str);
        let sync = if flags.contains("RWF_SYNC") {
            Some(true)
        } else {
            flags.contains("RWF_DSYNC").then_some(false)
        };
        if let Some(whole) = description.borrow().sync.or(sync) {
            let covers = self.ended.len();
            self.change(call, Change::Sync { inode: Some(inode), data_only: !whole, covers });
        }
        Ok(())
    }

    /// Where a write goes: to the end with `O_APPEND`, to the given offset, or to the position.
    fn offset(&self, inode: Inode, description: &Shared, given: i64) -> u64 {
        let description = description.borrow();
        if description.append {
            self.disk.bytes(inode).len() as u64
        } else if given >= 0 {
            unsigned(given)
        } else {
            description.position
        }
    }

    fn copy(&mut self, call: &Call, result: i64) -> Outcome {
        let ranged = call.name == "copy_file_range";
        let (from, to) = if ranged { (0, 2) } else { (1, 0) };
        let Some((target, output)) = self.inside(argument(call, to)?)? else { return Ok(()) };
        let Some((source, input)) = self.inside(argument(call, from)?)? else {
            return Err(unknown("bytes copied from outside of the root are not recorded"));
        };
        let given_in = pointed(argument(call, if ranged { 1 } else { 2 })?)?;
        let given_out = if ranged { pointed(argument(call, 3)?)? } else { None };
        let start = given_in.unwrap_or(input.borrow().position);
        let end = start + unsigned(result);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let data = range.and_then(|(start, end)| self.disk.bytes(source).get(start..end));
        let data = data.ok_or_else(|| unknown("copied bytes that are not there"))?.to_vec();
        let offset = given_out.unwrap_or(self.offset(target, &output, -1));
        if given_in.is_none() {
            input.borrow_mut().position = end;
        }
        if given_out.is_none() {
            output.borrow_mut().position = offset + data.len() as u64;
        }
        self.edit(call, target, Edit::Write(offset, data));
        Ok(())
    }

    fn resize(&mut self, call: &Call) -> Outcome {
        let inode = match call.name.as_str() {
            "truncate" => match self.place("AT_FDCWD", argument(call, 0)?, true)? {
                Place::Node(inode) => inode,
                Place::Name(_, name) => return Err(missing(&name)),
                Place::Outside(_) => return Ok(()),
            },
            _ => match self.inside(argument(call, 0)?)? {
                Some((inode, _)) => inode,
                None => return Ok(()),
            },
        };
        if call.name != "fallocate" {
            let length = unsigned(number(argument(call, 1)?)?);
            self.edit(call, inode, Edit::Resize(length));
            return Ok(());
        }
        let (from, length) = (unsigned(number(argument(call, 2)?)?), unsigned(number(argument(call, 3)?)?));
        self.fallocate(call, inode, from, from + length)
    }

    fn fallocate(&mut self, call: &Call, inode: Inode, from: u64, to: u64) -> Outcome {
        let length = self.disk.bytes(inode).len() as u64;
        let mode = Flags::new(argument(call, 1)?);
        let end = if mode.has("FALLOC_FL_KEEP_SIZE") { to.min(length) } else { to };
        if mode.has("FALLOC_FL_PUNCH_HOLE") || mode.has("FALLOC_FL_ZERO_RANGE") {
            if from < end {
                self.edit(call, inode, Edit::Zero(from, end));
            }
        } else if mode.is_empty() {
            if end > length {
                self.edit(call, inode, Edit::Resize(end));
            }
        } else if !mode.is_only("FALLOC_FL_KEEP_SIZE") {
            return Err(unknown("a mode of fallocate that is not modelled"));
        }
        Ok(())
    }

    fn sync(&mut self, call: &Call) -> Outcome {
        let inode = if call.name == "sync" {
            None
        } else {
            match self.inside(argument(call, 0)?)? {
                Some((inode, _)) => Some(inode),
                None if call.name == "syncfs" => None,
                None => return Ok(()),
            }
        };
        let inode = inode.filter(|_| call.name != "syncfs");
        let covers = self.ended.partition_point(|&end| end < call.start);
        self.change(call, Change::Sync { inode, data_only: call.name == "fdatasync", covers });
        Ok(())
    }

    fn rename(&mut self, call: &Call) -> Outcome {
        let (from, to, flags) = match call.name.as_str() {
            "rename" => (("AT_FDCWD", argument(call, 0)?), ("AT_FDCWD", argument(call, 1)?), "0"),
            name => {
                let flags = if name == "renameat2" { argument(call, 4)? } else { "0" };
                let arguments = (argument(call, 0)?, argument(call, 1)?);
                (arguments, (argument(call, 2)?, argument(call, 3)?), flags)
            }
        };
        let (from, to) = (self.name_of(from.0, from.1)?, self.name_of(to.0, to.1)?);
        let (Some((from_folder, from_name)), Some((to_folder, to_name))) = (&from, &to) else {
            return if from.is_none() && to.is_none() {
                Ok(())
            } else {
                Err(unknown("a rename across the root"))
            };
        };
        let moved = self.disk.child(*from_folder, from_name).ok_or_else(|| missing(from_name))?;
        let flags = Flags::new(flags);
        if flags.has("RENAME_WHITEOUT") {
            return Err(unknown("a whiteout is not modelled"));
        }
        let replaced = self.disk.child(*to_folder, to_name);
        if replaced == Some(moved) {
            return Ok(());
        }
        let left = if flags.has("RENAME_EXCHANGE") { replaced } else { None };
        let out = Naming { folder: *from_folder, name: from_name.clone(), inode: left };
        let into = Naming { folder: *to_folder, name: to_name.clone(), inode: Some(moved) };
        self.change(call, Change::Names(vec![out, into]));
        Ok(())
    }

    fn link(&mut self, call: &Call) -> Outcome {
        let at = call.name == "linkat";
        let (source, target) = if at {
            let follow = Flags::new(argument(call, 4)?);
            let (folder, path) = (argument(call, 0)?, argument(call, 1)?);
            let target = (argument(call, 2)?, argument(call, 3)?);
            (self.place(folder, path, follow.has("AT_SYMLINK_FOLLOW"))?, target)
        } else {
            (self.place("AT_FDCWD", argument(call, 0)?, false)?, ("AT_FDCWD", argument(call, 1)?))
        };
        let Some((folder, name)) = self.name_of(target.0, target.1)? else { return Ok(()) };
        match source {
            Place::Node(inode) => {
                self.change(call, Change::Names(vec![Naming { folder, name, inode: Some(inode) }]));
                Ok(())
            }
            Place::Name(_, name) => Err(missing(&name)),
            Place::Outside(_) => Err(unknown("a link to a file outside of the root")),
        }
    }

    fn symlink(&mut self, call: &Call) -> Outcome {
        let target = unquote(argument(call, 0)?).ok_or_else(|| unknown("a cut path"))?;
        let (folder, path) = match call.name.as_str() {
            "symlink" => ("AT_FDCWD", argument(call, 1)?),
            _ => (argument(call, 1)?, argument(call, 2)?),
        };
        if let Some((folder, name)) = self.name_of(folder, path)? {
            self.make(call, folder, name, Node::Link(target));
        }
        Ok(())
    }

    fn unlink(&mut self, call: &Call) -> Outcome {
        let (folder, path) = match call.name.as_str() {
            "unlinkat" => (argument(call, 0)?, argument(call, 1)?),
            _ => ("AT_FDCWD", argument(call, 0)?),
        };
        let Some((folder, name)) = self.name_of(folder, path)? else { return Ok(()) };
        self.disk.child(folder, &name).ok_or_else(|| missing(&name))?;
        self.change(call, Change::Names(vec![Naming { folder, name, inode: None }]));
        Ok(())
    }

    fn mkdir(&mut self, call: &Call) -> Outcome {
        let (folder, path) = match call.name.as_str() {
            "mkdirat" => (argument(call, 0)?, argument(call, 1)?),
            _ => ("AT_FDCWD", argument(call, 0)?),
        };
        if let Some((folder, name)) = self.name_of(folder, path)? {
            self.make(call, folder, name, Node::Folder(BTreeMap::new()));
        }
        Ok(())
    }

    fn attribute(&mut self, call: &Call, set: bool) -> Outcome {
        let first = argument(call, 0)?;
        let inode = if call.name.starts_with('f') {
            self.inside(first)?.map(|(inode, _)| inode)
        } else {
            match self.place("AT_FDCWD", first, !call.name.starts_with('l'))? {
                Place::Node(inode) => Some(inode),
                Place::Name(_, name) => return Err(missing(&name)),
                Place::Outside(_) => None,
            }
        };
        let Some(inode) = inode else { return Ok(()) };
        let name = unquote(argument(call, 1)?).ok_or_else(|| unknown("a cut name"))?;
        let value =
            if set { Some(unquote(argument(call, 2)?).ok_or_else(|| unknown("a cut value"))?) } else { None };
        self.change(call, Change::Attribute { inode, name, value });
        Ok(())
    }

    fn map(&self, call: &Call) -> Outcome {
        let writable = argument(call, 2)?.contains("PROT_WRITE") && argument(call, 3)?.contains("MAP_SHARED");
        let Some((inode, _)) = self.inside(argument(call, 4)?)? else { return Ok(()) };
        let name = self.any_name(inode);
        if !writable || self.maps_allowed.iter().any(|end| name.ends_with(end)) {
            return Ok(());
        }
        Err(unknown(&format!("{name} is written through a shared map, which is not recorded")))
    }

    fn ioctl(&self, call: &Call) -> Outcome {
        let what = argument(call, 1)?;
        if what.contains("FICLONE") || what.contains("FIDEDUPE") {
            return Err(unknown("sharing of extents is not modelled"));
        }
        Ok(())
    }

    fn any_name(&self, wanted: Inode) -> String {
        let folders = self.disk.nodes.iter().filter_map(|node| match node {
            Node::Folder(names) => Some(names),
            Node::File(_) | Node::Link(_) => None,
        });
        let found = folders.flatten().find(|&(_, &inode)| inode == wanted);
        found.map_or_else(String::new, |(name, _)| String::from_utf8_lossy(name).into_owned())
    }

    /// The node behind a descriptor; `None` if it lies outside of the root or is no file at all.
    fn inside(&self, argument: &str) -> Result<Option<(Inode, Shared)>, Fail> {
        let Some(description) = self.descriptors.get(&number(argument)?) else { return Ok(None) };
        let target = description.borrow().target.clone();
        Ok(match target {
            Target::Inside(inode) => Some((inode, Rc::clone(description))),
            Target::Outside(_) => None,
        })
    }

    /// Folder and name that a path names, the last step not followed; `None` outside of the root.
    fn name_of(&self, folder: &str, path: &str) -> Result<Option<(Inode, Vec<u8>)>, Fail> {
        let path = unquote(path).ok_or_else(|| unknown("a cut path"))?;
        match self.start(folder, &path)? {
            Start::Outside(_) => Ok(None),
            Start::Inside(inode, rest) => self.walk(inode, &rest, 0).map(Some),
        }
    }

    fn place(&self, folder: &str, path: &str, follow: bool) -> Result<Place, Fail> {
        let path = unquote(path).ok_or_else(|| unknown("a cut path"))?;
        if let Some(descriptor) = path.strip_prefix(b"/proc/self/fd/") {
            let descriptor = String::from_utf8_lossy(descriptor).into_owned();
            let inside = self.inside(&descriptor)?;
            return Ok(inside.map_or(Place::Outside(PathBuf::new()), |(inode, _)| Place::Node(inode)));
        }
        match self.start(folder, &path)? {
            Start::Outside(path) => Ok(Place::Outside(path)),
            Start::Inside(inode, rest) => self.find(inode, &rest, follow, 0),
        }
    }

    fn find(&self, from: Inode, path: &[u8], follow: bool, depth: usize) -> Result<Place, Fail> {
        if steps(path).next().is_none() {
            return Ok(Place::Node(from));
        }
        let (folder, name) = self.walk(from, path, depth)?;
        let Some(inode) = self.disk.child(folder, &name) else { return Ok(Place::Name(folder, name)) };
        match &self.disk.nodes[inode] {
            Node::Link(target) if follow => self.follow(folder, target, depth),
            _ => Ok(Place::Node(inode)),
        }
    }

    fn follow(&self, folder: Inode, target: &[u8], depth: usize) -> Result<Place, Fail> {
        if depth > 20 {
            return Err(unknown("too many links"));
        }
        if !target.starts_with(b"/") {
            return self.find(folder, target, true, depth + 1);
        }
        match self.start("AT_FDCWD", target)? {
            Start::Outside(path) => Ok(Place::Outside(path)),
            Start::Inside(inode, rest) => self.find(inode, &rest, true, depth + 1),
        }
    }

    /// The folder that holds the last step of a path, links on the way followed.
    fn walk(&self, from: Inode, path: &[u8], depth: usize) -> Result<(Inode, Vec<u8>), Fail> {
        let steps: Vec<&[u8]> = steps(path).collect();
        let (last, way) = steps.split_last().ok_or_else(|| unknown("a path without a name"))?;
        let mut folder = from;
        for step in steps.iter().chain([last]) {
            if *step == b".." {
                return Err(unknown("a path with `..` is not modelled"));
            }
        }
        for step in way {
            folder = match self.find(folder, step, true, depth)? {
                Place::Node(inode) => inode,
                Place::Name(_, name) => return Err(missing(&name)),
                Place::Outside(_) => return Err(unknown("a link on the way leads out of the root")),
            };
        }
        Ok((folder, last.to_vec()))
    }

    /// Where a path starts: at a node below the top, or outside.
    fn start(&self, folder: &str, path: &[u8]) -> Result<Start, Fail> {
        use std::os::unix::ffi::OsStrExt;
        let given = Path::new(std::ffi::OsStr::from_bytes(path));
        let whole = if path.starts_with(b"/") {
            given.to_owned()
        } else if folder == "AT_FDCWD" {
            std::env::current_dir().unwrap_or_default().join(given)
        } else {
            match self.descriptors.get(&number(folder)?).map(|found| found.borrow().target.clone()) {
                Some(Target::Inside(inode)) => return Ok(Start::Inside(inode, path.to_vec())),
                Some(Target::Outside(folder)) => folder.join(given),
                None => return Err(unknown("a folder that was never opened")),
            }
        };
        Ok(match whole.strip_prefix(&self.top) {
            Ok(rest) => Start::Inside(0, rest.as_os_str().as_bytes().to_vec()),
            Err(_) => Start::Outside(whole),
        })
    }
}

enum Start {
    Inside(Inode, Vec<u8>),
    Outside(PathBuf),
}

/// The names in `A|B|C`.
struct Flags<'f>(Vec<&'f str>);

impl<'f> Flags<'f> {
    fn new(text: &'f str) -> Self {
        let text = text.trim_start_matches('{');
        let text = text.strip_prefix("flags=").unwrap_or(text);
        let text = text.split(", ").next().unwrap_or_default();
        Self(text.split('|').filter(|flag| *flag != "0").collect())
    }

    fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_only(&self, flag: &str) -> bool {
        self.0 == [flag]
    }
}

fn steps(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|step| !step.is_empty() && *step != b".")
}

/// A child that shares descriptors is a thread; any other is a process, whose files are not followed.
fn shares_files(call: &Call) -> Outcome {
    if call.arguments.iter().any(|argument| argument.contains("CLONE_FILES")) {
        return Ok(());
    }
    Err(unknown("a worker that starts processes cannot be recorded"))
}

fn argument(call: &Call, number: usize) -> Result<&str, Fail> {
    call.arguments.get(number).map(String::as_str).ok_or_else(|| unknown("too few arguments"))
}

fn number(text: &str) -> Result<i64, Fail> {
    let hex = text.strip_prefix("0x").and_then(|digits| i64::from_str_radix(digits, 16).ok());
    let parsed = hex.or_else(|| text.parse().ok());
    parsed.or_else(|| text.parse::<u64>().ok().map(|_| i64::MAX)).ok_or_else(|| unknown("not a number"))
}

/// `NULL`, `[5]` or `[5] => [9]`: what a pointer to an offset pointed to at first.
fn pointed(text: &str) -> Result<Option<u64>, Fail> {
    if text == "NULL" {
        return Ok(None);
    }
    let inner = text.trim_start_matches('[').split(']').next().unwrap_or_default();
    number(inner).map(|offset| Some(unsigned(offset)))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn unknown(text: &str) -> Fail {
    Fail::Unknown(text.to_owned())
}

fn missing(name: &[u8]) -> Fail {
    Fail::Missing(format!("{} is not there", String::from_utf8_lossy(name)))
}
