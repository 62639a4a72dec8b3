//! Taking in layers, reading them, committing and removing: both drivers beside GNU tar, on a file system made afresh for
//! each run. `cargo bench -p longshore-benches --bench layers`, as root; LONGSHORE_BENCH_FILES sets the number of small files.

#[path = "layers_common/mod.rs"]
mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use common::{Disk, many, run};

use longshore_benches::{BoxError, Race, Sample, command, time};
use longshore_image::{Compression, Ctx, Layer, LayerOptions, SnapshotOptions, Store, StoreOptions};

fn main() -> Result<(), BoxError> {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let files: u32 = std::env::var("LONGSHORE_BENCH_FILES").map_or(Ok(100_000), |n| n.parse())?;
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    let tar = scratch.path().join("many.tar");
    many(&tar, files)?;
    let disk = Disk::new(scratch.path());

    Race::new(&format!("layer of {files} small files: from tar to mountable, durable"))
        .add("longshore, EROFS", || disk.fresh(|at| unpack(at, &tar, false).map(|(sample, ..)| sample)))
        .add("longshore, directory", || disk.fresh(|at| unpack(at, &tar, true).map(|(sample, ..)| sample)))
        .add("GNU tar x and sync -f", || disk.fresh(|at| untar(at, &tar)))
        .run(5);
    Race::new(&format!("read all of {files} small files, cold"))
        .add("longshore, EROFS", || disk.fresh(|at| read_cold(at, &tar, false)))
        .add("longshore, directory", || disk.fresh(|at| read_cold(at, &tar, true)))
        .add("GNU tar's directory", || {
            disk.fresh(|at| {
                untar(at, &tar)?;
                drop_caches()?;
                read(&at.join("root"))
            })
        })
        .run(3);
    Race::new(&format!("commit after touching 10 of {files} files"))
        .add("longshore, EROFS", || disk.fresh(|at| commit(at, &tar, false)))
        .add("longshore, directory", || disk.fresh(|at| commit(at, &tar, true)))
        .run(5);
    Race::new("prepare and mount a root of 6 layers")
        .add("longshore, EROFS", || disk.fresh(|at| mount_six(at, false)))
        .add("longshore, directory", || disk.fresh(|at| mount_six(at, true)))
        .run(5);
    Race::new(&format!("remove a layer of {files} files"))
        .add("longshore, EROFS", || disk.fresh(|at| remove(at, &tar, false)))
        .add("longshore, directory", || disk.fresh(|at| remove(at, &tar, true)))
        .add("rm -rf", || {
            disk.fresh(|at| {
                untar(at, &tar)?;
                command(Command::new("rm").arg("-rf").arg(at.join("root")))
            })
        })
        .run(3);
    Ok(())
}

fn store(at: &Path, directories: bool) -> Result<Store, BoxError> {
    let mut options = StoreOptions::default();
    options.directories = directories;
    Ok(Store::open_with(at.join("store"), &options)?)
}

fn take(store: &Store, tar: &Path) -> Result<Layer, BoxError> {
    let mut options = LayerOptions::default();
    options.compression = Compression::None;
    Ok(store.add_layer(&mut File::open(tar)?, &options, Ctx::none())?)
}

fn unpack(at: &Path, tar: &Path, directories: bool) -> Result<(Sample, Store, Layer), BoxError> {
    let store = store(at, directories)?;
    let mut layer = None;
    let sample = time(|| {
        layer = Some(take(&store, tar)?);
        Ok(())
    })?;
    Ok((sample, store, layer.ok_or("no layer")?))
}

fn untar(at: &Path, tar: &Path) -> Result<Sample, BoxError> {
    let root = at.join("root");
    std::fs::create_dir(&root)?;
    let script = "tar -xpf \"$0\" -C \"$1\" && sync -f \"$1\"";
    command(Command::new("sh").args(["-c", script]).arg(tar).arg(&root))
}

fn drop_caches() -> Result<(), BoxError> {
    run(&mut Command::new("sync"))?;
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3")?)
}

/// Reads every file with one thread.
fn read(root: &Path) -> Result<Sample, BoxError> {
    time(|| {
        let mut buffer = vec![0; 1 << 20];
        let mut todo = vec![root.to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    todo.push(entry.path());
                } else if entry.file_type()?.is_file() {
                    let mut file = File::open(entry.path())?;
                    while std::io::Read::read(&mut file, &mut buffer)? > 0 {}
                }
            }
        }
        Ok(())
    })
}

fn read_cold(at: &Path, tar: &Path, directories: bool) -> Result<Sample, BoxError> {
    let (_, store, layer) = unpack(at, tar, directories)?;
    let mut options = SnapshotOptions::default();
    options.read_only = true;
    let snapshot = store.snapshot_layers("read", std::slice::from_ref(&layer.diff_id), &options)?;
    drop_caches()?;
    let mount = snapshot.mount()?;
    read(Path::new(&format!("/proc/self/fd/{}/", mount.as_raw_fd())))
}

fn commit(at: &Path, tar: &Path, directories: bool) -> Result<Sample, BoxError> {
    let (_, store, layer) = unpack(at, tar, directories)?;
    let ids = std::slice::from_ref(&layer.diff_id);
    let snapshot = store.snapshot_layers("touch", ids, &SnapshotOptions::default())?;
    let mount = snapshot.mount()?;
    for i in 0..10 {
        let path = format!("/proc/self/fd/{}/data/000/{i:02}/file-{}", mount.as_raw_fd(), i * 100);
        std::fs::write(path, format!("touched {i}"))?;
    }
    time(|| Ok(store.commit_layer(&snapshot, &LayerOptions::default(), Ctx::none()).map(drop)?))
}

fn mount_six(at: &Path, directories: bool) -> Result<Sample, BoxError> {
    let store = store(at, directories)?;
    let mut layers = Vec::new();
    for i in 0..6 {
        let tar = at.join(format!("{i}.tar"));
        many(&tar, 100 + i)?;
        layers.push(take(&store, &tar)?);
    }
    let ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    time(|| {
        let snapshot = store.snapshot_layers("six", &ids, &SnapshotOptions::default())?;
        Ok(snapshot.mount().map(drop)?)
    })
}

fn remove(at: &Path, tar: &Path, directories: bool) -> Result<Sample, BoxError> {
    let (_, store, layer) = unpack(at, tar, directories)?;
    drop(layer);
    let sample = time(|| Ok(store.collect(Ctx::none()).map(drop)?));
    // The file system can only go once the removal in the background is done.
    while std::fs::read_dir(at.join("store/tmp"))?.next().is_some() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    sample
}
