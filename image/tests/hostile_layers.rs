//! Crafted layers: each known trick either ends in an error that names the entry, or stays inside the layer. Nothing
//! beside the store changes, and nothing of a refused layer stays behind. With both drivers.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::too_many_lines, reason = "tests")]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "layers_common/mod.rs"]
mod common;
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
#[path = "common/mod.rs"]
mod images;

use std::path::Path;

use common::{
    Raw, add, archive, describe, device, dir, file, hard, is_root, pax, raw, record, skip, store, symlink,
    view,
};
use longshore_image::{Ctx, Error, Image, ImportOptions, Layer, LoadOptions, Store};
use serde_json::json;

enum Outcome {
    /// The layer is refused; the message contains this.
    Refused(&'static str),
    /// A container sees these paths (beside the root), and nothing else.
    Shows(&'static [&'static str]),
}
use Outcome::{Refused, Shows};

struct Case {
    what: &'static str,
    tar: Vec<u8>,
    outcome: Outcome,
}

fn case(what: &'static str, entries: &[Raw], outcome: Outcome) -> Case {
    Case { what, tar: archive(entries), outcome }
}

/// The ways by which a layer comes into a store.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `add_layer`, as `import` of a root file system and `ADD` do.
    Import,
    /// The same of a compressed tar.
    ImportCompressed,
    /// From a registry or another store.
    Pull,
    /// In an archive of `docker save`.
    Load,
    /// In an archive in OCI form.
    LoadOci,
}

const WAYS: [Way; 5] = [Way::Import, Way::ImportCompressed, Way::Pull, Way::Load, Way::LoadOci];

/// Takes the layer in; an image made of it is named `it`.
fn take(store: &Store, tar: &[u8], way: Way) -> Result<Layer, Error> {
    let plain = || vec![("application/vnd.oci.image.layer.v1.tar", tar.to_vec(), images::digest(tar))];
    let only = |image: &Image| Ok(store.layers(image)?.remove(0));
    match way {
        Way::Import => add(store, tar),
        Way::ImportCompressed => add(store, &images::gzip(tar)),
        Way::Pull => {
            let mut source = images::Source::default();
            let root = source.image(&[tar.to_vec()]);
            let mut options = ImportOptions::default();
            options.names.push("it".to_owned());
            only(&store.import(&source, &root, &options, Ctx::none())?.image)
        }
        Way::Load => {
            let mut config = images::config();
            config["rootfs"] = json!({"type": "layers", "diff_ids": [images::digest(tar).to_string()]});
            let manifest = json!([{"Config": "c.json", "RepoTags": ["it"], "Layers": ["1/layer.tar"]}]);
            let (config, manifest) = (config.to_string(), manifest.to_string());
            load(
                store,
                &[
                    ("1/layer.tar", tar),
                    ("c.json", config.as_bytes()),
                    ("manifest.json", manifest.as_bytes()),
                ],
            )
        }
        Way::LoadOci => {
            let mut source = images::Source::default();
            let root = source.image_of(&plain(), images::config());
            let mut index = json!({"schemaVersion": 2, "manifests": [root]});
            index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "it"});
            let index = index.to_string();
            let paths: Vec<_> = source.blobs.keys().map(|d| format!("blobs/sha256/{}", d.digest())).collect();
            let mut files: Vec<(&str, &[u8])> = vec![("index.json", index.as_bytes())];
            files.extend(paths.iter().map(String::as_str).zip(source.blobs.values().map(Vec::as_slice)));
            load(store, &files)
        }
    }
}

fn load(store: &Store, files: &[(&str, &[u8])]) -> Result<Layer, Error> {
    let archive = images::tar(files);
    let loaded = store.load(&mut &archive[..], &LoadOptions::default(), Ctx::none())?;
    Ok(store.layers(&loaded[0].image)?.remove(0))
}

