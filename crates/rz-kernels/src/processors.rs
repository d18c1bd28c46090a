//! The processors that a process may use, and how many threads suit them.

use std::collections::HashSet;
use std::path::Path;

/// The processors that this process may use. Only Linux tells which they are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Processors {
    /// How many processors there are to run on at once: those of the affinity, or as many as
    /// the quota of the control group lasts for; at least 1.
    pub usable: usize,
    /// Physical cores among those of the affinity: processors that share a core count once.
    pub cores: Option<usize>,
}

impl Processors {
    /// Asks the system.
    pub fn detect() -> Processors {
        Processors {
            usable: std::thread::available_parallelism().map_or(1, usize::from),
            cores: affinity().and_then(|list| cores(Path::new("/sys/devices/system/cpu"), &list)),
        }
    }

    /// How many threads to compute with: one for each core, since the second processor of a
    /// core shares its arithmetic and its cache, and no more than the quota lasts for.
    pub fn threads(&self) -> usize {
        self.cores.map_or(self.usable, |cores| cores.min(self.usable)).max(1)
    }
}

// The processors that this thread, and those that it starts, may run on.
fn affinity() -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    numbers(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

// Numbers such as `0-3,8`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    // More than any system has.
    const MOST: usize = 1 << 16;
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST || first > last {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

// How many cores the processors lie in. Those that the system does not have, which an affinity
// may name, are passed over.
fn cores(folder: &Path, processors: &[usize]) -> Option<usize> {
    let siblings = |processor: &usize| {
        let topology = folder.join(format!("cpu{processor}/topology"));
        // The second is the name that old kernels know.
        let names = ["core_cpus_list", "thread_siblings_list"];
        names.iter().find_map(|name| std::fs::read_to_string(topology.join(name)).ok())
    };
    let cores: HashSet<String> = processors.iter().filter_map(siblings).collect();
    Some(cores.len()).filter(|cores| *cores > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(numbers("\t0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(numbers("5"), Some(vec![5]));
        for list in ["", "a", "3-1", "0-", "0-99999999999", "0-70000"] {
            assert_eq!(numbers(list), None, "{list:?}");
        }
    }

    #[test]
    fn processors_of_one_core_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |processor: usize, name: &str, siblings: &str| {
            let topology = folder.path().join(format!("cpu{processor}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join(name), siblings).unwrap();
        };
        // Two cores of two processors each, one of one, and one as old kernels show it.
        for (processor, siblings) in [(0, "0,4\n"), (4, "0,4\n"), (1, "1,5\n"), (5, "1,5\n"), (2, "2\n")] {
            write(processor, "core_cpus_list", siblings);
        }
        write(3, "thread_siblings_list", "3\n");
        let count = |processors: &[usize]| cores(folder.path(), processors);
        assert_eq!(count(&[0, 1, 2, 3, 4, 5]), Some(4));
        assert_eq!(count(&[0, 4]), Some(1));
        assert_eq!(count(&[4, 5, 100]), Some(2));
        assert_eq!(count(&[100]), None);
    }

    #[test]
    fn threads_are_cores_within_the_quota() {
        let threads = |usable, cores| Processors { usable, cores }.threads();
        assert_eq!(threads(16, Some(8)), 8);
        assert_eq!(threads(3, Some(8)), 3);
        assert_eq!(threads(16, None), 16);
        assert_eq!(threads(1, Some(1)), 1);
    }

    #[test]
    fn this_machine_has_some() {
        let found = Processors::detect();
        assert!(found.usable >= 1 && found.cores.is_none_or(|cores| cores >= 1), "{found:?}");
        assert!((1..=found.usable).contains(&found.threads()), "{found:?}");
    }
}
