//! Images made from images: edited, rebased, squashed, exported, put in an index.

#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
mod common;

use std::io::Read;

use common::{Source, config, digest, gzip, mounts, stores, tar};
use longshore_image::{Ctx, ImportOptions, LayerOptions, Store, VerifyOptions};
use oci_spec::image::{Descriptor, MediaType};
use serde_json::json;

fn import(store: &Store, source: &Source, root: &Descriptor, name: &str) -> longshore_image::Imported {
    let mut options = ImportOptions::default();
    options.names = vec![name.to_owned()];
    store.import(source, root, &options, Ctx::none()).unwrap()
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![tar(&[("etc/motd", b"hello\n"), ("bin/big", &[7; 300_000])]), tar(&[("etc/motd", b"changed\n")])]
}

fn clean(store: &Store) {
    let outcome = store.verify(&VerifyOptions::default(), Ctx::none()).unwrap();
    assert_eq!(outcome.problems, []);
}

/// Paths and contents of a tar's files.
fn files(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let mut files = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.push((entry.path().unwrap().display().to_string(), content));
        }
    }
    files.sort();
    files
}

#[test]
fn an_edited_image_is_another_value() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "a").image;
        let mut spec = store.spec(&image).unwrap();
        spec.config.oci.set_author(Some("somebody".to_owned()));
        spec.annotations.insert("k".to_owned(), "v".to_owned());
        spec.layers.push(
            store.add_layer(&mut &tar(&[("new", b"1")])[..], &LayerOptions::default(), Ctx::none()).unwrap(),
        );
        spec.names.push("b".to_owned());
        let edited = store.create_image(&spec).unwrap();
        assert_eq!(edited.diff_ids().len(), 3);
        assert_eq!(edited.manifest().annotations().as_ref().unwrap()["k"], "v");
        assert_eq!(store.image("a").unwrap(), image);
        assert_eq!(store.names_of(&edited).unwrap(), ["b"]);
        assert_eq!(digest(&store.config_bytes(&edited).unwrap()), *edited.id());
        clean(&store);
    }
}

#[test]
fn a_rebased_image_keeps_what_it_added() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let steps = |names: &[&str]| {
            json!(
                names
                    .iter()
                    .map(|n| json!({"created_by": n, "empty_layer": n.starts_with('#')}))
                    .collect::<Vec<_>>()
            )
        };
        let mut make = |tars: &[Vec<u8>], history: serde_json::Value, name: &str| {
            let layers: Vec<_> = tars
                .iter()
                .map(|t| ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(t), digest(t)))
                .collect();
            let mut c = config();
            c["history"] = history;
            let root = source.image_of(&layers, c);
            import(&store, &source, &root, name).image
        };
        let (old, new, own) = (tar(&[("base", b"old")]), tar(&[("base", b"new")]), tar(&[("own", b"1")]));
        let old_base = make(std::slice::from_ref(&old), steps(&["old", "#env"]), "old");
        let new_base = make(&[new.clone(), tar(&[("more", b"")])], steps(&["new", "more"]), "new");
        let app = make(&[old, own.clone()], steps(&["old", "#env", "#arg", "own", "#cmd"]), "app");
        let spec = store.rebase(&app, &old_base, &new_base).unwrap();
        let rebased = store.create_image(&spec).unwrap();
        assert_eq!(rebased.diff_ids(), [new_base.diff_ids(), &[digest(&own)]].concat());
        let history: Vec<_> =
            rebased.config().oci.history().iter().flatten().filter_map(|h| h.created_by().clone()).collect();
        assert_eq!(history, ["new", "more", "#arg", "own", "#cmd"]);
        assert!(store.rebase(&app, &new_base, &old_base).is_err());
    }
}

#[test]
fn squashing_and_exporting_show_what_a_container_sees() {
    if !mounts() {
        return;
    }
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&[
            tar(&[("a", b"1"), ("b", b"1"), ("d/c", b"1")]),
            tar(&[(".wh.a", b""), ("b", b"2"), ("d/.wh..wh..opq", b""), ("d/n", b"3")]),
        ]);
        let image = import(&store, &source, &root, "x").image;
        let seen = [("b".to_owned(), b"2".to_vec()), ("d/n".to_owned(), b"3".to_vec())];
        let snapshot = store.snapshot("web", &image).unwrap();
        let mut exported = Vec::new();
        store.export(&snapshot, &mut exported, Ctx::none()).unwrap();
        store.remove_snapshot("web").unwrap();
        assert_eq!(files(&exported), seen);
        let squashed = store
            .create_image(&store.squash(&image, &LayerOptions::default(), Ctx::none()).unwrap())
            .unwrap();
        assert_eq!(squashed.diff_ids().len(), 1);
        let mut blob = Vec::new();
        let file = store.open_blob(squashed.manifest().layers()[0].digest()).unwrap();
        flate2::read::MultiGzDecoder::new(file).read_to_end(&mut blob).unwrap();
        assert_eq!(files(&blob), seen);
        assert!(store.snapshots().unwrap().is_empty());
        clean(&store);
    }
}

#[test]
fn an_index_made_here_keeps_all_its_images() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let images: Vec<_> = ["amd64", "arm64", "s390x"]
            .iter()
            .map(|arch| {
                let t = tar(&[("arch", arch.as_bytes())]);
                let mut c = config();
                c["architecture"] = json!(arch);
                let root = source
                    .image_of(&[("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&t), digest(&t))], c);
                import(&store, &source, &root, arch).image
            })
            .collect();
        let multi = store.create_index(&images, &["multi".to_owned()]).unwrap();
        assert_eq!(*multi.target().media_type(), MediaType::ImageIndex);
        let blobs: Vec<_> = images
            .iter()
            .flat_map(|i| {
                [i.descriptor().clone(), i.manifest().config().clone(), i.manifest().layers()[0].clone()]
            })
            .collect();
        drop(images);
        for arch in ["amd64", "arm64", "s390x"] {
            store.remove(arch, false).unwrap();
        }
        store.collect(Ctx::none()).unwrap();
        for blob in blobs {
            assert!(store.blob_size(blob.digest()).unwrap().is_some(), "{blob:?}");
        }
        assert_eq!(store.image("multi").unwrap().target(), multi.target());
        clean(&store);
    }
}

#[test]
fn what_layers_change_and_waste_is_told() {
    for (_temp, store) in common::stores() {
        let mut source = Source::default();
        let root = source.image(&[
            tar(&[
                ("etc/a", &[1; 1000]),
                ("etc/b", &[2; 500]),
                ("usr/lib/x", &[3; 300]),
                ("usr/lib/y", &[4; 30]),
            ]),
            tar(&[("etc/a", b"short"), ("etc/.wh.b", b""), ("etc/c", b"new")]),
            tar(&[("usr/.wh.lib", b""), ("etc/.wh..wh..opq", b""), ("etc/d", b"only")]),
        ]);
        let image = import(&store, &source, &root, "x").image;
        let told = store.layer_changes(&image, Ctx::none()).unwrap();
        let told: Vec<_> = told.iter().map(|c| (c.added, c.changed, c.removed, c.wasted)).collect();
        assert_eq!(told, [(4, 0, 0, 0), (1, 1, 1, 1500), (1, 0, 4, 338)]);
    }
}
