//! The script that finds an etcd.
//!
//! These tests run a copy of it in a directory of its own; `etcd`, `apt-get` and `dpkg` are stand-ins, so nothing is
//! downloaded. That Debian has an etcd is not shown here: every test of a real etcd begins with it, where `ETCD` is not
//! set and there is none on the PATH.

use std::fs;
use std::path::PathBuf;

use crate::stand_ins::{Place, complaint, printed};

const UNPACKED: &str = ".etcd/root/usr/bin/etcd";

fn place() -> Place {
    // Nothing else is on the PATH: no etcd and no apt-get that this machine may have.
    let programs = ["sh", "cat", "cp", "rm", "mkdir", "dirname", "basename", "sed", "sleep", "uname", "id"];
    Place::new("wasm-test-harness/find-etcd", &[], &programs)
}

/// An etcd that is good for nothing but its version.
fn etcd(place: &Place, name: &str, version: &str) -> PathBuf {
    place.program(name, &format!("printf 'etcd Version: {version}\\nGit SHA: none\\n'"))
}

/// What fetches a package with an etcd of `version`: notes what it is called with, and takes a while for downloads.
/// Where `with_lists` is not set, there is nothing to download without lists of one's own.
fn package(place: &Place, version: &str, with_lists: bool) {
    etcd(place, "packed-etcd", version);
    let root = place.root().display();
    let lists = if with_lists { "" } else { "*Dir::State::Lists=*" };
    place.program(
        "bin/apt-get",
        &format!(
            r#"echo "$*" >>{root}/calls
case "$*" in
*" update") ;;
{lists}*" download etcd-server") sleep 0.3; : >etcd-server_{version}_all.deb ;;
*) echo "E: Unable to locate package etcd-server" >&2; exit 100 ;;
esac"#
        ),
    );
    place.program(
        "bin/dpkg",
        &format!(
            r#"[ "$1" = -x ] && [ -f "$2" ] && mkdir -p "$3/usr/bin" && cp {root}/packed-etcd "$3/usr/bin/etcd"
echo unpacked >>{root}/unpacked"#
        ),
    );
    // The real one: the tests are about what it guards.
    let flock = ["/usr/bin/flock", "/bin/flock"].into_iter().find(|it| std::path::Path::new(it).exists()).unwrap();
    let _ = std::os::unix::fs::symlink(flock, place.path("bin/flock"));
}

fn times_unpacked(place: &Place) -> usize {
    fs::read_to_string(place.path("unpacked")).unwrap_or_default().lines().count()
}

#[test]
fn find_etcd_prefers_the_variable_then_the_path_then_the_package() {
    let place = place();
    package(&place, "3.4.23", true);
    assert_eq!(printed(&place.run()), place.path(UNPACKED));
    let on_path = etcd(&place, "bin/etcd", "3.6.1");
    assert_eq!(printed(&place.run()), on_path);
    let own = etcd(&place, "own-etcd", "3.5.0");
    assert_eq!(printed(&place.command().env("ETCD", &own).output().unwrap()), own);
    // Relative to where it is called, and absolute for those who are elsewhere.
    let relative = place.command().current_dir(place.root()).env("ETCD", "./own-etcd").output().unwrap();
    assert_eq!(printed(&relative).canonicalize().unwrap(), own.canonicalize().unwrap());
}

#[test]
fn find_etcd_takes_3_4_and_newer_only() {
    let place = place();
    for version in ["3.4.0", "3.4.23", "3.5.16", "3.10.1", "4.0.0", "3.6.0-rc.1"] {
        let own = etcd(&place, "own-etcd", version);
        assert_eq!(printed(&place.command().env("ETCD", &own).output().unwrap()), own, "{version}");
    }
    for version in ["3.3.25", "2.9.0", "2.3.8", "3.3.25+dfsg"] {
        let own = etcd(&place, "own-etcd", version);
        let said = complaint(&place.command().env("ETCD", &own).output().unwrap());
        assert!(said.contains(&format!("is etcd {version}, and 3.4 or newer is needed")), "{said}");
    }
}

