//! A worker that changes its folder in every way that the recorder models. The recorder compares what it recorded
//! with what lies on the disk, so a call that it misunderstands is an error.

use std::fs::File;
use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use persist_testkit::crash::Subject;
use persist_testkit::crash::protocol::Line;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags, copy_file_range,
    fallocate, fremovexattr, fsetxattr, linkat, lsetxattr, mkdirat, open, openat, openat2, removexattr,
    renameat, renameat_with, setxattr, symlinkat, unlinkat,
};
use rustix::io::{ReadWriteFlags, dup, pwritev, pwritev2};

/// Makes every change.
pub(crate) fn zoo() -> Subject {
    let work = |root: &Path| -> std::io::Result<()> {
        std::fs::create_dir(root)?;
        names(root)?;
        bytes(root)?;
        attributes(root)?;
        Ok(())
    };
    subject("zoo", work)
}

/// Starts a process, which the recorder must refuse: it would not see what that does.
pub(crate) fn forking() -> Subject {
    subject("forking", |_| Command::new("true").status().map(drop))
}

fn subject(name: &str, work: impl Fn(&Path) -> std::io::Result<()> + Send + Sync + 'static) -> Subject {
    Subject::custom(
        name,
        move |plan, acks| {
            acks.tell(&Line::Opened);
            work(&plan.root).map_err(|error| error.to_string())?;
            acks.tell(&Line::Done);
            Ok(())
        },
        |_, _| Vec::new(),
    )
}

fn names(root: &Path) -> std::io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    let folder = open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    mkdirat(&folder, "sub", Mode::RWXU)?;
    let sub = openat2(&folder, "sub", OFlags::RDONLY, Mode::empty(), ResolveFlags::BENEATH)?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    File::from(openat(&sub, "one", create, mode)?).write_all(b"one")?;
    File::from(openat2(&folder, "sub/two", create, mode, ResolveFlags::NO_SYMLINKS)?).write_all(b"two")?;
    renameat_with(&sub, "one", &folder, "two", RenameFlags::NOREPLACE)?;
    renameat_with(&sub, "two", &folder, "two", RenameFlags::EXCHANGE)?;
    renameat(&folder, "two", &sub, "two")?;
    symlinkat("sub", &folder, "link")?;
    File::create(root.join("link/through"))?.write_all(b"through a link")?;
    std::fs::hard_link(root.join("sub/two"), root.join("hard"))?;
    unlinkat(&folder, "sub/two", AtFlags::empty())?;
    let unnamed = openat(&folder, ".", OFlags::TMPFILE | OFlags::RDWR, mode)?;
    let mut unnamed = File::from(unnamed);
    unnamed.write_all(b"unnamed")?;
    let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&unnamed));
    linkat(CWD, descriptor, &folder, "named", AtFlags::SYMLINK_FOLLOW)?;
    std::fs::create_dir_all(root.join("a/b/c"))?;
    std::fs::rename(root.join("a/b"), root.join("moved"))?;
    std::fs::remove_dir(root.join("a"))?;
    std::fs::write(root.join("gone"), b"gone")?;
    std::fs::remove_file(root.join("gone"))
}

fn bytes(root: &Path) -> std::io::Result<()> {
    let mut file =
        File::options().create(true).truncate(true).read(true).write(true).open(root.join("bytes"))?;
    file.write_all(b"0123456789")?;
    file.seek(SeekFrom::Start(3))?;
    file.read_exact(&mut [0; 2])?;
    let mut twin = File::from(dup(&file)?);
    twin.write_all(b"at five")?;
    file.write_all(b"after the twin")?;
    file.write_at(b"positioned", 40)?;
    pwritev(&file, &[IoSlice::new(b"two "), IoSlice::new(b"parts")], 60)?;
    pwritev2(&file, &[IoSlice::new(b"durable")], 80, ReadWriteFlags::DSYNC)?;
    let vectors = file.write_vectored(&[IoSlice::new(b"vec"), IoSlice::new(b"tors")])?;
    assert_eq!(vectors, 7);
    let mut appended = File::options().append(true).open(root.join("bytes"))?;
    appended.write_all(b"the end")?;
    let target = File::create(root.join("copied"))?;
    copy_file_range(&file, Some(&mut 5), &target, None, 20)?;
    copy_file_range(&file, Some(&mut 40), &target, Some(&mut 100), 10)?;
    std::fs::copy(root.join("bytes"), root.join("copied whole"))?;
    target.set_len(50)?;
    fallocate(&target, FallocateFlags::empty(), 0, 4096)?;
    fallocate(&target, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4, 4)?;
    fallocate(&target, FallocateFlags::KEEP_SIZE, 0, 1 << 16)?;
    File::options().write(true).truncate(true).open(root.join("copied whole"))?;
    target.sync_all()?;
    file.sync_data()?;
    Ok(rustix::fs::syncfs(&file)?)
}

fn attributes(root: &Path) -> std::io::Result<()> {
    let file = File::options().write(true).open(root.join("bytes"))?;
    fsetxattr(&file, "user.one", b"1\0\xff", XattrFlags::empty())?;
    fsetxattr(&file, "user.two", b"2", XattrFlags::CREATE)?;
    fsetxattr(&file, "user.two", b"", XattrFlags::REPLACE)?;
    setxattr(root.join("link/through"), "user.path", b"path", XattrFlags::empty())?;
    lsetxattr(root.join("moved"), "user.folder", b"folder", XattrFlags::empty())?;
    setxattr(root.join("moved"), "user.removed", b"x", XattrFlags::empty())?;
    removexattr(root.join("moved"), "user.removed")?;
    fsetxattr(&file, "user.removed", b"x", XattrFlags::empty())?;
    Ok(fremovexattr(&file, "user.removed")?)
}
