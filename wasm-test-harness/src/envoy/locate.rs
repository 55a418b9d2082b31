//! Where the Envoy and the filter are.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// The root of the project.
pub fn project_root() -> &'static Path {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    harness.parent().unwrap_or(harness)
}

/// The path of the Envoy to use, as `envoy/find-envoy` prints it. The first call may install one, which takes minutes
/// on a slow line; later ones remember.
///
/// # Errors
///
/// There is none, and none can be installed; the error repeats what the script says.
pub async fn binary() -> anyhow::Result<PathBuf> {
    static FOUND: OnceCell<PathBuf> = OnceCell::const_new();
    FOUND.get_or_try_init(|| path_printed_by("envoy/find-envoy")).await.cloned()
}

/// The path that a script of the project prints.
///
/// # Errors
///
/// The script fails; the error repeats what it says.
pub(crate) async fn path_printed_by(script: &str) -> anyhow::Result<PathBuf> {
    let script = project_root().join(script);
    let output =
        Command::new(&script).stdin(Stdio::null()).output().await.with_context(|| script.display().to_string())?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// The compiled filter: `SAGABOX_WASM`, else the one that `make build` builds.
///
/// # Errors
///
/// The file is not there.
pub fn default_wasm() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("SAGABOX_WASM") {
        Some(path) => PathBuf::from(path),
        None => project_root().join("target/wasm32-wasip1/release/sagabox.wasm"),
    };
    if !path.is_file() {
        bail!("the filter {} is not there: run `make build`, or set SAGABOX_WASM", path.display());
    }
    Ok(path)
}
