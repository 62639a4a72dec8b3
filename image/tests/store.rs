//! Images in and out of a store: import, names, removal, collection, layers, verification.

#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Source, config, describe, digest, gzip, listing, settled, stores, tar};
use longshore_image::content::ContentWrite;
use longshore_image::{
    Compression, Ctx, Error, ImageSpec, ImportOptions, LayerOptions, Problem, SnapshotOptions, Store,
    StoreOptions, VerifyOptions,
};
use oci_spec::image::{Descriptor, MediaType, Platform};
use serde_json::json;

fn named(name: &str) -> ImportOptions {
    let mut options = ImportOptions::default();
    options.names = vec![name.to_owned()];
    options
}

fn import(store: &Store, source: &Source, root: &Descriptor, name: &str) -> longshore_image::Imported {
    store.import(source, root, &named(name), Ctx::none()).unwrap()
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![tar(&[("etc/motd", b"hello\n"), ("bin/big", &[7; 300_000])]), tar(&[("etc/motd", b"changed\n")])]
}

fn clean(store: &Store) {
    let outcome = store.verify(&VerifyOptions::default(), Ctx::none()).unwrap();
    assert_eq!(outcome.problems, []);
}

#[test]
fn an_import_is_complete_and_the_second_costs_nothing() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let first = import(&store, &source, &root, "a:1");
        assert_eq!((first.fetched, first.reused), (4, 0));
        assert_eq!(first.bytes, source.blobs.values().map(|b| b.len() as u64).sum::<u64>());
        assert_eq!(source.opened(), 4);
        let second = import(&store, &source, &root, "a:2");
        assert_eq!((second.fetched, second.bytes, source.opened()), (0, 0, 0));
        assert_eq!(second.image, first.image);
        let images = store.images().unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].names, ["a:1", "a:2"]);
        let layers = store.layers(&first.image).unwrap();
        assert_eq!(
            layers.iter().map(|l| l.size).sum::<u64>(),
            two_layers().iter().map(|t| t.len() as u64).sum::<u64>()
        );
        // What the files hold.
        assert_eq!(images[0].size, layers.iter().map(|l| l.content).sum::<u64>());
        assert_eq!(images[0].size, 300_000 + "hello\nchanged\n".len() as u64);
        assert_eq!(layers.iter().map(|l| l.entries).collect::<Vec<_>>(), [2, 1]);
        clean(&store);
    }
}

#[test]
fn images_are_found_by_name_digest_and_prefix() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "docker.io/library/debian:bookworm").image;
        let id = image.id().digest();
        for name in [
            "docker.io/library/debian:bookworm",
            id,
            &id[..12],
            &format!("sha256:{id}"),
            &format!("sha256:{}", &id[..6]),
            image.descriptor().digest().as_ref(),
        ] {
            assert_eq!(store.image(name).unwrap(), image, "{name}");
        }
        for name in ["debian", "", "../x", "docker.io/library/debian", "sha256:", "ffffffffffff", "zz"] {
            assert!(store.image(name).unwrap_err().is_not_found(), "{name}");
        }
    }
}

#[test]
fn ambiguous_prefixes_are_told() {
    let (_temp, store) = stores().remove(0);
    // 17 images: two of them begin with the same hex digit.
    let mut ids: Vec<String> = Vec::new();
    for n in 0..17 {
        let mut source = Source::default();
        let mut config = config();
        config["author"] = json!(n.to_string());
        let root = source.image_of(&[], config);
        ids.push(import(&store, &source, &root, &format!("n:{n}")).image.id().digest().to_owned());
    }
    let twice = ids.iter().find(|a| ids.iter().filter(|b| b[..1] == a[..1]).count() > 1).unwrap();
    assert!(matches!(store.image(&twice[..1]), Err(Error::AmbiguousId { found, .. }) if found.len() > 1));
}

#[test]
fn odd_names_are_kept_apart() {
    let (temp, store) = stores().remove(0);
    let mut source = Source::default();
    let root = source.image(&[]);
    let image = store.import(&source, &root, &ImportOptions::default(), Ctx::none()).unwrap().image;
    let names = [
        "a/b:1",
        "a%2fb:1",
        "A/B:1",
        "..",
        ".",
        "../../../escape",
        "%-x",
        "ünïcode",
        &"x".repeat(500),
        &"/".repeat(300),
    ];
    for name in names {
        store.tag(&image, name).unwrap();
    }
    let mut all: Vec<String> = names.iter().map(ToString::to_string).collect();
    all.sort();
    assert_eq!(store.images().unwrap()[0].names, all);
    assert!(!temp.path().join("escape").exists());
    for name in names {
        assert_eq!(store.image(name).unwrap(), image);
        store.remove(name, false).unwrap();
    }
    for name in ["", "a b", "a\nb", "\0", &"x".repeat(513)] {
        assert!(matches!(store.tag(&image, name), Err(Error::InvalidName { .. })), "{name:?}");
    }
}

