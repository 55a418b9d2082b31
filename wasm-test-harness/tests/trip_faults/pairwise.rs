//! Covering arrays of strength two: few rows in which every pair of values of every two parameters occurs.

use std::collections::BTreeSet;

/// A value of a parameter, both by index.
type Choice = (usize, usize);

/// Rows of indices into parameters with so many values each. Greedy, after Cohen et al., "The AETG system" (1997):
/// each row begins with a pair that is not covered yet and takes, parameter by parameter, the value that covers most.
pub fn covering_array(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut uncovered = all_pairs(sizes);
    let mut rows = Vec::new();
    while let Some(&(one, other)) = uncovered.first() {
        let mut row: Vec<Option<usize>> = vec![None; sizes.len()];
        row[one.0] = Some(one.1);
        row[other.0] = Some(other.1);
        for parameter in 0..sizes.len() {
            if row[parameter].is_none() {
                let gain = |value: &usize| {
                    let choices = row.iter().enumerate().filter_map(|(index, value)| Some((index, (*value)?)));
                    choices.filter(|choice| uncovered.contains(&pair(*choice, (parameter, *value)))).count()
                };
                // Of equal ones, the one that is taken differs from row to row, and for each parameter in its own way:
                // else two of them would nearly always change together.
                let turn = rows.len().wrapping_add(1).wrapping_mul(0x9e37_79b9) >> (3 * parameter + 2);
                let turned = (0..sizes[parameter]).map(|value| (value + turn) % sizes[parameter]);
                row[parameter] = turned.max_by_key(gain);
            }
        }
        let row: Vec<usize> = row.into_iter().flatten().collect();
        for pair in pairs_of(&row) {
            uncovered.remove(&pair);
        }
        rows.push(row);
    }
    rows
}

fn pair(one: Choice, other: Choice) -> (Choice, Choice) {
    (one.min(other), one.max(other))
}

fn pairs_of(row: &[usize]) -> Vec<(Choice, Choice)> {
    let choices: Vec<Choice> = row.iter().copied().enumerate().collect();
    let later = |index: usize| choices[index + 1..].iter().map(move |other| (index, *other));
    (0..row.len()).flat_map(later).map(|(index, other)| (choices[index], other)).collect()
}

fn all_pairs(sizes: &[usize]) -> BTreeSet<(Choice, Choice)> {
    let choices = |parameter: usize| (0..sizes[parameter]).map(move |value| (parameter, value));
    let mut pairs = BTreeSet::new();
    for one in 0..sizes.len() {
        for other in one + 1..sizes.len() {
            pairs.extend(choices(one).flat_map(|one| choices(other).map(move |other| (one, other))));
        }
    }
    pairs
}

#[test]
fn every_pair_occurs_and_rows_are_few() {
    let sizes = [18, 3, 2, 2, 2, 2, 2, 2];
    let rows = covering_array(&sizes);
    let covered: BTreeSet<_> = rows.iter().flat_map(|row| pairs_of(row)).collect();
    assert_eq!(covered, all_pairs(&sizes));
    assert!((18 * 3..=18 * 4).contains(&rows.len()), "{} rows", rows.len());
}
