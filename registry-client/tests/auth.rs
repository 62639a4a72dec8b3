//! Logins, TLS, client certificates and mirrors, with Debian's docker-registry as the other side.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::fault::{Seen, Server};
use common::{Memory, Registry, chain, have, push, quick};
use longshore_registry_client::{
    Client, Credential, Credentials, Ctx, DockerConfigFile, Host, HostConfig, Layout, Platforms,
    StaticCredentials, TlsOptions,
};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};

/// `s3cret`, for the name `user`.
const HTPASSWD: &str = "user:$2b$05$6ZFbdkfo.3UPfazCuI/yxO/6MSrq7XczlrO9su4SNZZwkGXRHx9Mm\n";

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").current_dir(dir).args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A CA, a server certificate for 127.0.0.1 and a client certificate.
fn certificates(dir: &Path) {
    let key = "req -x509 -newkey rsa:2048 -nodes -days 2";
    openssl(dir, &format!("{key} -subj /CN=ca -keyout ca.key -out ca.pem"));
    std::fs::write(dir.join("server.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    std::fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for name in ["server", "client"] {
        openssl(
            dir,
            &format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        );
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ),
        );
    }
}

fn tools() -> bool {
    have("docker-registry") && have("openssl")
}

#[test]
fn passwords_over_tls_with_client_certificates() {
    if !tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_owned();
    certificates(&at);
    std::fs::write(at.join("htpasswd"), HTPASSWD).unwrap();
    let d = at.display();
    let http =
        format!("  tls: {{certificate: {d}/server.pem, key: {d}/server.key, clientcas: [{d}/ca.pem]}}");
    let top = format!("auth:\n  htpasswd: {{realm: x, path: {d}/htpasswd}}");
    let registry = Registry::with(&http, &top, dir);

    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    let trusting = || TlsOptions::new().roots_pem(read("ca.pem"));
    let full = || trusting().client_pem(read("client.pem"), read("client.key"));
    let client = |tls: Option<TlsOptions>, secret: &str| {
        let mut host = Host::new(&format!("https://{}", registry.address)).unwrap();
        host.tls = tls;
        let credentials = StaticCredentials::new().with(&registry.address, Credential::basic("user", secret));
        quick().host(&registry.address, HostConfig::new(host)).credentials(credentials).build().unwrap()
    };
    let memory = Memory::default();
    let root = memory.image(30, &[2_000_000, 10]);
    let reference = registry.reference("secure:1");
    let good = client(Some(full()), "s3cret");
    good.ping(&registry.address).unwrap();
    push(&good, &reference, &root, &memory);
    assert_eq!(good.resolve(&reference).unwrap().digest(), root.digest());

    let wrong = client(Some(full()), "wrong").resolve(&reference).unwrap_err();
    assert!(wrong.is_auth(), "{wrong:?}");
    // Without the CA, without a client certificate: TLS says no, and no request gets through.
    for tls in [None, Some(trusting())] {
        let error = client(tls, "s3cret").resolve(&reference).unwrap_err();
        assert!(!error.is_auth() && !error.is_not_found(), "{}", chain(&error));
    }
    // Where plain HTTP is tried too, that is not what is said of it, be there a body to say so or not.
    let anyhow = quick().build().unwrap();
    for error in [anyhow.resolve(&reference).unwrap_err(), anyhow.tags(&reference).unwrap_err()] {
        let said = chain(&error);
        assert!(said.contains("https://") && said.contains("wants a client certificate"), "{said}");
    }
}

#[test]
fn loopback_registries_with_tls_are_found_out() {
    if !tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_owned();
    certificates(&at);
    let d = at.display();
    let registry =
        Registry::with(&format!("  tls: {{certificate: {d}/server.pem, key: {d}/server.key}}"), "", dir);
    let memory = Memory::default();
    let root = memory.image(31, &[10]);
    // As Docker does with insecure registries: no certificate is asked for.
    push(&quick().build().unwrap(), &registry.reference("a:1"), &root, &memory);
    // What answers a HEAD cannot say in a body that it wants TLS.
    let found = quick().build().unwrap().resolve(&registry.reference("a:1")).unwrap();
    assert_eq!(found.digest(), root.digest());
}

