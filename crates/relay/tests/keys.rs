//! Keys that outlive the machine they were made on.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::os::unix::fs::PermissionsExt;

use support::alone;

#[test]
fn a_key_comes_back_from_its_backup_with_the_passphrase_alone() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let phrase = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (phrase("right", "open sesame\n"), phrase("wrong", "guess\n"));
    let file = home.path().join("key.backup").display().to_string();
    let made = alone(home.path(), ["keys", "gen"]).kv("key");
    assert_eq!(alone(home.path(), ["keys", "backup", "--out", &file]).code(), 2, "no passphrase");
    let backup = ["keys", "backup", "--out", &file, "--passphrase-file", &right];
    let kept = alone(home.path(), backup);
    assert_eq!((kept.code(), kept.kv("key")), (0, made.clone()), "{}", kept.stderr);
    assert_eq!(alone(home.path(), backup).code(), 5, "a backup is never replaced");

    let recover =
        |phrase: &str| alone(other.path(), ["keys", "recover", &file, "--passphrase-file", phrase]);
    assert_eq!(recover(&wrong).code(), 2);
    assert_eq!(recover(&right).kv("key"), made);
    assert_eq!(recover(&right).code(), 5, "a key is never replaced");
    assert_eq!(alone(other.path(), ["keys", "show"]).kv("key"), made);
}

#[test]
fn a_key_comes_back_from_twenty_four_words() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = alone(home.path(), ["keys", "gen"]).kv("key");
    let told = alone(home.path(), ["keys", "backup", "--phrase"]);
    assert_eq!(told.code(), 0, "{}", told.stderr);
    let words = told.stdout.trim();
    assert_eq!(words.split(' ').count(), 24);
    assert!(!told.stderr.contains(words));
    let keep = |text: &str| {
        let path = other.path().join("words");
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let recover =
        |text: &str| alone(other.path(), ["keys", "recover", "--phrase-file", &keep(text)]);
    let short = words.rsplit_once(' ').unwrap().0;
    assert_eq!(recover(short).code(), 2);
    assert_eq!(recover(&words.replace(' ', "\n")).kv("key"), made);
    assert_eq!(recover(words).code(), 5, "a key is never replaced");
    // One way at a time.
    for args in [
        &["keys", "recover"][..],
        &["keys", "backup"],
        &["keys", "backup", "--phrase", "--out", "x"],
    ] {
        assert_eq!(alone(home.path(), args.to_vec()).code(), 2);
    }
}
