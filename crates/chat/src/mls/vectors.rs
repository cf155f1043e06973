//! The test vectors of RFC 9420, run through what this client is made of: the library, its cryptography, and the sealed
//! storage under both. `vectors/README.md` says where they come from, and what they do not reach.

use openmls::{
    group::{
        MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsGroupJoinConfig, ProcessedWelcome,
        StagedWelcome,
    },
    prelude::{
        KeyPackage, KeyPackageBundle, MlsMessageBodyIn, MlsMessageIn, OpenMlsSignaturePublicKey,
        ProcessedMessageContent, RatchetTreeIn, Verifiable, Welcome,
        tls_codec::{Deserialize as _, Serialize as _, VLBytes},
    },
    schedule::PreSharedKeyId,
};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::{
    crypto::OpenMlsCrypto,
    signatures::Signer as _,
    storage::StorageProvider,
    types::{HpkeCiphertext, HpkePrivateKey},
};
use relay_proto::SigningKey;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Provider, SUITE, device::LeafKey};
use crate::store::{Durability, MlsStorage, Store, Tx, Unlock};

/// Bytes that the vectors have as hexadecimal.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Hex(Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self)
    }
}

fn vectors<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let all: Vec<T> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!all.is_empty(), "{name} is empty");
    all
}

fn message(bytes: &[u8]) -> MlsMessageIn {
    MlsMessageIn::tls_deserialize_exact(bytes).unwrap()
}

/// Runs on a sealed state of its own, in one transaction after the other as the chat does.
struct Client {
    store: Store,
    crypto: RustCrypto,
    _dir: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unlock = Unlock::Key(Zeroizing::new([1; 32]));
        let store = Store::open(dir.path(), &unlock).unwrap();
        Self { store, crypto: RustCrypto::default(), _dir: dir }
    }

    fn write<T>(&self, run: impl FnOnce(&Provider<'_>) -> T) -> T {
        let in_it = |tx: &Tx<'_>| {
            Ok(run(&Provider { storage: MlsStorage::live(tx, b"group"), crypto: &self.crypto }))
        };
        self.store.write(Durability::Soon, in_it).unwrap()
    }

    /// Keeps a KeyPackage as if this client had made it. Its parts have no public door, but their stored form is stable.
    fn keep(&self, key_package: &Hex, init: &Hex, encryption: &Hex) {
        let MlsMessageBodyIn::KeyPackage(package) = message(&key_package.0).extract() else {
            panic!("not a KeyPackage");
        };
        // Its lifetime is over, which the way of the library refuses; both have the same stored form.
        let package = serde_json::to_value(&package).unwrap();
        let package: KeyPackage = serde_json::from_value(package).unwrap();
        let reference = package.hash_ref(&self.crypto).unwrap();
        let bundle: KeyPackageBundle = serde_json::from_value(json!({
            "key_package": package,
            "private_init_key": HpkePrivateKey::from(init.0.clone()),
            "private_encryption_key": { "key": HpkePrivateKey::from(encryption.0.clone()) },
        }))
        .unwrap();
        self.write(|provider| provider.storage.write_key_package(&reference, &bundle).unwrap());
    }
}

fn welcome(bytes: &Hex) -> Welcome {
    match message(&bytes.0).extract() {
        MlsMessageBodyIn::Welcome(welcome) => welcome,
        _ => panic!("not a Welcome"),
    }
}

// === crypto-basics ===

#[derive(Deserialize)]
struct Basics {
    ref_hash: Labelled,
    expand_with_label: Labelled,
    derive_secret: Labelled,
    derive_tree_secret: Labelled,
    sign_with_label: Signed,
    encrypt_with_label: Encrypted,
}

#[derive(Deserialize)]
struct Labelled {
    label: String,
    out: Hex,
    secret: Option<Hex>,
    value: Option<Hex>,
    context: Option<Hex>,
    generation: Option<u32>,
    length: Option<u16>,
}

#[derive(Deserialize)]
struct Signed {
    label: String,
    content: Hex,
    r#priv: Hex,
    r#pub: Hex,
    signature: Hex,
}

#[derive(Deserialize)]
struct Encrypted {
    label: String,
    context: Hex,
    plaintext: Hex,
    ciphertext: Hex,
    kem_output: Hex,
    r#priv: Hex,
    r#pub: Hex,
}

/// `opaque<V>`.
fn opaque(bytes: &[u8]) -> Vec<u8> {
    VLBytes::new(bytes.to_vec()).tls_serialize_detached().unwrap()
}

/// Label and content, as RFC 9420 prefixes them in 5.1.2, 5.1.3 and 8.
fn labelled(label: &str, content: &[u8]) -> Vec<u8> {
    [opaque(format!("MLS 1.0 {label}").as_bytes()), opaque(content)].concat()
}

