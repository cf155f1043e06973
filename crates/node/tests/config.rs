//! Configuration from outside: files with the message each must give, sources in their order,
//! and the generated file and schema.
//!
//! The files lie in `config/`: `bad_*.toml` name the problems that they must give, all of them and
//! no others, in lines that begin with `#=`; `good_*.toml` must load.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::{fs, io::Write, path::PathBuf, time::Duration};

use relay_node::config::{
    Backend, Config, Difference, FlagValue, Origin, Sources, load, load_text, sample, schema,
};

fn files(prefix: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files {prefix}*");
    files
}

#[test]
fn each_bad_file_gives_its_messages() {
    for path in files("bad_") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let mut expected: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("#= ")).collect();
        let problems = load_text("relay.toml", &text).expect_err(name).to_string();
        let mut told: Vec<_> = problems.lines().collect();
        expected.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, expected, "{name}");
    }
}

#[test]
fn each_good_file_loads_without_notices() {
    for path in files("good_") {
        let sources = Sources { files: vec![path.clone()], ..Sources::default() };
        let loaded = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.notices, [], "{}", path.display());
        assert_ne!(loaded.config, Config::default());
    }
}

#[test]
fn later_sources_win_and_origins_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let one = write(
        "one.toml",
        "[node]\nid = \"one\"\n[log]\nlevel = \"warn\"\n[drain]\ntimeout = \"40s\"\n",
    );
    let two = write(
        "two.toml",
        "[node]\nid = \"two\"\n[[acl]]\nns = \"a\"\nwho = [\"*\"]\nallow = [\"read\"]\n",
    );
    let three = write("three.toml", "[[acl]]\nns = \"b/**\"\nwho = [\"*\"]\nallow = [\"read\"]\n");
    let sources = Sources {
        files: vec![one, two, three],
        env: vec![
            ("RELAY_LOG__LEVEL".into(), "debug".into()),
            ("RELAY_LISTEN__HTTP".into(), "127.0.0.1:1,127.0.0.1:2".into()),
            ("RELAY_CHAT__CORS_ORIGINS".into(), r#"["https://a.example"]"#.into()),
            ("RELAY_URL".into(), "http://elsewhere".into()),
            ("GATEWAY_SESSION_TTL_S".into(), "7200".into()),
            ("GATEWAY_ID".into(), "gw_seven".into()),
        ],
        flags: vec![FlagValue {
            flag: "--listen".into(),
            path: "listen.http".into(),
            value: "127.0.0.1:9".into(),
        }],
    };
    let loaded = load(&sources).unwrap();
    let config = &loaded.config;
    assert_eq!(config.node.id, "two");
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.drain.timeout, Duration::from_secs(40));
    assert_eq!(config.listen.http, ["127.0.0.1:9".parse().unwrap()]);
    assert_eq!(config.chat.cors_origins, ["https://a.example"]);
    assert_eq!(config.chat.session_ttl, Duration::from_secs(7200));
    assert_eq!(config.acl.iter().map(|rule| rule.ns.as_str()).collect::<Vec<_>>(), ["a", "b/**"]);

    let origin =
        |path: &str| loaded.lines().into_iter().find(|line| line.path == path).unwrap().origin;
    assert_eq!(origin("listen.http"), Origin::Flag("--listen".into()));
    assert_eq!(origin("log.level"), Origin::Env("RELAY_LOG__LEVEL".into()));
    assert_eq!(origin("chat.session_ttl"), Origin::Env("GATEWAY_SESSION_TTL_S".into()));
    assert_eq!(origin("store.backend"), Origin::Default);
    assert!(origin("node.id").to_string().ends_with("two.toml:2:6"), "{}", origin("node.id"));

    let notices: Vec<_> = loaded.notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices, ["environment GATEWAY_ID: overruled by node.id, which is set as well"]);
}

#[test]
fn the_port_alone_means_all_interfaces() {
    let loaded = load(&Sources::default().with_port(8080)).unwrap();
    assert_eq!(loaded.config.listen.http, ["0.0.0.0:8080".parse().unwrap()]);
}

