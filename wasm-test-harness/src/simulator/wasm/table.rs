//! The one table of host calls: from the bytes of the ABI to [`Host`](crate::simulator::host::Host).
//!
//! A host call that is not in the table is refused by its name when the module is loaded; of those in [`NEVER_CALLED`],
//! which the SDK links whether or not the filter uses them, a call is a trap.

use wasmtime::{Caller, Error, Linker, Module, Result};

use super::Guest;
use super::memory::{Slice, give, pairs, read, read_pairs, read_text, write};
use super::wasi;
use crate::simulator::host::{CalloutAnswer, Headers, Status, value};

/// Host calls that the SDK links and the filter does not make.
const NEVER_CALLED: &[&str] = &[
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_set_buffer_bytes",
    "proxy_set_header_map_pairs",
];

/// The only foreign function that the filter calls.
const CLEAR_ROUTE_CACHE: &str = "clear_route_cache";

const OK: u32 = 0;

type Call<'a> = Caller<'a, Guest>;

/// Counts the host call, which may be the one at which this VM is to trap, and makes it.
pub(super) fn enter<R>(mut caller: Call<'_>, act: impl FnOnce(&mut Call<'_>) -> Result<R>) -> Result<R> {
    let guest = caller.data_mut();
    guest.host_calls += 1;
    if guest.trap_at == Some(guest.host_calls) {
        return Err(Error::msg(format!("trapped at host call {}, as was ordered", guest.host_calls)));
    }
    act(&mut caller)
}

fn number(result: std::result::Result<(), Status>) -> u32 {
    result.map_or_else(|status| status as u32, |()| OK)
}

/// A linker that has every host call that `module` imports.
///
/// # Errors
/// It imports one that nobody knows.
pub(super) fn linker(module: &Module) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(module.engine());
    add_host(&mut linker)?;
    add_streams(&mut linker)?;
    add_calls(&mut linker)?;
    add_shared(&mut linker)?;
    wasi::add(&mut linker)?;
    for import in module.imports() {
        if import.module() == "env"
            && let Some(name) = NEVER_CALLED.iter().find(|name| **name == import.name())
            && let Some(kind) = import.ty().func()
        {
            let refused = move |_: Call<'_>, _: &[_], _: &mut [_]| Err(Error::msg(format!("{name} is not simulated")));
            linker.func_new("env", name, kind.clone(), refused)?;
        }
    }
    Ok(linker)
}

fn add_host(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap("env", "proxy_log", |caller: Call<'_>, level: u32, at: u32, size: u32| {
        enter(caller, |caller| {
            let text = read_text(caller, Slice(at, size))?;
            caller.data_mut().host.effects.push(crate::simulator::host::Effect::Log(level, text));
            Ok(OK)
        })
    })?;
    linker.func_wrap("env", "proxy_get_current_time_nanoseconds", |caller: Call<'_>, at: u32| {
        enter(caller, |caller| {
            let now = caller.data().host.wall_ns();
            write(caller, at, &now.to_le_bytes())?;
            Ok(OK)
        })
    })?;
    linker.func_wrap("env", "proxy_set_tick_period_milliseconds", |caller: Call<'_>, period_ms: u32| {
        enter(caller, |caller| {
            caller.data_mut().host.set_tick_period(period_ms);
            Ok(OK)
        })
    })?;
    linker.func_wrap("env", "proxy_done", |caller: Call<'_>| {
        enter(caller, |caller| {
            let host = &mut caller.data_mut().host;
            host.effects.push(crate::simulator::host::Effect::Done(host.effective));
            Ok(OK)
        })
    })?;
    linker.func_wrap("env", "proxy_set_effective_context", |caller: Call<'_>, context: u32| {
        enter(caller, |caller| Ok(number(caller.data_mut().host.set_effective(context))))
    })?;
    linker.func_wrap(
        "env",
        "proxy_call_foreign_function",
        |caller: Call<'_>, at: u32, size: u32, _: u32, _: u32, _: u32, _: u32| {
            enter(caller, |caller| {
                let known = read_text(caller, Slice(at, size))? == CLEAR_ROUTE_CACHE;
                Ok(if known { OK } else { Status::NotFound as u32 })
            })
        },
    )?;
    linker.func_wrap("env", "proxy_define_metric", |caller: Call<'_>, _: u32, at: u32, size: u32, id_at: u32| {
        enter(caller, |caller| {
            let name = read_text(caller, Slice(at, size))?;
            let id = caller.data().host.process.borrow_mut().define_metric(&name);
            write(caller, id_at, &id.to_le_bytes())?;
            Ok(OK)
        })
    })?;
    linker.func_wrap("env", "proxy_increment_metric", |caller: Call<'_>, id: u32, offset: i64| {
        enter(caller, |caller| Ok(number(caller.data().host.process.borrow_mut().increment_metric(id, offset))))
    })?;
    Ok(())
}

