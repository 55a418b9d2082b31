//! `limits.max_bytes` bounds what a worker's VM holds, whatever it is for: shown on Envoy, and with faults that a test must find.

use std::time::Duration;

#[path = "memory/participant.rs"]
mod participant;
#[path = "memory/proxy.rs"]
mod proxy;
#[path = "support/memory.rs"]
mod resident;

use proxy::{Proxy, Seen};

/// What Envoy itself may take for the clients and calls of a test, and the VM for a moment.
const CONSTANT: u64 = 16 << 20;
/// A saga that is under way gets on in this time beyond what its participants take.
const IN_TIME: Duration = Duration::from_secs(2);
/// What participants take that hold a call: longer than it takes to fill the VM.
const HOLDS: Duration = Duration::from_secs(5);

/// A list of this many maps of one member, of 7 bytes each.
fn maps(count: usize) -> String {
    format!("[{}]", vec![r#"{"":0}"#; count].join(","))
}

/// What was seen of clients that ask for more than there is room for: the bystander whose saga is under way is answered
/// in time, each is answered, and the VM lives.
async fn check_well(proxy: &Proxy, seen: &Seen) -> Result<(), String> {
    let strange: Vec<_> = seen.statuses.keys().filter(|status| ![200, 503].contains(*status)).collect();
    if !strange.is_empty() {
        return Err(format!("{:?}", seen.statuses));
    }
    if seen.bystander.0 != 200 || seen.bystander.1 > HOLDS + IN_TIME {
        return Err(format!("the bystander was told {} after {:?}", seen.bystander.0, seen.bystander.1));
    }
    proxy.check_vm_lives().await
}

fn check_memory(seen: &Seen, max_bytes: u64) -> Result<(), String> {
    let most = 2 * max_bytes + CONSTANT;
    println!("{} MiB more were resident, of at most {}; {:?}", seen.grew >> 20, most >> 20, seen.statuses);
    if seen.grew > most { Err(format!("{} MiB more were resident", seen.grew >> 20)) } else { Ok(()) }
}

/// 2 MB of requests, which would take 130 MB.
async fn bodies_of_small_maps(fault: Option<&str>) -> Result<(), String> {
    let proxy = Proxy::start("8MiB", fault).await;
    let seen = proxy.flood(300, &["trip"], "/keep", &maps(1_000)).await;
    check_memory(&seen, 8 << 20)?;
    check_well(&proxy, &seen).await?;
    let again = proxy.flood(300, &["trip"], "/keep", &maps(1_000)).await;
    check_memory(&again, 8 << 20)?;
    let taken = [seen, again].map(|seen| seen.statuses.get(&200).copied().unwrap_or_default());
    // Whatever they held is free again.
    if taken[0] < 8 || taken[1] + 2 < taken[0] { Err(format!("{taken:?} sagas were taken")) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_take_far_more_than_their_text_fill_no_vm() {
    bodies_of_small_maps(None).await.unwrap();
}

/// Each takes 4 MB, and is read by an expression when its saga ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_as_many_values_as_they_may_have_fill_no_vm_and_larger_ones_are_refused() {
    let proxy = Proxy::start("16MiB", None).await;
    let seen = proxy.flood(40, &["trip"], "/keep", &maps(9_990)).await;
    check_memory(&seen, 16 << 20).unwrap();
    check_well(&proxy, &seen).await.unwrap();
    assert!(seen.statuses.contains_key(&200), "{:?}", seen.statuses);
    let refused = proxy.flood(20, &["trip"], "/keep", &maps(140_000)).await;
    assert_eq!(refused.statuses.into_iter().collect::<Vec<_>>(), [(413, 20)], "of 1 MB");
    assert!(refused.grew < CONSTANT + (20 << 20), "{} MiB", refused.grew >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_does_not_weigh_bodies_is_found() {
    bodies_of_small_maps(Some("body-not-weighed")).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_listeners_of_one_vm_share_its_limit() {
    let mut taken = Vec::new();
    for listeners in [&["trip"][..], &["trip", "trip_gate"]] {
        let proxy = Proxy::start("8MiB", None).await;
        let seen = proxy.flood(200, listeners, "/keep", &maps(1_000)).await;
        check_memory(&seen, 8 << 20).unwrap();
        check_well(&proxy, &seen).await.unwrap();
        taken.push(seen.statuses[&200]);
    }
    assert!(taken[1] <= taken[0] + taken[0] / 4, "one takes {}, and two {}", taken[0], taken[1]);
}

/// 60 answers of 27 kB, 4,500 maps inside of maps, each of which takes 1.8 MB.
async fn answers_of_nested_maps(fault: Option<&str>) -> Result<(), String> {
    let proxy = Proxy::start("6MiB", fault).await;
    let seen = proxy.flood(60, &["trip"], "/answered?nested=50", r#"{"guest": "ann"}"#).await;
    check_memory(&seen, 6 << 20)?;
    check_well(&proxy, &seen).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_take_far_more_than_their_text_fill_no_vm() {
    answers_of_nested_maps(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_does_not_count_answers_is_found() {
    answers_of_nested_maps(Some("answers-not-counted")).await.unwrap_err();
}

/// Many sagas one after another, none of which needs much.
async fn many_small_sagas(fault: Option<&str>) -> Result<(), String> {
    let proxy = Proxy::start("512KiB", fault).await;
    for _ in 0..20 {
        let seen = proxy.ask(30, &["trip"], "/quick", r#"{"guest": "ann"}"#).await;
        if seen.keys().any(|status| *status != 200) {
            return Err(format!("{seen:?}"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_reserved_for_answers_is_free_again() {
    many_small_sagas(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_keeps_what_it_has_reserved_is_found() {
    many_small_sagas(Some("reservation-kept")).await.unwrap_err();
}

/// A saga that has to be undone while the VM is full, to the last kilobyte.
async fn one_is_undone_in_a_full_vm(fault: Option<&str>) -> Result<(), String> {
    let proxy = Proxy::start("1MiB", fault).await;
    let victim = proxy.begin("trip", "/refused?nested=1", r#"{"guest": "victim"}"#);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let flood = proxy.flood(400, &["trip"], "/answered?nested=1", r#"{"guest": "ann"}"#);
    let (seen, (status, after)) = tokio::join!(flood, victim);
    println!("the victim was told {status} after {after:?}; {:?}", seen.statuses);
    if status != 409 || after > participant::SPEAKS_AFTER + participant::REFUSES_AFTER + IN_TIME {
        return Err(format!("the victim was told {status} after {after:?}"));
    }
    check_memory(&seen, 1 << 20)?;
    proxy.check_vm_lives().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_undoes_a_saga_does_not_wait_for_room() {
    one_is_undone_in_a_full_vm(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_whose_compensations_wait_for_room_is_found() {
    one_is_undone_in_a_full_vm(Some("compensations-wait-for-room")).await.unwrap_err();
}

/// Sagas of two VMs that die at once, and an heir that has room for those of one.
async fn heir_of_full_vms(fault: Option<&str>) -> Result<(), String> {
    let proxy = Proxy::start_planted("2MiB", fault).await;
    let begun = proxy.fill_and_trap(60, "/keep_long", &maps(300)).await;
    // It is the main thread's: nobody asks, so Envoy makes no other.
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    let at_once = proxy.taken_over().await;
    println!("{begun} sagas were under way, {at_once} of them were taken over at once");
    if at_once == 0 || at_once > 3 * begun / 4 {
        return Err(format!("{at_once} of {begun} were taken over at once"));
    }
    // The others go on once there is room.
    for _ in 0..120 {
        if proxy.taken_over().await == begun {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(format!("{} of {begun} were taken over in the end", proxy.taken_over().await))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heir_of_full_vms_takes_as_much_as_it_has_room_for_and_the_rest_later() {
    heir_of_full_vms(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_takes_over_whatever_it_holds_is_found() {
    heir_of_full_vms(Some("taken-over-without-room")).await.unwrap_err();
}