#[test]
fn wrong_environment_and_missing_files_are_all_told() {
    let sources = Sources {
        files: vec!["/nowhere/relay.toml".into()],
        env: vec![
            ("RELAY_STROE__BACKEND".into(), "postgres".into()),
            ("RELAY_STORE__BACKEDN".into(), "postgres".into()),
            ("RELAY_DRAIN__TIMEOUT".into(), "soon".into()),
            ("GATEWAY_SESSION_TTL_S".into(), "an hour".into()),
        ],
        flags: vec![],
    };
    let told = load(&sources).unwrap_err().to_string();
    let wanted = [
        "/nowhere/relay.toml: no such file",
        "environment RELAY_STROE__BACKEND: unknown section 'stroe', did you mean 'store'?",
        "environment GATEWAY_SESSION_TTL_S: 'chat.session_ttl' must be a duration such as \"500ms\", \"30s\", \"15m\", \"1h\", \"90d\", not 'an hours'",
        "environment RELAY_STORE__BACKEDN: unknown key 'backedn' in [store], did you mean 'backend'?",
        "environment RELAY_DRAIN__TIMEOUT: 'drain.timeout' must be a duration such as \"500ms\", \"30s\", \"15m\", \"1h\", \"90d\", not 'soon'",
    ];
    let mut told: Vec<_> = told.lines().collect();
    let mut wanted = wanted.to_vec();
    told.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(told, wanted);
}

#[cfg(unix)]
#[test]
fn a_secret_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"postgres:///relay").unwrap();
    let path = file.path().display().to_string();
    let text = format!("[store]\nbackend = \"postgres\"\ndatabase_url_file = \"{path}\"\n");
    let with_mode = |mode| {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        load_text("relay.toml", &text)
    };
    let refused = with_mode(0o644).unwrap_err().to_string();
    let wanted =
        format!("relay.toml:3:21: the secret file {path} may be read by others: chmod 600 {path}");
    assert!(refused.lines().any(|line| line == wanted), "{refused}");

    let loaded = with_mode(0o600).unwrap();
    assert_eq!(loaded.config.store.backend, Backend::Postgres);
    let shown = loaded.lines().into_iter().find(|line| line.path == "store.database_url_file");
    assert_eq!(shown.unwrap().value.to_string(), "\"<file>\"");
    assert!(!format!("{:?}", loaded.config).contains(&path));
}

#[test]
fn the_sample_states_the_defaults() {
    for all in [false, true] {
        let as_written = load_text("sample", &sample(all)).unwrap();
        assert_eq!(as_written.config, Config::default());
        let switched_on = load_text("sample", &switch_on(&sample(all))).unwrap();
        assert_eq!(switched_on.config, Config::default());
    }
    let set = |all| {
        switch_on(&sample(all))
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains(" = "))
            .count()
    };
    assert!(set(true) > 35 && (8..20).contains(&set(false)), "{} {}", set(true), set(false));
}

/// The sample with each `# key = value` of a plain section made an assignment.
fn switch_on(sample: &str) -> String {
    let mut plain = false;
    let mut out = String::new();
    for line in sample.lines() {
        if line.starts_with('[') || line.starts_with("# [[") {
            plain = line.starts_with('[') && line != "[groups]";
        }
        let assignment = line.strip_prefix("# ").filter(|rest| {
            let key = rest.split_once(" = ").map_or("", |(key, _)| key);
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        });
        out.push_str(assignment.filter(|_| plain).unwrap_or(line));
        out.push('\n');
    }
    out
}

#[test]
fn the_schema_knows_every_setting_and_no_other() {
    let schema = schema();
    let loaded = load(&Sources::default()).unwrap();
    for line in loaded.lines() {
        let pointer = format!("/properties/{}", line.path.replace('.', "/properties/"));
        assert!(schema.pointer(&pointer).is_some(), "{pointer}");
    }
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["store"]["additionalProperties"], false);
    assert_eq!(
        schema["properties"]["acl"]["items"]["properties"]["allow"]["items"]["enum"],
        serde_json::json!(["read", "write", "lock", "admin"])
    );
}

#[test]
fn differences_name_both_values() {
    let ours = load_text("a", "[node]\nid = \"one\"\n[drain]\ntimeout = \"30s\"\n").unwrap().config;
    let theirs =
        load_text("b", "[node]\nid = \"two\"\n[drain]\ntimeout = \"30s\"\n").unwrap().config;
    let difference =
        Difference { setting: "node.id".into(), before: "\"one\"".into(), after: "\"two\"".into() };
    assert_eq!(ours.differences(&theirs), [difference]);
    assert_eq!(ours.differences(&ours), []);
}

#[test]
fn advice_names_what_is_open() {
    let advice = |text: &str| load_text("a", text).unwrap().advice().join("\n");
    assert!(advice("").contains("namespace 'default'"));
    let public = advice("[listen]\nhttp = [\"0.0.0.0:80\"]\n");
    assert!(public.contains("without encryption") && public.contains("rate limit"), "{public}");
    let rule = "[[acl]]\nns = \"x\"\nwho = [\"*\"]\nallow = [\"read\"]\n";
    assert_eq!(advice(rule), "");
}
