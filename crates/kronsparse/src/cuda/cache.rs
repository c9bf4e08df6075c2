//! Compiled kernels on the disk: named by content, published by rename, verified on load.
//!
//! The name of an entry is a hash of all that the compiler reads: its version, the options, the embedded headers and the
//! source. An entry also holds these, and a checksum of what was compiled; one that does not match in every byte is
//! compiled anew. A folder that cannot be used costs compile time, nothing else.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::compile::{self, Cubin};
use super::source::HEADERS;
use crate::Result;
use crate::io::make_private;

/// Opens every entry; changes with the format.
const MAGIC: &[u8] = b"kronsparse kernel 1\n";
/// Larger files are no entries.
const LARGEST: u64 = 256 << 20;

/// All that a compiled kernel depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of NVRTC, major and minor.
    pub compiler: (i32, i32),
    /// Its options, the architecture among them.
    pub options: Vec<String>,
    /// Hash of the names and contents of the embedded headers.
    pub headers: String,
    /// The source.
    pub source: String,
}

/// Hash of all that the kernels of an architecture have in common: headers and the compiler's options.
pub(super) fn kernels(architecture: &str) -> String {
    let options = compile::options(architecture);
    hash(std::iter::once(headers().as_bytes()).chain(options.iter().map(String::as_bytes)))
}

/// Hash of the names and contents of the embedded headers.
fn headers() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash(HEADERS.iter().flat_map(|(name, content)| [name.as_bytes(), content.as_bytes()])))
}

impl Manifest {
    /// For `source`, the embedded headers and the NVRTC of this machine.
    pub fn new(source: &str, architecture: &str) -> Result<Manifest> {
        Ok(Manifest {
            compiler: compile::version()?,
            options: compile::options(architecture),
            headers: headers().into(),
            source: source.into(),
        })
    }

    /// The entry's name: 256 bits in hexadecimal digits.
    pub fn key(&self) -> String {
        let Manifest { compiler, options, headers, source } = self;
        let version = format!("{}.{}", compiler.0, compiler.1);
        let parts = [version.as_bytes(), headers.as_bytes(), source.as_bytes()];
        hash(parts.into_iter().chain(options.iter().map(String::as_bytes)))
    }
}

/// SHA-256 of byte strings, each preceded by its length so that no two lists run together.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut state = Sha256::new();
    for part in parts {
        state.update((part.len() as u64).to_le_bytes());
        state.update(part);
    }
    state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an entry holds between its first line and the cubin, as one line of JSON.
#[derive(Serialize, Deserialize)]
struct Head {
    manifest: Manifest,
    log: String,
    bytes: u64,
    checksum: String,
}

/// A folder of compiled kernels, or none.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The folder `KRONSPARSE_CACHE`, or the platform's cache folder for this user; none where `KRONSPARSE_CACHE` is empty.
    pub fn of_user() -> Cache {
        Cache { folder: folder() }
    }
    /// In a given folder, made when the first kernel is stored. One that others than its owner can write is not used.
    pub fn at(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: Some(folder.into()) }
    }

    /// The kernel from the folder, or compiled now and stored; the second says whether it was compiled.
    pub fn compile(&self, source: &str, architecture: &str) -> Result<(Cubin, bool)> {
        let manifest = Manifest::new(source, architecture)?;
        if let Some(cubin) = self.load(&manifest) {
            return Ok((cubin, false));
        }
        let cubin = compile::compile(source, architecture)?;
        self.store(&manifest, &cubin);
        Ok((cubin, true))
    }

    /// The stored kernel, if there is one and every byte of it is right.
    pub fn load(&self, manifest: &Manifest) -> Option<Cubin> {
        let folder = self.folder.as_deref().filter(|folder| is_private(folder))?;
        let mut file = fs::File::open(folder.join(manifest.key())).ok()?;
        let size = file.metadata().ok().filter(|kind| kind.is_file() && kind.len() <= LARGEST)?.len();
        let mut content = Vec::with_capacity(size as usize);
        file.read_to_end(&mut content).ok()?;
        let rest = content.strip_prefix(MAGIC)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let head: Head = serde_json::from_slice(&rest[..end]).ok()?;
        let bytes = &rest[end + 1..];
        let right = head.manifest == *manifest
            && head.bytes == bytes.len() as u64
            && head.checksum == hash([bytes, head.log.as_bytes()]);
        right.then(|| Cubin { bytes: bytes.to_vec(), log: head.log })
    }

    /// Stores a kernel for the next process; says whether that worked. Another process that stores the same one at the
    /// same time does no harm: each writes a file of its own, and the last rename wins.
    pub fn store(&self, manifest: &Manifest, cubin: &Cubin) -> bool {
        self.folder.as_deref().is_some_and(|folder| write(folder, manifest, cubin).is_some())
    }
}

fn write(folder: &Path, manifest: &Manifest, cubin: &Cubin) -> Option<()> {
    // An error shows when the folder is asked for.
    let _ = make_private(folder);
    if !is_private(folder) {
        return None;
    }
    let head = Head {
        manifest: manifest.clone(),
        log: cubin.log.clone(),
        bytes: cubin.bytes.len() as u64,
        checksum: hash([&cubin.bytes[..], cubin.log.as_bytes()]),
    };
    // Private to the owner by default, and removed again unless it is renamed.
    let mut file = tempfile::Builder::new().prefix(".kernel").tempfile_in(folder).ok()?;
    file.write_all(MAGIC).ok()?;
    file.write_all(&serde_json::to_vec(&head).ok()?).ok()?;
    file.write_all(b"\n").ok()?;
    file.write_all(&cubin.bytes).ok()?;
    file.as_file().sync_all().ok()?;
    file.persist(folder.join(manifest.key())).ok()?;
    Some(())
}

