//! Fixed windows: so many within a length of time that begins with the first counted request.

use std::hash::Hash;

use super::{Exceeded, table::Table};

/// One window for each key, all of one length.
#[derive(Debug)]
pub struct Windows<K> {
    table: Table<K, Window>,
    length_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began_ms: u64,
    count: u32,
}

impl<K: Hash + Eq> Windows<K> {
    /// Remembers about `capacity` keys.
    pub fn new(length_ms: u64, capacity: usize) -> Self {
        Self { table: Table::new(capacity), length_ms }
    }

    /// Counts one request of `key`, of which `limit` fit a window.
    ///
    /// # Errors
    /// [`Exceeded`] with the rest of the window; a refused request is not counted.
    pub fn count(&self, key: K, limit: u32, now_ms: u64) -> Result<(), Exceeded> {
        let is_over = |window: &Window| now_ms.saturating_sub(window.began_ms) >= self.length_ms;
        self.table.with(
            key,
            || Window { began_ms: now_ms, count: 0 },
            is_over,
            |window| {
                if is_over(window) {
                    *window = Window { began_ms: now_ms, count: 0 };
                }
                if window.count >= limit {
                    let ends_ms = window.began_ms.saturating_add(self.length_ms);
                    return Err(Exceeded { retry_after_ms: ends_ms.saturating_sub(now_ms) });
                }
                window.count += 1;
                Ok(())
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_with_its_first_request() {
        let windows = Windows::new(60_000, 100);
        assert_eq!(windows.count("a", 2, 1_000), Ok(()));
        assert_eq!(windows.count("a", 2, 30_000), Ok(()));
        assert_eq!(windows.count("a", 2, 31_000), Err(Exceeded { retry_after_ms: 30_000 }));
        assert_eq!(windows.count("b", 2, 31_000), Ok(()));
        assert_eq!(windows.count("a", 2, 61_000), Ok(()));
    }

    #[test]
    fn a_crowd_of_keys_costs_bounded_memory() {
        let windows = Windows::new(60_000, 160);
        for n in 0..100_000u32 {
            let _ = windows.count(n, 2, 1_000);
        }
        assert!(windows.table.len() <= 160);
    }
}
