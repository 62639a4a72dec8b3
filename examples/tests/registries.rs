//! The command line beside a real registry: logins, what a pull costs, what a push says, tags, and what ends it.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::registry::{Beside, HTPASSWD, beside_a_registry, import, registry, requests, with_input};
use common::{Longshore, example, have, succeed, text, wait_for};

#[test]
fn logins_are_tried_kept_and_forgotten() {
    if !have(&["docker-registry", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let htpasswd = dir.path().join("htpasswd");
    std::fs::write(&htpasswd, HTPASSWD).expect("passwords");
    let auth = serde_json::json!({"auth": {"htpasswd": {"realm": "x", "path": htpasswd}}});
    let (address, _server) = registry(dir.path(), &auth);
    let longshore = Longshore::new(dir.path().join("root"));
    let run = |args: &[&str], input: &str| with_input(&longshore, dir.path(), args, input);
    let config = dir.path().join("docker/config.json");
    let image = format!("{address}/app:1");
    import(&longshore, dir.path(), &image, 1000);
    let login = ["login", "-u", "user", "--password-stdin", &address];

    let refused = run(&["push", &image], "");
    assert!(!refused.status.success() && text(&refused.stderr).contains("access denied"), "{refused:?}");

    let wrong = run(&login, "wrong\n");
    let said = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("401") && !said.contains("wrong"), "{said}");
    assert!(!config.exists(), "a login that the registry does not take is not kept");

    let right = run(&login, "s3cret\n");
    assert_eq!(text(&right.stdout), "Login Succeeded\n", "{}", text(&right.stderr));
    let warning = format!("WARNING! Your password will be stored unencrypted in {}.\n", config.display());
    assert!(text(&right.stderr).starts_with(&warning), "{}", text(&right.stderr));
    let kept = std::fs::read_to_string(&config).expect("it is kept");
    assert!(kept.contains(&address), "{kept}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&config).expect("it").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let pushed = run(&["push", &image], "");
    assert!(text(&pushed.stdout).contains("1: digest: sha256:"), "{pushed:?}");

    let known = run(&["login", &address], "");
    let words = "Authenticating with existing credentials...\nLogin Succeeded\n";
    assert_eq!((text(&known.stdout), text(&known.stderr)), (words.to_owned(), String::new()));
    let good = std::fs::read_to_string(&config).expect("it is kept");
    let bad = serde_json::json!({"auths": {&address: {"auth": "dXNlcjp3cm9uZw=="}}});
    std::fs::write(&config, bad.to_string()).expect("the file is written");
    let stale = run(&["login", &address], "");
    let said = text(&stale.stderr);
    assert!(said.contains("Login did not succeed") && said.contains("non TTY device"), "{stale:?}");
    std::fs::write(&config, good).expect("the file is written");

    for (args, words) in [
        (&["login", "--password-stdin", &address][..], "Must provide --username with --password-stdin"),
        (&["login", "-u", "user", &address][..], "non TTY device"),
        (
            &["login", "-u", "user", "--password-stdin", "127.0.0.1:1"][..],
            "login attempt to 127.0.0.1:1 failed",
        ),
    ] {
        let said = run(args, "s3cret");
        assert!(said.status.code() == Some(1) && text(&said.stderr).contains(words), "{said:?}");
    }
    let left = run(&["logout", &format!("http://{address}/v2/")], "");
    assert!(text(&left.stdout).starts_with("Removing login credentials for"), "{left:?}");
    let kept = std::fs::read_to_string(&config).expect("the file stays");
    assert!(!kept.contains(&address), "{kept}");
    // Docker says so each time.
    let again = run(&["logout", &address], "");
    let words = format!("Removing login credentials for {address}\n");
    assert_eq!((text(&again.stdout), text(&again.stderr)), (words, String::new()));
    assert!(!run(&["pull", &image], "").status.success());
}

#[test]
fn a_login_that_is_asked_for_ends_without_a_name_and_by_an_interrupt() {
    if !have(&["script"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    let line = format!("exec {:?} login 127.0.0.1:1", longshore.command(&[]).get_program());
    for (key, code, words) in [(b"\n", 1, "Error: Non-null Username Required"), (b"\x03", 130, "")] {
        let mut command = Command::new("timeout");
        command.args(["60", "script", "-qefc", &line, "/dev/null"]).env("DOCKER_CONFIG", dir.path());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1) starts");
        let (mut keys, mut screen) =
            (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"Username: ") && screen.read(&mut byte).expect("the terminal") == 1 {
            seen.extend(byte);
        }
        keys.write_all(key).expect("a key");
        screen.read_to_end(&mut seen).expect("the terminal");
        let (status, seen) = (child.wait().expect("it ends"), text(&seen));
        assert!(status.code() == Some(code) && seen.contains(words), "{status}: {seen}");
    }
}

#[test]
fn a_registry_with_a_certificate_of_its_own_is_known_by_its_directory() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("htpasswd"), HTPASSWD).expect("passwords");
    let make = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1 \
                -addext basicConstraints=critical,CA:FALSE";
    let mut openssl = Command::new("openssl");
    openssl.args(make.split(' ')).args(["-keyout", &at("key.pem"), "-out", &at("cert.pem")]);
    succeed(&mut openssl, 60);
    let more = serde_json::json!({
        "auth": {"htpasswd": {"realm": "x", "path": at("htpasswd")}},
        "http": {"tls": {"certificate": at("cert.pem"), "key": at("key.pem")}},
    });
    let (address, _server) = registry(dir.path(), &more);
    let longshore = Longshore::new(dir.path().join("root"));
    // For a host with a directory of its own, nothing is taken on trust, also not on loopback.
    let own = dir.path().join("config/docker/certs.d").join(&address);
    std::fs::create_dir_all(&own).expect("certs.d");
    let login = ["login", "-u", "user", "--password-stdin", &address];
    let other = at("other.pem");
    let mut openssl = Command::new("openssl");
    openssl.args(make.split(' ')).args(["-keyout", &at("other.key"), "-out", &other]);
    succeed(&mut openssl, 60);
    for (certificate, taken) in [(other, false), (at("cert.pem"), true)] {
        std::fs::copy(certificate, own.join("ca.crt")).expect("ca.crt");
        let said = with_input(&longshore, dir.path(), &login, "s3cret");
        assert_eq!(said.status.success(), taken, "{said:?}");
        assert_eq!(text(&said.stderr).contains(&format!("certs.d/{address}/ca.crt")), !taken, "{said:?}");
    }
}

#[test]
fn a_registry_without_a_certificate_has_to_be_named() {
    let Some(Beside { dir, address, _server, longshore }) = beside_a_registry(&["tar"]) else { return };
    // This machine too, though not by a loopback address, for which there would be no need.
    let elsewhere = address.replace("127.0.0.1", "0.0.0.0");
    let image = format!("{elsewhere}/app:1");
    import(&longshore, dir.path(), &image, 1000);
    let refused = longshore.command(&["push", &image]).output().expect("it runs");
    assert!(!refused.status.success() && text(&refused.stderr).contains("plain HTTP"), "{refused:?}");
    let pushed = longshore.ok(&[
        "--insecure-registry",
        "other.test",
        "--insecure-registry",
        &elsewhere,
        "push",
        &image,
    ]);
    assert!(pushed.contains("1: digest: sha256:"), "{pushed}");
    longshore.ok(&["pull", "--insecure-registry", &elsewhere, &image]);
}

#[test]
fn what_a_registry_has_and_has_not_is_said_in_dockers_words() {
    let Some(Beside { dir, address, _server, longshore }) = beside_a_registry(&["tar"]) else { return };
    let image = format!("{address}/app:1");
    import(&longshore, dir.path(), &image, 1000);
    longshore.ok(&["tag", &image, &format!("{address}/app:2")]);
    let pushed = longshore.ok(&["push", "-a", &format!("{address}/app")]);
    assert_eq!(pushed.matches("The push refers to repository").count(), 1, "{pushed}");
    assert!(pushed.contains("1: digest:") && pushed.contains("2: digest:"), "{pushed}");

    let url = longshore.fails(1, &["pull", &format!("http://{image}")]);
    assert!(url.contains("leave out \"http://\""), "{url}");
    let digest = format!("{address}/app@sha256:{}", "0".repeat(64));
    assert!(longshore.fails(1, &["push", &digest]).contains("cannot push a digest reference"));
    let all = longshore.fails(1, &["pull", "-a", &format!("{address}/none")]);
    assert!(all.contains(&format!("repository {address}/none not found")), "{all}");
    let missing = longshore.command(&["pull", &format!("{address}/app:none")]).output().expect("it runs");
    let said = text(&missing.stderr);
    let wanted = format!(
        "manifest for {address}/app:none not found: HEAD http://{address}/v2/app/manifests/none: 404"
    );
    let either = said.contains(&wanted) || said.contains(&wanted.replace("HEAD", "GET"));
    assert!(either && said.matches("no such").count() == 0, "{said}");
    let tool = example("registry");
    for (what, wanted) in [
        (
            vec!["delete".to_owned(), format!("{address}/app:none")],
            format!("no such manifest {address}/app:none"),
        ),
        (
            vec!["blob".to_owned(), format!("{address}/app@sha256:{}", "0".repeat(64))],
            format!("no such blob {address}/app@sha256:{}", "0".repeat(64)),
        ),
    ] {
        let output = Command::new(&tool).args(&what).output().expect("it runs");
        assert!(!output.status.success() && text(&output.stderr).contains(&wanted), "{output:?}");
    }
}

#[test]
fn nothing_is_deleted_by_default_and_a_subject_may_be_missing() {
    let Some(Beside { dir, address, _server, longshore }) = beside_a_registry(&["tar"]) else { return };
    let app = format!("{address}/app");
    import(&longshore, dir.path(), &app, 1000);
    longshore.ok(&["push", &app]);
    let tool = |args: &[&str]| {
        let output = Command::new(example("registry")).args(args).output().expect("it runs");
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (done, _, said) = tool(&["delete", &app]);
    assert!(!done && said.contains("a tag or digest is needed"), "{said}");
    let (_, shown, said) = tool(&["manifest", "--descriptor", &app]);
    let digest = shown.split_whitespace().last().unwrap_or_else(|| panic!("it is gone: {said}"));
    let whole = format!("{app}@{digest}");
    assert_eq!(tool(&["delete", &whole]), (true, format!("Deleted: {whole}\n"), String::new()));
    assert!(!tool(&["manifest", &whole]).0, "it is still there");
    // Without that subject there may be referrers of it.
    assert_eq!(tool(&["referrers", &whole]), (true, String::new(), String::new()));
}

#[test]
fn an_artifact_is_not_pulled() {
    let Some(Beside { dir: _dir, address, _server, longshore }) = beside_a_registry(&["curl"]) else {
        return;
    };
    let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let kind = "application/vnd.oci.empty.v1+json";
    let repository = format!("http://{address}/v2/thing");
    let curl = |args: &[&str]| succeed(Command::new("curl").args(["-sf"]).args(args), 30);
    let started = curl(&[
        "-X",
        "POST",
        "-o",
        "/dev/null",
        "-w",
        "%header{location}",
        &format!("{repository}/blobs/uploads/"),
    ]);
    let octets = "Content-Type: application/octet-stream";
    curl(&["-X", "PUT", "-H", octets, "-d", "{}", &format!("{started}&digest={empty}")]);
    let blob = serde_json::json!({"mediaType": kind, "digest": empty, "size": 2});
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest_type, "config": blob, "layers": [blob],
    });
    let header = format!("Content-Type: {manifest_type}");
    curl(&["-X", "PUT", "-H", &header, "-d", &manifest.to_string(), &format!("{repository}/manifests/1")]);
    let said = longshore.fails(1, &["pull", &format!("{address}/thing:1")]);
    assert!(said.contains(&format!("unsupported media type {kind}")), "{said}");
    assert_eq!(longshore.ok(&["images", "-aq"]), "");
}

