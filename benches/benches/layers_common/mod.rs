//! Fresh file systems in memory, and tars of many files.
#![allow(dead_code, reason = "each bench uses its part")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_benches::{BoxError, Sample, command};

/// Makes ext4 file systems in memory: a used one measures ext4's memory of deleted inodes, not us.
pub(crate) struct Disk {
    dir: PathBuf,
}

impl Disk {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn fresh(
        &self,
        job: impl FnOnce(&Path) -> Result<Sample, BoxError>,
    ) -> Result<Sample, BoxError> {
        let (image, at) = (self.dir.join("disk"), self.dir.join("mnt"));
        File::create(&image)?.set_len(6 << 30)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        std::fs::create_dir_all(&at)?;
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&at))?;
        let result = job(&at);
        // What a contender left mounted below goes as well.
        if run(Command::new("umount").arg("-R").arg(&at)).is_err() {
            run(Command::new("umount").arg("-l").arg(&at))?;
        }
        std::fs::remove_file(&image)?;
        result
    }
}

pub(crate) fn run(of: &mut Command) -> Result<(), BoxError> {
    command(of).map(drop)
}

/// Content that does not repeat.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new() -> Self {
        Self(88_172_645_463_325_252)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn fill(&mut self, content: &mut [u8]) {
        for piece in content.chunks_mut(8) {
            let word = self.word().to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }
}

/// A tar, entry by entry.
pub(crate) struct Tar(BufWriter<File>);

impl Tar {
    pub(crate) fn create(path: &Path) -> Result<Self, BoxError> {
        Ok(Self(BufWriter::with_capacity(1 << 20, File::create(path)?)))
    }

    /// `kind` is the type flag: `0` for a file, `5` for a directory. Names have at most 100 bytes.
    pub(crate) fn put(&mut self, name: &str, kind: u8, content: &[u8]) -> Result<(), BoxError> {
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
        self.0.write_all(&head)?;
        self.0.write_all(content)?;
        Ok(self.0.write_all(&[0; 512][..content.len().next_multiple_of(512) - content.len()])?)
    }

    pub(crate) fn end(mut self) -> Result<(), BoxError> {
        self.0.write_all(&[0; 1024])?;
        Ok(self.0.flush()?)
    }
}

/// Files of 100 to 5,000 bytes, 100 to a directory.
pub(crate) fn many(path: &Path, files: u32) -> Result<(), BoxError> {
    let mut tar = Tar::create(path)?;
    let mut noise = Noise::new();
    let mut content = vec![0; 5000];
    for i in 0..files {
        if i % 10_000 == 0 {
            tar.put(&format!("data/{:03}/", i / 10_000), b'5', b"")?;
        }
        if i % 100 == 0 {
            tar.put(&format!("data/{:03}/{:02}/", i / 10_000, i / 100 % 100), b'5', b"")?;
        }
        noise.fill(&mut content);
        let size = 100 + (noise.word() % 4900) as usize;
        tar.put(&format!("data/{:03}/{:02}/file-{i}", i / 10_000, i / 100 % 100), b'0', &content[..size])?;
    }
    tar.end()
}
