//! What a build makes, without containers: commands are closures, layers are directories.

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Script, Tar, World};
use longshore_build::{
    BoxError, BuildEvent, BuildOptions, Builder, Command, Context, Error, Executor, Fetched, Fetcher,
    FileCache, StoreResolver,
};
use longshore_image::Ctx;

#[test]
fn an_unchanged_context_is_cached_and_a_changed_one_is_not() {
    let world = World::directories();
    world.base();
    let script = Script::simple();
    world.write("a", "1");
    world.write("b", "1");
    let file = "FROM base\nCOPY a /x/\nRUN write /r one\nCOPY b /y/\nRUN echo two\n";
    let run = || {
        let built = world.run(file, &script).0.unwrap();
        (built.executed, built.cached)
    };
    assert_eq!(run(), (4, 0));
    assert_eq!(run(), (0, 4));
    // Times do not count, and neither do files that are not copied.
    world.write("c", "1");
    world.write("a", "1");
    assert_eq!(run(), (0, 4));
    world.write("b", "2");
    assert_eq!(run(), (2, 2));
    world.write("a", "2");
    assert_eq!(run(), (4, 0));
    world.write("a", "1");
    world.write("b", "1");
    assert_eq!(run(), (0, 4));
    let mut options = BuildOptions::default();
    options.no_cache = true;
    assert_eq!(world.build_with(file, Some(&script), &options).0.unwrap().executed, 4);
}

#[test]
fn a_cache_entry_whose_layer_is_gone_is_no_answer() {
    let world = World::directories();
    world.base();
    let script = Script::simple();
    let cache = FileCache::open(world.dir.path().join("cache")).unwrap();
    let resolver = StoreResolver(&world.store);
    let build = || {
        let builder = Builder::new(&world.store, &resolver).executor(&script).cache(&cache);
        builder
            .build(
                "FROM base\nRUN write /f 1\n",
                &Context::empty(),
                &BuildOptions::default(),
                &mut |_| {},
                Ctx::none(),
            )
            .unwrap()
    };
    let first = build();
    assert_eq!(build().cached, 1);
    world.store.remove(first.image.id().as_ref(), true).unwrap();
    drop(first);
    world.store.collect(Ctx::none()).unwrap();
    assert_eq!(build().executed, 1);
}

#[test]
fn a_rebuilt_stage_with_the_same_files_does_not_rebuild_what_copies_them() {
    let world = World::directories();
    world.base();
    // Each run writes the same file, and another one that differs.
    let count = Arc::new(AtomicUsize::new(0));
    let runs = Arc::clone(&count);
    let script = Script::new(move |upper, args, _| {
        let n = runs.fetch_add(1, Ordering::Relaxed);
        if args[2].starts_with("make") {
            std::fs::write(upper.join("out"), "same").unwrap();
            std::fs::write(upper.join("log"), n.to_string()).unwrap();
        } else {
            std::fs::write(upper.join("last"), "x").unwrap();
        }
        0
    });
    let file =
        |n: u32| format!("FROM base AS b\nRUN make {n}\nFROM base\nCOPY --from=b /out /out\nRUN last\n");
    world.run(&file(1), &script).0.unwrap();
    let built = world.run(&file(2), &script).0.unwrap();
    assert_eq!((built.executed, built.cached), (1, 2));
}

#[test]
fn only_needed_stages_run_and_independent_ones_at_the_same_time() {
    let world = World::directories();
    world.base();
    let both = Arc::new(std::sync::Barrier::new(2));
    let script = Script::new(move |upper, args, _| {
        assert!(!args[2].contains("unused"));
        if args[2].starts_with("meet") {
            // Ends only when both stages are here at once.
            both.wait();
            std::fs::write(upper.join(&args[2][5..]), "x").unwrap();
        }
        0
    });
    let file = "FROM base AS a\nRUN meet a\nFROM base AS unused\nRUN unused\nFROM base AS b\nRUN meet b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
    let mut options = BuildOptions::default();
    options.jobs = Some(2);
    let (built, log) = world.build_with(file, Some(&script), &options);
    assert_eq!(world.files(&built.unwrap().image).len(), 2);
    assert_eq!(log.started.len(), 7);
}

