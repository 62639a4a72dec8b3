//! Many starts at once in a threaded, allocating host: none hangs, nothing is left.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{World, also_unprivileged, id};

fn count() -> usize {
    std::env::var("LONGSHORE_STRESS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn starts_in_a_busy_host_leave_nothing() {
    let Some(world) = World::new() else { return };
    let stop = AtomicBool::new(false);
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let name = id("stress");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let blocks: Vec<Vec<u8>> = (1..50).map(|n| vec![0; n * 1000]).collect();
                    std::hint::black_box(&blocks);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let starters: Vec<_> = (0..4)
            .map(|thread| {
                let (world, name) = (&world, &name);
                scope.spawn(move || {
                    for n in 0..count() / 4 {
                        let spec = world.spec(&["true"]);
                        let created = world
                            .runtime
                            .create(&format!("{name}-{thread}-{n}"), &spec, world.piped())
                            .unwrap();
                        let mut running = created.start().unwrap();
                        let exit = running
                            .wait(Some(Duration::from_secs(60)))
                            .unwrap()
                            .expect("a fast end is not lost");
                        assert_eq!(exit.code, 0);
                    }
                })
            })
            .collect();
        for starter in starters {
            let result = starter.join();
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            result.expect("every start succeeds");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(descriptors(), before, "descriptors leak");
    assert!(world.runtime.list().unwrap().is_empty());
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let groups = fs::read_dir(hierarchy.path()).into_iter().flatten().flatten();
        let left: Vec<_> = groups.filter(|g| g.file_name().to_string_lossy().contains(&name)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(Path::new("/proc/self/fd").exists());
    also_unprivileged("starts_in_a_busy_host_leave_nothing");
}