/// What a header map of the ABI is here.
enum Map {
    Request,
    Answer,
    /// Trailers and headers of responses, of which nothing is simulated that a filter could read.
    Empty,
}

impl Map {
    fn of(number: u32) -> Map {
        match number {
            0 => Map::Request,
            6 => Map::Answer,
            _ => Map::Empty,
        }
    }

    /// Its lines; [`Status::BadArgument`] where there is no such map now, as for an answer that was cut short.
    fn lines(&self, caller: &Call<'_>) -> std::result::Result<Headers, Status> {
        match self {
            Map::Request => Ok(caller.data().host.stream()?.borrow().headers.clone()),
            Map::Answer => match &caller.data().host.answer {
                Some(CalloutAnswer::Whole { headers, .. }) => Ok(headers.clone()),
                Some(CalloutAnswer::Broken) | None => Err(Status::BadArgument),
            },
            Map::Empty => Ok(Headers::new()),
        }
    }
}

/// A buffer of the ABI.
fn buffer(caller: &Call<'_>, number: u32) -> Option<Vec<u8>> {
    let host = &caller.data().host;
    match number {
        0 => host.stream().ok().map(|stream| stream.borrow().body.clone()),
        4 => match &host.answer {
            Some(CalloutAnswer::Whole { body, .. }) => Some(body.clone()),
            Some(CalloutAnswer::Broken) | None => None,
        },
        6 => Some(Vec::new()),
        7 => Some(host.configuration().to_vec()),
        _ => None,
    }
}

fn add_streams(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |caller: Call<'_>, kind: u32, start: u32, max: u32, at: u32, size_at: u32| {
            enter(caller, |caller| {
                let Some(bytes) = buffer(caller, kind) else { return Ok(Status::NotFound as u32) };
                let start = (start as usize).min(bytes.len());
                let end = start.saturating_add(max as usize).min(bytes.len());
                give(caller, &bytes[start..end], at, size_at)?;
                Ok(OK)
            })
        },
    )?;
    linker.func_wrap("env", "proxy_get_header_map_pairs", |caller: Call<'_>, map: u32, at: u32, size_at: u32| {
        enter(caller, |caller| {
            // Of an answer that was cut short the map getter gives an empty list; only the getters of one value fail.
            let lines = Map::of(map).lines(caller).unwrap_or_default();
            give(caller, &pairs(&lines), at, size_at)?;
            Ok(OK)
        })
    })?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_value",
        |caller: Call<'_>, map: u32, name: u32, name_size: u32, at: u32, size_at: u32| {
            enter(caller, |caller| {
                let name = read_text(caller, Slice(name, name_size))?.to_ascii_lowercase();
                let lines = match Map::of(map).lines(caller) {
                    Ok(lines) => lines,
                    Err(status) => return Ok(status as u32),
                };
                let Some(found) = value(&lines, &name) else { return Ok(Status::NotFound as u32) };
                give(caller, found, at, size_at)?;
                Ok(OK)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |caller: Call<'_>, path: u32, size: u32, at: u32, size_at: u32| {
            enter(caller, |caller| {
                let path = read(caller, Slice(path, size))?;
                let stream = caller.data().host.stream();
                let Some(found) = stream.ok().and_then(|stream| stream.borrow().property(&path)) else {
                    return Ok(Status::NotFound as u32);
                };
                give(caller, &found, at, size_at)?;
                Ok(OK)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |caller: Call<'_>, path: u32, path_size: u32, new: u32, new_size: u32| {
            enter(caller, |caller| {
                let path = read(caller, Slice(path, path_size))?;
                let new = read(caller, Slice(new, new_size))?;
                let Ok(stream) = caller.data().host.stream() else { return Ok(Status::NotFound as u32) };
                stream.borrow_mut().properties.insert(path, new);
                Ok(OK)
            })
        },
    )?;
    let set = |caller: Call<'_>, map: u32, name: Slice, new: Option<Slice>, keep: bool| {
        enter(caller, |caller| {
            let name = read_text(caller, name)?.to_ascii_lowercase();
            let new = new.map(|new| read(caller, new)).transpose()?;
            let (Map::Request, Ok(stream)) = (Map::of(map), caller.data().host.stream()) else {
                return Ok(Status::BadArgument as u32);
            };
            let lines = &mut stream.borrow_mut().headers;
            if !keep {
                lines.retain(|(other, _)| *other != name);
            }
            lines.extend(new.map(|new| (name, new)));
            Ok(OK)
        })
    };
    linker.func_wrap(
        "env",
        "proxy_replace_header_map_value",
        move |caller: Call<'_>, map: u32, name: u32, name_size: u32, new: u32, new_size: u32| {
            set(caller, map, Slice(name, name_size), Some(Slice(new, new_size)), false)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_add_header_map_value",
        move |caller: Call<'_>, map: u32, name: u32, name_size: u32, new: u32, new_size: u32| {
            set(caller, map, Slice(name, name_size), Some(Slice(new, new_size)), true)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_remove_header_map_value",
        move |caller: Call<'_>, map: u32, name: u32, name_size: u32| {
            set(caller, map, Slice(name, name_size), None, false)
        },
    )?;
    Ok(())
}

