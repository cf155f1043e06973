//! One JavaScript machine serving one service: synchronous slices in, settled messages and wanted
//! operations out. Nothing here waits.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use relay_proto::ServiceName;
use rquickjs::{
    Context, Ctx, Exception, Function, Module, Object, Persistent, Runtime, Value,
    context::EvalOptions, promise::PromiseState,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    error::{ScriptError, ScriptFault, place},
    host::Host,
    limits::{Budget, Limit, ScriptLimits},
};
use crate::journal::LogLevel;

const PRELUDE: &str = include_str!("prelude.js");
/// What `import … from "relay"` yields.
const RELAY_MODULE: &str = "export const { service, RpcError, invalid } = globalThis;";

/// A script's text, the name it goes by in errors, and what it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub file: String,
    pub text: String,
    pub limits: ScriptLimits,
}

/// What a script says of one of its services.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Description {
    pub name: String,
    pub version: String,
    pub description: Option<String>,
    pub public: bool,
    pub state_version: u32,
    pub methods: Vec<String>,
    pub on: Vec<Subscription>,
    pub timers: Vec<DeclaredTimer>,
    pub start: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Subscription {
    pub name: String,
    pub filter: Box<RawValue>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct DeclaredTimer {
    pub name: String,
    pub every_ms: Option<u64>,
}

/// How a message ended inside the machine.
#[derive(Debug)]
pub(super) enum Settled {
    Done {
        result: String,
        /// Where it changed.
        state: Option<String>,
        /// A JSON list, where timers were set or cleared.
        timers: Option<String>,
    },
    Thrown(Thrown),
}

#[derive(Debug, Clone)]
pub(super) struct Thrown {
    /// `{code, message, data}` where the script threw an `RpcError`.
    pub rpc: Option<String>,
    pub detail: String,
    pub stack: String,
}

/// Something the script waits for.
#[derive(Debug)]
pub(super) struct Operation {
    pub id: u32,
    pub kind: String,
    pub argument: String,
}

/// What the native functions and their owner share.
struct Shared {
    host: Arc<dyn Host>,
    limits: ScriptLimits,
    budget: Budget,
    service: ServiceName,
    settled: RefCell<Option<Settled>>,
    wanted: RefCell<Vec<Operation>>,
    last_operation: Cell<u32>,
    /// Operations of this message under way.
    open: Cell<usize>,
    logged: Cell<u32>,
}

/// The functions the prelude answers with.
struct Entries {
    run: Persistent<Function<'static>>,
    resolve: Persistent<Function<'static>>,
    abandon: Persistent<Function<'static>>,
}

/// A loaded script.
pub(super) struct Vm {
    // Values of the machine go before the machine itself: fields drop in this order.
    entries: Entries,
    bind: Persistent<Function<'static>>,
    module: Persistent<Object<'static>>,
    context: Context,
    runtime: Runtime,
    shared: Rc<Shared>,
    pub services: Vec<Description>,
}

impl Vm {
    /// Builds a machine and evaluates the script in it. `service` is whose log it writes.
    pub fn load(
        source: &Source,
        service: &ServiceName,
        host: Arc<dyn Host>,
    ) -> Result<Self, ScriptError> {
        let limits = &source.limits;
        let fault = |message: &str| ScriptError::new(ScriptFault::Load, &source.file, message);
        if source.text.len() > limits.source {
            return Err(fault("the script is too long"));
        }
        let runtime = Runtime::new().map_err(|_| fault("no memory for a machine"))?;
        runtime.set_memory_limit(limits.memory);
        runtime.set_max_stack_size(limits.stack.min(1 << 20));
        let context = Context::full(&runtime).map_err(|_| fault("no memory for a machine"))?;
        let shared = Rc::new(Shared {
            host,
            limits: limits.clone(),
            budget: Budget::new(limits.cpu),
            service: service.clone(),
            settled: RefCell::default(),
            wanted: RefCell::default(),
            last_operation: Cell::new(0),
            open: Cell::new(0),
            logged: Cell::new(0),
        });
        let watch = shared.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || watch.budget.is_spent())));

        shared.budget.message(Instant::now() + limits.wall);
        shared.budget.begin_slice();
        let loaded = context.with(|ctx| evaluate(&ctx, source, &shared));
        shared.budget.end_slice();
        let Loaded { entries, bind, module, list } = match (loaded, shared.budget.exceeded()) {
            (Ok(loaded), None) => loaded,
            (_, Some(limit)) => return Err(fault(&format!("while it was loaded {limit}"))),
            (Err(error), None) => return Err(error),
        };
        let services = serde_json::from_str(&list).map_err(|error| {
            ScriptError::new(ScriptFault::Definition, &source.file, error.to_string())
        })?;
        Ok(Self { entries, bind, module, context, runtime, shared, services })
    }

    /// Chooses the service this machine serves and gives it its state; answers the state to keep.
    pub fn bind(
        &self,
        source: &Source,
        name: &str,
        state: Option<&str>,
        state_version: u32,
    ) -> Result<String, ScriptError> {
        self.shared.budget.message(Instant::now() + self.shared.limits.wall);
        let bound = self.enter(|ctx| {
            let bind = self.bind.clone().restore(ctx)?;
            let module = self.module.clone().restore(ctx)?;
            bind.call::<_, String>((module, name, state, state_version))
        });
        bound.map_err(|trouble| {
            let error = |text: String| ScriptError::new(ScriptFault::State, &source.file, text);
            match trouble {
                Trouble::Limit(limit) => error(format!("while its state was taken over {limit}")),
                Trouble::Thrown(thrown) => error(thrown.detail).at(&thrown.stack, &source.text),
            }
        })
    }

    /// Starts a message; it may settle at once.
    pub fn begin(
        &self,
        kind: &str,
        name: &str,
        argument: &str,
        meta: &str,
        wall: Instant,
    ) -> Result<(), Limit> {
        self.shared.budget.message(wall);
        self.shared.logged.set(0);
        self.shared.open.set(0);
        self.shared.settled.take();
        self.shared.wanted.take();
        self.slice(|ctx| {
            let run = self.entries.run.clone().restore(ctx)?;
            run.call::<_, ()>((kind, name, argument, meta))
        })
    }

    /// Gives an operation its result, as JSON text: a value, or `{code, message, data}`.
    pub fn resolve(&self, id: u32, good: bool, text: &str) -> Result<(), Limit> {
        self.shared.open.set(self.shared.open.get().saturating_sub(1));
        self.slice(|ctx| {
            let resolve = self.entries.resolve.clone().restore(ctx)?;
            resolve.call::<_, ()>((id, good, text))
        })
    }

    /// Gives the running message up and rolls its changes back.
    pub fn abandon(&self) -> Result<(), Limit> {
        self.shared.budget.message(Instant::now() + self.shared.limits.wall);
        self.shared.wanted.take();
        self.slice(|ctx| self.entries.abandon.clone().restore(ctx)?.call::<_, ()>(()))
    }

    /// How the running message ended, if it has.
    pub fn settled(&self) -> Option<Settled> {
        self.shared.settled.take()
    }

    /// The operations started since the last call.
    pub fn wanted(&self) -> Vec<Operation> {
        self.shared.wanted.take()
    }

    /// [`Self::enter`] where an escaped exception is how the message ended.
    fn slice(&self, run: impl FnOnce(&Ctx<'_>) -> rquickjs::Result<()>) -> Result<(), Limit> {
        match self.enter(run) {
            Ok(()) => Ok(()),
            Err(Trouble::Limit(limit)) => Err(limit),
            Err(Trouble::Thrown(thrown)) => {
                *self.shared.settled.borrow_mut() = Some(Settled::Thrown(thrown));
                Ok(())
            }
        }
    }

    /// Runs what promises made ready. A job whose error is not caught by its own promise had no
    /// room for it, or was interrupted.
    fn run_jobs(&self) -> Result<(), Broken> {
        while !self.shared.budget.is_spent() && self.runtime.is_job_pending() {
            self.runtime.execute_pending_job().map_err(|_| Broken)?;
        }
        Ok(())
    }

    fn enter<R>(&self, run: impl FnOnce(&Ctx<'_>) -> rquickjs::Result<R>) -> Result<R, Trouble> {
        let budget = &self.shared.budget;
        budget.begin_slice();
        let result = self.context.with(|ctx| run(&ctx).map_err(|error| caught(&ctx, error)));
        let jobs = self.run_jobs();
        budget.end_slice();
        if let Some(limit) = budget.exceeded() {
            return Err(Trouble::Limit(limit));
        }
        let memory = Limit::Memory(self.shared.limits.memory);
        if jobs.is_err() || self.shared.ran_out_of_memory() {
            return Err(Trouble::Limit(memory));
        }
        result.map_err(|thrown| match thrown.detail.contains(OUT_OF_MEMORY) {
            true => Trouble::Limit(memory),
            false => Trouble::Thrown(thrown),
        })
    }
}

struct Broken;

enum Trouble {
    Limit(Limit),
    Thrown(Thrown),
}

/// What QuickJS says when an allocation fails.
const OUT_OF_MEMORY: &str = "out of memory";

struct Loaded {
    entries: Entries,
    bind: Persistent<Function<'static>>,
    module: Persistent<Object<'static>>,
    list: String,
}

fn evaluate(ctx: &Ctx<'_>, source: &Source, shared: &Rc<Shared>) -> Result<Loaded, ScriptError> {
    let fault = |fault| {
        move |error: rquickjs::Error| {
            let thrown = caught(ctx, error);
            let mut message = thrown.detail.clone();
            if let Some(module) = message.strip_prefix("ReferenceError: could not load module ") {
                message = format!("cannot import {module}; a script can import only 'relay'");
            }
            ScriptError::new(fault, &source.file, message).at(&thrown.stack, &source.text)
        }
    };
    let api = prelude(ctx, shared).map_err(fault(ScriptFault::Load))?;
    let module = Module::declare(ctx.clone(), source.file.as_str(), source.text.as_str())
        .map_err(fault(ScriptFault::Syntax))?;
    let (module, done) = module.eval().map_err(fault(ScriptFault::Load))?;
    while !shared.budget.is_spent() && ctx.execute_pending_job() {}
    match done.state() {
        PromiseState::Resolved => {}
        PromiseState::Rejected => {
            let error = done.result::<()>().and_then(Result::err);
            return Err(fault(ScriptFault::Load)(error.unwrap_or(rquickjs::Error::Unknown)));
        }
        PromiseState::Pending => {
            let message =
                "it awaits something while it is loaded; expected: await only in handlers";
            return Err(ScriptError::new(ScriptFault::Load, &source.file, message));
        }
    }
    let read = || {
        let module: Object<'_> = module.namespace()?;
        let list = api.get::<_, Function<'_>>("list")?.call((module.clone(),))?;
        let save = |name: &str| -> rquickjs::Result<_> {
            Ok(Persistent::save(ctx, api.get::<_, Function<'_>>(name)?))
        };
        let entries =
            Entries { run: save("run")?, resolve: save("resolve")?, abandon: save("abandon")? };
        let module = Persistent::save(ctx, module);
        Ok(Loaded { entries, bind: save("bind")?, module, list })
    };
    read().map_err(fault(ScriptFault::Definition))
}

/// Evaluates the prelude with the native functions it needs.
fn prelude<'js>(ctx: &Ctx<'js>, shared: &Rc<Shared>) -> rquickjs::Result<Object<'js>> {
    let mut options = EvalOptions::default();
    options.filename = Some("relay".to_owned());
    let prelude: Function<'_> = ctx.eval_with_options(PRELUDE, options)?;
    let native = natives(ctx, shared)?;
    let api = prelude.call((native,))?;
    Module::declare(ctx.clone(), "relay", RELAY_MODULE)?;
    Ok(api)
}

fn natives<'js>(ctx: &Ctx<'js>, shared: &Rc<Shared>) -> rquickjs::Result<Object<'js>> {
    let native = Object::new(ctx.clone())?;
    let s = shared.clone();
    native.set("now", Function::new(ctx.clone(), move || s.host.now_ms() as f64)?)?;
    let s = shared.clone();
    native.set("random", Function::new(ctx.clone(), move || unit(s.host.random()))?)?;
    let s = shared.clone();
    native
        .set("uuid", Function::new(ctx.clone(), move || uuid(s.host.random(), s.host.random()))?)?;
    let s = shared.clone();
    native.set(
        "log",
        Function::new(ctx.clone(), move |level: String, text: String| s.log(&level, &text))?,
    )?;
    let s = shared.clone();
    native.set(
        "check",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>, result: usize, state: usize| {
            s.check(result, state).map_err(|message| Exception::throw_range(&ctx, &message))
        })?,
    )?;
    let s = shared.clone();
    native.set(
        "operation",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>, kind: String, argument: String| {
            s.want(kind, argument).map_err(|message| Exception::throw_range(&ctx, &message))
        })?,
    )?;
    let s = shared.clone();
    let finish = move |result: String, state: Option<String>, timers: Option<String>| {
        *s.settled.borrow_mut() = Some(Settled::Done { result, state, timers });
    };
    native.set("finish", Function::new(ctx.clone(), finish)?)?;
    let s = shared.clone();
    let fail = move |rpc: Option<String>, detail: String, stack: String| {
        *s.settled.borrow_mut() = Some(Settled::Thrown(Thrown { rpc, detail, stack }));
    };
    native.set("fail", Function::new(ctx.clone(), fail)?)?;
    Ok(native)
}

