//! From kernel sources to a program of this machine: one translation unit, compiled by the system's C++ compiler, kept by content.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The kernels' files by name, `emulator/…` among them; a test may change their text.
pub(crate) type Files = BTreeMap<String, String>;

/// A generated source and the name under which a launch finds its kernel.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A compiled program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
}

const STANDARD: [&str; 6] =
    ["-std=c++17", "-DKS_EMULATED", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", "-ffp-contract=off", "-w"];
/// The emulator's own files, compiled once.
const CORE: [&str; 5] = ["schedule", "memory", "tensor", "engine", "program"];

/// The files of `kernels/` as they are.
pub(crate) fn files() -> Files {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut files = Files::new();
    for (folder, prefix) in [(root.clone(), ""), (root.join("emulator"), "emulator/")] {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_file() {
                let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                files.insert(format!("{prefix}{name}"), text);
            }
        }
    }
    files
}

/// The C++ compiler: `CXX` where it is set, else the first of c++, g++, clang++ that answers; with its version.
pub(crate) fn compiler() -> &'static (String, String) {
    static FOUND: OnceLock<Result<(String, String), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let set = std::env::var("CXX").ok().filter(|name| !name.is_empty());
        let names = set.map_or_else(|| ["c++", "g++", "clang++"].map(String::from).to_vec(), |name| vec![name]);
        for name in &names {
            if let Ok(output) = Command::new(name).arg("--version").output()
                && output.status.success()
            {
                return Ok((name.clone(), String::from_utf8_lossy(&output.stdout).into_owned()));
            }
        }
        Err(format!(
            "the emulator tests run the CUDA kernels on the host and need a C++17 compiler: none of {} can be run. Install \
             g++ or clang++, or set CXX",
            names.join(", ")
        ))
    });
    found.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// Compiles `sources` together with the emulator, or finds the program that was compiled from the same texts before.
pub(crate) fn program(sources: &[Source], files: &Files) -> Result<Program, String> {
    let objects = core(files)?;
    let text = translation_unit(sources);
    let mut parts = vec![compiler().1.as_str(), &text, "-O1"];
    parts.extend(STANDARD);
    parts.extend(files.iter().flat_map(|(name, text)| [name.as_str(), text.as_str()]));
    let path = kept(&format!("kernels-{}", digest(&parts)));
    if !path.exists() {
        let folder = scratch(files);
        write(&folder.join("unit.cpp"), &text);
        let made = folder.join("program");
        let mut command = Command::new(&compiler().0);
        command
            .args(STANDARD)
            .args(["-O1", "-I", "emulator", "-I", ".", "unit.cpp"])
            .args(&objects)
            .arg("-o")
            .arg(&made);
        let result = run(command.current_dir(&folder));
        if result.is_ok() {
            fs::rename(&made, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        let _ = fs::remove_dir_all(&folder);
        result?;
    }
    Ok(Program { path })
}

/// The emulator's object files.
fn core(files: &Files) -> Result<Vec<PathBuf>, String> {
    let used = |name: &&String| name.starts_with("emulator/") || ["ptx.cuh", "args.cuh"].contains(&name.as_str());
    let mut parts = vec![compiler().1.as_str(), "-O2"];
    parts.extend(STANDARD);
    parts.extend(files.keys().filter(used).flat_map(|name| [name.as_str(), files[name].as_str()]));
    let key = digest(&parts);
    let objects: Vec<PathBuf> = CORE.iter().map(|name| kept(&format!("{name}-{key}.o"))).collect();
    // Two tests at once would compile the same files.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !objects.iter().all(|path| path.exists()) {
        let folder = scratch(files);
        let one = &|name: &str| {
            let object = format!("{name}.o");
            let mut command = Command::new(&compiler().0);
            command.args(STANDARD).args(["-O2", "-I", "emulator", "-c"]).arg(format!("emulator/{name}.cpp"));
            run(command.args(["-o", &object]).current_dir(&folder))
        };
        let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let threads = CORE.map(|name| scope.spawn(move || one(name)));
            threads.map(|thread| thread.join().expect("no panic in a compiler's thread")).into()
        });
        for (result, (name, path)) in results.into_iter().zip(CORE.iter().zip(&objects)) {
            result?;
            fs::rename(folder.join(format!("{name}.o")), path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        let _ = fs::remove_dir_all(&folder);
    }
    Ok(objects)
}

/// All sources, each in its own namespace. What they define and include comes first, where it belongs to no namespace.
fn translation_unit(sources: &[Source]) -> String {
    let mut head: Vec<&str> = Vec::new();
    for start in ["#define ", "#include "] {
        for line in sources.iter().flat_map(|source| source.text.lines()).filter(|line| line.starts_with(start)) {
            if !head.contains(&line) {
                head.push(line);
            }
        }
    }
    let mut text = head.join("\n") + "\n#include \"emulator/program.h\"\n";
    for (at, source) in sources.iter().enumerate() {
        text += &format!("namespace kernel_{at} {{\n{}\n}}\n", source.text);
    }
    text += "const std::vector<ks::emulated::Registered> ks::emulated::registered = {\n";
    for (at, source) in sources.iter().enumerate() {
        let name = &source.name;
        text += &format!(
            "  {{\"{name}\", kernel_{at}::launch_threads, kernel_{at}::launch_blocks, ks::emulated::entry(kernel_{at}::kronsparse)}},\n"
        );
    }
    text + "};\n"
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot run {}: {e}", compiler().0))?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<&str> =
        log.lines().filter(|line| line.contains("error") || line.contains("undefined")).take(12).collect();
    Err(format!("does not compile: {}", if errors.is_empty() { log } else { errors.join("\n") }))
}

fn root() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

fn kept(name: &str) -> PathBuf {
    root().join(name)
}

/// A fresh folder with the files in it.
pub(crate) fn scratch(files: &Files) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("scratch-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = root().join(name);
    fs::create_dir_all(folder.join("emulator")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    files.iter().for_each(|(name, text)| write(&folder.join(name), text));
    folder
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// FNV-1a with 128 bits over length-prefixed texts.
fn digest(parts: &[&str]) -> String {
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let mut eat = |bytes: &[u8]| {
        bytes.iter().for_each(|&b| hash = (hash ^ u128::from(b)).wrapping_mul(0x0100_0000_0000_0000_0000_013B))
    };
    for part in parts {
        eat(&(part.len() as u64).to_le_bytes());
        eat(part.as_bytes());
    }
    format!("{hash:032x}")
}
