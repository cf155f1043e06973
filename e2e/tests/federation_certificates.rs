//! Hubs that prove themselves to each other by certificates, over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

use std::time::{Duration, SystemTime};

use relay_client::{Request, ServiceCall};
use relay_e2e::{
    Backend, Relay,
    federation::{PATIENCE, Secrets, Service, counted, operate, operator},
    relay::Setup,
    until,
};
use relay_fed::links::ca::{Authority, IssuedCertificate};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The authority of the hubs, and where the files of all are.
struct House {
    authority: Authority,
    files: Secrets,
}

impl House {
    fn new() -> Self {
        let authority = Authority::init("hubs of a test", SystemTime::now()).unwrap();
        let files = Secrets::new();
        files.file("ca.pem", &authority.certificate_pem);
        Self { authority, files }
    }

    fn issue(&mut self, name: &str) -> IssuedCertificate {
        self.authority.issue(&name.parse().unwrap(), 30 * DAY, SystemTime::now()).unwrap()
    }

    /// What certificates that were taken back are refused by.
    fn list(&mut self) -> String {
        let list = self.authority.revoked(7 * DAY, SystemTime::now()).unwrap();
        format!("crl_file = {:?}\n", self.files.file("crl.pem", &list))
    }

    /// A hub that speaks TLS alone, under the address that the others dial, and dials `peers`. It shows
    /// `client` to them.
    async fn hub(
        &mut self,
        id: &str,
        server: &IssuedCertificate,
        client: &IssuedCertificate,
        peers: &[&Relay],
        more: &str,
    ) -> Relay {
        let peers: Vec<_> =
            peers.iter().map(|peer| format!("wss://{}/federate", peer.address())).collect();
        let file = |of: &str, text: &str| self.files.file(&format!("{id}-{of}.pem"), text);
        let config = format!(
            "[tls]\ncert_file = {:?}\nkey_file = {:?}\n\
             [hub]\npsk_file = {psk:?}\n\
             [federation]\npeers = {peers:?}\nca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\n{more}",
            file("server", &server.chain_pem),
            file("server-key", &server.key_pem),
            self.files.file("ca.pem", &self.authority.certificate_pem),
            file("client", &client.chain_pem),
            file("client-key", &client.key_pem),
            psk = self.files.psk(),
        );
        let setup = Setup { id: id.into(), config, encrypted: true, ..Setup::new(Backend::Sqlite) };
        Relay::with(setup).await
    }

    /// A spoke of a hub that speaks TLS.
    async fn spoke(&self, id: &str, hub: &Relay, service: &Service) -> Relay {
        let ca = self.files.file("ca.pem", &self.authority.certificate_pem);
        let config = format!(
            "[federation]\nconnect = \"wss://{}/federate\"\npsk_file = {:?}\nca_file = {ca:?}\n\
             [[service]]\nname = {:?}\nhttp = \"http://{}/rpc\"\nvisibility = \"public\"\n",
            hub.address(),
            self.files.psk(),
            service.name,
            service.address
        );
        Relay::with(Setup { id: id.into(), config, ..Setup::new(Backend::Sqlite) }).await
    }
}

async fn peer_of(hub: &Relay) -> Value {
    operate(hub, Request::get("/federation/peers")).await["peers"][0].clone()
}

async fn until_linked(hub: &Relay, other: &str) {
    until("the hubs are linked", PATIENCE, || async {
        let peer = peer_of(hub).await;
        peer["id"] == other && peer["is_connected"] == true
    })
    .await;
}

async fn until_refused(hub: &Relay, event: &str, reason: &str) {
    until(&format!("{event} {reason}"), PATIENCE, || async {
        counted(hub, event, reason).await > 0
    })
    .await;
    let log = hub.log();
    assert!(log.contains(reason), "{reason} in\n{log}");
    assert_eq!(peer_of(hub).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_link_by_certificates_and_calls_cross() {
    let mut house = House::new();
    let (server, a, b) = (house.issue("127.0.0.1"), house.issue("hub-a"), house.issue("hub-b"));
    let list = house.list();
    let hub_a = house.hub("hub-a", &server, &a, &[], &list).await;
    let hub_b = house.hub("hub-b", &server, &b, &[&hub_a], &list).await;
    until_linked(&hub_a, "hub-b").await;
    until_linked(&hub_b, "hub-a").await;
    let blog = Service::start("blog").await;
    let _alice = house.spoke("alice.home", &hub_b, &blog).await;
    let echo = ServiceCall::new(
        "blog@alice.home@hub-b".parse().unwrap(),
        "echo".parse().unwrap(),
        Some(json!({ "n": 1 })),
    );
    until("a call crosses both links", PATIENCE, || async {
        operator(&hub_a).call_service(&echo).await.is_ok_and(|answer| answer.result["n"] == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_relay_is_refused() {
    let mut house = House::new();
    let (server, a, b) = (house.issue("127.0.0.1"), house.issue("hub-a"), house.issue("hub-b"));
    let hub_a = house.hub("hub-a", &server, &a, &[], "").await;
    // A good certificate, of hub-b.
    let hub_c = house.hub("hub-c", &server, &b, &[&hub_a], "").await;
    until_refused(&hub_a, "refused", "bad_certificate").await;
    until_refused(&hub_c, "failed", "bad_certificate").await;
    // It disturbs nobody: the relay that the certificate names is let in with it.
    let hub_b = house.hub("hub-b", &server, &b, &[&hub_a], "").await;
    until_linked(&hub_b, "hub-a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused() {
    let (mut house, mut other) = (House::new(), House::new());
    let (server, a, b) = (house.issue("127.0.0.1"), house.issue("hub-a"), other.issue("hub-b"));
    let hub_a = house.hub("hub-a", &server, &a, &[], "").await;
    let hub_b = house.hub("hub-b", &server, &b, &[&hub_a], "").await;
    until_refused(&hub_b, "failed", "upgrade").await;
    until_refused(&hub_a, "refused", "bad_certificate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_taken_back_is_refused_on_either_side() {
    let mut house = House::new();
    let (server, a, b) = (house.issue("127.0.0.1"), house.issue("hub-a"), house.issue("hub-b"));
    let lost = house.issue("127.0.0.1");
    for taken_back in [&b, &lost] {
        house.authority.revoke(&taken_back.serial, SystemTime::now()).unwrap();
    }
    let list = house.list();
    // The one that dials.
    let hub_a = house.hub("hub-a", &server, &a, &[], &list).await;
    let hub_b = house.hub("hub-b", &server, &b, &[&hub_a], "").await;
    until_refused(&hub_b, "failed", "upgrade").await;
    until_refused(&hub_a, "refused", "bad_certificate").await;
    // The one that is dialled.
    let c = house.issue("hub-c");
    let hub_c = house.hub("hub-c", &lost, &c, &[], "").await;
    let d = house.issue("hub-d");
    let hub_d = house.hub("hub-d", &server, &d, &[&hub_c], &list).await;
    until_refused(&hub_d, "failed", "upgrade").await;
    assert_eq!(peer_of(&hub_c).await, Value::Null);
    // Those that were not are as good as before.
    let hub_e = {
        let e = house.issue("hub-e");
        house.hub("hub-e", &server, &e, &[&hub_a], &list).await
    };
    until_linked(&hub_e, "hub-a").await;
}