impl Shared {
    fn log(&self, level: &str, text: &str) {
        let count = self.logged.get() + 1;
        self.logged.set(count);
        let limit = self.limits.log_lines;
        if count > limit + 1 {
            return;
        }
        let (level, text) = match count > limit {
            true => (LogLevel::Warn, "more lines of this message are not logged"),
            false => (LogLevel::parse(level), cut(text, MAX_LOG_LINE)),
        };
        self.host.log(&self.service, level, text);
    }

    fn check(&self, result: usize, state: usize) -> Result<(), String> {
        let say = |what, size, limit| {
            Err(format!("the {what} has {size} characters as JSON; at most {limit} are allowed"))
        };
        if result > self.limits.result {
            return say("result", result, self.limits.result);
        }
        if state > self.limits.state {
            return say("state", state, self.limits.state);
        }
        Ok(())
    }

    fn want(&self, kind: String, argument: String) -> Result<u32, String> {
        let limit = self.limits.operations;
        if self.open.get() >= limit {
            return Err(format!(
                "more than {limit} operations at once; expected: await some first"
            ));
        }
        self.open.set(self.open.get() + 1);
        let id = self.last_operation.get().wrapping_add(1);
        self.last_operation.set(id);
        self.wanted.borrow_mut().push(Operation { id, kind, argument });
        Ok(id)
    }

