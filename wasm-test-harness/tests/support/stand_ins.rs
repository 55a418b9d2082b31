//! A directory in which a script of the project runs, with stand-ins for the programs that it calls.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::envoy::project_root;

/// A copy of the script and of what it reads, in a root of their own, and the only PATH that it gets.
pub struct Place {
    directory: tempfile::TempDir,
    script: &'static str,
}

impl Place {
    /// Copies `script` and `files` of the project. Of this machine's programs only `programs` are on the PATH.
    pub fn new(script: &'static str, files: &[&str], programs: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in files.iter().chain([&script]) {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::copy(project_root().join(name), root.join(name)).unwrap();
        }
        fs::create_dir_all(root.join("bin")).unwrap();
        for name in programs {
            let found = ["/usr/bin", "/bin"].iter().map(|it| Path::new(it).join(name)).find(|it| it.exists()).unwrap();
            std::os::unix::fs::symlink(found, root.join("bin").join(name)).unwrap();
        }
        Self { directory, script }
    }

    /// The root of what stands for the project.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// A path below the root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a program: a shell script. It is on the PATH where its name begins with `bin/`.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// What runs the script.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.path(self.script));
        command.env_clear().env("PATH", self.path("bin"));
        command
    }

    /// Runs the script.
    pub fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Runs the script `count` times at once, and returns what each printed.
    pub fn run_at_once(&self, count: usize) -> Vec<PathBuf> {
        let running: Vec<_> =
            (0..count).map(|_| self.command().stdout(std::process::Stdio::piped()).spawn().unwrap()).collect();
        running.into_iter().map(|child| printed(&child.wait_with_output().unwrap())).collect()
    }
}

/// The path that a script printed which succeeded.
pub fn printed(output: &Output) -> PathBuf {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout.clone()).unwrap().trim())
}

/// What a script said which failed.
pub fn complaint(output: &Output) -> String {
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}
