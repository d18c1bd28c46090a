//! What this machine offers to a process: memory, cores, and the limits of its control group.
//!
//! Only Linux tells; elsewhere, and where the system hides it, there is nothing to know.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory of the machine and what this process may have of it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    /// Memory of the machine.
    pub(crate) total: Option<u64>,
    /// What can be had without taking it from somebody.
    pub(crate) available: Option<u64>,
    /// The limit of the control group.
    pub(crate) limit: Option<u64>,
}

/// The memory.
pub(crate) fn memory() -> Memory {
    let info = read("/proc/meminfo").unwrap_or_default();
    Memory {
        total: meminfo(&info, "MemTotal:"),
        available: meminfo(&info, "MemAvailable:"),
        limit: smallest(&["memory.max", "memory/memory.limit_in_bytes"], |text| text.trim().parse().ok()),
    }
}

impl Memory {
    /// The most that this process can have.
    pub(crate) fn most(&self) -> Option<u64> {
        self.total.into_iter().chain(self.limit).min()
    }
}

/// The most memory that this process had at a time, in bytes, pages of mapped files included.
pub(crate) fn peak_memory() -> Option<u64> {
    meminfo(&read("/proc/self/status")?, "VmHWM:")
}

/// What this process may lock in memory, in bytes; nothing where that is not limited.
pub(crate) fn lockable_memory() -> Option<u64> {
    let limits = read("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The share of processors that the control group grants, such as 1.5.
pub(crate) fn quota() -> Option<f64> {
    let v2 = |text: &str| {
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    };
    let of_groups = smallest_of(folders().iter().filter_map(|folder| v2(&read(folder.join("cpu.max"))?)));
    of_groups.or_else(|| {
        let number = |name| read(Path::new("/sys/fs/cgroup/cpu").join(name))?.trim().parse::<f64>().ok();
        let (quota, period) = (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?);
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    })
}

/// The processors that this process may run on, such as `0-3,8`.
pub(crate) fn affinity() -> Option<String> {
    let status = read("/proc/self/status")?;
    Some(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned())
}

/// Name of the processor and how many there are.
pub(crate) fn processors() -> (Option<String>, Option<usize>) {
    let Some(info) = read("/proc/cpuinfo") else { return (None, None) };
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    (name.map(|(_, name)| name.trim().to_owned()), Some(count).filter(|count| *count > 0))
}

/// The state of transparent huge pages, such as `madvise`.
pub(crate) fn huge_pages() -> Option<String> {
    let state = read("/sys/kernel/mm/transparent_hugepage/enabled")?;
    let (_, rest) = state.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Name and version of the system.
pub(crate) fn system() -> String {
    let release = read("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let kernel = read("/proc/sys/kernel/osrelease").map(|kernel| kernel.trim().to_owned());
    let mut parts = vec![std::env::consts::OS.to_owned()];
    parts.extend(kernel);
    parts.extend(name.map(|name| name.trim_matches('"').to_owned()));
    parts.join(", ")
}

fn meminfo(info: &str, key: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn smallest(files: &[&str], parse: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let paths = folders().into_iter().flat_map(|folder| files.iter().map(move |file| folder.join(file)));
    paths.filter_map(|path| parse(&read(path)?)).min()
}

fn smallest_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.min_by(f64::total_cmp)
}

/// The folders of this process's control group and of those that it lies in.
fn folders() -> Vec<PathBuf> {
    const ROOT: &str = "/sys/fs/cgroup";
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = Path::new(ROOT).join(own);
    own.ancestors().take_while(|folder| folder.starts_with(ROOT)).map(Path::to_owned).collect()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_its_lines() {
        let info = "MemTotal:       24683800 kB\nMemFree: 1 kB\nMemAvailable:   20768964 kB\nX: 5\n";
        assert_eq!(meminfo(info, "MemTotal:"), Some(24_683_800 * 1024));
        assert_eq!(meminfo(info, "MemAvailable:"), Some(20_768_964 * 1024));
        assert_eq!(meminfo(info, "X:"), None);
        assert_eq!(meminfo(info, "Y:"), None);
    }

    #[test]
    fn a_process_can_have_the_smaller_of_machine_and_limit() {
        let memory = |total, limit| Memory { total, available: None, limit }.most();
        assert_eq!(memory(Some(8), Some(5)), Some(5));
        assert_eq!(memory(Some(8), None), Some(8));
        assert_eq!(memory(None, None), None);
    }
}
