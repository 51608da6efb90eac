//! What the folder of counters lies on. A file that is mapped into memory is only as sure as its file
//! system: where space that was taken may yet be missing, or a server be away, a process is killed by it.

use std::path::Path;

/// File systems by the numbers that the kernel has for them, which do not keep what they have given, or
/// whose disk is elsewhere.
const UNFIT: [(u32, &str); 11] = [
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "ZFS"),
    (0xca45_1a4e, "bcachefs"),
    (0x0000_6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0000_517b, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
];

/// Says once what to do about it.
pub(super) fn look(path: &Path) {
    let Ok(found) = rustix::fs::statfs(path) else { return };
    if let Some(kind) = u32::try_from(found.f_type).ok().and_then(unfit) {
        tracing::warn!(
            path = %path.display(), kind,
            "what keys use is counted on a file system that can end this gateway when it is full, or \
             away: put [usage] path on ext4, XFS or tmpfs"
        );
    }
}

fn unfit(number: u32) -> Option<&'static str> {
    UNFIT.iter().find(|(of, _)| *of == number).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_may_fail_later_are_known_and_usual_ones_are_not_among_them() {
        assert_eq!((unfit(0x9123_683e), unfit(0x6969)), (Some("btrfs"), Some("NFS")));
        // ext4, XFS, tmpfs, and what containers have above one of those.
        for usual in [0xef53, 0x5846_5342, 0x0102_1994, 0x794c_7630] {
            assert_eq!(unfit(usual), None);
        }
    }
}
