//! Archives that lie: each is refused, nothing is named, and a collection leaves an empty store.

#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
mod common;

use common::{config, describe, digest, gzip, settled, stores, tar};
use longshore_image::{Ctx, Error, LoadOptions};
use oci_spec::image::MediaType;
use serde_json::{Value, json};

type Files = Vec<(String, Vec<u8>)>;

/// What `docker save` writes for one layer.
fn good(layer: &[u8]) -> Files {
    let mut c = config();
    c["rootfs"] = json!({"type": "layers", "diff_ids": [digest(layer).to_string()]});
    let manifest = json!([{"Config": "c.json", "RepoTags": ["evil:1"], "Layers": ["1/layer.tar"]}]);
    vec![
        ("1/layer.tar".to_owned(), layer.to_vec()),
        ("c.json".to_owned(), serde_json::to_vec(&c).unwrap()),
        ("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()),
    ]
}

fn archive(files: &Files) -> Vec<u8> {
    tar(&files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect::<Vec<_>>())
}

/// An OCI layout whose index names this blob with this type.
fn layout(media_type: &str, blob: &[u8], mut more: Files) -> Files {
    let descriptor = describe(media_type, blob);
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    more.push((format!("blobs/sha256/{}", descriptor.digest().digest()), blob.to_vec()));
    more.push(("index.json".to_owned(), serde_json::to_vec(&index).unwrap()));
    more
}

fn with(mut files: Files, path: &str, change: impl Fn(&mut Value)) -> Files {
    for (name, bytes) in &mut files {
        if name == path {
            let mut value = serde_json::from_slice(bytes).unwrap();
            change(&mut value);
            *bytes = serde_json::to_vec(&value).unwrap();
        }
    }
    files
}

fn cases() -> Vec<(&'static str, Files)> {
    let layer = tar(&[("a", b"1")]);
    let other = tar(&[("b", b"2")]);
    let manifest_type = MediaType::ImageManifest.to_string();
    let mut swapped = good(&layer);
    swapped[0].1.clone_from(&other);
    let mut torn = good(&layer);
    torn[0].1 = gzip(&layer)[..30].to_vec();
    let lying_blob = (format!("blobs/sha256/{}", digest(&layer).digest()), gzip(&layer));
    let manifest = json!({"schemaVersion": 2, "config": describe(MediaType::ImageConfig.as_ref(), b"{}"),
        "layers": [describe(MediaType::ImageLayer.as_ref(), &layer)]});
    let manifest = serde_json::to_vec(&manifest).unwrap();
    vec![
        ("nothing", vec![("readme".to_owned(), b"hello".to_vec())]),
        (
            "config by path",
            with(good(&layer), "manifest.json", |m| m[0]["Config"] = json!("../../../../etc/passwd")),
        ),
        ("absolute layer", with(good(&layer), "manifest.json", |m| m[0]["Layers"][0] = json!("/etc/passwd"))),
        (
            "layer that is not there",
            with(good(&layer), "manifest.json", |m| m[0]["Layers"][0] = json!("2/layer.tar")),
        ),
        (
            "layers without end",
            with(good(&layer), "manifest.json", |m| m[0]["Layers"] = json!(vec!["1/layer.tar"; 1000])),
        ),
        (
            "diff ID that is a path",
            with(good(&layer), "c.json", |c| c["rootfs"]["diff_ids"][0] = json!("sha256:../../x")),
        ),
        (
            "another layer's diff ID",
            with(good(&layer), "c.json", |c| c["rootfs"]["diff_ids"][0] = json!(digest(&other).to_string())),
        ),
        ("no diff IDs", with(good(&layer), "c.json", |c| c["rootfs"]["diff_ids"] = json!([]))),
        (
            "manifest.json is an object",
            with(good(&layer), "manifest.json", |m| *m = json!({"Config": "c.json"})),
        ),
        (
            "a tag with a line break",
            with(good(&layer), "manifest.json", |m| m[0]["RepoTags"][0] = json!("a\nb")),
        ),
        ("another layer under the name", swapped),
        ("half a layer", torn),
        ("a config as layer", with(good(&layer), "manifest.json", |m| m[0]["Layers"][0] = json!("c.json"))),
        ("a layer as config", with(good(&layer), "manifest.json", |m| m[0]["Config"] = json!("1/layer.tar"))),
        ("a blob with other bytes than its name", layout(&manifest_type, &manifest, vec![lying_blob])),
        ("a layout without its blobs", layout(&manifest_type, &manifest, vec![])),
        (
            "a manifest that is an index",
            layout(&manifest_type, br#"{"schemaVersion":2,"manifests":[]}"#, vec![]),
        ),
        ("schema 1", layout("application/vnd.docker.distribution.manifest.v1+json", b"{}", vec![])),
    ]
}

#[test]
fn lying_archives_are_refused() {
    for (_temp, store) in stores() {
        let empty = settled(&store);
        for (what, files) in cases() {
            let bytes = archive(&files);
            match store.load(&mut &bytes[..], &LoadOptions::default(), Ctx::none()) {
                Err(e) => {
                    let told = e.is_bad_content()
                        || e.is_not_found()
                        || matches!(e, Error::InvalidName { .. } | Error::Fetch { .. });
                    assert!(told, "{what}: {e:?}");
                }
                Ok(loaded) => panic!("{what} was taken in: {loaded:?}"),
            }
            assert!(store.names().unwrap().is_empty(), "{what} left a name");
            store.collect(Ctx::none()).unwrap();
            assert_eq!(settled(&store), empty, "{what} left something");
        }
        let whole = archive(&good(&tar(&[("a", b"1")])));
        for cut in [0, 1, 511, 512, 700, 1500, 2600] {
            assert!(
                store.load(&mut &whole[..cut], &LoadOptions::default(), Ctx::none()).is_err(),
                "cut at {cut}"
            );
        }
        store.load(&mut &whole[..], &LoadOptions::default(), Ctx::none()).unwrap();
        assert_eq!(store.image("evil:1").unwrap().diff_ids().len(), 1);
    }
}

/// Old Dockers write a layer that several images share once, and links to it for the others.
#[test]
fn links_inside_an_archive_lead_to_its_own_files_only() {
    let layer = tar(&[("a", b"1")]);
    let link = |target: &str| {
        let files = with(good(&layer), "manifest.json", |m| m[0]["Layers"][0] = json!("2/layer.tar"));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "2/layer.tar", target).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(archive(&files));
        bytes
    };
    for (_temp, store) in stores() {
        let loaded =
            store.load(&mut &link("../1/layer.tar")[..], &LoadOptions::default(), Ctx::none()).unwrap();
        assert_eq!(loaded[0].image.diff_ids(), [digest(&layer)]);
        for target in ["/etc/passwd", "../../../etc/passwd", "layer.tar", "../2/layer.tar", "../3/x"] {
            assert!(
                store.load(&mut &link(target)[..], &LoadOptions::default(), Ctx::none()).is_err(),
                "{target}"
            );
        }
    }
}