#[test]
fn triggers_run_in_the_child_and_are_gone_in_the_grandchild() {
    let world = World::directories();
    world.base();
    let script = Script::simple();
    world.write("f", "from the child's context");
    let mut options = BuildOptions::default();
    options.tags = vec!["parent".into()];
    world
        .build_with("FROM base\nONBUILD COPY f /f\nONBUILD RUN write /r x\n", Some(&script), &options)
        .0
        .unwrap();
    options.tags = vec!["child".into()];
    let child = world.build_with("FROM parent\nUSER www\n", Some(&script), &options).0.unwrap();
    assert_eq!(world.files(&child.image)["f"].text, "from the child's context");
    assert!(child.image.config().docker.on_build.is_none());
    let grandchild = world.run("FROM child\n", &script).0.unwrap();
    assert_eq!(grandchild.executed, 0);
}

#[test]
fn reproducible_with_an_epoch() {
    let script = Script::simple();
    let build = || {
        let world = World::directories();
        world.base();
        world.write("d/a", "1");
        let mut options = BuildOptions::default();
        options.source_date_epoch = Some(1_000_000_000);
        let file = "FROM base\nARG SOURCE_DATE_EPOCH\nLABEL b=1 a=2 z=$SOURCE_DATE_EPOCH\nWORKDIR /w\nCOPY d /d\nRUN write /tmp/x y\nEXPOSE 2 1\nVOLUME /b /a\n";
        let built = world.build_with(file, Some(&script), &options).0.unwrap();
        assert_eq!(built.image.config().oci.created().as_deref(), Some("2001-09-09T01:46:40Z"));
        let files = world.files(&built.image);
        assert!(files.values().all(|f| f.mtime <= 1_000_000_000));
        let config = String::from_utf8(built.image.config().to_json()).unwrap();
        (config, files, built.image.descriptor().digest().clone())
    };
    let first = build();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(first, build());
}

#[test]
fn newer_flags_of_copy() {
    let world = World::directories();
    world.base();
    for f in ["s/a.txt", "s/b.md", "s/deep/c.txt", "s/deep/d.md", "x/y/z/e.txt"] {
        world.write(f, f);
    }
    let names = |file: &str| -> Vec<String> {
        let built = world.build(&format!("FROM base\n{file}\n")).unwrap();
        world.last_layer(&built.image).into_iter().filter(|(_, f)| f.kind != 'd').map(|(p, _)| p).collect()
    };
    assert_eq!(names("COPY --exclude=*.md s /d"), ["d/a.txt", "d/deep/c.txt", "d/deep/d.md"]);
    assert_eq!(names("COPY --exclude=**/*.md --exclude=deep/c.txt s /d"), ["d/a.txt"]);
    assert_eq!(names("COPY --parents s/a.txt x/y/z /d"), ["d/s/a.txt", "d/x/y/z/e.txt"]);
    assert_eq!(names("COPY --parents x/./y/z/e.txt /d/"), ["d/y/z/e.txt"]);
    assert_eq!(names("COPY --parents **/*.txt /d/"), ["d/s/a.txt", "d/s/deep/c.txt", "d/x/y/z/e.txt"]);
    assert_eq!(names("COPY --link s/a.txt /abs/f"), ["abs/f"]);
    assert_eq!(names("COPY s/a.txt /abs/f"), ["usr/lib/f"]);
    let built = world.build("FROM base\nCOPY --chmod=u=rw,go= s /d\n").unwrap();
    assert_eq!(world.last_layer(&built.image)["d/a.txt"].mode, 0o600);
}

#[test]
fn linked_copies_do_not_depend_on_what_is_below() {
    let world = World::directories();
    world.base();
    world.write("f", "1");
    let script = Script::simple();
    let file = |n: u32| format!("FROM base\nRUN write /r {n}\nCOPY --link f /d/f\n");
    let first = world.run(&file(1), &script).0.unwrap();
    let second = world.run(&file(2), &script).0.unwrap();
    assert_eq!((second.executed, second.cached), (1, 1));
    assert_eq!(first.image.diff_ids().last(), second.image.diff_ids().last());
}

#[test]
fn a_name_of_a_linked_copy_is_part_of_what_it_does() {
    let world = World::directories();
    world.write("f", "1");
    let owner = |uid: u32| {
        let passwd = format!("app:x:{uid}:{uid}::/:/bin/sh\n");
        world.image("base", &Tar::new().dir("etc", 0o755).file("etc/passwd", passwd, 0o644).end());
        let built = world.build("FROM base\nCOPY --link --chown=app f /d/f\n").unwrap();
        (world.last_layer(&built.image)["d/f"].owner, built.cached)
    };
    assert_eq!(owner(7), ((7, 7), 0));
    assert_eq!(owner(8), ((8, 8), 0));
    assert_eq!(owner(7), ((7, 7), 1));
}

