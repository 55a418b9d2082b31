//! A VM that runs the compiled filter: the very file that ships.
//!
//! The crate `proxy-wasm-host` has this shape (one table of host calls, ports for what is outside, a trap poisons the
//! VM, unknown imports are refused by name), but no way to say what `random_get` gives, and a newer Rust than this
//! project's.

mod memory;
mod table;
mod wasi;

use std::path::Path;

use anyhow::Context as _;
use wasmtime::{Config, Engine, InstancePre, Memory, Module, Store, TypedFunc, WasmParams, WasmResults};

use self::memory::GuestMemory;
use super::host::{CalloutAnswer, Host};
use super::process::ContextId;
use super::vm::{Action, Trapped, Vm};

/// How much a callback may compute, in units of the engine (about one for each instruction): one that takes more, which
/// is some seconds, hangs its worker.
const FUEL_OF_A_CALLBACK: u64 = 5_000_000_000;

/// What belongs to one VM.
pub(super) struct Guest {
    host: Host,
    memory: Option<GuestMemory>,
    host_calls: u64,
    /// The VM traps at this host call.
    trap_at: Option<u64>,
}

/// A compiled filter, of which any number of VMs can be made.
#[derive(Clone)]
pub struct WasmFilter {
    engine: Engine,
    instance: InstancePre<Guest>,
}

impl WasmFilter {
    /// Reads and compiles a module.
    ///
    /// # Errors
    /// It cannot be read, is no module, or imports what no host call here is: the error names it.
    pub fn load(path: &Path) -> anyhow::Result<WasmFilter> {
        let bytes = std::fs::read(path).with_context(|| format!("the filter {}", path.display()))?;
        let mut config = Config::new();
        config.consume_fuel(true).cranelift_nan_canonicalization(true);
        let compile = || -> wasmtime::Result<WasmFilter> {
            let engine = Engine::new(&config)?;
            let module = Module::new(&engine, &bytes)?;
            let instance = table::linker(&module)?.instantiate_pre(&module)?;
            Ok(WasmFilter { engine, instance })
        };
        compile().map_err(|error| anyhow::anyhow!("the filter {}: {error:#}", path.display()))
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// The module's initialisation traps, or lacks an export.
    pub fn start(&self, host: Host) -> Result<WasmVm, Trapped> {
        let guest = Guest { host, memory: None, host_calls: 0, trap_at: None };
        let mut store = Store::new(&self.engine, guest);
        let mut start = || -> wasmtime::Result<Exports> {
            store.set_fuel(FUEL_OF_A_CALLBACK)?;
            let instance = self.instance.instantiate(&mut store)?;
            let memory: Option<Memory> = instance.get_memory(&mut store, "memory");
            let memory = memory.ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?;
            let allocate = instance.get_typed_func(&mut store, "proxy_on_memory_allocate")?;
            store.data_mut().memory = Some(GuestMemory { memory, allocate });
            let initialize: TypedFunc<(), ()> = instance.get_typed_func(&mut store, "_initialize")?;
            initialize.call(&mut store, ())?;
            Exports::of(&instance, &mut store)
        };
        match start() {
            Ok(exports) => Ok(WasmVm { store, exports, trapped: false }),
            Err(error) => Err(Trapped(format!("{error:#}"))),
        }
    }
}

impl std::fmt::Debug for WasmFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WasmFilter")
    }
}

/// The callbacks that are made.
#[derive(Clone)]
struct Exports {
    on_context_create: TypedFunc<(u32, u32), ()>,
    on_vm_start: TypedFunc<(u32, u32), u32>,
    on_configure: TypedFunc<(u32, u32), u32>,
    on_tick: TypedFunc<u32, ()>,
    on_queue_ready: TypedFunc<(u32, u32), ()>,
    on_request_headers: TypedFunc<(u32, u32, u32), u32>,
    on_request_body: TypedFunc<(u32, u32, u32), u32>,
    on_request_trailers: TypedFunc<(u32, u32), u32>,
    on_response_headers: TypedFunc<(u32, u32, u32), u32>,
    on_http_call_response: TypedFunc<(u32, u32, u32, u32, u32), ()>,
    on_done: TypedFunc<u32, u32>,
    on_log: TypedFunc<u32, ()>,
    on_delete: TypedFunc<u32, ()>,
}

