//! Where the CUDA libraries are that a toolkit, pip or conda installed, and which are missing.
//!
//! The bindings open a library by its bare name. A library that lies elsewhere is opened here first by its full path; the
//! bare name then finds the one that is already in the process.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use libloading::Library as Handle;

use crate::{Error, Result};

/// A library that the engine can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Library {
    /// The compiler. Every kernel needs it, cached ones too: its version is part of their names.
    Nvrtc,
    /// Dense products.
    Cublas,
    /// Dense products with epilogues.
    CublasLt,
    /// Sparse products.
    Cusparse,
}

impl Library {
    /// All of them.
    pub const ALL: [Library; 4] = [Library::Nvrtc, Library::Cublas, Library::CublasLt, Library::Cusparse];

    /// The name without `lib` and ending.
    pub fn name(self) -> &'static str {
        match self {
            Library::Nvrtc => "nvrtc",
            Library::Cublas => "cublas",
            Library::CublasLt => "cublasLt",
            Library::Cusparse => "cusparse",
        }
    }
    /// What else must be in the process, from the same installation, before this one is opened or used.
    fn companions(self) -> &'static [&'static str] {
        match self {
            Library::Nvrtc => &["nvrtc-builtins"],
            Library::Cublas => &["cublasLt"],
            Library::CublasLt => &[],
            Library::Cusparse => &["nvJitLink"],
        }
    }
    /// The pip packages that hold it for CUDA 13.
    fn package(self) -> &'static str {
        match self {
            Library::Nvrtc => "nvidia-cuda-nvrtc",
            Library::Cublas | Library::CublasLt => "nvidia-cublas",
            Library::Cusparse => "nvidia-cusparse",
        }
    }
    /// Whether the bindings find it by its bare name now.
    fn answers(self) -> bool {
        // SAFETY: opening the vendor's library runs its initialisers, which have no preconditions.
        unsafe {
            match self {
                Library::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
                Library::Cublas => cudarc::cublas::sys::is_culib_present(),
                Library::CublasLt => cudarc::cublaslt::sys::is_culib_present(),
                Library::Cusparse => cudarc::cusparse::sys::is_culib_present(),
            }
        }
    }
}

/// Where a library was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// On the system's own search path, or in the process already.
    System,
    /// In this file.
    File(PathBuf),
}

/// Finds and opens a library, once per process; the error is one sentence that says where it was looked for and what to do.
pub fn find(library: Library) -> std::result::Result<&'static Found, &'static str> {
    static FOUND: [OnceLock<std::result::Result<Found, String>>; 4] = [const { OnceLock::new() }; 4];
    let at = Library::ALL.iter().position(|&l| l == library).expect("ALL holds every library");
    FOUND[at].get_or_init(|| search(library)).as_ref().map_err(String::as_str)
}

/// [`find`] as the library's own error.
pub(super) fn require(library: Library) -> Result<()> {
    let missing = |why: &'static str| Error::Cuda { what: format!("lib{}", library.name()), why: why.into() };
    find(library).map(|_| ()).map_err(missing)
}

fn search(library: Library) -> std::result::Result<Found, String> {
    // What the user names comes before what the system has.
    let named = named_folders();
    if let Some(file) = open_in(library, &named) {
        return Ok(Found::File(file));
    }
    if library.answers() {
        return Ok(Found::System);
    }
    for folders in [installed_folders as fn() -> Vec<PathBuf>, python_folders] {
        if let Some(file) = open_in(library, &folders()) {
            return Ok(Found::File(file));
        }
    }
    let name = library.name();
    Err(format!(
        "lib{name}.so of CUDA 12 or 13 is neither on the library path, nor under CUDA_HOME, VIRTUAL_ENV or CONDA_PREFIX, nor \
         among the packages of python3; install the CUDA toolkit or the Python package {}, or set KRONSPARSE_CUDA_PATH to \
         the folder that holds it",
        library.package()
    ))
}

/// Opens the newest such library of the first folder that has a working one, after its companions.
fn open_in(library: Library, folders: &[PathBuf]) -> Option<PathBuf> {
    for folder in folders {
        let Some(file) = newest(folder, library.name()) else { continue };
        for companion in library.companions() {
            // Beside the library, else in any folder of the list: older pip packages have one folder each.
            let candidates = std::iter::once(folder).chain(folders);
            let found = candidates.filter_map(|folder| newest(folder, companion)).next();
            found.map(|file| open(&file));
        }
        if open(&file) && library.answers() {
            return Some(file);
        }
    }
    None
}