/// Where compiled kernels are kept: `KRONSPARSE_CACHE`, else the platform's cache folder of this user. `None` where the
/// variable is empty or the user has no home folder.
pub fn folder() -> Option<PathBuf> {
    match std::env::var_os("KRONSPARSE_CACHE") {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.into()),
        None => directories::ProjectDirs::from("", "", "kronsparse").map(|dirs| dirs.cache_dir().join("kernels")),
    }
}

/// Whether this user alone can change the folder's content: machine code from it will be run.
#[cfg(unix)]
fn is_private(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    unsafe extern "C" {
        // SAFETY: it takes nothing, cannot fail and changes nothing.
        safe fn geteuid() -> u32;
    }
    fs::symlink_metadata(folder).is_ok_and(|kind| kind.is_dir() && kind.uid() == geteuid() && kind.mode() & 0o022 == 0)
}

/// The platform's cache folder is the user's own.
#[cfg(not(unix))]
fn is_private(folder: &Path) -> bool {
    folder.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(source: &str) -> Manifest {
        let options = compile::options("sm_90a");
        Manifest { compiler: (13, 0), options, headers: hash([&b"headers"[..]]), source: source.into() }
    }

    fn cubin(seed: u8) -> Cubin {
        let bytes = (0..5000u32).map(|k| (k as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        Cubin { bytes, log: format!("Used {seed} registers\nsecond line") }
    }

    #[test]
    fn every_part_of_the_manifest_is_in_the_key() {
        let base = manifest("kernel");
        let mut others = vec![base.clone(); 4];
        others[0].compiler.1 = 1;
        others[1].options[0].push('x');
        others[2].headers.push('0');
        others[3].source.push(' ');
        // Moving a letter from one part to the next is another list.
        let mut moved = base.clone();
        moved.options = vec!["ab".into(), "c".into()];
        let mut split = base.clone();
        split.options = vec!["a".into(), "bc".into()];
        let keys: std::collections::BTreeSet<String> =
            others.iter().chain([&base, &moved, &split]).map(Manifest::key).collect();
        assert_eq!(keys.len(), 7);
        assert!(keys.iter().all(|key| key.len() == 64));
    }

    #[test]
    fn what_was_stored_is_loaded_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("deep/kernels"));
        assert_eq!(cache.load(&manifest("a")), None);
        assert!(cache.store(&manifest("a"), &cubin(1)));
        assert!(cache.store(&manifest("b"), &cubin(2)));
        assert_eq!(cache.load(&manifest("a")), Some(cubin(1)));
        assert_eq!(cache.load(&manifest("b")), Some(cubin(2)));
        assert_eq!(cache.load(&manifest("c")), None);
    }

    #[test]
    fn a_damaged_or_foreign_entry_is_a_miss_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("kernels"));
        let entry = folder.path().join("kernels").join(manifest("a").key());
        assert!(cache.store(&manifest("a"), &cubin(1)));
        let good = fs::read(&entry).unwrap();
        // Any single byte, and any length: in the first line, the manifest, the log and the cubin.
        for at in (0..good.len()).step_by(97).chain([0, 19, 20, good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&entry, &bad).unwrap();
            assert_eq!(cache.load(&manifest("a")), None, "byte {at}");
            fs::write(&entry, &good[..at]).unwrap();
            assert_eq!(cache.load(&manifest("a")), None, "cut at {at}");
        }
        fs::write(&entry, [&good[..], b"x"].concat()).unwrap();
        assert_eq!(cache.load(&manifest("a")), None);
        // An entry of another kernel under this name.
        assert!(cache.store(&manifest("b"), &cubin(2)));
        fs::copy(folder.path().join("kernels").join(manifest("b").key()), &entry).unwrap();
        assert_eq!(cache.load(&manifest("a")), None);
        assert!(cache.store(&manifest("a"), &cubin(1)));
        assert_eq!(cache.load(&manifest("a")), Some(cubin(1)));
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_or_write_and_an_open_folder_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = tempfile::tempdir().unwrap();
        let kernels = folder.path().join("kernels");
        let cache = Cache::at(&kernels);
        assert!(cache.store(&manifest("a"), &cubin(1)));
        assert_eq!(mode(&kernels), 0o700);
        assert_eq!(mode(&kernels.join(manifest("a").key())), 0o600);
        for open in [0o770, 0o702] {
            fs::set_permissions(&kernels, fs::Permissions::from_mode(open)).unwrap();
            assert_eq!(cache.load(&manifest("a")), None, "{open:o}");
            assert!(!cache.store(&manifest("b"), &cubin(2)), "{open:o}");
        }
        fs::set_permissions(&kernels, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(cache.load(&manifest("a")), Some(cubin(1)));
        // A link is not followed to a folder that the owner did not name.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&kernels, &link).unwrap();
        assert_eq!(Cache::at(&link).load(&manifest("a")), None);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let cache = Cache::at(file.join("kernels"));
        assert!(!cache.store(&manifest("a"), &cubin(1)));
        assert_eq!(cache.load(&manifest("a")), None);
        let none = Cache { folder: None };
        assert!(!none.store(&manifest("a"), &cubin(1)));
        assert_eq!(none.load(&manifest("a")), None);
    }

    #[test]
    fn many_writers_and_readers_never_see_half_an_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("kernels"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..50 {
                        let name = format!("kernel {}", round % 5);
                        assert!(cache.store(&manifest(&name), &cubin(round % 5)));
                        assert_eq!(cache.load(&manifest(&name)), Some(cubin(round % 5)));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path().join("kernels")).unwrap().count(), 5);
    }
}
