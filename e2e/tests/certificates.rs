//! `relay serve --domain`: a certificate from a real ACME authority (Let's Encrypt's test server), which
//! looks at the relay under its name as the public one would.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use relay_e2e::{
    Backend, Relay,
    relay::{Setup, free_address},
    until,
};
use serde_json::json;

const DOMAIN: &str = "relay.example.com";
const LIMIT: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The authority, and a name server that leads every name to this machine.
struct Authority {
    _processes: [Running; 2],
    directory: String,
    management: SocketAddr,
    /// Where the authority looks for the answers.
    challenge: SocketAddr,
}

impl Authority {
    async fn start(dir: &Path) -> Self {
        let [wfe, management, challenge, dns, dns_admin, unused] = [(); 6].map(|()| free_address());
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(dir.join("pebble.pem"), own.cert.pem()).unwrap();
        fs::write(dir.join("pebble.key"), own.signing_key.serialize_pem()).unwrap();
        let config = json!({ "pebble": {
            "listenAddress": wfe.to_string(), "managementListenAddress": management.to_string(),
            "certificate": dir.join("pebble.pem"), "privateKey": dir.join("pebble.key"),
            "httpPort": challenge.port(), "tlsPort": unused.port(), "ocspResponderURL": "",
        }});
        fs::write(dir.join("pebble.json"), config.to_string()).unwrap();
        let names = Command::new("pebble-challtestsrv")
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", ""])
            .args(["-tlsalpn01", "", "-dns01", &dns.to_string()])
            .args(["-management", &dns_admin.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble-challtestsrv is installed by tools/install-deps.sh");
        let log = fs::File::create(dir.join("pebble.log")).unwrap();
        let authority = Command::new("pebble")
            .arg("-config")
            .arg(dir.join("pebble.json"))
            .args(["-dnsserver", &dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let authority = Self {
            _processes: [Running(names), Running(authority)],
            directory: format!("https://127.0.0.1:{}/dir", wfe.port()),
            management,
            challenge,
        };
        until("the authority listens", LIMIT, || async {
            tokio::net::TcpStream::connect(wfe).await.is_ok()
        })
        .await;
        authority
    }

    /// The root under which it signs.
    async fn root(&self, dir: &Path) -> reqwest::Certificate {
        let own = fs::read(dir.join("pebble.pem")).unwrap();
        let http = client(&own, None);
        let url = format!("https://{}/roots/0", self.management);
        let pem = http.get(url).send().await.unwrap().bytes().await.unwrap();
        reqwest::Certificate::from_pem(&pem).unwrap()
    }
}

fn client(root: &[u8], resolve: Option<SocketAddr>) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(root).unwrap();
    client_of(root, resolve)
}

fn client_of(root: reqwest::Certificate, resolve: Option<SocketAddr>) -> reqwest::Client {
    let _ = relay_e2e::relay::reqwest_client();
    let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    if let Some(address) = resolve {
        builder = builder.resolve(DOMAIN, address);
    }
    builder.redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_name_gets_its_certificate_and_keeps_it_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::start(dir.path()).await;
    let config = format!(
        "[tls]\ndomain = {DOMAIN:?}\nacme_email = \"admin@example.com\"\nacme_directory = {:?}\n\
         acme_ca_file = {:?}\nchallenge = \"{}\"\n",
        authority.directory,
        dir.path().join("pebble.pem"),
        authority.challenge
    );
    let setup = Setup { config, encrypted: true, ..Setup::new(Backend::Sqlite) };
    let mut relay = Relay::with(setup).await;
    let root = authority.root(dir.path()).await;
    let http = client_of(root.clone(), Some(relay.address()));
    let url = format!("https://{DOMAIN}:{}/readyz", relay.address().port());
    let ready =
        || async { http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) };
    until("the certificate is in use", LIMIT, ready).await;

    // The plain port leads others to https, and knows no answer that was not asked for.
    let plain = relay_e2e::relay::reqwest_client();
    let elsewhere = plain.get(format!("http://{}/v1/info?a=b", authority.challenge));
    let elsewhere = elsewhere.send().await.unwrap();
    assert_eq!(elsewhere.status(), 308);
    assert_eq!(elsewhere.headers()["location"], format!("https://{DOMAIN}/v1/info?a=b"));
    let unknown = format!("http://{}/.well-known/acme-challenge/unknown", authority.challenge);
    assert_eq!(plain.get(unknown).send().await.unwrap().status(), 404);

    // The key is the relay's user's alone.
    let key = relay.data_dir().join("acme/key.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o077, 0);

    // With the authority gone, a restart serves what it has.
    drop(authority);
    let stored = fs::read(&key).unwrap();
    relay.kill();
    relay.restart().await;
    until("the stored certificate is in use", LIMIT, ready).await;
    assert_eq!(fs::read(&key).unwrap(), stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_elsewhere_is_told_and_the_relay_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::start(dir.path()).await;
    let config = format!(
        "[tls]\ndomain = {DOMAIN:?}\nacme_directory = {:?}\nacme_ca_file = {:?}\nchallenge = \"{}\"\n",
        authority.directory,
        dir.path().join("pebble.pem"),
        free_address(),
    );
    let setup = Setup { config, encrypted: true, ..Setup::new(Backend::Sqlite) };
    let relay = Relay::with(setup).await;
    until("the cause is in the log", LIMIT, || async {
        relay.log().contains("port 80 of the name must lead to")
    })
    .await;
    assert!(relay.log().contains("connection refused"), "{}", relay.log());
    // Over its socket it still serves.
    let info = std::os::unix::net::UnixStream::connect(relay.socket());
    assert!(info.is_ok());
}

/// A certificate for 127.0.0.1 in `dir`, as a renewal leaves it there; and what a client trusts.
fn renewed(dir: &Path) -> reqwest::Client {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(dir.join("cert.pem"), own.cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), own.signing_key.serialize_pem()).unwrap();
    let key = dir.join("key.pem");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    client_of(reqwest::Certificate::from_pem(own.cert.pem().as_bytes()).unwrap(), None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_a_renewed_certificate_and_keeps_the_old_where_the_new_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let first = renewed(dir.path());
    let config = format!(
        "[tls]\ncert_file = {:?}\nkey_file = {:?}\n",
        dir.path().join("cert.pem"),
        dir.path().join("key.pem")
    );
    let setup = Setup { config, encrypted: true, ..Setup::new(Backend::Sqlite) };
    let relay = Relay::with(setup).await;
    let url = format!("https://{}/readyz", relay.address());
    let trusts = async |http: &reqwest::Client| http.get(&url).send().await.is_ok();
    until("the first certificate is in use", LIMIT, || trusts(&first)).await;

    let second = renewed(dir.path());
    assert!(!trusts(&second).await, "files alone change nothing");
    relay.hang_up();
    until("the second certificate is in use", LIMIT, || trusts(&second)).await;

    fs::write(dir.path().join("cert.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    relay.hang_up();
    until("the broken file is told", LIMIT, || async {
        relay.log().contains("the configuration was not reloaded")
    })
    .await;
    assert!(relay.log().contains("cert.pem"), "{}", relay.log());
    assert!(trusts(&second).await, "the old one stays in use");
}
