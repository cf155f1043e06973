//! A child process that speaks JSON-RPC 2.0, one message a line, on stdin and stdout.
//!
//! One life of the actor is one life of the process: when it ends, calls under way are answered as
//! unreachable, and the supervisor starts it again with back-off.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use relay_proto::{
    CallError, Caller,
    call::{
        Json, RpcCode,
        rpc::{RpcResponse, encode_request},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use crate::{
    journal::{Journal, LogLevel},
    service::{Handled, Reply, Request, Service},
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub directory: Option<PathBuf>,
    /// Beside a few harmless ones (`PATH`, `HOME`, `LANG`, `TZ`, `TMPDIR`): secrets of the relay's
    /// environment are not handed on.
    pub environment: Vec<(OsString, OsString)>,
}

/// Variables a child inherits.
const INHERITED: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"];
/// The longest line either way.
const MAX_LINE: usize = 8 << 20;
/// The longest line of stderr that is logged.
const MAX_LOG_LINE: usize = 4096;
/// Lines that wait to be written; one more call waits.
const WRITE_QUEUE: usize = 64;
/// How long a child may take to end after its stdin was closed.
const END_GRACE: Duration = Duration::from_secs(5);

/// A running child process as a service.
#[derive(Debug)]
pub struct StdioBridge {
    child: Child,
    calls: Arc<Calls>,
    /// `None` once the bridge stops.
    lines: Option<mpsc::Sender<String>>,
    /// Why reading or writing ended.
    ended: watch::Receiver<Option<String>>,
    /// Reader, writer, and the reader of stderr; aborted with the bridge.
    tasks: JoinSet<()>,
}

type Waiting = oneshot::Sender<Result<Json, CallError>>;

/// Calls under way, by id; bounded by the actor's concurrency.
#[derive(Debug, Default)]
struct Calls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    waiting: HashMap<u64, Waiting>,
}

impl StdioBridge {
    /// Starts the process. What it writes on stderr goes to `journal`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(program: &Program, journal: Option<Journal>) -> Result<Self, String> {
        let mut command = Command::new(&program.program);
        command.args(&program.args).env_clear().kill_on_drop(true);
        let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(inherited).envs(program.environment.iter().cloned());
        if let Some(directory) = &program.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err("the process has no pipes".to_owned());
        };
        let calls = Arc::new(Calls::default());
        let (lines, queue) = mpsc::channel(WRITE_QUEUE);
        let (tell, ended) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let write_ended = tell.clone();
        tasks.spawn(async move {
            let error = write(stdin, queue).await.err();
            if let Some(error) = error {
                write_ended.send_replace(Some(format!("it takes no input: {error}")));
            }
        });
        let answers = calls.clone();
        tasks.spawn(async move {
            let why = read(stdout, &answers).await;
            tell.send_replace(Some(why));
        });
        tasks.spawn(log(stderr, journal));
        Ok(Self { child, calls, lines: Some(lines), ended, tasks })
    }
}

impl Service for StdioBridge {
    fn handle(&mut self, request: Request) -> BoxFuture<'_, Handled> {
        let (calls, lines) = (self.calls.clone(), self.lines.clone());
        let work = async move {
            let lines = lines.ok_or_else(gone)?;
            let (id, answer) = calls.begin();
            // Forgets the call when its caller goes or it is answered.
            let _call = OnDrop { calls: &calls, id };
            let line = line(id, &request)?;
            lines.send(line).await.map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone())).map(Reply::from)
        };
        Box::pin(std::future::ready(Handled::Aside(Box::pin(work))))
    }

    fn failed(&mut self) -> BoxFuture<'_, String> {
        Box::pin(async {
            let why = match self.ended.wait_for(Option::is_some).await {
                Ok(why) => why.clone().unwrap_or_default(),
                Err(_) => "its reader ended".to_owned(),
            };
            match timeout(END_GRACE, self.child.wait()).await {
                Ok(Ok(status)) => format!("{why} ({status})"),
                _ => why,
            }
        })
    }

    fn stop(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // Closing its stdin asks it to end.
            self.lines = None;
            if timeout(END_GRACE, self.child.wait()).await.is_err() {
                let _ = self.child.kill().await;
            }
            self.tasks.shutdown().await;
        })
    }
}

