//! The bytes of the ABI: the module's memory, and lists of pairs in it.

use wasmtime::{Caller, Error, Memory, Result, TypedFunc};

use super::Guest;
use crate::simulator::host::Headers;

/// Where the module keeps its memory, and how it is asked for some.
#[derive(Clone)]
pub(super) struct GuestMemory {
    pub(super) memory: Memory,
    pub(super) allocate: TypedFunc<u32, u32>,
}

/// An address and a length, as the module gives them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice(pub(super) u32, pub(super) u32);

fn guest_memory(caller: &Caller<'_, Guest>) -> Result<GuestMemory> {
    caller.data().memory.clone().ok_or_else(|| Error::msg("a host call before the module was instantiated"))
}

/// Copies bytes out of the module.
pub(super) fn read(caller: &Caller<'_, Guest>, slice: Slice) -> Result<Vec<u8>> {
    let memory = guest_memory(caller)?.memory.data(caller);
    let start = slice.0 as usize;
    let bytes = start.checked_add(slice.1 as usize).and_then(|end| memory.get(start..end));
    bytes.map(<[u8]>::to_vec).ok_or_else(|| Error::msg(format!("{slice:?} is outside of the module's memory")))
}

/// Copies text out of the module.
pub(super) fn read_text(caller: &Caller<'_, Guest>, slice: Slice) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(caller, slice)?).into_owned())
}

/// Copies pairs out of the module; names in lower case, as Envoy makes them.
pub(super) fn read_pairs(caller: &Caller<'_, Guest>, slice: Slice) -> Result<Headers> {
    let bytes = read(caller, slice)?;
    if bytes.is_empty() {
        return Ok(Headers::new());
    }
    parse_pairs(&bytes).ok_or_else(|| Error::msg("the module gave a list of pairs that is none"))
}

/// Writes bytes into the module.
pub(super) fn write(caller: &mut Caller<'_, Guest>, at: u32, bytes: &[u8]) -> Result<()> {
    let memory = guest_memory(caller)?.memory;
    memory.write(caller, at as usize, bytes).map_err(Error::from)
}

/// Gives bytes to the module, in memory that it is asked for: their address and length go where it says.
pub(super) fn give(caller: &mut Caller<'_, Guest>, bytes: &[u8], address_at: u32, length_at: u32) -> Result<()> {
    let length = u32::try_from(bytes.len())?;
    let address = if length == 0 {
        0
    } else {
        let address = guest_memory(caller)?.allocate.call(&mut *caller, length)?;
        write(caller, address, bytes)?;
        address
    };
    write(caller, address_at, &address.to_le_bytes())?;
    write(caller, length_at, &length.to_le_bytes())
}

/// The number of pairs, their lengths, and then the pairs, each half ended by a zero.
pub(super) fn pairs(headers: &Headers) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut out = u32::try_from(headers.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    for (name, value) in headers {
        out.extend(length(name.as_bytes()));
        out.extend(length(value));
    }
    for half in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        out.extend(half);
        out.push(0);
    }
    out
}

fn parse_pairs(bytes: &[u8]) -> Option<Headers> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let count = number(0)?;
    let mut at = 4 + 8 * count;
    let mut half = |length: usize| {
        let bytes = bytes.get(at..at + length)?;
        at += length + 1;
        Some(bytes.to_vec())
    };
    (0..count)
        .map(|index| {
            let (name, value) = (half(number(4 + 8 * index)?)?, half(number(8 + 8 * index)?)?);
            Some((String::from_utf8_lossy(&name).to_ascii_lowercase(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_as_they_were_and_names_in_lower_case() {
        let headers = vec![("X-One".to_owned(), b"1".to_vec()), ("empty".to_owned(), Vec::new())];
        let lower = vec![("x-one".to_owned(), b"1".to_vec()), ("empty".to_owned(), Vec::new())];
        assert_eq!(parse_pairs(&pairs(&headers)), Some(lower));
        assert_eq!(parse_pairs(&pairs(&Headers::new())), Some(Headers::new()));
        assert_eq!(parse_pairs(&[1, 0, 0, 0, 9, 0, 0, 0]), None);
    }
}