/// The same image in docker's format: the same config, by another manifest.
fn convert(home: &Path, from: &str, to: &str) {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "-q", "--insecure-policy", "--format", "v2s2"]).env("HOME", home);
    skopeo.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
    succeed(skopeo.args([format!("docker://{from}"), format!("docker://{to}")]), 60);
}

#[test]
fn each_repository_is_known_by_its_own_digest() {
    let Some(Beside { dir, address, _server, longshore }) = beside_a_registry(&["tar", "skopeo"]) else {
        return;
    };
    let (image, converted) = (format!("{address}/app:1"), format!("{address}/other:1"));
    import(&longshore, dir.path(), &image, 1000);
    longshore.ok(&["push", &image]);
    convert(dir.path(), &image, &converted);
    longshore.ok(&["pull", &converted]);
    let id = |name: &str| longshore.ok(&["inspect", "-f", "{{.Id}}", name]);
    assert_eq!(id(&image), id(&converted));
    let mut wanted: Vec<String> = [("app", &image), ("other", &converted)]
        .map(|(repository, name)| {
            let said =
                succeed(Command::new(example("registry")).args(["manifest", "--descriptor", name]), 30);
            format!("{address}/{repository}@{}", said.split_whitespace().nth(2).expect("a digest"))
        })
        .into();
    wanted.sort();
    for name in [&image, &converted] {
        let shown = longshore.ok(&["inspect", "-f", "{{json .RepoDigests}}", name]);
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).expect("JSON"), wanted, "{name}");
    }
    // They can be pulled.
    wanted.iter().for_each(|name| drop(longshore.ok(&["pull", "-q", name])));
}

