//! Planted faults are in an artefact of their own, never in the one that ships.

use harness::envoy::project_root;
use sagabox::planted::{Planted, TRAP_HEADER};

const VARIABLES: [&str; 2] = ["SAGABOX_PLANTED_FAULT", "SAGABOX_OF_TOMORROW"];

fn artefact(profile: &str, target: &str) -> Vec<u8> {
    let path = project_root().join("target/wasm32-wasip1").join(profile).join("sagabox.wasm");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make {target}`", path.display()))
}

fn holds(artefact: &[u8], text: &str) -> bool {
    artefact.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_artefact_that_ships_has_no_planted_fault() {
    let shipped = artefact("release", "build");
    assert!(holds(&shipped, "idempotency-key"), "the test finds what it looks for");
    let names = Planted::ALL.iter().map(|fault| fault.name());
    let found: Vec<&str> =
        names.chain(VARIABLES).chain([TRAP_HEADER, "of_tomorrow"]).filter(|name| holds(&shipped, name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_artefact_of_the_planted_faults_has_them_all() {
    let planted = artefact("planted", "build-planted");
    let names = Planted::ALL.iter().map(|fault| fault.name());
    let missing: Vec<&str> =
        names.chain(VARIABLES).chain([TRAP_HEADER]).filter(|name| !holds(&planted, name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(Planted::ALL.len() >= 40);
}
