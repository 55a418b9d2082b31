//! A trip as a picture: one line for the client and one for each step, over one time axis.
//!
//! ```text
//! ms      0     1000   2000   3000
//!         ┼──────┼──────┼──────┼──────
//! client  ───────────────────────────┤                          409 compensated
//! hotel   ●▓▓▓▓▓▓▓▓▓▓▓▓?2▓▓▓▓▓✓░░░○✓                            cancelled hotel-3
//! ```
//!
//! What is drawn is what the participants received, and when.

use super::palette::{Paint, Palette};
use super::recording::{ClientOutcome, Recording};
use crate::participant::{Attempt, BookingState};
use crate::trip::STEPS;

/// Columns of the names at the left.
const LABEL: usize = 8;
/// Columns that the time axis takes.
const AXIS: usize = 46;
/// Columns right of the axis: what is too short to be drawn takes its two or three columns nevertheless, and pushes what
/// follows to the right.
const OVERFLOW: usize = 6;
/// Columns of a label of the axis and the space before the next.
const TICK: i64 = 7;

/// The signs, explained.
pub fn legend(palette: Palette) -> String {
    let paint = |paint, text: &str| palette.paint(paint, text);
    format!(
        "  {} transaction under way           {} the database has it   {} answered: done\n\
         \x20 {} compensation under way          {} undone there          {} answered: refused\n\
         \x20 {} further attempts, under one key                         {} no answer in time\n\
         \x20 {} the client has its answer       {} the client has left\n\n\
         \x20 A bar takes two columns or more, however short.\n",
        paint(Paint::Transaction, "▓▓▓"),
        paint(Paint::Transaction, "●"),
        paint(Paint::Good, "✓"),
        paint(Paint::Compensation, "░░░"),
        paint(Paint::Compensation, "○"),
        paint(Paint::Bad, "✗"),
        paint(Paint::Transaction, "2 3"),
        paint(Paint::Unknown, "?"),
        paint(Paint::Plain, "──┤"),
        paint(Paint::Bad, "╳"),
    )
}

/// The picture of a trip, and below it what the client was told.
pub fn draw(recording: &Recording, palette: Palette) -> String {
    let zero = recording.client.asked_at_us;
    let scale = Scale { zero, span_us: (recording.over_at_us() - zero).max(1_000) };
    let (labels, rule) = scale.axis();
    let steps: Vec<(&str, Line)> = STEPS.into_iter().map(|role| (role, draw_step(recording, role, &scale))).collect();

    let mut picture = String::new();
    let mut line = |label: &str, cells: &Line, (paint, text): (Paint, &str)| {
        let chart = cells.render(AXIS + OVERFLOW, palette);
        let row = format!("{label:LABEL$}{chart} {}", palette.paint(paint, text));
        picture.push_str(row.trim_end());
        picture.push('\n');
    };
    line("ms", &labels, (Paint::Plain, ""));
    line("", &rule, (Paint::Plain, ""));
    let (paint, text) = client_end(&recording.client.outcome);
    line("client", &draw_client(recording, &scale), (paint, &text));
    for (role, cells) in &steps {
        let (paint, text) = step_end(recording, role);
        line(role, cells, (paint, &text));
    }
    picture.push_str(&told(recording));
    picture
}

/// What the client was told, in words.
fn told(recording: &Recording) -> String {
    let waited = recording.client.waited_ms();
    match &recording.client.outcome {
        ClientOutcome::Answered { status, saga_status, body, .. } => {
            let saga_status = saga_status.as_deref().unwrap_or("none");
            let mut told = format!("\nThe client got {status} after {waited} ms, saga-status: {saga_status}\n");
            let text = |name: &str| body.get(name).and_then(|value| value.as_str()).unwrap_or_default();
            match body.get("reason") {
                Some(_) => told.push_str(&format!("  reason: {}\n", text("reason"))),
                None => told.push_str(&format!("  {body}\n")),
            }
            told
        }
        ClientOutcome::Left => format!("\nThe client left after {waited} ms and was told nothing.\n"),
        ClientOutcome::Failed(why) => format!("\nThe client got no answer: {why}\n"),
    }
}

fn client_end(outcome: &ClientOutcome) -> (Paint, String) {
    match outcome {
        ClientOutcome::Answered { status, saga_status, .. } => {
            let paint = if *status < 300 { Paint::Good } else { Paint::Compensation };
            (paint, format!("{status} {}", saga_status.as_deref().unwrap_or("")))
        }
        ClientOutcome::Left => (Paint::Bad, "left".to_owned()),
        ClientOutcome::Failed(_) => (Paint::Bad, "no answer".to_owned()),
    }
}

/// Where a step is in the end, going by its participant's database.
fn step_end(recording: &Recording, role: &str) -> (Paint, String) {
    let rows = recording.rows(role);
    let standing = rows.iter().find(|row| row.state == BookingState::Booked);
    match (standing, rows.first()) {
        (Some(row), _) => (Paint::Good, format!("booked {}", row.id)),
        (None, Some(row)) => (Paint::Compensation, format!("cancelled {}", row.id)),
        (None, None) if !recording.wanted.contains(&role) => (Paint::Faint, "not wanted".to_owned()),
        (None, None) if recording.spans(role).is_empty() => (Paint::Faint, "never asked".to_owned()),
        (None, None) => (Paint::Bad, "never booked".to_owned()),
    }
}