#[test]
fn a_moved_name_leaves_a_dangling_image_until_collected() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let old = source.image(&two_layers()[..1]);
        let new = source.image(&two_layers()[1..]);
        let old_id = import(&store, &source, &old, "app").image.id().clone();
        let new_id = import(&store, &source, &new, "app").image.id().clone();
        assert_eq!(store.image("app").unwrap().id(), &new_id);
        let images = store.images().unwrap();
        assert_eq!(images.len(), 2);
        assert!(images.iter().any(|i| i.names.is_empty() && *i.image.id() == old_id));
        let collected = store.collect(Ctx::none()).unwrap();
        assert_eq!(collected.images, [old_id]);
        assert_eq!((collected.blobs, collected.layers), (3, 1));
        assert!(collected.bytes > 0);
        assert_eq!(store.images().unwrap().len(), 1);
        clean(&store);
    }
}

#[test]
fn removal_by_name_and_by_id() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "a:1").image;
        store.tag(&image, "a:2").unwrap();
        let one = store.remove("a:1", false).unwrap();
        assert_eq!((one.untagged, one.deleted), (vec!["a:1".to_owned()], vec![]));
        store.tag(&image, "a:3").unwrap();
        let id = image.id().to_string();
        assert!(
            matches!(store.remove(&id, false), Err(Error::SeveralNames { names, .. }) if names == ["a:2", "a:3"])
        );
        let all = store.remove(&id, true).unwrap();
        assert_eq!((all.untagged.len(), all.deleted.len()), (2, 1));
        assert!(store.remove("a:2", true).unwrap_err().is_not_found());
        drop(image);
        store.collect(Ctx::none()).unwrap();
        assert!(store.images().unwrap().is_empty());
        assert_eq!(fs::read_dir(store.path().join("blobs/sha256")).unwrap().count(), 0);
    }
}

#[test]
fn an_image_in_use_stays() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "app").image;
        store.snapshot("web", &image).unwrap();
        store.tag(&image, "second").unwrap();
        // Another name may go; the last may not.
        store.remove("second", false).unwrap();
        let error = store.remove("app", false).unwrap_err();
        assert!(matches!(&error, Error::InUse { by, .. } if by == &["web"]), "{error}");
        assert_eq!(
            error.to_string(),
            format!("web is using its referenced image {}", &image.id().digest()[..12])
        );
        let forced = store.remove("app", true).unwrap();
        assert_eq!((forced.untagged.len(), forced.deleted.len()), (1, 0));
        drop(image);
        assert_eq!(store.collect(Ctx::none()).unwrap().layers, 0);
        assert_eq!(store.images().unwrap().len(), 1);
        store.remove_snapshot("web").unwrap();
        assert_eq!(store.collect(Ctx::none()).unwrap().layers, 2);
        assert!(store.images().unwrap().is_empty());
    }
}

#[test]
fn layers_that_somebody_holds_are_not_collected() {
    for (_temp, store) in stores() {
        let before = settled(&store);
        let layer =
            store.add_layer(&mut &two_layers()[0][..], &LayerOptions::default(), Ctx::none()).unwrap();
        assert_eq!(store.collect(Ctx::none()).unwrap().layers, 0);
        let copy = layer.clone();
        drop(layer);
        assert_eq!(store.collect(Ctx::none()).unwrap().layers, 0);
        drop(copy);
        let collected = store.collect(Ctx::none()).unwrap();
        assert_eq!((collected.layers, collected.blobs), (1, 1));
        assert_eq!(settled(&store), before);
    }
}

#[test]
fn layers_of_every_compression_are_one_layer() {
    let plain = &two_layers()[0];
    for (_temp, store) in stores() {
        let mut seen = Vec::new();
        for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
            let mut options = LayerOptions::default();
            options.compression = compression;
            let layer = store.add_layer(&mut &plain[..], &options, Ctx::none()).unwrap();
            assert_eq!((&layer.diff_id, layer.size, layer.entries), (&digest(plain), plain.len() as u64, 2));
            assert_eq!(*layer.descriptor.media_type(), compression.media_type());
            let mut blob = Vec::new();
            store.open_blob(layer.descriptor.digest()).unwrap().read_to_end(&mut blob).unwrap();
            assert_eq!(blob.len() as u64, layer.descriptor.size());
            // What comes compressed is kept byte for byte.
            let again = store.add_layer(&mut &blob[..], &LayerOptions::default(), Ctx::none()).unwrap();
            if compression != Compression::None {
                assert_eq!(again.descriptor, layer.descriptor);
            }
            assert_eq!(again.diff_id, layer.diff_id);
            seen.push(layer);
        }
        clean(&store);
    }
}