/// Runs all cases, by every way, in a store beside a victim that must not change.
fn run(cases: impl Fn(&Path) -> Vec<Case>) {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    for directories in [false, true] {
        let top = tempfile::tempdir().unwrap();
        let victim = top.path().join("victim");
        std::fs::create_dir(&victim).unwrap();
        std::fs::write(victim.join("secret"), "secret").unwrap();
        let before = describe(&victim);
        let store = store(&top.path().join("store"), directories);
        let empty = images::settled(&store);
        for way in WAYS {
            for Case { what, tar, outcome } in cases(&victim) {
                if what.starts_with("3000") && !matches!(way, Way::Import | Way::Pull) {
                    // Seconds each, and the same code.
                    continue;
                }
                let what = format!("{what} ({way:?}, {})", if directories { "directory" } else { "EROFS" });
                judge(&store, &tar, way, &outcome, &what);
                common::assert_same(&before, &describe(&victim));
                let _ = store.remove("it", false);
                store.collect(Ctx::none()).unwrap();
                assert!(store.snapshots().unwrap().is_empty());
                store.settle();
                assert_eq!(images::settled(&store), empty, "{what}: something stays");
            }
        }
    }
}

fn judge(store: &Store, tar: &[u8], way: Way, outcome: &Outcome, what: &str) {
    match (take(store, tar, way), outcome) {
        (Err(e), Refused(names)) => {
            assert!(e.is_bad_content(), "{what}: {e:?}");
            assert!(e.to_string().contains(names), "{what}: {e} does not name {names:?}");
            assert!(e.to_string().len() < 600, "{what}: a message of {} bytes", e.to_string().len());
            assert!(store.names().unwrap().is_empty(), "{what}: it has a name");
        }
        (Ok(layer), Shows(_)) if !matches!(way, Way::Import | Way::Pull) => {
            // The others unpack as these two do, and each mount costs time.
            assert_eq!(layer.diff_id, images::digest(tar), "{what}");
        }
        (Ok(layer), Shows(paths)) => {
            let seen = view(store, &[&layer]);
            let seen: Vec<_> = seen.keys().map(String::as_str).filter(|p| *p != "/").collect();
            assert_eq!(seen, *paths, "{what}");
        }
        (Err(e), Shows(_)) => panic!("{what}: refused: {e}"),
        (Ok(_), Refused(_)) => panic!("{what}: accepted"),
    }
}

fn path(victim: &Path, below: &str) -> String {
    victim.join(below).display().to_string()
}

#[test]
fn links_lead_nowhere_outside() {
    run(|victim| {
        let secret = path(victim, "secret");
        let inside: &'static [&'static str] = Box::leak(nested(victim, &["/a"]).into_boxed_slice());
        vec![
            case(
                "write below an absolute link",
                &[symlink("a", victim.display().to_string()), file("a/w", "pwned")],
                Shows(inside),
            ),
            case(
                "write through a link to a file",
                &[symlink("a", &secret), file("a", "pwned")],
                Shows(&["/a"]),
            ),
            case(
                "write below a link upwards",
                &[symlink("a", "../../../.."), file("a/w", "pwned")],
                Shows(&["/a", "/w"]),
            ),
            case("path with dots upwards", &[file("../../victim/w", "pwned")], Refused("../../victim/w")),
            case("dots in the middle", &[file("a/../../w", "pwned")], Refused("a/../../w")),
            case("dots that stay inside", &[dir("a"), file("a/./b/../c", "fine")], Shows(&["/a", "/a/c"])),
            case("absolute path", &[file("/etc/x", "fine")], Shows(&["/etc", "/etc/x"])),
            case("hard link outside", &[hard("h", &secret), file("h", "pwned")], Refused("\"h\"")),
            case("hard link upwards", &[hard("h", "../../victim/secret")], Refused("\"h\"")),
            case(
                "hard link to a link, with mode",
                &[symlink("s", &secret), Raw { mode: 0o4777, ..hard("h", "s") }],
                Shows(&["/h", "/s"]),
            ),
            case(
                "hard link through a link",
                &[symlink("s", victim.display().to_string()), hard("h", "s/secret")],
                Refused("\"h\""),
            ),
            case(
                "directory over a link, with mode",
                &[symlink("a", victim.display().to_string()), Raw { mode: 0o777, ..dir("a") }],
                Shows(&["/a"]),
            ),
            case("loop of links", &[symlink("a", "b"), symlink("b", "a"), file("a/x", "x")], Refused("a/x")),
            case("path through a file", &[file("f", "x"), file("f/x", "x")], Refused("f/x")),
            case("hard link to a directory", &[dir("d"), hard("h", "d")], Refused("\"h\"")),
            case("hard link to itself", &[hard("h", "h")], Refused("\"h\"")),
            case(
                "hard link in place of its directory",
                &[file("d/f", "x"), hard("d", "d/f")],
                Refused("\"d\""),
            ),
            case("root as a link", &[symlink(".", victim.display().to_string())], Refused("\".\"")),
            case("root as a file", &[file("./", "x")], Refused("./")),
            case("empty path", &[file("", "x")], Refused("empty path")),
            case(
                "file over directory over link",
                &[symlink("a", &secret), dir("a"), file("a/b", "x"), file("a", "y")],
                Shows(&["/a"]),
            ),
            case(
                "link whose target was replaced",
                &[file("a", "1"), hard("b", "a"), file("a", "2"), hard("c", "b")],
                Shows(&["/a", "/b", "/c"]),
            ),
        ]
    });
}

