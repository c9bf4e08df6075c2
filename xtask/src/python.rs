//! The Python package: both of its parts formatted and linted, the wheel built as users would, installed apart, and tested by pytest;
//! the documentation built from it by Sphinx.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository;

/// Where the manifest of the extension module is.
const MANIFEST: &str = "python/Cargo.toml";

/// Runs all of it; without an interpreter it says so and runs nothing.
pub(crate) fn run() -> Result<String, String> {
    let Some(python) = env::var_os("KRONSPARSE_PYTHON") else {
        return Ok("python: NOT RUN: KRONSPARSE_PYTHON names no interpreter with the packages of \
                   .ci/python-requirements.txt; .ci/run makes one"
            .into());
    };
    let python = Path::new(&python);
    let target = match env::var_os("KRONSPARSE_PYTHON_TARGET") {
        Some(folder) => PathBuf::from(folder),
        None => repository::root().join("target/python"),
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let own = [("CARGO_TARGET_DIR", target.as_os_str()), ("PYO3_PYTHON", python.as_os_str())];
    run_command(python, &["-m", "ruff", "format", "--check", "--quiet", "--no-cache"], &[])?;
    run_command(python, &["-m", "ruff", "check", "--quiet", "--no-cache"], &[])?;
    run_command(&cargo, &["fmt", "--manifest-path", MANIFEST, "--check"], &own)?;
    run_command(&cargo, &["clippy", "--manifest-path", MANIFEST, "--locked", "--", "-D", "warnings"], &own)?;

    let folder = Temporary::new()?;
    let wheels = folder.path.join("wheel");
    let wheels = wheels.to_str().ok_or("the temporary folder's name is not UTF-8")?;
    run_command(python, &["-m", "maturin", "build", "--quiet", "--locked", "--out", wheels], &own)?;
    let wheel = fs::read_dir(wheels).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path()).next();
    let wheel = wheel.ok_or("maturin built no wheel")?;
    let site = folder.path.join("site");
    let install =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target"];
    let mut install: Vec<&OsStr> = install.map(OsStr::new).to_vec();
    install.extend([site.as_os_str(), wheel.as_os_str()]);
    run_command(python, &install, &[])?;

    // The installed package is tested, not the sources beside it; nothing is written into the repository.
    let environment = [("PYTHONPATH", site.as_os_str()), ("PYTHONDONTWRITEBYTECODE", OsStr::new("1"))];
    run_command(python, &["-m", "pytest", "-q", "-p", "no:cacheprovider"], &environment)?;
    let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("python: {name} passes\n{}", documentation(python, &site)?))
}

/// Builds `docs/` with the installed package; a warning, such as a link that leads nowhere, is an error.
fn documentation(python: &Path, site: &Path) -> Result<String, String> {
    let Some(builder) = env::var_os("KRONSPARSE_SPHINX") else {
        return Ok("documentation: NOT BUILT: KRONSPARSE_SPHINX names no folder with the packages of \
                   .ci/python-docs-requirements.txt; .ci/run makes one"
            .into());
    };
    let path = env::join_paths([site, Path::new(&builder)]).map_err(|e| format!("KRONSPARSE_SPHINX: {e}"))?;
    let environment = [("PYTHONPATH", path.as_os_str()), ("PYTHONDONTWRITEBYTECODE", OsStr::new("1"))];
    let (output, kept) = ("target/docs/html", "target/docs/kept");
    // Anew each time (-E): what the docstrings say is not among what Sphinx looks at for changes.
    let build = ["-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html", "-d", kept, "docs", output];
    run_command(python, &build, &environment)?;
    Ok(format!("documentation: {output}/index.html"))
}

fn run_command<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: &[A],
    environment: &[(&str, &OsStr)],
) -> Result<(), String> {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).current_dir(repository::root()).envs(environment.iter().copied());
    let shown = format!("{command:?}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown} failed: {status}")),
        Err(why) => Err(format!("cannot run {shown}: {why}")),
    }
}

/// A folder of this process that is removed at the end.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn new() -> Result<Temporary, String> {
        let path = env::temp_dir().join(format!("kronsparse-python-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Temporary { path })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left is in a temporary folder.
        let _ = fs::remove_dir_all(&self.path);
    }
}
