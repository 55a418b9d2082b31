//! Whether a virtual machine has died.

use harness::envoy::RunningEnvoy;

/// Fails if the log of an Envoy has a panic of a module or the end of a virtual machine.
pub fn assert_none(envoy: &RunningEnvoy) {
    let log = envoy.log();
    for sign in ["panicked at", "unreachable", "Uncaught RuntimeError", "Function: proxy_", "[critical]"] {
        assert!(!log.contains(sign), "{sign:?} in the log:\n{log}");
    }
}