struct OnDrop<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.calls.lock().waiting.remove(&self.id);
    }
}

impl Calls {
    fn begin(&self) -> (u64, oneshot::Receiver<Result<Json, CallError>>) {
        let (waiting, answer) = oneshot::channel();
        let mut state = self.lock();
        state.last += 1;
        let id = state.last;
        state.waiting.insert(id, waiting);
        (id, answer)
    }

    fn answer(&self, line: &[u8]) {
        let Ok(RpcResponse { id: Some(id), result }) = RpcResponse::parse(line) else {
            debug!("a line that is no response is passed over");
            return;
        };
        let id = id.get().parse().ok();
        let waiting = id.and_then(|id: u64| self.lock().waiting.remove(&id));
        // A late answer finds nobody.
        if let Some(waiting) = waiting {
            let _ = waiting.send(result);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> CallError {
    CallError::new(RpcCode::NodeUnreachable, "the program behind the service ended")
}

/// The request as a line; the caller's proven identity stands beside the method.
fn line(id: u64, request: &Request) -> Result<String, CallError> {
    #[derive(serde::Serialize)]
    struct Identity<'a> {
        caller: &'a Caller,
    }
    let mut line = encode_request(Some(id), request.method.as_str(), request.args.as_deref());
    let identity = serde_json::to_string(&Identity { caller: &request.caller })
        .map_err(|_| CallError::internal("identity"))?;
    // `{…}` and `{"caller":…}` become one object.
    line.pop();
    line.push(',');
    line.push_str(identity.trim_start_matches('{'));
    if line.len() > MAX_LINE {
        return Err(CallError::invalid_params("the arguments are too large for this service"));
    }
    line.push('\n');
    Ok(line)
}

async fn write(mut stdin: ChildStdin, mut queue: mpsc::Receiver<String>) -> std::io::Result<()> {
    while let Some(line) = queue.recv().await {
        stdin.write_all(line.as_bytes()).await?;
        stdin.flush().await?;
    }
    Ok(())
}

/// Reads answers until the process closes its output; why it ended.
async fn read(stdout: impl AsyncRead + Unpin, calls: &Calls) -> String {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        match read_line(&mut stdout, &mut line, MAX_LINE).await {
            Ok(Line::Whole) => calls.answer(&line),
            Ok(Line::TooLong) => return "it wrote a line that is too long".to_owned(),
            Ok(Line::End) => return "it ended".to_owned(),
            Err(error) => return format!("its output broke: {error}"),
        }
    }
}

async fn log(stderr: impl AsyncRead + Unpin, journal: Option<Journal>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while let Ok(Line::Whole | Line::TooLong) =
        read_line(&mut stderr, &mut line, MAX_LOG_LINE).await
    {
        let line = String::from_utf8_lossy(&line);
        debug!(%line, "stderr");
        if let Some(journal) = &journal {
            journal.write(LogLevel::Info, &line);
        }
    }
}

enum Line {
    Whole,
    /// Cut; what follows is read as further lines.
    TooLong,
    End,
}

/// Reads up to the next line end, at most `limit` bytes, without it.
async fn read_line(
    from: &mut (impl AsyncBufReadExt + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> std::io::Result<Line> {
    line.clear();
    loop {
        let seen = from.fill_buf().await?;
        if seen.is_empty() {
            return Ok(if line.is_empty() { Line::End } else { Line::Whole });
        }
        let end = seen.iter().position(|byte| *byte == b'\n');
        let take = end.unwrap_or(seen.len()).min(limit - line.len());
        line.extend(seen.iter().take(take));
        let whole = end.is_some_and(|end| end == take);
        from.consume(take + usize::from(whole));
        if whole {
            return Ok(Line::Whole);
        }
        if line.len() >= limit {
            return Ok(Line::TooLong);
        }
    }
}
