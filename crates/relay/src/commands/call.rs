//! `relay call`: one call of a service, here or anywhere.

use std::{
    io::{Read, Write},
    path::Path,
    str::FromStr,
    time::Duration,
};

use clap::Args;
use relay_client::{Client, Error, Piece, Request, ServiceCall};
use relay_proto::{Address, NodeAddress, NodeId, RelayId, ServiceName, address::Method, call::Hop};
use serde_json::{Map, Value, json};

use super::api::member;
use crate::{
    app::App,
    error::{Failure, Outcome},
    files,
    output::{self, Format},
    times,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay call counter add by:=5
  relay call blog@alice.home create_post title=Hello body='First post'
  relay call blog list_posts '{\"limit\": 3}' --trace
  relay call ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 blog.list_posts
  relay call shop get path=/cart --stream")]
pub struct Call {
    /// The service: its name, an address such as blog@alice.home, or the key of its relay
    target: Target,
    /// The method; behind a key alone SERVICE.METHOD
    method: Method,
    /// k=text, k:=JSON, k=@FILE; or one JSON value, @FILE, or - for stdin
    args: Vec<String>,
    /// Take the result in pieces
    #[arg(long, conflicts_with_all = ["notify", "trace"])]
    stream: bool,
    /// Send it, and wait for no answer
    #[arg(long, conflicts_with = "trace")]
    notify: bool,
    /// Show where the time went
    #[arg(long)]
    trace: bool,
    /// Which versions of the service will do
    #[arg(id = "range", long = "version", value_name = "RANGE")]
    version: Option<String>,
    /// The node to call it on
    #[arg(long, value_name = "NODE")]
    on: Option<NodeAddress>,
    /// Calls repeated with the same key have their effect once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Call {
    pub async fn run(self, app: &App) -> Outcome {
        let args = read_args(&self.args)?;
        let (client, mut to, method) = match self.target {
            Target::Address(address) => (app.client().await?, address, self.method),
            Target::Key { service, key } => {
                let client = app.client_with_key().await?;
                let (service, method) = match service {
                    Some(service) => (service, self.method),
                    None => split(&self.method)?,
                };
                let node = NodeAddress { relay: relay_of(&client, &key).await?, hub: None };
                (client, Address { service, node: Some(node) }, method)
            }
        };
        if let Some(node) = self.on {
            to.node = Some(node);
        }
        let object = format!("{to}.{method}");
        let mut call = ServiceCall::new(to, method, args);
        call.version = self.version;
        call.idempotency_key = self.idempotency_key;
        call.timeout = app.timeout();
        call.timing = self.trace;
        let failed = |error| Failure::of(error, &object);
        if self.notify {
            client.notify_service(&call).await.map_err(failed)?;
            return Ok(0);
        }
        if self.stream {
            return stream(&client, &call).await.map_err(failed)?;
        }
        let began = std::time::Instant::now();
        let answer = client.call_service(&call).await.map_err(failed)?;
        if self.trace && app.out.is_json() {
            output::line(&json!({ "result": answer.result, "hops": answer.hops }).to_string())?;
            return Ok(0);
        }
        if self.trace {
            trace(&answer.hops, began.elapsed());
        }
        print(app, &answer.result)?;
        Ok(0)
    }
}

/// Whom to call.
#[derive(Debug, Clone)]
enum Target {
    Address(Address),
    /// A service of the relay that has a key, whatever its name is; asked under the caller's own key.
    Key {
        service: Option<ServiceName>,
        key: NodeId,
    },
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, key) = match text.split_once("@ed25519:") {
            Some((service, key)) => (Some(service), format!("ed25519:{key}")),
            None if text.starts_with("ed25519:") => (None, text.to_owned()),
            None => return text.parse().map(Self::Address).map_err(|error| format!("{error}")),
        };
        let key = key.parse::<NodeId>().map_err(|error| format!("{error}"))?;
        let service =
            service.map(|name| name.parse::<ServiceName>().map_err(|error| format!("{error}")));
        Ok(Self::Key { service: service.transpose()?, key })
    }
}

