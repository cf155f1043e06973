// What a script finds in its machine beside the language itself. Evaluated once per machine, before
// the script; `native` is the only way out and never reaches the script.
(native) => {
    "use strict";
    const { parse, stringify } = JSON;
    const { keys, freeze } = Object;
    const isArray = Array.isArray;

    // --- errors -----------------------------------------------------------------------------

    class RpcError extends Error {
        constructor(code, message, data) {
            super(message);
            this.name = "RpcError";
            this.code = code;
            this.data = data;
        }
    }
    const invalid = (message, data) => new RpcError(-32602, message, data);

    const describe = (value) =>
        value === null ? "null" : isArray(value) ? "an array" : typeof value === "object"
            ? "an object" : value === undefined ? "nothing" : `a ${typeof value}`;
    const expect = (good, what, wanted, value) => {
        if (!good) throw new TypeError(`${what} must be ${wanted}, got ${describe(value)}`);
    };
    const isPlain = (value) => typeof value === "object" && value !== null && !isArray(value);

    // --- time and chance, handed in ----------------------------------------------------------

    const SystemDate = Date;
    globalThis.Date = class Date extends SystemDate {
        constructor(...parts) {
            if (parts.length === 0) super(native.now());
            else super(...parts);
        }
        static now() { return native.now(); }
    };
    Math.random = native.random;

    const UNITS = { ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5 };
    const milliseconds = (value, what) => {
        const parts = typeof value === "string" ? /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(value) : null;
        const ms = parts ? Number(parts[1]) * UNITS[parts[2]] : value;
        expect(typeof ms === "number" && ms >= 0 && ms < 2 ** 53, what,
            "milliseconds or a text like '90s', '5m', '24h'", value);
        return Math.round(ms);
    };

    // --- service definitions -----------------------------------------------------------------

    const SERVICE = Symbol("relay.service");
    const MEMBERS = ["version", "description", "public", "state", "state_version", "migrate",
        "methods", "on", "timers", "start"];

    const checkMembers = (object, allowed, what) => {
        for (const key of keys(object)) {
            if (!allowed.includes(key)) {
                throw new TypeError(
                    `${what} has an unknown member '${key}'; expected ${allowed.join(", ")}`);
            }
        }
    };
    const checkEach = (object, what, check) => {
        if (object === undefined) return;
        expect(isPlain(object), what, "an object", object);
        for (const key of keys(object)) check(object[key], `${what}.${key}`, key);
    };
    const isFunction = (value, what) =>
        expect(typeof value === "function", what, "a function", value);

    const service = (name, definition) => {
        expect(typeof name === "string", "the name of a service", "a text", name);
        const what = `service '${name}'`;
        expect(isPlain(definition), what, "defined by an object", definition);
        checkMembers(definition, MEMBERS, what);
        const { version, state, state_version, migrate, methods, on, timers, start } = definition;
        if (version !== undefined) expect(typeof version === "string", `${what}: version`, "a text like '1.2.0'", version);
        if (state !== undefined) expect(isPlain(state), `${what}: state`, "an object", state);
        if (state_version !== undefined) {
            expect(Number.isInteger(state_version) && state_version > 0, `${what}: state_version`,
                "a whole number above 0", state_version);
        }
        if (migrate !== undefined) isFunction(migrate, `${what}: migrate`);
        if (start !== undefined) isFunction(start, `${what}: start`);
        if (definition.public !== undefined) expect(typeof definition.public === "boolean", `${what}: public`, "true or false", definition.public);
        checkEach(methods, `${what}: methods`, isFunction);
        checkEach(on, `${what}: on`, (entry, where) => {
            expect(isPlain(entry), where, "{ filter, handle }", entry);
            checkMembers(entry, ["filter", "handle"], where);
            expect(isPlain(entry.filter), `${where}.filter`, "an object", entry.filter);
            isFunction(entry.handle, `${where}.handle`);
        });
        checkEach(timers, `${what}: timers`, (entry, where) => {
            if (typeof entry === "function") return;
            expect(isPlain(entry), where, "a function or { every, handle }", entry);
            checkMembers(entry, ["every", "handle"], where);
            if (entry.every !== undefined) {
                const every = milliseconds(entry.every, `${where}.every`);
                expect(every >= 1000, `${where}.every`, "at least a second", entry.every);
            }
            isFunction(entry.handle, `${where}.handle`);
        });
        return freeze({ [SERVICE]: true, name, definition });
    };
    const isService = (value) => isPlain(value) && value[SERVICE] === true;

    // Every service a module exports: alone, in an array, by name or as default.
    const exported = (module) => {
        const found = new Set();
        for (const key of keys(module)) {
            const value = module[key];
            for (const each of isArray(value) ? value : [value]) if (isService(each)) found.add(each);
        }
        if (found.size === 0) {
            throw new TypeError("the script exports no service; expected: export default service(\"name\", { methods: { ... } })");
        }
        return [...found];
    };
    const description = ({ name, definition }) => ({
        name,
        version: definition.version ?? "1.0.0",
        description: definition.description,
        public: definition.public ?? false,
        state_version: definition.state_version ?? 1,
        methods: keys(definition.methods ?? {}),
        on: keys(definition.on ?? {}).map((key) => ({ name: key, filter: definition.on[key].filter })),
        timers: keys(definition.timers ?? {}).map((key) => {
            const every = definition.timers[key].every;
            return { name: key, every_ms: every === undefined ? null : milliseconds(every, "every") };
        }),
        start: definition.start !== undefined,
    });

    // --- the one service of this machine -----------------------------------------------------

    let definition;
    let state;
    // The state as last committed or about to be, as text: what a failed message falls back to.
    let committed;
    // Which message may settle. One that was given up finds another number here.
    let current = 0;
    // Timer changes of the current message.
    let timers = [];
    const waiting = new Map();
    // Finishes a message whose handler returned before all it started had ended.
    let afterwards;

    const toText = (value, what) => {
        const text = stringify(value === undefined ? null : value);
        if (text === undefined) throw new TypeError(`${what} must be data that JSON can hold, got ${describe(value)}`);
        return text;
    };

    const operation = (kind, argument) => new Promise((resolve, reject) => {
        const id = native.operation(kind, toText(argument, kind));
        waiting.set(id, { resolve, reject });
    });
    const resolve = (id, good, text) => {
        const promise = waiting.get(id);
        waiting.delete(id);
        const value = parse(text);
        if (good) promise?.resolve(value);
        else promise?.reject(new RpcError(value.code, value.message, value.data));
        if (waiting.size === 0 && afterwards !== undefined) {
            const next = afterwards;
            afterwards = undefined;
            // After whatever the handler does with this result.
            Promise.resolve().then(() => {}).then(() => {}).then(next);
        }
    };

    // "remind:alice" is a timer of its own that the handler "remind" runs.
    const handlerOf = (name) => name.split(":", 1)[0];
    class Timers {
        set(name, when, payload) {
            expect(typeof name === "string" && definition.timers?.[handlerOf(name)] !== undefined, `timer '${name}'`, "declared under 'timers'", undefined);
            expect(isPlain(when), "when", "{ after }, { at } or { every }", when);
            checkMembers(when, ["after", "at", "every"], "when");
            const every_ms = when.every === undefined ? null : milliseconds(when.every, "every");
            if (every_ms !== null) expect(every_ms >= 1000, "every", "at least a second", when.every);
            const due_ms = when.at !== undefined ? Number(when.at)
                : native.now() + milliseconds(when.after ?? when.every, "after");
            expect(Number.isFinite(due_ms), "at", "a time in unix milliseconds or a Date", when.at);
            timers.push({ name, due_ms: Math.round(due_ms), every_ms, payload: toText(payload, "payload") });
        }
        clear(name) { timers.push({ name, clear: true }); }
    }

    const write = (level, parts) => native.log(level,
        parts.map((part) => typeof part === "string" ? part
            : part instanceof Error ? `${part}\n${part.stack}` : stringify(part) ?? String(part)).join(" "));
    const log = freeze({
        debug: (...parts) => write("debug", parts),
        info: (...parts) => write("info", parts),
        warn: (...parts) => write("warn", parts),
        error: (...parts) => write("error", parts),
    });
    globalThis.console = freeze({ ...log, log: log.info });

    const locked = async (resource, options, body) => {
        const grant = await operation("lock.acquire", {
            resource,
            lease_ms: milliseconds(options.lease ?? "30s", "lease"),
            wait_ms: milliseconds(options.wait ?? 0, "wait"),
        });
        try {
            return await body(grant);
        } finally {
            await operation("lock.release", { resource, token: grant.token });
        }
    };
    const callOptions = (options = {}) => {
        checkMembers(options, ["timeout", "idempotency_key", "version"], "options");
        const { timeout, idempotency_key, version } = options;
        return { timeout_ms: timeout === undefined ? undefined : milliseconds(timeout, "timeout"), idempotency_key, version };
    };

    const timersApi = freeze(new Timers());
    class Context {
        #text;
        #meta;
        constructor(text) { this.#text = text; }
        get #read() { return this.#meta ??= parse(this.#text); }
        get service() { return this.#read.service; }
        get caller() { return this.#read.caller; }
        get deadline() { return this.#read.deadline_ms; }
        get idempotency_key() { return this.#read.idempotency_key; }
        get state() { return state; }
        set state(value) {
            expect(isPlain(value), "state", "an object", value);
            state = value;
        }
        get timers() { return timersApi; }
        get log() { return log; }
        now() { return native.now(); }
        random() { return native.random(); }
        uuid() { return native.uuid(); }
        call(to, method, args, options) {
            return operation("call", { to, method, args, ...callOptions(options) });
        }
        notify(to, method, args) { return operation("notify", { to, method, args }); }
        publish(event) { return operation("publish", event); }
        lock(resource, options, body) {
            if (typeof options === "function") [options, body] = [{}, options];
            checkMembers(options, ["lease", "wait"], "options");
            isFunction(body, "the last argument of lock");
            return locked(resource, options, body);
        }
    }

    const rollBack = () => {
        state = parse(committed);
        timers = [];
        waiting.clear();
        afterwards = undefined;
    };
    const fail = (message, error) => {
        if (message !== current) return;
        current += 1;
        rollBack();
        const rpc = error instanceof RpcError ? stringify({
            code: Number.isInteger(error.code) ? error.code : -32603, message: error.message, data: error.data,
        }) : undefined;
        // Where there is no room even for the error, the engine throws null.
        const detail = error === null ? "InternalError: out of memory"
            : error instanceof Error ? `${error.name}: ${error.message}`
                : `thrown: ${describe(error)} ${String(error)}`;
        native.fail(rpc, detail, error?.stack === undefined ? "" : String(error.stack));
    };
    const finish = (message, value) => {
        if (message !== current) return;
        if (waiting.size > 0) {
            // What the handler started without awaiting belongs to its message all the same.
            afterwards = () => finish(message, value);
            return;
        }
        let result, after;
        try {
            result = toText(value, "the result");
            after = toText(state, "state");
            native.check(result.length, after.length);
        } catch (error) {
            return fail(message, error);
        }
        current += 1;
        const changed = after !== committed;
        committed = after;
        const changes = timers.length === 0 ? undefined : stringify(timers);
        timers = [];
        native.finish(result, changed ? after : undefined, changes);
    };

    const HANDLERS = {
        method: (name) => definition.methods[name],
        event: (name) => definition.on[name].handle,
        timer: (name) => {
            const timer = definition.timers[handlerOf(name)];
            return timer.handle ?? timer;
        },
        start: () => definition.start,
    };
    const run = (kind, name, argument, meta) => {
        const message = ++current;
        try {
            const handler = HANDLERS[kind](name);
            const value = handler.call(undefined, new Context(meta), parse(argument));
            if (typeof value?.then === "function") {
                value.then((value) => finish(message, value), (error) => fail(message, error));
            } else {
                finish(message, value);
            }
        } catch (error) {
            fail(message, error);
        }
    };

    // Chooses the service of this machine and gives it its state; returns the state to keep.
    const bind = (module, name, kept, keptVersion) => {
        definition = exported(module).find((each) => each.name === name)?.definition;
        if (definition === undefined) throw new TypeError(`the script exports no service '${name}'`);
        const version = definition.state_version ?? 1;
        if (kept === undefined) {
            state = definition.state ?? {};
        } else {
            state = parse(kept);
            if (version !== keptVersion) {
                if (definition.migrate === undefined) {
                    throw new TypeError(`service '${name}': state_version went from ${keptVersion} to ${version}; expected a function 'migrate(state, from)'`);
                }
                state = definition.migrate(state, keptVersion);
                expect(isPlain(state), `service '${name}': the result of migrate`, "an object", state);
            }
        }
        committed = toText(state, "state");
        native.check(0, committed.length);
        // The script's own first state must not be what messages change.
        state = parse(committed);
        return committed;
    };

    const abandon = () => {
        current += 1;
        rollBack();
    };

    globalThis.service = service;
    globalThis.RpcError = RpcError;
    globalThis.invalid = invalid;
    return { run, resolve, bind, abandon, list: (module) => stringify(exported(module).map(description)) };
}
