//! Image names, as users and documents write them, and the URLs that registries name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::{Reference, Url};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let again: Reference = reference.to_string().parse().expect("what is printed parses");
        assert_eq!(again, reference);
        let familiar: Reference = reference.familiar().parse().expect("what is shown parses");
        assert_eq!(familiar, reference);
    }
    let base = Url::parse("https://registry.example:5000/v2/a/b?c=d").expect("a constant");
    if let Ok(url) = base.join(text) {
        assert_eq!(Url::parse(&url.to_request_string()).expect("what is printed parses"), url);
        assert!(!url.to_string().contains('?'), "a query may hold a secret");
    }
});
