//! `Link` headers, and what their target joins to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::{Url, fuzzing};

fuzz_target!(|header: &str| {
    let base = Url::parse("https://registry.example:5000/v2/a/tags/list?n=1").expect("a constant");
    let Some(target) = fuzzing::link(header) else { return };
    assert!(header.contains(target));
    if let Ok(url) = base.join(target) {
        assert_eq!(Url::parse(&url.to_request_string()).expect("what is printed parses"), url);
    }
});