impl Exports {
    fn of(instance: &wasmtime::Instance, store: &mut Store<Guest>) -> wasmtime::Result<Exports> {
        Ok(Exports {
            on_context_create: instance.get_typed_func(&mut *store, "proxy_on_context_create")?,
            on_vm_start: instance.get_typed_func(&mut *store, "proxy_on_vm_start")?,
            on_configure: instance.get_typed_func(&mut *store, "proxy_on_configure")?,
            on_tick: instance.get_typed_func(&mut *store, "proxy_on_tick")?,
            on_queue_ready: instance.get_typed_func(&mut *store, "proxy_on_queue_ready")?,
            on_request_headers: instance.get_typed_func(&mut *store, "proxy_on_request_headers")?,
            on_request_body: instance.get_typed_func(&mut *store, "proxy_on_request_body")?,
            on_request_trailers: instance.get_typed_func(&mut *store, "proxy_on_request_trailers")?,
            on_response_headers: instance.get_typed_func(&mut *store, "proxy_on_response_headers")?,
            on_http_call_response: instance.get_typed_func(&mut *store, "proxy_on_http_call_response")?,
            on_done: instance.get_typed_func(&mut *store, "proxy_on_done")?,
            on_log: instance.get_typed_func(&mut *store, "proxy_on_log")?,
            on_delete: instance.get_typed_func(&mut *store, "proxy_on_delete")?,
        })
    }
}

/// One VM. After a trap every callback fails.
pub struct WasmVm {
    store: Store<Guest>,
    exports: Exports,
    trapped: bool,
}

impl WasmVm {
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        context: ContextId,
        export: impl FnOnce(&Exports) -> &TypedFunc<P, R>,
        arguments: P,
    ) -> Result<R, Trapped> {
        if self.trapped {
            return Err(Trapped("the VM has trapped before".to_owned()));
        }
        self.store.data_mut().host.effective = context;
        let called = self.store.set_fuel(FUEL_OF_A_CALLBACK);
        let called = called.and_then(|()| export(&self.exports).call(&mut self.store, arguments));
        called.map_err(|error| {
            self.trapped = true;
            Trapped(format!("{:#}", error.root_cause()))
        })
    }
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Vm for WasmVm {
    fn host(&mut self) -> &mut Host {
        &mut self.store.data_mut().host
    }

    fn trap_after(&mut self, host_calls: u64) {
        let guest = self.store.data_mut();
        guest.trap_at = Some(guest.host_calls + host_calls);
    }

    fn create_root(&mut self, root: ContextId, configuration: &[u8]) -> Result<bool, Trapped> {
        self.host().roots.insert(root, configuration.to_vec());
        self.call(root, |exports| &exports.on_context_create, (root, 0))?;
        let started = self.call(root, |exports| &exports.on_vm_start, (root, 0))?;
        let configured = self.call(root, |exports| &exports.on_configure, (root, size(configuration.len())))?;
        Ok(started != 0 && configured != 0)
    }

    fn create_stream(&mut self, stream: ContextId, root: ContextId) -> Result<(), Trapped> {
        self.call(stream, |exports| &exports.on_context_create, (stream, root))
    }

    fn request_headers(&mut self, stream: ContextId, count: usize, end: bool) -> Result<Action, Trapped> {
        let arguments = (stream, size(count), u32::from(end));
        self.call(stream, |exports| &exports.on_request_headers, arguments).map(Action::of)
    }

    fn request_body(&mut self, stream: ContextId, bytes: usize, end: bool) -> Result<Action, Trapped> {
        let arguments = (stream, size(bytes), u32::from(end));
        self.call(stream, |exports| &exports.on_request_body, arguments).map(Action::of)
    }

    fn request_trailers(&mut self, stream: ContextId, count: usize) -> Result<Action, Trapped> {
        self.call(stream, |exports| &exports.on_request_trailers, (stream, size(count))).map(Action::of)
    }

    fn response_headers(&mut self, stream: ContextId, count: usize, end: bool) -> Result<Action, Trapped> {
        let arguments = (stream, size(count), u32::from(end));
        self.call(stream, |exports| &exports.on_response_headers, arguments).map(Action::of)
    }

    fn callout_ended(&mut self, root: ContextId, token: u32, answer: CalloutAnswer) -> Result<(), Trapped> {
        let (headers, body) = match &answer {
            CalloutAnswer::Whole { headers, body } => (headers.len(), body.len()),
            CalloutAnswer::Broken => (0, 0),
        };
        self.host().answer = Some(answer);
        let arguments = (root, token, size(headers), size(body), 0);
        let called = self.call(root, |exports| &exports.on_http_call_response, arguments);
        self.host().answer = None;
        called
    }

    fn tick(&mut self, root: ContextId) -> Result<(), Trapped> {
        self.call(root, |exports| &exports.on_tick, root)
    }

    fn queue_ready(&mut self, root: ContextId, queue: u32) -> Result<(), Trapped> {
        self.call(root, |exports| &exports.on_queue_ready, (root, queue))
    }

    fn done(&mut self, context: ContextId) -> Result<bool, Trapped> {
        self.call(context, |exports| &exports.on_done, context).map(|done| done != 0)
    }

    fn log(&mut self, context: ContextId) -> Result<(), Trapped> {
        self.call(context, |exports| &exports.on_log, context)
    }

    fn delete(&mut self, context: ContextId) -> Result<(), Trapped> {
        self.call(context, |exports| &exports.on_delete, context)
    }
}