/// A token server as the distribution project specifies it, which allows all that is asked for.
struct Tokens {
    server: Server,
}

impl Tokens {
    fn start(dir: &Path) -> Self {
        let pem = std::fs::read_to_string(dir.join("server.key")).unwrap();
        let key = Arc::new(RsaKeyPair::from_pkcs8(&der(&pem)).unwrap());
        let certificate = STANDARD.encode(der(&std::fs::read_to_string(dir.join("server.pem")).unwrap()));
        let server = Server::start(move |seen, conn| {
            let basic = format!("Basic {}", STANDARD.encode("user:s3cret"));
            let scopes = scopes(seen);
            // Anonymous may pull.
            let writes = scopes.iter().any(|s| s.contains("push") || s.contains("delete"));
            if writes && seen.header("authorization") != Some(&basic) {
                return conn.reply(401, &[], br#"{"details":"login"}"#);
            }
            let token = sign(&key, &certificate, &scopes);
            conn.reply(200, &[], format!("{{\"token\":\"{token}\",\"expires_in\":60}}").as_bytes());
        });
        Self { server }
    }
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
}

fn scopes(seen: &Seen) -> Vec<String> {
    let query = seen.target.split_once('?').map_or("", |(_, q)| q);
    let scopes = query.split('&').filter_map(|p| p.strip_prefix("scope="));
    scopes.map(|s| s.replace("%2C", ",").replace("%3A", ":")).collect()
}

fn sign(key: &RsaKeyPair, certificate: &str, scopes: &[String]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let access: Vec<_> = scopes
        .iter()
        .map(|scope| {
            let parts: Vec<&str> = scope.splitn(3, ':').collect();
            let actions: Vec<&str> = parts[2].split(',').collect();
            serde_json::json!({"type": parts[0], "name": parts[1], "actions": actions})
        })
        .collect();
    let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = serde_json::json!({
        "iss": "test", "sub": "user", "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1", "access": access,
    });
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &ring::rand::SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn tokens_with_scopes_and_mounts() {
    if !tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_owned();
    certificates(&at);
    let tokens = Tokens::start(&at);
    let top = format!(
        "auth:\n  token: {{realm: \"{}/token\", service: registry, issuer: test, rootcertbundle: {}/ca.pem}}",
        tokens.server.url(),
        at.display()
    );
    let registry = Registry::with("", &top, dir);
    let credentials =
        || StaticCredentials::new().with(&registry.address, Credential::basic("user", "s3cret"));
    let trusting = || -> Client {
        let builder = quick().credentials(credentials());
        builder.trust_realm(&registry.address, &tokens.server.address.to_string()).build().unwrap()
    };
    let memory = Memory::default();
    let root = memory.image(32, &[100_000, 200_000, 300_000]);
    let client = trusting();
    client.ping(&registry.address).unwrap();
    push(&client, &registry.reference("a/one:1"), &root, &memory);
    let before = tokens.server.seen().len();
    assert!(before <= 3, "one for the ping, one for the push: {before}");

    // Mounts need a right to read the other repository in the same token.
    let copied =
        client.copy(&registry.reference("a/one:1"), &registry.reference("b/two:1"), Ctx::none()).unwrap();
    assert_eq!((copied.sent, copied.reused), (0, 4));
    let asked = tokens.server.seen();
    assert!(asked.iter().any(|s| scopes(s).len() == 2), "{asked:?}");

    // A login that was shown to nobody is not right.
    let careful = quick().credentials(credentials()).build().unwrap();
    let error = careful.ping(&registry.address).unwrap_err();
    assert!(error.is_auth() && error.to_string().contains("the login was withheld"), "{error}");
    quick().build().unwrap().ping(&registry.address).unwrap();

    // Anonymous may pull, and is told why it may not push.
    let nobody = quick().build().unwrap();
    assert_eq!(nobody.resolve(&registry.reference("b/two:1")).unwrap().digest(), root.digest());
    let error = nobody.push(&registry.reference("a/one:2"), &root, &memory, Ctx::none()).unwrap_err();
    assert!(error.is_auth() && error.to_string().contains("a login is needed"), "{error}");
}

#[test]
fn a_right_that_is_refused_costs_the_mount_and_not_the_push() {
    let tame = common::fault::Tame::default();
    let server = Server::start(move |seen, conn| {
        if seen.path() == "/token" {
            // Gives all or nothing, and nothing for what is not ours.
            let ours = seen.target.matches("scope=").count() == 1;
            return conn.reply(if ours { 200 } else { 403 }, &[], br#"{"token":"good"}"#);
        }
        if seen.header("authorization") == Some("Bearer good") {
            return tame.answer(seen, conn);
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
        conn.reply(401, &[("www-authenticate", &realm)], b"");
    });
    struct Elsewhere(Memory);
    impl longshore_registry_client::Content for Elsewhere {
        fn open(
            &self,
            d: &oci_spec::image::Descriptor,
        ) -> Result<Box<dyn std::io::Read + Send>, longshore_registry_client::BoxError> {
            self.0.open(d)
        }

        fn repositories(&self, _: &oci_spec::image::Descriptor, _: &str) -> Vec<String> {
            vec!["others/private".into()]
        }
    }
    let memory = Memory::default();
    let root = memory.image(34, &[100_000]);
    let pushed = push(&quick().build().unwrap(), &server.reference("mine:1"), &root, &Elsewhere(memory));
    assert_eq!(pushed.sent, 2);
}

#[test]
fn pull_through_mirrors_and_their_failures() {
    if !tools() {
        return;
    }
    let upstream = Registry::start();
    let top = format!("proxy: {{remoteurl: \"http://{}\"}}", upstream.address);
    let mirror = Registry::with("", &top, tempfile::tempdir().unwrap());
    let memory = Memory::default();
    let root = memory.image(33, &[100_000, 50]);
    push(&quick().build().unwrap(), &upstream.reference("x:1"), &root, &memory);

    let http = |address: &str| Host::new(&format!("http://{address}")).unwrap();
    let with = |mirrors: Vec<Host>, server: Host| {
        let config = mirrors.into_iter().fold(HostConfig::new(server), HostConfig::mirror);
        quick().host(&upstream.address, config).build().unwrap()
    };
    let pull = |client: &Client| {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        client
            .pull(&upstream.reference("x:1"), &Platforms::Host, &layout, Ctx::none())
            .unwrap_or_else(|e| panic!("{}", chain(&e)))
    };
    // All from the mirror: the upstream is not even reachable for us.
    let client = with(vec![http(&mirror.address)], http("127.0.0.1:1"));
    assert_eq!(pull(&client).fetched, 3);
    // A dead mirror, then one that lacks everything, then the registry itself.
    let empty = Registry::start();
    let client = with(vec![http("127.0.0.1:1"), http(&empty.address)], http(&upstream.address));
    assert_eq!(pull(&client).fetched, 3);
    // One that must not be asked for tags.
    let before = mirror.accesses().iter().filter(|l| l.contains("manifests")).count();
    let mut by_digest = http(&mirror.address);
    by_digest.resolve = false;
    let client = with(vec![by_digest], http(&upstream.address));
    assert_eq!(pull(&client).fetched, 3);
    assert_eq!(mirror.accesses().iter().filter(|l| l.contains("manifests")).count(), before);

    // One that hands out rubbish under the right names.
    let liar = Server::start(|seen, conn| {
        if seen.target.contains("/blobs/") {
            conn.reply(200, &[], &[0; 50]);
        } else {
            conn.reply(404, &[], b"");
        }
    });
    let client = with(vec![http(&liar.address.to_string())], http(&upstream.address));
    assert_eq!(pull(&client).fetched, 3);
    assert!(liar.seen().iter().all(|s| s.query("ns") == Some(&upstream.address)));
}

#[test]
fn helpers_run_once_and_for_the_exact_host_only() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let name = format!("longshore-test-{}", std::process::id());
    let helper = bin.join(format!("docker-credential-{name}"));
    let log = dir.path().join("log");
    let script = format!(
        "#!/bin/sh\nread host\necho \"$1 $host\" >> {log}\ncase $1-$host in get-reg.example) echo '{{\"Username\":\"u\",\"Secret\":\"p\"}}';;\n\
         get-empty.example) echo '{{\"Username\":\"\",\"Secret\":\"\"}}';;\n\
         get-slow.example) while [ -e {dir} ] && [ ! -e {dir}/go ]; do sleep 0.05; done;;\n\
         get-parent.example) (while [ -e {dir} ] && [ ! -e {dir}/go ]; do sleep 0.05; done; touch {dir}/gone) &\n\
         echo '{{\"Username\":\"u\",\"Secret\":\"p\"}}';;\n\
         get-leak.example) echo '{{\"Secret\":\"s3cret\"}}'; exit 1;; get-*) echo 'credentials not found in native keychain'; exit 1;; esac\n",
        log = log.display(),
        dir = dir.path().display(),
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // The child looks programs up in its own PATH, so the test runs itself with another one.
    if std::env::var_os("LONGSHORE_TEST_HELPER").is_none() {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let this = std::env::current_exe().unwrap();
        let status = Command::new(this)
            .args(["helpers_run_once", "--nocapture"])
            .env("PATH", path)
            .env("LONGSHORE_TEST_HELPER", dir.path())
            .env("LONGSHORE_TEST_NAME", &name)
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let dir = std::path::PathBuf::from(std::env::var_os("LONGSHORE_TEST_HELPER").unwrap());
    let name = std::env::var("LONGSHORE_TEST_NAME").unwrap();
    let config = dir.join("config.json");
    std::fs::write(
        &config,
        format!(
            r#"{{"credHelpers":{{"reg.example":"{name}","other.example":"{name}","empty.example":"{name}","leak.example":"{name}","bad.example":"../x"}}}}"#
        ),
    )
    .unwrap();
    let file = DockerConfigFile::open(&config).unwrap();
    for _ in 0..3 {
        assert_eq!(file.get("reg.example").unwrap(), Some(Credential::basic("u", "p")));
        assert_eq!(file.get("other.example").unwrap(), None);
        assert_eq!(file.get("reg.example.evil").unwrap(), None);
    }
    let lines = || std::fs::read_to_string(dir.join("log")).unwrap().lines().count();
    assert_eq!(lines(), 2);
    assert_eq!(file.get("empty.example").unwrap(), None, "neither a name nor a secret is no login");
    let text = chain(&file.get("leak.example").unwrap_err());
    assert!(text.contains("failed") && !text.contains("s3cret"), "{text}");
    assert!(file.get("bad.example").is_err(), "a helper's name is no path");
    DockerConfigFile::login(&config, "reg.example", &Credential::basic("n", "q")).unwrap();
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..2], ["get reg.example", "get other.example"]);
    assert!(lines[4].starts_with("store {") && lines.len() == 5, "{log}");
    helpers_are_not_waited_for(&dir, &name);
}

/// One registry's helper does not keep others waiting, nor what a helper leaves behind who asked it.
fn helpers_are_not_waited_for(dir: &std::path::Path, name: &str) {
    let config = dir.join("more.json");
    let text = format!(
        r#"{{"credHelpers":{{"slow.example":"{name}","parent.example":"{name}"}},"auths":{{"plain.example":{{"auth":"dTpw"}}}}}}"#
    );
    std::fs::write(&config, text).unwrap();
    let file = DockerConfigFile::open(&config).unwrap();
    let asked = || std::fs::read_to_string(dir.join("log")).unwrap().contains("get slow.example");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| file.get("slow.example"));
        while !asked() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(file.get("plain.example").unwrap(), Some(Credential::basic("u", "p")));
        assert_eq!(file.get("parent.example").unwrap(), Some(Credential::basic("u", "p")));
        assert!(!slow.is_finished(), "it is still being asked");
        assert!(!dir.join("gone").exists(), "the pipe is still held");
        std::fs::write(dir.join("go"), "").unwrap();
        assert!(slow.join().unwrap().is_err());
    });
}