/// The victim's path with all directories above it, as seen in a layer that names it, and `w` in it.
fn nested(victim: &Path, more: &[&str]) -> Vec<&'static str> {
    let mut all: Vec<String> =
        victim.ancestors().filter(|p| p.parent().is_some()).map(|p| p.display().to_string()).collect();
    all.push(victim.join("w").display().to_string());
    all.extend(more.iter().map(|s| (*s).to_owned()));
    all.sort();
    all.into_iter().map(|s| &*Box::leak(s.into_boxed_str())).collect()
}

#[test]
fn whiteouts_do_no_tricks() {
    run(|victim| {
        let to_victim = symlink("a", victim.display().to_string());
        let inside: &'static [&'static str] = Box::leak(nested(victim, &["/a"]).into_boxed_slice());
        vec![
            case("whiteout of nothing", &[file(".wh.", "")], Refused(".wh.")),
            case("whiteout of the directory", &[dir("d"), file("d/.wh..", "")], Refused("d/.wh..")),
            case("whiteout of the parent", &[dir("d"), file("d/.wh...", "")], Refused("d/.wh...")),
            case(
                "whiteout through a link",
                &[to_victim.clone(), file("a/.wh.secret", ""), file("a/w", "x")],
                Shows(inside),
            ),
            case(
                "opaque through a link",
                &[to_victim, file("a/.wh..wh..opq", ""), file("a/w", "x")],
                Shows(inside),
            ),
            case("opaque at the root, last", &[file("x", "x"), file(".wh..wh..opq", "")], Shows(&["/x"])),
            case(
                "whiteout of a sibling of the same layer",
                &[file("x", "x"), file(".wh.x", ""), file("y", "y")],
                Shows(&["/x", "/y"]),
            ),
            case(
                "AUFS leftovers",
                &[file(".wh..wh.plnk/1", "x"), file(".wh..wh.aufs", ""), file("x", "x")],
                Shows(&["/x"]),
            ),
            case("below a whiteout", &[file("d/.wh.a/b", "x")], Refused("d/.wh.a/b")),
            case("hard link to a whiteout", &[file(".wh.x", ""), hard("h", "x")], Refused("\"h\"")),
            case(
                "hard link to a whiteout's name",
                &[file(".wh.x", ""), hard("h", ".wh.x")],
                Refused("\"h\""),
            ),
            case(
                "char 0:0 hides as a whiteout does",
                &[device("c", b'3', 0, 0), file("x", "x")],
                Shows(&["/x"]),
            ),
        ]
    });
}