#[test]
fn manifests_are_shown_as_docker_shows_them() {
    let Some(Beside { dir, address, _server, longshore }) =
        beside_a_registry(&["tar", "skopeo", "curl", "docker"])
    else {
        return;
    };
    let (image, converted, list) =
        (format!("{address}/app:1"), format!("{address}/app:docker"), format!("{address}/app:list"));
    import(&longshore, dir.path(), &image, 1000);
    longshore.ok(&["push", &image]);
    let shown = longshore.ok(&["manifest", "inspect", &image]);
    assert!(shown.starts_with("{\n\t\"") && shown.ends_with("\n}\n"), "{shown}");

    // Docker 20.10 knows only its own formats.
    convert(dir.path(), &image, &converted);
    let descriptor =
        succeed(Command::new(example("registry")).args(["manifest", "--descriptor", &converted]), 30);
    let [media_type, size, digest] = descriptor.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{descriptor}")
    };
    let kind = "application/vnd.docker.distribution.manifest.list.v2+json";
    let platforms = [
        r#"{"architecture":"amd64","os":"linux"}"#,
        r#"{"architecture":"arm64","os":"linux","variant":"v8"}"#,
    ];
    let entries = platforms.map(|p| {
        format!(r#"{{"mediaType":"{media_type}","size":{size},"digest":"{digest}","platform":{p}}}"#)
    });
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{}]}}"#, entries.join(","));
    let mut put = Command::new("curl");
    put.args(["-sf", "-X", "PUT", "-H", &format!("Content-Type: {kind}"), "-d", &index]);
    succeed(put.arg(format!("http://{address}/v2/app/manifests/list")), 30);
    for name in [&converted, &list] {
        let mut docker = Command::new("/usr/bin/docker");
        docker.args(["manifest", "inspect", "--insecure", name]).env("DOCKER_CONFIG", dir.path());
        assert_eq!(longshore.ok(&["manifest", "inspect", name]), succeed(&mut docker, 60), "{name}");
    }
}