#[test]
fn broken_layers_leave_nothing() {
    for (_temp, store) in stores() {
        let before = settled(&store);
        let whole = gzip(&two_layers()[0]);
        let mut trailing = whole.clone();
        trailing.extend(b"trailing garbage");
        for bytes in [
            &whole[..whole.len() / 2],
            &whole[..whole.len() - 4],
            &trailing,
            b"no tar at all, but long enough to be sniffed",
        ] {
            let error = store.add_layer(&mut &bytes[..], &LayerOptions::default(), Ctx::none()).unwrap_err();
            assert!(error.is_bad_content(), "{error:?}");
        }
        let bomb = gzip(&vec![0; 30 << 20]);
        let _ = store.add_layer(&mut &bomb[..], &LayerOptions::default(), Ctx::none());
        store.collect(Ctx::none()).unwrap();
        assert_eq!(settled(&store), before);
    }
}

#[test]
fn an_image_made_of_layers_runs_through_a_second_store() {
    for (_temp, store) in stores() {
        let layer =
            store.add_layer(&mut &two_layers()[0][..], &LayerOptions::default(), Ctx::none()).unwrap();
        let mut spec = ImageSpec::default();
        spec.layers = vec![layer];
        spec.names = vec!["made".to_owned()];
        spec.config.docker.shell = Some(vec!["/bin/sh".to_owned()]);
        let image = store.create_image(&spec).unwrap();
        assert_eq!(store.create_image(&spec).unwrap(), image, "the same spec, another image");
        assert_eq!(store.layers(&image).unwrap()[0].entries, 2);
        for (_temp, second) in stores() {
            let from = longshore_image::from_fn(|d: &Descriptor, offset| {
                let mut blob = store.open_blob(d.digest())?;
                std::io::Seek::seek(&mut blob, std::io::SeekFrom::Start(offset))
                    .map_err(longshore_image::BoxError::from)?;
                Ok::<_, longshore_image::BoxError>(blob)
            });
            let copied = second.import(&from, image.target(), &named("copy"), Ctx::none()).unwrap().image;
            assert_eq!(copied.id(), image.id());
            assert_eq!(copied.config().docker, spec.config.docker);
        }
        clean(&store);
    }
}

#[test]
fn commit_gives_the_same_layer_for_the_same_changes() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "base").image;
        let layers: Vec<_> = ["a", "b"]
            .iter()
            .map(|key| {
                let snapshot =
                    store.snapshot_layers(key, image.diff_ids(), &SnapshotOptions::default()).unwrap();
                store.commit_layer(&snapshot, &LayerOptions::default(), Ctx::none()).unwrap()
            })
            .collect();
        assert_eq!(layers[0].entries, 0, "nothing was changed");
        assert_eq!(layers[0].descriptor, layers[1].descriptor);
        store.remove_snapshot("a").unwrap();
        store.remove_snapshot("b").unwrap();
    }
}

#[test]
fn the_right_platform_is_taken_from_an_index() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let mut entries = Vec::new();
        for arch in ["arm64", "amd64", "s390x"] {
            let mut config = config();
            config["architecture"] = json!(arch);
            let manifest = source.image_of(&[], config);
            let mut entry = serde_json::to_value(&manifest).unwrap();
            entry["platform"] = json!({"architecture": arch, "os": "linux"});
            entries.push(entry);
        }
        let index = json!({"schemaVersion": 2, "mediaType": MediaType::ImageIndex, "manifests": entries});
        let inner = source.put(MediaType::ImageIndex.as_ref(), serde_json::to_vec(&index).unwrap());
        let mut platform = Platform::default();
        platform.set_architecture("s390x".into()).set_os("linux".into());
        let mut options = named("multi");
        options.platform = Some(platform.clone());
        let image = store.import(&source, &inner, &options, Ctx::none()).unwrap().image;
        assert_eq!(image.config().oci.architecture().to_string(), "s390x");
        assert_eq!(image.target(), &inner);
        assert_eq!(store.image(inner.digest().as_ref()).unwrap(), image);
        platform.set_architecture("riscv64".into());
        options.platform = Some(platform.clone());
        let error = store.import(&source, &inner, &options, Ctx::none()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for platform linux/riscv64; there is linux/arm64, linux/amd64, linux/s390x"
        );
        // The index itself stays with its image, also after a collection.
        drop(image);
        store.collect(Ctx::none()).unwrap();
        assert_eq!(store.image("multi").unwrap().target(), &inner);
        assert!(store.blob_size(inner.digest()).unwrap().is_some());
        // A manifest that stands alone is for what it is for.
        let alone = source.image_of(&[], config());
        assert!(matches!(
            store.import(&source, &alone, &options, Ctx::none()),
            Err(Error::NoPlatform { .. })
        ));
    }
}

