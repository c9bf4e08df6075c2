//! Writing a file so that it is either complete or as it was before.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::wrong;
use crate::{Error, Result};

/// Lets `content` write a temporary sibling of `path`, flushes it to the disk, and renames it to `path`.
///
/// On any error, that of `content` included, the sibling is removed and `path` stays as it was. A symbolic link is
/// followed; the permissions of an existing file are kept. Something that is no regular file is refused.
pub(super) fn write(path: &Path, content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    let fail = |source| Error::Io { path: path.into(), action: "write", source };
    let existing = match fs::metadata(path) {
        Ok(kind) if !kind.is_file() => {
            let what = if kind.is_dir() { "a folder" } else { "a device, a pipe or the like" };
            return Err(wrong(path, format!("cannot be replaced: expected a regular file or none, found {what}")));
        }
        Ok(kind) => Some(kind.permissions()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(fail(e)),
    };
    let target: PathBuf = if existing.is_some() { fs::canonicalize(path).map_err(fail)? } else { path.into() };
    let Some(name) = target.file_name() else {
        return Err(wrong(path, "expected the name of a file"));
    };
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };

    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        // What a plain creation would ask for; the umask applies. The default would be private to the owner.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let sibling = builder.tempfile_in(folder).map_err(fail)?;
    if let Some(permissions) = existing {
        sibling.as_file().set_permissions(permissions).map_err(fail)?;
    }
    let mut out = BufWriter::with_capacity(1 << 20, sibling.as_file());
    content(&mut out).map_err(fail)?;
    out.flush().map_err(fail)?;
    drop(out);
    sibling.as_file().sync_all().map_err(fail)?;
    sibling.persist(&target).map_err(|e| fail(e.error))?;
    // The rename itself reaches the disk with the folder. Not every file system can do that, and the content is safe.
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|f| f.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_that_fails_half_way_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        let fail_half_way = |out: &mut BufWriter<&File>| {
            out.write_all(&vec![1; 3 << 20])?;
            Err(io::Error::other("the disk is full"))
        };
        let message = write(&path, fail_half_way).unwrap_err().to_string();
        assert!(message.contains("out.bin: cannot write: the disk is full"), "{message}");
        assert!(names(folder.path()).is_empty());

        write(&path, |out| out.write_all(b"old")).unwrap();
        write(&path, fail_half_way).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out.bin"]);
    }

    #[test]
    fn a_panic_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        let result = std::panic::catch_unwind(|| write(&path, |_| panic!("on purpose")));
        assert!(result.is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let message = write(folder.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains("found a folder"), "{message}");
        let message = write(&folder.path().join("none/out.bin"), |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains("cannot write"), "{message}");
        #[cfg(unix)]
        {
            let message = write(Path::new("/dev/null"), |_| Ok(())).unwrap_err().to_string();
            assert!(message.contains("a device"), "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_permissions_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, b"old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&real, &link).unwrap();
        write(&link, |out| out.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
