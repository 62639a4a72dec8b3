//! One-line texts that a registry or a user hands to the client: references, `WWW-Authenticate`, `Link`, URLs and what they join to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::{Reference, Url, fuzzing};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let again: Reference = reference.to_string().parse().expect("what is printed parses");
        assert_eq!(again, reference);
        let familiar: Reference = reference.familiar().parse().expect("what is shown parses");
        assert_eq!(familiar, reference);
    }
    fuzzing::challenge(text);
    let base = Url::parse("https://registry.example:5000/v2/a/b?c=d").expect("a constant");
    for target in [Some(text), fuzzing::link(text)].into_iter().flatten() {
        if let Ok(url) = base.join(target) {
            assert_eq!(Url::parse(&url.to_request_string()).expect("what is printed parses"), url);
            assert!(!url.to_string().contains('@'.to_string().as_str()) || url.path().contains('@'));
        }
    }
});
