//! The store's directory and its archives beside skopeo, umoci, podman and docker.

#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
mod common;
#[path = "layers_common/mod.rs"]
mod layers;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Source, config, digest, gzip, has, run, skip, stores, tar};
use longshore_image::{ArchiveFormat, Ctx, Image, ImportOptions, LoadOptions, Store};
use oci_spec::image::{Descriptor, Digest};
use serde_json::{Value, json};

const NAME: &str = "localhost/longshore/test:v1";

/// A small image of three layers, one of them empty, with a whiteout and Docker's own fields.
fn image(store: &Store) -> Image {
    let mut source = Source::default();
    let tars = [
        tar(&[("bin/hello", b"#!/bin/sh\necho hello\n"), ("etc/gone", b"x"), ("data", &[1; 100_000])]),
        tar(&[("etc/.wh.gone", b"")]),
        tar(&[]),
    ];
    let layers: Vec<_> =
        tars.iter().map(|t| ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(t), digest(t))).collect();
    let mut config = config();
    config["config"]["Healthcheck"] = json!({"Test": ["CMD", "true"], "Interval": 1_000_000_000});
    config["config"]["Labels"] = json!({"k": "v"});
    config["history"] = json!([{"created_by": "a"}, {"created_by": "b"}, {"created_by": "c"}]);
    let root = source.image_of(&layers, config);
    let mut options = ImportOptions::default();
    options.names = vec![NAME.to_owned()];
    store.import(&source, &root, &options, Ctx::none()).unwrap().image
}

fn save(store: &Store, names: &[&str], format: ArchiveFormat, to: &Path) {
    store.save(names, format, &mut File::create(to).unwrap(), Ctx::none()).unwrap();
}

fn load(store: &Store, from: &Path) -> Vec<longshore_image::Loaded> {
    store.load(&mut File::open(from).unwrap(), &LoadOptions::default(), Ctx::none()).unwrap()
}

#[test]
fn the_directory_is_an_oci_layout_to_others() {
    if !has("skopeo") || !has("umoci") {
        return;
    }
    for (temp, store) in stores() {
        let image = image(&store);
        store.tag(&image, "plain").unwrap();
        let dir = store.path().display();
        for name in [NAME, "plain"] {
            let seen: Value =
                serde_json::from_str(&run("skopeo", &["inspect", &format!("oci:{dir}:{name}")])).unwrap();
            assert_eq!(seen["Digest"], image.descriptor().digest().as_ref());
            assert_eq!(seen["Labels"]["k"], "v");
        }
        let copy = temp.path().join("copy");
        run("skopeo", &["copy", &format!("oci:{dir}:{NAME}"), &format!("oci:{}:x", copy.display())]);
        let tags = run("umoci", &["ls", "--layout", &dir.to_string()]);
        assert_eq!(tags.lines().collect::<Vec<_>>(), [NAME, "plain"]);
        // The copy is a source for a third.
        let source = layout_source(&copy);
        let root = layout_root(&copy);
        let (_temp, third) = stores().remove(0);
        assert_eq!(
            third.import(&source, &root, &ImportOptions::default(), Ctx::none()).unwrap().image.id(),
            image.id()
        );
    }
}