#[test]
fn find_etcd_passes_over_one_on_the_path_that_is_too_old() {
    let place = place();
    etcd(&place, "bin/etcd", "3.3.25");
    package(&place, "3.4.23", true);
    let output = place.run();
    assert_eq!(printed(&output), place.path(UNPACKED));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bin/etcd is etcd 3.3.25, and 3.4 or newer is needed"));
}

#[test]
fn find_etcd_refuses_a_package_that_is_too_old() {
    let place = place();
    package(&place, "3.3.25", true);
    for _ in 0..2 {
        let said = complaint(&place.run());
        assert!(said.contains("package etcd-server of this system is etcd 3.3.25") && said.contains("ETCD="), "{said}");
    }
}

#[test]
fn find_etcd_fetches_once_however_many_call_it() {
    let place = place();
    package(&place, "3.4.23", true);
    assert_eq!(place.run_at_once(4), vec![place.path(UNPACKED); 4]);
    printed(&place.run());
    assert_eq!(times_unpacked(&place), 1);

    // One that was interrupted, or whose etcd does not run any more, is not taken for a whole one.
    fs::remove_file(place.path(".etcd/complete")).unwrap();
    printed(&place.run());
    assert_eq!(times_unpacked(&place), 2);
    place.program(UNPACKED, "exit 1");
    printed(&place.run());
    assert_eq!(times_unpacked(&place), 3);
}

#[test]
fn find_etcd_fetches_lists_of_its_own_where_those_of_the_system_will_not_do() {
    let place = place();
    package(&place, "3.4.23", true);
    printed(&place.run());
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    assert!(calls.lines().count() == 1 && !calls.contains("Dir::"), "{calls}");

    let place = self::place();
    package(&place, "3.4.23", false);
    assert_eq!(printed(&place.run()), place.path(UNPACKED));
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    let own: Vec<&str> = calls.lines().filter(|call| call.contains("Dir::")).collect();
    assert!(own.len() == 2 && own[0].ends_with(" update") && own[1].ends_with(" download etcd-server"), "{calls}");
    let directory = place.path(".etcd/apt");
    for option in ["Dir::State=", "Dir::State::Lists=", "Dir::Cache="] {
        let expected = format!("{option}{}", directory.display());
        assert!(own.iter().all(|call| call.contains(&expected)), "{option} in {calls}");
    }
    assert!(!calls.lines().any(|call| call.contains("install") || call.contains("sudo")), "{calls}");
}

#[test]
fn find_etcd_says_what_is_wrong_with_the_variable() {
    let place = place();
    package(&place, "3.4.23", true);
    let not_executable = place.path("plain");
    fs::write(&not_executable, "").unwrap();
    let broken = place.program("broken", "exit 1");
    let other = place.program("other", "echo 'other 9.9.9'");
    for (etcd, expected) in [
        (place.path("nowhere"), "there is no such file"),
        (not_executable, "is not executable"),
        (broken, "is no etcd that runs"),
        (other, "is no etcd that runs"),
    ] {
        let said = complaint(&place.command().env("ETCD", &etcd).output().unwrap());
        assert!(said.contains(expected) && said.contains(etcd.to_str().unwrap()), "{said}");
    }
}

#[test]
fn find_etcd_says_what_to_install() {
    let place = place();
    let said = complaint(&place.run());
    assert!(said.contains("no apt-get to fetch one") && said.contains("apt-get install etcd-server"), "{said}");
    assert!(said.contains("set ETCD="), "{said}");

    package(&place, "3.4.23", true);
    place.program("bin/apt-get", "echo 'E: no network' >&2; exit 100");
    let said = complaint(&place.run());
    assert!(said.contains("E: no network") && said.contains("cannot fetch the package etcd-server"), "{said}");

    package(&place, "3.4.23", true);
    place.program("packed-etcd", "exit 1");
    assert!(complaint(&place.run()).contains("does not run"));

    place.program("bin/dpkg", "echo 'no archive' >&2; exit 2");
    let said = complaint(&place.run());
    assert!(said.contains("no archive") && said.contains("cannot unpack"), "{said}");
    // Once it can be had, it is.
    package(&place, "3.4.23", true);
    assert_eq!(printed(&place.run()), place.path(UNPACKED));
}
