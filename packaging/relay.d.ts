// Types of what a Relay script (.rl) finds. Point your editor at this file, for example with a
// jsconfig.json beside your scripts:
//
//   { "compilerOptions": { "checkJs": true, "types": ["./relay"], "lib": ["es2023"] },
//     "include": ["*.rl", "relay.d.ts"] }
//
// and tell it that .rl files are JavaScript. See docs/scripts.md.

declare module "relay" {
    /** Data that JSON can hold. */
    export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

    /** Milliseconds, or a text such as `"250ms"`, `"90s"`, `"5m"`, `"24h"`, `"7d"`. */
    export type Duration = number | `${number}${"ms" | "s" | "m" | "h" | "d"}`;

    /** Who calls, as proven on the way in. */
    export interface Caller {
        /** Whether the call comes from this node. */
        readonly local: boolean;
        /** The key that signed the request or holds the session: `ed25519:…`. */
        readonly key?: string;
        /** The calling node: `alice.home@relay.example.com`. */
        readonly node?: string;
        /** The calling service, on the word of its node. */
        readonly service?: string;
    }

    export interface CallOptions {
        /** Default and longest: what is left of the message's own time. */
        timeout?: Duration;
        /** With a key, repeats get the first result. */
        idempotency_key?: string;
        /** Which versions of the service will do, as a semver range. */
        version?: string;
    }

    export interface LockGrant {
        /** The fencing token: hand it on with everything you write under the lock. */
        readonly token: number;
        /** Unix milliseconds. */
        readonly expires_at_ms: number;
    }

    export interface Draft {
        kind: number;
        content?: string;
        tags?: string[][];
        namespace?: string;
    }

    export interface RelayEvent extends Draft {
        readonly id: string;
        /** The key that signed it: `ed25519:…`. */
        readonly author: string;
        readonly content: string;
        readonly tags: string[][];
        readonly namespace: string;
        /** Unix nanoseconds in decimal digits. */
        readonly created_at_ns: string;
    }

    export interface Filter {
        ids?: string[];
        kinds?: number[];
        authors?: string[];
        /** One namespace; `ns` takes several. Without either, all that the service's key may read. */
        namespace?: string;
        ns?: string[];
        since_ns?: string;
        until_ns?: string;
        [tag: `tag.${string}`]: string[] | undefined;
    }

    export interface Timers {
        /**
         * Sets a durable timer, replacing one of the same name. The name is that of a handler
         * under `timers`, or of a handler and a key: `"remind:alice"`.
         */
        set(name: string, when: { after: Duration } | { at: number | Date } | { every: Duration }, payload?: Json): void;
        clear(name: string): void;
    }

    export interface Log {
        debug(...parts: unknown[]): void;
        info(...parts: unknown[]): void;
        warn(...parts: unknown[]): void;
        error(...parts: unknown[]): void;
    }

    export interface Context<State> {
        /** Durable. What a handler changes is kept when it ends well, and forgotten when it throws. */
        state: State;
        readonly service: string;
        readonly caller: Caller;
        /** When this message's time is over, in unix milliseconds. */
        readonly deadline: number;
        readonly idempotency_key?: string;
        readonly timers: Timers;
        readonly log: Log;
        /** Unix milliseconds. */
        now(): number;
        /** In [0, 1). */
        random(): number;
        uuid(): string;
        /** Calls a service by address (`"blog"`, `"blog@alice.home"`) and waits for its answer. */
        call<T = any>(to: string, method: string, args?: object, options?: CallOptions): Promise<T>;
        /** Sends a message; no answer comes. */
        notify(to: string, method: string, args?: object): Promise<null>;
        /** Signs and publishes an event as this node's service. */
        publish(event: Draft): Promise<RelayEvent>;
        /** Runs `body` under a lock, which is given back however it ends. */
        lock<T>(resource: string, body: (grant: LockGrant) => T | Promise<T>): Promise<T>;
        lock<T>(
            resource: string,
            options: { lease?: Duration; wait?: Duration },
            body: (grant: LockGrant) => T | Promise<T>,
        ): Promise<T>;
    }

    export interface Definition<State extends object> {
        /** Semver, default `"1.0.0"`. */
        version?: string;
        description?: string;
        /** Whether other nodes see it. Default false. */
        public?: boolean;
        /** The state the service begins with. */
        state?: State;
        /** Default 1. When it changes, `migrate` brings the kept state to the new version. */
        state_version?: number;
        migrate?(state: any, from: number): State;
        methods?: Record<string, (ctx: Context<State>, args: any) => unknown>;
        /** Handlers of events, in order, each event once. */
        on?: Record<string, {
            filter: Filter;
            handle(ctx: Context<State>, event: RelayEvent): void | Promise<void>;
        }>;
        timers?: Record<string,
            | ((ctx: Context<State>, payload: any) => void | Promise<void>)
            | { every?: Duration; handle(ctx: Context<State>, payload: any): void | Promise<void> }>;
        /** Runs when the service starts and when a new version of it takes over. */
        start?(ctx: Context<State>): void | Promise<void>;
    }

    export interface Service { readonly name: string }

    /** Defines a service; export it. */
    export function service<State extends object>(name: string, definition: Definition<State>): Service;

    /** An error for the caller, with a number and data of your own. */
    export class RpcError extends Error {
        constructor(code: number, message: string, data?: Json);
        readonly code: number;
        readonly data?: any;
    }

    /** The error for arguments that are wrong (−32602). */
    export function invalid(message: string, data?: Json): RpcError;
}
