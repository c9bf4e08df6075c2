//! The licence and the source of every dependency, against `deny.toml`: what cargo-deny checks, without installing it.

use std::fs;
use std::process::Command;

use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};

use crate::repository;

/// The parts of `deny.toml` that are checked here.
#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// What cargo says of the dependencies.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Clone, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// Absent for the workspace's own packages.
    source: Option<String>,
}

/// Checks all packages of the workspace and of the Python package's, for every target; the error lists all findings.
pub(crate) fn run() -> Result<String, String> {
    let deny = repository::root().join("deny.toml");
    let policy = fs::read_to_string(&deny).map_err(|e| format!("deny.toml: {e}"))?;
    let policy: Policy = toml::from_str(&policy).map_err(|e| format!("deny.toml: {e}"))?;
    let mut packages: Vec<Package> = Vec::new();
    for manifest in ["Cargo.toml", "python/Cargo.toml"] {
        for package in metadata(manifest)?.packages {
            if !packages.iter().any(|known| known.name == package.name && known.version == package.version) {
                packages.push(package);
            }
        }
    }
    let findings = check(&policy, &packages)?;
    match findings.len() {
        0 => Ok(format!("licences: {} packages", packages.len())),
        count => Err(format!("{}\nlicences: {count} findings", findings.join("\n"))),
    }
}

/// The packages of the workspace whose manifest this is.
fn metadata(manifest: &str) -> Result<Metadata, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--quiet", "--manifest-path", manifest])
        .current_dir(repository::root())
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata of {manifest} failed: {}", why.trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata of {manifest}: {e}"))
}

fn check(policy: &Policy, packages: &[Package]) -> Result<Vec<String>, String> {
    let allowed = policy.licenses.allow.iter().map(|text| Licensee::parse(text).map_err(|e| e.to_string()));
    let allowed: Vec<Licensee> = allowed.collect::<Result<_, _>>()?;
    let registry = packages.iter().filter_map(|p| p.source.as_deref()).find(|source| source.starts_with("registry+"));
    let mut findings = Vec::new();
    for package in packages {
        let Package { name, version, license, source } = package;
        let mut add = |what: String| findings.push(format!("{name} {version}: {what}"));
        match license.as_deref().map(|text| (text, Expression::parse_mode(text, ParseMode::LAX))) {
            None => add("states no licence".into()),
            Some((text, Err(why))) => add(format!("the licence `{text}` cannot be read: {}", why.reason)),
            Some((text, Ok(expression))) => {
                if !expression.evaluate(|required| allowed.iter().any(|licence| licence.satisfies(required))) {
                    add(format!("the licence `{text}` is not on the list of deny.toml"));
                }
            }
        }
        if source.is_some() && source.as_deref() != registry {
            add(format!("comes from {}, not from the registry", source.as_deref().unwrap_or_default()));
        }
        if let Some(ban) = policy.bans.deny.iter().find(|ban| ban.name == *name) {
            add(format!("is banned: {}", ban.reason));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(name: &str, license: Option<&str>, source: Option<&str>) -> String {
        let policy = Policy {
            licenses: Licenses { allow: ["MIT", "Apache-2.0", "Unicode-3.0"].map(String::from).to_vec() },
            bans: Bans { deny: vec![Ban { name: "openssl-sys".into(), reason: "a system library".into() }] },
        };
        let package = |name: &str, license: Option<&str>, source: Option<&str>| Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(Into::into),
            source: source.map(Into::into),
        };
        let usual = package("usual", Some("MIT"), Some("registry+index"));
        check(&policy, &[usual, package(name, license, source)]).unwrap().join("; ")
    }

    #[test]
    fn allowed_licences_pass() {
        for license in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert_eq!(findings("x", Some(license), Some("registry+index")), "", "{license}");
        }
        assert_eq!(findings("ours", Some("MIT"), None), "");
    }

    #[test]
    fn everything_else_is_named() {
        for license in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "BSD-4-Clause"] {
            assert!(findings("x", Some(license), None).contains("not on the list"), "{license}");
        }
        assert!(findings("x", Some("my own words"), None).contains("cannot be read"));
        assert!(findings("x", None, None).contains("states no licence"));
        assert!(findings("x", Some("MIT"), Some("git+https://example.com/x")).contains("not from the registry"));
        assert!(findings("x", Some("MIT"), Some("registry+other")).contains("not from the registry"));
        assert!(findings("openssl-sys", Some("MIT"), None).contains("banned: a system library"));
    }
}
