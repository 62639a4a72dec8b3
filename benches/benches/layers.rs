//! Taking in layers, reading them, committing and removing: both drivers beside GNU tar, on a file system made afresh for
//! each run. `cargo bench -p longshore-benches --bench layers`, as root; LONGSHORE_BENCH_FILES sets the number of small files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    let disk = Disk { dir: scratch.path().to_owned() };

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

/// Makes ext4 file systems in memory: a used one measures ext4's memory of deleted inodes, not us.
struct Disk {
    dir: PathBuf,
}

impl Disk {
    fn fresh(&self, job: impl FnOnce(&Path) -> Result<Sample, BoxError>) -> Result<Sample, BoxError> {
        let (image, at) = (self.dir.join("disk"), self.dir.join("mnt"));
        File::create(&image)?.set_len(6 << 30)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        std::fs::create_dir_all(&at)?;
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&at))?;
        let result = job(&at);
        run(Command::new("umount").arg(&at))?;
        std::fs::remove_file(&image)?;
        result
    }
}

fn run(command: &mut Command) -> Result<(), BoxError> {
    longshore_benches::command(command).map(drop)
}

fn many(path: &Path, files: u32) -> Result<(), BoxError> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut put = |name: &str, kind: u8, content: &[u8]| -> std::io::Result<()> {
        let mut head = [0; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..107].copy_from_slice(b"0000755");
        head[108..115].copy_from_slice(b"0000000");
        head[116..123].copy_from_slice(b"0000000");
        head[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        head[136..147].copy_from_slice(b"14000000000");
        head[148..156].fill(b' ');
        head[156] = kind;
        head[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.write_all(&head)?;
        out.write_all(content)?;
        out.write_all(&vec![0; content.len().next_multiple_of(512) - content.len()])
    };
    // Sizes from 100 to 5,000 bytes, 100 files to a directory, content that does not repeat.
    let mut random = 88_172_645_463_325_252_u64;
    let mut content = vec![0; 5000];
    for i in 0..files {
        if i % 100 == 0 {
            put(&format!("data/{:03}/", i / 10_000), b'5', b"")?;
            put(&format!("data/{:03}/{:02}/", i / 10_000, i / 100 % 100), b'5', b"")?;
        }
        for word in content.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            word.copy_from_slice(&random.to_le_bytes());
        }
        let size = 100 + (random % 4900) as usize;
        put(&format!("data/{:03}/{:02}/file-{i}", i / 10_000, i / 100 % 100), b'0', &content[..size])?;
    }
    out.write_all(&[0; 1024])?;
    Ok(out.flush()?)
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