/// What skopeo writes into the directory is an image of the store, also when it takes the place of another, and beside changes of our own.
#[test]
fn what_skopeo_writes_is_taken_over() {
    if !has("skopeo") {
        return;
    }
    for ((temp, store), (_other, from)) in stores().into_iter().zip(stores()) {
        let first = image(&from);
        let layer = tar(&[("second", b"2")]);
        let layer = from.add_layer(&mut &layer[..], &Default::default(), Ctx::none()).unwrap();
        let mut spec = from.spec(&first).unwrap();
        spec.layers.push(layer);
        spec.names.push("second".to_owned());
        let second = from.create_image(&spec).unwrap();
        let copy = |from: &Store, name: &str, to: &str| {
            let (from, to) = (
                format!("oci:{}:{name}", from.path().display()),
                format!("oci:{}{to}", store.path().display()),
            );
            run("skopeo", &["copy", &from, &to]);
        };
        copy(&from, NAME, ":other/name:1");
        let found = store.image("other/name:1").unwrap();
        assert_eq!((found.id(), found.descriptor().digest()), (first.id(), first.descriptor().digest()));
        sound(&store);

        // Ours is changed before anybody looks; of a name that both changed, the other tool's word counts.
        copy(&from, "second", ":other/name:1");
        store.tag(&found, "mine").unwrap();
        copy(&store, "mine", ":copied");
        let names = store.names().unwrap();
        let named = |name: &str| &names.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(
            [named("copied"), named("mine"), named("other/name:1")],
            [first.id(), first.id(), second.id()]
        );
        assert_eq!(names.len(), 3);

        // Not lost to a collection, though nobody has looked yet; without a name it dangles, and goes.
        store.remove("copied", false).unwrap();
        store.remove("mine", false).unwrap();
        copy(&from, NAME, ":kept");
        drop(found);
        assert!(store.collect(Ctx::none()).unwrap().images.is_empty());
        assert_eq!(store.image("kept").unwrap().id(), first.id());
        store.remove("kept", false).unwrap();
        copy(&from, NAME, "");
        assert_eq!(store.images().unwrap().len(), 2);
        assert_eq!(store.collect(Ctx::none()).unwrap().images, [first.id().clone()]);
        sound(&store);

        // Damaged, it is refused, and stays in the index.
        copy(&from, NAME, ":bad");
        let blob = first.manifest().layers()[0].digest();
        fs::write(store.path().join("blobs/sha256").join(blob.digest()), "something else").unwrap();
        let adopted = store.adopt(Ctx::none()).unwrap();
        assert!(adopted.images.is_empty() && adopted.refused[0].1.is_bad_content(), "{adopted:?}");
        assert!(store.image("bad").is_err());
        let index = fs::read_to_string(store.path().join("index.json")).unwrap();
        assert!(index.contains("\"bad\"") && index.contains("\"other/name:1\""), "{index}");
        drop(temp);
    }
}

/// All is well, and the directory's index says the names.
fn sound(store: &Store) {
    assert_eq!(store.verify(&Default::default(), Ctx::none()).unwrap().problems, []);
    let seen = Store::open(store.path()).unwrap().adopt(Ctx::none()).unwrap();
    assert!(seen.images.is_empty() && seen.refused.is_empty(), "{seen:?}");
}

fn layout_root(layout: &Path) -> Descriptor {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    serde_json::from_value(index["manifests"][0].clone()).unwrap()
}

fn layout_source(layout: &Path) -> impl longshore_image::BlobSource {
    let layout = layout.to_owned();
    longshore_image::from_fn(move |d: &Descriptor, offset| {
        let mut file = File::open(layout.join("blobs/sha256").join(d.digest().digest()))?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset))?;
        Ok::<_, std::io::Error>(file)
    })
}

#[test]
fn archives_come_back_as_they_went() {
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        for (temp, store) in stores() {
            let image = image(&store);
            store.tag(&image, "localhost/other:v2").unwrap();
            let archive = temp.path().join("a.tar");
            save(&store, &[NAME, "localhost/other:v2"], format, &archive);
            let again = temp.path().join("b.tar");
            save(&store, &[NAME, "localhost/other:v2"], format, &again);
            assert!(fs::read(&archive).unwrap() == fs::read(&again).unwrap(), "the same images, other bytes");
            for (_temp, second) in stores() {
                let loaded = load(&second, &archive);
                assert_eq!(loaded.len(), 1);
                assert_eq!(loaded[0].image, image);
                assert_eq!(loaded[0].names, [NAME, "localhost/other:v2"]);
                assert_eq!(second.image(NAME).unwrap(), image);
            }
            if has("gzip") {
                run("gzip", &["-k", &archive.display().to_string()]);
                let (_temp, second) = stores().remove(0);
                assert_eq!(load(&second, &temp.path().join("a.tar.gz"))[0].image, image);
            }
        }
    }
}

#[test]
fn skopeo_reads_both_archives_and_we_read_its() {
    if !has("skopeo") {
        return;
    }
    let (temp, store) = stores().remove(0);
    let image = image(&store);
    let path = |name: &str| temp.path().join(name);
    for (format, transport) in
        [(ArchiveFormat::Docker, "docker-archive"), (ArchiveFormat::Oci, "oci-archive")]
    {
        let ours = path(transport);
        save(&store, &[NAME], format, &ours);
        let theirs = path(&format!("{transport}-theirs"));
        run(
            "skopeo",
            &[
                "copy",
                &format!("{transport}:{}", ours.display()),
                &format!("{transport}:{}:{NAME}", theirs.display()),
            ],
        );
        let (_temp, second) = stores().remove(0);
        let loaded = load(&second, &theirs);
        assert_eq!(loaded[0].names, [NAME], "{transport}");
        assert_eq!(loaded[0].image.id(), image.id(), "{transport}");
        assert_eq!(loaded[0].image.diff_ids(), image.diff_ids());
    }
}