#[test]
fn an_artifact_is_kept_but_is_no_image() {
    let (_temp, store) = stores().remove(0);
    let mut source = Source::default();
    let config = source.put("application/vnd.example.config", b"not even JSON".to_vec());
    let layer = source.put("text/plain", b"any bytes".to_vec());
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::ImageManifest, "artifactType": "application/vnd.example",
        "config": config, "layers": [layer]});
    let root = source.put(MediaType::ImageManifest.as_ref(), serde_json::to_vec(&manifest).unwrap());
    let image = import(&store, &source, &root, "artifact").image;
    assert!(image.is_artifact() && image.diff_ids().is_empty());
    assert_eq!(store.blob_size(layer.digest()).unwrap(), Some(9));
    store.collect(Ctx::none()).unwrap();
    assert_eq!(store.blob_size(layer.digest()).unwrap(), Some(9));
    clean(&store);
}

/// What must not come in: each is refused, nothing is named, and a collection leaves an empty store.
#[test]
fn hostile_images_are_refused() {
    type Make = fn(&mut Source) -> Descriptor;
    let cases: [(&str, Make); 9] = [
        ("wrong diff ID", |s| {
            let t = tar(&[("a", b"1")]);
            s.image_of(
                &[("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&t), digest(b"other"))],
                config(),
            )
        }),
        ("wrong layer bytes", |s| {
            let root = s.image(&[tar(&[("a", b"1")])]);
            let layer = digest(&gzip(&tar(&[("a", b"1")])));
            s.blobs.get_mut(&layer).unwrap()[20] ^= 1;
            root
        }),
        ("layer longer than said", |s| {
            let root = s.image(&[tar(&[("a", b"1")])]);
            s.blobs.get_mut(&digest(&gzip(&tar(&[("a", b"1")])))).unwrap().push(0);
            root
        }),
        ("layer shorter than said", |s| {
            let root = s.image(&[tar(&[("a", b"1")])]);
            s.blobs.get_mut(&digest(&gzip(&tar(&[("a", b"1")])))).unwrap().pop();
            root
        }),
        ("more layers than diff IDs", |s| {
            let config = s.put(MediaType::ImageConfig.as_ref(), {
                let mut c = config();
                c["rootfs"] = json!({"type": "layers", "diff_ids": []});
                serde_json::to_vec(&c).unwrap()
            });
            let layer = s.put(MediaType::ImageLayer.as_ref(), tar(&[("a", b"1")]));
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            s.put(MediaType::ImageManifest.as_ref(), serde_json::to_vec(&manifest).unwrap())
        }),
        ("a diff ID that is a path", |s| {
            let mut c = config();
            c["rootfs"] = json!({"type": "layers", "diff_ids": ["sha256:../../../../etc/passwd"]});
            let config = s.put(MediaType::ImageConfig.as_ref(), serde_json::to_vec(&c).unwrap());
            let layer = s.put(MediaType::ImageLayer.as_ref(), tar(&[("a", b"1")]));
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            s.put(MediaType::ImageManifest.as_ref(), serde_json::to_vec(&manifest).unwrap())
        }),
        ("a digest nobody can compute", |s| {
            let t = tar(&[("a", b"1")]);
            let d = json!({"mediaType": MediaType::ImageLayer, "digest": "md5:d41d8cd98f00b204e9800998ecf8427e", "size": t.len()});
            let mut c = config();
            c["rootfs"] = json!({"type": "layers", "diff_ids": [digest(&t).to_string()]});
            let config = s.put(MediaType::ImageConfig.as_ref(), serde_json::to_vec(&c).unwrap());
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [d]});
            s.put(MediaType::ImageManifest.as_ref(), serde_json::to_vec(&manifest).unwrap())
        }),
        ("indexes without end", |s| {
            let mut inner = s.image(&[]);
            for _ in 0..6 {
                let index = json!({"schemaVersion": 2, "manifests": [inner]});
                inner = s.put(MediaType::ImageIndex.as_ref(), serde_json::to_vec(&index).unwrap());
            }
            inner
        }),
        ("a manifest of 5 MiB", |s| {
            s.put(
                MediaType::ImageManifest.as_ref(),
                format!(r#"{{"schemaVersion":2,"x":"{}"}}"#, "x".repeat(5 << 20)).into_bytes(),
            )
        }),
    ];
    for (_temp, store) in stores() {
        for (what, make) in cases {
            let mut source = Source::default();
            let root = make(&mut source);
            match store.import(&source, &root, &named("evil"), Ctx::none()) {
                Err(e) => assert!(
                    e.is_bad_content() || matches!(e, Error::Unsupported { .. } | Error::Fetch { .. }),
                    "{what}: {e:?}"
                ),
                Ok(_) => panic!("{what} was taken in"),
            }
            assert!(store.images().unwrap().is_empty(), "{what} left a name");
            store.collect(Ctx::none()).unwrap();
            assert_eq!(
                fs::read_dir(store.path().join("blobs/sha256")).unwrap().count(),
                0,
                "{what} left blobs"
            );
            assert_eq!(
                fs::read_dir(store.path().join("ingest")).unwrap().count(),
                0,
                "{what} left a partial blob"
            );
        }
    }
}

#[test]
fn a_source_that_sends_more_than_said_is_cut_off() {
    let (_temp, store) = stores().remove(0);
    let root = describe(MediaType::ImageManifest.as_ref(), b"{}");
    let endless =
        longshore_image::from_fn(|_: &Descriptor, _| Ok::<_, std::io::Error>(std::io::repeat(b' ')));
    let error = store.import(&endless, &root, &named("x"), Ctx::none()).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { expected: 2, .. }), "{error:?}");
}

