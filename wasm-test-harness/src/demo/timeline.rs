//! Trips over one time axis, with the moment at which their Envoy was killed.
//!
//! ```text
//!            Envoy A             ╎ kill -9                        Envoy B
//! guest-01   hf·····c✓           ╎                                                    A 201 completed    hotel flight car
//! guest-02     hf············    ╎                            hf✓                     B 201 completed    hotel flight
//! ```
//!
//! What is drawn is what the participants received, and when.

use super::crash::{Crash, CrashedTrip};
use super::palette::{Paint, Palette};

/// Columns of the names at the left.
const LABEL: usize = 10;
/// Columns of the time axis, and those that it may run over: what comes at one time takes a column each.
const AXIS: usize = 64;
const OVERFLOW: usize = 6;

/// The picture, with what is in etcd below it.
pub fn draw(crash: &Crash, palette: Palette) -> String {
    let scale = Scale::of(crash);
    let kill = scale.column(crash.killed_at_us);
    let mut picture =
        format!("{:LABEL$}{:<width$}{}\n", "", "Envoy A", palette.paint(Paint::Bad, "╎ kill -9"), width = kill);
    for trip in &crash.trips {
        picture.push_str(&format!("{:LABEL$}{}\n", trip.guest, line(trip, crash, &scale, palette)));
    }
    let seconds = |at_us: i64| (at_us - crash.began_at_us) as f64 / 1e6;
    picture.push_str(&format!(
        "\n{}\n  h f c  sent to hotel, flight, car     u  undone there     ✓ completed  ✗ undone: the guest was told\n",
        palette.paint(
            Paint::Faint,
            &format!("0 s to {:.1} s; killed at {:.1} s", seconds(scale.to), seconds(crash.killed_at_us))
        )
    ));
    let counts = |keys: &std::collections::BTreeMap<String, usize>| {
        keys.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
    };
    let [before, after] = &crash.keys;
    picture.push_str(&format!(
        "\nkeys in etcd as A was killed:  {}\nand in the end:                {}\n",
        counts(before),
        counts(after)
    ));
    picture.push_str(&format!("sagas taken over by B:         {}\n", crash.taken_over));
    picture
}

struct Scale {
    from: i64,
    to: i64,
}

impl Scale {
    fn of(crash: &Crash) -> Scale {
        let told = crash.trips.iter().filter_map(|trip| trip.told.as_ref()).map(|told| told.at_us);
        let received = crash.trips.iter().flat_map(|trip| &trip.received).map(|(_, attempt)| attempt.received_at_us);
        let to = told.chain(received).chain([crash.killed_at_us]).max().unwrap_or(crash.killed_at_us);
        Scale { from: crash.began_at_us, to: to.max(crash.began_at_us + 1) }
    }

    fn column(&self, at_us: i64) -> usize {
        let part = (at_us - self.from).max(0) as f64 / (self.to - self.from) as f64;
        (part * (AXIS - 1) as f64) as usize
    }
}

fn line(trip: &CrashedTrip, crash: &Crash, scale: &Scale, palette: Palette) -> String {
    let kill = scale.column(crash.killed_at_us);
    let mut cells: Vec<(char, Paint)> = vec![(' ', Paint::Plain); AXIS + OVERFLOW];
    let resumed = trip.received.iter().find(|(_, attempt)| attempt.epoch.is_some_and(|epoch| epoch > 1));
    let told = trip.told.as_ref().map_or(scale.to, |told| told.at_us);
    // It is driven from its begin to its end, but for the time in which its Envoy is dead and nobody has taken it over.
    let mut driven = |from: i64, to: i64| {
        for cell in cells.iter_mut().take(scale.column(to)).skip(scale.column(from)) {
            *cell = ('·', Paint::Faint);
        }
    };
    driven(trip.asked_at_us, told.min(crash.killed_at_us));
    if let Some((_, attempt)) = resumed {
        driven(attempt.received_at_us, told);
    }
    if let Some(cell) = cells.get_mut(kill) {
        *cell = ('╎', Paint::Bad);
    }
    let mut free = 0;
    for (role, attempt) in &trip.received {
        let of_heir = attempt.epoch.is_some_and(|epoch| epoch > 1);
        let earliest = if of_heir { kill + 1 } else { 0 };
        free = scale.column(attempt.received_at_us).max(free).max(earliest);
        let undoes = attempt.action.as_deref() == Some("compensation");
        let sign = if undoes { 'u' } else { role.chars().next().unwrap_or('?') };
        let paint = if undoes { Paint::Compensation } else { Paint::Transaction };
        free = put(&mut cells, free, (sign, paint));
    }
    let end = trip.told.as_ref().map_or(('?', Paint::Unknown), |told| match told.status {
        201 => ('✓', Paint::Good),
        _ => ('✗', Paint::Bad),
    });
    // What A has told it has told before it was killed, however narrow the columns are.
    let of_a = trip.told.as_ref().is_some_and(|told| told.by == 'A');
    let latest = if of_a { kill.saturating_sub(1) } else { usize::MAX };
    put(&mut cells, scale.column(told).max(free).min(latest), end);
    let chart: String = cells.iter().map(|(sign, paint)| palette.paint(*paint, &sign.to_string())).collect();
    let told =
        trip.told.as_ref().map_or("nothing".to_owned(), |told| format!("{} {} {}", told.by, told.status, told.end));
    let held = if trip.held.is_empty() { "nothing".to_owned() } else { trip.held.join(" ") };
    format!("{chart} {told:<18} holds {held}")
}

/// Puts a sign at a column, or at the next that is not the line of the kill; gives the column after it.
fn put(cells: &mut [(char, Paint)], column: usize, sign: (char, Paint)) -> usize {
    let column = if cells.get(column).is_some_and(|(there, _)| *there == '╎') { column + 1 } else { column };
    if let Some(cell) = cells.get_mut(column) {
        *cell = sign;
    }
    column + 1
}