#[test]
fn podman_loads_and_saves_the_same_image() {
    if !has("podman") {
        return;
    }
    if !rustix_is_root() {
        return skip("podman's storage needs root here");
    }
    let (temp, store) = stores().remove(0);
    let image = image(&store);
    let root = temp.path().join("podman");
    let (lib, tmp) = (root.join("lib").display().to_string(), root.join("run").display().to_string());
    let podman = |args: &[&str]| {
        let mut all =
            vec!["--root", &lib, "--runroot", &tmp, "--storage-driver", "vfs", "--events-backend", "file"];
        all.extend(args);
        run("podman", &all)
    };
    let ours = temp.path().join("ours.tar").display().to_string();
    save(&store, &[NAME], ArchiveFormat::Docker, Path::new(&ours));
    podman(&["load", "-i", &ours]);
    let id = podman(&["image", "inspect", "-f", "{{.Id}}", NAME]);
    assert_eq!(id.trim(), image.id().digest());
    for format in ["docker-archive", "oci-archive"] {
        let theirs = temp.path().join(format).display().to_string();
        podman(&["save", "--format", format, "-o", &theirs, NAME]);
        let (_temp, second) = stores().remove(0);
        let loaded = load(&second, Path::new(&theirs));
        assert_eq!(loaded[0].image.id(), image.id(), "{format}");
        assert_eq!(loaded[0].names, [NAME]);
    }
}

fn rustix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// A dockerd of its own, ended when dropped.
struct Dockerd {
    child: Child,
    socket: String,
}

