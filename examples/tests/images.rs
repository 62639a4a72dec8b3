//! The image commands beside docker's, on the same images from the same registry.

mod common;

use std::process::Command;

use common::{Dockerd, Longshore, Registry, have, root, skip, skopeo_push, succeed};

#[test]
fn images_are_listed_as_docker_lists_them() {
    if !have(&["docker-registry", "dockerd", "skopeo", "tar"]) {
        return;
    }
    if !root() {
        return skip("dockerd needs root");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(dir.path());
    let docker = Dockerd::start(dir.path());
    let longshore = Longshore::new(dir.path().join("root"));
    let repository = |name: &str| format!("{}/{name}", registry.address);
    let mut digests = Vec::new();
    for name in ["one", "two"] {
        let layer = dir.path().join("layer.tar");
        std::fs::write(dir.path().join("file"), name).expect("write");
        succeed(Command::new("tar").arg("-C").arg(dir.path()).arg("-cf").arg(&layer).arg("file"), 30);
        let to = format!("{}:1", repository(name));
        skopeo_push(dir.path(), &layer, &to);
        let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{to}")];
        digests.push(succeed(Command::new("skopeo").args(inspect), 30).trim().to_owned());
    }
    let theirs = |args: &[&str]| succeed(&mut docker.command(args), 60);
    let both = |args: &[&str]| {
        theirs(args);
        longshore.ok(args);
    };
    both(&["pull", "-q", &format!("{}:1", repository("one"))]);
    both(&["pull", "-q", &format!("{}@{}", repository("one"), digests[0])]);
    both(&["pull", "-q", &format!("{}@{}", repository("two"), digests[1])]);
    both(&["tag", &format!("{}:1", repository("one")), &format!("{}:latest", repository("one"))]);
    // Sizes aside: docker counts what files hold, and the store what their tar takes.
    let size = |word: &&str| word.ends_with('B') && word.starts_with(|c: char| c.is_ascii_digit());
    let sorted = |text: String| {
        let words = |line: &str| line.split_whitespace().filter(|w| !size(w)).collect::<Vec<_>>().join(" ");
        let mut lines: Vec<String> = text.lines().map(words).collect();
        lines.sort();
        lines
    };
    let one = repository("one");
    let with_digests = "{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}}";
    for args in [
        &["images"][..],
        &["images", "--digests"],
        &["images", "-a", "--no-trunc"],
        &["images", "-q"],
        &["images", "-q", "--no-trunc"],
        &["images", "--format", with_digests, &one],
        &["images", "--format", "{{.Repository}} {{.Tag}} {{.CreatedAt}} {{.Size}}"],
        &["images", &one],
        &["images", &format!("{one}:1")],
        &["images", "--filter", "dangling=true"],
        &["images", "--filter", "dangling=false", "-q"],
        &["images", "--filter", &format!("reference={}", repository("t*"))],
        &["images", "--filter", "label=none"],
        &["history", &format!("{one}:1")],
        &["history", "--no-trunc", "-q", &format!("{one}:1")],
    ] {
        assert_eq!(sorted(longshore.ok(args)), sorted(theirs(args)), "{args:?}");
    }
    let fields = "{{.Id}} {{json .RepoTags}} {{json .RepoDigests}} {{json .RootFS}} {{.Created}} {{.Os}}/{{.Architecture}} {{json .Config.Cmd}}";
    let args = ["image", "inspect", "--format", fields, &format!("{one}:1")];
    assert_eq!(longshore.ok(&args), theirs(&args));
    for args in [&["rmi", &format!("{one}:1")][..], &["rmi", &format!("{one}:latest")], &["rmi", "no-such"]] {
        let (ours, theirs) = (longshore.run(args), common::output(&mut docker.command(args), 60));
        assert_eq!(ours.status.code(), theirs.status.code(), "{args:?}");
        let untagged = |out: &[u8]| -> Vec<String> {
            common::text(out).lines().filter(|l| l.starts_with("Untagged")).map(str::to_owned).collect()
        };
        assert_eq!(untagged(&ours.stdout), untagged(&theirs.stdout), "{args:?}");
    }
}
