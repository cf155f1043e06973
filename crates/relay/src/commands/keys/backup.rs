//! A key kept elsewhere: as a file under a passphrase, or as 24 words (BIP 39) on paper.

use std::path::{Path, PathBuf};

use bip39::{Language, Mnemonic};
use relay_client::{keys, unix_ns};
use relay_proto::{SigningKey, event::Draft};
use serde_json::json;
use zeroize::Zeroizing;

use super::{new_passphrase, place, save_new, told};
use crate::{
    app::App,
    error::{Failure, Outcome},
    output, prompt,
};

/// Writes an OpenSSH private key under a passphrase.
pub fn file(app: &App, path: &Path, out: &Path) -> Outcome {
    let key = app.load_key(path)?;
    let failed = |error: keys::KeyFileError| Failure::failed(error.to_string());
    let phrase = new_passphrase(app, true)?.filter(|phrase| !phrase.is_empty());
    let phrase = phrase.ok_or_else(|| Failure::usage("a backup needs a passphrase"))?;
    let text = keys::to_openssh(&key, "backup", Some(phrase.as_str())).map_err(failed)?;
    // Read back before it is relied on.
    let read = keys::parse(text.as_bytes(), || Some(phrase)).map_err(failed)?;
    if read.node_id() != key.node_id() {
        return Err(Failure::failed("the backup does not give the key back"));
    }
    save_new(out, text.as_bytes())?;
    app.notice(&format!("wrote {}; whoever has it and its passphrase has the key", out.display()));
    told(app, &key, out)
}

/// Prints the key's seed as 24 words, alone on stdout.
pub fn words(app: &App, path: &Path) -> Outcome {
    let key = app.load_key(path)?;
    let phrase = to_phrase(&key)?;
    app.notice("whoever has these words has the key; write them down, and keep them from cameras and clouds");
    app.notice("to prove what you wrote: relay keys recover --phrase --name proof");
    if app.out.is_json() {
        app.out.one(&json!({ "key": key.node_id(), "phrase": *phrase }), &[])?;
    } else {
        output::line(&phrase)?;
    }
    Ok(0)
}

/// The key of 24 words that are typed, or read from a file.
pub fn from_words(app: &App, file: Option<PathBuf>) -> Result<SigningKey, Failure> {
    let text = match file {
        Some(file) => prompt::secret_file(&file)?,
        None if prompt::possible(app.global.no_input) => prompt::secret("The 24 words")?,
        None => {
            let why = "there is no terminal to ask for the words; give --phrase-file";
            return Err(Failure::usage(why));
        }
    };
    from_phrase(&text)
}

/// Puts the key among the others, once it has proved that it signs.
pub fn recover(app: &App, key: &SigningKey, name: &str) -> Outcome {
    let target = place(name)?;
    // Signing verifies what was signed.
    let draft = Draft { created_at_ns: unix_ns(), ..Draft::default() };
    draft.sign(key).map_err(|error| Failure::failed(format!("the key does not sign: {error}")))?;
    let text = keys::to_openssh(key, "", None).map_err(|e| Failure::failed(e.to_string()))?;
    save_new(&target, text.as_bytes())?;
    app.notice(&format!("wrote {}", target.display()));
    told(app, key, &target)
}

fn to_phrase(key: &SigningKey) -> Result<Zeroizing<String>, Failure> {
    let words = Mnemonic::from_entropy(&*key.seed()).map_err(|e| Failure::failed(e.to_string()))?;
    Ok(Zeroizing::new(words.to_string()))
}

fn from_phrase(text: &str) -> Result<SigningKey, Failure> {
    // As people write: any spaces and lines, any case, the words numbered or not.
    let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(str::to_ascii_lowercase).collect();
    if words.len() != 24 {
        return Err(Failure::usage(format!("a key has 24 words; these are {}", words.len())));
    }
    let text = Zeroizing::new(words.join(" "));
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &text).map_err(|error| {
        Failure::usage(match error {
            bip39::Error::UnknownWord(at) => {
                format!("word {} is none of the list; is it misspelt?", at + 1)
            }
            _ => "the words do not fit together: one is another, or two have changed places"
                .to_owned(),
        })
    })?;
    let (seed, _) = mnemonic.to_entropy_array();
    let seed = Zeroizing::new(seed);
    let mut key = [0; 32];
    key.copy_from_slice(&seed[..32]);
    Ok(SigningKey::from_seed(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second 256-bit vector of BIP 39's English test vectors.
    const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank year wave sausage \
                         worth useful legal winner thank year wave sausage worth title";

    #[test]
    fn words_are_the_seed_as_bip_39_writes_it() {
        let key = from_phrase(WORDS).unwrap();
        assert_eq!(*key.seed(), [0x7f; 32]);
        assert_eq!(to_phrase(&key).unwrap().as_str(), WORDS);
    }

    #[test]
    fn words_are_taken_as_people_write_them() {
        let numbered: Vec<String> =
            WORDS.split(' ').enumerate().map(|(n, word)| format!("{}. {word}", n + 1)).collect();
        assert_eq!(*from_phrase(&numbered.join("\n").to_uppercase()).unwrap().seed(), [0x7f; 32]);
    }

    #[test]
    fn words_that_are_wrong_are_told() {
        let said = |text: &str| from_phrase(text).unwrap_err().what;
        assert!(said("legal winner").contains("24 words; these are 2"));
        assert!(said(&WORDS.replacen("thank", "thnak", 1)).contains("word 3 is none"));
        assert!(said(&WORDS.replacen("legal winner", "winner legal", 1)).contains("fit together"));
    }
}
