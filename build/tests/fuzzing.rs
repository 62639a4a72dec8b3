//! The fuzz targets' checks on a little random input each, for machines without a fuzzer.

use longshore_build::fuzzing;
use proptest::prelude::*;

proptest! {
    #[test]
    fn dockerfiles(text in "((FROM|RUN|COPY|ADD|ENV|ONBUILD|#|[a-z$<>\\\\`'\"\\[\\]{}:=,-]{1,4})[ \n]){0,30}") {
        fuzzing::dockerfile(&text);
    }

    #[test]
    fn expansions(text in "[$a-b{}:/#%?*+'\"\\\\` -]{0,40}") {
        fuzzing::expansion(&text);
    }

    #[test]
    fn rules(rules in "[a*?/!\\[\\]\n#.-]{0,30}", path in "[a-c/.]{0,10}") {
        fuzzing::ignore(&rules, &path);
    }

    #[test]
    fn options(text in "[a-z=,\"+:0-9ugoXrwst-]{0,30}") {
        fuzzing::options(&text);
    }

    #[test]
    fn archives(bytes in proptest::collection::vec(any::<u8>(), 0..2048), name in "[a./]{1,20}", kind in 0u8..8) {
        fuzzing::archive(&bytes);
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_ustar_mut().unwrap().linkname[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(b'0' + kind));
        header.set_size(0);
        header.set_mode(0o7777);
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        tar.extend_from_slice(&bytes);
        fuzzing::archive(&tar);
    }
}
