//! What the kernel knows about a server: CPU time and resident memory, from `/proc`.

use std::{collections::HashMap, time::Duration};

/// A process and those that it started.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    roots: Vec<u32>,
}

impl Watched {
    pub fn new(roots: impl IntoIterator<Item = u32>) -> Self {
        Self { roots: roots.into_iter().collect() }
    }

    /// CPU time, in the kernel and outside, that all of them have used; ended children included.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self.pids().into_iter().filter_map(ticks).sum();
        // The kernel tells it in hundredths of a second to every program, whatever its own tick.
        Duration::from_millis(ticks * 10)
    }

    /// Resident bytes of all of them. Shared pages count once for each process.
    pub fn rss(&self) -> u64 {
        self.pids().into_iter().filter_map(|pid| kept(pid, "VmRSS:")).sum()
    }

    /// As [`Self::rss`], without pages of files: those of a database that is mapped are the kernel's to take back.
    pub fn anonymous(&self) -> u64 {
        self.pids().into_iter().filter_map(|pid| kept(pid, "RssAnon:")).sum()
    }

    fn pids(&self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            if let Some(parent) = stat(pid).and_then(|stat| stat.get(1)?.parse().ok()) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut found = self.roots.clone();
        let mut at = 0;
        while let Some(pid) = found.get(at) {
            found.extend(children.remove(pid).unwrap_or_default());
            at += 1;
        }
        found
    }
}

/// The fields of `/proc/PID/stat` from the third (state) on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which may itself hold any character.
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn ticks(pid: u32) -> Option<u64> {
    let stat = stat(pid)?;
    // utime, stime, and the same of children that have ended and were waited for.
    stat.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// A field of `/proc/PID/status` that counts memory, in bytes.
fn kept(pid: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let me = Watched::new([std::process::id()]);
        assert!(me.rss() > 100 << 10);
        assert!((1..me.rss()).contains(&me.anonymous()));
        let started = std::time::Instant::now();
        let mut work = 0u64;
        while me.cpu() < Duration::from_millis(20) {
            assert!(started.elapsed() < Duration::from_secs(60), "no CPU time is counted");
            work = (0..1_000_000).fold(work, |sum, n| sum ^ std::hint::black_box(n));
        }
    }

    #[test]
    fn children_are_counted() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pids = Watched::new([std::process::id()]).pids();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pids.contains(&child.id()));
    }
}
