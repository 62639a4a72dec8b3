//! Life and death.

use longshore_runtime::containers::{Filters, RemoveOptions, StartOptions, StopOptions, WaitFor};

use crate::harness::Test;
use crate::world::{World, until};

pub(crate) const TESTS: [Test; 3] = [
    ("lifecycle::runs_and_leaves_a_record", runs_and_leaves_a_record),
    ("lifecycle::stop_start_remove", stop_start_remove),
    ("lifecycle::errors_carry_dockers_codes", errors_carry_dockers_codes),
];

fn runs_and_leaves_a_record() {
    let Some(world) = World::new() else { return };
    let (code, log) = world.run_to_end(
        "one",
        "echo out; sleep 0.1; echo err >&2; sleep 0.1; id -u; hostname; exit 7",
        |_| {},
    );
    let inspect = world.all.inspect("one").unwrap();
    assert_eq!((code, inspect.state.exit_code, inspect.state.status.as_str()), (7, 7, "exited"));
    assert_eq!(log, format!("out\nerr\n0\n{}\n", &inspect.id[..12]));
    assert_eq!(world.all.inspect(&inspect.id[..8]).unwrap().name, "/one");
    assert!(world.all.list(false, &Filters::new(), false).unwrap().is_empty());
    assert_eq!(world.all.list(true, &Filters::new().with("exited", "7"), false).unwrap().len(), 1);
}

fn stop_start_remove() {
    let Some(world) = World::new() else { return };
    world.run(
        "web",
        &["sh", "-c", "echo x >> /data/file; trap 'exit 3' TERM; while true; do sleep 0.1; done"],
        |_| {},
    );
    assert_eq!(world.status("web"), "running");
    let taken = world.all.create(&{
        let mut request = longshore_runtime::containers::CreateRequest::new("busybox");
        request.name = Some("web".into());
        request
    });
    assert!(taken.unwrap_err().to_string().contains("already in use by container"));
    assert!(world.all.remove("web", &RemoveOptions::default()).is_err());
    world.all.stop("web", &StopOptions::timeout(5)).unwrap();
    assert_eq!(
        (world.status("web").as_str(), world.all.inspect("web").unwrap().state.exit_code),
        ("exited", 3)
    );
    world.all.start("web", &StartOptions::default()).unwrap();
    let file = world.dir.join("roots").join(world.all.inspect("web").unwrap().id).join("data/file");
    until("it has written", || std::fs::read_to_string(&file).unwrap() == "x\nx\n");
    world.all.kill("web", "KILL").unwrap();
    assert_eq!(world.all.wait("web", WaitFor::NotRunning).unwrap(), 137);
    world.all.start("web", &StartOptions::default()).unwrap();
    world.all.remove("web", &RemoveOptions::new(true, false)).unwrap();
    assert!(world.all.inspect("web").unwrap_err().is_not_found());
    assert_eq!(std::fs::read_dir(world.dir.join("roots")).unwrap().count(), 0);
}

fn errors_carry_dockers_codes() {
    let Some(world) = World::new() else { return };
    for (name, program, code) in
        [("missing", "/bin/nothing", 127), ("directory", "/etc", 126), ("plain", "/etc/passwd", 126)]
    {
        let id = world.create(name, &[program], |_| {});
        let error = world.all.start(&id, &StartOptions::default()).unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        assert_eq!(world.all.inspect(name).unwrap().state.exit_code, code);
    }
}