#[test]
fn a_pull_costs_no_more_than_its_parts_and_tags_follow() {
    let Some(Beside { dir, address, _server, longshore }) = beside_a_registry(&["tar"]) else { return };
    let (base, app) = (format!("{address}/base/image:1"), format!("{address}/app:1"));
    import(&longshore, dir.path(), &base, 200_000);
    let first = longshore.ok(&["push", &base]);
    assert!(first.contains(": Pushed\n"), "{first}");
    assert!(longshore.ok(&["push", &base]).contains(": Layer already exists\n"));

    // Another image on the same layer: the registry has it, elsewhere.
    std::fs::write(dir.path().join("Dockerfile"), format!("FROM {base}\nLABEL a=b\n")).expect("a Dockerfile");
    longshore.ok(&["build", "-t", &app, &dir.path().display().to_string()]);
    let second = longshore.ok(&["push", &app]);
    assert!(second.contains(": Mounted from base/image\n"), "{second}");

    let other = Longshore::new(dir.path().join("other"));
    let spent = |what: &dyn Fn() -> String| {
        let before = requests(dir.path(), &address);
        (what(), requests(dir.path(), &address) - before)
    };
    let (said, cost) = spent(&|| other.ok(&["pull", &app]));
    assert!(
        said.contains("Status: Downloaded newer image for") && said.contains(": Pull complete\n"),
        "{said}"
    );
    assert_eq!(cost, 3, "manifest, config and one layer: {said}");
    let (said, cost) = spent(&|| other.ok(&["pull", &app]));
    assert!(said.contains("Status: Image is up to date for") && cost == 1, "{cost}: {said}");

    // Everything of it is here, under another name.
    other.ok(&["tag", &app, &format!("{address}/kept:1")]);
    other.ok(&["rmi", &app]);
    let said = other.ok(&["pull", &app]);
    assert!(said.contains("Status: Downloaded newer image for"), "{said}");

    // The image comes on the way to a container, whose ID is all that standard output gets.
    let third = Longshore::new(dir.path().join("third"));
    let made = third.command(&["create", &app, "program"]).output().expect("it runs");
    let (id, said) = (text(&made.stdout), text(&made.stderr));
    assert!(id.len() == 65 && id.trim_end().bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert!(said.starts_with("Unable to find image") && said.contains("Status: Downloaded newer"), "{said}");
    third.ok(&["rm", id.trim_end()]);

    let tool = |args: &[&str]| succeed(Command::new(example("registry")).args(args), 60);
    let digest = tool(&["tag", &app, "2", "3"]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    let mut tags: Vec<String> =
        tool(&["tags", &format!("{address}/app")]).lines().map(str::to_owned).collect();
    tags.sort();
    assert_eq!(tags, ["1", "2", "3"]);
    assert!(tool(&["manifest", "--descriptor", &format!("{address}/app:3")]).contains(digest.trim()));

    // Of a registry that is wrong about its manifest's digest the bytes count, at each pull.
    let hex = digest.trim().trim_start_matches("sha256:");
    let data = format!("registry/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let mut manifest =
        std::fs::OpenOptions::new().append(true).open(dir.path().join(data)).expect("its file");
    manifest.write_all(b" ").expect("another manifest");
    for status in ["Downloaded newer image", "Image is up to date"] {
        let said = other.ok(&["pull", &app]);
        assert!(said.contains(status), "{said}");
    }
}

#[test]
fn an_interrupt_ends_a_push_in_the_middle_of_a_layer() {
    if !have(&["tar"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    // Takes what comes, slowly: the layer would go on for a minute and more.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || slow_registry(stream, &count));
        }
    });
    let image = format!("{address}/app:1");
    import(&longshore, dir.path(), &image, 20_000_000);
    let mut push = longshore.command(&["push", &image]);
    let mut child =
        push.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    assert!(wait_for(Duration::from_secs(60), || taken.load(Ordering::Relaxed) > 200_000), "nothing is sent");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    let ended = wait_for(Duration::from_secs(20), || matches!(child.try_wait(), Ok(Some(_))));
    let _ = child.kill();
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("its words");
    assert!(ended && said.contains("cancelled"), "{said}");
    assert!(taken.load(Ordering::Relaxed) < 15_000_000, "most of it was sent all the same");
}

/// 20 kB each 20 ms.
fn slow_registry(mut stream: TcpStream, count: &AtomicUsize) {
    let mut reader = BufReader::with_capacity(20_000, stream.try_clone().expect("a clone"));
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            head += &line;
        }
        if head.to_ascii_lowercase().contains("100-continue") {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        while length > 0 {
            let mut some = vec![0; length.min(20_000)];
            if reader.read_exact(&mut some).is_err() {
                return;
            }
            length -= some.len();
            count.fetch_add(some.len(), Ordering::Relaxed);
            if some.len() == 20_000 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let reply: &[u8] = match head.split(' ').next() {
            Some("POST") => b"HTTP/1.1 202 X\r\nlocation: /upload\r\ncontent-length: 0\r\n\r\n",
            Some("PUT") => b"HTTP/1.1 201 X\r\ncontent-length: 0\r\n\r\n",
            _ => b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n",
        };
        if stream.write_all(reply).is_err() {
            return;
        }
    }
}

/// Answers each request by its path, as often as it is asked.
fn scripted(answer: impl Fn(&str) -> Option<(&'static str, String)> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, answer) = (listener.local_addr().expect("its address").to_string(), Arc::new(answer));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
                while let Some(Ok(first)) = lines.next() {
                    while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
                    let mut words = first.split(' ');
                    let (method, path) = (words.next(), words.next().unwrap_or_default());
                    let (status, (kind, body)) = match answer(path) {
                        Some(found) => (200, found),
                        None => (404, ("text/plain", String::new())),
                    };
                    let length = body.len();
                    let body = if method == Some("HEAD") { "" } else { &body };
                    let reply = format!(
                        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
                    );
                    if stream.write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// What a program printed, nothing of which a terminal obeys.
fn harmless(output: &Output) -> String {
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(!all.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{all:?}");
    all
}

#[test]
fn terminals_are_not_spoken_to_by_registries_and_images() {
    if !have(&["tar"]) {
        return;
    }
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    let evil = "\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}";
    let digest = format!("sha256:{}", "a".repeat(64));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"a/b","digest":"{digest}","size":1}},"layers":[],"x":"#
    );
    let entry = serde_json::json!({"mediaType": MANIFEST, "digest": digest, "size": 1, "artifactType": evil});
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    let address = scripted(move |path| match path.rsplit('/').next()? {
        _ if path.contains("/referrers/") => Some((INDEX, index.clone())),
        "raw" => Some((MANIFEST, format!("{manifest}\"\u{9b}31m\u{7f}\\u001b\"}}"))),
        "deep" => Some((MANIFEST, format!("{manifest}{}{}}}", "[".repeat(10_000), "]".repeat(10_000)))),
        "" => Some(("application/json", "{}".to_owned())),
        _ => None,
    });
    let inspect = |tag: &str| {
        longshore.command(&["manifest", "inspect", &format!("{address}/r:{tag}")]).output().expect("it runs")
    };
    let shown = harmless(&inspect("raw"));
    assert!(shown.ends_with("\"x\": \"\\u009b31m\\u007f\\u001b\"\n}\n"), "{shown}");
    let deep = inspect("deep");
    let said = harmless(&deep);
    assert!(!deep.status.success() && said.contains("more than 128 levels"), "{}", said.len());

    let mut referrers = Command::new(example("registry"));
    referrers.args(["referrers", &format!("{address}/r:raw")]);
    let said = harmless(&referrers.output().expect("it runs"));
    assert!(said.ends_with("  \\u001b]0;owned\\u0007\\u009b31m\\u007f\n"), "{said}");

    let tar = dir.path().join("empty.tar");
    succeed(Command::new("tar").arg("-cf").arg(&tar).args(["-T", "/dev/null"]), 30);
    let label = format!("LABEL a=\"{evil}\"");
    longshore.ok(&["import", "-m", evil, "-c", &label, &tar.display().to_string(), "evil:1"]);
    for args in [&["history", "evil:1"][..], &["image", "inspect", "evil:1"]] {
        let said = harmless(&longshore.command(args).output().expect("it runs"));
        assert!(said.contains("\\u009b31m\\u007f"), "{args:?}: {said}");
    }
    let exact = longshore.ok(&["history", "--format", "{{.Comment}}", "evil:1"]);
    assert_eq!(exact, format!("{evil}\n"), "a program gets what is there");
}

#[test]
fn a_login_by_a_pipe_ends_by_an_interrupt() {
    if !have(&["timeout"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    let mut command = longshore.command(&["login", "-u", "user", "--password-stdin", "127.0.0.1:1"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("longshore starts");
    // It handles the signal once its handler is there, which /proc tells.
    let handles = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
        u64::from_str_radix(caught.unwrap_or("0").trim(), 16).is_ok_and(|set| set & 2 != 0)
    };
    assert!(wait_for(Duration::from_secs(60), handles));
    succeed(Command::new("kill").args(["-INT", &child.id().to_string()]), 10);
    let mut ended = None;
    assert!(wait_for(Duration::from_secs(60), || {
        ended = child.try_wait().expect("its status");
        ended.is_some()
    }));
    assert_eq!(ended.and_then(|s| s.code()), Some(130));
}

#[test]
fn a_list_may_be_cut_short() {
    let tags: Vec<String> = (0..20_000).map(|i| format!("t{i}")).collect();
    let body = serde_json::json!({"name": "r", "tags": tags}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    let line =
        format!("{} tags {address}/r | head -1; echo ${{PIPESTATUS[0]}}", example("registry").display());
    let output = Command::new("bash").args(["-c", &line]).output().expect("bash");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("t0\n141\n".into(), String::new()));
}

#[test]
fn a_copy_says_which_side_refuses() {
    let answer = |status: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).unwrap_or_default();
                let body = r#"{"schemaVersion":2,"manifests":[]}"#;
                let reply = if head[..length].starts_with(b"GET") && status == "200" { "200" } else { "403" };
                let _ = write!(
                    stream,
                    "HTTP/1.1 {reply} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        address
    };
    let (open, closed) = (answer("200"), answer("403"));
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    for (from, to) in [(open, closed), (closed, open)] {
        let (source, target) = (format!("{from}/a:1"), format!("{to}/b:1"));
        let output =
            longshore.command(&["image", "copy", &source, &target]).output().expect("longshore runs");
        let said = text(&output.stderr);
        assert!(said.contains(&format!("access denied for {closed}/")), "{said}");
    }
}
