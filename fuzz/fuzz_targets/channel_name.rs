//! Channel names: accepted is exactly what the grammar of docs/protocol.md generates, and an accepted name is kept as
//! it was written. The grammar is written down again here, from the page and not from the parser.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::channel::{ChannelName, NameError};

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.:@=/!";

fuzz_target!(|text: &str| {
    let legal = (1..=200).contains(&text.len()) && text.chars().all(|character| ALPHABET.contains(character));
    match text.parse::<ChannelName>() {
        Ok(name) => {
            assert!(legal, "accepted beyond the grammar: {text:?}");
            kept(&name, text);
        }
        Err(error) => {
            assert!(!legal, "refused within the grammar, {error}: {text:?}");
            assert_eq!(error == NameError::Empty, text.is_empty());
            assert_eq!(error == NameError::TooLong, text.len() > 200);
        }
    }
});

fn kept(name: &ChannelName, text: &str) {
    assert_eq!(name.as_str(), text);
    assert_eq!(name.to_string(), text);
    assert_eq!(text.parse().as_ref(), Ok(name));
    // What stands before the first colon, and only where there is one.
    let namespace = text.find(':').map(|colon| &text[..colon]);
    assert_eq!(name.namespace(), namespace);
    assert_eq!(name.inbox_owner(), text.strip_prefix("user:"));
    assert!(name.inbox_owner().is_none() || name.namespace() == Some("user"));
}