fn add_calls(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_http_call",
        |caller: Call<'_>,
         cluster: u32,
         cluster_size: u32,
         headers: u32,
         headers_size: u32,
         body: u32,
         body_size: u32,
         _trailers: u32,
         _trailers_size: u32,
         timeout_ms: u32,
         token_at: u32| {
            enter(caller, |caller| {
                let cluster = read_text(caller, Slice(cluster, cluster_size))?;
                let headers = read_pairs(caller, Slice(headers, headers_size))?;
                let body = read(caller, Slice(body, body_size))?;
                match caller.data_mut().host.dispatch(cluster, headers, body, timeout_ms) {
                    Ok(token) => {
                        write(caller, token_at, &token.to_le_bytes())?;
                        Ok(OK)
                    }
                    Err(status) => Ok(status as u32),
                }
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_send_local_response",
        |caller: Call<'_>,
         status: u32,
         _details: u32,
         _details_size: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         _grpc_status: i32| {
            enter(caller, |caller| {
                let body = read(caller, Slice(body, body_size))?;
                let headers = read_pairs(caller, Slice(headers, headers_size))?;
                caller.data_mut().host.reply(status, headers, body);
                Ok(OK)
            })
        },
    )?;
    Ok(())
}

fn add_shared(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |caller: Call<'_>, key: u32, key_size: u32, at: u32, size_at: u32, cas_at: u32| {
            enter(caller, |caller| {
                let key = read(caller, Slice(key, key_size))?;
                let process = std::rc::Rc::clone(&caller.data().host.process);
                let found = process.borrow().shared(&key).map(|(bytes, cas)| (bytes.to_vec(), cas));
                let Some((bytes, cas)) = found else { return Ok(Status::NotFound as u32) };
                give(caller, &bytes, at, size_at)?;
                write(caller, cas_at, &cas.to_le_bytes())?;
                Ok(OK)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |caller: Call<'_>, key: u32, key_size: u32, new: u32, new_size: u32, cas: u32| {
            enter(caller, |caller| {
                let key = read(caller, Slice(key, key_size))?;
                let new = read(caller, Slice(new, new_size))?;
                Ok(number(caller.data().host.process.borrow_mut().set_shared(&key, &new, cas)))
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_register_shared_queue",
        |caller: Call<'_>, name: u32, name_size: u32, id_at: u32| {
            enter(caller, |caller| {
                let name = read_text(caller, Slice(name, name_size))?;
                let id = caller.data_mut().host.register_queue(&name);
                write(caller, id_at, &id.to_le_bytes())?;
                Ok(OK)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_resolve_shared_queue",
        |caller: Call<'_>, _vm_id: u32, _vm_id_size: u32, name: u32, name_size: u32, id_at: u32| {
            enter(caller, |caller| {
                let name = read_text(caller, Slice(name, name_size))?;
                let id = caller.data().host.process.borrow().resolve_queue(&name);
                let Some(id) = id else { return Ok(Status::NotFound as u32) };
                write(caller, id_at, &id.to_le_bytes())?;
                Ok(OK)
            })
        },
    )?;
    linker.func_wrap("env", "proxy_dequeue_shared_queue", |caller: Call<'_>, id: u32, at: u32, size_at: u32| {
        enter(caller, |caller| {
            let item = caller.data().host.process.borrow_mut().dequeue(id);
            match item {
                Ok(item) => give(caller, &item, at, size_at).map(|()| OK),
                Err(status) => Ok(status as u32),
            }
        })
    })?;
    linker.func_wrap("env", "proxy_enqueue_shared_queue", |caller: Call<'_>, id: u32, item: u32, size: u32| {
        enter(caller, |caller| {
            let item = read(caller, Slice(item, size))?;
            Ok(number(caller.data_mut().host.enqueue(id, &item)))
        })
    })?;
    Ok(())
}
