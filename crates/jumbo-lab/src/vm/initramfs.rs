//! The guest's file system, as an archive that the kernel unpacks into memory.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst (the "newc" form of cpio).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Doing, Result};

const FOLDER: u32 = 0o40_755;
const PROGRAM: u32 = 0o100_755;

/// An archive being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let inode = self.folders.len() + self.files.len() + 1;
        let fields = [
            inode,
            mode as usize,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A folder, with those above it.
    pub(super) fn folder(&mut self, path: &Path) {
        let inside = path.strip_prefix("/").unwrap_or(path);
        if inside.as_os_str().is_empty() || !self.folders.insert(inside.into()) {
            return;
        }
        if let Some(parent) = inside.parent() {
            self.folder(parent);
        }
        self.entry(&inside.to_string_lossy(), FOLDER, &[]);
    }

    /// A program (or any file), with the folders above it. The second one of a name is left out.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) {
        let inside = path.strip_prefix("/").unwrap_or(path);
        if !self.files.insert(inside.into()) {
            return;
        }
        if let Some(parent) = inside.parent() {
            self.folder(parent);
        }
        self.entry(&inside.to_string_lossy(), PROGRAM, content);
    }

    /// A program of this machine with the libraries it needs, at the same places.
    pub(super) fn program(&mut self, path: &Path) -> Result<()> {
        let mut needed = libraries(path)?;
        needed.push(path.into());
        for path in needed {
            self.file(&path, &read(&path)?);
        }
        Ok(())
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).doing(|| format!("read {}", path.display()))
}

/// What `ldd` says that a program needs.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = Command::new("ldd").arg(program).output();
    let said = said.doing(|| format!("ldd {}", program.display()))?;
    Ok(paths_of_ldd(&String::from_utf8_lossy(&said.stdout)))
}

/// The first word of each line that begins with a slash.
fn paths_of_ldd(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| word.starts_with('/')).map(PathBuf::from)
    };
    text.lines().filter_map(path).collect()
}

/// The content of `NAME.ko` somewhere below a folder; nothing if it is not there.
pub(super) fn module(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    find(folder, &format!("{name}.ko"))
        .map(|path| read(&path))
        .transpose()
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.file_name() == name {
                return Some(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibm.so.6 => /lib/libm.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibx.so => not found\n";
        let found = paths_of_ldd(text);
        assert_eq!(
            found,
            [
                Path::new("/lib/libm.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(paths_of_ldd("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn an_archive_has_each_folder_once() {
        let mut archive = Archive::default();
        archive.file(Path::new("/usr/bin/a"), b"abc");
        archive.file(Path::new("/usr/bin/b"), b"");
        let bytes = archive.finish();
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8_lossy(&bytes);
        for name in [
            "usr\0",
            "usr/bin\0",
            "usr/bin/a\0",
            "usr/bin/b\0",
            "TRAILER!!!\0",
        ] {
            assert_eq!(text.matches(name).count(), 1, "{name:?}");
        }
        // Header: magic and thirteen numbers; the seventh number is the length.
        let at = text.find("usr/bin/a\0").expect("there") - 110;
        assert_eq!(&text[at..at + 6], "070701");
        assert_eq!(&text[at + 6 + 48..at + 6 + 56], "00000003");
    }
}
