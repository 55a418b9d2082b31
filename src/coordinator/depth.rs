//! How deep a saga is in sagas that call each other.

use crate::facts::ClientRequest;
use crate::saga::{MAX_DEPTH, Problem, Reply};

/// The header that says it.
pub(super) const HEADER: &str = "saga-depth";

/// How deep the saga is that a request begins: one deeper than the saga whose call it is. None: too deep.
pub(super) fn of(request: &ClientRequest) -> Option<u8> {
    let mut lines = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(HEADER));
    let Some((_, value)) = lines.next() else { return Some(1) };
    // What is no number was not written by a saga.
    let caller: u64 = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok()).unwrap_or(0);
    let depth = u8::try_from(caller.saturating_add(1)).ok()?;
    (depth <= MAX_DEPTH).then_some(depth)
}

/// The answer to a request that would begin a saga too deep.
pub(super) fn too_deep() -> Reply {
    let detail = format!(
        "the request is a call of a saga, which {MAX_DEPTH} sagas have called one another to make: \
         a saga whose participant is its own proxy calls itself without end"
    );
    Problem::new(508, "too-deep", "Sagas call each other too deeply", detail).into_reply()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_a_saga_begins_one_that_is_deeper_and_the_ninth_is_refused() {
        let depth = |value: Option<&str>| {
            let headers = value.map(|value| ("Saga-Depth".to_owned(), value.as_bytes().to_vec()));
            of(&ClientRequest { headers: headers.into_iter().collect(), ..ClientRequest::default() })
        };
        let cases = [
            (None, Some(1)),
            (Some("1"), Some(2)),
            (Some("7"), Some(8)),
            (Some("8"), None),
            (Some("254"), None),
            (Some("18446744073709551615"), None),
            (Some("nonsense"), Some(1)),
        ];
        for (value, expected) in cases {
            assert_eq!(depth(value), expected, "{value:?}");
        }
        assert_eq!(too_deep().status, 508);
    }
}