#[test]
fn names_and_numbers_have_bounds() {
    let long = |n: usize| "n".repeat(n);
    run(|_| {
        let deep = vec!["d"; 3000].join("/");
        vec![
            case(
                "name of 256 bytes",
                &[pax(&[("path", long(256).as_bytes())]), file("x", "")],
                Refused("longer than 255"),
            ),
            case(
                "path of 17000 bytes",
                &[pax(&[("path", "a/".repeat(8500).as_bytes())]), file("x", "")],
                Refused("longer than"),
            ),
            case(
                "GNU name of 2 MiB",
                &[Raw { content: vec![b'n'; 2 << 20], ..raw("L", b'L') }, file("x", "")],
                Refused("extension records"),
            ),
            case(
                "records of 2 MiB",
                &[pax(&[("comment", &[b'c'; 2 << 20])]), file("x", "")],
                Refused("extension records"),
            ),
            case(
                "link of 5000 bytes",
                &[pax(&[("linkpath", long(5000).as_bytes())]), symlink("s", "")],
                Refused("\"s\""),
            ),
            case(
                "xattrs of 300 KiB",
                &[
                    pax(&[
                        ("SCHILY.xattr.user.a", &[b'v'; 150 << 10]),
                        ("SCHILY.xattr.user.b", &[b'v'; 150 << 10]),
                    ]),
                    file("x", ""),
                ],
                Refused("\"x\""),
            ),
            case("device 4096:0", &[device("d", b'3', 4096, 0)], Refused("\"d\"")),
            case("device 1:2^20", &[device("d", b'4', 1, 1 << 20)], Refused("\"d\"")),
            case("uid beyond 32 bits", &[pax(&[("uid", b"4294967296")]), file("x", "")], Refused("uid")),
            case("uid -1", &[pax(&[("uid", b"4294967295")]), file("x", "")], Refused("uid")),
            case("NUL in a PAX path", &[pax(&[("path", b"a\0b")]), file("x", "")], Refused("NUL")),
            case(
                "a link that multiplies itself",
                &[symlink("a", "a/a/a"), file("a/x", "")],
                Refused("too many symbolic links"),
            ),
            case(
                "links that lengthen the path",
                &[
                    pax(&[("linkpath", "./".repeat(2000).as_bytes())]),
                    symlink("l", ""),
                    file("l/l/l/l/l/x", ""),
                ],
                Refused("l/l/l/l/l/x"),
            ),
            case("unknown type", &[raw("x", b'Q')], Refused("\"x\"")),
            case("GNU incremental", &[raw("x", b'D')], Refused("\"x\"")),
            Case {
                what: "3000 directories deep, and gone again",
                tar: archive(&[pax(&[("path", deep.as_bytes())]), file("x", "x"), file("d", "replaced")]),
                outcome: Shows(&["/d"]),
            },
        ]
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn no_two_readings_of_one_archive() {
    let octal = |n: u64| -> [u8; 12] { format!("{n:011o}\0").as_bytes().try_into().unwrap() };
    run(|_| {
        // TARmageddon: a reader that takes the header's size finds another entry in the content.
        let inner = file("inner", "smuggled").bytes();
        let size = inner.len().to_string();
        let outer = |told: u64| Raw { content: inner.clone(), size: Some(octal(told)), ..file("outer", "") };
        let negative = {
            let mut field = [0xff; 12];
            field[11] = 0;
            field
        };
        vec![
            case(
                "PAX size over header size 0",
                &[pax(&[("size", size.as_bytes())]), outer(0)],
                Shows(&["/outer"]),
            ),
            case(
                "PAX size over header size 512",
                &[pax(&[("size", size.as_bytes())]), outer(512)],
                Shows(&["/outer"]),
            ),
            case(
                "PAX size on a directory",
                &[pax(&[("size", size.as_bytes())]), Raw { content: inner.clone(), ..dir("d") }],
                Refused("\"d\""),
            ),
            case(
                "size on a symbolic link",
                &[Raw { content: inner.clone(), ..symlink("s", "x") }],
                Refused("\"s\""),
            ),
            case("size twice", &[pax(&[("size", b"0"), ("size", b"1")]), file("x", "")], Refused("twice")),
            case("path twice", &[pax(&[("path", b"a"), ("path", b"b")]), file("x", "")], Refused("twice")),
            case(
                "two extended headers",
                &[pax(&[("path", b"a")]), pax(&[("mtime", b"1")]), file("x", "")],
                Refused("one kind"),
            ),
            case(
                "global size",
                &[Raw { kind: b'g', ..pax(&[("size", b"1")]) }, file("x", "")],
                Refused("global"),
            ),
            case(
                "global path",
                &[Raw { kind: b'g', ..pax(&[("path", b"y")]) }, file("x", "")],
                Refused("global"),
            ),
            case(
                "global comment",
                &[Raw { kind: b'g', ..pax(&[("comment", b"y")]) }, file("x", "")],
                Shows(&["/x"]),
            ),
            case(
                "GNU name and PAX path",
                &[pax(&[("path", b"a")]), Raw { content: b"b\0".to_vec(), ..raw("L", b'L') }, file("x", "")],
                Refused("both"),
            ),
            case(
                "PAX path and GNU name",
                &[Raw { content: b"b\0".to_vec(), ..raw("L", b'L') }, pax(&[("path", b"a")]), file("x", "")],
                Refused("both"),
            ),
            case(
                "GNU name and PAX time",
                &[
                    Raw { content: b"b\0".to_vec(), ..raw("L", b'L') },
                    pax(&[("mtime", b"1.5")]),
                    file("x", ""),
                ],
                Shows(&["/b"]),
            ),
            case(
                "GNU name with something behind",
                &[Raw { content: b"b\0c".to_vec(), ..raw("L", b'L') }, file("x", "")],
                Refused("long name"),
            ),
            case(
                "record length too small",
                &[Raw { content: b"5 path=a\n".to_vec(), ..raw("p", b'x') }, file("x", "")],
                Refused("malformed"),
            ),
            case(
                "record length too large",
                &[Raw { content: b"99 path=a\n".to_vec(), ..raw("p", b'x') }, file("x", "")],
                Refused("malformed"),
            ),
            case(
                "record without an end",
                &[Raw { content: b"9 path=ab".to_vec(), ..raw("p", b'x') }, file("x", "")],
                Refused("malformed"),
            ),
            case(
                "record without a value",
                &[Raw { content: b"7 path\n".to_vec(), ..raw("p", b'x') }, file("x", "")],
                Refused("malformed"),
            ),
            case(
                "NULs behind the records",
                &[
                    Raw { content: [record("mtime", b"1"), vec![0; 20]].concat(), ..raw("p", b'x') },
                    file("x", ""),
                ],
                Refused("malformed"),
            ),
            case("negative size", &[Raw { size: Some(negative), ..file("x", "") }], Refused("\"x\"")),
            case(
                "size beyond the stream",
                &[Raw { size: Some(octal(1 << 20)), ..file("x", "abc") }],
                Refused("middle of an entry"),
            ),
            case(
                "enormous size",
                &[pax(&[("size", b"9223372036854775807")]), file("x", "")],
                Refused("\"x\""),
            ),
            case(
                "size that is no number",
                &[Raw { size: Some(*b"0x10\0\0\0\0\0\0\0\0"), ..file("x", "") }],
                Refused("size"),
            ),
            case("wrong checksum", &[Raw { patch: |b| b[155] = 1, ..file("x", "") }], Refused("checksum")),
            Case { what: "no end marker", tar: file("x", "x").bytes(), outcome: Shows(&["/x"]) },
            Case { what: "nothing at all", tar: Vec::new(), outcome: Shows(&[]) },
            Case {
                what: "cut in a header",
                tar: archive(&[file("x", "x")])[..300].to_vec(),
                outcome: Refused("middle"),
            },
            Case {
                what: "cut in the content",
                tar: archive(&[file("x", vec![1; 2000])])[..1500].to_vec(),
                outcome: Refused("middle"),
            },
            Case {
                what: "ends after an extension",
                tar: archive(&[pax(&[("path", b"a")])]),
                outcome: Refused("extension header"),
            },
            Case {
                what: "a second archive behind",
                tar: [archive(&[file("x", "x")]), archive(&[file("y", "y")])].concat(),
                outcome: Refused("behind the end"),
            },
            Case {
                what: "a bomb of zeros",
                tar: [archive(&[file("x", "x")]), vec![0; 17 << 20]].concat(),
                outcome: Refused("zero bytes"),
            },
            Case {
                what: "padding of a record",
                tar: [archive(&[file("x", "x")]), vec![0; 1 << 20]].concat(),
                outcome: Shows(&["/x"]),
            },
            Case { what: "not a tar", tar: vec![b'A'; 4096], outcome: Refused("AAAA") },
        ]
    });
}

#[test]
fn sparse_maps_are_bounded() {
    run(|_| {
        let old = |patch: fn(&mut [u8; 512])| Raw { gnu: true, patch, ..raw("s", b'S') };
        let v1 = |size: &str, map: &str| {
            let records: [(&str, &[u8]); 4] = [
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", size.as_bytes()),
            ];
            let mut content = map.as_bytes().to_vec();
            content.resize(content.len().next_multiple_of(512), 0);
            [pax(&records), file("GNUSparseFile.0/s", content)]
        };
        vec![
            case("ten million regions", &v1("1000", "10000000\n0\n1\n"), Refused("too many sparse")),
            case("size of 2^62", &v1("4611686018427387904", "0\n"), Refused("exceeds")),
            case("overlapping regions", &v1("1000", "2\n0\n10\n5\n10\n"), Refused("overlaps")),
            case("region beyond the file", &v1("10", "1\n5\n10\n"), Refused("overlaps")),
            case("overflowing region", &v1("1000", "1\n18446744073709551615\n10\n"), Refused("overlaps")),
            case("map that is no number", &v1("1000", "x\n"), Refused("malformed sparse")),
            case("map that is cut off", &v1("1000", "3\n"), Refused("malformed sparse")),
            case("only a hole", &v1("1000000", "0\n"), Shows(&["/s"])),
            case(
                "map longer than it says",
                &[
                    pax(&[
                        ("GNU.sparse.map", b"0,1,2,3"),
                        ("GNU.sparse.numblocks", b"1"),
                        ("GNU.sparse.size", b"9"),
                    ]),
                    file("s", "abcd"),
                ],
                Refused("\"s\""),
            ),
            case(
                "odd map",
                &[pax(&[("GNU.sparse.map", b"0,1,2"), ("GNU.sparse.size", b"9")]), file("s", "a")],
                Refused("sparse.map"),
            ),
            Case {
                what: "old, extended without end",
                tar: old(|b| b[482] = 1).bytes(),
                outcome: Refused("cut off"),
            },
            case("old, empty", &[old(|b| b[483..494].copy_from_slice(b"00000001000"))], Shows(&["/s"])),
            case(
                "sparse link",
                &[pax(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9")]), symlink("s", "x")],
                Refused("\"s\""),
            ),
        ]
    });
}

#[test]
fn an_image_cannot_speak_to_overlay_or_the_host() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    for directories in [false, true] {
        let top = tempfile::tempdir().unwrap();
        let store = store(top.path(), directories);
        let base = add(&store, &archive(&[dir("d"), file("d/below", "x"), file("f", "below")])).unwrap();
        let evil = add(
            &store,
            &archive(&[
                pax(&[
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ("SCHILY.xattr.user.overlay.opaque", b"y"),
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.security.selinux", b"system_u:object_r:shadow_t:s0"),
                    ("SCHILY.xattr.trusted.other", b"x"),
                    ("SCHILY.xattr.user.kept", b"yes"),
                ]),
                dir("d"),
                pax(&[
                    ("SCHILY.xattr.trusted.overlay.metacopy", b""),
                    ("SCHILY.xattr.user.overlay.whiteout", b"y"),
                ]),
                file("f", ""),
            ]),
        )
        .unwrap();
        let seen = view(&store, &[&base, &evil]);
        assert!(seen.contains_key("/d/below") && seen.contains_key("/f"), "{seen:?}");
        assert!(seen["/d"].ends_with("user.kept=yes") && !seen["/d"].contains("overlay"), "{}", seen["/d"]);
        assert!(seen["/f"].contains(" 0 bytes") && !seen["/f"].contains('='), "{}", seen["/f"]);
    }
}

#[test]
fn owner_mode_and_capabilities_survive_each_other() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    // A range of ids has not all of them.
    let range = std::env::var_os(common::INSIDE).is_some();
    let uid = if range { 60_000_u32 } else { 4_294_967_294 };
    let cap: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for directories in [false, true] {
        let top = tempfile::tempdir().unwrap();
        let store = store(top.path(), directories);
        let layer = add(
            &store,
            &archive(&[
                Raw { mode: 0o6755, ids: (1000, 1001), ..file("suid", "x") },
                pax(&[("SCHILY.xattr.security.capability", cap)]),
                Raw { ids: (1000, 0), ..file("ping", "x") },
                pax(&[("mtime", b"-5000000000.5")]),
                file("old", ""),
                pax(&[("mtime", b"8000000000.000000001"), ("uid", uid.to_string().as_bytes())]),
                file("new", ""),
            ]),
        )
        .unwrap();
        let seen = view(&store, &[&layer]);
        assert!(seen["/suid"].starts_with("106755 1000:1001 "), "{}", seen["/suid"]);
        assert!(
            seen["/ping"].contains("1000:0") && seen["/ping"].contains("security.capability="),
            "{}",
            seen["/ping"]
        );
        assert!(
            seen["/new"].starts_with(&format!("100755 {uid}:0 8000000000.000000001")),
            "{}",
            seen["/new"]
        );
        // ext4 does not reach back so far.
        if !directories && !range {
            assert!(seen["/old"].contains(" -5000000001.500000000"), "{}", seen["/old"]);
        }
    }
}

#[test]
fn budgets_hold() {
    let top = tempfile::tempdir().unwrap();
    for directories in [false, true] {
        let mut options = longshore_image::StoreOptions::default();
        options.directories = directories;
        options.limits.entries = 10;
        options.limits.bytes = 1 << 20;
        let store = longshore_image::Store::open_with(top.path(), &options).unwrap();
        let many: Vec<_> = (0..11).map(|i| file(format!("f{i}"), "")).collect();
        assert!(matches!(add(&store, &archive(&many)), Err(Error::Limit { limit: 10, .. })));
        let big = [file("a", vec![1; 600 << 10]), file("b", vec![2; 600 << 10])];
        assert!(matches!(add(&store, &archive(&big)), Err(Error::Limit { .. })));
        add(&store, &archive(&many[..10])).unwrap();
    }
}

#[test]
fn one_layer_may_come_twice() {
    if !is_root() {
        return skip("needs root to mount what was unpacked");
    }
    for directories in [false, true] {
        let top = tempfile::tempdir().unwrap();
        let store = store(top.path(), directories);
        let base = add(&store, &archive(&[file("a", "base"), file("b", "base")])).unwrap();
        let twice = add(&store, &archive(&[file("a", "twice"), file(".wh.b", "")])).unwrap();
        let between =
            add(&store, &archive(&[file("a", "between"), file("b", "between"), file("c", "c")])).unwrap();
        let seen = view(&store, &[&base, &twice, &between, &twice]);
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["/", "/a", "/c"]);
        assert!(seen["/a"].contains(" 5 bytes"), "{}", seen["/a"]);
        assert_eq!(view(&store, &[&twice, &twice]).len(), 2);
    }
}

#[test]
fn all_of_it_with_a_range_of_ids() {
    common::all_with_range("all_of_it_with_a_range_of_ids");
}
