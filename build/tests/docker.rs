//! The same Dockerfiles by ours and by the BuildKit inside Docker: files and config of the results are the same.
#![cfg(feature = "runtime")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{File, World, busybox, read_tar, skip};
use longshore_build::{BuildOptions, RuntimeExecutor};
use longshore_runtime::Runtime;
use serde_json::Value;

struct Docker {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Docker {
    fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/usr/sbin/dockerd").exists() {
            skip("needs root and dockerd");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let log = std::fs::File::create(at("log")).unwrap();
        let daemon = Command::new("/usr/sbin/dockerd")
            .args(["--iptables=false", "--bridge=none"])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("-p")
            .arg(at("pid"))
            .arg("-H")
            .arg(format!("unix://{}", at("s").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let docker = Self { dir, daemon };
        let begun = Instant::now();
        while !docker.command(&["version"]).output().unwrap().status.success() {
            if begun.elapsed() > Duration::from_secs(60) {
                skip(&format!(
                    "dockerd does not start: {}",
                    std::fs::read_to_string(docker.dir.path().join("log")).unwrap()
                ));
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(docker)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new("/usr/bin/docker");
        c.arg("-H")
            .arg(format!("unix://{}", self.dir.path().join("s").display()))
            .args(args)
            .env("DOCKER_BUILDKIT", "1");
        c.env("HOME", self.dir.path());
        c
    }

    fn load(&self, tar: &[u8], name: &str) {
        let file = self.dir.path().join("import.tar");
        std::fs::write(&file, tar).unwrap();
        let out = self.command(&["import", file.to_str().unwrap(), name]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// Files, config and history of the build's result.
    fn build(
        &self,
        context: &Path,
        dockerfile: &str,
        args: &[String],
    ) -> Result<(BTreeMap<String, File>, Value), String> {
        let file = self.dir.path().join("Dockerfile");
        std::fs::write(&file, dockerfile).unwrap();
        let mut c =
            self.command(&["build", "--network", "none", "-q", "-t", "case", "-f", file.to_str().unwrap()]);
        let out = c.args(args).arg(context).output().unwrap();
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        let save = self.dir.path().join("save");
        let _ = std::fs::remove_dir_all(&save);
        std::fs::create_dir(&save).unwrap();
        let tar = self.dir.path().join("save.tar");
        assert!(self.command(&["save", "-o", tar.to_str().unwrap(), "case"]).status().unwrap().success());
        tar::Archive::new(std::fs::File::open(&tar).unwrap()).unpack(&save).unwrap();
        let json = |p: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(p).unwrap()).unwrap() };
        let manifest = json(save.join("manifest.json"));
        let mut files = BTreeMap::new();
        for layer in manifest[0]["Layers"].as_array().unwrap() {
            for (path, file) in read_tar(&std::fs::read(save.join(layer.as_str().unwrap())).unwrap()) {
                let name = path.rsplit('/').next().unwrap().to_owned();
                if let Some(gone) = name.strip_prefix(".wh.") {
                    let gone = format!("{}{gone}", &path[..path.len() - name.len()]);
                    files.retain(|p: &String, _| *p != gone && !p.starts_with(&format!("{gone}/")));
                } else {
                    files.insert(path, file);
                }
            }
        }
        Ok((files, json(save.join(manifest[0]["Config"].as_str().unwrap()))))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.daemon),
            rustix::process::Signal::TERM,
        );
        let begun = Instant::now();
        while self.daemon.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Name, Dockerfile after `FROM base`, build arguments.
const CASES: &[(&str, &str, &[&str])] = &[
    ("file to file", "COPY a.txt /new/x", &[]),
    ("file to directory", "COPY a.txt /new/", &[]),
    ("file into existing directory", "COPY a.txt /tmp", &[]),
    ("two files", "COPY a.txt b.txt /d/", &[]),
    ("two files without slash", "COPY a.txt b.txt /d", &[]),
    ("directory", "COPY dir /d", &[]),
    ("directory with slash", "COPY dir/ /d/", &[]),
    ("directory into existing", "COPY dir /tmp", &[]),
    ("everything", "COPY . /all", &[]),
    ("glob", "COPY *.txt /g/", &[]),
    ("glob of directories", "COPY di* /g/", &[]),
    ("glob without match", "COPY *.none /g/", &[]),
    ("question mark and class", "COPY ?.txt [b-z].txt /g/", &[]),
    ("brackets in a name", "COPY arr[[]0].txt /g/", &[]),
    ("JSON form", "COPY [\"with space.txt\", \"/sp ace/\"]", &[]),
    ("dots", "COPY ../../a.txt /x", &[]),
    ("missing", "COPY nothing /x", &[]),
    ("chown", "COPY --chown=www:adm a.txt /new/x\nCOPY --chown=55 dir /e\nCOPY --chown=www b.txt /f", &[]),
    ("chmod", "COPY --chmod=600 a.txt dir /x/", &[]),
    ("workdir", "WORKDIR /w\nWORKDIR sub\nCOPY a.txt .\nCOPY b.txt q/", &[]),
    ("workdir of user", "USER www\nWORKDIR /h/i\nCOPY a.txt .", &[]),
    ("workdir twice", "WORKDIR /tmp\nRUN echo x > f", &[]),
    ("link to directory as destination", "COPY a.txt /lnk\nCOPY a.txt /lnk/\nCOPY b.txt /lnk/n/", &[]),
    ("absolute link", "COPY a.txt /abs/x/y", &[]),
    ("dangling link", "COPY a.txt /dangling", &[]),
    ("link upwards", "COPY a.txt /up/x", &[]),
    ("directory over file", "COPY dir /etc/passwd", &[]),
    ("file over directory", "COPY a.txt /etc/x\nCOPY dir/sub/ /y\nCOPY over /", &[]),
    ("directory over link", "COPY overlink /", &[]),
    ("link in context", "COPY tolink /x\nCOPY links /y/", &[]),
    ("modes of existing directories", "COPY modes /", &[]),
    ("ignored", "COPY . /all\nCOPY ign /ign", &[]),
    ("add file", "ADD a.txt /x/", &[]),
    ("add tar", "ADD some.tar /t", &[]),
    ("add tar.gz", "ADD some.tar.gz /t/", &[]),
    ("add tar with chown", "ADD --chown=www some.tar /t", &[]),
    ("copy tar", "COPY some.tar /t/", &[]),
    ("add no tar", "ADD fake.tar.gz /t/", &[]),
    (
        "from stage",
        "RUN mkdir -p /o/p && echo 1 > /o/f && ln /o/f /o/g && ln -s f /o/l && chown -R 33:34 /o && chmod 4750 /o/f\nFROM base\nCOPY --from=0 /o /r\nCOPY --from=0 /o/l /s",
        &[],
    ),
    ("env", "ENV A=1 B=\"x y\" C=z\\ w\nENV D $A-$B\nENV A=2 E=$A\nENV PATH=/q:$PATH", &[]),
    ("substitutions", "ENV A=1\nENV B=${A:-x} C=${N:-y} D=${A:+z} E=${N:+w} F=\\$A G='$A' H=\"$A\"", &[]),
    ("arg", "ARG A=1\nARG B\nENV C=$A-$B\nRUN echo $A $B > /r", &["B=two"]),
    ("arg before env", "ARG A=arg\nENV A=env\nRUN echo $A > /r\nLABEL l=$A", &[]),
    ("env before arg", "ENV A=env\nARG A=arg\nRUN echo $A > /r\nLABEL l=$A", &[]),
    ("platform args", "ARG TARGETOS\nARG TARGETARCH\nRUN echo $TARGETOS $TARGETARCH > /r", &[]),
    ("label", "LABEL a=b \"c d\"=\"e f\" g='h i'\nLABEL multi=\"x\\\ny\"", &[]),
    ("commands", "CMD echo a\nENTRYPOINT [\"/e\", \"f\"]", &[]),
    ("entrypoint resets", "CMD x\nFROM base\nENTRYPOINT y", &[]),
    ("shell", "SHELL [\"/bin/sh\", \"-ec\"]\nRUN echo x > /f\nCMD a b\nENTRYPOINT c", &[]),
    ("expose", "ARG P=\"90 91\"\nEXPOSE 80 81/udp 100-102\nEXPOSE $P", &[]),
    ("volume", "VOLUME /a /b\nVOLUME [\"/c d\"]\nRUN mkdir -p /a && echo kept > /a/f", &[]),
    ("user", "ARG U=www\nUSER $U:adm\nRUN id -u > /tmp/u; id -g >> /tmp/u; id -G >> /tmp/u", &[]),
    ("stopsignal", "STOPSIGNAL SIGUSR1", &[]),
    (
        "healthcheck",
        "HEALTHCHECK --interval=1m30s --timeout=3s --retries=4 --start-period=1h CMD curl -f x || exit 1",
        &[],
    ),
    ("healthcheck none", "HEALTHCHECK CMD [\"a\"]\nHEALTHCHECK NONE", &[]),
    ("onbuild", "ONBUILD RUN echo x > /t\nONBUILD COPY a.txt /ob/", &[]),
    ("maintainer", "MAINTAINER some one <x@y>", &[]),
    ("run removes", "RUN rm /etc/group; mv /tmp/keep /tmp/kept; rm -r /usr/lib; mkdir /usr/lib", &[]),
    ("run exec form", "RUN [\"touch\", \"/e x\"]", &[]),
    ("continuation", "RUN echo a \\\n# comment\n  b \\\n\n c > /r", &[]),
    ("run fails", "RUN exit 4", &[]),
    // Targets that exist: this BuildKit leaves mount points behind, later ones do not.
    (
        "run with mounts",
        "RUN --mount=type=tmpfs,target=/tmp echo x > /tmp/s\nRUN --mount=type=cache,target=/tmp echo y > /tmp/y",
        &[],
    ),
    ("unknown instruction", "COYP a b", &[]),
    ("bad flag", "COPY --chwon=a a b", &[]),
    ("source is a file with slash", "COPY a.txt/ /x", &[]),
    ("context link out", "COPY out /x", &[]),
    ("link to what is ignored", "COPY tohush /x", &[]),
    ("file behind such a link", "COPY tohush/one /x", &[]),
    ("link to an ignored file", "COPY tokey /x", &[]),
    ("link that is ignored", "COPY drop.lnk /x", &[]),
    ("link to the context", "COPY in/top /x", &[]),
    ("what is ignored, behind a link to the context", "COPY in/top/hush /x", &[]),
    ("glob behind a link to the context", "COPY in/top/ig*/* /x/", &[]),
    ("JSON with a remark", "CMD [\"echo\",\"a\"] # note\nENTRYPOINT [\"/e\"]x", &[]),
    ("JSON sources with a remark", "COPY [\"a.txt\", \"/x/\"] # note", &[]),
    ("volumes with a remark", "VOLUME [\"/q\"] # note", &[]),
    ("run with a remark", "RUN [\"touch\", \"/q\"] # note", &[]),
    ("archive: file over directory", "RUN mkdir /t && touch /t/in\nADD some.tar /t", &[]),
    (
        "archive: file over a full directory",
        "RUN mkdir -p /t/top/x && touch /t/top/x/y\nADD some.tar /t",
        &[],
    ),
    ("archive: members over members", "ADD over.tar /t", &[]),
    ("archive: directory over link", "RUN mkdir -p /t /real && ln -s /real /t/in\nADD some.tar /t", &[]),
    ("archive: file over link", "RUN mkdir -p /t && ln -s /real /t/top\nADD some.tar /t", &[]),
    ("archive: dots", "ADD dots.tar /t", &[]),
    ("archive: dots inside", "ADD inner.tar /t", &[]),
    ("archive: deep dots", "ADD deep.tar /t", &[]),
    ("archive: hard link with dots", "ADD hard.tar /t", &[]),
    ("FIFO and devices", "COPY odd /odd", &[]),
    ("FIFO alone", "COPY odd/pipe /x", &[]),
    ("device alone", "COPY odd/null /x", &[]),
    (
        "FIFO and devices of a stage",
        "RUN mkdir /o && busybox mknod /o/p p && busybox mknod /o/c c 1 3 && echo x > /o/f\nFROM base\nCOPY --from=0 /o /r",
        &[],
    ),
    ("FIFO of a stage", "RUN busybox mknod /p p\nFROM base\nCOPY --from=0 /p /r", &[]),
    ("mount over everything", "RUN --mount=type=tmpfs,target=/ true", &[]),
    ("mount over everything from below", "RUN --mount=type=tmpfs,target=. true", &[]),
    ("highest real-time signal", "STOPSIGNAL SIGRTMIN+15", &[]),
    ("no real-time signal", "STOPSIGNAL SIGRTMIN+16", &[]),
    ("real-time signal from above", "STOPSIGNAL RTMAX-14", &[]),
    ("no real-time signal from above", "STOPSIGNAL RTMAX-15", &[]),
    ("real-time signal with zeros", "STOPSIGNAL RTMIN+03", &[]),
    ("no signal at all", "STOPSIGNAL RTMINé", &[]),
    (
        "named stage",
        "RUN echo q > /q\nFROM base AS Two\nCOPY --from=0 /q /two\nFROM two\nCOPY --from=TWO /two /three",
        &[],
    ),
    ("argument inherited by stage", "ARG A=1\nRUN echo 1\nFROM base AS x\nARG B=b\nFROM x\nENV C=x$B", &[]),
];

fn context(dir: &Path) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let put = |p: &str, text: &str| {
        let path = dir.join(p);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    };
    for p in [
        "a.txt",
        "b.txt",
        "c.md",
        "with space.txt",
        "arr[0].txt",
        "dir/one",
        "dir/sub/two",
        "dir/sub/deep/three",
        "over/usr/lib/new",
        "overlink/lnk/new",
        "links/real",
        "modes/tmp/f",
        "modes/fresh/g",
        "ign/keep",
        "ign/drop.o",
        "ign/sub/drop.o",
        "fake.tar.gz",
        "secret.key",
        "hush/one",
        "in/plain",
        "odd/plain",
    ] {
        put(p, p);
    }
    std::fs::set_permissions(dir.join("dir/one"), PermissionsExt::from_mode(0o755)).unwrap();
    for (p, mode) in [
        ("dir", 0o755),
        ("dir/sub", 0o700),
        ("dir/sub/deep", 0o755),
        ("modes", 0o755),
        ("modes/tmp", 0o750),
        ("modes/fresh", 0o711),
    ] {
        std::fs::set_permissions(dir.join(p), PermissionsExt::from_mode(mode)).unwrap();
    }
    symlink("a.txt", dir.join("tolink")).unwrap();
    symlink("real", dir.join("links/link")).unwrap();
    symlink("/etc/hostname", dir.join("out")).unwrap();
    for (target, link) in
        [("hush", "tohush"), ("secret.key", "tokey"), ("a.txt", "drop.lnk"), ("..", "in/top")]
    {
        symlink(target, dir.join(link)).unwrap();
    }
    for (name, kind, device) in [
        ("pipe", rustix::fs::FileType::Fifo, 0),
        ("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
    ] {
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("odd").join(name), kind, mode, device).unwrap();
    }
    put(".dockerignore", "# comment\n*.key\nhush\n*.lnk\nign/**/*.o\n!ign/sub/drop.o\n");
    archives(dir);
    let tar = common::Tar::new()
        .dir("in", 0o711)
        .file("in/f", "inside", 0o600)
        .link("in/l", "f")
        .file("top", "T", 0o644)
        .end();
    std::fs::write(dir.join("some.tar"), &tar).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &tar).unwrap();
    std::fs::write(dir.join("some.tar.gz"), gz.finish().unwrap()).unwrap();
}

/// Archives whose members meet what is there already.
fn archives(dir: &Path) {
    use tar::EntryType::{Directory, Link, Regular};
    let plain = |name: &str| common::Tar::new().raw(name, Regular, "", b"x").raw("after", Regular, "", b"y");
    let over = common::Tar::new()
        .dir("d", 0o755)
        .file("d/gone", "x", 0o644)
        .file("d", "now a file", 0o644)
        .file("f", "x", 0o644)
        .dir("f", 0o750)
        .file("f/kept", "y", 0o644);
    for (name, tar) in [
        ("over.tar", over),
        ("dots.tar", plain("../evil")),
        ("inner.tar", common::Tar::new().raw("a", Directory, "", b"").raw("a/../b", Regular, "", b"x")),
        ("deep.tar", plain("a/../../../evil")),
        ("hard.tar", plain("f").raw("l", Link, "../../etc/passwd", b"")),
    ] {
        std::fs::write(dir.join(name), tar.end()).unwrap();
    }
}

/// What does not depend on who built it.
fn comparable(config: &Value) -> Value {
    let mut c = config["config"].clone();
    let keys = [
        "Env",
        "Cmd",
        "Entrypoint",
        "WorkingDir",
        "User",
        "ExposedPorts",
        "Volumes",
        "Labels",
        "StopSignal",
        "Shell",
        "OnBuild",
        "Healthcheck",
    ];
    let mut out = serde_json::Map::new();
    for key in keys {
        let mut value = c[key].take();
        if let Some(check) = value.as_object_mut().filter(|_| key == "Healthcheck") {
            check.retain(|_, v| !v.is_null() && *v != 0);
        }
        let empty = value.is_null()
            || value == ""
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            out.insert(key.to_owned(), value);
        }
    }
    out.insert("author".into(), config["author"].clone());
    // This BuildKit leaves the flags of COPY out, later ones do not; and prints a health check as Go prints a pointer.
    let history = config["history"].as_array().into_iter().flatten().filter_map(|h| h["created_by"].as_str());
    let history = history.filter(|h| !h.is_empty() && !h.starts_with("HEALTHCHECK"));
    let words = |h: &str| h.split(' ').filter(|w| !w.starts_with("--ch")).collect::<Vec<_>>().join(" ");
    out.insert("history".into(), history.map(|h| Value::from(words(h))).collect());
    Value::Object(out)
}

#[test]
fn results_are_those_of_buildkit() {
    let Some(docker) = Docker::start() else { return };
    let Some(root) = busybox() else { return skip("needs a static busybox") };
    let more = common::Tar::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .file("usr/lib/old", "old", 0o644)
        .link("lnk", "usr/lib")
        .link("abs", "/usr/lib")
        .link("dangling", "/created")
        .link("up", "../../../../escape")
        .dir("created", 0o755)
        .file("tmp/keep", "k", 0o644)
        .end();
    // Two archives in one: the first without its end.
    let root = [&root[..root.len() - 1024], &more[..]].concat();
    docker.load(&root, "base");
    let world = World::new();
    world.image("base", &root);
    context(&world.context_path());
    let runtime = Runtime::new(world.dir.path().join("runtime")).unwrap();
    let executor = RuntimeExecutor::new(&runtime, world.dir.path().join("scratch")).resolv_conf("").hosts("");
    let only = std::env::var("LONGSHORE_CASE").ok();
    let mut wrong = Vec::new();
    for (name, body, args) in CASES.iter().filter(|(n, _, _)| only.as_deref().is_none_or(|o| o == *n)) {
        let dockerfile = format!("FROM base\n{body}\n");
        let mut options = BuildOptions::default();
        options.network = Some("none".into());
        let mut docker_args = Vec::new();
        for arg in *args {
            let (n, v) = arg.split_once('=').unwrap();
            options.build_args.push((n.into(), v.into()));
            docker_args.extend(["--build-arg".to_owned(), (*arg).to_owned()]);
        }
        let (ours, log) = world.build_with(&dockerfile, Some(&executor), &options);
        let theirs = docker.build(&world.context_path(), &dockerfile, &docker_args);
        match (ours, theirs) {
            (Ok(built), Ok((files, config))) => {
                let ours = world.files(&built.image);
                let strip = |f: &BTreeMap<String, File>| -> BTreeMap<String, File> {
                    let made_by_docker = ["proc", "sys", "dev", "etc/resolv.conf", "etc/hosts"];
                    let kept =
                        f.iter().filter(|(p, _)| !made_by_docker.contains(&p.as_str()) && !p.is_empty());
                    kept.map(|(p, f)| (p.clone(), File { mtime: 0, ..f.clone() })).collect()
                };
                let (a, b) = (strip(&ours), strip(&files));
                for path in a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>() {
                    if a.get(path) != b.get(path) {
                        let short = |f: Option<&File>| {
                            f.map(|f| format!("{} {:o} {:?} {:.40}", f.kind, f.mode, f.owner, f.text))
                        };
                        wrong.push(format!(
                            "{name}: {path}: ours {:?}, theirs {:?}",
                            short(a.get(path)),
                            short(b.get(path))
                        ));
                    }
                }
                let (a, b) = (
                    comparable(&serde_json::from_slice(&built.image.config().to_json()).unwrap()),
                    comparable(&config),
                );
                for key in a
                    .as_object()
                    .unwrap()
                    .keys()
                    .chain(b.as_object().unwrap().keys())
                    .collect::<std::collections::BTreeSet<_>>()
                {
                    if a[key] != b[key] {
                        wrong.push(format!("{name}: {key}: ours {}, theirs {}", a[key], b[key]));
                    }
                }
            }
            (Err(_), Err(_)) => {}
            (Ok(_), Err(e)) => wrong.push(format!("{name}: only theirs fails: {e}")),
            (Err(e), Ok(_)) => wrong.push(format!(
                "{name}: only ours fails: {e} ({:?}) {}",
                std::error::Error::source(&e),
                log.output
            )),
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
