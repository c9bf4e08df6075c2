//! What a GPU machine without Rust needs: test programs, the command, cases, definitions, and a script that runs them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::repository;

/// What may be sent to such a machine in one piece.
const LARGEST: u64 = 60 << 20;

/// A line of `cargo --message-format=json` that tells of a finished program.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds `bundle/`: `bin.tar.gz` (stripped programs), `testdata/`, `benchmarks/`, `run.sh`.
pub(crate) fn run() -> Result<String, String> {
    let root = repository::root();
    let folder = root.join("bundle");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("bundle: cannot be removed: {e}"))?;
    }
    let programs = folder.join("bin");
    fs::create_dir_all(programs.join("tests")).map_err(|e| format!("bundle/bin: cannot be made: {e}"))?;

    let tests = build(&["test", "--no-run", "--locked", "--package", "kronsparse", "--package", "kronsparse-bench"])?;
    for (name, file) in &tests {
        take(file, &programs.join("tests").join(name))?;
    }
    let command = build(&["build", "--release", "--locked", "--package", "kronsparse-cli"])?;
    let [(_, file)] = &command[..] else {
        return Err(format!("expected one program from kronsparse-cli, found {}", command.len()));
    };
    take(file, &programs.join("kronsparse"))?;

    copy_folder(&root.join("testdata"), &folder.join("testdata"))?;
    copy_folder(&root.join("benchmarks"), &folder.join("benchmarks"))?;
    pack(&folder)?;
    let script = folder.join("run.sh");
    fs::write(&script, include_str!("bundle.sh")).map_err(|e| format!("bundle/run.sh: {e}"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).map_err(|e| format!("bundle/run.sh: {e}"))?;
    }
    let bytes = size(&folder)?;
    if bytes > LARGEST {
        return Err(format!("bundle: {} MiB, at most {} are allowed", bytes >> 20, LARGEST >> 20));
    }
    Ok(format!("bundle: {} test programs and the command, {} MiB", tests.len(), bytes >> 20))
}

/// Runs cargo and returns the programs that it built, by the name of their target.
fn build(arguments: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let line = format!("cargo {}", arguments.join(" "));
    println!("== {line}");
    let mut child = Command::new(cargo)
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics", "--quiet"])
        .current_dir(repository::root())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run {line}: {e}"))?;
    let output = child.stdout.take().ok_or("cargo has no output")?;
    let mut programs = Vec::new();
    for text in BufReader::new(output).lines() {
        let text = text.map_err(|e| format!("{line}: {e}"))?;
        // Other messages have other fields; only finished programs have an executable.
        let Ok(Artifact { reason, target: Some(target), executable: Some(file) }) = serde_json::from_str(&text) else {
            continue;
        };
        if reason == "compiler-artifact" {
            programs.push((target.name, file));
        }
    }
    let status = child.wait().map_err(|e| format!("{line}: {e}"))?;
    if !status.success() {
        return Err(format!("`{line}` failed: {status}"));
    }
    let mut names: Vec<&String> = programs.iter().map(|(name, _)| name).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{line}: two programs are called {}", pair[0])),
        None => Ok(programs),
    }
}

/// Copies a program and strips it of what only a debugger reads.
fn take(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map_err(|e| format!("{}: cannot be copied: {e}", from.display()))?;
    command("strip", &[to])
}

/// `bin/` becomes `bin.tar.gz`: a third of the size.
fn pack(folder: &Path) -> Result<(), String> {
    let (archive, bin) = (folder.join("bin.tar.gz"), folder.join("bin"));
    command("tar", &[Path::new("-czf"), &archive, Path::new("-C"), folder, Path::new("bin")])?;
    fs::remove_dir_all(bin).map_err(|e| format!("bundle/bin: cannot be removed: {e}"))
}

fn command(name: &str, arguments: &[&Path]) -> Result<(), String> {
    let status = Command::new(name).args(arguments).status().map_err(|e| format!("cannot run {name}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name} failed: {status}")) }
}

/// Copies what is of use on another machine: no caches of Python, no environments.
fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{}: {e}", from.display());
    fs::create_dir_all(to).map_err(fail)?;
    for entry in fs::read_dir(from).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "__pycache__" {
            continue;
        }
        if path.is_dir() {
            copy_folder(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name)).map_err(fail)?;
        }
    }
    Ok(())
}

fn size(folder: &Path) -> Result<u64, String> {
    let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        bytes += if path.is_dir() { size(&path)? } else { fs::metadata(&path).map_err(fail)?.len() };
    }
    Ok(bytes)
}