#[test]
fn a_broken_download_goes_on_where_it_was() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        // Incompressible, so that the blob is longer than one piece.
        let mut noise = vec![0; 2 << 20];
        let mut x = 1_u32;
        noise.iter_mut().for_each(|b| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            *b = x.to_le_bytes()[0];
        });
        let t = tar(&[("noise", &noise)]);
        let root = source.image(std::slice::from_ref(&t));
        let layer = digest(&gzip(&t));
        source.breaks.lock().unwrap().insert(layer.clone(), 1_500_000);
        let error = store.import(&source, &root, &named("x"), Ctx::none()).unwrap_err();
        assert!(matches!(&error, Error::Fetch { digest, .. } if *digest == layer), "{error:?}");
        assert!(error.is_retryable());
        let second = import(&store, &source, &root, "x");
        assert_eq!(source.resumed.load(Ordering::Relaxed), 1);
        assert!(second.bytes < source.blobs[&layer].len() as u64, "all of it came again");
        clean(&store);
    }
}

#[test]
fn a_rotten_partial_download_is_dropped() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let t = tar(&[("f", b"x")]);
        let root = source.image(std::slice::from_ref(&t));
        let blob = gzip(&t);
        let path = store.path().join("ingest").join(digest(&blob).to_string().replace(':', "-"));
        for rot in [vec![0; blob.len() / 2], vec![0; blob.len()], blob.clone(), vec![0; 2 * blob.len()]] {
            fs::write(&path, rot).unwrap();
            import(&store, &source, &root, "x");
            clean(&store);
            store.remove("x", false).unwrap();
            store.collect(Ctx::none()).unwrap();
        }
    }
}

#[test]
fn a_cancelled_import_can_be_tried_again() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let cancel = AtomicBool::new(false);
        let at_first_byte = |_: longshore_image::Event<'_>| cancel.store(true, Ordering::Relaxed);
        let ctx = Ctx { progress: &at_first_byte, cancel: &cancel };
        let error = store.import(&source, &root, &named("x"), ctx).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error:?}");
        assert!(store.images().unwrap().is_empty());
        import(&store, &source, &root, "x");
        clean(&store);
    }
}

#[test]
fn damage_is_found_and_mended() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "x").image;
        let blob = image.manifest().layers()[1].digest();
        let path = store.path().join("blobs/sha256").join(blob.digest());
        let mut bytes = fs::read(&path).unwrap();
        bytes[30] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        fs::write(store.path().join("refs/rotten"), b"").unwrap();
        let mut repair = VerifyOptions::default();
        repair.repair = true;
        let problems = store.verify(&repair, Ctx::none()).unwrap().problems;
        assert!(problems.contains(&Problem::DamagedBlob { digest: blob.clone() }), "{problems:?}");
        assert!(problems.contains(&Problem::MissingBlob { image: image.id().clone(), digest: blob.clone() }));
        assert!(problems.iter().any(|p| matches!(p, Problem::BadRef { .. })));
        // A directory has nothing left to be compared with.
        let unproven = problems.contains(&Problem::UnprovenLayer { diff_id: image.diff_ids()[1].clone() });
        assert_eq!(problems.len(), if unproven { 4 } else { 3 }, "{problems:?}");
        assert_eq!(import(&store, &source, &root, "x").fetched, 1);
        clean(&store);
    }
}

#[test]
fn nothing_is_collected_while_a_name_is_damaged() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        import(&store, &source, &root, "x");
        let other = source.image(&two_layers()[..1]);
        import(&store, &source, &other, "y");
        let file = store.path().join("refs/x");
        let sound = fs::read(&file).unwrap();
        fs::write(&file, &sound[..sound.len() / 2]).unwrap();
        let before = listing(store.path());
        for result in [store.collect(Ctx::none()), store.prune(true, &|_| true, Ctx::none()).map(|p| p.1)] {
            let error = result.unwrap_err();
            assert!(matches!(&error, Error::Invalid { what, .. } if what.ends_with("refs/x")), "{error:?}");
        }
        assert_eq!(listing(store.path()), before);
        fs::write(&file, &sound).unwrap();
        let collected = store.collect(Ctx::none()).unwrap();
        assert_eq!((collected.blobs, collected.layers), (0, 0));
        clean(&store);
    }
}