fn expand(crypto: &RustCrypto, case: &Labelled, context: &[u8]) -> Vec<u8> {
    let length = case.length.unwrap_or(32);
    let info = [&length.to_be_bytes()[..], &labelled(&case.label, context)].concat();
    let secret = &case.secret.as_ref().unwrap().0;
    let out = crypto.hkdf_expand(SUITE.hash_algorithm(), secret, &info, length.into()).unwrap();
    out.as_slice().to_vec()
}

#[test]
fn crypto_basics() {
    let crypto = RustCrypto::default();
    for case in vectors::<Basics>("crypto-basics") {
        let Basics { ref_hash, expand_with_label, derive_secret, derive_tree_secret, .. } = &case;
        let value = &ref_hash.value.as_ref().unwrap().0;
        let input = [opaque(ref_hash.label.as_bytes()), opaque(value)].concat();
        assert_eq!(crypto.hash(SUITE.hash_algorithm(), &input).unwrap(), ref_hash.out.0);
        let context = &expand_with_label.context.as_ref().unwrap().0;
        assert_eq!(expand(&crypto, expand_with_label, context), expand_with_label.out.0);
        assert_eq!(expand(&crypto, derive_secret, &[]), derive_secret.out.0);
        let generation = derive_tree_secret.generation.unwrap().to_be_bytes();
        assert_eq!(expand(&crypto, derive_tree_secret, &generation), derive_tree_secret.out.0);

        let Signed { label, content, r#priv, r#pub, signature } = &case.sign_with_label;
        let content = labelled(label, &content.0);
        let scheme = SUITE.signature_algorithm();
        crypto.verify_signature(scheme, &content, &r#pub.0, &signature.0).unwrap();
        // Ed25519 signs the same way everywhere: our device's key makes the very bytes of the vector.
        let key = LeafKey(SigningKey::from_seed(r#priv.0.clone().try_into().unwrap()));
        assert_eq!(key.sign(&content).unwrap(), signature.0);

        let Encrypted { label, context, plaintext, ciphertext, kem_output, r#priv, r#pub } =
            &case.encrypt_with_label;
        let info = labelled(label, &context.0);
        let theirs = HpkeCiphertext {
            kem_output: kem_output.0.clone().into(),
            ciphertext: ciphertext.0.clone().into(),
        };
        let config = SUITE.hpke_config();
        let opened = crypto.hpke_open(config, &theirs, &r#priv.0, &info, &[]).unwrap();
        assert_eq!(opened, plaintext.0);
        let config = SUITE.hpke_config();
        let ours = crypto.hpke_seal(config, &r#pub.0, &info, &[], &plaintext.0).unwrap();
        let config = SUITE.hpke_config();
        assert_eq!(crypto.hpke_open(config, &ours, &r#priv.0, &info, &[]).unwrap(), plaintext.0);
    }
}

// === messages ===

#[derive(Deserialize)]
struct Messages {
    mls_welcome: Hex,
    mls_group_info: Hex,
    mls_key_package: Hex,
    public_message_application: Hex,
    public_message_proposal: Hex,
    public_message_commit: Hex,
    private_message: Hex,
    ratchet_tree: Hex,
}

#[test]
fn messages_are_read_and_written_alike() {
    for case in vectors::<Messages>("messages") {
        let all = [
            &case.mls_welcome,
            &case.mls_group_info,
            &case.mls_key_package,
            &case.public_message_application,
            &case.public_message_proposal,
            &case.public_message_commit,
            &case.private_message,
        ];
        for Hex(bytes) in all {
            let read = super::group::parse(bytes).unwrap();
            assert_eq!(read.tls_serialize_detached().unwrap(), *bytes);
            // Neither cut off nor followed by anything.
            assert!(super::group::parse(&bytes[..bytes.len() - 1]).is_err());
            assert!(super::group::parse(&[&bytes[..], &[0]].concat()).is_err());
        }
        let tree = RatchetTreeIn::tls_deserialize_exact(&case.ratchet_tree.0).unwrap();
        assert_eq!(tree.tls_serialize_detached().unwrap(), case.ratchet_tree.0);
    }
}

// === welcome ===

#[derive(Deserialize)]
struct WelcomeCase {
    init_priv: Hex,
    signer_pub: Hex,
    key_package: Hex,
    welcome: Hex,
}

#[test]
fn a_welcome_opens_and_its_signer_verifies() {
    for case in vectors::<WelcomeCase>("welcome") {
        let client = Client::new();
        // The vector gives no key of the leaf, and none is needed to open the Welcome.
        client.keep(&case.key_package, &case.init_priv, &Hex(vec![0; 32]));
        client.write(|provider| {
            let config = MlsGroupJoinConfig::default();
            let opened =
                ProcessedWelcome::new_from_welcome(provider, &config, welcome(&case.welcome))
                    .unwrap();
            let verify = |key: &[u8]| {
                let key = OpenMlsSignaturePublicKey::new(
                    key.to_vec().into(),
                    SUITE.signature_algorithm(),
                );
                opened.unverified_group_info().verify_no_out(provider.crypto, &key.unwrap())
            };
            verify(&case.signer_pub.0).unwrap();
            verify(SigningKey::from_seed([1; 32]).node_id().as_bytes()).unwrap_err();
        });
    }
}

// === passive clients ===

#[derive(Deserialize)]
struct Passive {
    external_psks: Vec<ExternalPsk>,
    key_package: Hex,
    encryption_priv: Hex,
    init_priv: Hex,
    welcome: Hex,
    ratchet_tree: Option<Hex>,
    initial_epoch_authenticator: Hex,
    epochs: Vec<Epoch>,
}

#[derive(Deserialize)]
struct ExternalPsk {
    psk_id: Hex,
    psk: Hex,
}

#[derive(Deserialize)]
struct Epoch {
    proposals: Vec<Hex>,
    commit: Hex,
    epoch_authenticator: Hex,
}

/// Joins and follows the group; the authenticator of each epoch stands for everything that was derived on the way: tree math,
/// tree hashes, TreeKEM, transcript hashes, PSKs and the key schedule.
///
/// Gives how many epochs could be followed.
fn follow(case: &Passive) -> usize {
    let client = Client::new();
    client.keep(&case.key_package, &case.init_priv, &case.encryption_priv);
    let group_id = client.write(|provider| {
        for psk in &case.external_psks {
            let id = PreSharedKeyId::external(psk.psk_id.0.clone(), Vec::new());
            id.store(provider, &psk.psk.0).unwrap();
        }
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .number_of_resumption_psks(16)
            .build();
        let processed =
            ProcessedWelcome::new_from_welcome(provider, &config, welcome(&case.welcome)).unwrap();
        let mut builder =
            openmls::group::JoinBuilder::new(provider, processed).skip_lifetime_validation();
        if let Some(Hex(tree)) = &case.ratchet_tree {
            builder =
                builder.with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact(tree).unwrap());
        }
        let staged: StagedWelcome = builder.build().unwrap();
        let group = staged.into_group(provider).unwrap();
        assert_eq!(
            group.epoch_authenticator().as_slice(),
            case.initial_epoch_authenticator.0,
            "after the Welcome"
        );
        group.group_id().clone()
    });
    for (n, epoch) in case.epochs.iter().enumerate() {
        // Each epoch anew from the disk.
        let followed = client.write(|provider| {
            let mut group = MlsGroup::load(&provider.storage, &group_id).unwrap().unwrap();
            for Hex(bytes) in epoch.proposals.iter().chain([&epoch.commit]) {
                let message = message(bytes).try_into_protocol_message().unwrap();
                let processed = match group.process_message(provider, message) {
                    Ok(processed) => processed,
                    // The vectors were made in 2023, and the library measures the lifetime of who is added by the
                    // clock of today, which it lets nobody set: such a group ends here.
                    Err(error) if format!("{error:?}").contains("Lifetime") => return false,
                    Err(error) => panic!("epoch {n}: {error:?}"),
                };
                match processed.into_content() {
                    ProcessedMessageContent::ProposalMessage(proposal) => {
                        group.store_pending_proposal(&provider.storage, *proposal).unwrap();
                    }
                    ProcessedMessageContent::StagedCommitMessage(commit) => {
                        group.merge_staged_commit(provider, *commit).unwrap();
                    }
                    other => panic!("epoch {n}: {other:?}"),
                }
            }
            assert_eq!(
                group.epoch_authenticator().as_slice(),
                epoch.epoch_authenticator.0,
                "epoch {n}"
            );
            true
        });
        if !followed {
            return n;
        }
    }
    case.epochs.len()
}

/// Follows all groups of a file; gives how many there are, and how many epochs were followed in all of them.
fn followed(name: &str) -> (usize, usize) {
    let cases = vectors::<Passive>(name);
    (cases.len(), cases.iter().map(follow).sum())
}

#[test]
fn a_passive_client_joins() {
    assert_eq!(followed("passive-client-welcome").0, 8);
}

#[test]
fn a_passive_client_follows_commits() {
    let (cases, epochs) = followed("passive-client-handling-commit");
    assert_eq!(cases, 13);
    assert!(epochs >= 13, "{epochs}");
}

#[test]
fn a_passive_client_follows_a_group() {
    let (_, epochs) = followed("passive-client-random");
    assert!(epochs >= 1, "{epochs}");
}