    fn ran_out_of_memory(&self) -> bool {
        let settled = self.settled.borrow();
        matches!(&*settled, Some(Settled::Thrown(thrown)) if thrown.detail.contains(OUT_OF_MEMORY))
    }
}

const MAX_LOG_LINE: usize = 4096;

fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The pending exception as texts.
fn caught(ctx: &Ctx<'_>, error: rquickjs::Error) -> Thrown {
    if !error.is_exception() {
        return Thrown { rpc: None, detail: error.to_string(), stack: String::new() };
    }
    let value: Value<'_> = ctx.catch();
    if value.is_null() {
        // Where there is no room even for the error, the engine throws null.
        let detail = format!("InternalError: {OUT_OF_MEMORY}");
        return Thrown { rpc: None, detail, stack: String::new() };
    }
    let Some(object) = value.as_object() else {
        let text = value.get::<rquickjs::Coerced<String>>().map(|text| text.0);
        let detail = format!("thrown: {}", text.unwrap_or_default());
        return Thrown { rpc: None, detail, stack: String::new() };
    };
    let text = |member: &str| object.get::<_, Option<String>>(member).ok().flatten();
    let name = text("name").unwrap_or_else(|| "Error".to_owned());
    let detail = format!("{name}: {}", text("message").unwrap_or_default());
    Thrown { rpc: None, detail, stack: text("stack").unwrap_or_default() }
}

impl Thrown {
    /// Where in the script it was thrown.
    pub fn place(&self, file: &str) -> Option<(u32, Option<u32>)> {
        place(&self.stack, file)
    }
}

/// The upper 53 bits as a number in `[0, 1)`.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// A random (version 4) UUID.
fn uuid(high: u64, low: u64) -> String {
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(3 << 62)) | (1 << 63);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