#[test]
fn a_lost_layer_is_unpacked_again_from_its_blob() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "x").image;
        for entry in fs::read_dir(store.path().join("layers")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        let store = Store::open(store.path()).unwrap();
        let mut repair = VerifyOptions::default();
        repair.repair = true;
        let problems = store.verify(&repair, Ctx::none()).unwrap().problems;
        assert!(problems.contains(&Problem::MissingLayer {
            image: image.id().clone(),
            diff_id: image.diff_ids()[0].clone()
        }));
        clean(&store);
        source.opened();
        import(&store, &source, &root, "x");
        assert_eq!(source.opened(), 0);
    }
}

/// A process that keeps layers as directories uses those that another has kept as EROFS files.
#[test]
fn layers_of_the_other_driver_serve() {
    let temp = tempfile::tempdir().unwrap();
    let [erofs, directories] = [false, true].map(|directories| {
        let mut options = StoreOptions::default();
        options.directories = directories;
        Store::open_with(temp.path().join("store"), &options).unwrap()
    });
    let mut source = Source::default();
    let root = source.image(&two_layers());
    let image = import(&erofs, &source, &root, "a").image;
    clean(&directories);
    let snapshot = directories.snapshot("s", &image).unwrap();
    if common::mounts() {
        snapshot.mount().unwrap();
    }
    assert_eq!(directories.import(&source, &root, &named("a"), Ctx::none()).unwrap().reused, 2);
    directories.tag(&image, "b").unwrap();
}

/// Containers of one image have its layers mounted once, as long as somebody keeps them; nobody believes what is not that mount.
#[test]
fn layers_are_mounted_once_for_all() {
    if !common::mounts() {
        return;
    }
    let (temp, store) = stores().remove(0);
    let other = Store::open(temp.path().join("store")).unwrap();
    let mut source = Source::default();
    let root = source.image(&two_layers());
    let image = import(&store, &source, &root, "a").image;
    let reads = |mount: &std::os::fd::OwnedFd| {
        let below = rustix::fs::openat(mount, "etc/motd", rustix::fs::OFlags::RDONLY, 0.into()).unwrap();
        let mut text = String::new();
        fs::File::from(below).read_to_string(&mut text).unwrap();
        assert_eq!(text, "changed\n");
    };
    let first = store.snapshot("1", &image).unwrap().mount_shared().unwrap();
    let second = other.snapshot("2", &image).unwrap().mount_shared().unwrap();
    assert_eq!((first.layers.len(), second.layers.len()), (2, 0));
    reads(&second.root);
    // Others stay mounted when the holder goes; the next holds for itself.
    drop(first);
    reads(&second.root);
    let mut third = other.snapshot("3", &image).unwrap().mount_shared().unwrap();
    assert_eq!(third.layers.len(), 2);
    // Who has lost his links to others holds each layer once all the same, however often he starts.
    for key in ["6", "7", "8"] {
        for entry in fs::read_dir(store.path().join("layers")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "held") {
                fs::remove_file(path).unwrap();
            }
        }
        let again = other.snapshot(key, &image).unwrap().mount_shared().unwrap();
        assert_eq!(again.layers.len(), 2);
        third.layers.extend(again.layers);
        assert_eq!(third.layers.len(), 2);
    }
    // What a killed holder leaves: a descriptor that is something else by now.
    let links = || {
        let files = fs::read_dir(store.path().join("layers")).unwrap().map(|e| e.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "held")).collect::<Vec<_>>()
    };
    let [one, two] = &links()[..] else { panic!("{:?}", links()) };
    let (text, wrong) = (fs::read_link(one).unwrap(), fs::read_link(two).unwrap());
    for lie in
        [wrong.to_str().unwrap(), "1 0 1 x", "", " ", "x", &text.to_str().unwrap().replacen(' ', " 9", 2)]
    {
        let _ = fs::remove_file(one);
        if !lie.is_empty() {
            std::os::unix::fs::symlink(lie, one).unwrap();
        }
        let snapshot = store.snapshot("4", &image).unwrap();
        let fourth = snapshot.mount_shared().unwrap();
        reads(&fourth.root);
        assert_eq!(fourth.layers.len(), 1, "{lie}");
        drop(fourth);
        store.remove_snapshot("4").unwrap();
    }
    // A layer that was unpacked anew is another file, whatever is still mounted.
    let _ = fs::remove_file(one);
    std::os::unix::fs::symlink(&text, one).unwrap();
    let file = one.with_extension("erofs");
    let copy = temp.path().join("copy");
    fs::copy(&file, &copy).unwrap();
    fs::rename(&copy, &file).unwrap();
    assert_eq!(store.snapshot("5", &image).unwrap().mount_shared().unwrap().layers.len(), 1);
    drop(third);
    // Nothing is left of it, nor when the image goes.
    let _ = fs::remove_file(one);
    assert_eq!(links(), [] as [std::path::PathBuf; 0]);
    std::os::unix::fs::symlink(&text, one).unwrap();
    for key in ["1", "2", "3", "5", "6", "7", "8"] {
        store.remove_snapshot(key).unwrap();
    }
    store.remove("a", false).unwrap();
    drop(image);
    store.collect(Ctx::none()).unwrap();
    assert_eq!(links(), [] as [std::path::PathBuf; 0]);
}