#[test]
fn values_of_arguments_are_part_of_what_a_step_does() {
    let world = World::directories();
    world.base();
    world.write("f", "1");
    let build = |file: &str, (name, value): (&str, &str)| {
        let script = Script::simple();
        let mut options = BuildOptions::default();
        options.build_args.push((name.into(), value.into()));
        world.build_with(file, Some(&script), &options).0.unwrap()
    };
    let mode = |value: &str| {
        let built = build("FROM base\nARG MODE\nCOPY --chmod=$MODE f /f\n", ("MODE", value));
        let history = built.image.config().oci.history().clone().unwrap();
        assert!(
            history.iter().any(|h| h.created_by().as_deref().unwrap().contains(&format!("--chmod={value} ")))
        );
        (world.last_layer(&built.image)["f"].mode, built.cached)
    };
    assert_eq!((mode("600"), mode("755"), mode("600")), ((0o600, 0), (0o755, 0), (0o600, 1)));
    // A proxy counts where the file declares it, and only there.
    for (file, counts) in [("FROM base\nRUN x\n", 0), ("FROM base\nARG http_proxy\nRUN y\n", 1)] {
        assert_eq!(build(file, ("http_proxy", "http://a/")).executed, 1, "{file}");
        assert_eq!(build(file, ("http_proxy", "http://b/")).executed, counts, "{file}");
    }
    for (value, executed) in [("http://a/", 1), ("http://b/", 1), ("http://a/", 0)] {
        let file = format!("FROM base\nENV HTTPS_PROXY={value}\nRUN z\n");
        assert_eq!(build(&file, ("x", "")).executed, executed, "{value}");
    }
}

#[test]
fn names_of_mounts_are_part_of_what_a_step_does() {
    let world = World::directories();
    world.base();
    let script = Script::simple();
    let executed = |mount: &str| {
        world.run(&format!("FROM base\nRUN --mount={mount},target=/s x\n"), &script).0.map(|b| b.executed)
    };
    for mount in ["type=secret,id=a", "type=secret,id=b", "type=cache,id=a", "type=cache,id=b"] {
        assert_eq!(executed(mount).unwrap(), 1, "{mount}");
        assert_eq!(executed(mount).unwrap(), 0, "{mount}");
    }
    assert!(matches!(executed("type=secret,id=a,required").unwrap_err(), Error::Instruction { .. }));
}

#[test]
fn nothing_is_mounted_over_the_whole_root() {
    let world = World::directories();
    world.base();
    for target in ["/", "//", "/x/..", "."] {
        let file = format!("FROM base\nRUN --mount=type=tmpfs,target={target} x\n");
        let error = world.run(&file, &Script::simple()).0.unwrap_err();
        assert!(matches!(error, Error::Instruction { line: 2, .. }), "{target}: {error}");
    }
}

