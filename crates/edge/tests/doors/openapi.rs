//! Real answers against the document that describes them.

use serde_json::{Value, json};

use crate::{
    event,
    support::{House, key},
    text,
};

/// Schemas whose answers may hold more than is listed.
const OPEN: [&str; 6] = ["Object", "Problem", "PublishResult", "Challenge", "Session", "Whoami"];

/// Checks a value against a schema; of JSON Schema it knows what our document uses.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{name} is not described");
        return check_object(
            document,
            schema,
            value,
            &format!("{at}:{name}"),
            OPEN.contains(&name),
        );
    }
    check_object(document, schema, value, at, false)
}

fn check_object(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
    open: bool,
) -> Result<(), String> {
    if let Some(any) = schema["oneOf"].as_array() {
        let tried: Vec<_> = any.iter().map(|one| check(document, one, value, at)).collect();
        return match tried.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(format!("{at}: none fits: {tried:?}")),
        };
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let fits = kinds.iter().any(|kind| match *kind {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("{at}: unknown type {other}"),
    });
    if !fits {
        return Err(format!("{at}: {value} is not {kinds:?}"));
    }
    if let Some(items) = value.as_array() {
        for item in items {
            check(document, &schema["items"], item, &format!("{at}[]"))?;
        }
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    // An object of which no member is described may hold any.
    let open = open || schema["properties"].is_null();
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        if !members.contains_key(name) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, member) in members {
        match schema["properties"].get(name) {
            Some(schema) => check(document, schema, member, &format!("{at}.{name}"))?,
            None if open => {}
            None => return Err(format!("{at}: {name} is not described")),
        }
    }
    Ok(())
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let house = House::open("").await;
    let served = house.get("/openapi.json").await;
    assert!(served.header("cache-control").unwrap().contains("max-age"));
    let document = served.json();
    assert_eq!(document["openapi"], "3.1.0");

    let alice = house.client().key(key(1)).build().unwrap();
    let pointer = event(&key(1), 30_001, &[&["d", "x"]], "");
    let body = text(&pointer).to_owned();
    let bad = format!("[{body},{{}}]");
    let post = |path: &str, body: String| ("post", path.to_owned(), path.to_owned(), body);
    let get = |path: &str, real: &str| ("get", path.to_owned(), real.to_owned(), String::new());
    let address = format!("/v1/events/address/30001/{}", key(1).node_id());
    let calls = [
        post("/v1/events", body.clone()),
        post("/v1/events", body),
        post("/v1/events", bad),
        post("/v1/events", "nonsense".into()),
        get("/v1/events", "/v1/events?order=seq"),
        get("/v1/events", "/v1/events?limit=nonsense"),
        get("/v1/events/count", "/v1/events/count"),
        get("/v1/events/{id}", &format!("/v1/events/{}", pointer.id())),
        get("/v1/events/{id}", &format!("/v1/events/{}", "0".repeat(64))),
        get("/v1/events/address/{kind}/{pubkey}/{d}", &format!("{address}/x")),
        get("/v1/events/address/{kind}/{pubkey}/{d}/history", &format!("{address}/x/history")),
        get("/v1/locks", "/v1/locks"),
        get("/v1/locks/{resource}", "/v1/locks/db%2Fmain"),
        get("/v1/lock-history", "/v1/lock-history"),
        get("/v1/info", "/v1/info"),
        get("/", "/"),
        get("/health", "/health"),
        get("/v1/whoami", "/v1/whoami"),
        get("/v1/acl", "/v1/acl"),
        post(
            "/v1/auth/challenge",
            json!({ "user_id": key(1).node_id(), "device_id": "d" }).to_string(),
        ),
    ];
    for (method, path, real, body) in calls {
        let answer = house.raw(&method.to_uppercase(), &real, &[], &body).await;
        check_answer(&document, method, &path, answer.status, &answer.json());
    }
    // What only a key may do.
    let acquire = json!({ "resource": "db/main", "lease_ms": 60_000, "meta": { "a": 1 } });
    let request = relay_client::Request::post("/v1/locks/acquire", &acquire);
    let grant: Value = alice.call(request).await.unwrap();
    check_answer(&document, "post", "/v1/locks/{resource}", 200, &grant);
    for (path, real) in [
        ("/v1/locks", "/v1/locks"),
        ("/v1/locks/{resource}", "/v1/locks/db%2Fmain"),
        ("/v1/lock-history", "/v1/lock-history"),
    ] {
        let answer = house.get(real).await;
        check_answer(&document, "get", path, answer.status, &answer.json());
    }
    let release = json!({ "resource": "db/main", "fencing_token": grant["fencing_token"] });
    let request = relay_client::Request::post("/v1/locks/release", &release);
    let ended: Value = alice.call(request).await.unwrap();
    check_answer(&document, "post", "/v1/locks/{resource}", 200, &ended);
    house.close().await;
}

fn check_answer(document: &Value, method: &str, path: &str, status: u16, answer: &Value) {
    let responses = &document["paths"][path][method]["responses"];
    assert!(responses.is_object(), "{method} {path} is not described");
    let response = responses.get(status.to_string()).unwrap_or(&responses["default"]);
    let is_default = responses.get(status.to_string()).is_none();
    assert_eq!(is_default, status >= 400 && status != 503, "{method} {path}: {status}");
    let kind = if is_default { "application/problem+json" } else { "application/json" };
    let schema = &response["content"][kind]["schema"];
    assert!(schema.is_object(), "{method} {path} {status}: {response}");
    if let Err(fault) = check(document, schema, answer, path) {
        panic!("{method} {path} answers {status} otherwise than described: {fault}\n{answer}");
    }
}
