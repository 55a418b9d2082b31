//! The little of WASI preview 1 that a module of Envoy has: clocks, random numbers, environment variables, and
//! output, which goes to the log. As Envoy's own, but deterministic.

use wasmtime::{Caller, Error, Linker, Result};

use super::Guest;
use super::memory::{Slice, read, write};
use super::table::enter;
use crate::simulator::host::Effect;

const WASI: &str = "wasi_snapshot_preview1";
const SUCCESS: u32 = 0;
const INVALID: u32 = 28;

const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
/// Level of the log for what the module prints: it does when it panics.
const CRITICAL: u32 = 5;

type Call<'a> = Caller<'a, Guest>;

pub(super) fn add(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(WASI, "clock_time_get", |caller: Call<'_>, clock: u32, _precision: u64, at: u32| {
        enter(caller, |caller| {
            let host = &caller.data().host;
            let now = match clock {
                REALTIME => host.wall_ns(),
                MONOTONIC => host.monotonic_ns(),
                _ => return Ok(INVALID),
            };
            write(caller, at, &now.to_le_bytes())?;
            Ok(SUCCESS)
        })
    })?;
    linker.func_wrap(WASI, "random_get", |caller: Call<'_>, at: u32, size: u32| {
        enter(caller, |caller| {
            let mut bytes = vec![0; size as usize];
            caller.data_mut().host.random(&mut bytes);
            write(caller, at, &bytes)?;
            Ok(SUCCESS)
        })
    })?;
    linker.func_wrap(WASI, "environ_sizes_get", |caller: Call<'_>, count_at: u32, size_at: u32| {
        enter(caller, |caller| {
            let lines = environment(caller);
            let size: usize = lines.iter().map(Vec::len).sum();
            write(caller, count_at, &u32::try_from(lines.len())?.to_le_bytes())?;
            write(caller, size_at, &u32::try_from(size)?.to_le_bytes())?;
            Ok(SUCCESS)
        })
    })?;
    linker.func_wrap(WASI, "environ_get", |caller: Call<'_>, addresses_at: u32, lines_at: u32| {
        enter(caller, |caller| {
            let (mut address_at, mut line_at) = (addresses_at, lines_at);
            for line in environment(caller) {
                write(caller, address_at, &line_at.to_le_bytes())?;
                write(caller, line_at, &line)?;
                address_at += 4;
                line_at += u32::try_from(line.len())?;
            }
            Ok(SUCCESS)
        })
    })?;
    linker.func_wrap(WASI, "fd_write", |caller: Call<'_>, _fd: u32, vectors: u32, count: u32, written_at: u32| {
        enter(caller, |caller| {
            let mut text = Vec::new();
            for index in 0..count {
                let vector = read(caller, Slice(vectors + 8 * index, 8))?;
                let number = |at: usize| vector[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or(0);
                text.extend(read(caller, Slice(number(0), number(4)))?);
            }
            write(caller, written_at, &u32::try_from(text.len())?.to_le_bytes())?;
            let text = String::from_utf8_lossy(&text).into_owned();
            caller.data_mut().host.effects.push(Effect::Log(CRITICAL, text));
            Ok(SUCCESS)
        })
    })?;
    linker.func_wrap(WASI, "proc_exit", |_: Call<'_>, code: u32| -> Result<()> {
        Err(Error::msg(format!("the module ended itself with {code}")))
    })?;
    Ok(())
}

/// Each `name=value`, ended by a zero.
fn environment(caller: &Call<'_>) -> Vec<Vec<u8>> {
    let variables = &caller.data().host.environment;
    variables.iter().map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}
