//! The rows of the three databases, before and after, and all trips at the end.

use std::collections::BTreeSet;

use super::palette::{Paint, Palette};
use super::recording::{ClientOutcome, Databases, Recording};
use crate::participant::{Booking, BookingState};
use crate::trip::STEPS;

/// Columns of the names at the left.
const LABEL: usize = 8;
/// Columns of a row.
const ROW: usize = 32;

/// What the participants' databases held before and after, side by side. Rows that have not changed are faint.
pub fn draw(recording: &Recording, palette: Palette) -> String {
    let mut table = format!("{:LABEL$}{:ROW$}after\n", "", "before");
    for role in STEPS {
        let before = rows(&recording.before, role);
        let after = rows(&recording.after, role);
        let mut ids: Vec<&str> = after.iter().chain(&before).map(|row| row.id.as_str()).collect();
        let mut seen = BTreeSet::new();
        ids.retain(|id| seen.insert(*id));
        if ids.is_empty() {
            table.push_str(&format!("{role:LABEL$}{:ROW$}-\n", "-"));
        }
        for (line, id) in ids.into_iter().enumerate() {
            let label = if line == 0 { role } else { "" };
            let (old, new) = (find(&before, id), find(&after, id));
            let unchanged = old.map(|row| row.state) == new.map(|row| row.state);
            let (old, new) = (draw_row(old, true, palette), draw_row(new, unchanged, palette));
            table.push_str(format!("{label:LABEL$}{old}{new}").trim_end());
            table.push('\n');
        }
    }
    table
}

fn rows<'a>(databases: &'a Databases, role: &str) -> Vec<&'a Booking> {
    databases.get(role).into_iter().flatten().collect()
}

fn find<'a>(rows: &[&'a Booking], id: &str) -> Option<&'a Booking> {
    rows.iter().copied().find(|row| row.id == id)
}

fn draw_row(row: Option<&Booking>, faint: bool, palette: Palette) -> String {
    let Some(row) = row else { return palette.paint(Paint::Faint, &format!("{:ROW$}", "-")) };
    let (state, paint) = match row.state {
        BookingState::Booked => ("booked", Paint::Good),
        BookingState::Cancelled => ("cancelled", Paint::Compensation),
    };
    let text = format!("{:9} {:6} {state}", row.id, row.guest);
    palette.paint(if faint { Paint::Faint } else { paint }, &format!("{text:ROW$}"))
}

/// One line for each trip: what stands, and what its client was told.
pub fn draw_all(recordings: &[Recording], palette: Palette) -> String {
    let mut table = format!("{:LABEL$}{:11}{:11}{:11}the client\n", "", STEPS[0], STEPS[1], STEPS[2]);
    for recording in recordings {
        table.push_str(&format!("{:LABEL$}", recording.guest));
        for role in STEPS {
            let (text, paint) = match recording.rows(role).as_slice() {
                [] => ("-", Paint::Faint),
                rows if rows.iter().any(|row| row.state == BookingState::Booked) => ("booked", Paint::Good),
                _ => ("cancelled", Paint::Compensation),
            };
            table.push_str(&palette.paint(paint, &format!("{text:11}")));
        }
        let told = match &recording.client.outcome {
            ClientOutcome::Answered { status, saga_status, .. } => {
                format!("{status} {}", saga_status.as_deref().unwrap_or(""))
            }
            ClientOutcome::Left => "had left".to_owned(),
            ClientOutcome::Failed(_) => "got no answer".to_owned(),
        };
        table.push_str(&format!("{told}\n"));
    }
    table
}
