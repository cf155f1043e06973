//! What is long, over a link: it goes in pieces, and is refused with the same words near and far.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use relay_testkit::mls::{MlsDevice, private_message};
use serde_json::{Value, json};

use crate::{FREE, person::Person, support::pair::Pair};

const GROUP: [u8; 32] = [5; 32];
/// The longest body of a request, and the longest frame.
const LIMIT: usize = 1 << 20;

/// A commit whose JSON has exactly so many bytes.
fn commit(epoch: u64, length: usize) -> Value {
    let body = |sealed: String| {
        json!({
            "conv_id": URL_SAFE_NO_PAD.encode(GROUP), "msg_id": format!("commit {epoch}"),
            "env": private_message(&GROUP, epoch, 3, b"commit"),
            "group_info": { "epoch": epoch + 1, "sealed": sealed },
            "padding": "",
        })
    };
    let room = length - body(String::new()).to_string().len();
    let sealed = STANDARD.encode(vec![7; room / 4 * 3]);
    let mut body = body(sealed);
    body["padding"] = "p".repeat(length - body.to_string().len()).into();
    assert_eq!(body.to_string().len(), length);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_up_to_the_limit_reach_their_home_and_longer_ones_are_refused_alike() {
    let pair = Pair::open(FREE, &format!("{FREE}user_home = \"home-b\"\n")).await;
    let device = MlsDevice::new(1, 1).device_id();
    let alice = Person::login(&pair.edge, 1, &device).await;
    let conv = URL_SAFE_NO_PAD.encode(GROUP);
    let room = json!({ "conv_id": conv, "profile": "relay-mls/1", "kind": "room" });
    alice.ok(&pair.edge, "/v1/rooms/create", room).await;
    let longest = commit(0, LIMIT);
    let acked = alice.ok(&pair.edge, "/v1/conversations/commit", longest.clone()).await;
    assert_eq!((&acked["seq"], &acked["conv_home"]), (&json!(1), &json!("home-b")));
    // All of it is there, and comes back.
    let info = format!("/v1/conversations/group_info?conv_id={conv}");
    for house in [&pair.edge, &pair.home] {
        let person = Person::login(house, 1, &device).await;
        let info = person.get(house, &info).await.json();
        assert_eq!(info["epoch"], 1);
        assert!(info["group_info"] == longest["group_info"]["sealed"], "another GroupInfo");
    }
    let again = alice.ok(&pair.edge, "/v1/conversations/commit", longest).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(1), &json!(true)));
    // As frames: the frame has the limit, and what it is made of comes off.
    let frame = json!({ "v": 1, "t": "conv.commit", "id": "c", "body": {} }).to_string().len() - 2;
    let mut socket = alice.socket(&pair.edge).await;
    socket.ask("conv.commit", "c", commit(1, LIMIT - frame)).await;
    let acked = socket.answer("c").await;
    assert_eq!((&acked["t"], &acked["body"]["seq"]), (&json!("conv.acked"), &json!(2)), "{acked}");
    // One byte more is refused, by whichever relay it comes to.
    for house in [&pair.edge, &pair.home] {
        let person = Person::login(house, 1, &device).await;
        let refused = person.refused(house, "/v1/conversations/commit", commit(2, LIMIT + 1)).await;
        assert_eq!((refused.0, refused.1.as_str()), (413, "too_large"));
        let mut socket = person.socket(house).await;
        let long = crate::person::frame("conv.commit", "c", commit(2, LIMIT + 1 - frame));
        assert_eq!(long.len(), LIMIT + 1);
        socket.send_in_vain(&long).await;
        assert_eq!(socket.close_code().await, 1009);
        let info = person.get(house, &info).await.json();
        assert_eq!(info["epoch"], 2, "nothing of it was kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_vault_is_kept_at_its_users_home() {
    let pair = Pair::open(FREE, &format!("{FREE}user_home = \"home-b\"\n")).await;
    let alice = Person::login(&pair.edge, 1, "d").await;
    let blob = STANDARD.encode(vec![3; 1 << 20]);
    let bearer = format!("Bearer {}", alice.token);
    let put = |version: u64, blob: &str| {
        let body = json!({ "version": version, "blob": blob }).to_string();
        pair.edge.send("PUT", "/v1/vault", &[("authorization", &bearer)], &body)
    };
    let kept = put(0, &blob).await;
    assert_eq!(kept.status, 200, "{}", kept.body);
    let found = alice.get(&pair.edge, "/v1/vault").await.json();
    assert!(found["version"] == 1 && found["blob"] == blob.as_str(), "another vault");
    assert_eq!(put(1, &STANDARD.encode(vec![3; (1 << 20) + 1])).await.status, 413);
}
