//! Entries of directories of /proc and links in them, without making a value of each: there are as many as descriptors.

use nix::libc;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct linux_dirent64`, getdents64(2): where its length and its name are.
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 19;
/// The kernel fills no more of it than this with each call.
const BUFFER: usize = 1 << 15;
/// `socket:[4294967295]` and `net:[4026531840]` have room.
const LINK: usize = 64;

/// Reads a directory from where it stands to its end, or until `each` says that it has seen enough.
#[expect(
    unsafe_code,
    reason = "nix's readdir makes a value of each entry, and seeks to nowhere in particular"
)]
pub(super) fn entries(
    directory: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&CStr) -> More,
) -> io::Result<()> {
    buffer.resize(BUFFER, 0);
    loop {
        // SAFETY: `buffer` is alive, and as long as the call is told.
        let length = unsafe {
            libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some(size) = rest.get(LENGTH_AT..).and_then(<[u8]>::first_chunk) {
            let size = usize::from(u16::from_ne_bytes(*size));
            let name = rest.get(NAME_AT..size).and_then(|name| CStr::from_bytes_until_nul(name).ok());
            let Some((name, after)) = name.zip(rest.get(size..)) else { break };
            if each(name) == More::No {
                return Ok(());
            }
            rest = after;
        }
    }
}

/// Whether more entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    Yes,
    No,
}

/// The number in a link such as `socket:[4711]`; `None` where it is no link of that kind, or not there any more.
pub(super) fn number_in_link(directory: BorrowedFd<'_>, name: &CStr, kind: &[u8]) -> Option<u64> {
    let mut link = [0; LINK];
    let link = read_link(directory, name, &mut link)?;
    let digits = link.strip_prefix(kind)?.strip_prefix(b":[")?.strip_suffix(b"]")?;
    number(digits)
}

#[expect(unsafe_code, reason = "nix's readlinkat makes a text of each link")]
fn read_link<'a>(directory: BorrowedFd<'_>, name: &CStr, link: &'a mut [u8; LINK]) -> Option<&'a [u8]> {
    // SAFETY: `name` ends with a NUL, and `link` is alive and as long as the call is told.
    let length = unsafe {
        libc::readlinkat(directory.as_raw_fd(), name.as_ptr(), link.as_mut_ptr().cast(), link.len())
    };
    link.get(..usize::try_from(length).ok()?)
}

/// Decimal digits and nothing else.
pub(super) fn number<T: TryFrom<u64>>(digits: &[u8]) -> Option<T> {
    let digit = |value: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    };
    let value = digits.iter().try_fold(0u64, digit).filter(|_| !digits.is_empty())?;
    T::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        assert_eq!(number::<u32>(b"4294967295"), Some(u32::MAX));
        for no in [&b"4294967296"[..], b"", b"-1", b"+1", b"1x", b".", b"99999999999999999999"] {
            assert_eq!(number::<u32>(no), None);
        }
    }

    #[test]
    fn every_entry_of_a_directory_is_told_once_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..3000 {
            std::os::unix::fs::symlink(format!("socket:[{n}]"), folder.path().join(n.to_string())).unwrap();
        }
        let directory = std::fs::File::open(folder.path()).unwrap();
        let (mut names, mut wrong) = (Vec::new(), 0);
        entries(directory.as_fd(), &mut Vec::new(), |name| {
            if let Some(n) = number::<u32>(name.to_bytes()) {
                names.push(n);
                wrong += usize::from(number_in_link(directory.as_fd(), name, b"socket") != Some(n.into()));
            }
            More::Yes
        })
        .unwrap();
        names.sort_unstable();
        assert_eq!((names, wrong), ((0..3000).collect(), 0));
        assert_eq!(number_in_link(directory.as_fd(), c"7", b"net"), None);
        assert_eq!(number_in_link(directory.as_fd(), c"nowhere", b"socket"), None);
    }
}
