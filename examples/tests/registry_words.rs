//! What the command line says of registries: warnings, files that are wrong, platforms, logins; and what it does not say twice.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::registry::{Beside, beside_a_registry, import, registry, with_input};
use common::{Longshore, example, have, succeed, text};

/// Where an ordinary user's settings of this registry are.
fn settings(home: &Path, address: &str) -> std::path::PathBuf {
    let own = home.join("config/docker/certs.d").join(address);
    std::fs::create_dir_all(&own).expect("certs.d");
    own
}

#[test]
fn what_a_registry_warns_of_is_shown() {
    if !have(&["docker-registry", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let headers = serde_json::json!({"http": {"headers": {"Warning": ["299 - \"moves in May\""]}}});
    let (address, _server) = registry(dir.path(), &headers);
    let longshore = Longshore::new(dir.path().join("root"));
    let image = format!("{address}/app:1");
    import(&longshore, dir.path(), &image, 1000);
    longshore.ok(&["push", &image]);
    longshore.ok(&["rmi", &image]);
    let toml = format!("server = \"http://{address}\"\n[host.\"http://127.0.0.1:1\"]\n");
    std::fs::write(settings(dir.path(), &address).join("hosts.toml"), toml).expect("hosts.toml");
    let quiet = with_input(&longshore, dir.path(), &["pull", "-q", &image], "");
    assert_eq!(text(&quiet.stdout), format!("{image}\n"), "{quiet:?}");
    let said = text(&quiet.stderr);
    assert!(said.contains(&format!("WARNING: {address}: moves in May")), "{said}");
    assert!(said.contains("WARNING: 127.0.0.1:1: mirror left out: ") && said.contains("refused"), "{said}");
    assert_eq!(said.lines().count(), 2, "each is said once: {said}");
}

#[test]
fn what_is_wrong_with_a_setting_is_said_with_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    let address = "127.0.0.1:1";
    let own = settings(dir.path(), address);
    let image = format!("{address}/app:1");
    let fails = |args: &[&str]| {
        let said = with_input(&longshore, dir.path(), args, "");
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        text(&said.stderr)
    };
    let file = |name: &str, content: &str| {
        std::fs::write(own.join(name), content).expect("a file");
        let said = fails(&["pull", &image]);
        std::fs::remove_file(own.join(name)).expect("the file");
        assert!(said.contains(&format!("{}: ", own.join(name).display())), "{said}");
        said
    };
    assert!(file("ca.crt", "x").contains("cannot be used as certificates"));
    assert!(file("hosts.toml", "skip_verify = \"yes\"\n").contains("skip_verify is neither true nor false"));
    assert!(
        file("hosts.toml", "[host.\"http://m\"]\ncapabilities = [\"pul\"]\n").contains("\"pul\" is none")
    );
    for wrong in ["http://h", "10.0.0.0/40", "h:port"] {
        let said = fails(&["--insecure-registry", wrong, "pull", &image]);
        assert!(said.contains(&format!("invalid insecure registry {wrong:?}")), "{said}");
    }
}

#[test]
fn platforms_are_understood_as_docker_understands_them() {
    let Some(Beside { dir, address, _server, longshore }) = beside_a_registry(&["curl"]) else { return };
    let context = dir.path().join("context");
    std::fs::create_dir(&context).expect("a directory");
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\nCMD [\"x\"]\n")
        .expect("a file");
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let mut entries = Vec::new();
    // `build` reads platforms too.
    for (written, meant) in [("LINUX/x86_64", "amd64"), ("linux/aarch64", "arm64"), ("linux/armhf", "arm")] {
        let name = format!("{address}/app:{meant}");
        longshore.ok(&["build", "--platform", written, "-t", &name, &context.display().to_string()]);
        longshore.ok(&["push", &name]);
        let shown = succeed(Command::new(example("registry")).args(["manifest", "--descriptor", &name]), 30);
        let [_, size, digest] = shown.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{shown}") };
        let size: u64 = size.parse().expect("a size");
        entries.push(serde_json::json!({
            "mediaType": manifest_type, "size": size, "digest": digest,
            "platform": {"os": "linux", "architecture": meant},
        }));
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string();
    let mut put = Command::new("curl");
    put.args(["-sf", "-X", "PUT", "-H", &format!("Content-Type: {kind}"), "-d", &index]);
    succeed(put.arg(format!("http://{address}/v2/app/manifests/all")), 30);

    let all = format!("{address}/app:all");
    let other = Longshore::new(dir.path().join("other"));
    for (written, meant) in [
        ("arm64", "arm64"),
        ("linux/amd64", "amd64"),
        ("linux/aarch64", "arm64"),
        ("LINUX/AMD64", "amd64"),
        ("linux/arm64/v8", "arm64"),
        ("linux/x86_64", "amd64"),
        ("linux/arm/v7", "arm"),
    ] {
        other.ok(&["pull", "-q", "--platform", written, &all]);
        let got = other.ok(&["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", &all]);
        assert_eq!(got, format!("linux/{meant}\n"), "{written}");
        let mut tool = Command::new(example("registry"));
        let shown = succeed(tool.args(["manifest", "--platform", written, "--descriptor", &all]), 30);
        let digest =
            entries.iter().find(|e| e["platform"]["architecture"] == meant).expect("it")["digest"].clone();
        assert!(shown.contains(digest.as_str().expect("text")), "{written}: {shown}");
    }
    other.ok(&["rmi", &all]);
    let id = other.ok(&["create", "--platform", "AARCH64", &all]);
    assert_eq!(other.ok(&["image", "inspect", "--format", "{{.Architecture}}", &all]), "arm64\n");
    other.ok(&["rm", id.trim_end()]);
    let none = other.fails(1, &["pull", "--platform", "linux/s390x", &all]);
    assert!(none.contains("no image for platform linux/s390x"), "{none}");
    for args in [&["pull"][..], &["create"], &["run", "--rm"]] {
        let said = other.command(&[args, &["--platform", "own", &all]].concat()).output().expect("it runs");
        let said = (said.status.success(), text(&said.stderr));
        assert!(!said.0 && said.1.contains("\"own\": unknown operating system or architecture"), "{said:?}");
    }
}

/// Exit code, output and words, without the program's name before them.
fn words(output: &Output) -> (Option<i32>, String, String) {
    let said = text(&output.stderr).replace("longshore: ", "");
    (output.status.code(), text(&output.stdout), said)
}

#[test]
fn logins_and_logouts_say_what_docker_says() {
    if !have(&["docker"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    for args in [
        &["login", "-u", "u", "-p", "x", "--password-stdin", "h.example"][..],
        &["login", "--password-stdin", "h.example"],
        // Nothing comes on standard input.
        &["login", "-u", "u", "--password-stdin", "h.example"],
        &["login", "-u", "u", "h.example"],
        &["logout", "http://h.example/v2/"],
        &["logout", "h.example:5000"],
        &["logout", "index.docker.io"],
        &["logout", "https://index.docker.io/v1/"],
        &["logout"],
    ] {
        let mut docker = Command::new("/usr/bin/docker");
        docker.args(args).env("DOCKER_CONFIG", dir.path().join("docker")).stdin(Stdio::null());
        docker.env("DOCKER_HOST", format!("unix://{}", dir.path().join("none").display()));
        let theirs = words(&docker.output().expect("docker runs"));
        let ours = words(&with_input(&longshore, dir.path(), args, ""));
        assert_eq!(ours, theirs, "{args:?}");
    }
}

#[test]
fn a_quiet_push_says_one_name_and_a_digest_that_is_here_is_up_to_date() {
    let Some(Beside { dir, address, _server, longshore }) = beside_a_registry(&["tar"]) else { return };
    let image = format!("{address}/app:1");
    import(&longshore, dir.path(), &image, 1000);
    longshore.ok(&["tag", &image, &format!("{address}/app:2")]);
    assert_eq!(longshore.ok(&["push", "-q", &image]), format!("{image}\n"));
    assert_eq!(longshore.ok(&["push", "-aq", &format!("{address}/app")]), format!("{address}/app\n"));

    let other = Longshore::new(dir.path().join("other"));
    let pulled = other.ok(&["pull", &image]);
    let digest = pulled.lines().find_map(|l| l.strip_prefix("Digest: ")).expect("its digest");
    let by_digest = format!("{address}/app@{digest}");
    for _ in 0..2 {
        let said = other.ok(&["pull", &by_digest]);
        assert!(said.contains(&format!("Status: Image is up to date for {by_digest}")), "{said}");
    }
    let third = Longshore::new(dir.path().join("third"));
    let said = third.ok(&["pull", &by_digest]);
    assert!(said.contains(&format!("Status: Downloaded newer image for {by_digest}")), "{said}");
    // A blob that is missing is not for want of the manifest.
    let data = dir.path().join("registry/docker/registry/v2/repositories/app/_layers");
    std::fs::remove_dir_all(data).expect("its layers");
    let fresh = Longshore::new(dir.path().join("fresh"));
    let said = fresh.fails(1, &["pull", &image]);
    assert!(said.contains("no such blob") && !said.contains("manifest for"), "{said}");
}

/// Answers each request by its head: status, further header lines, body.
fn serve(answer: impl Fn(&str) -> (u16, String, &'static str) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
            let (status, headers, body) = answer(&head);
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    address
}

#[test]
fn a_login_that_its_token_server_never_saw_has_not_succeeded() {
    let dir = tempfile::tempdir().expect("a directory");
    let longshore = Longshore::new(dir.path().join("root"));
    // `user:s3cret`; everybody else gets a token too, if he says nothing.
    let tokens = serve(|head| match head.to_ascii_lowercase().find("authorization:") {
        None => (200, String::new(), r#"{"token":"nobody"}"#),
        Some(_) if head.contains("Basic dXNlcjpzM2NyZXQ=") => (200, String::new(), r#"{"token":"user"}"#),
        Some(_) => (401, String::new(), "{}"),
    });
    let realm = tokens.clone();
    let registry = serve(move |head| match head.contains("Bearer user") {
        true => (200, String::new(), "{}"),
        false => {
            (401, format!("www-authenticate: Bearer realm=\"http://{realm}/token\",service=\"x\"\r\n"), "")
        }
    });
    let login = |secret: &str, more: &[&str]| {
        let args = [more, &["login", "-u", "user", "--password-stdin", &registry]].concat();
        let said = with_input(&longshore, dir.path(), &args, secret);
        (said.status.success(), text(&said.stdout) + &text(&said.stderr))
    };
    let (done, said) = login("s3cret", &[]);
    assert!(!done && said.contains(&format!("withheld from the token server http://{tokens}")), "{said}");
    let trust = format!("{registry}={tokens}");
    assert!(said.contains(&format!("--trust-realm {trust}")), "{said}");
    let (done, said) = login("wrong", &["--trust-realm", &trust]);
    assert!(!done && said.contains("the user name or password is wrong"), "{said}");
    let (done, said) = login("s3cret", &["--trust-realm", &trust]);
    assert!(done && said.starts_with("Login Succeeded\n"), "{said}");
    // The login is kept; the option is not.
    let said = with_input(&longshore, dir.path(), &["pull", &format!("{registry}/app")], "");
    let said = text(&said.stderr);
    assert!(said.contains("access denied") && said.contains(&format!("--trust-realm {trust}")), "{said}");
    let (done, said) = login("s3cret", &["--trust-realm", "x"]);
    assert!(!done && said.contains("--trust-realm wants REGISTRY=HOST"), "{said}");
}