/// An image that was found, removed and collected comes back piece by piece: until it is complete it takes no name.
#[test]
fn an_image_that_is_only_half_here_is_not_tagged() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "a").image;
        let stored = store.image("a").unwrap();
        store.remove("a", false).unwrap();
        drop(image);
        store.collect(Ctx::none()).unwrap();
        assert!(store.tag(&stored, "b").unwrap_err().is_not_found());
        for descriptor in [&root, stored.manifest().config()] {
            let mut ingest = store.ingest(Some(descriptor)).unwrap().unwrap();
            ingest.write_all(&source.blobs[descriptor.digest()]).unwrap();
            ingest.commit().unwrap();
        }
        assert!(store.tag(&stored, "b").unwrap_err().is_not_found());
        assert_eq!(store.names().unwrap(), []);
        import(&store, &source, &root, "a");
        store.tag(&stored, "b").unwrap();
        clean(&store);
    }
}

/// A layer that a container needs comes out of its blob again, also where only a form for another kernel is here.
#[test]
fn a_snapshot_unpacks_what_it_lacks() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "a").image;
        let aside = store.path().join("aside");
        let lose = || {
            fs::create_dir(&aside).unwrap();
            for entry in fs::read_dir(store.path().join("layers")).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap() != "erofs" {
                    fs::rename(&path, aside.join(path.file_name().unwrap())).unwrap();
                }
            }
        };
        lose();
        store.snapshot("s", &image).unwrap();
        clean(&store);
        fs::remove_dir_all(&aside).unwrap();
        lose();
        store.snapshot_layers("t", image.diff_ids(), &SnapshotOptions::default()).unwrap();
        let mut spec = store.spec(&image).unwrap();
        spec.names.push("b".to_owned());
        store.create_image(&spec).unwrap();
        clean(&store);
        for digest in image.manifest().layers().iter().map(Descriptor::digest) {
            fs::remove_file(store.path().join("blobs/sha256").join(digest.digest())).unwrap();
        }
        fs::remove_dir_all(&aside).unwrap();
        lose();
        assert!(matches!(store.snapshot("u", &image), Err(Error::NoSuchLayer { .. })));
        assert!(matches!(store.create_image(&spec), Err(Error::NoSuchBlob { .. })));
    }
}

/// Two processes can have made both forms of one layer: of different kernels, or where one could not mount.
#[test]
fn both_forms_of_a_layer_count_and_go() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("store");
    let mut options = StoreOptions::default();
    let erofs = Store::open_with(&path, &options).unwrap();
    options.directories = true;
    let directories = Store::open_with(&path, &options).unwrap();
    let mut source = Source::default();
    let root = source.image(&[tar(&[("a", &[1; 100_000])])]);
    let image = import(&erofs, &source, &root, "a").image;
    let alone = erofs.disk_usage().unwrap().layers;
    let layers = path.join("layers");
    let form = fs::read_dir(&layers).unwrap().map(|e| e.unwrap().path()).find(|p| *p != layers.join("erofs"));
    let form = form.unwrap();
    fs::rename(&form, temp.path().join("form")).unwrap();
    directories.snapshot("s", &image).unwrap();
    if form.exists() {
        // An ordinary user has one form only.
        return;
    }
    fs::rename(temp.path().join("form"), &form).unwrap();
    for store in [&erofs, &directories] {
        clean(store);
        assert!(store.disk_usage().unwrap().layers >= alone + 100_000);
    }
    erofs.remove_snapshot("s").unwrap();
    erofs.remove("a", false).unwrap();
    drop(image);
    assert_eq!(erofs.collect(Ctx::none()).unwrap().layers, 1);
    assert_eq!(directories.disk_usage().unwrap().layers, 0);
}

