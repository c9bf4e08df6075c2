//! The repository keeps its rules; and each rule finds what it is there to find.

use super::*;

#[test]
fn the_repository_is_tidy() {
    run().unwrap_or_else(|findings| panic!("{findings}"));
}

/// The findings in a file that would otherwise be in order.
fn findings(path: &str, text: &str) -> Vec<String> {
    check(&File { path: path.into(), text: text.into() }).into_iter().map(|f| f.to_string()).collect()
}

#[track_caller]
fn one(path: &str, text: &str, expected: &str) {
    let found = findings(path, text);
    assert!(found.len() == 1 && found[0].contains(expected), "{path}: expected one finding `{expected}`: {found:?}");
}

#[track_caller]
fn none(path: &str, text: &str) {
    assert_eq!(findings(path, text), [""; 0], "{path}");
}

#[test]
fn a_file_without_a_purpose() {
    for (path, good) in [
        ("src/a.rs", "//! What this is for.\nfn f() {}\n"),
        ("src/lib.rs", "#![doc = include_str!(\"../README.md\")]\n"),
        ("a.py", "#!/usr/bin/env python3\n\"\"\"What this is for.\"\"\"\n"),
        ("a.toml", "# What this is for.\n[x]\n"),
        (".ci/run", "#!/usr/bin/env bash\n# What this is for.\n"),
        ("k.cu", "// What this is for.\n"),
        ("README.md", "anything"),
    ] {
        none(path, good);
    }
    one("src/a.rs", "fn f() {}\n", "what it is for");
    one("src/a.rs", "//! Module.\nfn f() {}\n", "what it is for");
    one("src/a.rs", "", "what it is for");
    one("a.py", "import os\n", "what it is for");
    one("a.toml", "[x]\n", "what it is for");
    one(".ci/run", "#!/usr/bin/env bash\nset -e\n", "what it is for");
    one("k.cu", "__global__ void k() {}\n", "what it is for");
}

#[test]
fn a_file_that_is_too_long() {
    let lines = |count: usize| "//! What this is for.\n".repeat(count);
    none("a.rs", &lines(450));
    one("a.rs", &lines(451), "a.rs:451: 451 lines");
    one("a.cu", &lines(451), "451 lines");
    none("a.csv", &lines(451));
}

#[test]
fn unsafe_outside_its_folders() {
    let text = "//! What this is for.\nfn f() { unsafe { g() } }\n";
    none("crates/kronsparse/src/cpu/simd.rs", text);
    none("crates/kronsparse/src/io/map.rs", text);
    one("crates/kronsparse/src/pattern/single.rs", text, ":2: unsafe outside");
    one("crates/kronsparse/src/cpu.rs", text, "unsafe outside");
    none("a.rs", "//! What unsafe is for.\n// unsafe\nconst A: &str = \"unsafe\";\n");
}

#[test]
fn a_pure_stage_that_names_an_engine() {
    for text in ["use crate::cpu::Operator;", "use crate::{cpu, Error};", "fn f() { crate::cuda::go() }"] {
        let text = format!("//! What this is for, crate::cpu in a comment.\n{text}\n");
        one("crates/kronsparse/src/plan/tile.rs", &text, ":2: names");
        one("crates/kronsparse/src/pattern/factor.rs", &text, ":2: names");
        none("crates/kronsparse/src/factorize/mod.rs", &text);
    }
    let scalar = "crates/kronsparse/src/scalar.rs";
    none(scalar, "//! What this is for.\npub trait Scalar: crate::cpu::Element {}\n");
    one(scalar, "//! What this is for.\nuse crate::cpu::Operator;\n", "beyond the sealed bound");
}

#[test]
fn leftovers() {
    let text = |middle: String| format!("//! What this is for.\n// {middle}\n");
    one("a.rs", &text(["TO", "DO: later"].concat()), "left");
    one("a.md", &text(["FIX", "ME"].concat()), "left");
    none("a.md", &text(["TO", "DOS and METHO", "DO"].concat()));
    one("a.rs", "//! What this is for.\nfn f() { todo!() }\n", "todo! left");
    one("a.rs", "//! What this is for.\nfn f() { dbg!(1); }\n", "dbg! left");
    one("a.rs", "//! What this is for.\n#[test]\n#[ignore]\nfn f() {}\n", ":3: a test that is ignored");
    one("a.rs", "//! What this is for.\n#[cfg_attr(miri, ignore = \"slow\")]\nfn f() {}\n", "ignored");
    none("a.rs", "//! What this is for.\n#[doc = \"ignore\"]\nfn ignore() {}\n");
    one("a.md", &["```", "ignore"].concat(), "never compiled");
}

#[test]
fn machines_and_registries() {
    for host in [["https://crates", ".io/x"], ["pypi", ".org"], ["files.pythonhosted", ".org"]] {
        one("a.md", &host.concat(), "registry");
    }
    one("a.toml", &["# A mirror of our own.\nx = \"sparse+", "https://mirror/\""].concat(), "where packages come from");
    for path in [["see /wo", "rk/x"], ["\"/ho", "me/me\""], ["=/ro", "ot/.x"], ["C:\\", "Users\\me"]] {
        one("a.md", &path.concat(), "absolute path");
    }
    for fine in [["$HO", "ME/x"], ["a/b/wo", "rk/x"], ["https://x.y/ho", "me/"], ["target/ro", "ot/"]] {
        none("a.md", &fine.concat());
    }
    none("Cargo.lock", &["crates", ".io"].concat());
    none("python/Cargo.lock", &["crates", ".io"].concat());
    one("other/Cargo.lock", &["crates", ".io"].concat(), "registry");
}