/// The service and the method in one word.
fn split(word: &Method) -> Result<(ServiceName, Method), Failure> {
    let parts = word.as_str().rsplit_once('.');
    let parts =
        parts.and_then(|(service, method)| Some((service.parse().ok()?, method.parse().ok()?)));
    parts.ok_or_else(|| {
        Failure::usage("behind a key the method is SERVICE.METHOD, such as blog.list_posts")
    })
}

/// The name of the relay that has a key, as the asked relay knows it.
async fn relay_of(client: &Client, key: &NodeId) -> Result<RelayId, Failure> {
    let request = Request::get("/v1/gateways/resolve").query("node_id", Some(key));
    let found: Value =
        client.call(request).await.map_err(|error| Failure::of(error, &key.to_string()))?;
    let name = found["gateway_id"].as_str().and_then(|name| name.parse().ok());
    name.ok_or_else(|| Failure::failed("the relay's answer names no relay"))
}

/// The arguments, in any of their forms.
fn read_args(words: &[String]) -> Result<Option<Value>, Failure> {
    let value = match words {
        [] => return Ok(None),
        [only] if only == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            parse(&text, "stdin")?
        }
        [only] if only.starts_with('@') => {
            let path = Path::new(only.trim_start_matches('@'));
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(files::at(path, &error).what))?;
            parse(&text, only)?
        }
        [only] if only.starts_with(['{', '[']) => parse(only, "the arguments")?,
        members => {
            let members = members.iter().map(|word| member(word));
            Value::Object(members.collect::<Result<Map<_, _>, _>>()?)
        }
    };
    if value.is_object() || value.is_array() {
        return Ok(Some(value));
    }
    Err(Failure::usage("arguments are an object or an array"))
}

fn parse(text: &str, name: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::usage(format!("{name}: {error}")))
}

/// A result: as it is for programs, indented for people.
fn print(app: &App, result: &Value) -> Result<(), Failure> {
    match (app.out.format, result) {
        (Format::Raw, Value::String(text)) => output::line(text)?,
        (Format::Kv, Value::Object(_)) => app.out.one(result, &[])?,
        (Format::Auto | Format::Table, result) if app.out.terminal => {
            output::line(&format!("{result:#}"))?
        }
        (_, Value::Object(_)) if !app.out.fields.is_empty() => app.out.one(result, &[])?,
        (_, result) => output::line(&result.to_string())?,
    }
    Ok(())
}

/// Each relay on the way, nearest first.
fn trace(hops: &[Hop], total: Duration) {
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1000.0);
    eprintln!("{:<32} {}", "here", ms(total.as_micros() as u64));
    for hop in hops {
        let rtt = hop.rtt_us.map(|us| format!("   next link rtt {}", ms(us))).unwrap_or_default();
        eprintln!("{:<32} {}   waited {}{rtt}", hop.node, ms(hop.total_us), ms(hop.queue_us));
    }
    if hops.is_empty() {
        eprintln!("no relay on the way said how long it took ({})", times::human(total));
    }
}

/// The result as a line of JSON, then its bytes as they come.
async fn stream(client: &Client, call: &ServiceCall) -> Result<Outcome, Error> {
    let mut pieces = client.stream_service(call).await?;
    let mut stdout = std::io::stdout().lock();
    while let Some(piece) = pieces.next().await? {
        let written = match piece {
            Piece::Result(value) => writeln!(stdout, "{value}"),
            Piece::Bytes(bytes) => stdout.write_all(&bytes),
        };
        if let Err(error) = written.and_then(|()| stdout.flush()) {
            return Ok(Err(error.into()));
        }
    }
    Ok(Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_members_or_one_value() {
        let read = |words: &[&str]| {
            read_args(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(read(&[]).unwrap(), None);
        let members = read(&["title=Hi", "n:=3"]).unwrap();
        assert_eq!(members, Some(json!({ "title": "Hi", "n": 3 })));
        assert_eq!(read(&["[1,2]"]).unwrap(), Some(json!([1, 2])));
        assert_eq!(read(&["{\"a\":1}"]).unwrap(), Some(json!({ "a": 1 })));
        for bad in [&["3"][..], &["{"], &["a"], &["@/nothing/there"]] {
            assert_eq!(read(bad).unwrap_err().exit, 2, "{bad:?}");
        }
    }
}