#[test]
fn the_rest_of_a_removed_layer_is_no_obstacle() {
    let temp = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::default();
    options.directories = true;
    let store = Store::open_with(temp.path().join("store"), &options).unwrap();
    let layer = tar(&[("a", b"a")]);
    let rest = store.path().join(format!("layers/{}/fs", digest(&layer).to_string().replace(':', "-")));
    fs::create_dir_all(rest.join("usr")).unwrap();
    let mut source = Source::default();
    let root = source.image(&[layer]);
    import(&store, &source, &root, "a");
    clean(&store);
}

#[test]
fn usage_of_a_removed_snapshot_is_nothing() {
    for (_temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "a").image;
        let snapshot = store.snapshot("s", &image).unwrap();
        store.remove_snapshot("s").unwrap();
        assert_eq!(snapshot.usage().unwrap(), (0, 0));
    }
}

#[test]
fn usage_counts_any_depth_and_follows_nobody_out() {
    for (temp, store) in stores() {
        let mut source = Source::default();
        let root = source.image(&two_layers());
        let image = import(&store, &source, &root, "a").image;
        let snapshot = store.snapshot("s", &image).unwrap();
        let upper = snapshot.root().unwrap_or_else(|| store.path().join("snapshots/s/upper"));
        let measured = || (snapshot.file_bytes().unwrap(), snapshot.usage().unwrap().1);
        let before = measured();
        let mut dir = fs::File::open(&upper).unwrap();
        // Deeper than a path can say.
        for _ in 0..600 {
            rustix::fs::mkdirat(&dir, "aaaaaaaa", 0o755.into()).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            dir = rustix::fs::openat(&dir, "aaaaaaaa", flags, 0.into()).unwrap().into();
        }
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
        let file = rustix::fs::openat(&dir, "file", flags, 0o644.into()).unwrap();
        rustix::fs::ftruncate(&file, 1 << 20).unwrap();
        assert_eq!(measured(), (before.0 + (1 << 20), before.1 + 601));
        fs::remove_dir_all(upper.join("aaaaaaaa")).unwrap();
        // A directory that becomes a link to one with the same names, and much in it.
        let outside = temp.path().join("outside");
        let (inside, link) = (upper.join("d"), upper.join("link"));
        for place in [&outside, &inside] {
            (0..20).for_each(|n| fs::create_dir_all(place.join(format!("sub{n}"))).unwrap());
        }
        fs::File::create(outside.join("sub7/file")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let (done, most) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let swap = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &inside, rustix::fs::CWD, &link, swap)
                        .unwrap();
                }
            });
            for _ in 0..60 {
                most.fetch_max(snapshot.file_bytes().unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(most.into_inner() < 1 << 30, "what lies outside was counted");
    }
}

#[test]
fn a_new_store_may_be_opened_by_many_at_once() {
    let mut options = StoreOptions::default();
    options.durability = longshore_image::Durability::None;
    for _ in 0..50 {
        let temp = tempfile::tempdir().unwrap();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    Store::open_with(temp.path().join("store"), &options).unwrap();
                });
            }
        });
    }
}

#[test]
fn foreign_directories_are_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("thesis.txt"), "years of work").unwrap();
    assert!(Store::open(temp.path()).is_err());
    assert_eq!(listing(temp.path()), ["thesis.txt 13"]);
}

#[test]
fn a_store_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let (_temp, store) = stores().remove(0);
    assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_a_killed_process_left_is_reclaimed() {
    let (_temp, store) = stores().remove(0);
    let left = store.path().join("tmp/layer-1-1");
    fs::create_dir(&left).unwrap();
    fs::File::create(left.join("f")).unwrap().write_all(b"x").unwrap();
    fs::write(store.path().join("leases/1-1"), "").unwrap();
    Store::open(store.path()).unwrap().collect(Ctx::none()).unwrap();
    assert!(!left.exists());
    assert_eq!(fs::read_dir(store.path().join("leases")).unwrap().count(), 0);
}

/// All of the above once more in a process without rights, on directories that it owns.
#[test]
fn the_same_as_an_ordinary_user() {
    const INNER: &str = "LONGSHORE_INNER";
    if std::env::var_os(INNER).is_some() || !common::mounts() || !common::has("setpriv") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(temp.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // The target directory need not be readable to others.
    let program = temp.path().join("tests");
    // By another process: a child that another test starts meanwhile would have it open for writing, and it could not be run.
    let own = std::env::current_exe().unwrap();
    common::run("install", &["-m", "755", own.to_str().unwrap(), program.to_str().unwrap()]);
    let out = std::process::Command::new("timeout")
        .args(["120", "setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(&program)
        .env(INNER, "1")
        .env("TMPDIR", &home)
        // What needs root is skipped there, and rightly so.
        .env_remove("LONGSHORE_REQUIRE_ALL")
        .current_dir(&home)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
}
