//! Rules that hold for the source as a whole.

use std::path::{Path, PathBuf};

use harness::envoy::project_root;

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a readable directory");
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.expect("a readable entry").path()) {
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code of a file: without comments, which may name what the code must not.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a readable file");
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn only_the_filter_knows_proxy_wasm() {
    let root = project_root().join("src");
    let knows: Vec<String> = sources(&root)
        .iter()
        .filter(|path| code(path).contains("proxy_wasm"))
        .map(|path| path.strip_prefix(&root).expect("below src").display().to_string())
        .collect();
    assert!(knows.iter().any(|path| path == "filter.rs"), "the test finds what it looks for: {knows:?}");
    let others: Vec<_> = knows.iter().filter(|path| !path.starts_with("filter")).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn shipped_code_is_denied_to_panic_and_allows_itself_no_exception() {
    let manifest = std::fs::read_to_string(project_root().join("Cargo.toml")).expect("a manifest");
    for lint in ["unwrap_used", "expect_used", "panic", "indexing_slicing", "string_slice", "unreachable", "todo"] {
        assert!(manifest.contains(&format!("{lint} = \"deny\"")), "{lint} is not denied");
    }
    for path in sources(&project_root().join("src")) {
        let text = code(&path);
        assert!(!text.contains("allow(clippy::"), "{} allows itself what is denied", path.display());
    }
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    let mut files = sources(&project_root().join("src"));
    files.extend(sources(&project_root().join("wasm-test-harness")));
    assert!(files.len() > 20, "the test finds the files");
    for path in files {
        let lines = std::fs::read_to_string(&path).expect("a readable file").lines().count();
        assert!(lines <= 500, "{} has {lines} lines: what is the second thing in it?", path.display());
    }
}

/// Every package with the features that it is built with.
fn packages(of: &[&str]) -> std::collections::BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command
        .current_dir(project_root())
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p} [{f}]"])
        .args(of);
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).filter(|line| !line.is_empty()).collect()
}

/// What takes longest to build, wasmtime above all, is built once.
#[test]
fn make_test_builds_nothing_again_that_make_demo_has_built() {
    let of_demo = packages(&["--package", "wasm-test-harness", "--edges", "normal,build"]);
    let of_test = packages(&["--workspace"]);
    assert!(of_demo.iter().any(|package| package.starts_with("wasmtime v")), "the test finds the packages");
    let again: Vec<_> = of_demo.difference(&of_test).collect();
    assert!(again.is_empty(), "with other features in `make test`: {again:#?}");
}
