//! `relay api`: any request, authenticated as every other command.

use clap::Args;
use relay_client::Request;
use reqwest::Method;
use serde_json::{Map, Value};

use crate::{
    app::App,
    error::{Failure, Outcome},
    output,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay api GET /v1/info
  relay api GET /v1/events kinds=1 limit=10 --paginate
  relay api POST /v1/locks/acquire resource=db/main lease_ms:=30000")]
pub struct Api {
    /// GET, POST, PUT, PATCH or DELETE
    method: String,
    /// The path, beginning with /
    path: String,
    /// Members: k=text, k:=JSON, k=@FILE; the query of a GET, the body of others
    members: Vec<String>,
    /// Follow the cursor through all pages
    #[arg(long)]
    paginate: bool,
}

impl Api {
    pub async fn run(self, app: &App) -> Outcome {
        let method: Method = self
            .method
            .to_uppercase()
            .parse()
            .map_err(|_| Failure::usage(format!("'{}' is no method", self.method)))?;
        if !self.path.starts_with('/') {
            return Err(Failure::usage("the path begins with /"));
        }
        let (path, in_path) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let mut request = Request::new(method.clone(), path);
        for pair in in_path.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            request.query.push((name.to_owned(), value.to_owned()));
        }
        let members =
            self.members.iter().map(|text| member(text)).collect::<Result<Vec<_>, _>>()?;
        if method == Method::GET || method == Method::DELETE {
            let text =
                |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            request.query.extend(members.into_iter().map(|(name, value)| (name, text(value))));
        } else if !members.is_empty() {
            request = request.json(&Value::Object(members.into_iter().collect::<Map<_, _>>()));
        }
        let client = app.client().await?;
        loop {
            let bytes = client
                .fetch(request.clone())
                .await
                .map_err(|error| Failure::of(error, &format!("{method} {path}")))?;
            let answer = serde_json::from_slice::<Value>(&bytes).ok();
            match &answer {
                Some(answer) if !app.out.fields.is_empty() => app.out.one(answer, &[])?,
                _ => output::line(String::from_utf8_lossy(&bytes).trim_end())?,
            }
            let next = answer;
            let next = next.and_then(|answer| answer["cursor"].as_str().map(str::to_owned));
            let same = |cursor: &String| {
                request.query.iter().any(|(name, value)| name == "cursor" && value == cursor)
            };
            match next.filter(|cursor| self.paginate && !same(cursor)) {
                None => return Ok(0),
                Some(cursor) => {
                    request.query.retain(|(name, _)| name != "cursor");
                    request.query.push(("cursor".into(), cursor));
                }
            }
        }
    }
}

/// `k=text`, `k:=JSON`, `k=@FILE`.
pub(super) fn member(text: &str) -> Result<(String, Value), Failure> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| Failure::usage(format!("'{text}' is no member; write k=text or k:=JSON")))?;
    if let Some(name) = name.strip_suffix(':') {
        let value = serde_json::from_str(value)
            .map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        return Ok((name.to_owned(), value));
    }
    let value = match value.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| crate::files::at(std::path::Path::new(path), &error))?,
        None => value.to_owned(),
    };
    Ok((name.to_owned(), value.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_text_or_json() {
        assert_eq!(member("a=1").unwrap(), ("a".into(), json!("1")));
        assert_eq!(member("a:=1").unwrap(), ("a".into(), json!(1)));
        assert_eq!(member("a=x=y").unwrap(), ("a".into(), json!("x=y")));
        assert_eq!(member("nothing").unwrap_err().exit, 2);
        assert_eq!(member("a:={").unwrap_err().exit, 2);
    }
}