impl Dockerd {
    fn start(dir: &Path, storage: &str) -> Option<Self> {
        let path = |name: &str| dir.join(name).display().to_string();
        let socket = format!("unix://{}", path("docker.sock"));
        let log = File::create(dir.join("log")).unwrap();
        let child = Command::new("dockerd")
            .args([
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("exec"),
                "-p",
                &path("pid"),
                "-H",
                &socket,
            ])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", storage])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let dockerd = Self { child, socket };
        for _ in 0..300 {
            if dockerd.command(&["version"]).output().is_ok_and(|o| o.status.success()) {
                return Some(dockerd);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        skip(&format!("dockerd does not start: {}", fs::read_to_string(dir.join("log")).unwrap_or_default()));
        None
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.socket]).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let mut all = vec!["-H", &self.socket];
        all.extend(args);
        run("docker", &all)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn docker_loads_and_saves_the_same_image() {
    if !has("dockerd") || !has("docker") {
        return;
    }
    if !rustix_is_root() {
        return skip("dockerd needs root");
    }
    let (temp, store) = stores().remove(0);
    let image = image(&store);
    let dir = temp.path().join("docker");
    fs::create_dir(&dir).unwrap();
    let Some(docker) = Dockerd::start(&dir, "vfs") else { return };
    let ours = temp.path().join("ours.tar").display().to_string();
    save(&store, &[NAME], ArchiveFormat::Docker, Path::new(&ours));
    assert!(docker.run(&["load", "-i", &ours]).contains(NAME));
    let inspect: Value = serde_json::from_str(&docker.run(&["image", "inspect", NAME])).unwrap();
    assert_eq!(inspect[0]["Id"], image.id().as_ref());
    assert_eq!(inspect[0]["Config"]["Healthcheck"]["Interval"], 1_000_000_000);
    let theirs = temp.path().join("theirs.tar").display().to_string();
    docker.run(&["save", "-o", &theirs, NAME]);
    for (_temp, second) in stores() {
        let loaded = load(&second, Path::new(&theirs));
        assert_eq!(loaded[0].image.id(), image.id());
        assert_eq!(loaded[0].names, [NAME]);
        // And once more around.
        let third = temp.path().join("third.tar").display().to_string();
        save(&second, &[NAME], ArchiveFormat::Docker, Path::new(&third));
        docker.run(&["rmi", NAME]);
        docker.run(&["load", "-i", &third]);
        let again: Value = serde_json::from_str(&docker.run(&["image", "inspect", NAME])).unwrap();
        assert_eq!(again[0]["Id"], image.id().as_ref());
    }
}

/// Odd but honest layers, as far as docker takes them (not: one name twice), and what changes them.
fn odd_layers() -> [Vec<u8>; 2] {
    use layers::{Raw, archive, device, dir, file, hard, pax, raw, symlink};
    let gnu_long = |name: &str| Raw {
        content: format!("{name}\0").into_bytes(),
        gnu: true,
        ..raw("././@LongLink", b'L')
    };
    let base = archive(&[
        Raw { mode: 0o750, ids: (1, 2), ..dir("./") },
        dir("etc"),
        file("etc/passwd", "root"),
        file("./etc//./group", "root"),
        dir("usr"),
        dir("usr/bin"),
        Raw { mtime: 0, ..file("/usr/bin/tool", "tool") },
        symlink("bin", "usr/bin"),
        file("bin/through", "a link"),
        dir("d"),
        file("d/1", "1"),
        dir("d/sub"),
        hard("d/hard", "d/1"),
        file("seven", "7"),
        Raw { kind: 0, patch: |b| b[257..265].fill(0), ..file("v7", "v7") },
        dir("long"),
        gnu_long(&format!("long/{}", "n".repeat(200))),
        Raw { gnu: true, ..file("x", "long") },
        device("null", b'3', 1, 3),
        device("blk", b'4', 259, 70_000),
        raw("fifo", b'6'),
        pax(&[("path", "d/\u{fc}-\u{1F980}".as_bytes()), ("mtime", b"1500000000.25")]),
        file("x", "unicode"),
        pax(&[("linkpath", "t".repeat(300).as_bytes())]),
        symlink("far", ""),
        Raw { mode: 0o2770, ids: (3, 4), ..dir("srv") },
        Raw { mode: 0o1777, ..dir("tmp") },
        Raw { mode: 0o4711, ids: (5, 6), ..file("suid", "s") },
        pax(&[("uid", b"3000000"), ("gid", b"4000000000")]),
        file("big-ids", "x"),
    ]);
    let top = archive(&[
        Raw { mode: 0o755, ..dir("./") },
        dir("etc"),
        file("etc/.wh.group", ""),
        dir("d"),
        file("d/.wh..wh..opq", ""),
        file("d/new", "new"),
        file(".wh.seven", ""),
        file(".wh.nothing", ""),
        file("tmp", "a file now"),
        Raw { mode: 0o755, ..dir("suid") },
        pax(&[("SCHILY.xattr.user.a", b"b")]),
        file("suid/again", "x"),
        symlink("v7", "suid"),
    ]);
    [base, top]
}

#[test]
fn what_a_container_sees_is_what_docker_unpacks() {
    if !has("dockerd") || !has("docker") {
        return;
    }
    if !rustix_is_root() {
        return skip("dockerd needs root");
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("docker");
    fs::create_dir(&dir).unwrap();
    let Some(docker) = Dockerd::start(&dir, "vfs") else { return };
    let [base, top] = odd_layers();
    for (_temp, store) in stores() {
        let [base, top] = [&base, &top].map(|tar| layers::add(&store, tar).unwrap());
        let mut spec = longshore_image::ImageSpec::default();
        spec.layers = vec![base.clone(), top.clone()];
        spec.names = vec![NAME.to_owned()];
        store.create_image(&spec).unwrap();
        let archive = temp.path().join("odd.tar").display().to_string();
        save(&store, &[NAME], ArchiveFormat::Docker, Path::new(&archive));
        docker.run(&["load", "-i", &archive]);
        // Each of docker's layers is a whole tree, found by its chain ID.
        let tree = |chain: &Digest| {
            let place = dir.join("data/image/vfs/layerdb/sha256").join(chain.digest()).join("cache-id");
            timeless_root(layers::describe(
                &dir.join("data/vfs/dir").join(fs::read_to_string(place).unwrap()),
            ))
        };
        layers::assert_same(&timeless_root(layers::view(&store, &[&base])), &tree(&base.diff_id));
        let chain = digest(format!("{} {}", base.diff_id, top.diff_id).as_bytes());
        layers::assert_same(&timeless_root(layers::view(&store, &[&base, &top])), &tree(&chain));
        docker.run(&["rmi", NAME]);
    }
}

/// Docker's root directory has the time of what was last made in it, not that of its entry.
fn timeless_root(mut tree: layers::Tree) -> layers::Tree {
    let line = tree.get_mut("/").unwrap();
    *line = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    tree
}

/// Layers above a real root file system, of `files` small files and `megabytes` of larger ones: what is new, changed, linked,
/// owned, dated and gone.
fn real_layers(files: usize, megabytes: usize) -> Vec<Vec<u8>> {
    use layers::{Raw, archive, dir, file, hard, pax, symlink};
    let mut word = 88_172_645_463_325_252_u64;
    let mut noise = move |size: usize| -> Vec<u8> {
        let words = std::iter::repeat_with(|| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word.to_le_bytes()
        });
        words.flatten().take(size).collect()
    };
    let mut small = vec![dir("data")];
    for i in 0..files {
        if i % 100 == 0 {
            small.push(Raw { mode: 0o2775, ids: (33, 100), ..dir(format!("data/{}", i / 100)) });
        }
        let content = noise(100 + i * 7919 % 4900);
        let ids = (u32::try_from(i % 7).unwrap() * 1000, 42);
        let mtime = 1_600_000_000 + i as u64;
        small.push(Raw { ids, mtime, ..file(format!("data/{}/file-{i}", i / 100), content) });
    }
    let mut all = vec![archive(&small)];
    for layer in 0..4 {
        let at = format!("opt/{layer}");
        let mut entries = vec![dir("opt"), dir(&at)];
        for part in 0..4 {
            let nanos = format!("16000000{layer}{part}.12345678{part}");
            entries.push(pax(&[("mtime", nanos.as_bytes()), ("SCHILY.xattr.user.part", b"of it")]));
            entries.push(file(format!("{at}/big-{part}"), noise((megabytes << 20) / 16)));
        }
        entries.push(hard(format!("{at}/again"), format!("{at}/big-1")));
        entries.push(symlink(format!("{at}/link"), "../../data"));
        entries.extend([dir("data"), file(format!("data/.wh.{layer}"), "")]);
        entries.push(Raw { mode: 0o4755, ids: (layer, 0), ..file("opt/changed", noise(5000)) });
        all.push(archive(&entries));
    }
    all
}

/// Directories have another time where no entry came after what was made in them.
fn timeless_dirs(mut tree: layers::Tree) -> layers::Tree {
    for line in tree.values_mut().filter(|line| line.starts_with('4')) {
        *line = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    }
    tree
}

/// `LONGSHORE_REAL_FILES` and `LONGSHORE_REAL_MB` make the image larger, and stand it on `LONGSHORE_DEBIAN_TAR`.
#[test]
fn an_image_of_several_layers_goes_round() {
    if !has("dockerd") || !has("docker") || !has("umoci") {
        return;
    }
    if !rustix_is_root() {
        return skip("dockerd needs root");
    }
    let var = |name, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let files = var("LONGSHORE_REAL_FILES", 300);
    let mut tars = real_layers(files, var("LONGSHORE_REAL_MB", 8));
    if let Some(debian) = std::env::var_os("LONGSHORE_DEBIAN_TAR").filter(|_| files > 1000) {
        tars.insert(0, fs::read(debian).unwrap());
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    let mut seen = Vec::new();
    for directories in [false, true] {
        let store = layers::store(Path::new(&at(&format!("store-{directories}"))), directories);
        let mut spec = longshore_image::ImageSpec::default();
        spec.layers.extend(tars.iter().map(|tar| layers::add(&store, tar).unwrap()));
        spec.names.push(NAME.to_owned());
        let config =
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        spec.config.oci = serde_json::from_value(config).unwrap();
        let image = store.create_image(&spec).unwrap();
        seen.push((layers::view(&store, &spec.layers.iter().collect::<Vec<_>>()), image, store));
    }
    let [(erofs, image, store), (directories, other, _)] = &seen[..] else { unreachable!("two drivers") };
    layers::assert_same(erofs, directories);
    assert_eq!(image.id(), other.id());
    let long = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    };
    long("umoci", &["raw", "unpack", "--image", &format!("{}:{NAME}", store.path().display()), &at("umoci")]);
    let expected = timeless_dirs(layers::describe(Path::new(&at("umoci"))));
    layers::assert_same(&timeless_dirs(erofs.clone()), &expected);

    fs::create_dir(at("docker")).unwrap();
    let Some(docker) = Dockerd::start(Path::new(&at("docker")), "overlay2") else { return };
    save(store, &[NAME], ArchiveFormat::Docker, Path::new(&at("ours.tar")));
    long("docker", &["-H", &docker.socket, "load", "-i", &at("ours.tar")]);
    fs::remove_file(at("ours.tar")).unwrap();
    long("docker", &["-H", &docker.socket, "save", "-o", &at("theirs.tar"), NAME]);
    let back = layers::store(Path::new(&at("back")), false);
    let loaded = load(&back, Path::new(&at("theirs.tar")));
    assert_eq!((loaded[0].image.id(), loaded[0].image.diff_ids()), (image.id(), image.diff_ids()));
    assert_eq!(loaded[0].names, [NAME]);
}