#[test]
fn pipes_are_not_copied() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let world = World::directories();
    world.base();
    world.write("d/f", "x");
    mknodat(CWD, world.context_path().join("d/pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let built = world.build("FROM base\nCOPY d /d\n").unwrap();
    assert_eq!(world.last_layer(&built.image).into_keys().collect::<Vec<_>>(), ["d", "d/f"]);
}

#[test]
fn a_panic_is_an_error() {
    let world = World::directories();
    world.base();
    let script = Script::new(|_, args, _| panic!("asked for {}", args[2]));
    let error = world.run("FROM base AS a\nRUN it\nFROM base\nCOPY --from=a / /\n", &script).0.unwrap_err();
    assert!(matches!(&error, Error::Panicked { message } if message == "asked for it"), "{error}");
    let error = world.build("FROM base\nSTOPSIGNAL RTMIN\u{e9}\n").unwrap_err();
    assert!(matches!(error, Error::Instruction { line: 2, .. }), "{error}");
}

/// Writes until it is told to stop.
struct Flood(AtomicUsize);

impl Executor for Flood {
    fn execute(
        &self,
        _: &Command<'_>,
        output: &mut (dyn Write + Send),
        ctx: Ctx<'_>,
    ) -> Result<i32, BoxError> {
        while ctx.check().is_ok() && self.0.load(Ordering::Relaxed) < 100_000 {
            output.write_all(&[b'x'; 1024])?;
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(0)
    }
}

#[test]
fn output_waits_for_who_reads_it_and_ends_with_the_build() {
    let world = World::directories();
    world.base();
    let (resolver, flood, cancel) =
        (StoreResolver(&world.store), Flood(AtomicUsize::new(0)), AtomicBool::new(false));
    let mut told = 0;
    let mut events = |event: BuildEvent<'_>| {
        if matches!(event, BuildEvent::Output { .. }) {
            told += 1;
            if told > 1 {
                return;
            }
            let mut before = usize::MAX;
            while before != flood.0.load(Ordering::Relaxed) {
                before = flood.0.load(Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let builder = Builder::new(&world.store, &resolver).executor(&flood);
    let ctx = Ctx { cancel: &cancel, ..Ctx::none() };
    let built =
        builder.build("FROM base\nRUN yes\n", &Context::empty(), &BuildOptions::default(), &mut events, ctx);
    assert!(matches!(built.unwrap_err(), Error::Cancelled));
    assert_eq!(told, 1, "nothing is told any more");
    assert!(flood.0.load(Ordering::Relaxed) < 1000, "{:?}", flood.0);
    assert_eq!(world.store.snapshots().unwrap().len(), 0);
}

#[test]
fn a_panic_of_who_listens_ends_the_build() {
    let world = World::directories();
    world.base();
    let (resolver, flood) = (StoreResolver(&world.store), Flood(AtomicUsize::new(0)));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut events = |event: BuildEvent<'_>| assert!(!matches!(event, BuildEvent::Output { .. }));
        let builder = Builder::new(&world.store, &resolver).executor(&flood);
        builder.build(
            "FROM base\nRUN yes\n",
            &Context::empty(),
            &BuildOptions::default(),
            &mut events,
            Ctx::none(),
        )
    }));
    assert!(result.is_err());
    assert_eq!(world.store.snapshots().unwrap().len(), 0);
}

#[test]
fn members_of_archives_replace_what_is_there() {
    use tar::EntryType::Link;
    let world = World::directories();
    world.base();
    let add = |tar: Tar| {
        world.write("a.tar", tar.end());
        world.build("FROM base\nADD a.tar /\n").map(|b| world.last_layer(&b.image))
    };
    let tar = Tar::new().file("usr/lib/new", "gone", 0o644).file("usr", "a file", 0o644).file(
        "etc/passwd/in",
        "x",
        0o644,
    );
    assert!(add(tar).is_err(), "a file's name with something below it");
    let tar = Tar::new()
        .file("usr/lib/new", "gone", 0o644)
        .file("usr", "a file", 0o644)
        .dir("etc/passwd", 0o700)
        .file("etc/passwd/in", "x", 0o644)
        .dir("lib", 0o755)
        .file("lib/own", "x", 0o644)
        .file("first", "linked", 0o644)
        .raw("second", Link, "first", b"")
        .dir("first", 0o711);
    let layer = add(tar).unwrap();
    let names: Vec<_> = layer.keys().map(String::as_str).collect();
    assert_eq!(names, ["etc", "etc/passwd", "etc/passwd/in", "first", "lib", "lib/own", "second", "usr"]);
    let kinds: String = layer.values().map(|f| f.kind).collect();
    assert_eq!(kinds, "dd-dd---");
    assert_eq!(layer["second"].text, "linked");
    // The base's own files would show through.
    assert!(add(Tar::new().file("usr", "x", 0o644).dir("usr", 0o755)).is_err());
}

#[test]
fn heredocs_become_files() {
    let world = World::directories();
    world.base();
    let built = world.build("FROM base\nENV V=value\nCOPY <<one <<\"two\" --- /d/\n$V\none\n$V\ntwo\n");
    assert!(matches!(built.unwrap_err(), Error::NotFound { .. }));
    let built = world
        .build("FROM base\nENV V=value\nCOPY --chown=www <<one <<\"two\" /d/\n$V \"${N:-x}\"\none\n$V\ntwo\n")
        .unwrap();
    let files = world.last_layer(&built.image);
    assert_eq!((&*files["d/one"].text, &*files["d/two"].text), ("value \"x\"\n", "$V\n"));
    assert_eq!(files["d/one"].owner, (33, 34));
}

struct Web;
impl Fetcher for Web {
    fn fetch(&self, url: &str, _: Ctx<'_>) -> Result<Fetched, BoxError> {
        match url {
            "http://h/dir/file.txt?q" => Ok(Fetched::new(&b"web"[..]).modified(77)),
            "http://h/a.tar" => {
                Ok(Fetched::new(std::io::Cursor::new(Tar::new().file("in", "x", 0o644).end())))
            }
            _ => Err("no such page".into()),
        }
    }
}

#[test]
fn addresses_are_fetched() {
    let world = World::directories();
    world.base();
    let resolver = StoreResolver(&world.store);
    let build = |line: &str| {
        let builder = Builder::new(&world.store, &resolver).fetcher(&Web).cache(&world.cache);
        builder.build(
            &format!("FROM base\n{line}\n"),
            &Context::empty(),
            &BuildOptions::default(),
            &mut |_| {},
            Ctx::none(),
        )
    };
    let built = build("ADD http://h/dir/file.txt?q /d/").unwrap();
    let file = &world.last_layer(&built.image)["d/file.txt"];
    assert_eq!((file.text.as_str(), file.mode, file.mtime), ("web", 0o600, 77));
    assert_eq!(build("ADD http://h/dir/file.txt?q /d/").unwrap().cached, 1);
    let sum = "0a3fd5ca2d65eb4f8c5a2c8ee4b7f0d5ae2dd5ed59e2fa4b6b0c57a4d8b0b7b1";
    assert!(matches!(
        build(&format!("ADD --checksum=sha256:{sum} http://h/dir/file.txt?q /d/")),
        Err(Error::Checksum { .. })
    ));
    let built = build("ADD http://h/a.tar /d/").unwrap();
    assert!(world.last_layer(&built.image).contains_key("d/a.tar"));
    let built = build("ADD --unpack http://h/a.tar /d/").unwrap();
    assert!(world.last_layer(&built.image).contains_key("d/in"));
    assert!(
        matches!(build("ADD http://u:p@h/none /d/").unwrap_err(), Error::Fetch { url, .. } if url == "http://h/none")
    );
    assert!(matches!(build("ADD https://h/x.git#main:../.. /d/").unwrap_err(), Error::Unsupported { .. }));
}

#[test]
fn history_and_config() {
    let world = World::directories();
    world.base();
    let script = Script::simple();
    let (built, _) =
        world.run("FROM base\nARG A=1\nENV E=2\nRUN write /f x\nRUN nothing\nCMD [\"a\"]\n", &script);
    let image = built.unwrap().image;
    let history: Vec<_> = image
        .config()
        .oci
        .history()
        .iter()
        .flatten()
        .map(|h| (h.created_by().clone().unwrap(), h.empty_layer().unwrap_or(false)))
        .collect();
    let wanted = [
        ("ARG A=1", true),
        ("ENV E=2", true),
        ("RUN |1 A=1 /bin/sh -c write /f x # buildkit", false),
        ("RUN |1 A=1 /bin/sh -c nothing # buildkit", true),
        ("CMD [\"a\"]", true),
    ];
    assert_eq!(history, wanted.map(|(t, e)| (t.to_owned(), e)));
    assert_eq!(image.diff_ids().len(), 2);
}

#[test]
fn failures_leave_nothing_and_say_where() {
    let world = World::directories();
    world.base();
    let script = Script::simple();
    let error = |file: &str| world.run(file, &script).0.unwrap_err();
    assert!(matches!(error("FROM base\nRUN fail 7\n"), Error::Run { step: 2, line: 2, code: 7, .. }));
    assert!(matches!(error("FROM none\n"), Error::Resolve { .. }));
    assert!(matches!(error("FROM base\nCOPY none /\n"), Error::NotFound { line: 2, .. }));
    assert!(matches!(error("FROM base\nUSER nobody\nRUN x\n"), Error::Instruction { line: 3, .. }));
    assert!(matches!(error("FROM base\nENV A=${X:?gone}\n"), Error::Instruction { line: 2, .. }));
    assert!(matches!(world.build("FROM base\nRUN x\n").unwrap_err(), Error::NoExecutor { line: 2 }));
    // One stage fails while the other would go on.
    assert!(matches!(
        error("FROM base AS a\nRUN fail 1\nFROM base\nRUN ok\nCOPY --from=a / /\n"),
        Error::Run { .. }
    ));
}