/// Opens a library for the rest of the process.
fn open(file: &Path) -> bool {
    // SAFETY: opening the vendor's library runs its initialisers, which have no preconditions.
    match unsafe { Handle::new(file) } {
        // Never closed: the bindings keep pointers into it.
        Ok(handle) => {
            std::mem::forget(handle);
            true
        }
        Err(_) => false,
    }
}

/// The file `libNAME.so` or `libNAME.so.VERSION` of a folder with the highest version.
fn newest(folder: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!("lib{name}.so");
    let version = |file: &OsStr| -> Option<Vec<u32>> {
        let rest = file.to_str()?.strip_prefix(&prefix)?;
        if rest.is_empty() {
            return Some(Vec::new());
        }
        rest.strip_prefix('.')?.split('.').map(|part| part.parse().ok()).collect()
    };
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let versions = entries.filter_map(|entry| Some((version(&entry.file_name())?, entry.path())));
    versions.max().map(|(_, path)| path)
}

/// `KRONSPARSE_CUDA_PATH`: folders separated as in PATH; of libraries, of a toolkit, or of a Python environment.
fn named_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("KRONSPARSE_CUDA_PATH").unwrap_or_default();
    expand(std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()))
}

/// The toolkit's folders, the active Python environment's, and conda's.
fn installed_folders() -> Vec<PathBuf> {
    let variables = ["CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"];
    let usual = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from);
    expand(variables.iter().filter_map(std::env::var_os).map(PathBuf::from).chain(usual))
}

/// The folders of packages that `python3` would import from.
fn python_folders() -> Vec<PathBuf> {
    let mut command = Command::new("python3");
    command.args(["-c", "import sys; print('\\n'.join(sys.path))"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    expand(text.lines().filter(|line| !line.is_empty()).map(PathBuf::from))
}

/// The places under each folder where libraries may lie, in order, each once.
fn expand(roots: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let children = |folder: &Path| -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        // Newest first: `cu13` before `cu12`.
        found.sort_by(|p, q| q.cmp(p));
        found
    };
    let wheels = |packages: &Path| children(&packages.join("nvidia")).into_iter().map(|package| package.join("lib"));
    let (mut seen, mut folders) = (BTreeSet::new(), Vec::new());
    for root in roots {
        let mut all = vec![root.clone(), root.join("lib64"), root.join("lib"), root.join("targets/x86_64-linux/lib")];
        all.extend(wheels(&root));
        let pythons = children(&root.join("lib")).into_iter();
        let pythons =
            pythons.filter(|p| p.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python")));
        all.extend(pythons.flat_map(|python| wheels(&python.join("site-packages")).collect::<Vec<_>>()));
        folders.extend(all.into_iter().filter(|folder| folder.is_dir() && seen.insert(folder.clone())));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_file_of_the_right_name_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.alt.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc.so.9.2"]
        {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        assert_eq!(newest(folder.path(), "nvrtc"), Some(folder.path().join("libnvrtc.so.13")));
        assert_eq!(newest(folder.path(), "nvrtc-builtins"), Some(folder.path().join("libnvrtc-builtins.so.13.0")));
        assert_eq!(newest(folder.path(), "cublas"), None);
        assert_eq!(newest(&folder.path().join("none"), "cublas"), None);
    }

    #[test]
    fn toolkits_and_environments_are_looked_into() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["lib64", "lib/python3.12/site-packages/nvidia/cu13/lib", "nvidia/cublas/lib", "nvidia/include"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        let found = expand([root.path().to_owned(), root.path().to_owned()]);
        let expected = ["", "lib64", "lib", "nvidia/cublas/lib", "lib/python3.12/site-packages/nvidia/cu13/lib"];
        assert_eq!(
            found.iter().map(|p| p.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn a_file_that_is_no_library_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libcusparse.so.12"), b"not an ELF file").unwrap();
        assert_eq!(open_in(Library::Cusparse, &[folder.path().to_owned()]), None);
    }
}
