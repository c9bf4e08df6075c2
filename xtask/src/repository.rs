//! The repository's root and its text files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text file under version control, or about to be.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Path from the root, with `/` between its parts.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
}

impl File {
    /// The part after the last dot of the file's name; empty where there is none.
    pub(crate) fn extension(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or("", |(stem, extension)| if stem.is_empty() { "" } else { extension })
    }
    /// Whether it is a script by its first line.
    pub(crate) fn is_script(&self) -> bool {
        self.text.starts_with("#!/")
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file that git tracks or would add. Files that are not UTF-8 are left out.
pub(crate) fn files() -> Result<Vec<File>, String> {
    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .map_err(|e| format!("cannot run git to list the files: {e}"))?;
    if !list.status.success() {
        return Err(format!("git ls-files failed: {}", String::from_utf8_lossy(&list.stderr).trim()));
    }
    let mut paths: Vec<&str> = std::str::from_utf8(&list.stdout)
        .map_err(|e| format!("a file name is not UTF-8: {e}"))?
        .split('\0')
        .filter(|path| !path.is_empty())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let read = |path: &str| {
        // A file that was removed but not yet from the index cannot be read, and is no longer ours.
        let bytes = fs::read(root().join(path)).ok()?;
        Some(File { path: path.to_owned(), text: String::from_utf8(bytes).ok()? })
    };
    let files: Vec<File> = paths.into_iter().filter_map(read).collect();
    if files.is_empty() { Err("git lists no files".into()) } else { Ok(files) }
}