fn draw_client(recording: &Recording, scale: &Scale) -> Line {
    let until = recording.client.until_us;
    let (end, paint) = match recording.client.outcome {
        ClientOutcome::Answered { .. } => ('┤', Paint::Plain),
        ClientOutcome::Left | ClientOutcome::Failed(_) => ('╳', Paint::Bad),
    };
    // Not left of an answer that a participant gave before, be it pushed to the right.
    let before = |role| {
        let spans: Vec<_> = recording.spans(role).into_iter().filter(|(_, over)| *over <= until).collect();
        draw_spans(&spans, scale).cells.len()
    };
    let end_column = STEPS.into_iter().map(before).max().unwrap_or(0).max(scale.column(until));
    let mut line = Line::default();
    (0..end_column).for_each(|column| line.put(column, '─', Paint::Plain));
    line.put(end_column, end, paint);
    line
}

fn draw_step(recording: &Recording, role: &str, scale: &Scale) -> Line {
    draw_spans(&recording.spans(role), scale)
}

fn draw_spans(spans: &[(&Attempt, i64)], scale: &Scale) -> Line {
    let mut line = Line::default();
    for (attempt, over) in spans {
        let is_transaction = attempt.action.as_deref() != Some("compensation");
        let (bar, applied, paint) =
            if is_transaction { ('▓', '●', Paint::Transaction) } else { ('░', '○', Paint::Compensation) };
        let number = attempt.attempt.filter(|number| *number > 1).and_then(|number| char::from_digit(number, 10));
        let start = scale.column(attempt.received_at_us).max(line.cells.len());
        let after_number = start + usize::from(number.is_some());
        // A column of the bar, by which a compensation is told from a transaction.
        let shortest = usize::from(attempt.applied_at_us.is_some()) + usize::from(number.is_none());
        let mark = scale.column(*over).max(after_number + shortest);
        (start..mark).for_each(|column| line.put(column, bar, paint));
        if let Some(number) = number {
            line.put(start, number, paint);
        }
        if let Some(at_us) = attempt.applied_at_us {
            line.put(scale.column(at_us).clamp(after_number, mark - 1), applied, paint);
        }
        let (sign, paint) = answer_sign(attempt.status);
        line.put(mark, sign, paint);
    }
    line
}

/// What the answer says of the outcome, by the rules that hold where a definition has none of its own.
fn answer_sign(status: Option<u16>) -> (char, Paint) {
    match status {
        Some(200..300) => ('✓', Paint::Good),
        Some(408 | 425 | 429) => ('?', Paint::Unknown),
        Some(400..500) => ('✗', Paint::Bad),
        Some(_) | None => ('?', Paint::Unknown),
    }
}

/// From time to columns.
struct Scale {
    zero: i64,
    span_us: i64,
}

impl Scale {
    fn column(&self, at_us: i64) -> usize {
        let since = (at_us - self.zero).clamp(0, self.span_us);
        usize::try_from(since * (AXIS as i64 - 1) / self.span_us).unwrap_or(0)
    }

    /// The labels, in milliseconds, and the rule below them.
    fn axis(&self) -> (Line, Line) {
        let (mut labels, mut rule) = (Line::default(), Line::default());
        (0..AXIS).for_each(|column| rule.put(column, '─', Paint::Faint));
        for tick in 0.. {
            let at_ms = tick * self.tick_ms();
            if at_ms * 1_000 > self.span_us {
                break;
            }
            let column = self.column(self.zero + at_ms * 1_000);
            rule.put(column, '┼', Paint::Faint);
            for (offset, digit) in at_ms.to_string().chars().enumerate() {
                labels.put(column + offset, digit, Paint::Faint);
            }
        }
        (labels, rule)
    }

    /// The smallest 1, 2 or 5 times a power of ten at which labels have room.
    fn tick_ms(&self) -> i64 {
        let room = |ms: &i64| ms * 1_000 * (AXIS as i64) >= TICK * self.span_us;
        let powers = (0..15).map(|power| 10_i64.pow(power));
        powers.flat_map(|power| [power, 2 * power, 5 * power]).find(room).unwrap_or(i64::MAX / 1_000)
    }
}

/// Characters with their paint.
#[derive(Default)]
struct Line {
    cells: Vec<(char, Paint)>,
}

impl Line {
    fn put(&mut self, column: usize, sign: char, paint: Paint) {
        if self.cells.len() <= column {
            self.cells.resize(column + 1, (' ', Paint::Plain));
        }
        self.cells[column] = (sign, paint);
    }

    /// The line, filled up to `width` columns.
    fn render(&self, width: usize, palette: Palette) -> String {
        let runs = self.cells.chunk_by(|one, next| one.1 == next.1);
        let text = |run: &[(char, Paint)]| run.iter().map(|(sign, _)| sign).collect::<String>();
        let painted: String = runs.map(|run| palette.paint(run[0].1, &text(run))).collect();
        painted + &" ".repeat(width.saturating_sub(self.cells.len()))
    }
}
