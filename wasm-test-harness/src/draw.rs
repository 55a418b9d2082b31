//! Draws the sagas of a configuration: as a Mermaid flowchart, or as text for the terminal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use sagabox::definition::{Definition, Step};
use serde_json::Value;

use crate::check::{Found, configurations};

/// What `draw` takes.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A configuration, an Envoy bootstrap or an Istio WasmPlugin, as YAML or JSON.
    pub file: PathBuf,
    /// How to draw.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A flowchart for <https://mermaid.js.org>.
    Mermaid,
    /// For the terminal: what runs at the same time stands together.
    Text,
}

/// Draws every saga of the file.
///
/// # Errors
///
/// When the file cannot be read, or a configuration in it has errors.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {file}"))?;
    for found in configurations(&text).with_context(|| file.to_string())? {
        print!("{}", draw(&found, arguments.format)?);
    }
    Ok(())
}

/// Draws the sagas of one configuration.
///
/// # Errors
///
/// When the configuration has errors.
pub fn draw(found: &Found, format: Format) -> anyhow::Result<String> {
    let configuration = found.load()?;
    let drawings = configuration.definitions.iter().enumerate().map(|(index, definition)| {
        let source = &found.json["sagas"][index];
        match format {
            Format::Mermaid => mermaid(definition, source),
            Format::Text => text(definition, source),
        }
    });
    Ok(drawings.collect::<Vec<_>>().join("\n"))
}

/// A call as pictures show it. Templates are shown as they are written, which only the source tells.
fn call(step: &Step, source: &Value, part: &str) -> Option<String> {
    let call = match part {
        "transaction" => &step.transaction,
        _ => step.compensation.as_ref()?,
    };
    let path = source[part]["path"].as_str().unwrap_or_default();
    Some(format!("{} {} {path}", call.method, call.cluster))
}

/// How many steps come before, at most, on a way to this one; what is equal may run at the same time.
fn levels(definition: &Definition) -> Vec<usize> {
    let mut levels = vec![0; definition.steps.len()];
    // Each round settles at least one more level, and there are no circles.
    for _ in 0..definition.steps.len() {
        for (index, step) in definition.steps.iter().enumerate() {
            levels[index] = step.after.iter().map(|before| levels[*before] + 1).max().unwrap_or(0);
        }
    }
    levels
}

fn names(definition: &Definition, steps: &[usize]) -> String {
    steps.iter().map(|step| definition.steps[*step].name.as_str()).collect::<Vec<_>>().join(", ")
}

fn text(definition: &Definition, source: &Value) -> String {
    let levels = levels(definition);
    let width = definition.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
    let seconds = Duration::as_secs_f64(&definition.deadline);
    let mut drawing = format!("{}: {}, deadline {seconds}s\n", definition.name, definition.matcher);
    for level in 0..=levels.iter().copied().max().unwrap_or(0) {
        let steps: Vec<_> = (0..levels.len()).filter(|step| levels[*step] == level).collect();
        for (position, index) in steps.iter().enumerate() {
            let step = &definition.steps[*index];
            let source = &source["steps"][*index];
            let number = if position == 0 { format!("{}", level + 1) } else { String::new() };
            let bracket = match (steps.len(), position) {
                (1, _) => ' ',
                (_, 0) => '┌',
                (count, position) if position + 1 == count => '└',
                _ => '│',
            };
            let mut line = |head: &str, text: String| {
                drawing.push_str(&format!("  {number:>2} {bracket} {head:width$}  {text}\n"));
            };
            line(&step.name, call(step, source, "transaction").unwrap_or_default());
            let inner = if position + 1 == steps.len() { ' ' } else { '│' };
            let mut detail = |text: String| {
                let inner = if steps.len() == 1 { ' ' } else { inner };
                drawing.push_str(&format!("     {inner} {:width$}  {text}\n", ""));
            };
            if let Some(when) = &step.when {
                detail(format!("when {}", when.source()));
            }
            if !step.after.is_empty() {
                detail(format!("after {}", names(definition, &step.after)));
            }
            detail(match call(step, source, "compensation") {
                Some(undo) => format!("undo {undo}"),
                None => "nothing to undo".to_owned(),
            });
        }
    }
    let (completed, compensated) = (definition.completed.status, definition.compensated.status);
    drawing.push_str(&format!("  => completed {completed}, or compensated {compensated}\n"));
    drawing
}

fn mermaid(definition: &Definition, source: &Value) -> String {
    // Names of sagas and steps are words to Mermaid, except some that it reserves: so numbers are the ids.
    let mut lines = vec![
        "flowchart LR".to_owned(),
        format!("  begin([{}])", quoted(&[&definition.matcher.to_string()])),
        format!("  completed([{}])", quoted(&[&format!("completed {}", definition.completed.status)])),
        format!("  compensated([{}])", quoted(&[&format!("compensated {}", definition.compensated.status)])),
    ];
    for (index, step) in definition.steps.iter().enumerate() {
        let source = &source["steps"][index];
        let transaction = call(step, source, "transaction").unwrap_or_default();
        lines.push(match &step.when {
            Some(when) => {
                let label = quoted(&[&step.name, &transaction, &format!("when {}", when.source())]);
                format!("  step{index}{{{{{label}}}}}")
            }
            None => format!("  step{index}[{}]", quoted(&[&step.name, &transaction])),
        });
        if let Some(undo) = call(step, source, "compensation") {
            lines.push(format!("  undo{index}[/{}/]", quoted(&[&format!("undo {}", step.name), &undo])));
        }
    }
    for (index, step) in definition.steps.iter().enumerate() {
        if step.after.is_empty() {
            lines.push(format!("  begin --> step{index}"));
        }
        lines.extend(step.after.iter().map(|before| format!("  step{before} --> step{index}")));
        if step.successors.is_empty() {
            lines.push(format!("  step{index} --> completed"));
        }
        if step.compensation.is_some() {
            lines.push(format!("  step{index} -. undo .-> undo{index}"));
            lines.push(format!("  undo{index} -.-> compensated"));
        }
    }
    format!("%% {}\n{}\n", definition.name, lines.join("\n"))
}

/// A label of several lines. Mermaid takes entities for what would end or format it.
fn quoted(lines: &[&str]) -> String {
    let escape = |line: &&str| {
        line.chars().fold(String::new(), |mut text, c| {
            match c {
                '"' | '#' | '<' | '>' | '&' | ';' | '`' | '\\' => text.push_str(&format!("#{};", u32::from(c))),
                c if c.is_control() => text.push(' '),
                c => text.push(c),
            }
            text
        })
    };
    format!("\"{}\"", lines.iter().map(escape).collect::<Vec<_>>().join("<br/>"))
}
