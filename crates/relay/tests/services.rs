//! `relay run`, `expose`, `call`, `services` and `actors`, with real processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::mpsc,
};

use support::{RELAY, Relay, base, ended, until};

/// A command that goes on until it is told to end, and what it says on stderr.
struct Running {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Running {
    fn start(relay: &Relay, args: &[&str]) -> Self {
        let mut command = relay.command(args);
        let socket = relay.path("relay.sock");
        command.env("RELAY_URL", format!("unix:{}", socket.display()));
        Self::of(command)
    }

    fn of(mut command: std::process::Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (tell, said) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| tell.send(line)).ok();
        });
        Self { child, said }
    }

    /// Waits until a line with `text` was said.
    fn until_said(&self, text: &str) -> String {
        loop {
            let line =
                self.said.recv_timeout(support::PATIENCE).unwrap_or_else(|_| panic!("no '{text}'"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn end(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(
            std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success()
        );
        ended(&mut self.child).code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const COUNTER: &str = r#"
export default service("counter", {
    public: true, state: { n: 0 },
    methods: {
        add(ctx, { by = 1 } = {}) { ctx.state.n += by; ctx.log.info("now " + ctx.state.n); return { n: ctx.state.n }; },
        args(ctx, args) { return args ?? null; },
        boom() { throw new RpcError(409, "no"); },
        stuck() { for (;;); },
    },
});
"#;

#[test]
fn a_script_is_run_called_changed_and_ended() {
    let relay = Relay::start();
    let file = relay.path("counter.rl");
    std::fs::write(&file, COUNTER).unwrap();
    let path = file.display().to_string();
    let run = Running::start(&relay, &["run", &path, "--watch"]);
    run.until_said("counter (Ctrl-C ends it)");

    assert_eq!(relay.ok(["call", "counter", "add", "by:=5"]).stdout, "{\"n\":5}\n");
    run.until_said("now 5");
    let args = relay.ok(["call", "counter", "args", "title=Hi", "n:=3"]);
    assert_eq!(args.json(), serde_json::json!({ "title": "Hi", "n": 3 }));
    assert_eq!(relay.ok(["call", "counter", "args", "[1,2]"]).stdout, "[1,2]\n");
    assert_eq!(
        relay.with_stdin(["call", "counter", "args", "-"], "{\"a\":1}").stdout,
        "{\"a\":1}\n"
    );
    std::fs::write(relay.path("args.json"), "{\"b\":2}").unwrap();
    assert_eq!(relay.ok(["call", "counter", "args", "@args.json"]).stdout, "{\"b\":2}\n");
    let traced = relay.ok(["call", "counter", "add", "--trace"]);
    assert_eq!(traced.stdout, "{\"n\":6}\n");
    assert!(traced.stderr.contains("waited"), "{}", traced.stderr);
    assert_eq!(relay.ok(["call", "counter", "add", "--notify"]).stdout, "");
    let twice = ["call", "counter", "add", "--idempotency-key", "k"];
    assert_eq!(relay.ok(twice).stdout, relay.ok(twice).stdout);

    // Exit codes.
    for (line, code) in [
        (&["call", "counter", "boom"][..], 1),
        (&["call", "counter", "nothing"], 1),
        (&["call", "nobody", "get"], 7),
        (&["call", "x@far.home", "get"], 7),
        (&["call", "counter", "add", "--version", "^9"], 7),
        (&["call", "counter", "add", "{"], 2),
        (&["call", "bad name", "add"], 2),
    ] {
        let ran = relay.run(line);
        assert_eq!(ran.code(), code, "{line:?}: {}", ran.stderr);
    }
    let stuck = relay.run(["call", "counter", "stuck", "--timeout", "200ms"]);
    assert!(matches!(stuck.code(), 1 | 8), "{}", stuck.stderr);
    let failed = relay.run(["call", "counter", "boom", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!(told["error"]["rpc_code"], 409);

    // A broken version changes nothing, a good one takes over with the state.
    let before = relay.ok(["call", "counter", "add"]).json()["n"].as_u64().unwrap();
    std::fs::write(&file, "let a b;").unwrap();
    run.until_said("counter.rl:1");
    assert_eq!(relay.ok(["call", "counter", "add"]).json()["n"], before + 1);
    std::fs::write(&file, COUNTER.replace("args ?? null", "\"new\"")).unwrap();
    run.until_said("taken over: counter");
    assert_eq!(relay.ok(["call", "counter", "args"]).stdout, "\"new\"\n");
    assert_eq!(relay.ok(["call", "counter", "add"]).json()["n"], before + 2);

    assert!(relay.ok(["services"]).stdout.starts_with("counter\t1.0.0\ttrue\tpublic\t"));
    assert_eq!(relay.ok(["services", "show", "counter", "--json"]).json()["visibility"], "public");
    assert_eq!(relay.run(["services", "show", "nobody"]).code(), 3);
    assert!(relay.ok(["services", "ping", "counter", "--count", "1"]).stdout.contains("running"));
    assert_eq!(run.end(), 0);
    until("the script's end", || relay.run(["call", "counter", "add"]).code() == 7);
    assert!(relay.ok(["run", "--types"]).stdout.contains("declare module \"relay\""));
}

#[test]
fn a_script_runs_in_a_relay_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("counter.rl"), COUNTER).unwrap();
    let mut command = base(home.path());
    command.args(["run", "counter.rl", "--standalone", "--data-dir", "data"]).stdin(Stdio::null());
    let run = Running::of(command);
    let listen = run.until_said("http://127.0.0.1:");
    let url = listen.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    run.until_said("services counter");
    run.until_said("ready");
    let mut call = base(home.path());
    let output = call.env("RELAY_URL", url).args(["call", "counter", "add"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"n\":1}\n");
    assert_eq!(run.end(), 0);

    std::fs::write(home.path().join("broken.rl"), "service(").unwrap();
    let mut command = base(home.path());
    command.args(["run", "broken.rl", "--standalone", "--data-dir", "data"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("broken.rl:1"));
}

/// A program that answers lines, counts them, and ends when it is asked to.
const TOOL: &str = r#"
n=0
echo "tool is up" >&2
while read -r line; do
    n=$((n + 1))
    id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
    case $line in
        *'"method":"die"'*) exit 3 ;;
        *) printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$n" ;;
    esac
done
"#;

#[test]
fn a_child_process_is_a_service_and_is_started_again() {
    let relay = Relay::start();
    let expose = Running::start(
        &relay,
        &["expose", "tool", "--stdio", "--methods", "count,die", "--", "sh", "-c", TOOL],
    );
    expose.until_said("tool is public");
    assert_eq!(relay.ok(["call", "tool", "count"]).stdout, "1\n");
    assert_eq!(relay.ok(["call", "tool", "count"]).stdout, "2\n");
    let died = relay.run(["call", "tool", "die"]);
    assert_eq!(died.code(), 7, "{}", died.stderr);
    // A new life counts from the beginning.
    until("the next life", || {
        let ran = relay.run(["call", "tool", "count"]);
        ran.code() == 0 && ran.stdout == "1\n"
    });
    let second = Running::start(&relay, &["expose", "tool", "--http", "http://127.0.0.1:9/"]);
    second.until_said("runs here already");
    assert_eq!(expose.end(), 0);
    until("withdrawal", || relay.run(["call", "tool", "count"]).code() == 7);
}

#[test]
fn what_is_exposed_or_run_comes_back_with_the_relay() {
    let mut relay = Relay::start();
    let expose = Running::start(&relay, &["expose", "tool", "--stdio", "--", "sh", "-c", TOOL]);
    expose.until_said("tool is public");
    let file = relay.path("counter.rl");
    std::fs::write(&file, COUNTER).unwrap();
    let run = Running::start(&relay, &["run", &file.display().to_string()]);
    run.until_said("Ctrl-C ends it");
    assert_eq!(relay.ok(["call", "tool", "count"]).stdout, "1\n");
    assert_eq!(relay.ok(["call", "counter", "add", "by:=5"]).stdout, "{\"n\":5}\n");

    relay.stop();
    for command in [&expose, &run] {
        command.until_said("the relay is lost: ");
    }
    relay.start_again();
    for command in [&expose, &run] {
        let line = command.until_said(" is back after ");
        assert!(line.ends_with(" s"), "{line}");
    }
    // The program lived on, and the script has its state.
    assert_eq!(relay.ok(["call", "tool", "count"]).stdout, "2\n");
    assert_eq!(relay.ok(["call", "counter", "add", "by:=1"]).stdout, "{\"n\":6}\n");

    // It ends while the relay is away, too.
    relay.stop();
    expose.until_said("the relay is lost");
    assert_eq!((expose.end(), run.end()), (0, 0));
}

#[test]
fn a_relay_is_called_by_its_key() {
    let relay = Relay::start();
    let file = relay.path("counter.rl");
    std::fs::write(&file, COUNTER).unwrap();
    let run = Running::start(&relay, &["run", &file.display().to_string()]);
    run.until_said("Ctrl-C ends it");
    let key = relay.ok(["status"]).kv("key");
    assert_eq!(relay.ok(["call", &key, "counter.add", "by:=2"]).stdout, "{\"n\":2}\n");
    let named = format!("counter@{key}");
    assert_eq!(relay.ok(["call", &named, "add", "by:=2"]).stdout, "{\"n\":4}\n");
    let nobody = "ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541";
    assert_eq!(relay.run(["call", nobody, "counter.add"]).code(), 3);
    assert_eq!(relay.run(["call", &key, "add"]).code(), 2, "which service?");
    assert_eq!(relay.run(["call", "ed25519:00", "counter.add"]).code(), 2);
    assert_eq!(run.end(), 0);
}

/// A JSON-RPC server of a few lines that answers every request with its own body and the caller's key.
fn rpc_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/rpc", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    url
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let (mut length, mut key) = (0, "null".to_owned());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(rest) = lower.strip_prefix("content-length:") {
                length = rest.trim().parse().unwrap();
            }
            if let Some(rest) = lower.strip_prefix("x-relay-caller-key:") {
                key = format!("\"{}\"", rest.trim());
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let result = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"key\":{key}}}}}");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            result.len()
        );
        if stream.write_all((head + &result).as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn an_http_program_is_a_service_and_can_be_saved() {
    let relay = Relay::start();
    let url = rpc_server();
    let expose = Running::start(
        &relay,
        &["expose", "web", "--http", &url, "--version", "2.1.0", "--private", "--save"],
    );
    expose.until_said("web is private");
    let key = relay.ok(["keys", "show"]).kv("key");
    // Private: there for this node's operator only.
    assert_eq!(relay.run(["call", "web", "any"]).code(), 7);
    let socket = format!("unix:{}", relay.path("relay.sock").display());
    let local = relay.ok(["call", "web", "any", "--url", &socket]);
    assert_eq!(local.stdout, "{\"key\":null}\n");
    let actors = relay.ok(["actors", "ls", "--url", &socket]);
    assert!(actors.stdout.starts_with("web\trunning\t"), "{}", actors.stdout);
    let show = relay.ok(["actors", "show", "web", "--url", &socket, "--json"]).json();
    assert_eq!((&show["version"], &show["metadata"]["kind"]), (&"2.1.0".into(), &"http".into()));
    relay.ok(["actors", "restart", "web", "--url", &socket]);
    assert_eq!(relay.run(["actors", "show", "nobody", "--url", &socket]).code(), 3);
    assert_eq!(relay.run(["actors", "ls"]).code(), 4, "only for the operator");
    assert_eq!(expose.end(), 0);

    let saved =
        std::fs::read_to_string(relay.path("config/relay/relay.d/service-web.toml")).unwrap();
    assert!(saved.contains("[[service]]") && saved.contains(&url), "{saved}");
    let checked = relay.ok(["config", "show", "--changed"]);
    assert!(checked.stdout.contains("web"), "{}", checked.stdout);

    let public = Running::start(&relay, &["expose", "open", "--http", &url]);
    public.until_said("open is public");
    let called = relay.ok(["call", "open", "any"]).json();
    assert_eq!(called["key"], key, "the program learns who calls");
    assert_eq!(public.end(), 0);
}

#[test]
fn without_a_relay_expose_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let mut command = base(home.path());
    command.args(["expose", "x", "--http", "http://127.0.0.1:1/"]).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("relay serve"));
    let mut bad = base(home.path());
    let output = bad.args(["expose", "x", "--http", "ftp://x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(std::path::Path::new(RELAY).exists());
}
