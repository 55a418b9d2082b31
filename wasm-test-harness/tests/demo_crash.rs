//! What `make demo-crash` shows.

use harness::demo::crash::{self, Crash, CrashedTrip, Told};
use harness::demo::palette::Palette;
use harness::demo::timeline;
use harness::fleet::Fleet;

#[tokio::test]
async fn after_the_kill_every_trip_ends_and_the_picture_says_who_has_told_its_guest() {
    let fleet = Fleet::start(2).await.unwrap();
    let crash = crash::play(&fleet).await.unwrap();
    assert!(crash.wrong.is_empty(), "{:#?}", crash.wrong);
    assert!(crash.taken_over > 0);
    let told_by = |name: char| crash.trips.iter().filter(|trip| trip.told.as_ref().unwrap().by == name).count();
    assert!(told_by('A') > 0 && told_by('B') > 0, "{crash:#?}");
    // Only who has taken a saga over sends for it after the kill.
    for (_, attempt) in crash.trips.iter().flat_map(|trip| &trip.received) {
        let late = attempt.received_at_us > crash.killed_at_us + 500_000;
        assert!(!late || attempt.epoch > Some(1), "{attempt:#?}");
    }
    let [at_kill, after] = &crash.keys;
    assert!(at_kill["saga"] > 0 && at_kill["record"] > 0, "{at_kill:?}");
    assert_eq!((after.get("saga"), after.get("record")), (None, None), "{after:?}");
    let picture = timeline::draw(&crash, Palette::plain());
    println!("{picture}");
    for trip in &crash.trips {
        let told = trip.told.as_ref().unwrap();
        let line = picture.lines().find(|line| line.starts_with(&trip.guest)).unwrap();
        assert!(line.contains(&format!("{} {} {}", told.by, told.status, told.end)), "{line}");
    }
}

#[test]
fn a_trip_that_nobody_drives_for_a_while_has_a_gap_in_its_line() {
    let trip = |guest: &str, by: char, at_us: i64| CrashedTrip {
        guest: guest.to_owned(),
        asked_at_us: 0,
        received: Vec::new(),
        told: Some(Told { by, at_us, status: if by == 'A' { 201 } else { 409 }, end: "over".to_owned() }),
        held: if by == 'A' { vec!["hotel", "flight"] } else { Vec::new() },
    };
    let crash = Crash {
        began_at_us: 0,
        killed_at_us: 1_000_000,
        trips: vec![trip("guest-01", 'A', 500_000), trip("guest-02", 'B', 4_000_000)],
        keys: Default::default(),
        taken_over: 1,
        wrong: Vec::new(),
    };
    let picture = timeline::draw(&crash, Palette::plain());
    let lines: Vec<&str> = picture.lines().collect();
    let kill = lines[0].chars().position(|sign| sign == '╎').unwrap();
    let signs = |line: &str| line.chars().collect::<Vec<_>>();
    let (first, second) = (signs(lines[1]), signs(lines[2]));
    assert_eq!((first[kill], second[kill]), ('╎', '╎'));
    assert!(first[..kill].contains(&'✓') && first.iter().all(|sign| *sign != '✗'));
    assert!(second[kill + 1..].contains(&'✗') && !second[kill + 1..].contains(&'·'), "{picture}");
    assert!(lines[1].ends_with("holds hotel flight") && lines[2].ends_with("holds nothing"), "{picture}");
}
