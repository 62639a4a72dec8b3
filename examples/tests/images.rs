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
        std::fs::write(dir.path().join("file"), name.repeat(1234)).expect("write");
        // Docker counts each file once, and no directory.
        let script = "mkdir -p d; ln -f file d/again; ln -sf file d/link; tar -cf layer.tar file d";
        succeed(Command::new("sh").args(["-ec", script]).current_dir(dir.path()), 30);
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
    // The tag means nothing beside the digest.
    both(&["pull", "-q", &format!("{}:1@{}", repository("two"), digests[1])]);
    both(&["tag", &format!("{}:1", repository("one")), &format!("{}:latest", repository("one"))]);
    // No registry knows the first of these; the second it does after a push.
    both(&["tag", &format!("{}:1", repository("one")), "local:1"]);
    both(&["tag", &format!("{}:1", repository("one")), &format!("{}:1", repository("three"))]);
    both(&["push", "-q", &format!("{}:1", repository("three"))]);
    // Docker makes a manifest of its own for a push.
    let own = |text: &str| {
        let mut text = text.to_owned();
        for before in ["/three 1 sha256:", "/three@sha256:"] {
            if let Some(at) = text.find(before).map(|at| at + before.len()) {
                text.replace_range(at..at + 64, "");
            }
        }
        text
    };
    let sorted = |text: String| {
        let words = |line: &str| own(&line.split_whitespace().collect::<Vec<_>>().join(" "));
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
    let fields = "{{.Id}} {{json .RepoTags}} {{json .RepoDigests}} {{json .RootFS}} {{.Created}} {{.Os}}/{{.Architecture}} {{json .Config.Cmd}} {{.Size}} {{.VirtualSize}}";
    let args = ["image", "inspect", "--format", fields, &format!("{one}:1")];
    assert_eq!(own(&longshore.ok(&args)), own(&theirs(&args)));
    let (three, two) =
        (format!("{}:1", repository("three")), format!("{}@{}", repository("two"), digests[1]));
    for args in [
        &["rmi", &format!("{one}:1")][..],
        &["rmi", &format!("{one}:latest")],
        &["rmi", &three],
        &["rmi", "local:1"],
        &["rmi", "-f", &two],
        &["rmi", "no-such"],
    ] {
        let (ours, theirs) = (longshore.run(args), common::output(&mut docker.command(args), 60));
        assert_eq!(ours.status.code(), theirs.status.code(), "{args:?}");
        let untagged = |out: &[u8]| -> Vec<String> {
            common::text(out).lines().filter(|l| l.starts_with("Untagged")).map(own).collect()
        };
        assert_eq!(untagged(&ours.stdout), untagged(&theirs.stdout), "{args:?}");
    }
}

/// Two images without a name, one of them with a label, and one that has a name.
fn unnamed(dir: &std::path::Path, run: &dyn Fn(&[&str]) -> String) {
    for (n, change) in ["LABEL keep=yes", "LABEL keep=no", "CMD [\"x\"]"].iter().enumerate() {
        std::fs::write(dir.join("which"), n.to_string()).expect("write");
        succeed(Command::new("tar").args(["-cf", "tar", "which"]).current_dir(dir), 30);
        let tar = dir.join("tar").display().to_string();
        run(&["import", "-c", change, &tar, "same:1"]);
    }
    run(&["import", "-c", "LABEL keep=yes", &dir.join("tar").display().to_string(), "named:1"]);
}

#[test]
fn images_are_pruned_as_docker_prunes_them() {
    if !have(&["dockerd", "tar"]) {
        return;
    }
    if !root() {
        return skip("dockerd needs root");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let docker = Dockerd::start(dir.path());
    let longshore = Longshore::new(dir.path().join("root"));
    let theirs = |args: &[&str]| succeed(&mut docker.command(args), 60);
    let ours = |args: &[&str]| longshore.ok(args);
    unnamed(dir.path(), &theirs);
    unnamed(dir.path(), &ours);
    let left = |run: &dyn Fn(&[&str]) -> String| {
        let filters = ["label=keep=yes", "label=keep=no", "dangling=true", "dangling=false"];
        filters.map(|filter| run(&["images", "-q", "--filter", filter]).lines().count())
    };
    // What one command removes is no other one's business.
    ours(&["import", &dir.path().join("tar").display().to_string(), "short:1"]);
    ours(&["rmi", "short:1"]);
    for filters in [
        &["--filter", "until=1h"][..],
        &["--filter", "label=keep=maybe"],
        &["--filter", "label=keep=no", "--filter", "until=2020-01-01"],
        &["--filter", "label!=keep=yes"],
        &["-a", "--filter", "label=keep", "--filter", "label!=keep=no"],
        &["-a", "--filter", "label!=keep", "--filter", "until=0s"],
    ] {
        let args = [&["image", "prune", "-f"], filters].concat();
        theirs(&args);
        ours(&args);
        assert_eq!(left(&ours), left(&theirs), "{filters:?}");
    }
    for filter in ["foo=bar", "foo"] {
        let args = ["image", "prune", "-f", "--filter", filter];
        assert_eq!(
            longshore.run(&args).status.code(),
            common::output(&mut docker.command(&args), 60).status.code()
        );
    }
}
